"""Files whose judged outputs are no row of scores: both engines give the same records, and what a judge counts."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from resq_deploy.campaign.engines.testbed import Kit, Testbed
from resq_deploy.campaign.golden import golden_of
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.proofs import same
from resq_deploy.campaign.record import Way
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.judging import choose
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.faults.fault import Edit, Fault

IMAGES = 6
BATCH = 4  # so that the last batch is not full


def quantised_cnn(models, model_file, *taps, drop=()):
    """A small QDQ network, some of whose values in between are outputs, too."""
    proto = onnx.load(model_file("cnn-qdq-channel-s8"))
    made = {value for node in proto.graph.node for value in node.output}
    kept = [output for output in proto.graph.output if output.name not in drop]
    del proto.graph.output[:]
    proto.graph.output.extend([*kept, *(helper.make_tensor_value_info(tap, TensorProto.FLOAT, None) for tap in taps)])
    assert made.issuperset(taps)
    return proto


def twelve(models, model_file):
    """Twelve outputs: the scores, and values all along the network, some of which others read."""
    proto = onnx.load(model_file("cnn-qdq-channel-s8"))
    floats = [node.output[0] for node in proto.graph.node if node.op_type in ("Conv", "Relu", "Add", "MaxPool")]
    floats += [node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear" and node.output[0]]
    stored = {tensor.name for tensor in proto.graph.initializer}
    weights = {node.output[0] for node in proto.graph.node if node.op_type[:2] == "De" and node.input[0] in stored}
    taps = [name for name in dict.fromkeys(floats) if name not in weights and name != "y"][:11]
    assert len(taps) == 11
    return quantised_cnn(models, model_file, *taps)


def behind(*nodes, outputs, initializers=()):
    """The same network with further nodes behind its scores."""

    def build(models, model_file):
        proto = quantised_cnn(models, model_file, drop=("y",))
        proto.graph.node.extend(models.node(*node, **options) for *node, options in nodes)
        proto.graph.initializer.extend(models.constant(*each) for each in initializers)
        proto.graph.output.extend(helper.make_tensor_value_info(name, kind, None) for name, kind in outputs)
        return proto

    return build


def found_in_each(models, model_file):
    """A batch of one: rows of [D, 4] for the D places of each image that are bright enough, behind a small network."""
    nodes = [
        models.node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        models.node("Greater", "c level", "above"),
        models.node("NonZero", "above", "places"),
        models.node("Transpose", "places", "y", perm=[1, 0]),
    ]
    proto = models.model(nodes, [models.stored("w", 2, 3, 3, 3), models.constant("level", 1.0)], batch=1, outputs=())
    proto.graph.output.append(helper.make_tensor_value_info("y", TensorProto.INT64, None))
    return proto


FILES = {
    "twelve": (twelve, "values", 12),
    "detector": (
        behind(
            ("Gemm", "y wb", "numbers", {}),
            ("Reshape", "numbers boxes_shape", "boxes", {}),
            ("Gemm", "y ws", "raw", {}),
            ("Sigmoid", "raw", "scores", {}),
            ("Reshape", "raw classes_shape", "grid", {}),
            ("ArgMax", "grid", "classes", {"axis": 2, "keepdims": 0}),
            outputs=(("boxes", TensorProto.FLOAT), ("scores", TensorProto.FLOAT), ("classes", TensorProto.INT64)),
            initializers=(
                ("wb", np.abs(np.random.default_rng(0).normal(size=(5, 24)))),
                ("ws", np.random.default_rng(1).normal(size=(5, 6)) * 3),
                ("boxes_shape", [0, 6, 4], np.int64),
                ("classes_shape", [0, 6, 1], np.int64),
            ),
        ),
        "boxes:decode=decoded,order=xywh,score=0.4",
        3,
    ),
    "uint8": (
        behind(
            ("QuantizeLinear", "y scale zero", "levels", {}),
            outputs=(("levels", TensorProto.UINT8),),
            initializers=(("scale", 0.05), ("zero", 128, np.uint8)),
        ),
        "top1",
        1,
    ),
    "class": (
        behind(("ArgMax", "y", "best", {"axis": 1, "keepdims": 0}), outputs=(("best", TensorProto.INT64),)),
        "labels",
        1,
    ),
    "sigmoid": (
        behind(
            ("ReduceMax", "y axes", "one", {"keepdims": 1}),
            ("Sigmoid", "one", "yes", {}),
            outputs=(("yes", TensorProto.FLOAT),),
            initializers=(("axes", [1], np.int64),),
        ),
        "binary",
        1,
    ),
    "ragged": (found_in_each, "values", 1),
}


@pytest.fixture
def bed_of(models, model_file, tmp_path):
    """Return a function that builds the engines for a file, judged as a text asks for, or as is guessed."""

    def build(make, judge=None, names=(), labels=None, **options):
        path = models.save(make(models, model_file), tmp_path / "m.onnx")
        model, images, deployment = DeployedModel.load(path), models.images(IMAGES), Deployment(batch=BATCH)
        patcher = model.patcher()
        session = Session(patcher.golden, deployment)
        seen, _ = session.first_answers([images], names)
        chosen = choose(judge, names, session, patcher.golden, seen, labels)
        golden = golden_of(session, images, labels, chosen, deployment=deployment)
        surfaces = {surface.tensor: surface for surface in model.surfaces}
        options = CampaignOptions(deployment=deployment, **options)
        return Testbed(Kit(patcher=patcher, surfaces=surfaces, golden=golden, options=options)), model.surfaces, golden

    return build


def flips(surfaces, each):
    """A seeded sample of single flips, some in every surface."""
    rng = np.random.default_rng(1)
    hits = [(one, rng.integers(one.elements), rng.integers(one.width)) for one in surfaces for _ in range(each)]
    return [
        Fault(number, (Edit.of(surface.tensor, [int(index)], [int(bit)]),))
        for number, (surface, index, bit) in enumerate(hits)
    ]


@pytest.mark.parametrize("name", FILES)
def test_replay_gives_the_records_of_reload_and_run(name, bed_of):
    make, judge, outputs = FILES[name]
    bed, surfaces, golden = bed_of(make, judge)
    assert not bed.fallback
    assert len(golden.outputs) == outputs
    faults = flips(surfaces, 20 if len(surfaces) < 4 else 1)
    replayed = {record.number: record for record in bed.engine.evaluate(faults)}
    truths = {record.number: record for record in bed.truth.evaluate(faults)}
    for number, truth in truths.items():
        assert same(truth, replayed[number]), (truth, replayed[number])
    assert any(record.way is not Way.RELOAD and record.counts["masked"] < record.images for record in replayed.values())
    assert len({record.logits for record in truths.values()}) > 4  # faults are seen
    judged = [record for record in truths.values() if record.images]
    assert all(sum(record.counts[rung] for rung in ("masked", "benign", "sdc1")) == IMAGES for record in judged)
    assert {rung for record in judged for rung in record.counts} == set(golden.ladder)


def test_what_a_fault_loses_moves_and_adds_is_counted(bed_of):
    """By hand: of a file that answers otherwise, the records hold what a look at its boxes shows."""
    make, judge, _ = FILES["detector"]
    *_, golden = bed_of(make, judge)
    scores = golden.outputs["scores"]
    found = (scores > 0.4).sum()
    assert 0 < found < scores.size
    record = golden.record(0, {**golden.outputs, "scores": np.zeros_like(scores)}, 1)
    with_any = int((scores > 0.4).any(axis=1).sum())
    assert record.amounts == {"lost": found, "moved": 0, "relabelled": 0, "ghost": 0}
    assert (record.counts["lost"], record.counts["sdc1"], record.counts["masked"]) == (with_any, with_any, 0)
    other = {**golden.outputs, "classes": golden.outputs["classes"] + 1}
    assert golden.record(0, other, 1).amounts["relabelled"] == found
    # What `values` sees of the same outputs is another figure: scores are few numbers beside boxes.
    *_, blunt = bed_of(make, "values:bound=0.9")
    assert blunt.record(0, {**golden.outputs, "scores": np.zeros_like(scores)}, 1).counts["sdc1"] == 0


def test_one_sigmoid_is_no_class_of_one(bed_of):
    """As a row of one score nothing could ever be wrong; as yes or no, what crosses the threshold is."""
    make, *_ = FILES["sigmoid"]
    *_, golden = bed_of(make)
    assert (golden.judge.name, golden.rated) == ("binary", False)
    yes = golden.outputs["yes"]
    record = golden.record(0, {"yes": np.float32(1) - yes}, 1)
    assert record.counts["sdc1"] == int(((yes > 0.5) != (1 - yes > 0.5)).sum()) > 0
    assert record.quality is None
    assert record.right == b""
