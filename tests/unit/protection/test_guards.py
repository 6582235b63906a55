"""Guards: the same computation, and one faulty copy of any tensor changes nothing."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.graph import read_model
from resq_deploy.deployed.runtime_graph import optimise
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import find_surfaces
from resq_deploy.deployed.votes import find_votes
from resq_deploy.errors import ModelError
from resq_deploy.protection import guards
from resq_deploy.protection.guards import guard, obstacles

DEPLOYMENT = Deployment(batch=4)
QUANTISED = [
    "cnn-qdq-channel-s8",
    "cnn-qdq-tensor-u8",
    "cnn-qoperator-channel-s8",
    "cnn-qoperator-tensor-u8",
    "attention-qdq-channel-s8",
    "attention-qdq-tensor-u8",
    "attention-qoperator-tensor-s8-pre",
]


def parts(path):
    """A file as bytes and the names of the tensors that can be guarded."""
    proto, _ = read_model(path)
    names = [surface.tensor for surface in find_surfaces(proto)]
    refused = obstacles(proto, names)
    return proto.SerializeToString(), [name for name in names if name not in refused]


def logits(model, images):
    return Session(model, DEPLOYMENT).run(images).tobytes()


def operators(model):
    return sorted(node.op_type for node in optimise(model, DEPLOYMENT).graph.node)


def test_a_guarded_file_is_the_same_computation(file_kind, model_file, models):
    model, names = parts(model_file(file_kind))
    guarded = guard(model, names)
    images = models.images(5, file_kind)
    assert logits(guarded, images) == logits(model, images)
    assert operators(guarded) == operators(model)
    proto = onnx.ModelProto.FromString(guarded)
    if file_kind in QUANTISED:  # the checker refuses most of the others as they are
        onnx.checker.check_model(proto)
    already = len(find_votes(onnx.ModelProto.FromString(model)))
    votes = find_votes(proto)
    assert {vote.output for vote in votes} >= set(names)
    assert len(votes) == len(names) + already
    assert [node.op_type for node in proto.graph.node][: 2 * len(names)] == ["Equal", "Where"] * len(names)


@pytest.mark.parametrize("name", QUANTISED)
def test_every_tensor_of_a_quantised_file_can_be_guarded(name, model_file):
    proto, _ = read_model(model_file(name))
    found = obstacles(proto, [surface.tensor for surface in find_surfaces(proto)])
    numbers = {f"{node.name}.{attribute.name}" for node in proto.graph.node for attribute in node.attribute}
    assert found.keys() <= numbers
    assert all("a number in an attribute cannot be voted" in reason for reason in found.values())


def damaged(model, tensor, mask):
    """The file with the bytes of a tensor changed."""
    proto = onnx.ModelProto.FromString(model)
    stored = next(found for found in proto.graph.initializer if found.name == tensor)
    stored.raw_data = bytes(byte ^ mask for byte in stored.raw_data)
    return proto.SerializeToString()


@pytest.mark.parametrize("name", QUANTISED[:1] + QUANTISED[2:3] + QUANTISED[-1:])
@pytest.mark.parametrize("mask", [0x01, 0x7F, 0x80, 0xFF])
def test_any_damage_to_one_copy_is_outvoted(name, mask, model_file, models):
    model, names = parts(model_file(name))
    guarded, images = guard(model, names), models.images(5)
    golden = logits(model, images)
    for place, vote in enumerate(find_votes(onnx.ModelProto.FromString(guarded))):
        guarded = damaged(guarded, vote.copies[place % 3], mask)
    assert logits(guarded, images) == golden


def test_a_copy_that_became_nan_is_outvoted_and_damage_to_two_copies_is_not(model_file, models):
    model, names = parts(model_file("cnn-qdq-channel-s8"))
    scale = next(name for name in names if name.endswith("w1_scale"))
    guarded, images = guard(model, [scale]), models.images(5)
    (vote,) = find_votes(onnx.ModelProto.FromString(guarded))
    golden = logits(model, images)
    for copy in vote.copies:
        faulty = onnx.ModelProto.FromString(guarded)
        stored = next(found for found in faulty.graph.initializer if found.name == copy)
        stored.raw_data = np.full(numpy_helper.to_array(stored).shape, np.nan, np.float32).tobytes()
        assert logits(faulty.SerializeToString(), images) == golden
    twice = damaged(damaged(guarded, vote.copies[0], 0x04), vote.copies[2], 0x04)
    assert logits(twice, images) != golden


def test_equal_input_gives_equal_bytes_whatever_the_order(model_file):
    model, names = parts(model_file("cnn-qdq-channel-s8"))
    assert guard(model, names) == guard(model, names[::-1]) == guard(model, set(names))
    assert guard(model, []) == model


def test_names_of_copies_depend_on_the_tensor_alone(model_file):
    model, names = parts(model_file("cnn-qdq-channel-s8"))
    of_all = {vote.output: vote.copies for vote in find_votes(onnx.ModelProto.FromString(guard(model, names)))}
    (alone,) = find_votes(onnx.ModelProto.FromString(guard(model, names[3:4])))
    assert of_all[names[3]] == alone.copies


def test_a_name_that_is_taken_is_not_used_again(model_file):
    model, names = parts(model_file("cnn-qdq-channel-s8"))
    (vote,) = find_votes(onnx.ModelProto.FromString(guard(model, names[:1])))
    proto = onnx.ModelProto.FromString(model)
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), vote.copies[1]))
    (other,) = find_votes(onnx.ModelProto.FromString(guard(proto.SerializeToString(), names[:1])))
    assert set(other.copies).isdisjoint(vote.copies)


def test_copies_lie_apart(model_file):
    model, names = parts(model_file("cnn-qdq-channel-s8"))
    proto = onnx.ModelProto.FromString(guard(model, names))
    places = {tensor.name: place for place, tensor in enumerate(proto.graph.initializer)}
    votes = find_votes(proto)
    for vote in votes:
        ordered = sorted(places[copy] for copy in vote.copies)
        assert min(np.diff(ordered)) >= len(votes) - 1


@pytest.mark.parametrize("opset", [13, 15, 18, 21])
def test_every_opset_from_13_on(opset, models):
    proto = models.HAND_MADE["typed_storage"]()
    proto.opset_import[0].version = opset
    model, names = proto.SerializeToString(), [tensor.name for tensor in proto.graph.initializer]
    guarded, images = guard(model, names), models.images(5)
    assert len(find_votes(onnx.ModelProto.FromString(guarded))) == 5
    assert logits(guarded, images) == logits(model, images)


def head(tensors, nodes, **changes):
    """A small classifier, [N, 3] -> [N, C], around some stored tensors."""
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    opset = changes.get("opset", 18)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=changes.get("ir_version", 9)
    )


W = np.arange(6, dtype=np.float32).reshape(3, 2)
PRODUCT = [helper.make_node("MatMul", ["x", "w"], ["y"])]
HALF = [helper.make_node("Cast", ["w"], ["w_f"], to=TensorProto.FLOAT), helper.make_node("MatMul", ["x", "w_f"], ["y"])]


def test_the_types_are_those_that_can_be_voted_on():
    for name in guards.TYPES:
        dtype = helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(name.upper()))
        proto = head({"w": W.astype(dtype)}, HALF)
        assert len(find_votes(onnx.ModelProto.FromString(guard(proto.SerializeToString(), ["w"])))) == 1


def test_whether_there_are_kernels_is_tried_out():
    """No kernel compares int16 as far as this was tested; int8 has some from onnxruntime 1.31 on."""
    assert guards._has_kernels("float")
    assert not guards._has_kernels("int16")
    assert guards.obstacle_of_type("int8") is None or "install a later one" in guards.obstacle_of_type("int8")


def test_onnxruntime_makes_a_voted_minus_zero_plus_zero_so_that_it_is_not_guarded():
    model = head({"w": W * -1}, PRODUCT).SerializeToString()
    with pytest.raises(ModelError, match="'w' cannot be guarded: it holds a -0"):
        guard(model, ["w"])
    with pytest.raises(ModelError, match="'w' cannot be guarded: onnxruntime does not make the same"):
        guards._check_folded(onnx.ModelProto.FromString(model), ["w"])


@pytest.mark.parametrize(
    ("model", "tensor", "message"),
    [
        (head({"w": W}, PRODUCT), "v", "'v' cannot be guarded: the file stores no tensor of that name"),
        (
            head({"w": W.astype(np.float16)}, HALF),
            "w",
            "votes on double, .* uint8, not on float16",
        ),
        (head({"w": W}, PRODUCT, opset=12), "w", "the file has opset 12, votes need 13"),
        (head({"w": W}, PRODUCT, ir_version=3), "w", "a graph input too"),
    ],
    ids=["unknown", "type", "opset", "IR version"],
)
def test_what_cannot_be_guarded_is_refused(model, tensor, message):
    with pytest.raises(ModelError, match=message):
        guard(model.SerializeToString(), [tensor])


def test_no_model():
    with pytest.raises(ModelError, match="not an ONNX model"):
        guard(b"\xff\xff\xff", ["w"])


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("overridable", "w", "a graph input too"),
        ("guarded", "w1", "a copy of a guarded tensor already"),
        ("sparse", "w", "stored elsewhere"),
        ("constants", "w", "stored elsewhere"),
        ("subgraphs", "w_inner", "stored elsewhere"),
        ("four_bits", "w", "not on int4"),
    ],
)
def test_obstacles_of_files(name, tensor, message, model_file):
    proto, _ = read_model(model_file(name))
    assert message in obstacles(proto, [tensor])[tensor]


def test_tensors_read_by_subgraphs_only(model_file, models):
    model, names = parts(model_file("subgraphs"))
    assert "w_outer" in names
    (vote,) = find_votes(onnx.ModelProto.FromString(guard(model, ["w_outer"])))
    assert vote.output == "w_outer"


def test_a_vote_that_is_not_folded_is_an_error(model_file, monkeypatch):
    model, names = parts(model_file("cnn-qdq-channel-s8"))
    monkeypatch.setattr(guards, "Deployment", lambda: Deployment(optimization="none"))
    with pytest.raises(ModelError, match=f"tensor {names[0]!r} cannot be guarded: onnxruntime does not make the same"):
        guard(model, names)
