"""The exact role of every stored tensor, for hand-made files and every mode of onnxruntime's quantizer."""

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from resq_deploy.deployed.advice import notes_for, warnings_for
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session

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
    "factor": ("constant", "scaled_node", "float", ()),
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
        "limit": ("constant", "flag_node", "float", ()),
        "w_else": ("weight", "else_out_node", "float", (3, 5)),
        "table": ("float", "then_out_node", "float", (5,)),
        "w_inner": ("weight", "inner_out_node", "float", (3, 5)),
    },
    "indices": {
        "scales": ("constant", "big_node", "float", (4,)),
        "table": ("weight", "y_node", "int8", (4, 5)),
        "t_s": ("weight-scale", "y_node", "float", ()),
        "low": ("constant", "clipped_node", "float", ()),
        "high": ("constant", "clipped_node", "float", ()),
    },
    "sparse": {"w": ("weight", "y_node", "float", (4,))},
    "functions": {"w": ("weight", "fm__1", "float", (3, 5)), "fb__1": ("bias", "y", "float", (5,))},
    "overridable": {"w": ("weight", "y_node", "float", (5, 3)), "b": ("bias", "y_node", "float", (5,))},
    "fixed_batch": {"w": ("weight", "y_node", "float", (5, 3))},
    "nhwc_uint8": {"white": ("constant", "unit_node", "float", ()), "w": ("weight", "y_node", "float", (5, 3))},
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
        "factor": ("constant", "scaled_node", "float", ()),
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
    if owner.rpartition(".")[2] in ("alpha", "beta", "epsilon"):
        return "constant"  # a number in an attribute
    role = floats[owner][0] if owner in floats else "activation"
    if role == "constant" and part:
        role = "weight"  # the scale and the zero point of a stored value, be it a single one
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
    """Every tensor stored and read is a surface, but for int64 and what else steers shapes; so is every float."""
    path = model_file(name)
    stored, read, numbers = {}, set(), set()

    def collect(graph):
        for tensor in [*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)]:
            stored[tensor.name] = tensor.data_type
        for node in graph.node:
            read.update(node.input)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    collect(attribute.g)
                elif attribute.type in (onnx.AttributeProto.FLOAT, onnx.AttributeProto.FLOATS) and (
                    node.op_type != "Constant"
                ):
                    numbers.add(f"{node.name}.{attribute.name}")
                elif node.op_type == "Constant":
                    value = onnx.helper.get_attribute_value(attribute)
                    kinds = {"value_float": onnx.TensorProto.FLOAT, "value_floats": onnx.TensorProto.FLOAT}
                    stored[node.output[0]] = kinds.get(attribute.name) or getattr(value, "data_type", None)

    proto = onnx.load(path)
    collect(onnx.inliner.inline_local_functions(proto).graph if proto.functions else proto.graph)
    none = {None, onnx.TensorProto.INT64}
    steering = {"roi", "picked", "starts", "ends", "slice_axes", "rows"} if name == "indices" else set()
    expected = {tensor for tensor, dtype in stored.items() if dtype not in none and tensor in read} - steering
    assert {surface.tensor for surface in DeployedModel.load(path).surfaces} == expected | numbers


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
    model = DeployedModel.load(model_file(name))
    lines = [*warnings_for(model), *notes_for(model)]

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
    assert (roles["s"], roles["factor"]) == ("weight-scale", "constant")


# Roles that follow from what stands around a stored value.

INT8, FLOAT = np.int8, TensorProto.FLOAT


def gathered(models):
    """An embedding of int8 codes, dequantized behind the choice of rows."""
    return [
        models.node("ArgMax", "flat", "row", axis=1, keepdims=0),
        models.node("Gather", "table row", "codes"),
        models.node("DequantizeLinear", "codes t_s t_z", "chosen"),
        models.node("MatMul", "chosen w", "y"),
    ], [
        models.stored("table", 3, 4, dtype=INT8),
        models.constant("t_s", 0.02),
        models.constant("t_z", 1, INT8),
        models.stored("w", 4, models.CLASSES),
    ]


def gathered_by_hand(models):
    """The same with Cast, Sub and Mul in the place of DequantizeLinear."""
    nodes, stored = gathered(models)
    nodes[2:3] = [
        models.node("Cast", "codes", "as_floats", to=FLOAT),
        models.node("Sub", "as_floats t_z", "centred"),
        models.node("Mul", "t_s centred", "chosen"),
    ]
    stored[2] = models.constant("t_z", 1.0)
    return nodes, stored


