"""Files that cannot be used: one clear line each, and never anything but ModelError."""

import os

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.errors import ModelError


def refused(path, *words):
    with pytest.raises(ModelError) as caught:
        DeployedModel.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "no graph with nodes"),
        (b"\xff" * 100, "not an ONNX model"),
        (b'ir_version: 8\ngraph { name: "g" }\n', "not an ONNX model"),
        (b"PK\x03\x04 not a model", "not an ONNX model"),
    ],
    ids=["empty", "random", "text-format", "zip"],
)
def test_a_file_that_is_no_model(content, word, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refused(path, word)


def test_a_path_that_is_no_file(tmp_path):
    refused(tmp_path, "no regular file")
    refused(tmp_path / "missing.onnx", "No such file")
    pipe = tmp_path / "pipe.onnx"
    os.mkfifo(pipe)
    refused(pipe, "no regular file")  # and does not wait for a writer


def test_a_truncated_file(model_file, tmp_path):
    data = model_file("cnn").read_bytes()
    path = tmp_path / "m.onnx"
    path.write_bytes(data[:-40])
    refused(path)


def changed(models, tmp_path, change, name="typed_storage"):
    """Write a model after changing its graph."""
    proto = models.HAND_MADE[name]()
    change(proto.graph)
    return models.save(proto, tmp_path / "m.onnx")


def first_tensor(**fields):
    """A change of the first initializer."""

    def change(graph):
        tensor = graph.initializer[0]
        for name, value in fields.items():
            if name == "dims":
                del tensor.dims[:]
                tensor.dims.extend(value)
            else:
                setattr(tensor, name, value)

    return change


def cycle(graph):
    graph.node[0].input[0] = "y"


def cycle_through_a_branch(graph):
    """The branch of an If reads what is computed from its result."""
    out = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    branches = [helper.make_graph([helper.make_node("Neg", ["y"], ["inner"])], name, [], [out]) for name in "ab"]
    graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    graph.node.insert(
        0, helper.make_node("If", ["flag"], ["made"], "choice", then_branch=branches[0], else_branch=branches[1])
    )
    graph.node[1].input[0] = "made"


def made_twice(graph):
    graph.node.append(graph.node[-1])


def sharing_a_name(graph):
    graph.initializer.append(graph.initializer[0])


def in_segments(graph):
    graph.initializer[0].segment.begin = 0


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (first_tensor(dims=[1 << 40, 1 << 40]), "should hold"),
        (first_tensor(dims=[-5, 3]), "negative dimension"),
        (first_tensor(dims=[5, 4]), "should hold 20 stored values and holds 15"),
        (first_tensor(data_type=TensorProto.FLOAT), "cannot be read"),
        (first_tensor(raw_data=b"\0\0"), "should store 15 bytes and stores 2"),
        (cycle, "cycle through the node"),
        (cycle_through_a_branch, "cycle through the node"),
        (made_twice, "'y' is made twice"),
        (sharing_a_name, "2 stored tensors are called 'w'"),
        (in_segments, "segments"),
    ],
    ids=[
        "huge",
        "negative",
        "too-few",
        "wrong-type",
        "short-raw",
        "cycle",
        "branch-cycle",
        "made-twice",
        "same-name",
        "segments",
    ],
)
def test_a_graph_that_contradicts_itself(change, word, models, tmp_path):
    refused(changed(models, tmp_path, change), word)


