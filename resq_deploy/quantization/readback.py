"""Reading a written int8 file back: are the weights and biases in it those that were meant?

onnxruntime's quantizer makes a weight's step larger, silently, where the int32 bias would overflow. What counts is what
the file says.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization.quant_utils import TENSOR_NAME_QUANT_SUFFIX

from resq_deploy.deployed.operators import slots
from resq_deploy.errors import ModelError
from resq_deploy.grid import as_uint8, quantize
from resq_deploy.quantization.scheme import Scheme
from resq_deploy.quantization.weights import Clips, WeightTensor

_INT32 = np.iinfo(np.int32)
_HALF = 0.5001
"""Largest rounding error of a bias in steps, and a little for the arithmetic of the check."""


class _File:
    """The written graph: who makes a value, and what is stored."""

    def __init__(self, int8: bytes) -> None:
        graph = onnx.ModelProto.FromString(int8).graph
        self.nodes = list(graph.node)
        self._makers = {output: node for node in graph.node for output in node.output}
        self._stored = {tensor.name: tensor for tensor in graph.initializer}

    def array(self, name: str) -> NDArray[Any] | None:
        """Return a stored tensor, None for a name that none has."""
        return numpy_helper.to_array(self._stored[name]) if name in self._stored else None

    def quantized(self, node: onnx.NodeProto, slot: int) -> tuple[str, str, str] | None:
        """Return the names of what a node reads as (codes, scale, zero point) in an input; None where it reads floats.

        `slot` counts the inputs of the float operator: 0 the input, 1 the weight, 2 the bias. The bias of an integer
        operator has no scale of its own: it is the input's times the weight's. A name is empty where there is nothing.
        """
        meaning = slots(node.op_type, len(node.input))
        if meaning is not None and meaning.quantized and node.op_type != "DequantizeLinear":
            if slot == 2:
                place = meaning.biases[0] if meaning.biases else len(node.input)
                return (node.input[place], "", "") if place < len(node.input) and node.input[place] else None
            codes, scale, zero_point = meaning.quantized[slot] if slot < len(meaning.quantized) else (0, None, None)
            return _names(node, codes, scale, zero_point) if scale is not None else None
        maker = self._makers.get(node.input[slot]) if slot < len(node.input) else None
        if maker is None or maker.op_type != "DequantizeLinear":
            return None
        return _names(maker, 0, 1, 2)


def written_scales(
    int8: bytes, model: onnx.ModelProto, weights: Sequence[WeightTensor], clips: Clips, scheme: Scheme
) -> dict[str, NDArray[np.float32]]:
    """Return the weight scales a file holds, after checking codes and biases against them.

    Args:
        int8: the file, QDQ or QOperator.
        model: the float model it was made from.
        weights: the weights of that model.
        clips: what they were limited to.
        scheme: what was to be written: how large codes may be, and as what type they are stored.

    Returns:
        By name of the weight tensor, float32 of shape [channels] or []; without those the file holds in float.

    Raises:
        ModelError: if the codes of a weight are not those of the grid of its scale, stored as that type about the zero
            point of it, or a bias of its layers is not on the grid of input scale times weight scale, or overflows.
    """
    file = _File(int8)
    biases = {tensor.name: tensor for tensor in model.graph.initializer}
    scales: dict[str, NDArray[np.float32]] = {}
    for weight in weights:
        for node, scale_name, zero_name in _layers(file, weight.name + TENSOR_NAME_QUANT_SUFFIX):
            scale, codes = file.array(scale_name), file.array(weight.name + TENSOR_NAME_QUANT_SUFFIX)
            if scale is None or codes is None:
                continue
            signed = quantize(weight.clipped(clips[weight.name]), scale, axis=weight.axis, code_max=scheme.code_max)
            if not _holds(codes, signed, file.array(zero_name), scheme):
                raise ModelError(f"onnxruntime wrote other codes of the weights {weight.name!r} than their grid has")
            _check_bias(file, node, scale, biases)
            scales[weight.name] = scale
    return scales


def _names(node: onnx.NodeProto, codes: int, scale: int, zero_point: int | None) -> tuple[str, str, str]:
    """Return the names of codes, scale and zero point in some slots of a node."""
    there = zero_point is not None and zero_point < len(node.input)
    return node.input[codes], node.input[scale], node.input[zero_point] if there else ""


def _holds(codes: NDArray[Any], signed: NDArray[np.int8], zero_point: NDArray[Any] | None, scheme: Scheme) -> bool:
    """Return whether stored codes are these, in the type they are to have, about the zero point of that type."""
    centre = scheme.zero_point
    meant = as_uint8(signed, centre) if scheme.weight_type == "uint8" else signed
    if zero_point is not None and (zero_point.dtype != codes.dtype or (zero_point != centre).any()):
        return False
    return codes.dtype == meant.dtype and np.array_equal(codes, meant) and (zero_point is not None or centre == 0)


def _layers(file: _File, codes: str) -> Iterator[tuple[onnx.NodeProto, str, str]]:
    """Yield the nodes whose weight has these codes, with the names of its scale and zero point."""
    for node in file.nodes:
        if len(node.input) < 2:
            continue
        weight = file.quantized(node, 1)
        if weight is not None and weight[0] == codes:
            yield node, weight[1], weight[2]


def _check_bias(
    file: _File, node: onnx.NodeProto, weight_scale: NDArray[np.float32], floats: Mapping[str, onnx.TensorProto]
) -> None:
    """Check that the bias of a node is on the grid of its integer sums of products.

    Raises:
        ModelError: if it is not, or is cut off at the ends of int32.
    """
    bias, source = file.quantized(node, 2), file.quantized(node, 0)
    codes, input_scale = file.array(bias[0]) if bias else None, file.array(source[1]) if source else None
    if bias is None or codes is None or input_scale is None:
        return  # no stored bias, or a layer whose input stayed in float: then any scale of the bias will do
    name = bias[0].removesuffix(TENSOR_NAME_QUANT_SUFFIX)
    if np.isin(codes, (_INT32.min, _INT32.max)).any():
        raise ModelError(
            f"the bias {name!r} overflows int32 at the scale onnxruntime wrote: export with --ranges minmax"
        )
    step = (input_scale * weight_scale).reshape(-1)
    scale = file.array(bias[1]) if bias[1] else None
    wrong = scale is not None and not np.array_equal(scale.reshape(-1), step)
    if name in floats:
        value = numpy_helper.to_array(floats[name]).astype(np.float64).reshape(codes.shape)
        wrong |= bool(np.any(np.abs(codes * step.astype(np.float64) - value) > _HALF * step))
    if wrong:
        raise ModelError(
            f"onnxruntime wrote the bias {name!r} at another scale than input times weight: export with the other "
            "--format, or with --granularity tensor"
        )
