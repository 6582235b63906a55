"""Faults that are judged on a share of the images: both engines, and the file itself, image for image."""

import dataclasses
import itertools

import numpy as np
import pytest
import xxhash

from resq_deploy.campaign.engines import replay
from resq_deploy.campaign.engines.activations import Activations
from resq_deploy.campaign.engines.replay import ReplayEngine
from resq_deploy.campaign.engines.room import Room
from resq_deploy.campaign.engines.testbed import Kit, Testbed
from resq_deploy.campaign.golden import golden_of
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.plan import make_plan
from resq_deploy.campaign.proofs import same
from resq_deploy.campaign.record import Way
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.faults.fault import Edit, Fault, Op, Share
from resq_deploy.faults.partition import Partition

IMAGES = 11
PARTS = 4  # of 3, 3, 3 and 2 images
KINDS = [
    "cnn-qdq-channel-s8",
    "cnn-qoperator-channel-s8",
    "attention-qdq-channel-s8",
    "attention-dynamic-channel-u8-saved",
]


@pytest.fixture(params=[100, 2], ids=["a part a batch", "batches of two"])
def testbed(model_file, models, request):
    """Build the engines for a file of the zoo, and return them with its surfaces and what they were built from."""

    def build(name, **options):
        images = models.images(IMAGES, name)
        model = DeployedModel.load(model_file(name))
        patcher, deployment = model.patcher(), Deployment(batch=request.param)
        session, partition = Session(patcher.golden, deployment), Partition(images=IMAGES, parts=PARTS)
        labels = np.concatenate([session.run(images[partition.part(part)]) for part in range(PARTS)]).argmax(axis=1)
        labels[::2] = 0
        kit = Kit(
            patcher=patcher,
            surfaces={surface.tensor: surface for surface in model.surfaces},
            golden=golden_of(session, images, labels, part=partition.size),
            options=CampaignOptions(deployment=deployment, **options),
        )
        return Testbed(kit), model.surfaces, kit

    return build


