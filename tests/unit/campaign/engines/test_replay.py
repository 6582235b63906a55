"""Replay against reload-and-run, bit by bit, on every kind of file and fault."""

import numpy as np
import pytest

from resq_deploy.campaign.engines import replay
from resq_deploy.campaign.engines.rest import Outputs
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
        images = models.images(IMAGES, name)
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


def test_single_flips_in_every_surface(file_kind, testbed):
    bed, surfaces = testbed(file_kind)
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


def weights_and_biases(surfaces):
    return [surface for surface in surfaces if surface.role in ("weight", "bias") and surface.dtype != "float"]


@pytest.mark.parametrize("name", ["cnn-qdq-channel-s8", "cnn-qoperator-channel-s8", "cnn-qdq-tensor-u8"])
def test_flips_in_the_integers_of_a_layer_need_no_session_each(name, testbed, monkeypatch):
    bed, surfaces = testbed(name)
    monkeypatch.setattr(bed.engine, "_rebuild", lambda injection: pytest.fail(f"{injection.fault} was rebuilt"))
    records = compare(bed, singles(weights_and_biases(surfaces), 12))
    assert len({record.logits for record in records}) > 10


def test_a_faulty_layer_is_found_by_its_node_and_others_come_last(testbed):
    bed, surfaces = testbed("cnn-qdq-channel-s8")
    groups = {surface.tensor: bed.engine.group([surface.tensor]) for surface in surfaces}
    assert bed.engine.group([surface.tensor for surface in surfaces]) is None
    weights = [groups[surface.tensor] for surface in surfaces if surface.role == "weight"]
    assert weights == sorted(weights)


@pytest.mark.parametrize("name", QUANTISED)
def test_nothing_changes_when_no_golden_value_can_be_held(name, testbed, monkeypatch):
    monkeypatch.setattr(replay, "_room", lambda _: 1)
    bed, surfaces = testbed(name)
    compare(bed, singles(surfaces, 2))
    assert not bed.engine._activations._held


def test_images_are_collected_only_where_they_do_not_depend_on_each_other(testbed):
    pooled = {}
    for name in ("cnn-qdq-channel-s8", "attention-dynamic-channel-u8-saved"):
        bed, surfaces = testbed(name)
        compare(bed, singles(weights_and_biases(surfaces) or surfaces, 2))
        pooled[name] = [rest.pooled for rest in bed.engine._rests._held.values()]
    assert all(pooled["cnn-qdq-channel-s8"])
    assert not all(pooled["attention-dynamic-channel-u8-saved"])


def test_an_optimised_graph_that_answers_otherwise_is_left_to_reload(testbed, monkeypatch):
    optimise = replay.optimise

    def spoilt(model, deployment):
        optimised = optimise(model, deployment)
        weight = max(optimised.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        weight.raw_data = bytes(byte ^ 0x40 for byte in weight.raw_data)
        return optimised

    monkeypatch.setattr(replay, "optimise", spoilt)
    bed, _ = testbed("cnn-qdq-channel-s8")
    assert bed.engine is bed.truth
    assert bed.fallback == "the optimised graph does not give the outputs of the file"


def test_a_fault_whose_replay_fails_is_evaluated_by_reload(testbed, monkeypatch):
    def fail(*_):
        raise RuntimeError("no such kernel")

    bed, surfaces = testbed("cnn-qdq-channel-s8")
    monkeypatch.setattr(Outputs, "add", fail)
    scales = [surface for surface in surfaces if surface.role == "activation-scale"]
    records = compare(bed, singles(scales, 1))
    assert any(record.reloaded for record in records)


@pytest.mark.parametrize(("seconds", "engine"), [(1e-9, "reload"), (3600.0, "replay")])
def test_under_a_time_limit_only_what_cannot_take_longer_is_replayed(seconds, engine, testbed):
    bed, surfaces = testbed("cnn-qdq-channel-s8", time_limit=seconds)
    assert bed.engine.name == engine
    if engine == "replay":
        records = compare(bed, singles([surface for surface in surfaces if surface.role == "activation-scale"], 2))
        assert all(record.reloaded for record in records)
