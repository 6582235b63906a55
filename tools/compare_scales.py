#!/usr/bin/env python3
"""Compare the quantization scales of two int8 files of one network, layer by layer: such as before and after stage 1.

A flip of bit b moves a weight by 2^b of its scale. Whether that is much depends on how large the layer's weights are,
so that two ratios are given, after over before, each the geometric mean over the output channels: of the weight scales,
and of scale over root mean square of the channel's weights, which does not change where a layer is merely scaled. A
third one is that of the scales of what the layer reads. Fasfous et al. ("Mind the Scaling Factors", DATE 2022) found
adversarially trained quantized networks more fault-prone by such scales: above 1 a flip does more than it did.

Example:
  python tools/compare_scales.py baseline.int8.onnx attack.int8.onnx --markdown scales.md
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from command_line import with_one_line_errors
from numpy.typing import NDArray
from onnx import numpy_helper

from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.operators import slots
from resq_deploy.errors import InputError
from resq_deploy.protection.bake import plain_model
from resq_deploy.records import write_atomic

HEADERS = ("layer", "weight scale", "scale / rms of the weights", "scale of the input")
_READS = ("DequantizeLinear",)
_LEAST = 1e-12  # of a channel whose codes are all 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scales:
    """The scales of a layer.

    Attributes:
        weight: of its weights, the geometric mean over channels.
        relative: that over the root mean square of a channel's weights.
        read: of what it reads; None where that is no quantized value.
    """

    weight: float
    relative: float
    read: float | None


def scales(path: pathlib.Path) -> dict[str, Scales]:
    """Return the scales of every layer with quantized weights, by the layer's name.

    Raises:
        InputError: if the file cannot be read, or no layer has any.
    """
    DeployedModel.load(path)  # which says what is wrong with a file
    graph = plain_model(onnx.load(path)).graph  # votes and codes hide what they protect
    stored = {tensor.name: tensor for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    found: dict[str, Scales] = {}
    for node in graph.node:
        source, weight = (_operand(node, place, makers) for place in (0, 1))
        if node.op_type in _READS or weight is None:
            continue
        codes, scale, zero = (_array(name, stored) for name in (weight.codes, weight.scale, weight.zero_point))
        if codes is None or scale is None or codes.ndim < 2:
            continue
        read = None if source is None else _array(source.scale, stored)
        found[node.name or node.output[0]] = Scales(
            weight=_geometric(scale),
            relative=_geometric(1.0 / _rms(codes, zero, weight.axis if scale.size > 1 else None)),
            read=None if read is None else _geometric(read),
        )
    if not found:
        raise InputError(f"{path} has no layer with quantized weights: give a static int8 file")
    return found


class Operand(NamedTuple):
    """What a layer reads in one place: names of codes, scale and zero point (or none), and the axis of the channels."""

    codes: str
    scale: str
    zero_point: str
    axis: int


def _array(name: str, stored: Mapping[str, onnx.TensorProto]) -> NDArray[Any] | None:
    return numpy_helper.to_array(stored[name]) if name in stored else None


def _operand(node: onnx.NodeProto, place: int, makers: Mapping[str, onnx.NodeProto]) -> Operand | None:
    """Return what a node reads as its input (0) or weight (1); None where that is a float."""
    meaning = slots(node.op_type, len(node.input))
    if meaning is not None and len(meaning.quantized) > place and node.op_type not in _READS:
        codes, scale, zero = meaning.quantized[place]
        if scale is None:
            return None
        axis = 0 if node.op_type == "QLinearConv" else -1  # a matrix has its outputs in the columns
        return Operand(node.input[codes], node.input[scale], "" if zero is None else node.input[zero], axis)
    maker = makers.get(node.input[place]) if len(node.input) > place else None
    if maker is None or maker.op_type not in _READS:
        return None
    axis = next((attribute.i for attribute in maker.attribute if attribute.name == "axis"), 1)
    return Operand(maker.input[0], maker.input[1], maker.input[2] if len(maker.input) > 2 else "", axis)


def _rms(codes: NDArray[Any], zero: NDArray[Any] | None, axis: int | None) -> NDArray[np.float64]:
    """Return the root mean square of the codes about their zero point, of all, or of each channel along an axis."""
    centred = codes.astype(np.float64)
    centred = centred.reshape(1, -1) if axis is None else np.moveaxis(centred, axis, 0).reshape(codes.shape[axis], -1)
    if zero is not None:
        centred = centred - zero.astype(np.float64).reshape(-1, 1)
    found: NDArray[np.float64] = np.sqrt(np.maximum((centred**2).mean(axis=1), _LEAST))
    return found


def _geometric(values: NDArray[Any]) -> float:
    return float(np.exp(np.log(values.astype(np.float64)).mean()))


def table(before: dict[str, Scales], after: dict[str, Scales]) -> list[list[str]]:
    """Return the ratios of each layer of both files, and their geometric means.

    Raises:
        InputError: if the files have no layer in common.
    """
    shared = [layer for layer in before if layer in after]
    if not shared:
        raise InputError("the files have no layer in common: give two files of one network")
    ratios = []
    for layer in shared:
        a, b = before[layer], after[layer]
        ratios.append([b.weight / a.weight, b.relative / a.relative, b.read / a.read if a.read and b.read else np.nan])
    means = np.exp(np.nanmean(np.log(ratios), axis=0))
    rows = [
        [name, *("-" if np.isnan(ratio) else f"{ratio:.2f}" for ratio in found)]
        for name, found in zip(shared, ratios, strict=True)
    ]
    return [*rows, ["geometric mean", *(f"{mean:.2f}" for mean in means)]]


@with_one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and write it where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=pathlib.Path, help="an int8 file")
    parser.add_argument("after", type=pathlib.Path, help="an int8 file of the same network")
    parser.add_argument("--markdown", type=pathlib.Path, help="where to write the table")
    given = parser.parse_args(argv)
    rows = [list(HEADERS), ["---"] * len(HEADERS), *table(scales(given.before), scales(given.after))]
    text = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    print(text, end="")
    if given.markdown is not None:
        write_atomic(given.markdown, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
