"""Weights of a file stored under an error-correcting code, decoded by nodes that onnxruntime folds.

    decode(stored, tables) -> Reshape -> the tensor's own name
    decode(stored, tables) -> Reshape -> Split -> Reshape -> ...        several tensors, or a last block that is padded

Small tensors are stored one behind the other: what a decoder costs when a session is created is its nodes, not bytes.
Whoever reads the tensor stays as it is, so that QDQ and QOperator files, scales per channel and per tensor, and tensors
of any shape are all alike. onnxruntime decodes when it creates the session; the optimised graph, its outputs and its
speed are those of the file without code. Faults in storage, before the file is loaded, are corrected; faults in
memory, after it was loaded, are not. What a file needs to decode - tables, shapes - is stored too, in one vector of
bytes of which there are seven copies (`graph_parts.Repeated`). Attributes and the file's framing are not covered by
anything.
"""

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.codes.code import Code
from resq_deploy.codes.words import encode, stored_size
from resq_deploy.deployed.coded import DOMAIN, HEALTH
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.graph import graphs, stored_tensors
from resq_deploy.deployed.runtime_graph import optimise
from resq_deploy.deployed.versions import CODE, LEAST_ONNXRUNTIME, annotate, is_before
from resq_deploy.deployed.votes import find_votes
from resq_deploy.errors import ModelError
from resq_deploy.protection.decoder import LEAST_ONNXRUNTIME as DECODES
from resq_deploy.protection.decoder import LEAST_OPSET, Decoder, is_light, make_decoder
from resq_deploy.protection.graph_parts import Parts, Pool
from resq_deploy.protection.guards import LEAST_ONNXRUNTIME as VOTES_FROM
from resq_deploy.protection.health import Health

_IR = 8  # the first with functions
_PIECE = 1 << 26
"""Most bytes that are decoded at once: onnxruntime folds no node of more than 1 GiB, and eight are computed a byte."""

_STAGE, _STAGES = 1 << 22, 8
"""Bytes that are decoded in one sweep of onnxruntime over the graph, and most sweeps, of the ten that it makes: what is
computed on the way to the weights is freed after each."""

_HEAVY = 4
"""By how much smaller stages are of decoders that are not light."""

_STEM = 5  # hexadecimal digits of a name
_OWN = ("", "ai.onnx")


def protect(model: onnx.ModelProto, tensors: Collection[str], code: Code, *, health: bool = False) -> onnx.ModelProto:
    """Store some weights under a code.

    Args:
        model: the model, self-contained; not changed. Votes that it is to have should be in it already: they are
            counted in the file's health.
        tensors: names of int8 and uint8 initializers of its main graph, whose values the weight bits of the code hold.
        code: the code.
        health: whether the file is to tell its own health, by one more output, `HEALTH`, behind all others: int64 [2],
            words that were corrected and words found that cannot be; a vote whose copies differ is a word corrected.

    Returns:
        The protected model; the same for the same input. Its opset is that of `model`, its IR version at least 8; its
        metadata name the code and the least onnxruntime that decodes it (`deployed.versions`).

    Raises:
        ModelError: if a tensor cannot be protected (`obstacles` says which), or onnxruntime does not fold the decoder.
    """
    for tensor, reason in obstacles(model, tensors, code).items():
        raise ModelError(f"tensor {tensor!r} cannot be protected: {reason}")
    if not tensors:
        protected = onnx.ModelProto()
        protected.CopyFrom(model)
        return protected
    plain = _optimised_parts(model)
    # Weights that come late can be fused otherwise: then all are decoded in the first sweep.
    for stages in (_STAGES, 1):
        protected = _written(model, set(tensors), code, health=health, stages=stages)
        coded = _optimised_parts(protected)
        if coded == plain:
            return protected
    left = ", ".join(sorted({str(part[0]) for part in (coded - plain) + (plain - coded)}))
    raise ModelError(f"onnxruntime does not make of this file with a code what it makes without ({left} differ)")


