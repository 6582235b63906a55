"""What a protected file stores under a code, read back from its nodes."""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import onnx

from resq_deploy.codes.code import Code
from resq_deploy.codes.known import KNOWN, known_code
from resq_deploy.deployed.majority import find_majorities, voted
from resq_deploy.errors import ModelError

DOMAIN = "resq.codes"
"""The domain of the functions that decode; `protection.decoder` writes them."""

HEALTH = "resq_health"
"""The output of a file that says how many words were corrected and how many cannot be, int64 [2]."""

_COUNTED_SPLIT, _LEAST_OPSET = 18, 13  # opset from which on Split says into how many parts; the least of all such files


def function_name(code: Code, *, unsigned: bool = False) -> str:
    """Return the name of the function that decodes a code; it is how one knows by which a file is protected."""
    return f"decode_{code.name}{'_unsigned' if unsigned else ''}".replace("-", "_")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coded:
    """Where a file stores a weight.

    Attributes:
        weight: name of the weight.
        code: the code.
        stored: initializers that hold the code words, whole blocks each; their bytes, one behind the other, also
            store the weights that share them.
        start: the byte of these that stores the first value of the weight.
        shape: shape of the weight.
        unsigned: whether the weight is uint8, with spare bits 0; otherwise int8, the sign in the highest of its bits.
    """

    weight: str
    code: Code
    stored: tuple[str, ...]
    start: int
    shape: tuple[int, ...]
    unsigned: bool = False

    @property
    def count(self) -> int:
        """Values of the weight, a byte each."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a value on the way from the decoder to the weights is stored; as in `Coded`."""

    code: Code
    unsigned: bool
    stored: tuple[str, ...] = ()
    start: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
    """The part of a graph that decodes weights.

    Attributes:
        made: values that it makes, the weights themselves included, each with the name of its decoder, or of what it
            calls.
        data: the values among them that come from code words, and the code words; what else it reads are tables.
    """

    made: Mapping[str, str]
    data: frozenset[str]

    def is_table(self, value: str, reader: onnx.NodeProto) -> bool:
        """Return whether a node reads a value in order to decode others."""
        return value not in self.data and not self.made.keys().isdisjoint(reader.output)

    def decoder(self, reader: onnx.NodeProto) -> str:
        """Return the label of the decoder that a node of it belongs to."""
        return next(self.made[output] for output in reader.output if output in self.made)


def decoding(graph: onnx.GraphProto) -> Decoding:
    """Return the part of a graph that decodes weights: all that they, and the report on health, are made of.

    Nothing is left out here, whether it is a table, a shape or an axis: each steers what a weight becomes.

    Raises:
        ModelError: if the file has a code that is not known here.
    """
    coded = coded_in(graph)
    if not coded:
        return Decoding(made={}, data=frozenset())
    makers = {output: node for node in graph.node for output in node.output if output}
    made: dict[str, str] = {}
    label = ""
    given = {value.name for value in graph.output}
    for wanted in (*(each.weight for each in coded), *({HEALTH} & given)):
        found, waiting = dict[str, onnx.NodeProto](), [wanted]
        while waiting:
            node = makers.get(waiting.pop())
            if node is not None and node.output[0] not in found and node.output[0] not in made:
                found[node.output[0]] = node
                waiting += node.input
        label = next((node.name or node.op_type for node in found.values() if node.domain == DOMAIN), label)
        made.update((output, label) for node in found.values() for output in node.output if output)
    data = {name for each in coded for name in each.stored}
    for node in graph.node:
        if not made.keys().isdisjoint(node.output) and not data.isdisjoint(node.input):
            data.update(node.output)
    return Decoding(made=made, data=frozenset(data))


def coded_weights(model: onnx.ModelProto) -> tuple[Coded, ...]:
    """Return what a file stores under a code, in the order of its nodes; nothing where `protect` did not make it.

    Raises:
        ModelError: if the file has a code that is not known here.
    """
    return coded_in(model.graph)


