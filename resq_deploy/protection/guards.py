"""Guards: chosen initializers stored three times and voted by two standard nodes in front of whoever reads them.

    Equal(a, b) -> same;  Where(same, a, c) -> the tensor's own name

onnxruntime takes the vote when it creates the session, before it fuses quantized operators, so that the optimised
graph, its outputs and its speed are those of the unguarded file. A fault in one copy is outvoted, whatever it makes of
the value (a NaN equals nothing, so that the third copy is taken). Faults in storage, before the file is loaded, are
voted out; faults in memory, after it was loaded, are not.
"""

import dataclasses
import functools
import hashlib
import itertools
from collections import Counter
from collections.abc import Collection, Iterator

import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError

from resq_deploy.deployed import votes
from resq_deploy.deployed.deployment import Deployment, create
from resq_deploy.deployed.folding import computation
from resq_deploy.deployed.graph import graphs, stored_tensors
from resq_deploy.deployed.runtime_errors import first_line
from resq_deploy.deployed.surfaces import Surface
from resq_deploy.deployed.tensors import settle, stored_bytes
from resq_deploy.errors import ModelError

TYPES = frozenset({"int8", "uint8", "int32", "uint32", "int64", "float", "double"})
"""Stored types that can be guarded: those that Equal and Where of onnxruntime's CPU provider both take; int8 and uint32
from its version 1.31 on, uint8 from 1.22 on, so that a file with such guarded tensors does not load in earlier ones."""

LEAST_ONNXRUNTIME = {"int8": "1.31", "uint32": "1.32", "uint8": "1.22"}
"""The least version that votes on a type, where it is not any."""

_OPSET, _IR = 13, 4
_STEM = 7  # hexadecimal digits of a name


@dataclasses.dataclass(frozen=True)
class Guard:
    """What stands in a guarded file for one tensor: three copies and the two nodes of their vote."""

    copies: tuple[onnx.TensorProto, ...]
    nodes: tuple[onnx.NodeProto, ...]


def guard(model: bytes, tensors: Collection[str]) -> bytes:
    """Store some initializers three times, voted when the session is created.

    The copies get short names of their own, derived from the tensor's; the vote gives the tensor's name, so that all
    who read it stay as they are. The three lie far apart in the file, the votes are its first nodes. What is written
    is checked against what was given: both must be optimised, at onnxruntime's default level, to the same nodes with
    the same contents. (Where a deployment switches optimisation off, votes are taken at every run.)

    Args:
        model: the serialised model, self-contained; QDQ or QOperator, opset 13 or later.
        tensors: names of initializers of its main graph.

    Returns:
        The guarded model, serialised; equal input gives equal bytes.

    Raises:
        ModelError: if a tensor cannot be guarded (`obstacles` says which), or onnxruntime does not fold a vote into
            the graph it makes of the unguarded file; the message names the first such tensor.
    """
    proto = _parse(model)
    for tensor, reason in obstacles(proto, tensors).items():
        raise ModelError(f"tensor {tensor!r} cannot be guarded: {reason}")
    chosen = [tensor.name for tensor in proto.graph.initializer if tensor.name in set(tensors)]
    if not chosen:
        return model
    guarded = _rewritten(proto, chosen)
    flaw = _flaw(guarded)
    if flaw and not _flaw(model):
        raise ModelError(f"with guards, the file is no valid ONNX model: {flaw}")
    _check_folded(proto, chosen)
    return guarded


def obstacles(model: onnx.ModelProto, tensors: Collection[str]) -> dict[str, str]:
    """Return those of some tensors that cannot be guarded, each with the reason.

    These are values that the caller of the model may override; what onnxruntime would not fold: types without kernels,
    tensors that are no plain initializers of the main graph, opsets before 13; and floats with a -0 among them, which
    its Where would make +0.
    """
    plain = {tensor.name: tensor for tensor in model.graph.initializer}
    counts = Counter(name for _, name in stored_tensors(model.graph))
    given = {value.name for value in model.graph.input}
    voted = votes.repeated(model)
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    found = {}
    for name in dict.fromkeys(tensors):
        tensor = plain.get(name)
        if tensor is None or counts[name] > 1:
            stored = "it is stored elsewhere than as an initializer of the main graph, or more than once"
            nothing = "the file stores no tensor of that name; a number in an attribute cannot be voted"
            found[name] = stored if name in counts else nothing
        elif model.ir_version < _IR or name in given:
            found[name] = "it is a graph input too, so that the caller may override it"
        elif opset < _OPSET:
            found[name] = f"the file has opset {opset}, votes need {_OPSET}"
        elif name in voted:
            found[name] = "it is a copy of a guarded tensor already"
        elif tensor.data_location == onnx.TensorProto.EXTERNAL:
            found[name] = "it lies in external data"
        elif reason := obstacle_of_type(onnx.TensorProto.DataType.Name(tensor.data_type).lower()):
            found[name] = reason
        elif votes.holds_negative_zero(onnx.numpy_helper.to_array(tensor)):
            found[name] = "it holds a -0, and a vote of onnxruntime would make that +0"
    return found


def obstacle_of_type(name: str) -> str | None:
    """Return why a stored type (as ONNX names it, in lower case) cannot be guarded; None if it can."""
    if name not in TYPES:
        return f"onnxruntime votes on {', '.join(sorted(TYPES))}, not on {name}"
    if not _has_kernels(name):
        return f"onnxruntime {ort.__version__} cannot vote on {name}: install a later one"
    return None


