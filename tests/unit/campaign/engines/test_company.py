"""In what company images may be run: told by what a graph is made of, and by what it gives."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.campaign.engines import company
from resq_deploy.campaign.engines.activations import Activations
from resq_deploy.campaign.engines.company import Company, companies
from resq_deploy.campaign.engines.room import Room
from resq_deploy.campaign.engines.testbed import Kit, Testbed
from resq_deploy.campaign.golden import golden_of
from resq_deploy.campaign.options import LEAST_MEMORY, CampaignOptions
from resq_deploy.campaign.proofs import same
from resq_deploy.campaign.record import Way
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.inputs import Inputs
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.runtime_graph import RuntimeGraph, optimise
from resq_deploy.deployed.session import Session
from resq_deploy.faults.fault import Edit, Fault
from resq_deploy.faults.judges import outputs

FOUR = Deployment(batch=4)
AXES = numpy_helper.from_array(np.array([0]), "axes")
SHAPE = numpy_helper.from_array(np.array([4, 6]), "shape")
BY_BATCH = {
    "mean": ([("ReduceMean", ["x", "axes"], "a", {"keepdims": 1}), ("Sub", ["x", "a"], "c", {})], [AXES]),
    "shape": ([("Reshape", ["x", "shape"], "c", {})], [SHAPE]),
    "neither": ([("Neg", ["x"], "c", {})], []),
}


@pytest.fixture
def held():
    """Return graph and golden values of a small float network."""

    def build(kind):
        weight = numpy_helper.from_array(np.eye(6, 3, dtype=np.float32) + 1, "w")
        nodes, stored = BY_BATCH[kind]
        made = [helper.make_node(name, given, [out], **options) for name, given, out, options in nodes]
        x, y = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 6), ("y", 3))
        )
        graph = helper.make_graph(
            [*made, helper.make_node("MatMul", ["c", "w"], ["y"])], kind, [x], [y], [weight, *stored]
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
        values = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
        batches = list(Session(model, FOUR).batches(Inputs(arrays={"x": values})))
        found = RuntimeGraph(optimise(model, FOUR), ["y"])
        found.learn_types(FOUR)
        return found, Activations(found, batches, FOUR, 10**8, 4)

    return build


@pytest.mark.parametrize(
    ("kind", "size", "holds"),
    [("mean", 4, False), ("mean", 1, False), ("shape", 4, True), ("shape", 1, False), ("neither", 4, True)],
)
def test_images_that_depend_on_their_batch_keep_to_it(kind, size, holds, held):
    found = Company(*held(kind), size)
    assert found.holds(["y"]) is holds
    assert found.holds(["x"])
    assert found.holds(["x", "never seen"]) is holds


def test_batches_of_floating_point_products_keep_their_size(held, monkeypatch):
    monkeypatch.setattr(company, "_IN_CACHE", 1)
    assert [one.size for one in companies(*held("neither"))] == [4]


@pytest.mark.parametrize("name", ["cnn-qdq-channel-s8", "cnn-qoperator-channel-s8"])
def test_images_by_themselves_and_judged_by_themselves_are_what_reload_says(name, model_file, models, monkeypatch):
    model = DeployedModel.load(model_file(name))
    images = models.images(10, name)
    patcher = model.patcher()
    golden = golden_of(Session(patcher.golden, FOUR), images, np.arange(10) % 4)
    kit = Kit(
        patcher=patcher,
        surfaces={surface.tensor: surface for surface in model.surfaces},
        golden=golden,
        options=CampaignOptions(deployment=FOUR, memory=LEAST_MEMORY),
    )
    faults = [
        Fault(number, (Edit.of(surface.tensor, [element], [bit]),))
        for number, (surface, element, bit) in enumerate(
            (surface, element, bit)
            for surface in model.surfaces
            for element in (0, surface.elements - 1)
            for bit in (0, surface.width - 2)
        )
    ]
    truths = Testbed(kit).truth.evaluate(faults)
    tensors = [[surface.tensor] for surface in model.surfaces if surface.role == "weight"]
    groups = [Testbed(kit).engine.group(tensor) for tensor in tensors]
    assert max(group.portion for group in groups) > 1
    monkeypatch.setattr(Room, "of", lambda *_: Room(10**9, 10**8, 1))
    monkeypatch.setattr(company, "_IN_CACHE", 1)
    monkeypatch.setattr(outputs, "_PIECE", 1)
    monkeypatch.setattr(outputs, "_LONG", 3)
    bed = Testbed(kit)
    replayed = {record.number: record for record in bed.engine.evaluate(faults)}
    rests = [rest for rest, _ in bed.engine._stage._rests._held.values()]
    assert {rest.size for rest in rests if rest.pooled} == {1}
    assert {bed.engine.group(tensor).portion for tensor in tensors} == {1}  # outputs of no more faults may be held
    assert sum(record.way is Way.CHANNELS for record in replayed.values()) > 4
    assert {record.outcome for record in truths} >= {"masked", "sdc1"}
    for truth in truths:
        assert same(truth, replayed[truth.number]), (truth, replayed[truth.number])
        assert (truth.quality, truth.gaps) == (replayed[truth.number].quality, replayed[truth.number].gaps)
