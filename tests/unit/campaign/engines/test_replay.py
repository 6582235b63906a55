"""Replay against reload-and-run, bit by bit, on every kind of file and fault."""

import numpy as np
import pytest

from resq_deploy.campaign.engines.testbed import Kit, Testbed
from resq_deploy.campaign.golden import Golden
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.proofs import same
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Deployment, Session
from resq_deploy.faults.bit_errors import flipped_bits
from resq_deploy.faults.fault import Edit, Fault, Op
from resq_deploy.faults.outcomes import Judge

IMAGES = 10
FILES = [
    "cnn",
    "attention",
    "typed_storage",
    "shared",
    "constants",
    "passed_on",
    "four_bits",
    "guarded",
    "subgraphs",
    "indices",
    "sparse",
    "functions",
    "overridable",
    "fixed_batch",
    "nhwc_uint8",
    "integer_bias",
    "matmul_nbits",
    "cnn-qdq-channel-s8",
    "cnn-qdq-tensor-u8",
    "cnn-qoperator-channel-s8",
    "cnn-qoperator-tensor-u8",
    "cnn-dynamic-tensor-u8",
    "cnn-qdq-tensor-s8-a16",
    "cnn-qoperator-channel-s8-savedall",
    "attention-qdq-tensor-u8",
    "attention-qdq-channel-s8",
    "attention-qoperator-tensor-s8-pre",
    "attention-dynamic-channel-u8-saved",
]
QUANTISED = [
    "cnn-qdq-channel-s8",
    "cnn-qoperator-channel-s8",
    "attention-qdq-channel-s8",
    "attention-qoperator-tensor-s8-pre",
]


@pytest.fixture
def testbed(model_file, models):
    """Build the engines for a file of the zoo; four images a batch, so that the last batch is not full."""

    def build(name, **options):
        images = models.images(IMAGES)
        if name == "nhwc_uint8":
            images = np.ascontiguousarray((images * 255).astype(np.uint8).transpose(0, 2, 3, 1))
        model = DeployedModel.load(model_file(name))
        patcher = model.patcher()
        deployment = Deployment(batch=4)
        logits = Session(patcher.golden, deployment).run(images)
        labels = np.zeros(IMAGES, np.int64)
        kit = Kit(
            patcher=patcher,
            surfaces={surface.tensor: surface for surface in model.surfaces},
            golden=Golden(images, labels, logits, Judge(logits, labels)),
            options=CampaignOptions(deployment=deployment, **options),
        )
        return Testbed(kit), model.surfaces

    return build


def compare(testbed, faults):
    """Evaluate faults by both engines; return the records of replay, all equal to the truth's."""
    assert not testbed.fallback
    replayed = {record.number: record for record in testbed.engine.evaluate(faults)}
    assert sorted(replayed) == sorted(fault.number for fault in faults)
    for truth in testbed.truth.evaluate(faults):
        assert same(truth, replayed[truth.number]), (truth, replayed[truth.number])
        assert truth.changed == replayed[truth.number].changed
    return list(replayed.values())


def singles(surfaces, each):
    """A seeded sample of single flips: some in every surface, so that every role and layer is hit."""
    rng = np.random.default_rng(1)
    hits = [
        (surface, rng.integers(surface.elements), rng.integers(surface.width))
        for surface in surfaces
        for _ in range(each)
    ]
    return [
        Fault(number, (Edit.of(surface.tensor, [int(index)], [int(bit)]),))
        for number, (surface, index, bit) in enumerate(hits)
    ]


@pytest.mark.parametrize("name", FILES)
def test_single_flips_in_every_surface(name, testbed):
    bed, surfaces = testbed(name)
    records = compare(bed, singles(surfaces, 4))
    due = sum(record.outcome == "due" for record in records)
    assert sum(record.reloaded for record in records) == due


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("op", [Op.SET0, Op.SET1, Op.WORD])
def test_stuck_bits_and_replaced_words(name, op, testbed):
    bed, surfaces = testbed(name)
    rng = np.random.default_rng(2)
    faults = []
    for surface in surfaces:
        index, value = int(rng.integers(surface.elements)), int(rng.integers(1 << min(surface.width, 31)))
        edit = Edit.of(surface.tensor, [index], [surface.width - 1], op, [value] if op is Op.WORD else [])
        faults.append(Fault(len(faults), (edit,)))
    compare(bed, faults)


@pytest.mark.parametrize("name", QUANTISED)
def test_bursts_and_many_flips_in_one_tensor(name, testbed):
    bed, surfaces = testbed(name)
    faults = []
    for surface in surfaces:
        last = surface.elements - 1
        faults.append(Fault(len(faults), (Edit.of(surface.tensor, [last] * 3, [4, 5, 6]),)))
        everywhere = list(range(surface.elements))
        faults.append(Fault(len(faults), (Edit.of(surface.tensor, everywhere, [0] * len(everywhere)),)))
    compare(bed, faults)


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("rate", [1e-4, 1e-3, 1e-2])
def test_random_bit_errors(name, rate, testbed):
    bed, surfaces = testbed(name)
    faults = []
    for chip in range(4):
        edits = []
        for surface in surfaces:
            index, bit = np.divmod(flipped_bits(surface.tensor, surface.bits, rate, chip), surface.width)
            if len(index):
                edits.append(Edit(surface.tensor, Op.FLIP, index, bit))
        faults.append(Fault(chip, tuple(edits), ber=rate, chip=chip))
    compare(bed, faults)