def weight_by_hand(models):
    """Weights and biases kept as integers and scaled by standard nodes, the zero point an integer, too."""
    return [
        models.node("Cast", "w", "w_c", to=FLOAT),
        models.node("Cast", "w_z", "z_c", to=FLOAT),
        models.node("Sub", "w_c z_c", "w_0"),
        models.node("Mul", "w_0 w_s", "w_f"),
        models.node("Cast", "b", "b_c", to=FLOAT),
        models.node("Div", "b_c b_s", "b_f"),
        models.node("Gemm", "flat w_f b_f", "y"),
    ], [
        models.stored("w", 3, models.CLASSES, dtype=INT8),
        models.stored("w_z", models.CLASSES, dtype=INT8),
        models.stored("w_s", models.CLASSES),
        models.stored("b", models.CLASSES, dtype=np.int16),
        models.constant("b_s", 50.0),
    ]


def dynamic_bias(models):
    """A bias that is divided by the scales of the sum, rounded, and added to the integers."""
    return [
        models.node("DynamicQuantizeLinear", "flat", "q q_s q_z"),
        models.node("MatMulInteger", "q w q_z", "sums"),
        models.node("Mul", "q_s w_s", "s"),
        models.node("Div", "b s", "divided"),
        models.node("Floor", "divided", "floored"),
        models.node("Cast", "floored", "whole", to=TensorProto.INT32),
        models.node("Reshape", "whole as", "shaped"),
        models.node("Add", "sums shaped", "added"),
        models.node("Cast", "added", "added_f", to=FLOAT),
        models.node("Mul", "added_f s", "y"),
    ], [
        models.stored("w", 3, models.CLASSES, dtype=INT8),
        models.constant("w_s", 0.01),
        models.stored("b", models.CLASSES),
        models.constant("as", [1, models.CLASSES], np.int64),
    ]


def divided_for_another_end(models):
    """A quotient that is read twice is no bias on its way."""
    nodes, stored = dynamic_bias(models)
    nodes[-1] = models.node("Mul", "added_f s", "scaled")
    return [*nodes, models.node("Add", "scaled divided", "y")], stored


def quantized_behind_a_table(models):
    """What is picked from a table, codes or floats, and then quantized is an activation."""
    return [
        models.node("ArgMax", "flat", "row", axis=1, keepdims=0),
        models.node("Gather", "codes row", "some"),
        models.node("DequantizeLinear", "some c_s", "some_f"),
        models.node("QuantizeLinear", "some_f q_s q_z", "again"),
        models.node("DequantizeLinear", "again q_s q_z", "first"),
        models.node("Gather", "floats row", "others"),
        models.node("QuantizeLinear", "others o_s o_z", "others_q"),
        models.node("DequantizeLinear", "others_q o_s o_z", "second"),
        models.node("Mul", "first second", "both"),
        models.node("DequantizeLinear", "w w_s", "w_f"),
        models.node("Mul", "w_f smooth", "w_m"),
        models.node("MatMul", "both w_m", "y"),
    ], [
        models.stored("codes", 3, 4, dtype=INT8),
        models.stored("floats", 3, 4),
        *(models.constant(name, 0.02) for name in ("c_s", "q_s", "o_s", "w_s")),
        *(models.constant(name, 1, np.uint8) for name in ("q_z", "o_z")),
        models.stored("w", 4, models.CLASSES, dtype=INT8),
        models.stored("smooth", 4, 1),
    ]


def rounded_weights(models):
    """Float weights and biases that the file rounds to 8 bits when it is loaded."""
    return [
        models.node("QuantizeLinear", "w w_s w_z", "w_q", axis=1),
        models.node("DequantizeLinear", "w_q w_s w_z", "w_d", axis=1),
        models.node("Gemm", "flat w_d b", "y"),
    ], [
        models.stored("w", 3, models.CLASSES),
        models.constant("w_s", [0.02] * models.CLASSES),
        models.constant("w_z", [0] * models.CLASSES, INT8),
        models.stored("b", models.CLASSES),
    ]