@pytest.mark.parametrize("field", [b"y_node", b"flat", b"w_s"], ids=["node", "value", "tensor"])
def test_a_name_that_is_not_utf8(field, model_file, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(model_file("typed_storage").read_bytes().replace(field, b"\xff" * len(field)))
    refused(path, "not UTF-8")


def test_long_chains_and_deep_scales_are_read(models, tmp_path):
    """No recursion along the graph: a weight behind 3,000 Identity nodes, scales of scales 3,000 deep."""
    count = 3000
    nodes = [models.node("Identity", "w" if at == 0 else f"i{at}", f"i{at + 1}") for at in range(count)]
    nodes += [
        helper.make_node("DequantizeLinear", ["q", "s" if at == 0 else f"s{at}"], [f"s{at + 1}"]) for at in range(count)
    ]
    nodes.append(models.node("Gemm", f"flat i{count} s{count}", "y", transB=1))
    stored = [models.stored("w", 5, 3), models.constant("q", 1, np.int8), models.constant("s", 1.0)]
    path = models.save(models.model([*models.HEAD, *nodes], stored), tmp_path / "m.onnx")

    roles = {surface.tensor: str(surface.role) for surface in DeployedModel.load(path).surfaces}
    assert roles == {"w": "weight", "q": "bias", "s": "weight-scale"}


def test_functions_that_multiply_without_end(models, tmp_path):
    proto = models.functions()
    del proto.functions[:]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    for level in range(40):  # each calls the next one twice
        inner = f"F{level + 1}" if level < 39 else "Relu"
        domain = "local" if level < 39 else ""
        name = "Dense" if level == 0 else f"F{level}"
        calls = [
            helper.make_node(inner, ["a"], ["b"], domain=domain),
            helper.make_node(inner, ["b"], ["c"], domain=domain),
        ]
        proto.functions.append(helper.make_function("local", name, ["a"], ["c"], calls, opsets))
    refused(models.save(proto, tmp_path / "m.onnx"), "without end")


def external(models, path, location="weights.bin", write=True, **entries):
    """A model whose first tensor lies in an external file of 60 bytes."""
    proto = models.fixed_batch()
    tensor = proto.graph.initializer[0]
    values = numpy_helper.to_array(tensor).tobytes()
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    models.save(proto, path)
    if write:
        (path.parent / location).write_bytes(b"pad!" + values if entries.get("offset") else values)
    return path


@pytest.mark.parametrize("entries", [{}, {"offset": 4, "length": 60}], ids=["whole", "offset"])
def test_external_data_is_taken_in(entries, models, model_file, tmp_path):
    (tmp_path / "sub").mkdir()
    inside = DeployedModel.load(model_file("fixed_batch"))
    outside = DeployedModel.load(external(models, tmp_path / "m.onnx", "sub/weights.bin", **entries))

    assert outside.surfaces == inside.surfaces
    assert outside.patcher().golden == inside.patcher().golden


def test_external_data_is_part_of_the_digest(models, tmp_path):
    path = external(models, tmp_path / "m.onnx")
    before = DeployedModel.load(path).digest
    (tmp_path / "weights.bin").write_bytes(bytes(60))
    assert DeployedModel.load(path).digest != before


@pytest.mark.parametrize(
    ("location", "entries", "word"),
    [
        ("../secret.bin", {}, "leads out"),
        ("/etc/hostname", {}, "leads out"),
        ("link.bin", {}, "leads out"),
        ("pipe.bin", {}, "no regular file"),
        ("missing.bin", {}, "No such file"),
        ("", {}, "no file is named"),
        ("a\0b", {}, "cannot be read"),
        ("short.bin", {}, "holds 10 bytes, 60 are needed"),
        ("good.bin", {"length": 59}, "takes 60 bytes, the model says 59"),
        ("good.bin", {"offset": 1}, "holds 60 bytes, 61 are needed"),
        ("good.bin", {"offset": -1}, "needed"),
        ("good.bin", {"offset": "many"}, "invalid literal"),
    ],
)
def test_external_data_that_cannot_be_had(location, entries, word, models, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(60))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "short.bin").write_bytes(bytes(10))
    (folder / "good.bin").write_bytes(bytes(60))
    os.mkfifo(folder / "pipe.bin")
    refused(external(models, folder / "m.onnx", location, write=False, **entries), "external data of 'w'", word)


