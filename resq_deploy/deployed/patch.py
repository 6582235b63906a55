"""Flipping stored bits of a file, and proving that exactly those bits changed.

The model is serialised once; where each tensor's bytes lie in it is read from the wire format. A faulty file is a
copy with some of those bytes changed, so that nothing else can change with them. The proof does not trust that
arithmetic: it parses the faulty bytes with onnx itself and compares element by element.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from numpy.typing import NDArray
from onnx import numpy_helper

from resq_deploy.deployed.surfaces import Surface
from resq_deploy.errors import InjectionError, ModelError
from resq_deploy.faults.bits import change_mask, count_bits
from resq_deploy.faults.fault import Edit, Fault, Op

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


@dataclasses.dataclass(frozen=True)
class Span:
    """Where a tensor lies in the serialised model: its whole message, and within that its raw bytes."""

    message: slice
    raw: slice


class Patcher:
    """Makes faulty copies of a model whose parameters are all in `raw_data`.

    Args:
        model: the model, as `read_model` returns it.
        surfaces: the tensors that faults may hit.

    Attributes:
        golden: the fault-free model, serialised.
    """

    def __init__(self, model: onnx.ModelProto, surfaces: Sequence[Surface]) -> None:
        self.golden = model.SerializeToString()
        self._surfaces = {surface.tensor: surface for surface in surfaces}
        self._spans = {name: span for name, span in _locate(self.golden) if name in self._surfaces}
        for surface in surfaces:
            span = self._spans.get(surface.tensor)
            if span is None or (span.raw.stop - span.raw.start) * 8 < surface.bits:
                raise ModelError(f"tensor {surface.tensor!r} cannot be found in the serialised model")

    def stored(self, tensor: str) -> NDArray[np.uint8]:
        """Return a copy of the stored bytes of a tensor, shape [bytes]."""
        return np.frombuffer(self.golden[self._spans[tensor].raw], dtype=np.uint8).copy()

    def masks(self, fault: Fault) -> dict[str, NDArray[np.uint8]]:
        """Return the XOR mask of each tensor the fault changes; a tensor that stays as it was is left out.

        Several edits of one tensor are applied one after the other, in the order of the fault.
        """
        masks: dict[str, NDArray[np.uint8]] = {}
        for edit in fault.edits:
            surface = self._surfaces[edit.tensor]
            before = masks.get(edit.tensor)
            stored = self.stored(edit.tensor)
            if before is None:
                masks[edit.tensor] = change_mask(stored, edit, surface.width)
            else:
                masks[edit.tensor] = before ^ change_mask(stored ^ before, edit, surface.width)
        return {tensor: mask for tensor, mask in masks.items() if mask.any()}

    def values(self, masks: Mapping[str, NDArray[np.uint8]]) -> dict[str, bytes]:
        """Return the stored bytes of each masked tensor with its mask applied."""
        return {tensor: (self.stored(tensor) ^ mask).tobytes() for tensor, mask in masks.items()}

    def apply(self, masks: Mapping[str, NDArray[np.uint8]]) -> bytes:
        """Return the serialised model with the masks applied to its stored bytes."""
        faulty = bytearray(self.golden)
        for tensor, value in self.values(masks).items():
            faulty[self._spans[tensor].raw] = value
        return bytes(faulty)

    def prove(self, fault: Fault, faulty: bytes) -> int:
        """Check that a faulty model differs from the golden one in exactly the bits the fault asks for.

        Everything outside the values of the touched tensors must be byte-equal; each touched tensor is parsed with
        onnx on both sides, and its touched elements compared with what the operations mean.

        Returns:
            How many stored bits differ.

        Raises:
            InjectionError: at the first difference between what was asked and what changed.
        """
        if not _equal_outside(self.golden, faulty, [self._spans[tensor].raw for tensor in fault.tensors]):
            raise InjectionError(f"injection into {', '.join(fault.tensors)} changed bytes of other tensors")
        return sum(self._prove_tensor(fault, tensor, faulty[self._spans[tensor].message]) for tensor in fault.tensors)

    def prove_values(self, fault: Fault, values: Mapping[str, bytes]) -> int:
        """Check, as `prove` does, new stored bytes of the touched tensors alone; a tensor left out is unchanged."""
        total = 0
        for tensor in fault.tensors:
            span = self._spans[tensor]
            message = bytearray(self.golden[span.message])
            if tensor in values:
                start = span.raw.start - span.message.start
                message[start : start + span.raw.stop - span.raw.start] = values[tensor]
            total += self._prove_tensor(fault, tensor, bytes(message))
        return total

    def _prove_tensor(self, fault: Fault, tensor: str, faulty: bytes) -> int:
        """Check one tensor, given its serialised message in the faulty file; return how many bits differ."""
        golden = self.golden[self._spans[tensor].message]
        edits = [edit for edit in fault.edits if edit.tensor == tensor]
        touched = _distinct(np.concatenate([edit.index for edit in edits]))
        width = self._surfaces[tensor].width
        before, after = (_elements(message, touched, width) for message in (golden, faulty))
        expected = _expected(before, touched, edits, width)
        # The count over all bytes sees every other element, and the padding after packed ones.
        changed = _differing_bits(golden, faulty)
        if not np.array_equal(after, expected) or changed != count_bits((before ^ expected).view(np.uint8)):
            raise InjectionError(f"injection into {tensor!r} did not change exactly the bits asked for")
        return changed


def _distinct(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return different positions, ascending; masks of random bit errors are in order already, which saves the sort."""
    ordered = index if (index[1:] >= index[:-1]).all() else np.sort(index)
    distinct: NDArray[np.int64] = ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])]
    return distinct