def anchors(models):
    """What stands behind the last product, of two axes: anchors; of one: gains."""
    return [
        models.node("MatMul", "flat w", "m"),
        models.node("Reshape", "m as", "boxes"),
        models.node("DequantizeLinear", "sizes a_s", "sizes_f"),
        models.node("Mul", "boxes sizes_f", "scaled"),
        models.node("Add", "scaled centres", "moved"),
        models.node("Mul", "moved gains", "scores"),
        models.node("PRelu", "scores slopes", "bent"),
        models.node("Transpose", "bent", "turned", perm=[0, 2, 1]),
        models.node("MatMul", "bent turned", "y"),
    ], [
        models.stored("w", 3, 8),
        models.constant("as", [-1, 4, 2], np.int64),
        models.stored("sizes", 4, 2, dtype=INT8),
        models.constant("a_s", 0.1),
        models.stored("centres", 4, 2),
        models.stored("gains", 1, 2),
        models.stored("slopes", 4, 2),
    ]


def table_before_a_layer(models):
    """The same shapes in front of a product with stored weights: a table of positions, no anchors."""
    return [
        models.node("Reshape", "flat as", "tokens"),
        models.node("Add", "tokens table", "placed"),
        models.node("MatMul", "placed w", "m"),
        models.node("ReduceMax", "m axes", "y", keepdims=0),
    ], [
        models.constant("as", [-1, 3, 1], np.int64),
        models.stored("table", 3, 4),
        models.stored("w", 4, models.CLASSES),
        models.constant("axes", [1], np.int64),
    ]


def masked(models, values=(0.0, -1e4)):
    """A mask on the scores of attention, which are products of what varies: no bias, and no weight."""
    rows = np.resize(values, (3, 3)).astype(np.float32)
    return [
        models.node("Reshape", "flat as", "tokens"),
        models.node("MatMul", "tokens w_q", "q"),
        models.node("Transpose", "q", "k", perm=[0, 2, 1]),
        models.node("MatMul", "q k", "scores"),
        models.node("Add", "scores mask", "masked"),
        models.node("Softmax", "masked", "share"),
        models.node("MatMul", "share q", "mixed"),
        models.node("ReduceMax", "mixed axes", "pooled", keepdims=0),
        models.node("MatMul", "pooled w", "y"),
    ], [
        models.constant("as", [-1, 3, 1], np.int64),
        models.stored("w_q", 1, 4),
        models.constant("mask", rows),
        models.constant("axes", [1], np.int64),
        models.stored("w", 4, models.CLASSES),
    ]


def biased_scores(models):
    """The same with a table of learnt values in the place of the mask."""
    return masked(models, (0.1, 0.2, 0.3))


def bounds(models):
    """Limits of stored codes and of activations, a filling, a threshold; a single factor on a weight."""
    return [
        models.node("Clip", "w low high", "w_c"),
        models.node("DequantizeLinear", "w_c w_s", "w_f"),
        models.node("Mul", "w_f half", "w_h"),
        models.node("Clip", "flat below above", "limited"),
        models.node("Pad", "limited by filling", "padded"),
        models.node("Greater", "padded thresholds", "active"),
        models.node("Cast", "active", "active_f", to=FLOAT),
        models.node("Mul", "padded active_f", "kept"),
        models.node("MatMul", "kept w_h", "y"),
    ], [
        models.stored("w", 4, models.CLASSES, dtype=INT8),
        *(models.constant(name, value, INT8) for name, value in (("low", -100), ("high", 100))),
        models.constant("w_s", 0.02),
        models.constant("half", 0.5),
        *(models.constant(name, value) for name, value in (("below", 0.0), ("above", 1.0), ("filling", 0.5))),
        models.constant("by", [0, 0, 0, 1], np.int64),
        models.stored("thresholds", 4),
    ]


def combined_codes(models):
    """Two tables of codes multiplied, one moved by a float, one that divides: weights, and no scale among them."""
    casts = [models.node("Cast", name, f"{name}_c", to=FLOAT) for name in "abcd"]
    return [
        *casts,
        models.node("Mul", "a_c b_c", "ab"),
        models.node("Add", "c_c offset", "moved"),
        models.node("Div", "dividend d_c", "quotient"),
        models.node("Mul", "ab moved", "abc"),
        models.node("Mul", "abc quotient", "all"),
        models.node("MatMul", "flat all", "y"),
    ], [
        *(models.constant(name, np.full((3, models.CLASSES), 3), INT8) for name in "abcd"),
        models.stored("offset", 3, models.CLASSES),
        models.stored("dividend", 3, models.CLASSES),
    ]


