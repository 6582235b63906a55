"""Golden runs made with the parts that faults are replayed on: the session's outputs, and what they leave behind."""

import numpy as np
import onnx
import pytest

from resq_deploy.campaign.engines import sweep
from resq_deploy.campaign.engines.activations import Activations
from resq_deploy.campaign.engines.channels import MOST
from resq_deploy.campaign.engines.room import Room
from resq_deploy.campaign.engines.sweep import Sweep
from resq_deploy.campaign.engines.testbed import Kit, Testbed
from resq_deploy.campaign.golden import golden_of
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.proofs import same
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset
from resq_deploy.data.samples import Samples
from resq_deploy.deployed.binding import bound
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.runtime_graph import Part
from resq_deploy.deployed.session import Session
from resq_deploy.faults.fault import Edit, Fault, Share
from resq_deploy.faults.judges import outputs

IMAGES, PART = 33, 4  # nine parts, of four and of three images
KINDS = [
    "cnn-qdq-channel-s8",
    "cnn-qoperator-channel-s8",
    "attention-qdq-channel-s8",
    "attention-dynamic-channel-u8-saved",
]


@pytest.fixture
def rooms(monkeypatch):
    """Return a function that sets how many bytes golden values may take."""
    return lambda values: monkeypatch.setattr(Room, "of", lambda *_: Room(values, 10**7, 10**7))


@pytest.fixture
def swept(model_file, models):
    """Return a function that makes the golden run of a file of the zoo: by a sweep of it, or of another."""

    def run(name, *, images=None, of=None, part=PART):
        images = models.images(IMAGES, name) if images is None else images
        model = DeployedModel.load(model_file(name))
        patcher, options = model.patcher(), CampaignOptions(deployment=Deployment(batch=PART))
        made = Sweep(of or patcher.golden, options)
        session, labels = Session(patcher.golden, options.deployment), np.arange(len(images)) % 3
        golden = golden_of(session, images, labels, part=part, deployment=options.deployment, answers=made)
        plain = golden_of(session, images, labels, part=part, deployment=options.deployment)
        surfaces = {surface.tensor: surface for surface in model.surfaces}
        return made.found, golden, plain, Kit(patcher=patcher, surfaces=surfaces, golden=golden, options=options)

    return run


def alike(one, other):
    """Return whether two golden runs give the same outputs, bit by bit, in the same forms."""
    return dict(one.forms) == dict(other.forms) and outputs.same(dict(one.outputs), dict(other.outputs)).all()


@pytest.mark.parametrize("room", [0, 3000, 12_000, 10**9], ids="{} bytes".format)
@pytest.mark.parametrize("name", KINDS)
def test_outputs_are_the_sessions_and_values_those_of_the_whole_graph(name, room, swept, rooms):
    rooms(room)
    found, golden, plain, _ = swept(name)
    assert alike(golden, plain)
    graph, activations, _ = found
    names = [value for node in graph.nodes for value in node.output if value and value in graph.varying]
    model, inputs = graph.part(range(len(graph.nodes)), names)
    whole = Part(model, inputs, names, golden.deployment)
    for batch in range(len(activations)):
        expected = whole.run_named(activations.feeds(batch))
        for some in (names[::3], names):
            for value, array in activations.get(batch, some).items():
                assert array.dtype == expected[value].dtype
                assert array.tobytes() == expected[value].tobytes()
    assert sum(value.nbytes for values in activations._swept for value in values.values()) <= room
    assert activations._held._bytes <= room


@pytest.mark.parametrize("name", KINDS)
def test_nothing_that_the_golden_run_has_made_is_made_again(name, swept, rooms, monkeypatch):
    rooms(10**9)
    *_, kit = found = swept(name)
    faults = [
        Fault(number, (Edit.of(tensor, [0], [surface.width - 2]),), share=Share(number % 9, 1))
        for number, (tensor, surface) in enumerate(kit.surfaces.items())
        if surface.role == "weight"
    ]
    monkeypatch.setattr(Activations, "_run", lambda *_: pytest.fail("computed once more"))
    bed = Testbed(kit, found[0])
    assert bed.engine._activations is found[0].activations
    records = bed.engine.evaluate(faults)
    assert len(records) == len(faults) > 2
    truths = {record.number: record for record in bed.truth.evaluate(faults)}
    assert all(same(record, truths[record.number]) for record in records)


