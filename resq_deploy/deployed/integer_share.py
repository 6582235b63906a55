"""How much of a network's arithmetic is integer, counted on the graph onnxruntime really runs.

A file that stores int8 weights may still compute in float: where onnxruntime cannot fuse a layer with the quantization
around it, it dequantizes the weights and multiplies floats. What counts are the multiply-accumulates of the layers as
they stand in the optimised graph, for one image.
"""

import dataclasses
import math
from collections import Counter
from typing import Any

import numpy as np
import onnx

from resq_deploy.deployed.deployment import Deployment, as_is, create
from resq_deploy.deployed.inputs import Arrays, Given
from resq_deploy.deployed.runtime_graph import RuntimeGraph, optimise
from resq_deploy.deployed.session import Session

_CONVOLUTIONS = {
    "Conv": (0, 1),
    "ConvInteger": (0, 1),
    "DeformConv": (0, 1),
    "FusedConv": (0, 1),
    "NhwcConv": (0, 1),
    "NhwcFusedConv": (0, 1),
    "QLinearConv": (0, 3),
}
_MATRIX_PRODUCTS = {
    "DynamicQuantizeMatMul": (0, 1),
    "FusedGemm": (0, 1),
    "FusedMatMul": (0, 1),
    "FusedMatMulActivation": (0, 1),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "MatMulBnb4": (0, 1),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1),
    "MatMulNBits": (0, 1),
    "QGemm": (0, 3),
    "QLinearMatMul": (0, 3),
}
_OTHER_PRODUCTS = {"Attention": (0, 1), "ConvTranspose": (0, 1), "MultiHeadAttention": (0, 1), "QAttention": (0, 1)}
PRODUCTS = {**_CONVOLUTIONS, **_MATRIX_PRODUCTS, **_OTHER_PRODUCTS}
"""The operators whose multiply-accumulates are counted, with the input slots of their two operands."""

NOT_COUNTED = frozenset(
    {"DynamicQuantizeLSTM", "Einsum", "GRU", "GroupQueryAttention", "If", "LSTM", "Loop", "MoE", "QMoE", "RNN", "Scan"}
)
"""Operators that may multiply and accumulate, and are only named."""

_EIGHT_BITS = (np.dtype(np.int8), np.dtype(np.uint8))


@dataclasses.dataclass(frozen=True)
class _Value:
    """Shape and element type of an operand or a result."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntegerShare:
    """Multiply-accumulates of one image.

    Attributes:
        macs: all of them.
        integer: those of 8-bit integers.
        by_operator: operator of the optimised graph -> nodes, macs, integer; the largest first.
        not_counted: operators of the graph whose products are not counted, `NOT_COUNTED`.
    """

    macs: int
    integer: int
    by_operator: dict[str, dict[str, int]]
    not_counted: tuple[str, ...]

    @property
    def share(self) -> float:
        """The share that is integer; 0 for a graph without products."""
        return self.integer / self.macs if self.macs else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the counts and the share as JSON values."""
        return {**dataclasses.asdict(self), "not_counted": list(self.not_counted), "share": self.share}


