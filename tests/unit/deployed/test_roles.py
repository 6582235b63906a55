"""The exact role of every stored tensor, for hand-made files and every mode of onnxruntime's quantizer."""

import math

import numpy as np
import onnx
import pytest

from resq_deploy.deployed.advice import warnings_for
from resq_deploy.deployed.model import DeployedModel

WIDTHS = {"float": 32, "float16": 16, "int32": 32, "int8": 8, "uint8": 8, "uint16": 16, "int4": 4, "uint4": 4}
CNN = {
    "w1": ("weight", "c1_node", "float", (4, 3, 3, 3)),
    "b1": ("bias", "c1_node", "float", (4,)),
    "w2": ("weight", "c2_node", "float", (4, 4, 3, 3)),
    "b2": ("bias", "c2_node", "float", (4,)),
    "w3": ("weight", "y_node", "float", (5, 4)),
    "b3": ("bias", "y_node", "float", (5,)),
}
ATTENTION = {
    "w_in": ("weight", "m_in_node", "float", (24, 16)),
    "b_in": ("bias", "a_in_node", "float", (16,)),
    "table": ("float", "placed_node", "float", (8, 16)),
    "gain": ("float", "norm_node", "float", (16,)),
    "shift": ("bias", "norm_node", "float", (16,)),
    "w_q": ("weight", "m_q_node", "float", (16, 16)),
    "b_q": ("bias", "q_node", "float", (16,)),
    "w_k": ("weight", "k_node", "float", (16, 16)),
    "factor": ("float", "scaled_node", "float", ()),
    "w_out": ("weight", "m_out_node", "float", (16, 5)),
    "b_out": ("bias", "y_node", "float", (5,)),
}
TABLES = {
    "cnn": CNN,
    "attention": ATTENTION,
    "typed_storage": {
        "w": ("weight", "y_node", "int8", (5, 3)),
        "w_s": ("weight-scale", "y_node", "float", ()),
        "w_z": ("weight-zero-point", "y_node", "int8", ()),
        "b": ("bias", "y_node", "int32", (5,)),
        "b_s": ("bias-scale", "y_node", "float", ()),
    },
    "shared": {
        "s": ("weight-scale", "first_node", "float", ()),
        "z": ("activation-zero-point", "flat_q_node", "uint8", ()),
        "w": ("weight", "first_node", "int8", (5, 3)),
        "extra": ("weight", "fourth_node", "float", (1, 3)),
        "gains": ("float", "y_node", "float", (5,)),
    },
    "constants": {
        "w": ("weight", "y_node", "int8", (5, 3)),
        "w_s": ("weight-scale", "y_node", "float", ()),
        "act_s": ("activation-scale", "flat_q_node", "float", ()),
        "bias": ("bias", "y_node", "float", (5,)),
        "act_z": ("activation-zero-point", "flat_q_node", "uint8", ()),
    },
    "passed_on": {
        "w": ("weight", "m_node", "float16", (15,)),
        "v": ("weight", "y_node", "float", (5, 5)),
        "g": ("weight", "y_node", "float", (5,)),
    },
    "four_bits": {
        "w": ("weight", "y_node", "int4", (5, 3)),
        "w_s": ("weight-scale", "y_node", "float", (5,)),
        "w_z": ("weight-zero-point", "y_node", "int4", (5,)),
    },
    "uint4": {
        "w": ("weight", "y_node", "uint4", (5, 3)),
        "w_s": ("weight-scale", "y_node", "float", (5,)),
        "w_z": ("weight-zero-point", "y_node", "uint4", (5,)),
    },
    "guarded": {
        f"{name}{copy}": (role, "y_node", dtype, shape)
        for name, role, dtype, shape in (
            ("w", "weight", "int8", (5, 3)),
            ("w_s", "weight-scale", "float", ()),
            ("b", "bias", "int32", (5,)),
            ("b_s", "bias-scale", "float", ()),
        )
        for copy in "123"
    },
    "subgraphs": {
        "w_outer": ("weight", "other_out_node", "float", (3, 5)),
        "limit": ("float", "flag_node", "float", ()),
        "w_else": ("weight", "else_out_node", "float", (3, 5)),
        "table": ("float", "then_out_node", "float", (5,)),
        "w_inner": ("weight", "inner_out_node", "float", (3, 5)),
    },
    "indices": {
        "table": ("weight", "y_node", "int8", (4, 5)),
        "t_s": ("weight-scale", "y_node", "float", ()),
        "low": ("float", "clipped_node", "float", ()),
        "high": ("float", "clipped_node", "float", ()),
    },
    "sparse": {"w": ("weight", "y_node", "float", (4,))},
    "functions": {"w": ("weight", "fm__1", "float", (3, 5)), "fb__1": ("bias", "y", "float", (5,))},
    "overridable": {"w": ("weight", "y_node", "float", (5, 3)), "b": ("bias", "y_node", "float", (5,))},
    "fixed_batch": {"w": ("weight", "y_node", "float", (5, 3))},
    "nhwc_uint8": {"white": ("float", "unit_node", "float", ()), "w": ("weight", "y_node", "float", (5, 3))},
    "integer_bias": {
        "w": ("weight", "product_node", "int8", (3, 5)),
        "w_z": ("weight-zero-point", "product_node", "int8", ()),
        "b": ("bias", "sum_node", "int32", (5,)),
        "s": ("weight-scale", "y_node", "float", ()),
    },
    "matmul_nbits": {
        "w_in_Q4": ("weight", "m_in_node_Q4", "uint8", (16, 2, 8)),
        "w_in_scales": ("weight-scale", "m_in_node_Q4", "float", (16, 2)),
        "w_in_zero_points": ("weight-zero-point", "m_in_node_Q4", "uint8", (16, 1)),
        "b_in": ("bias", "a_in_node", "float", (16,)),
        "table": ("float", "placed_node", "float", (8, 16)),
        "gain": ("float", "norm_node", "float", (16,)),
        "shift": ("bias", "norm_node", "float", (16,)),
        "w_q_Q4": ("weight", "m_q_node_Q4", "uint8", (16, 1, 8)),
        "w_q_scales": ("weight-scale", "m_q_node_Q4", "float", (16, 1)),
        "w_q_zero_points": ("weight-zero-point", "m_q_node_Q4", "uint8", (16, 1)),
        "b_q": ("bias", "q_node", "float", (16,)),
        "w_k_Q4": ("weight", "k_node_Q4", "uint8", (16, 1, 8)),
        "w_k_scales": ("weight-scale", "k_node_Q4", "float", (16, 1)),
        "w_k_zero_points": ("weight-zero-point", "k_node_Q4", "uint8", (16, 1)),
        "factor": ("float", "scaled_node", "float", ()),
        "w_out_Q4": ("weight", "m_out_node_Q4", "uint8", (5, 1, 8)),
        "w_out_scales": ("weight-scale", "m_out_node_Q4", "float", (5, 1)),
        "w_out_zero_points": ("weight-zero-point", "m_out_node_Q4", "uint8", (5, 1)),
        "b_out": ("bias", "y_node", "float", (5,)),
    },
}
MODES = [
    f"{kind}-{form}-{granularity}-{weights}"
    for kind in ("cnn", "attention")
    for form in ("qdq", "qoperator", "dynamic")
    for granularity in ("tensor", "channel")
    for weights in ("s8", "u8")
] + [
    "cnn-qdq-channel-s8-pre",
    "attention-qdq-channel-s8-pre",
    "attention-qoperator-tensor-s8-pre",
    "attention-dynamic-channel-u8-pre",
    "cnn-qdq-tensor-s8-a16",
    "attention-qdq-channel-s8-a16",
    "cnn-qdq-channel-s8-saved",
    "cnn-qdq-tensor-s8-savedall",
    "cnn-qoperator-channel-s8-savedall",
    "attention-qdq-tensor-u8-saved",
    "attention-qoperator-tensor-u8-saved",
    "attention-dynamic-tensor-s8-saved",
    "attention-dynamic-channel-u8-saved",
    "cnn-dynamic-tensor-u8-saved",
]