def unusable(models, tmp_path, proto, word):
    model = DeployedModel.load(models.save(proto, tmp_path / "m.onnx"))
    with pytest.raises(ModelError, match=word) as caught:
        _ = Session(model.patcher().golden, Deployment()).input
    assert "\n" not in str(caught.value)


def test_two_image_inputs_are_refused(models, tmp_path):
    nodes = [models.node("Gemm", "flat w", "g", transB=1), models.node("Add", "g x2", "y")]
    proto = models.model([*models.HEAD, *nodes], [models.stored("w", models.CLASSES, 3)])
    proto.graph.input.append(helper.make_tensor_value_info("x2", TensorProto.FLOAT, ["N", models.CLASSES]))
    unusable(models, tmp_path, proto, r"takes 2 inputs \('x', 'x2'\)")


def test_an_input_without_a_shape_is_refused(models, tmp_path):
    proto = models.float_cnn()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    unusable(models, tmp_path, proto, "has shape")


def test_a_huge_fixed_batch_is_refused(models, tmp_path):
    proto = models.float_cnn()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1 << 40
    unusable(models, tmp_path, proto, "at a time")


def test_a_model_without_outputs_is_refused(models, tmp_path):
    proto = models.float_cnn()
    del proto.graph.output[:]
    unusable(models, tmp_path, proto, "no outputs")


def test_a_model_without_scores_has_none_to_give(models, tmp_path):
    proto = models.overridable()
    del proto.graph.output[:2]
    session = Session(DeployedModel.load(models.save(proto, tmp_path / "m.onnx")).patcher().golden, Deployment())
    with pytest.raises(ModelError, match="class scores are needed"):
        session.run(models.images(2))
    assert [output.type for output in session.outputs] == ["int64"]


def test_a_float16_input_is_refused(models, tmp_path):
    proto = models.fixed_batch()
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    proto.graph.initializer[0].CopyFrom(models.stored("w", 5, 3, dtype=np.float16))
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    unusable(models, tmp_path, proto, r"float16.*float32 or uint8 images are needed")


def test_an_operator_nobody_knows_is_refused(models, tmp_path):
    proto = models.float_cnn()
    proto.graph.node[1].op_type = "Nonsense"
    unusable(models, tmp_path, proto, "onnxruntime refuses the model")


def test_a_tensor_without_a_name_is_no_surface(models, tmp_path):
    proto = models.fixed_batch()
    proto.graph.initializer.append(models.stored("", 4))
    model = DeployedModel.load(models.save(proto, tmp_path / "m.onnx"))
    assert [surface.tensor for surface in model.surfaces] == ["w"]


@pytest.mark.parametrize(("depth", "usable"), [(20, True), (60, False)])
def test_deeply_nested_subgraphs_are_read_or_refused(depth, usable, models, tmp_path):
    """Protocol buffers end at a depth of 100 messages; what they let through is read without trouble."""
    made = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph([models.node("MatMul", "flat w", "out")], "inner", [], [made])
    serialised = graph.SerializeToString()
    for _ in range(depth):
        # Put together from bytes: the Python classes do not write what they could not read.
        branch = wire(1, b"then_branch") + wire(6, serialised) + b"\xa0\x01\x05"
        serialised = wire(1, wire(1, b"flag") + wire(2, b"out") + wire(4, b"If") + wire(5, branch)) + wire(2, b"g")
    model = models.model([*models.HEAD, models.node("Relu", "flat", "y")], [models.stored("w", 3, 5)])
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString() + wire(7, serialised))

    if usable:
        (surface,) = DeployedModel.load(path).surfaces
        assert (surface.tensor, surface.role) == ("w", "weight")
    else:
        refused(path, "does not parse")


def wire(field, content):
    """A length-delimited field of a protocol buffer."""
    size, length = len(content), b""
    while size >= 0x80:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([field << 3 | 2]) + length + bytes([size]) + content
