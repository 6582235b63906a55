"""Bytes that a file stores five or seven times, of which every bit is what most copies say.

Votes between three copies (`deployed.votes`) compare values; two hit copies of one value defeat them. At a bit error
rate p a byte is then lost with a probability of some 190 p^2, while a majority of seven over single bits loses one with
280 p^4: what all weights of a file hang on is stored so. It is recognised by what it computes, never by name: bitwise
nodes over stored bytes whose result, tried on every combination of bits, is their majority.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

COPIES = (5, 7)
"""Numbers of copies that are recognised."""

_OWN = ("", "ai.onnx")
_OPERATORS: Mapping[str, Callable[..., NDArray[np.uint8]]] = {
    "BitwiseAnd": np.bitwise_and,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
}


@dataclasses.dataclass(frozen=True)
class Majority:
    """Bytes that are the majority of some copies.

    Attributes:
        output: name of what comes out.
        copies: names of the stored copies, an odd number.
    """

    output: str
    copies: tuple[str, ...]


def find_majorities(graph: onnx.GraphProto) -> Iterator[Majority]:
    """Yield every bitwise majority of stored bytes in a graph, in the order of its nodes."""
    makers = {
        node.output[0]: node
        for node in graph.node
        if node.op_type in _OPERATORS and node.domain in _OWN and len(node.input) == 2
    }
    if not makers:
        return
    stored = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.UINT8}
    inner = {name for node in makers.values() for name in node.input}
    for output in makers:
        if output in inner:
            continue
        leaves = _leaves(output, makers)
        shapes = {tuple(stored[name].dims) for name in leaves if name in stored}
        if len(leaves) in COPIES and stored.keys() >= set(leaves) and len(shapes) == 1:
            trial = dict(zip(leaves, _combinations(len(leaves)), strict=True))
            if np.array_equal(_value(output, makers, trial), majority(list(trial.values()))):
                yield Majority(output, tuple(leaves))


def voted(graph: onnx.GraphProto, found: Majority) -> onnx.TensorProto:
    """Return what comes out of a majority, as a tensor of its name."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in found.copies}
    return numpy_helper.from_array(majority([stored[name] for name in found.copies]), found.output)


def majority(copies: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the bitwise majority of an odd number of arrays of bytes of one shape."""
    bits = np.unpackbits(np.stack(copies)[..., None], axis=-1)
    return np.packbits(bits.sum(axis=0, dtype=np.int64) * 2 > len(copies), axis=-1)[..., 0]


def _leaves(output: str, makers: Mapping[str, onnx.NodeProto]) -> list[str]:
    """Return what bitwise nodes compute a value of, each once, in the order in which they are met."""
    found: dict[str, None] = {}
    seen, waiting = {output}, [output]
    while waiting:
        node = makers[waiting.pop()]
        for name in node.input:
            if name not in makers:
                found[name] = None
            elif name not in seen:
                seen.add(name)
                waiting.append(name)
    return sorted(found)


def _value(output: str, makers: Mapping[str, onnx.NodeProto], values: dict[str, NDArray[np.uint8]]) -> Any:
    """Return what bitwise nodes make of the values of their leaves."""
    if output not in values:
        node = makers[output]
        values = values | {name: _value(name, makers, values) for name in node.input}
        return _OPERATORS[node.op_type](*(values[name] for name in node.input))
    return values[output]


def _combinations(copies: int) -> NDArray[np.uint8]:
    """Return bytes whose bits take every combination over some copies, [copies, 2^copies / 8]."""
    bits = np.array(list(itertools.product((0, 1), repeat=copies)), dtype=np.uint8)
    return np.packbits(bits, axis=0).T