@functools.cache
def _has_kernels(name: str) -> bool:
    """Try whether the onnxruntime that is installed can vote on values of a type."""
    number = onnx.TensorProto.DataType.Value(name.upper())
    made = make_guard(onnx.helper.make_tensor("voted", number, [1], [0]), set())
    output = onnx.helper.make_tensor_value_info("voted", number, [1])
    graph = onnx.helper.make_graph(made.nodes, "vote", [], [output], made.copies)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", _OPSET)], ir_version=_IR)
    try:
        create(model.SerializeToString(), Deployment(optimization="none"))
    except ModelError:
        return False
    return True


def added_bytes(surface: Surface) -> int:
    """Return by how many bytes the file grows when a tensor is guarded: two more copies, their names, two nodes."""
    number = onnx.TensorProto.DataType.Value(surface.dtype.upper())
    tensor = onnx.TensorProto(name=surface.tensor, data_type=number, dims=surface.shape)
    tensor.raw_data = bytes(stored_bytes(tensor) or 0)
    made = make_guard(tensor, set())
    return votes.added_bytes(made.copies, made.nodes, surface.tensor)


def _parse(model: bytes) -> onnx.ModelProto:
    try:
        parsed: onnx.ModelProto = onnx.ModelProto.FromString(model)
    except DecodeError as error:
        raise ModelError("what is to be guarded is not an ONNX model: it does not parse as one") from error
    return parsed


def _flaw(model: bytes) -> str | None:
    """Return what onnx's checker finds in a model, if anything."""
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # onnx raises its own C++ types here
        return first_line(error)
    return None


def _rewritten(model: onnx.ModelProto, chosen: Collection[str]) -> bytes:
    """Return a model with some initializers of its main graph guarded, serialised."""
    guarded = onnx.ModelProto()
    guarded.CopyFrom(model)
    taken = set(_names(model.graph))
    guards = {tensor.name: make_guard(tensor, taken) for tensor in model.graph.initializer if tensor.name in chosen}
    del guarded.graph.initializer[:]
    # Second copies first and third ones last: damage to one stretch of the file does not reach two of them.
    guarded.graph.initializer.extend(made.copies[1] for made in guards.values())
    guarded.graph.initializer.extend(
        guards[tensor.name].copies[0] if tensor.name in guards else tensor for tensor in model.graph.initializer
    )
    guarded.graph.initializer.extend(made.copies[2] for made in guards.values())
    del guarded.graph.node[:]
    guarded.graph.node.extend(node for made in guards.values() for node in made.nodes)
    guarded.graph.node.extend(model.graph.node)
    serialised: bytes = guarded.SerializeToString(deterministic=True)
    return serialised


def make_guard(tensor: onnx.TensorProto, taken: set[str]) -> Guard:
    """Return the guard of a tensor; its new names are added to those that are taken.

    Names are short, since each stands in the file two or three times: of a small network's file they would be a
    tenth. They depend on the tensor's name alone, so that two files in which different tensors are guarded see the
    same random bit errors in those they share.
    """
    for attempt in itertools.count():
        digest = hashlib.sha256(f"{tensor.name}\0{attempt}".encode()).hexdigest()
        a, b, c, same = names = [f"g{digest[:_STEM]}.{part}" for part in ("1", "2", "3", "same")]
        if taken.isdisjoint(names):
            break
    taken.update(names)
    copies = []
    for name in (a, b, c):
        copy = onnx.TensorProto()
        copy.CopyFrom(tensor)
        copy.name = name
        settle(copy)
        copies.append(copy)
    equal = onnx.NodeProto(op_type="Equal", input=[a, b], output=[same])
    where = onnx.NodeProto(op_type="Where", input=[same, a, c], output=[tensor.name])
    return Guard(tuple(copies), (equal, where))


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield every name of a value in a graph and its subgraphs."""
    for part in graphs(graph):
        yield from (value.name for value in (*part.input, *part.output, *part.value_info, *part.initializer))
        yield from (sparse.values.name for sparse in part.sparse_initializer)
        yield from (name for node in part.node for name in (*node.input, *node.output))


def _check_folded(model: onnx.ModelProto, chosen: list[str]) -> None:
    """Check that guarded and unguarded file are optimised to the same computation.

    Raises:
        ModelError: naming the first tensor whose guard makes a difference.
    """
    golden = computation(_with_idle_node(model), Deployment())
    if computation(_rewritten(model, chosen), Deployment()) == golden:
        return
    same, different = 0, len(chosen)  # so many guards, from the first on, make no difference, or do
    while different - same > 1:
        middle = (same + different) // 2
        if computation(_rewritten(model, chosen[:middle]), Deployment()) == golden:
            same = middle
        else:
            different = middle
    raise ModelError(
        f"tensor {chosen[same]!r} cannot be guarded: onnxruntime does not make the same optimised graph with its vote "
        "as without; leave it unguarded"
    )


def _with_idle_node(model: onnx.ModelProto) -> bytes:
    """Return a model with a node of no use for the optimiser to remove.

    A graph it finds nothing to do in is written as it came; any other with all attributes that have defaults.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    made = make_guard(onnx.helper.make_tensor("idle", onnx.TensorProto.INT32, [1], [0]), set(_names(model.graph)))
    changed.graph.initializer.append(made.copies[0])
    changed.graph.node.append(
        onnx.NodeProto(op_type="Identity", input=made.nodes[0].input[:1], output=made.nodes[0].output)
    )
    serialised: bytes = changed.SerializeToString()
    return serialised
