"""Everything a model stores as a value: where it stands, and how many bits it takes.

A place is a path through the protocol buffers of the main graph, such as `node[3].attribute[0].t`, so that the parsed
model and its serialised bytes are walked alike and never meet by names.

Integer attributes of the standard operators are no values: by their schemas they are axes, shapes and switches, and
belong to the graph as the operators' names do.
"""

import dataclasses
import enum
import math
from collections.abc import Hashable, Iterable, Iterator

import onnx

from resq_deploy.deployed.tensors import WIDTHS, stored_bytes

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft", "com.ms.internal.nhwc"})
"""Domains whose operators hold no learnt values in integer or text attributes."""


class Form(enum.Enum):
    """How a value is stored."""

    TENSOR = "tensor"
    INDICES = "indices of a sparse tensor"
    FLOAT = "f"
    FLOATS = "floats"
    INTEGERS = "integers"
    TEXT = "text"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Stored:
    """One stored value.

    Attributes:
        place: where it stands.
        form: how it is stored.
        holder: the tensor, or the attribute that holds the numbers itself.
        node: the node whose attribute it is; None for initializers.
        attribute: name of that attribute.
        value: the value of the graph it is (an initializer, a Constant) or fills (ConstantOfShape); else empty.
    """

    place: str
    form: Form
    holder: onnx.TensorProto | onnx.AttributeProto
    node: onnx.NodeProto | None = None
    attribute: str = ""
    value: str = ""

    @property
    def dtype(self) -> int:
        """Element type, as ONNX numbers it."""
        if isinstance(self.holder, onnx.TensorProto):
            return int(self.holder.data_type)
        return int(onnx.TensorProto.FLOAT)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values."""
        if isinstance(self.holder, onnx.TensorProto):
            return tuple(self.holder.dims)
        return (len(self.holder.floats),) if self.form is Form.FLOATS else ()

    @property
    def elements(self) -> int:
        """How many values there are."""
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        """How many bits are stored; of text and of integers in attributes, those of their bytes."""
        if isinstance(self.holder, onnx.TensorProto):
            width = WIDTHS.get(self.holder.data_type)
            if width is not None:
                return self.elements * width
            size = stored_bytes(self.holder)  # of complex numbers; None of text and of types nobody knows
            return 8 * (len(self.holder.raw_data) + sum(map(len, self.holder.string_data)) if size is None else size)
        if self.form is Form.TEXT:
            return 8 * (len(self.holder.s) + sum(map(len, self.holder.strings)))
        if self.form is Form.INTEGERS:
            single = [self.holder.i] if self.holder.HasField("i") else []
            return 8 * sum(map(_varint_bytes, (*single, *self.holder.ints)))
        return 32 * self.elements


def stored_values(graph: onnx.GraphProto, place: str = "") -> Iterator[Stored]:
    """Yield every value that a graph and its subgraphs store, each graph's before those of its subgraphs.

    Args:
        graph: the graph.
        place: what its places begin with.
    """
    for at, tensor in enumerate(graph.initializer):
        yield Stored(place=f"{place}initializer[{at}]", form=Form.TENSOR, holder=tensor, value=tensor.name)
    for at, sparse in enumerate(graph.sparse_initializer):
        yield from _sparse(sparse, f"{place}sparse_initializer[{at}]", value=sparse.values.name)
    yield from stored_in_nodes(graph.node, place)


def stored_in_nodes(nodes: Iterable[onnx.NodeProto], place: str = "") -> Iterator[Stored]:
    """Yield every value that nodes store in their attributes, then those of their subgraphs."""
    inner = []
    for number, node in enumerate(nodes):
        for at, attribute in enumerate(node.attribute):
            here = f"{place}node[{number}].attribute[{at}]"
            yield from stored_in_attribute(node, attribute, here)
            if attribute.HasField("g"):
                inner.append((attribute.g, f"{here}.g."))
            inner += [(subgraph, f"{here}.graphs[{which}].") for which, subgraph in enumerate(attribute.graphs)]
    for subgraph, here in inner:
        yield from stored_values(subgraph, here)


def stored_in_attribute(node: onnx.NodeProto, attribute: onnx.AttributeProto, place: str = "") -> Iterator[Stored]:
    """Yield every value that one attribute stores, without those of subgraphs."""
    fills = node.op_type in ("Constant", "ConstantOfShape") and attribute.name in ("value", "sparse_value")
    value = node.output[0] if fills and node.output else ""
    if attribute.HasField("t"):
        yield Stored(
            place=f"{place}.t", form=Form.TENSOR, holder=attribute.t, node=node, attribute=attribute.name, value=value
        )
    for which, tensor in enumerate(attribute.tensors):
        name = f"{attribute.name}[{which}]"
        yield Stored(place=f"{place}.tensors[{which}]", form=Form.TENSOR, holder=tensor, node=node, attribute=name)
    if attribute.HasField("sparse_tensor"):
        for stored in _sparse(attribute.sparse_tensor, f"{place}.sparse_tensor", value=value):
            yield dataclasses.replace(stored, node=node, attribute=attribute.name)
    for form in _numbers(node, attribute):
        yield Stored(place=f"{place}.{form.value}", form=form, holder=attribute, node=node, attribute=attribute.name)


def _numbers(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> Iterator[Form]:
    """Yield the forms in which an attribute holds numbers itself."""
    if attribute.HasField("f"):
        yield Form.FLOAT
    if attribute.floats:
        yield Form.FLOATS
    constant = node.op_type == "Constant" and attribute.name.startswith("value_")
    if node.domain in STANDARD_DOMAINS and not constant:
        return
    if attribute.ints or attribute.HasField("i"):
        yield Form.INTEGERS
    if attribute.strings or attribute.HasField("s"):
        yield Form.TEXT


def _sparse(sparse: onnx.SparseTensorProto, place: str, value: str) -> Iterator[Stored]:
    yield Stored(place=f"{place}.values", form=Form.TENSOR, holder=sparse.values, value=value)
    yield Stored(place=f"{place}.indices", form=Form.INDICES, holder=sparse.indices, value=value)


def _varint_bytes(value: int) -> int:
    """Return how many bytes the wire format takes for an int64: groups of 7 bits, negative ones as 64 bits."""
    return max(1, (value.bit_length() + 6) // 7) if value >= 0 else 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A stored value that is no surface.

    Attributes:
        tensor: what it is called, as a surface would be.
        bits: how many bits it stores.
        reason: why faults in it are left out.
    """

    tensor: str
    bits: int
    reason: str

    def as_dict(self) -> dict[str, object]:
        """Return it as a JSON object."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the bytes of a stored value lie in the file: from byte `start` of what `owner` names.

    Values whose bytes overlap there are stored once, however often the graph holds them.
    """

    owner: Hashable
    start: int = 0


@dataclasses.dataclass(frozen=True)
class Site:
    """One of the places in a model that hold bytes of a surface: `length` of them, from byte `start` of it on."""

    place: str
    start: int
    length: int