def _written(model: onnx.ModelProto, tensors: set[str], code: Code, *, health: bool, stages: int) -> onnx.ModelProto:
    """Return the protected model, decoded in so many stages at most."""
    protected = onnx.ModelProto()
    protected.CopyFrom(model)
    writer = _Writer(model, code, health=health)
    writer.store([tensor for tensor in model.graph.initializer if tensor.name in tensors], stages)
    del protected.graph.initializer[:]
    protected.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name not in tensors)
    writer.write(protected)
    annotate(protected, CODE, code.name)
    annotate(protected, LEAST_ONNXRUNTIME, _least_version(protected))
    return protected


def obstacles(model: onnx.ModelProto, tensors: Collection[str], code: Code) -> dict[str, str]:
    """Return those of some tensors that cannot be protected, each with the reason."""
    plain = {tensor.name: tensor for tensor in model.graph.initializer}
    counts = Counter(name for _, name in stored_tensors(model.graph))
    given = {value.name for value in model.graph.input}
    carried = any(function.domain == DOMAIN for function in model.functions)
    found = {}
    for name in dict.fromkeys(tensors):
        tensor = plain.get(name)
        if tensor is None or counts[name] > 1:
            elsewhere = "it is stored elsewhere than as an initializer of the main graph, or more than once"
            found[name] = elsewhere if name in counts else "the file stores no tensor of that name"
        elif carried:
            found[name] = "the file carries a code already: protect the file it was made of"
        elif name in given:
            found[name] = "it is a graph input too, so that the caller may override it"
        elif _opset(model) < LEAST_OPSET:
            found[name] = f"the file has opset {_opset(model)}, the decoder needs {LEAST_OPSET}"
        elif tensor.data_location == TensorProto.EXTERNAL:
            found[name] = "it lies in external data"
        elif reason := _obstacle_of_values(tensor, code):
            found[name] = reason
    return found


def _obstacle_of_values(tensor: TensorProto, code: Code) -> str | None:
    if tensor.data_type not in (TensorProto.INT8, TensorProto.UINT8):
        return f"codes protect int8 and uint8, not {TensorProto.DataType.Name(tensor.data_type).lower()}"
    values = numpy_helper.to_array(tensor)
    low, high = (0, code.data_mask) if tensor.data_type == TensorProto.UINT8 else (-code.largest - 1, code.largest)
    if not values.size:
        return "it holds no values"
    if values.min() < low or values.max() > high:
        return f"it has values outside [{low}, {high}]: export it with weights of {code.weight_bits} bits"
    return None


def _groups(tensors: list[TensorProto], code: Code, together: int) -> Iterator[list[TensorProto]]:
    """Yield what is stored together, in so many bytes at most: small tensors of a type, large ones by themselves."""
    for kind in (TensorProto.INT8, TensorProto.UINT8):
        group: list[TensorProto] = []
        for tensor in (each for each in tensors if each.data_type == kind):
            if group and stored_size(code, sum(math.prod(each.dims) for each in (*group, tensor))) > together:
                yield group
                group = []
            group.append(tensor)
        if group:
            yield group