def scales_of_outputs(models):
    """The scale and the zero point of what a layer gives, which nothing else reads."""
    return [
        models.node("QuantizeLinear", "flat s z", "q"),
        models.node("QLinearMatMul", "q s z w w_s w_z y_s y_z", "p"),
        models.node("DequantizeLinear", "p o_s o_z", "y"),
    ], [
        models.stored("w", 3, models.CLASSES, dtype=INT8),
        *(models.constant(name, 0.02) for name in ("s", "w_s", "y_s", "o_s")),
        *(models.constant(name, 3, np.uint8) for name in ("z", "y_z", "o_z")),
        models.constant("w_z", 0, INT8),
    ]


def beside_integer_sums(models):
    """What is divided by, cut off, or reaches the sum by another way than rounding is no bias and no scale."""
    return [
        models.node("DynamicQuantizeLinear", "flat", "q q_s q_z"),
        models.node("MatMulInteger", "q w q_z", "sums"),
        models.node("Mul", "inverse b", "times"),
        models.node("Reciprocal", "q_s", "inverse"),
        models.node("Round", "times", "rounded"),
        models.node("Cast", "rounded", "whole", to=TensorProto.INT32),
        models.node("Add", "sums whole", "first"),
        models.node("Div", "inverse divisor", "quotient"),
        models.node("Floor", "quotient", "floored"),
        models.node("Cast", "floored", "floored_i", to=TensorProto.INT32),
        models.node("Add", "first floored_i", "second"),
        models.node("Div", "relued q_s", "bent_0"),
        models.node("Relu", "bent_0", "bent"),
        models.node("Cast", "bent", "bent_i", to=TensorProto.INT32),
        models.node("Add", "second bent_i", "third"),
        models.node("Cast", "third", "third_f", to=FLOAT),
        models.node("Max", "third_f least", "y"),
    ], [
        models.stored("w", 3, models.CLASSES, dtype=INT8),
        *(models.stored(name, models.CLASSES) for name in ("b", "divisor", "relued", "least")),
    ]


def computed_index(models):
    """Integers that an index is computed from, together with what the image says, are values."""
    return [
        models.node("ArgMax", "flat", "most", axis=1, keepdims=0),
        models.node("Mul", "most stride", "row"),
        models.node("Gather", "table row", "picked"),
        models.node("MatMul", "picked w", "y"),
        models.node("Add", "spare spare", "unread"),
    ], [
        models.constant("stride", 2, np.int64),
        models.constant("spare", 2, np.int64),
        models.stored("table", 5, 4),
        models.stored("w", 4, models.CLASSES),
    ]


def switches(models):
    """A stored switch, handed on; and a stored number that one is computed from, which is a value."""

    def choice(name, condition, value):
        out = [onnx.helper.make_tensor_value_info(f"{name}_out", FLOAT, None)]
        branches = [
            onnx.helper.make_graph([models.node(op, value, f"{name}_out")], f"{name}_{op}", [], out)
            for op in ("Neg", "Abs")
        ]
        return onnx.helper.make_node(
            "If", [condition], [name], f"{name}_node", then_branch=branches[0], else_branch=branches[1]
        )

    return [
        models.node("MatMul", "flat w", "m"),
        models.node("Identity", "flag", "handed"),
        choice("first", "handed", "m"),
        models.node("Size", "x", "size"),
        models.node("Greater", "size number", "large"),
        choice("y", "large", "first"),
    ], [
        models.stored("w", 3, models.CLASSES),
        models.constant("flag", True, bool),
        models.constant("number", 100, np.int64),
    ]