def integer_share(model: bytes, deployment: Deployment, samples: Given) -> IntegerShare:
    """Count the multiply-accumulates of one image, and how many of them are of integers.

    Args:
        model: the serialised file.
        deployment: how it is run; the optimisation level decides which layers become integer.
        samples: as `Session.run` takes them; the first is run once to learn the shapes.

    Raises:
        ModelError: if onnxruntime refuses the model.
    """
    if deployment.optimization == "all":
        deployment = dataclasses.replace(deployment, optimization="extended")
    session = Session(model, deployment)
    optimised = optimise(model, deployment)
    made = {value for node in optimised.graph.node for value in node.output}
    graph = RuntimeGraph(optimised, [output.name for output in session.outputs if output.name in made])
    batch = next(session.batches(samples[:1]))
    values, steps = _observe(graph, batch.first, deployment), max(1, len(batch.steps))
    counts: dict[str, Counter[str]] = {}
    for node in graph.nodes:
        if node.op_type not in PRODUCTS or any(value not in values for value in _operands(node)):
            continue
        macs, integer = _macs(node, values)
        found = counts.setdefault(node.op_type, Counter())
        found.update(nodes=1, macs=steps * macs // batch.rows, integer=steps * integer // batch.rows)
    ordered = sorted(counts, key=lambda name: (-counts[name]["macs"], name))
    return IntegerShare(
        macs=sum(found["macs"] for found in counts.values()),
        integer=sum(found["integer"] for found in counts.values()),
        by_operator={name: dict(counts[name]) for name in ordered},
        not_counted=tuple(sorted({node.op_type for node in graph.nodes} & NOT_COUNTED)),
    )


def _operands(node: onnx.NodeProto) -> tuple[str, str, str]:
    """Return the names of the two operands and the result of a product."""
    first, second = PRODUCTS[node.op_type]
    return node.input[first], node.input[second] if second < len(node.input) else "", node.output[0]


def _observe(graph: RuntimeGraph, feeds: Arrays, deployment: Deployment) -> dict[str, _Value]:
    """Return shape and type of every operand and result of a product, by running the graph on a batch."""
    wanted = {value for node in graph.nodes if node.op_type in PRODUCTS for value in _operands(node)}
    found = {
        name: _Value(tuple(tensor.dims), onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        for name, tensor in graph.parameters.items()
        if name in wanted
    }
    found |= {name: _Value(value.shape, value.dtype) for name, value in feeds.items()}
    made = sorted(wanted & graph.makers.keys())
    if made:
        model, inputs = graph.part(graph.ancestors([graph.makers[value] for value in made]), made)
        outputs = create(model, as_is(deployment)).run(made, {name: feeds[name] for name in inputs})
        found.update({name: _Value(value.shape, value.dtype) for name, value in zip(made, outputs, strict=True)})
    return found


def _macs(node: onnx.NodeProto, values: dict[str, _Value]) -> tuple[int, int]:
    """Return the multiply-accumulates of a node, and those of integers among them."""
    left, right, result = (values[value] for value in _operands(node))
    if node.op_type in _CONVOLUTIONS:  # each value of the result is the sum over one filter
        macs = result.size * (right.size // right.shape[0])
    elif node.op_type == "ConvTranspose":  # each value of the input is spread by one filter
        macs = left.size * (right.size // right.shape[0])
    elif node.op_type in _MATRIX_PRODUCTS:
        macs = result.size * left.shape[_summed_axis(node, left)]
    else:
        return _attention(node, left, right)
    integer = node.op_type == "DynamicQuantizeMatMul" or (left.dtype in _EIGHT_BITS and right.dtype in _EIGHT_BITS)
    return macs, macs if integer else 0


def _summed_axis(node: onnx.NodeProto, left: _Value) -> int:
    """Return the axis of the left operand that a matrix product sums over."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if not attributes.get("transA"):
        return -1
    return 0 if attributes.get("transBatchA") else len(left.shape) - 2


def _attention(node: onnx.NodeProto, left: _Value, right: _Value) -> tuple[int, int]:
    """Return the multiply-accumulates of attention: projection, scores, and mixing; only the first can be integer.

    `Attention` and `QAttention` of com.microsoft read tokens [N, S, D] and weights [D, 3 H]; `MultiHeadAttention`, and
    `Attention` of ONNX, read queries and keys, [N, S, H] or [N, heads, S, head size], with nothing to project.
    """
    if node.op_type == "MultiHeadAttention" or node.domain in ("", "ai.onnx"):
        return 2 * left.size * right.shape[-2], 0
    batch, tokens, _ = left.shape
    hidden = right.shape[1] // 3
    projection = left.size * right.shape[1]
    return projection + 2 * batch * tokens * tokens * hidden, projection if right.dtype in _EIGHT_BITS else 0