class _Writer:
    """What goes into a protected file in the place of its weights.

    Args:
        model: the file without code.
        code: the code.
        health: whether words are counted.
    """

    def __init__(self, model: onnx.ModelProto, code: Code, *, health: bool) -> None:
        self._code, self._health, self._opset = code, health, _opset(model)
        self._taken = set(_names(model.graph))
        self._pool = Pool(_unused("tables", self._taken), self._opset)
        self._decoders: dict[np.dtype[Any], Decoder] = {}
        self._shape_of: dict[tuple[int, ...], tuple[str, str]] = {}  # names of a shape and of how many values it has
        self._ticks: list[str] = []
        self._stage_bytes = self._done = 0
        self._stored: list[TensorProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._counts: list[str] = []

    def store(self, tensors: list[TensorProto], most: int) -> None:
        """Store weights, and add the nodes that give them back under their names, in so many stages at most."""
        self._shapes(dict.fromkeys(tuple(tensor.dims) for tensor in tensors))
        total = sum(math.prod(tensor.dims) for tensor in tensors)
        least = _STAGE if is_light(self._code, self._opset, health=self._health) else _STAGE // _HEAVY
        stages = min(-(-total // least), most)
        self._stage_bytes = max(-(-total // stages), least)
        one = self._pool.table(np.array(1))
        self._ticks = list(
            itertools.accumulate(range(1, stages), lambda tick, _: self._pool.after(one, tick), initial=one)
        )
        for group in _groups(tensors, self._code, self._stage_bytes):
            parts = Parts(_unused("\0".join(tensor.name for tensor in group), self._taken), self._opset)
            rows = self._rows_of_piece(group[0]) if len(group) == 1 else 0
            if rows:
                self._store_by_rows(group[0], rows, parts)
            else:
                self._store_together(group, parts)
            self._nodes += parts.nodes

    def _rows_of_piece(self, tensor: TensorProto) -> int:
        """Return by how many rows to cut a tensor too large for a stage; 0 if it is none, or none fit blocks."""
        count = math.prod(tensor.dims)
        if count <= min(2 * self._stage_bytes, _PIECE) or count % self._code.block:
            return 0
        row: int = count // tensor.dims[0]
        least = self._code.block // math.gcd(self._code.block, row)  # so many rows are whole blocks
        return min(self._stage_bytes, _PIECE) // row // least * least

    def _store_by_rows(self, tensor: TensorProto, rows: int, parts: Parts) -> None:
        """Store a large tensor in pieces that have their shape before they are joined."""
        values = numpy_helper.to_array(tensor)
        pieces = []
        for start in range(0, len(values), rows):
            piece = values[start : start + rows]
            shape = self._pool.table(np.array(piece.shape))
            pieces.append(parts.node("Reshape", self._decoded(piece.reshape(-1), parts), shape))
        parts.node("Concat", *pieces, axis=0, output=tensor.name)

    def _store_together(self, group: Sequence[TensorProto], parts: Parts) -> None:
        """Store tensors one behind the other, and cut them apart when they are decoded."""
        values = np.concatenate([numpy_helper.to_array(tensor).reshape(-1) for tensor in group])
        step = _PIECE // self._code.block * self._code.block
        pieces = [self._decoded(values[start : start + step], parts) for start in range(0, len(values), step)]
        value = pieces[0] if len(pieces) == 1 else parts.node("Concat", *pieces, axis=0)
        padding = -len(values) % self._code.block
        names = [value]
        if len(group) > 1 or padding:
            sizes = [self._shape_of[tuple(tensor.dims)][1] for tensor in group]
            sizes += [self._pool.table(np.array(padding))] if padding else []
            flat = parts.node("Reshape", value, self._pool.table(np.array(-1)))
            names = parts.cut(flat, parts.node("Concat", *sizes, axis=0), len(sizes))
        for tensor, name in zip(group, names, strict=False):
            parts.node("Reshape", name, self._shape_of[tuple(tensor.dims)][0], output=tensor.name)

    def write(self, model: onnx.ModelProto) -> None:
        """Put everything into the file, whose weights that are stored here are removed."""
        health = Health(self._pool) if self._health else None
        tables = self._pool.written(self._taken)
        # Copies lie far apart in the file: damage to one stretch does not reach all of them.
        first, middle, last = ([copy for copies in tables.copies for copy in copies[place::3]] for place in range(3))
        stored = [*middle, *first, *self._stored, *model.graph.initializer, *last]
        del model.graph.initializer[:]
        model.graph.initializer.extend(stored)
        nodes = [*self._pool.nodes, *self._nodes, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        model.functions.extend(decoder.function for decoder in self._decoders.values())
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        model.ir_version = max(model.ir_version, _IR)
        if health:
            health.add(model, self._counts, Parts(_unused("health", self._taken), self._opset))

    def _decoded(self, values: NDArray[Any], parts: Parts) -> str:
        """Store values and decode them, in the stage that has room; return the name of the whole blocks."""
        decoder = self._decoder(values.dtype)
        stored = encode(self._code, _as_signed(self._code, values))
        blocks = stored.view(decoder.stored_type).reshape(-1, 1, self._code.block // 8, 8)
        self._stored.append(numpy_helper.from_array(blocks, parts.name()))
        tick = self._ticks[min(self._done // self._stage_bytes, len(self._ticks) - 1)]
        self._done += len(values)
        made = parts.name()
        self._counts.append(parts.name())
        parts.nodes.append(decoder.call(self._stored[-1].name, tick, made, self._counts[-1]))
        return made

    def _decoder(self, kind: np.dtype[Any]) -> Decoder:
        if kind not in self._decoders:
            unsigned = kind == np.uint8
            self._decoders[kind] = make_decoder(
                self._code, self._opset, self._pool, unsigned=unsigned, health=self._health
            )
        return self._decoders[kind]

    def _shapes(self, shapes: Collection[tuple[int, ...]]) -> None:
        """Write down shapes and how many values they are of; those of a rank share a table."""
        pool = self._pool
        for rank in dict.fromkeys(map(len, shapes)):
            alike = [shape for shape in shapes if len(shape) == rank]
            if rank == 0:  # nothing to store
                one = pool.table(np.array(1))
                self._shape_of[()] = pool.node("Shape", pool.node("Squeeze", one)), one
                continue
            table = pool.table(np.array(alike, dtype=np.int64).reshape(-1))
            names = pool.split(table, len(alike)) if len(alike) > 1 else [table]
            self._shape_of |= {
                shape: (name, pool.node("ReduceProd", name)) for shape, name in zip(alike, names, strict=True)
            }


def _as_signed(code: Code, values: NDArray[Any]) -> NDArray[np.int8]:
    """Return the int8 weights that have the bits of some weights, int8 or uint8."""
    if values.dtype == np.int8:
        return values
    return (values.astype(np.int16) - (values > code.largest) * (code.data_mask + 1)).astype(np.int8)


def _unused(purpose: str, taken: set[str]) -> str:
    """Return a beginning of names that no name has, derived from what it is for; add it to those that are taken."""
    for attempt in itertools.count():
        digest = hashlib.sha256(f"{purpose}\0{attempt}".encode()).hexdigest()
        stem = f"k{digest[:_STEM]}."
        if not any(name.startswith(stem) for name in taken):
            break
    taken.add(stem)
    return stem


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield every name of a value in a graph and its subgraphs."""
    for part in graphs(graph):
        yield from (value.name for value in (*part.input, *part.output, *part.value_info, *part.initializer))
        yield from (sparse.values.name for sparse in part.sparse_initializer)
        yield from (name for node in part.node for name in (*node.input, *node.output))


def _least_version(protected: onnx.ModelProto) -> str:
    """Return the least version of onnxruntime that decodes and votes all of a file."""
    least = DECODES
    for vote in find_votes(protected):
        needed = VOTES_FROM.get(vote.dtype.name, least)
        least = needed if is_before(least, needed) else least
    return least


def _opset(model: onnx.ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in _OWN), default=0)


def _optimised_parts(model: onnx.ModelProto) -> Counter[tuple[object, ...]]:
    """Return operators and stored values of a model as onnxruntime optimises it, whatever their names.

    The output that tells the file's health, a stored value then, is left out.
    """
    graph = optimise(model.SerializeToString(), Deployment()).graph
    parts: Counter[tuple[object, ...]] = Counter((node.op_type, node.domain) for node in graph.node)
    for tensor in graph.initializer:
        if tensor.name != HEALTH:
            digest = hashlib.sha256(tensor.raw_data).hexdigest()
            parts["stored values", tensor.data_type, *tensor.dims, digest] += 1
    return parts
