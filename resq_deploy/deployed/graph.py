"""Reading an ONNX file, ours or anybody's: parse, take external data in, refuse what cannot be a model."""

import dataclasses
import graphlib
import hashlib
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from resq_deploy.deployed import external
from resq_deploy.deployed.inlining import everything, mark, unmark, written_out
from resq_deploy.deployed.nesting import captured, make_names_unique
from resq_deploy.deployed.nesting import graphs as graphs
from resq_deploy.deployed.nesting import node_label as node_label
from resq_deploy.deployed.stored import LeftOut, Source, Stored, stored_values
from resq_deploy.deployed.tensors import settle
from resq_deploy.deployed.wire import float_patterns
from resq_deploy.errors import ModelError

MAX_BYTES = 2**31 - 1
"""Protocol buffers, and so sessions created from bytes, end at 2 GiB."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """A model as it was read.

    Attributes:
        model: self-contained, functions written out but for the decoders of codes, every parameter in `raw_data`, no
            name for two values.
        digest: SHA-256 that names the file together with its external data.
        sources: where the bytes of stored values lie in the file, by place.
        left_out: what the file stores and the model does not hold.
    """

    model: onnx.ModelProto
    digest: str
    sources: Mapping[str, Source]
    left_out: tuple[LeftOut, ...]


def read_model(path: pathlib.Path) -> tuple[onnx.ModelProto, str]:
    """Read a model with every parameter in `raw_data`, whatever way the file stores it; see `open_model`.

    Returns:
        The model, self-contained, and the SHA-256 that names the file together with its external data.
    """
    opened = open_model(path)
    return opened.model, opened.digest


def open_model(path: pathlib.Path) -> Opened:
    """Read a model with every parameter in `raw_data`, whatever way the file stores it.

    Model functions are written out, as onnxruntime does, so that every parameter lies in a graph; those that decode
    weights, and store nothing themselves, stay.

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
        opened = _opened(model, hashlib.sha256(data).hexdigest(), path.parent)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    if opened.model.ByteSize() > MAX_BYTES:
        raise ModelError(f"{path} with its external data is larger than 2 GiB: split it")
    return opened


def _opened(model: onnx.ModelProto, sha256: str, folder: pathlib.Path) -> Opened:
    unread = [_only_trained(stored) for stored in _training(model)]
    del model.training_info[:]
    digests, sources = external.take_in((stored.holder for stored in everything(model)), folder, MAX_BYTES)
    marks = mark(model, sources)
    model = written_out(model, decoders=False)
    found, lost = unmark(model, marks)
    _check_names(model)
    for part in graphs(model.graph):
        in_order(part)
    for old, new in _settle_constants(model.graph):
        if old in found:
            found[new] = found.pop(old)
    for stored in stored_values(model.graph):
        if isinstance(stored.holder, onnx.TensorProto):
            settle(stored.holder)
    make_names_unique(model.graph)
    digest = hashlib.sha256("".join((sha256, *digests)).encode()).hexdigest() if digests else sha256
    return Opened(model=model, digest=digest, sources=found, left_out=(*lost, *unread))


def _training(model: onnx.ModelProto) -> Iterator[Stored]:
    """Yield what the file stores for training alone, which no session reads."""
    for information in model.training_info:
        yield from stored_values(information.initialization)
        yield from stored_values(information.algorithm)


def _only_trained(stored: Stored) -> LeftOut:
    return LeftOut(tensor=stored.value or stored.place, bits=stored.bits, reason="read in training only")


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
    needs = {
        place: [makers[value] for value in (*node.input, *sorted(captured(node))) if value in makers]
        for place, node in enumerate(graph.node)
    }
    if all(maker < place for place, made_by in needs.items() for maker in made_by):
        return list(graph.node)
    try:
        return [graph.node[place] for place in graphlib.TopologicalSorter(needs).static_order()]
    except graphlib.CycleError as error:
        label = node_label(graph.node[error.args[1][0]])
        raise ModelError(f"the graph has a cycle through the node {label!r}: export the model anew") from error


def _read(path: pathlib.Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise ModelError(f"cannot read {path}: it is no regular file; name the .onnx file itself")
        if path.stat().st_size > MAX_BYTES:
            raise ModelError(f"{path} is larger than 2 GiB, the limit of a model held in memory: split it")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ModelError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _check_names(model: onnx.ModelProto) -> None:
    """Refuse names that are not UTF-8, which protocol buffers hand over as bytes."""
    for stored in stored_values(model.graph):
        _check_name(stored.holder.name)
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


def _settle_constants(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    """Give Constant nodes that hold plain numbers a tensor in their place, so that their bits can be reached.

    Yields:
        The place of each such number before and after.
    """
    for stored in list(stored_values(graph)):
        holder = stored.holder
        if stored.node is None or stored.node.op_type != "Constant" or not isinstance(holder, onnx.AttributeProto):
            continue
        if stored.attribute in ("value_float", "value_floats"):
            values = float_patterns(holder.SerializeToString(), stored.form.value).view("<f4").reshape(stored.shape)
        elif stored.attribute in ("value_int", "value_ints"):
            values = np.array(holder.i if stored.attribute == "value_int" else list(holder.ints), dtype="<i8")
        else:
            continue
        tensor = numpy_helper.from_array(values)
        holder.CopyFrom(onnx.helper.make_attribute("value", tensor))
        yield stored.place, f"{stored.place.rpartition('.')[0]}.t"
