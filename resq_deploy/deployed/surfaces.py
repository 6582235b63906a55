"""The surfaces of a file: which stored bits can flip, and what each is for.

A surface is a range of bytes of the file with all who read it. Every stored value is one, unless it is proven to be
no value to compute with; what is left out is listed with the reason.
"""

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence

import onnx

from resq_deploy.deployed.nesting import free_name, node_label
from resq_deploy.deployed.operators import TRAINING, TRAINING_ATTRIBUTES
from resq_deploy.deployed.roles import INTEGERS, RoleReader
from resq_deploy.deployed.roles import Role as Role
from resq_deploy.deployed.steering import UNREAD, VALUE, Steering
from resq_deploy.deployed.stored import Form, LeftOut, Site, Source, Stored, stored_values
from resq_deploy.deployed.tensors import FLOATS, WIDTHS
from resq_deploy.deployed.wiring import Wiring
from resq_deploy.errors import ModelError

_TEXT = "text"
_UNKNOWN = "onnxruntime computes with no such type"
_NO_NUMBERS = {
    Form.INDICES: "index",
    Form.INTEGERS: "varint-coded attribute: a flip changes the file's framing",
    Form.TEXT: _TEXT,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Surface:
    """Stored values that faults can hit: those of a tensor, or the numbers of an attribute.

    Attributes:
        tensor: name of the initializer or of the value of a Constant node; of an attribute, its layer and name. Where
            several read the same bytes, the first one's.
        role: what it is for; of a shared tensor, its most exposed use.
        layer: the first node that computes with it: the node's name, else its first output.
        dtype: stored type, as ONNX names it, in lower case.
        shape: shape of the tensor.
        width: stored bits of one element.
        sites: all places of the model that hold its bytes.
    """

    tensor: str
    role: Role
    layer: str
    dtype: str
    shape: tuple[int, ...]
    width: int
    sites: tuple[Site, ...] = dataclasses.field(default=(), repr=False)

    @property
    def elements(self) -> int:
        """How many values it stores."""
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        """How many bits it stores."""
        return self.elements * self.width

    def as_dict(self) -> dict[str, object]:
        """Return the surface as the JSON object `inspect --json` prints."""
        return {
            "tensor": self.tensor,
            "role": str(self.role),
            "layer": self.layer,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "bits": self.bits,
        }


@dataclasses.dataclass(frozen=True)
class Survey:
    """All that a model stores: what faults can hit, in the order of the file, and what is left out."""

    surfaces: tuple[Surface, ...]
    left_out: tuple[LeftOut, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Finding:
    """A stored value, what it is called, and role and layer, or else why it is left out."""

    stored: Stored
    name: str
    use: tuple[Role, str] | None
    reason: str
    source: Source

    @property
    def end(self) -> int:
        """The first byte behind it, counted as `source.start` is."""
        return self.source.start + (self.stored.bits + 7) // 8


def find_surfaces(model: onnx.ModelProto) -> tuple[Surface, ...]:
    """Return every surface of a model in the order of the file; see `survey`."""
    return survey(model).surfaces


def survey(model: onnx.ModelProto, sources: Mapping[str, Source] | None = None) -> Survey:
    """Return every surface of a model, and every stored value that is none.

    Args:
        model: the model, as `open_model` returns it.
        sources: where the bytes of stored values lie in the file, by place; None if each has bytes of its own.

    Raises:
        ModelError: if two stored tensors of a graph share a name, so that a fault could not say which it means.
    """
    findings = _findings(model.graph, sources or {})
    ranges: dict[object, list[_Finding]] = {}
    for finding in findings:
        ranges.setdefault(finding.source.owner, []).append(finding)
    surfaces, left_out = [], []
    for range_ in (part for held in ranges.values() for part in _apart(held)):
        if any(finding.use for finding in range_):
            surfaces.append(_surface(range_))
        else:
            left_out.append(LeftOut(tensor=range_[0].name, bits=_bits(range_), reason=range_[0].reason))
    return Survey(tuple(surfaces), tuple(left_out))


def _findings(graph: onnx.GraphProto, sources: Mapping[str, Source]) -> list[_Finding]:
    """Return what a graph stores, in the order of the file, without what takes no bits."""
    wiring = Wiring(graph)
    roles, steering = RoleReader(wiring), Steering(wiring)
    stored_here = [stored for stored in stored_values(graph) if stored.bits]
    taken = {name for node in wiring.nodes for name in (*node.input, *node.output)}
    taken |= {stored.value for stored in stored_here}
    owners: collections.Counter[str] = collections.Counter()
    findings = []
    for stored in stored_here:
        use, reason = _judged(stored, roles, steering)
        name = stored.value if _is_value(stored) else free_name(_name(stored), taken)
        if use and _is_value(stored):
            owners[name] += 1
        findings.append(_Finding(stored, name, use, reason, sources.get(stored.place, Source(stored.place))))
    for name, count in owners.items():
        if count > 1:
            raise ModelError(f"{count} stored tensors are called {name!r}: give each a name of its own")
    return findings


def _is_value(stored: Stored) -> bool:
    """Return whether a stored value is, as it stands, a value of the graph with a name."""
    fills = stored.node is not None and stored.node.op_type == "ConstantOfShape"
    return bool(stored.value) and stored.form is Form.TENSOR and not fills


def _name(stored: Stored) -> str:
    """Return what to call a stored value that is not, by itself, a value of the graph."""
    if stored.form is Form.INDICES:
        return f"{stored.value}.indices"
    return f"{node_label(stored.node)}.{stored.attribute}" if stored.node else stored.place


def _judged(stored: Stored, roles: RoleReader, steering: Steering) -> tuple[tuple[Role, str] | None, str]:
    """Return role and layer of a stored value, or None and why it is left out."""
    holder, node = stored.holder, stored.node
    if stored.form in _NO_NUMBERS:
        return None, _NO_NUMBERS[stored.form]
    if isinstance(holder, onnx.TensorProto) and holder.data_type not in WIDTHS:
        return None, _TEXT if holder.data_type == onnx.TensorProto.STRING else _UNKNOWN
    if node is not None and not stored.value:
        trained = (node.op_type, stored.attribute) in TRAINING_ATTRIBUTES and not _is_trained(node)
        return (None, TRAINING) if trained else ((Role.CONSTANT, node_label(node)), "")
    if not isinstance(holder, onnx.TensorProto) or not stored.value:
        return None, UNREAD
    use, end = roles.uses(stored.value).most_exposed(holder), steering.end(stored.value)
    if use is None:
        # Only integers are left out as what steers: a float that a shape or a switch comes from is a value.
        is_value = end == VALUE or (holder.data_type in FLOATS and end not in (UNREAD, TRAINING))
        return ((Role.CONSTANT, roles.first_layer(stored.value)), "") if is_value else (None, end)
    if use[0] is Role.CONSTANT and holder.data_type in INTEGERS and end != VALUE:
        return None, end
    return use, ""


def _is_trained(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)


def _apart(held: Sequence[_Finding]) -> list[list[_Finding]]:
    """Return findings in the same part of a file by ranges of bytes that do not overlap; each in the order given."""
    ranges: list[list[int]] = []
    end = 0
    for number in sorted(range(len(held)), key=lambda number: held[number].source.start):
        if not ranges or held[number].source.start >= end:
            ranges.append([])
        ranges[-1].append(number)
        end = max(end, held[number].end)
    return [[held[number] for number in sorted(members)] for members in sorted(ranges, key=min)]


def _surface(range_: Sequence[_Finding]) -> Surface:
    """Return the surface of a range of bytes; where no value takes all of it, its elements are bytes."""
    begin, end = min(finding.source.start for finding in range_), max(finding.end for finding in range_)
    used = [finding for finding in range_ if finding.use]
    whole = [finding for finding in (*used, *range_) if (finding.source.start, finding.end) == (begin, end)]
    role, layer = min((finding.use for finding in used if finding.use), key=lambda use: list(Role).index(use[0]))
    number = whole[0].stored.dtype if whole else onnx.TensorProto.UINT8
    return Surface(
        tensor=(whole or used)[0].name,
        role=role,
        layer=layer,
        dtype=onnx.TensorProto.DataType.Name(number).lower(),
        shape=whole[0].stored.shape if whole else (end - begin,),
        width=WIDTHS[number],
        sites=tuple(
            Site(finding.stored.place, finding.source.start - begin, finding.end - finding.source.start)
            for finding in range_
        ),
    )


def _bits(range_: Sequence[_Finding]) -> int:
    """Return how many bits a range of bytes stores."""
    if len(range_) == 1:
        return range_[0].stored.bits
    return 8 * (max(finding.end for finding in range_) - min(finding.source.start for finding in range_))
