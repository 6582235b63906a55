"""Reading an ONNX file, ours or anybody's: parse, take external data in, look at nodes without trusting names."""

import hashlib
import math
import pathlib
from collections import defaultdict
from collections.abc import Iterator

import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper, numpy_helper

from resq_deploy.errors import ModelError

MAX_BYTES = 2**31 - 1
"""Protocol buffers, and so sessions created from bytes, end at 2 GiB."""

WIDTHS: dict[int, int] = {
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.BFLOAT16: 16,
    onnx.TensorProto.DOUBLE: 64,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.INT16: 16,
    onnx.TensorProto.UINT16: 16,
    onnx.TensorProto.INT32: 32,
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.FLOAT8E4M3FN: 8,
    onnx.TensorProto.FLOAT8E4M3FNUZ: 8,
    onnx.TensorProto.FLOAT8E5M2: 8,
    onnx.TensorProto.FLOAT8E5M2FNUZ: 8,
}
"""Stored bits of one element, for the types that can be a parameter of a network."""


def read_model(path: pathlib.Path) -> tuple[onnx.ModelProto, str]:
    """Read a model with every parameter in `raw_data`, whatever way the file stores it.

    Returns:
        The model, self-contained, and the SHA-256 that names the file together with its external data.

    Raises:
        ModelError: if the file cannot be read, is not an ONNX model, is larger than 2 GiB, or its tensors
            contradict their shapes or lead out of the model's folder.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelError(f"{path} is larger than 2 GiB, the limit of a model held in memory: split it")
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX model: it does not parse as one") from error
    if not model.graph.node:
        raise ModelError(f"{path} is not an ONNX model: it holds no graph with nodes")
    digests = [hashlib.sha256(data).hexdigest(), *_take_external_data_in(model, path)]
    for tensor, name in stored_tensors(model.graph):
        if tensor.data_type in WIDTHS:
            _to_raw(tensor, name, path)
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
    loads the file), of the graph and its subgraphs.
    """
    for part in graphs(graph):
        for tensor in part.initializer:
            yield tensor, tensor.name
        for node in part.node:
            if node.op_type == "Constant" and node.output:
                for attribute in node.attribute:
                    if attribute.name == "value" and attribute.HasField("t"):
                        yield attribute.t, node.output[0]


def _to_raw(tensor: onnx.TensorProto, name: str, path: pathlib.Path) -> None:
    """Move the values of typed fields into `raw_data` and check them against the shape."""
    width = WIDTHS[tensor.data_type]
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"{path}: tensor {name!r} has a negative dimension {list(tensor.dims)}")
    elements = math.prod(tensor.dims)
    expected = (elements * width + 7) // 8
    if not tensor.HasField("raw_data"):
        held = sum(len(getattr(tensor, field)) for field in ("float_data", "int32_data", "double_data"))
        # Two 4-bit elements share one entry of int32_data.
        if held != ((elements + 1) // 2 if width == 4 else elements):
            raise ModelError(f"{path}: tensor {name!r} of shape {list(tensor.dims)} holds {held} stored values")
        try:
            raw = numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)
        except (ValueError, TypeError, OverflowError) as error:
            raise ModelError(f"{path}: tensor {name!r} cannot be read ({error})") from error
        tensor.CopyFrom(raw)
    if len(tensor.raw_data) != expected:
        raise ModelError(
            f"{path}: tensor {name!r} of shape {list(tensor.dims)} should store {expected} bytes "
            f"and stores {len(tensor.raw_data)}: the file is damaged"
        )


def _take_external_data_in(model: onnx.ModelProto, path: pathlib.Path) -> list[str]:
    """Load external tensors into the model; return the digests of the files they come from."""
    used: dict[str, str] = {}
    for tensor in external_data_helper._get_all_tensors(model):
        if not external_data_helper.uses_external_data(tensor):
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        used.setdefault(location, _external_digest(path, location, tensor.name))
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
        except Exception as error:  # onnx raises several types here, its own C++ ones among them
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelError(f"{path}: external data of {tensor.name!r} cannot be read ({reason})") from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    return [used[location] for location in sorted(used)]


def _external_digest(path: pathlib.Path, location: str, name: str) -> str:
    folder = path.parent.resolve()
    try:
        target = (folder / location).resolve()
        if not location or not target.is_relative_to(folder):
            raise ModelError(f"{path}: external data of {name!r} leads out of the model's folder: {location!r}")
        if target.stat().st_size > MAX_BYTES:
            raise ModelError(f"{path}: external data file {location!r} is larger than 2 GiB: split the model")
        with target.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: external data of {name!r} cannot be read: {location!r}") from error


class Wiring:
    """Who makes and who reads each value, over a graph and its subgraphs.

    Attributes:
        nodes: all nodes, in the order of the file.
        stored: names of the values a tensor is stored for.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = [node for part in graphs(graph) for node in part.node]
        self.stored = {name for _, name in stored_tensors(graph)}
        self._makers = {output: node for node in self.nodes for output in node.output if output}
        self._readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
        for node in self.nodes:
            for slot, value in enumerate(node.input):
                if value:
                    self._readers[value].append((node, slot))

    def maker(self, value: str) -> onnx.NodeProto | None:
        """Return the node that computes a value; None for stored values and graph inputs."""
        return None if value in self.stored else self._makers.get(value)

    def readers(self, value: str) -> list[tuple[onnx.NodeProto, int]]:
        """Return the nodes that read a value, each with the input slot it reads it in."""
        return self._readers.get(value, [])


def node_label(node: onnx.NodeProto) -> str:
    """Return what a layer is called: the node's name, else its first output."""
    return node.name or next((output for output in node.output if output), node.op_type)