def coded_in(graph: onnx.GraphProto) -> tuple[Coded, ...]:
    """Return what a graph stores under a code; see `coded_weights`."""
    if not any(node.domain == DOMAIN for node in graph.node):
        return ()
    readings = {
        function_name(code, unsigned=unsigned): _Place(code, unsigned)
        for code in itertools.starmap(known_code, KNOWN)
        for unsigned in (False, True)
    }
    shapes = _shapes(graph)
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    places: dict[str, _Place] = {}
    found: dict[str, Coded] = {}
    for node in graph.node:
        if node.domain == DOMAIN:
            if node.op_type not in readings:
                raise ModelError(f"weights are decoded by {node.op_type!r}, which this version does not know: update")
            places[node.output[0]] = dataclasses.replace(readings[node.op_type], stored=(node.input[0],))
            continue
        pieces = [found[name] for name in node.input if name in found and readers[name] == 1]
        if node.op_type == "Concat" and len(pieces) == len(node.input):
            found[node.output[0]] = _joined(node.output[0], pieces)
            for name in node.input:
                del found[name]
            continue
        place = places.get(node.input[0]) if node.input else None
        if place is None:
            continue
        if node.op_type == "Concat":
            stored = tuple(name for value in node.input for name in places[value].stored)
            places[node.output[0]] = dataclasses.replace(place, stored=stored)
        elif node.op_type == "Split":
            starts = itertools.accumulate(shapes[node.input[1]], initial=0)
            parts = zip(node.output, starts, strict=False)
            places.update((part, dataclasses.replace(place, start=start)) for part, start in parts)
        elif node.op_type == "Reshape" and shapes[node.input[1]] == (-1,):
            places[node.output[0]] = place
        elif node.op_type == "Reshape":
            found[node.output[0]] = Coded(
                weight=node.output[0],
                code=place.code,
                stored=place.stored,
                start=place.start,
                shape=shapes[node.input[1]],
                unsigned=place.unsigned,
            )
    return tuple(found.values())


def _joined(weight: str, pieces: Sequence[Coded]) -> Coded:
    """Return where a weight is stored whose rows are decoded in pieces, each in blocks of its own."""
    stored = tuple(name for piece in pieces for name in piece.stored)
    rows = sum(piece.shape[0] for piece in pieces)
    return dataclasses.replace(pieces[0], weight=weight, stored=stored, shape=(rows, *pieces[0].shape[1:]))


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes and sizes by which decoded values are cut, by name.

    They are stored as bytes that are voted; what they are is left to onnx to compute.
    """
    majorities = [voted(graph, found) for found in find_majorities(graph)]
    computed = {tensor.name for tensor in majorities}
    constant = {tensor.name for tensor in (*graph.initializer, *majorities)}
    makers: dict[str, onnx.NodeProto] = {}
    decoded: set[str] = set()
    wanted: dict[str, None] = {}
    for node in graph.node:
        if node.domain == DOMAIN:
            decoded.add(node.output[0])
        elif constant.issuperset(node.input):
            constant.update(node.output)
            makers.update(dict.fromkeys(node.output, node))
        elif node.input and node.input[0] in decoded:
            decoded.update(node.output)
            if node.op_type in ("Reshape", "Split"):
                wanted.update(dict.fromkeys(constant.intersection(node.input)))
    needed = set(wanted)
    for name in reversed(makers):
        if name in needed and name not in computed:
            needed.update(makers[name].input)
    tables = [tensor for tensor in (*graph.initializer, *majorities) if tensor.name in needed]
    nodes = [node for node in graph.node if needed.intersection(node.output) and computed.isdisjoint(node.output)]
    return _computed(nodes, tables, wanted)


def _computed(
    nodes: Iterable[onnx.NodeProto], tables: Iterable[onnx.TensorProto], wanted: Iterable[str]
) -> dict[str, tuple[int, ...]]:
    """Return what some nodes compute of stored tables."""
    from onnx.reference import ReferenceEvaluator  # slow to import, and needed for protected files alone

    graph = onnx.GraphProto(name="shapes", node=nodes, initializer=tables)
    graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None) for name in wanted)
    counted = any(attribute.name == "num_outputs" for node in graph.node for attribute in node.attribute)
    values = ReferenceEvaluator(graph, opsets={"": _COUNTED_SPLIT if counted else _LEAST_OPSET}).run(None, {})
    return {name: tuple(value.tolist()) for name, value in zip(wanted, values, strict=True)}