def test_what_saves_most_is_held_where_there_is_room_for_some(swept, rooms):
    rooms(10**9)
    everything = swept("cnn-qdq-channel-s8")[0].activations
    taken = sum(value.nbytes for values in everything._swept for value in values.values())
    rooms(taken // 2)
    some = swept("cnn-qdq-channel-s8")[0].activations
    held = [values.keys() for values in some._swept]
    assert 0 < len(held[0]) < len(everything._swept[0])
    assert all(names == held[0] for names in held)
    assert taken // 4 < sum(value.nbytes for values in some._swept for value in values.values()) <= taken // 2


def test_room_is_asked_for_the_outputs_of_a_portion_of_each_worker(swept, monkeypatch):
    asked = []
    monkeypatch.setattr(Room, "of", lambda *given: asked.append(given) or Room(10**9, 10**7, 10**7))
    *_, kit = swept("cnn-qdq-channel-s8")
    ((memory, _, given),) = asked
    padded = sum(values.nbytes for values in kit.golden.outputs.values()) / IMAGES * 36  # the last part is filled up
    assert memory == kit.options.memory
    assert given == pytest.approx(kit.options.worker_count * MOST * padded)
    replay = Testbed(kit).engine
    assert replay.name == "replay"
    assert asked[1][2] == pytest.approx(given / 36 * IMAGES)  # without a sweep it is told by the golden run


def flipped(model):
    """Return a file one stored weight of which is another."""
    proto = onnx.ModelProto.FromString(model)
    stored = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    stored.raw_data = bytes([stored.raw_data[0] ^ 0x40]) + stored.raw_data[1:]
    return proto.SerializeToString()


@pytest.mark.parametrize("name", KINDS[:2])
def test_a_run_that_does_not_give_the_sessions_outputs_is_the_sessions(name, swept, model_file):
    found, golden, plain, _ = swept(name, of=flipped(model_file(name).read_bytes()))
    assert found is None
    assert alike(golden, plain)


def test_a_file_that_cannot_be_run_in_parts_is_run_by_its_session(swept):
    found, golden, plain, _ = swept(KINDS[0], of=b"no file")
    assert found is None
    assert alike(golden, plain)


def test_a_few_batches_are_the_sessions(swept, models, monkeypatch):
    few = models.images(sweep._LEAST * PART - PART, KINDS[0])
    assert swept(KINDS[0], images=few, part=None)[0] is None
    monkeypatch.setattr(sweep, "_LEAST", 1)
    assert swept(KINDS[0], images=few, part=None)[0] is not None


def test_of_samples_that_are_set_aside_nothing_is_left_behind(models):
    model, images, deployment = models.float_cnn().SerializeToString(), models.images(IMAGES), Deployment(batch=PART)
    images[5] = np.nan
    made, session = Sweep(model, CampaignOptions(deployment=deployment)), Session(model, deployment)
    golden, plain = (
        golden_of(session, images, np.arange(IMAGES) % 3, part=PART, deployment=deployment, answers=answers)
        for answers in (made, Session.first_answers)
    )
    assert golden.set_aside == plain.set_aside == 1
    assert alike(golden, plain)
    activations = made.found.activations
    assert [activations.batches(piece) for piece in golden.pieces(None)] == [
        range(number, number + 1) for number in range(8)
    ]
    assert [activations.images(number) for number in range(8)] == golden.pieces(None)


def test_steps_of_sequences_are_the_sessions(kinds):
    model = kinds.five_states().SerializeToString()
    frames = np.random.default_rng(0).standard_normal((sweep._LEAST, 4, 6)).astype(np.float32)
    samples = Samples(name="d", arrays={"x": frames}, states={name: f"{name}_out" for name in kinds.STATES})
    session, made = Session(model, Deployment()), Sweep(model, CampaignOptions())
    inputs = bound(samples, session.inputs, [output.name for output in session.outputs])
    found, forms = made(session, [inputs], ["y"])
    plain, others = session.first_answers([inputs], ["y"])
    assert made.found is None
    assert (forms, found["y"].tobytes()) == (others, plain["y"].tobytes())


def test_a_campaign_replays_on_what_its_golden_run_left_behind(digits_int8, tmp_path, monkeypatch):
    model, digits = DeployedModel.load(digits_int8), load_dataset("digits")

    def records(name, **options):
        chosen = CampaignOptions(images=100, images_per_fault=10, samples=60, workers=1, audit=1.0, **options)
        campaign = Campaign(model, digits, chosen)
        summary = campaign.run(tmp_path / name)
        assert summary["audit"]["mismatches"] == 0 < summary["audit"]["checked"]
        return summary, campaign.testbed.engine

    swept, engine = records("swept")
    assert all(values for values in engine._activations._swept)
    monkeypatch.setattr(sweep, "_LEAST", 10**6)
    plain, other = records("plain")
    assert not any(values for values in other._activations._swept)
    assert (tmp_path / "swept" / "faults.csv").read_bytes() == (tmp_path / "plain" / "faults.csv").read_bytes()
    assert {**swept, "throughput": 0} == {**plain, "throughput": 0}


@pytest.mark.parametrize("options", [{"engine": "reload"}, {"scheduler": "local"}], ids=["reload", "cluster"])
def test_what_nobody_here_would_ask_for_is_not_held(options, digits_int8, monkeypatch):
    monkeypatch.setattr(Sweep, "__call__", lambda *_: pytest.fail("swept"))
    chosen = CampaignOptions(images=100, images_per_fault=10, samples=10, workers=1, **options)
    assert len(Campaign(DeployedModel.load(digits_int8), load_dataset("digits"), chosen).golden) == 100