@pytest.mark.parametrize("name", TABLES)
def test_hand_made_files_read_as_their_table_says(name, model_file):
    surfaces = DeployedModel.load(model_file(name)).surfaces

    found = {surface.tensor: (str(surface.role), surface.layer, surface.dtype, surface.shape) for surface in surfaces}
    assert found == TABLES[name]
    for surface in surfaces:
        assert surface.bits == math.prod(surface.shape) * WIDTHS[surface.dtype]


def role_by_name(tensor, dtype):
    """What the quantizer's own names say: W_quantized, W_scale, W_zero_point, for biases B_quantized_scale.

    An oracle of its own, since the package never looks at names.
    """
    renamed = {"c1_bias_reshape_output": "b1", "c2_bias_reshape_output": "b2"}  # folded by onnxruntime
    owner = renamed.get(tensor, tensor.replace("_quantized", ""))
    part = next((part for part in ("_scale", "_zero_point") if owner.endswith(part)), "")
    owner = owner.removesuffix(part).removesuffix("_Transposed")
    floats = {**CNN, **ATTENTION}
    role = floats[owner][0] if owner in floats else "activation"
    if role == "float" and (part or dtype != "float"):
        role = "weight"  # quantized, a position table or a gain counts as weight
    return f"{role}{part}".replace("_", "-")


