"""The plain file baked of a protected one: its values, its answers, nothing of the protection, old versions."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.codes.known import known_code
from resq_deploy.deployed.coded import DOMAIN, HEALTH
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.graph import read_model
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import Role, find_surfaces
from resq_deploy.errors import ModelError
from resq_deploy.protection.bake import bake
from resq_deploy.protection.guards import guard, obstacles
from resq_deploy.protection.protect import protect

CODES = {"secded": ("secded", 7), "dected": ("dected", 7), "dected-6": ("dected", 6)}
KINDS = [
    "cnn-qdq-channel-s8",
    "cnn-qoperator-channel-s8",
    "attention-qoperator-tensor-s8-pre",
    "attention-qdq-channel-s8",
    "cnn-qdq-tensor-u8",
    "cnn-qoperator-tensor-u8",
]


@pytest.fixture(params=CODES)
def code(request):
    return known_code(*CODES[request.param])


def plain_and_protected(path, code):
    """A quantised file with narrower weights, and it with codes on these and votes on all else that can have them."""
    plain, _ = read_model(path)
    surfaces = find_surfaces(plain)
    names = [s.tensor for s in surfaces if s.role is Role.WEIGHT and s.dtype in ("int8", "uint8")]
    for tensor in plain.graph.initializer:
        if tensor.name in names:
            values = numpy_helper.to_array(tensor) >> (8 - code.weight_bits)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    others = [s.tensor for s in surfaces if s.tensor not in names]
    others = [name for name in others if name not in obstacles(plain, others)]
    guarded = onnx.ModelProto.FromString(guard(plain.SerializeToString(), others))
    return plain, protect(guarded, names, code, health=True)


def stored(model):
    return {
        tensor.name: (tensor.data_type, list(tensor.dims), numpy_helper.to_array(tensor).tobytes())
        for tensor in model.graph.initializer
    }


def logits(model, images, level):
    return Session(model.SerializeToString(), Deployment(batch=4, optimization=level)).run(images).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_file_is_back(kind, code, model_file, models):
    plain, protected = plain_and_protected(model_file(kind), code)
    baked = bake(protected)
    onnx.checker.check_model(baked)
    assert stored(baked) == stored(plain)
    assert [node.SerializeToString() for node in baked.graph.node] == [
        node.SerializeToString() for node in plain.graph.node
    ]
    assert not baked.functions
    assert DOMAIN not in {entry.domain for entry in baked.opset_import}
    assert baked.ir_version <= plain.ir_version
    images = models.images(5)
    for level in ("all", "none"):
        assert logits(baked, images, level) == logits(protected, images, level) == logits(plain, images, level)


def test_uint8_weights_under_votes(model_file, models):
    plain, _ = read_model(model_file("cnn-qdq-tensor-u8"))
    names = [s.tensor for s in find_surfaces(plain)]
    names = [name for name in names if name not in obstacles(plain, names)]
    guarded = onnx.ModelProto.FromString(guard(plain.SerializeToString(), names))
    baked = bake(guarded)
    assert stored(baked) == stored(plain)
    images = models.images(5)
    assert logits(baked, images, "none") == logits(guarded, images, "none")


def test_flips_are_corrected_before_they_are_baked(model_file):
    plain, protected = plain_and_protected(model_file(KINDS[0]), known_code("secded"))
    decoders = {node.input[0] for node in protected.graph.node if node.domain == DOMAIN}
    copies = {node.input[2] for node in protected.graph.node if node.op_type == "Where"}
    for tensor in protected.graph.initializer:
        if tensor.name in decoders | copies:
            raw = bytearray(tensor.raw_data)
            raw[0] ^= 0b1000101
            tensor.raw_data = bytes(raw)
    assert stored(bake(protected)) == stored(plain)


def test_what_cannot_be_corrected_is_baked_as_a_device_computes_with_it(model_file, models):
    plain, protected = plain_and_protected(model_file(KINDS[0]), known_code("secded"))
    tensor = next(t for t in protected.graph.initializer if t.name == _coded(protected))
    raw = bytearray(tensor.raw_data)
    raw[0] ^= 64
    raw[8] ^= 64
    tensor.raw_data = bytes(raw)
    baked, images = bake(protected), models.images(5)
    assert stored(baked) != stored(plain)
    assert logits(baked, images, "all") == logits(protected, images, "all") != logits(plain, images, "all")


def _coded(model):
    return next(node.input[0] for node in model.graph.node if node.domain == DOMAIN)


def gemm(opset, ir, operator="Relu"):
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["w", "scale"], ["weights"]),
            helper.make_node("MatMul", ["x", "weights"], ["product"]),
            helper.make_node(operator, ["product"], ["y"]),
        ],
        "gemm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 50])],
        [
            numpy_helper.from_array(np.arange(150, dtype=np.int8).reshape(3, 50) % 64, "w"),
            numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
            numpy_helper.from_array(np.array(1, np.float32), "unread"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


@pytest.mark.parametrize(
    ("opset", "operator", "least", "ir"),
    [(13, "Relu", 13, 7), (18, "Relu", 14, 7), (18, "Mish", 18, 8), (21, "Relu", 21, 10)],
)
def test_versions_are_the_lowest_in_which_operators_are_what_they_were(opset, operator, least, ir):
    protected = protect(gemm(opset, 10 if opset == 21 else 8, operator), ["w"], known_code("secded"))
    baked = bake(protected)
    assert {entry.domain: entry.version for entry in baked.opset_import} == {"": least}
    assert baked.ir_version == ir


def test_a_report_of_health_is_dropped_and_tensors_of_others_stay():
    protected = protect(gemm(13, 8), ["w"], known_code("secded"))
    protected.graph.node.append(helper.make_node("Identity", ["two"], [HEALTH]))
    protected.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.int64), "two"))
    protected.graph.output.append(helper.make_tensor_value_info(HEALTH, TensorProto.INT64, [2]))
    protected.metadata_props.add(key="author", value="somebody")
    baked = bake(protected)
    assert [value.name for value in baked.graph.output] == ["y"]
    assert {tensor.name for tensor in baked.graph.initializer} == {"w", "scale", "unread"}
    assert [(entry.key, entry.value) for entry in baked.metadata_props] == [("author", "somebody")]


def test_a_damaged_decoder_is_not_baked():
    protected = protect(gemm(13, 8), ["w"], known_code("secded"))
    protected.functions[0].node[-1].op_type = "Identity"
    del protected.functions[0].node[-1].input[1:]
    with pytest.raises(ModelError, match="decode"):
        bake(protected)