def shapes_and_tables_from_branches(models):
    """Integers that the branches of an If return: a shape, and a table to compute with."""

    def branch(name, row):
        values = {f"{name}_to": np.array([-1, models.CLASSES]), f"{name}_table": np.arange(models.CLASSES) + row}
        outs = [onnx.helper.make_tensor_value_info(key, TensorProto.INT64, None) for key in values]
        stored = [models.constant(key, value, np.int64) for key, value in values.items()]
        return onnx.helper.make_graph([], name, [], outs, stored)

    return [
        models.node("ReduceMax", "flat", "peak", keepdims=0),
        models.node("Greater", "peak limit", "flag"),
        onnx.helper.make_node(
            "If", ["flag"], ["to", "table"], "choice", then_branch=branch("a", 1), else_branch=branch("b", 2)
        ),
        models.node("MatMul", "flat w", "m"),
        models.node("Reshape", "m to", "shaped"),
        models.node("Cast", "table", "t", to=FLOAT),
        models.node("Mul", "shaped t", "y"),
    ], [models.constant("limit", 0.5), models.stored("w", 3, models.CLASSES)]


AROUND = {
    combined_codes: dict.fromkeys(("a", "b", "c", "d", "offset", "dividend"), "weight"),
    scales_of_outputs: {
        "w": "weight",
        "w_s": "weight-scale",
        "w_z": "weight-zero-point",
        **dict.fromkeys(("s", "y_s", "o_s"), "activation-scale"),
        **dict.fromkeys(("z", "y_z", "o_z"), "activation-zero-point"),
    },
    beside_integer_sums: {
        "w": "weight",
        "b": "bias",
        **dict.fromkeys(("divisor", "relued", "least"), "float"),
    },
    computed_index: {"stride": "constant", "spare": "constant", "table": "float", "w": "weight"},
    switches: {"w": "weight", "number": "constant"},
    shapes_and_tables_from_branches: {
        "limit": "constant",
        "w": "weight",
        "a_table": "constant",
        "b_table": "constant",
    },
    gathered: {"table": "weight", "t_s": "weight-scale", "t_z": "weight-zero-point", "w": "weight"},
    gathered_by_hand: {"table": "weight", "t_s": "weight-scale", "t_z": "weight-zero-point", "w": "weight"},
    weight_by_hand: {
        "w": "weight",
        "w_z": "weight-zero-point",
        "w_s": "weight-scale",
        "b": "bias",
        "b_s": "bias-scale",
    },
    dynamic_bias: {"w": "weight", "w_s": "weight-scale", "b": "bias"},
    divided_for_another_end: {"w": "weight", "w_s": "weight-scale", "b": "float"},
    quantized_behind_a_table: {
        "codes": "weight",
        "floats": "float",
        "c_s": "weight-scale",
        **dict.fromkeys(("q_s", "o_s"), "activation-scale"),
        **dict.fromkeys(("q_z", "o_z"), "activation-zero-point"),
        "w": "weight",
        "w_s": "weight-scale",
        "smooth": "weight",
    },
    rounded_weights: {"w": "weight", "w_s": "weight-scale", "w_z": "weight-zero-point", "b": "bias"},
    anchors: {
        "w": "weight",
        "sizes": "constant",
        "a_s": "weight-scale",
        "centres": "constant",
        "gains": "float",
        "slopes": "float",
    },
    table_before_a_layer: {"table": "float", "w": "weight"},
    masked: {"w_q": "weight", "mask": "constant", "w": "weight"},
    biased_scores: {"w_q": "weight", "mask": "float", "w": "weight"},
    bounds: {
        "w": "weight",
        "w_s": "weight-scale",
        "thresholds": "constant",
        **dict.fromkeys(("low", "high", "half", "below", "above", "filling"), "constant"),
    },
}


@pytest.mark.parametrize("build", AROUND, ids=lambda build: build.__name__)
def test_roles_by_what_stands_around_a_stored_value(build, models, tmp_path):
    nodes, stored = build(models)
    path = models.save(models.model([*models.HEAD, *nodes], stored), tmp_path / "m.onnx")
    model = DeployedModel.load(path)

    Session(model.patcher().golden, Deployment()).run(models.images(2))
    assert {surface.tensor: str(surface.role) for surface in model.surfaces} == AROUND[build]
    assert {left.reason for left in model.left_out} <= {"shape", "axis", "switch"}
    steering = {"flag": "switch", "a_to": "shape", "b_to": "shape", "as": "shape", "axes": "axis", "by": "shape"}
    assert all(left.reason == steering[left.tensor] for left in model.left_out)
    names = [tensor.name for tensor in stored]
    assert set(names) <= {surface.tensor for surface in model.surfaces} | {left.tensor for left in model.left_out}
