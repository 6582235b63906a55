"""The quantization scales of a static int8 file, read back layer by layer, whoever wrote it.

A flip of bit b moves a weight by 2^b of its scale. Whether that is much depends on how large the layer's weights are.
Fasfous et al. ("Mind the Scaling Factors: Resilience Analysis of Quantized Adversarially Robust CNNs", DATE 2022) found
adversarially trained quantized networks more fault-prone by such scales.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.operators import slots
from resq_deploy.errors import InputError
from resq_deploy.protection.bake import plain_model

_READS = ("DequantizeLinear",)
_LEAST = 1e-12  # of a channel whose codes are all 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerScales:
    """The scales of a layer.

    Attributes:
        weights: how many weights it has.
        weight: scale of its weights, the geometric mean over channels.
        relative: that over the root mean square of a channel's weights; it does not change where a layer is merely
            scaled.
        read: scale of what it reads; None where that is no quantized value.
    """

    weights: int
    weight: float
    relative: float
    read: float | None


def layer_scales(path: pathlib.Path) -> dict[str, LayerScales]:
    """Return the scales of every layer with quantized weights, by the layer's name; votes and codes are undone first.

    Raises:
        InputError: if the file cannot be read, or no layer has any.
    """
    DeployedModel.load(path)  # which says what is wrong with a file
    graph = plain_model(onnx.load(path)).graph  # votes and codes hide what they protect
    stored = {tensor.name: tensor for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    found: dict[str, LayerScales] = {}
    for node in graph.node:
        source, weight = (_operand(node, place, makers) for place in (0, 1))
        if node.op_type in _READS or weight is None:
            continue
        codes, scale, zero = (_array(name, stored) for name in (weight.codes, weight.scale, weight.zero_point))
        if codes is None or scale is None or codes.ndim < 2:
            continue
        read = None if source is None else _array(source.scale, stored)
        found[node.name or node.output[0]] = LayerScales(
            weights=codes.size,
            weight=_geometric(scale),
            relative=_geometric(1.0 / channel_rms(codes, zero, weight.axis if scale.size > 1 else None)),
            read=None if read is None else _geometric(read),
        )
    if not found:
        raise InputError(f"{path} has no layer with quantized weights: give a static int8 file")
    return found


class _Operand(NamedTuple):
    """What a layer reads in one place: names of codes, scale and zero point (or none), and the axis of the channels."""

    codes: str
    scale: str
    zero_point: str
    axis: int


def _array(name: str, stored: Mapping[str, onnx.TensorProto]) -> NDArray[Any] | None:
    return numpy_helper.to_array(stored[name]) if name in stored else None


def _operand(node: onnx.NodeProto, place: int, makers: Mapping[str, onnx.NodeProto]) -> _Operand | None:
    """Return what a node reads as its input (0) or weight (1); None where that is a float."""
    meaning = slots(node.op_type, len(node.input))
    if meaning is not None and len(meaning.quantized) > place and node.op_type not in _READS:
        codes, scale, zero = meaning.quantized[place]
        if scale is None:
            return None
        axis = 0 if node.op_type == "QLinearConv" else -1  # a matrix has its outputs in the columns
        return _Operand(node.input[codes], node.input[scale], "" if zero is None else node.input[zero], axis)
    maker = makers.get(node.input[place]) if len(node.input) > place else None
    if maker is None or maker.op_type not in _READS:
        return None
    axis = next((attribute.i for attribute in maker.attribute if attribute.name == "axis"), 1)
    return _Operand(maker.input[0], maker.input[1], maker.input[2] if len(maker.input) > 2 else "", axis)


def channel_rms(codes: NDArray[Any], zero: NDArray[Any] | None, axis: int | None) -> NDArray[np.float64]:
    """Return the root mean square of codes about their zero point, of all [1], or of each channel along an axis."""
    centred = codes.astype(np.float64)
    centred = centred.reshape(1, -1) if axis is None else np.moveaxis(centred, axis, 0).reshape(codes.shape[axis], -1)
    if zero is not None:
        centred = centred - zero.astype(np.float64).reshape(-1, 1)
    found: NDArray[np.float64] = np.sqrt(np.maximum((centred**2).mean(axis=1), _LEAST))
    return found


def _geometric(values: NDArray[Any]) -> float:
    return float(np.exp(np.log(values.astype(np.float64)).mean()))
