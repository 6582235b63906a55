"""Where stored values lie in a serialised model, and the bit patterns of floats in attributes.

The wire format is that of https://protobuf.dev/programming-guides/encoding. Places are those of `stored`.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from numpy.typing import NDArray

from resq_deploy.errors import ModelError

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

Offsets = slice | NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Span:
    """Where a stored value lies in a serialised model.

    Attributes:
        message: the tensor or attribute that holds it, as a whole.
        raw: its bytes: a stretch, or, of floats in an attribute, each byte's offset; of a tensor in typed fields, all
            of the message.
    """

    message: slice
    raw: Offsets

    @property
    def length(self) -> int:
        """How many bytes the value takes."""
        return self.raw.stop - self.raw.start if isinstance(self.raw, slice) else len(self.raw)


def locate(data: bytes) -> Iterator[tuple[str, Span]]:
    """Yield the place of each stored value of a serialised model, and where it lies."""
    for name, begin, end in _fields(data, onnx.ModelProto.DESCRIPTOR, 0, len(data)):
        if name == "graph":
            yield from _in_graph(data, begin, end, "")


def _in_graph(data: bytes, start: int, stop: int, place: str) -> Iterator[tuple[str, Span]]:
    seen: Counter[str] = Counter()
    for name, begin, end in _fields(data, onnx.GraphProto.DESCRIPTOR, start, stop):
        here = f"{place}{name}[{seen[name]}]"
        seen[name] += 1
        if name == "initializer":
            yield from _tensor(data, begin, end, here)
        elif name == "sparse_initializer":
            yield from _sparse(data, begin, end, here)
        elif name == "node":
            yield from _in_node(data, begin, end, here)


def _in_node(data: bytes, start: int, stop: int, place: str) -> Iterator[tuple[str, Span]]:
    number = 0
    for name, begin, end in _fields(data, onnx.NodeProto.DESCRIPTOR, start, stop):
        if name == "attribute":
            yield from _in_attribute(data, begin, end, f"{place}.attribute[{number}]")
            number += 1


def _in_attribute(data: bytes, start: int, stop: int, place: str) -> Iterator[tuple[str, Span]]:
    seen: Counter[str] = Counter()
    floats: list[NDArray[np.int64]] = []
    for name, begin, end in _fields(data, onnx.AttributeProto.DESCRIPTOR, start, stop):
        repeated = f"{place}.{name}[{seen[name]}]"
        seen[name] += 1
        if name == "t":
            yield from _tensor(data, begin, end, f"{place}.t")
        elif name == "tensors":
            yield from _tensor(data, begin, end, repeated)
        elif name == "sparse_tensor":
            yield from _sparse(data, begin, end, f"{place}.sparse_tensor")
        elif name == "g":
            yield from _in_graph(data, begin, end, f"{place}.g.")
        elif name == "graphs":
            yield from _in_graph(data, begin, end, f"{repeated}.")
        elif name == "f":
            yield f"{place}.f", Span(slice(start, stop), slice(begin, end))
        elif name == "floats":  # one by one, as onnx writes them, or packed
            floats.append(np.arange(begin, end, dtype=np.int64))
    if floats:
        yield f"{place}.floats", Span(slice(start, stop), np.concatenate(floats))


def _sparse(data: bytes, start: int, stop: int, place: str) -> Iterator[tuple[str, Span]]:
    for name, begin, end in _fields(data, onnx.SparseTensorProto.DESCRIPTOR, start, stop):
        if name in ("values", "indices"):
            yield from _tensor(data, begin, end, f"{place}.{name}")


def _tensor(data: bytes, start: int, stop: int, place: str) -> Iterator[tuple[str, Span]]:
    typed = False
    for name, begin, end in _fields(data, onnx.TensorProto.DESCRIPTOR, start, stop):
        if name == "raw_data":
            yield place, Span(slice(start, stop), slice(begin, end))
        typed = typed or (name.endswith("_data") and name not in ("raw_data", "external_data"))
    if typed:  # an opened model has none of these but for text
        yield place, Span(slice(start, stop), slice(start, stop))


def _fields(data: bytes, message: Descriptor, start: int, stop: int) -> Iterator[tuple[str, int, int]]:
    """Yield name, begin and end of each field of the message in data[start:stop] but for those stored as varints."""
    names = {number: field.name for number, field in message.fields_by_number.items()}
    while start < stop:
        key, start = _varint(data, start)
        kind = key & 7
        if kind == _VARINT:
            _, start = _varint(data, start)
            continue
        if kind == _LENGTH:
            length, start = _varint(data, start)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ModelError(f"the serialised model has a field of unknown kind {kind}")
        yield names.get(key >> 3, ""), start, start + length
        start += length


def _varint(data: bytes, start: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[start]
        value |= (byte & 0x7F) << shift
        start += 1
        if byte < 0x80:
            return value, start
        shift += 7


def _attribute_of_patterns() -> type[Message]:
    """Return a message that reads an attribute's floats as integers: as floats, Python would alter signalling NaNs."""
    described = descriptor_pb2.FileDescriptorProto(name="resq_deploy/attribute.proto", package="resq_deploy")
    message = described.message_type.add(name="Attribute")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, label in (("f", kinds.LABEL_OPTIONAL), ("floats", kinds.LABEL_REPEATED)):
        number = onnx.AttributeProto.DESCRIPTOR.fields_by_name[name].number
        message.field.add(name=name, number=number, label=label, type=kinds.TYPE_FIXED32)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(described)
    made: type[Message] = message_factory.GetMessageClass(pool.FindMessageTypeByName("resq_deploy.Attribute"))
    return made


_Attribute = _attribute_of_patterns()


def float_patterns(attribute: bytes, field: str) -> NDArray[np.uint32]:
    """Return the floats of a serialised attribute as bit patterns, shape [n].

    Args:
        attribute: the attribute.
        field: `f` for its single float, `floats` for its list.
    """
    parsed = getattr(_Attribute.FromString(attribute), field)
    return np.array([parsed] if field == "f" else list(parsed), dtype="<u4")
