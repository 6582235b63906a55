"""Reading an ONNX file, ours or anybody's: parse, take external data in, refuse what cannot be a model."""

import graphlib
import hashlib
import pathlib
from collections.abc import Iterator

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import inliner, numpy_helper

from resq_deploy.deployed import external
from resq_deploy.deployed.tensors import settle
from resq_deploy.errors import ModelError

MAX_BYTES = 2**31 - 1
"""Protocol buffers, and so sessions created from bytes, end at 2 GiB."""

_MAX_INLINED = 1_000_000  # nodes; functions that call each other can multiply without end


def read_model(path: pathlib.Path) -> tuple[onnx.ModelProto, str]:
    """Read a model with every parameter in `raw_data`, whatever way the file stores it.

    Model functions are inlined, as onnxruntime does, so that every parameter lies in a graph.

    Returns:
        The model, self-contained, and the SHA-256 that names the file together with its external data.

    Raises:
        ModelError: if the file cannot be read, is not an ONNX model, is larger than 2 GiB, its graph is not one, or
            its tensors contradict their shapes or lead out of the model's folder.
    """
    data = _read(path)
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX model: it does not parse as one") from error
    if not model.graph.node:
        raise ModelError(f"{path} is not an ONNX model: it holds no graph with nodes")
    try:
        digests = [hashlib.sha256(data).hexdigest(), *external.take_in(_tensors(model), path.parent, MAX_BYTES)]
        model = _inlined(model)
        _check_names(model)
        for part in graphs(model.graph):
            in_order(part)
            _settle_constants(part)
        for tensor in _tensors(model):
            settle(tensor)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    if model.ByteSize() > MAX_BYTES:
        raise ModelError(f"{path} with its external data is larger than 2 GiB: split it")
    return model, digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and, depth first, the subgraphs of its control-flow nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)
            for subgraph in attribute.graphs:
                yield from graphs(subgraph)


def stored_tensors(graph: onnx.GraphProto) -> Iterator[tuple[onnx.TensorProto, str]]:
    """Yield every tensor a file stores as a parameter, with the name of its value.

    These are the initializers and the tensors of Constant nodes (which onnxruntime turns into initializers when it
    loads the file), of the graph and its subgraphs; of a sparse one, the values.
    """
    for part in graphs(graph):
        for tensor in part.initializer:
            yield tensor, tensor.name
        for sparse in part.sparse_initializer:
            yield sparse.values, sparse.values.name
        for node in part.node:
            if node.op_type == "Constant" and node.output:
                for attribute in node.attribute:
                    if attribute.name == "value" and attribute.HasField("t"):
                        yield attribute.t, node.output[0]
                    if attribute.name == "sparse_value" and attribute.HasField("sparse_tensor"):
                        yield attribute.sparse_tensor.values, node.output[0]


def in_order(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes of a graph, without those of its subgraphs, each after the nodes it reads from.

    Raises:
        ModelError: if two nodes make the same value, or the graph has a cycle.
    """
    makers: dict[str, int] = {}
    for place, node in enumerate(graph.node):
        for output in filter(None, node.output):
            if output in makers:
                raise ModelError(f"the value {output!r} is made twice, so the graph is not a valid one: export it anew")
            makers[output] = place
    needs = {place: [makers[value] for value in node.input if value in makers] for place, node in enumerate(graph.node)}
    if all(maker < place for place, made_by in needs.items() for maker in made_by):
        return list(graph.node)
    try:
        return [graph.node[place] for place in graphlib.TopologicalSorter(needs).static_order()]
    except graphlib.CycleError as error:
        label = node_label(graph.node[error.args[1][0]])
        raise ModelError(f"the graph has a cycle through the node {label!r}: export the model anew") from error


def node_label(node: onnx.NodeProto) -> str:
    """Return what a layer is called: the node's name, else its first output."""
    return node.name or next((output for output in node.output if output), node.op_type)


def _read(path: pathlib.Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise ModelError(f"cannot read {path}: it is no regular file; name the .onnx file itself")
        if path.stat().st_size > MAX_BYTES:
            raise ModelError(f"{path} is larger than 2 GiB, the limit of a model held in memory: split it")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ModelError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor in a model, parameter or not."""
    nodes = [node for function in model.functions for node in function.node]
    for part in graphs(model.graph):
        yield from part.initializer
        for sparse in part.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        nodes += part.node
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)


def _check_names(model: onnx.ModelProto) -> None:
    """Refuse names that are not UTF-8, which protocol buffers hand over as bytes."""
    for tensor in _tensors(model):
        _check_name(tensor.name)
    for part in graphs(model.graph):
        for value in (*part.input, *part.output):
            _check_name(value.name)
        for node in part.node:
            attributes = (attribute.name for attribute in node.attribute)
            for name in (node.name, node.op_type, node.domain, *node.input, *node.output, *attributes):
                _check_name(name)


def _check_name(name: str | bytes) -> None:
    if isinstance(name, bytes):
        raise ModelError(f"the name {name!r} is not UTF-8: export the model with another name")


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its functions written out where they are called."""
    if not model.functions:
        return model
    sizes: dict[tuple[str, str, str], int] = {}
    for _ in range(len(model.functions) + 1):
        before = dict(sizes)
        for function in model.functions:
            called = ((node.domain, node.op_type, node.overload) for node in function.node)
            key = (function.domain, function.name, function.overload)
            sizes[key] = sum(before.get(name, 1) for name in called)
            if sizes[key] > _MAX_INLINED:
                raise ModelError(f"the function {function.name!r} calls others without end: inline it on export")
        if sizes == before:
            break
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # onnx raises its own C++ types here
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"its functions cannot be inlined ({reason}): inline them on export") from error


def _settle_constants(graph: onnx.GraphProto) -> None:
    """Give Constant nodes that hold plain numbers a tensor in their place, so that their bits can be reached."""
    for node in graph.node:
        if node.op_type != "Constant":
            continue
        for attribute in node.attribute:
            if attribute.name in ("value_float", "value_floats"):
                values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
                tensor = numpy_helper.from_array(np.asarray(values, dtype=np.float32))
                attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))