def faults_in(surfaces, op=Op.FLIP):
    """Faults in every surface, on shares of one part to all, some of which go on from the last part to the first."""
    rng, shares = np.random.default_rng(1), [Share(0, 1), Share(3, 2), Share(1, 3), Share(3, 1), Share(0, PARTS), None]
    faults = []
    for surface in surfaces:
        for bit in {0, surface.width // 2, surface.width - 2}:
            index, value = int(rng.integers(surface.elements)), int(rng.integers(1 << min(surface.width, 31)))
            edit = Edit.of(surface.tensor, [index], [bit], op, [value] if op is Op.WORD else [])
            faults.append(Fault(len(faults), (edit,), share=shares[len(faults) % len(shares)]))
    return faults


@pytest.mark.parametrize("op", [Op.FLIP, Op.SET1, Op.WORD])
@pytest.mark.parametrize("few", [0, IMAGES], ids=["rebuilt", "reloaded"])
@pytest.mark.parametrize("name", KINDS)
def test_replay_says_what_reload_says(name, few, op, testbed, monkeypatch):
    monkeypatch.setattr(replay, "_FEW", few)
    bed, surfaces, _ = testbed(name)
    faults = faults_in(surfaces, op)
    replayed = {record.number: record for record in bed.engine.evaluate(faults)}
    assert sorted(replayed) == [fault.number for fault in faults]
    for fault, truth in zip(faults, bed.truth.evaluate(faults), strict=True):
        assert same(truth, replayed[fault.number]), (fault, truth, replayed[fault.number])
        assert (truth.share, truth.parts) == (fault.share or Share(0, 1))
    ways = {record.way for record in replayed.values()}
    assert ways >= {Way.CHANNELS, Way.VALUES} or name.startswith("attention-dynamic") or op is Op.WORD


@pytest.mark.parametrize("name", KINDS)
def test_what_is_proven_of_all_images_is_what_they_all_show(name, testbed, monkeypatch):
    monkeypatch.setattr(replay, "_FEW", 0)
    bed, surfaces, _ = testbed(name)
    faults = faults_in(surfaces)
    inert = [record.number for record in bed.engine.evaluate(faults) if record.inert]
    for record in bed.truth.evaluate([dataclasses.replace(faults[number], share=None) for number in inert]):
        assert record.counts["masked"] == record.images == IMAGES
    assert {number for number in inert if bed.engine.inert(faults[number])} == set(inert)
    seen = {fault.number for fault in faults if bed.engine.inert(fault)}
    assert len(seen) < len(faults)
    assert not any(record.counts["sdc1"] for record in bed.truth.evaluate(faults) if record.number in seen)
    roles = {str(surface.role) for number in inert for surface in surfaces if surface.tensor in faults[number].tensors}
    assert "bias-scale" in roles or not name.startswith("cnn-qdq")  # which fusion leaves unread


def test_reload_says_what_the_flipped_file_says_of_these_images_alone(testbed):
    bed, surfaces, kit = testbed("cnn-qdq-channel-s8")
    faults = [fault for fault in faults_in(surfaces) if fault.share]
    for fault, record in zip(faults, bed.truth.evaluate(faults), strict=True):
        rows = kit.golden.parts.rows(fault.share)
        if record.outcome == "due":
            assert record.images == 0
            continue
        faulty = Session(kit.patcher.apply(kit.patcher.masks(fault)), Deployment(batch=1))
        logits = np.concatenate([faulty.run(kit.golden.inputs[[row]]) for row in rows])
        assert record.logits == xxhash.xxh3_128(logits.tobytes()).hexdigest()
        right = np.unpackbits(np.frombuffer(record.right, np.uint8), count=record.images)
        assert record.images == len(rows)
        assert right.tolist() == (logits.argmax(axis=1) == kit.golden.labels[rows]).tolist()
        assert (
            record.counts["sdc1"]
            == (logits.argmax(axis=1) != kit.golden.outputs[faulty.output][rows].argmax(axis=1)).sum()
        )


def test_only_golden_values_of_the_parts_that_are_judged_are_computed(testbed):
    bed, surfaces, kit = testbed("cnn-qdq-channel-s8")
    activations = bed.engine._activations

    def held():
        return {batch for of_kind in activations._held._kinds.values() for batch in of_kind}

    weights = [surface for surface in surfaces if surface.role == "weight"]
    bed.engine.evaluate([Fault(0, (Edit.of(weights[0].tensor, [0], [6]),), share=Share(0, 1))])
    before = held()
    assert before <= {0, 1, len(activations) - 1}  # with the batches that the graph is tried out on
    bed.engine.evaluate([Fault(1, (Edit.of(weights[0].tensor, [0], [6]),), share=Share(1, 1))])
    rows = {row for batch in held() - before for row in range(IMAGES)[activations.images(batch)]}
    assert rows <= set(kit.golden.parts.rows(Share(1, 1)).tolist()) != set()


def test_golden_values_of_a_part_are_computed_once_for_all_faults_on_it(testbed, monkeypatch):
    """Whatever layers they hit, and though nothing is held from one portion to the next."""
    monkeypatch.setattr(Room, "of", lambda *_: Room(0, 10**7, 10**7))
    bed, surfaces, _ = testbed("cnn-qdq-channel-s8")
    weights = [surface.tensor for surface in surfaces if surface.role == "weight"]
    faults = [
        Fault(number, (Edit.of(tensor, [number], [6]),), share=Share(1, 1))
        for number, tensor in enumerate(weights + weights)
    ]
    bed.engine.evaluate(faults)  # what is tried out beforehand
    asked = []
    run = Activations._run
    monkeypatch.setattr(
        Activations,
        "_run",
        lambda self, batch, number, outputs: asked.append(batch) or run(self, batch, number, outputs),
    )
    bed.engine.evaluate(faults)
    batches = bed.engine._of_part[1]
    segments = len(bed.engine._activations._segments)
    assert set(asked) == set(batches)
    assert len(asked) <= len(batches) * segments * (segments + 1) / 2
    assert len(weights) > 2


def test_more_workers_are_given_more_portions_and_each_fault_once(testbed):
    """Those of a cluster may be more than this machine has cores, and none is to wait for another."""
    bed, surfaces, kit = testbed("cnn-qdq-channel-s8", images_per_fault=3, samples=200, workers=1)
    plan = make_plan(surfaces, kit.options).judged_on(kit.golden.parts)
    counts = []
    for workers in (None, 1, 2, 64):
        portions = bed.shards(plan, range(len(plan)), workers)
        assert sorted(number for portion in portions for number in portion) == list(range(len(plan)))
        counts.append(len(portions))
    assert counts[0] == counts[1] < counts[2] < counts[3]
    assert counts[3] >= 5 * counts[1]


def test_for_few_images_no_tensor_is_tried_by_itself_where_its_role_does_not_stand(testbed, monkeypatch):
    """A try costs what reloading the one fault does; that of the role is made once for all of them."""
    bed, surfaces, _ = testbed("cnn-qdq-channel-s8")
    scales = [
        surface for surface in surfaces if surface.role in ("weight-scale", "bias-scale") and surface.elements > 1
    ]
    faults = [
        Fault(number, (Edit.of(surface.tensor, [element], [28]),), share=Share(0, 1))
        for number, (surface, element) in enumerate(itertools.product(scales, (0, 1)))
    ]
    tried = []
    optimised = ReplayEngine._optimised
    monkeypatch.setattr(ReplayEngine, "_optimised", lambda self, model: tried.append(0) or optimised(self, model))
    ways = {bed.engine.way(fault) for fault in faults}
    assert Way.RELOAD in ways
    assert len(tried) <= 2 * 2 * 2  # roles, positions, and a change by half and by this bit
    few = len(tried)
    monkeypatch.setattr(replay, "_FEW", 0)
    assert {bed.engine.way(fault) for fault in faults} <= {Way.REBUILD, Way.VALUES, Way.CHANNELS, Way.GOLDEN}
    assert len(tried) - few >= len(scales)