def _elements(message: bytes, index: NDArray[np.int64], width: int) -> NDArray[np.uint64]:
    """Parse a tensor; return its elements at `index` as unsigned patterns, same shape."""
    array = numpy_helper.to_array(onnx.TensorProto.FromString(message)).reshape(-1)[index]
    patterns = array.view(f"u{array.dtype.itemsize}").astype(np.uint64)
    # 4-bit elements are widened by sign on parsing.
    return patterns & np.uint64((1 << width) - 1)


def _expected(
    before: NDArray[np.uint64], touched: NDArray[np.int64], edits: Sequence[Edit], width: int
) -> NDArray[np.uint64]:
    """Return what the operations mean for the touched elements of one tensor, in plain element arithmetic."""
    elements = before.copy()
    for edit in edits:
        place = np.searchsorted(touched, edit.index)
        if edit.op is Op.WORD:
            elements[place] = edit.value & np.uint64((1 << width) - 1)
            continue
        bits = np.uint64(1) << edit.bit.astype(np.uint64)
        if edit.op is Op.FLIP:
            np.bitwise_xor.at(elements, place, bits)
        elif edit.op is Op.SET1:
            np.bitwise_or.at(elements, place, bits)
        else:
            np.bitwise_and.at(elements, place, ~bits)
    return elements


def _differing_bits(golden: bytes, faulty: bytes) -> int:
    left, right = (np.frombuffer(data, dtype=np.uint8) for data in (golden, faulty))
    return count_bits(left ^ right) if len(left) == len(right) else -1


def _equal_outside(golden: bytes, faulty: bytes, spans: Sequence[slice]) -> bool:
    """Return whether two byte strings are equal outside the given spans."""
    if len(golden) != len(faulty):
        return False
    left, right = (np.frombuffer(data, dtype=np.uint8) for data in (golden, faulty))
    start = 0
    for span in sorted(spans, key=lambda span: span.start):
        if not np.array_equal(left[start : span.start], right[start : span.start]):
            return False
        start = span.stop
    return np.array_equal(left[start:], right[start:])


def _locate(data: bytes) -> Iterator[tuple[str, Span]]:
    """Yield where each stored tensor of a serialised model lies; names as in `graph.stored_tensors`."""
    for start, stop in _fields(data, onnx.ModelProto.DESCRIPTOR, "graph", 0, len(data)):
        yield from _locate_in_graph(data, start, stop)


def _locate_in_graph(data: bytes, start: int, stop: int) -> Iterator[tuple[str, Span]]:
    for begin, end in _fields(data, onnx.GraphProto.DESCRIPTOR, "initializer", start, stop):
        yield from _tensor_span(data, None, begin, end)
    for begin, end in _fields(data, onnx.GraphProto.DESCRIPTOR, "sparse_initializer", start, stop):
        yield from _sparse_values(data, None, begin, end)
    for begin, end in _fields(data, onnx.GraphProto.DESCRIPTOR, "node", start, stop):
        yield from _locate_in_node(data, begin, end)


def _locate_in_node(data: bytes, start: int, stop: int) -> Iterator[tuple[str, Span]]:
    node = onnx.NodeProto.DESCRIPTOR
    attribute = onnx.AttributeProto.DESCRIPTOR
    output = next(_fields(data, node, "output", start, stop), (start, start))
    constant = any(data[slice(*span)] == b"Constant" for span in _fields(data, node, "op_type", start, stop))
    for begin, end in _fields(data, node, "attribute", start, stop):
        if constant:
            name = data[slice(*output)].decode()
            for tensor in _fields(data, attribute, "t", begin, end):
                yield from _tensor_span(data, name, *tensor)
            for sparse in _fields(data, attribute, "sparse_tensor", begin, end):
                yield from _sparse_values(data, name, *sparse)
        for field in ("g", "graphs"):
            for graph in _fields(data, attribute, field, begin, end):
                yield from _locate_in_graph(data, *graph)


def _sparse_values(data: bytes, name: str | None, start: int, stop: int) -> Iterator[tuple[str, Span]]:
    for values in _fields(data, onnx.SparseTensorProto.DESCRIPTOR, "values", start, stop):
        yield from _tensor_span(data, name, *values)


def _tensor_span(data: bytes, name: str | None, start: int, stop: int) -> Iterator[tuple[str, Span]]:
    """Yield where a tensor lies, under the given name or else its own."""
    if name is None:
        place = next(_fields(data, onnx.TensorProto.DESCRIPTOR, "name", start, stop), (start, start))
        name = data[slice(*place)].decode()
    for raw in _fields(data, onnx.TensorProto.DESCRIPTOR, "raw_data", start, stop):
        yield name, Span(slice(start, stop), slice(*raw))


def _fields(data: bytes, message: Descriptor, name: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) of each length-delimited field `name` of the message that lies in data[start:stop].

    The wire format is that of https://protobuf.dev/programming-guides/encoding.
    """
    field: FieldDescriptor = message.fields_by_name[name]
    while start < stop:
        key, start = _varint(data, start)
        kind = key & 7
        if kind == _VARINT:
            _, start = _varint(data, start)
        elif kind == _LENGTH:
            length, start = _varint(data, start)
            if key >> 3 == field.number:
                yield start, start + length
            start += length
        elif kind in (_FIXED64, _FIXED32):
            start += 8 if kind == _FIXED64 else 4
        else:
            raise ModelError(f"the serialised model has a field of unknown kind {kind}")


def _varint(data: bytes, start: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[start]
        value |= (byte & 0x7F) << shift
        start += 1
        if byte < 0x80:
            return value, start
        shift += 7