@pytest.mark.parametrize("mode", MODES)
def test_files_of_the_quantizer_read_as_its_names_say(mode, model_file):
    model = DeployedModel.load(model_file(mode))

    found = {surface.tensor: str(surface.role) for surface in model.surfaces}
    assert found == {surface.tensor: role_by_name(surface.tensor, surface.dtype) for surface in model.surfaces}
    assert "weight" in found.values()
    assert "bias" in found.values()


@pytest.mark.parametrize("name", [*TABLES, *MODES])
def test_no_parameter_is_left_out(name, model_file):
    """Every float or small-integer tensor stored and read is a surface, but for what steers shapes."""
    path = model_file(name)
    stored, read = {}, set()

    def collect(graph):
        for tensor in [*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)]:
            stored[tensor.name] = tensor.data_type
        for node in graph.node:
            read.update(node.input)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    collect(attribute.g)
                elif node.op_type == "Constant":
                    value = onnx.helper.get_attribute_value(attribute)
                    kinds = {"value_float": onnx.TensorProto.FLOAT, "value_floats": onnx.TensorProto.FLOAT}
                    stored[node.output[0]] = kinds.get(attribute.name) or getattr(value, "data_type", None)

    proto = onnx.load(path)
    collect(onnx.inliner.inline_local_functions(proto).graph if proto.functions else proto.graph)
    none = {None, onnx.TensorProto.INT64}
    steering = {"roi", "scales", "picked", "starts", "ends", "slice_axes", "rows"} if name == "indices" else set()
    expected = {tensor for tensor, dtype in stored.items() if dtype not in none and tensor in read} - steering
    assert {surface.tensor for surface in DeployedModel.load(path).surfaces} == expected


@pytest.mark.parametrize(
    ("name", "bits"), [("cnn", 32 * (108 + 4 + 144 + 4 + 20 + 5)), ("four_bits", 4 * 15 + 32 * 5 + 4 * 5)]
)
def test_total_bits(name, bits, model_file):
    assert sum(surface.bits for surface in DeployedModel.load(model_file(name)).surfaces) == bits


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("cnn", "no quantized weights"),
        ("cnn-qdq-channel-s8", "3 of 3 quantized weight tensors never use the code -128:"),
        ("cnn-qdq-channel-s8-shifted", "3 of 3 quantized weight tensors never use the code 0:"),
        ("shared", None),
    ],
)
def test_warnings(name, warning, model_file):
    lines = warnings_for(DeployedModel.load(model_file(name)))

    if warning is None:
        assert not any("scales" in line or "no quantized" in line for line in lines)
    else:
        assert any(warning in line for line in lines)


def test_scales_that_are_no_scales_are_named(model_file, models, tmp_path):
    proto = onnx.load(model_file("cnn-qdq-channel-s8"))
    for tensor in proto.graph.initializer:
        if tensor.name == "w1_scale":
            tensor.CopyFrom(models.constant("w1_scale", [float("nan"), 1, 1, 1]))
        if tensor.name == "x_scale":
            tensor.CopyFrom(models.constant("x_scale", 1e-20))
    lines = warnings_for(DeployedModel.load(models.save(proto, tmp_path / "m.onnx")))

    assert any("not positive and finite" in line and "w1_scale" in line for line in lines)
    assert any("below" in line and "x_scale" in line for line in lines)


def test_a_dequantized_int32_is_a_parameter_whoever_reads_it(models, tmp_path):
    nodes = [models.node("DequantizeLinear", "t t_s", "t_f"), models.node("Mul", "flat t_f", "y")]
    stored = [models.stored("t", 3, dtype=np.int32), models.constant("t_s", 0.1)]
    path = models.save(models.model([*models.HEAD, *nodes], stored), tmp_path / "m.onnx")

    roles = {surface.tensor: str(surface.role) for surface in DeployedModel.load(path).surfaces}
    assert roles == {"t": "weight", "t_s": "weight-scale"}


def test_only_the_first_factor_of_an_integer_product_is_its_scale(models, tmp_path):
    proto = models.integer_bias()
    proto.graph.node[-1].output[0] = "scaled"
    proto.graph.node.append(models.node("Mul", "scaled factor", "y"))
    proto.graph.initializer.append(models.constant("factor", 2.0))
    path = models.save(proto, tmp_path / "m.onnx")

    roles = {surface.tensor: str(surface.role) for surface in DeployedModel.load(path).surfaces}
    assert (roles["s"], roles["factor"]) == ("weight-scale", "float")
