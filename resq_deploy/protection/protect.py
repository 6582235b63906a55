"""Weights of a file stored under an error-correcting code, decoded by nodes that onnxruntime folds.

    decode(stored, tables) -> Reshape -> the tensor's own name
    decode(stored, tables) -> Reshape -> Split -> Reshape -> ...        several tensors, or a last block that is padded

Small tensors are stored one behind the other: what a decoder costs when a session is created is its nodes, not bytes.
Whoever reads the tensor stays as it is, so that QDQ and QOperator files, scales per channel and per tensor, and tensors
of any shape are all alike. onnxruntime decodes when it creates the session; the optimised graph, its outputs and its
speed are those of the file without code. Faults in storage, before the file is loaded, are corrected; faults in
memory, after it was loaded, are not. What a file needs to decode - tables, shapes - is stored too, and not covered by
the code; nor are attributes and the file's framing.
"""

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.codes.code import Code
from resq_deploy.codes.words import encode, stored_size
from resq_deploy.deployed.coded import DOMAIN
from resq_deploy.deployed.graph import graphs, stored_tensors
from resq_deploy.deployed.runtime_graph import optimise
from resq_deploy.deployed.session import Deployment
from resq_deploy.errors import ModelError
from resq_deploy.protection.decoder import LEAST_OPSET, Decoder, make_decoder
from resq_deploy.protection.graph_parts import Parts

_IR = 8  # the first with functions
_PIECE = 1 << 26
"""Most bytes that are decoded at once: onnxruntime folds no node of more than 1 GiB, and eight are computed a byte."""

_TOGETHER = 1 << 20
"""Most bytes of tensors that are decoded together; cutting them apart takes memory once more."""

_STEM = 5  # hexadecimal digits of a name
_OWN = ("", "ai.onnx")


def protect(model: onnx.ModelProto, tensors: Collection[str], code: Code) -> onnx.ModelProto:
    """Store some weights under a code.

    Args:
        model: the model, self-contained; not changed.
        tensors: names of int8 initializers of its main graph, whose values the weight bits of the code hold.
        code: the code.

    Returns:
        The protected model; the same for the same input. Its opset is that of `model`, its IR version at least 8.

    Raises:
        ModelError: if a tensor cannot be protected (`obstacles` says which), or onnxruntime does not fold the decoder.
    """
    for tensor, reason in obstacles(model, tensors, code).items():
        raise ModelError(f"tensor {tensor!r} cannot be protected: {reason}")
    protected = onnx.ModelProto()
    protected.CopyFrom(model)
    if not tensors:
        return protected
    taken = set(_names(model.graph))
    decoder = make_decoder(code, _opset(model), _unused("decoder", taken))
    nodes, shapes = list(decoder.nodes), Parts(_unused("shapes", taken))
    chosen = [tensor for tensor in model.graph.initializer if tensor.name in set(tensors)]
    del protected.graph.initializer[:]
    for group in _groups(chosen, code):
        parts = _encode(group, code, decoder, shapes, taken)
        protected.graph.initializer.extend(parts.tables)
        nodes += parts.nodes
    protected.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name not in set(tensors))
    protected.graph.initializer.extend((*decoder.tables, *shapes.tables))
    _put_first(protected.graph, nodes)
    protected.functions.append(decoder.function)
    protected.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    protected.ir_version = max(protected.ir_version, _IR)
    _check_folded(model, protected)
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
    if tensor.data_type != TensorProto.INT8:
        return f"codes protect int8, not {TensorProto.DataType.Name(tensor.data_type).lower()}"
    values = numpy_helper.to_array(tensor)
    low, high = -code.largest - 1, code.largest
    if not values.size:
        return "it holds no values"
    if values.min() < low or values.max() > high:
        return f"it has values outside [{low}, {high}]: export it with weights of {code.weight_bits} bits"
    return None


def _groups(tensors: list[TensorProto], code: Code) -> Iterator[list[TensorProto]]:
    """Yield what is stored and decoded together: small tensors that follow each other, large ones by themselves."""
    group: list[TensorProto] = []
    for tensor in tensors:
        if group and stored_size(code, sum(math.prod(each.dims) for each in (*group, tensor))) > _TOGETHER:
            yield group
            group = []
        group.append(tensor)
    if group:
        yield group


def _encode(group: list[TensorProto], code: Code, decoder: Decoder, shapes: Parts, taken: set[str]) -> Parts:
    """Return what stores some weights, and the nodes that give them back under their names."""
    counts = [math.prod(tensor.dims) for tensor in group]
    stored = encode(code, np.concatenate([numpy_helper.to_array(tensor).reshape(-1) for tensor in group]))
    blocks = stored.view(np.int8 if decoder.signed else np.uint8).reshape(-1, 1, code.block // 8, 8)
    parts = Parts(_unused("\0".join(tensor.name for tensor in group), taken))
    decoded = []
    for start in range(0, len(blocks), _PIECE // code.block):
        piece = parts.stored(blocks[start : start + _PIECE // code.block])
        decoded.append(parts.name())
        parts.nodes.append(decoder.call(piece, decoded[-1]))
    value = decoded[0] if len(decoded) == 1 else parts.node("Concat", *decoded, axis=0)
    values = [value]
    if sum(counts) != stored.size or len(group) > 1:
        flat = parts.node("Reshape", value, shapes.table(np.array([-1])))
        sizes = [*counts, stored.size - sum(counts)]  # the last is the padding, where there is any
        sizes = sizes if sizes[-1] else counts
        values = parts.cut(flat, shapes.table(np.array(sizes)), len(sizes))
    for tensor, value in zip(group, values, strict=False):
        parts.node("Reshape", value, shapes.table(np.array(tensor.dims, dtype=np.int64)), output=tensor.name)
    return parts


def _put_first(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    nodes.extend(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)


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


def _opset(model: onnx.ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in _OWN), default=0)


def _check_folded(model: onnx.ModelProto, protected: onnx.ModelProto) -> None:
    """Check that a file is optimised to the same operators and stored values with code as without.

    Raises:
        ModelError: if it is not.
    """
    plain, coded = (_optimised_parts(each) for each in (model, protected))
    if plain != coded:
        left = ", ".join(sorted({str(part[0]) for part in (coded - plain) + (plain - coded)}))
        raise ModelError(f"onnxruntime does not make of this file with a code what it makes without ({left} differ)")


def _optimised_parts(model: onnx.ModelProto) -> Counter[tuple[object, ...]]:
    """Return operators and stored values of a model as onnxruntime optimises it, whatever their names."""
    graph = optimise(model.SerializeToString(), Deployment()).graph
    parts: Counter[tuple[object, ...]] = Counter((node.op_type, node.domain) for node in graph.node)
    for tensor in graph.initializer:
        digest = hashlib.sha256(tensor.raw_data).hexdigest()
        parts["stored values", tensor.data_type, *tensor.dims, digest] += 1
    return parts
