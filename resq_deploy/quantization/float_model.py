"""Making a float ONNX file ready to quantize: batch-norm folded, shapes inferred, nothing quantized yet."""

import collections
import math
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization.shape_inference import quant_pre_process

from resq_deploy.deployed.graph import graphs, read_model, stored_tensors
from resq_deploy.deployed.runtime_errors import first_line
from resq_deploy.errors import ModelError
from resq_deploy.quantization.calibrate import quiet
from resq_deploy.quantization.names import fresh, names_of, step_aside
from resq_deploy.quantization.opset import LOWEST, convert_opset

_CONTROL_FLOW = ("If", "Loop", "Scan")
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_OTHER_FLOATS = {
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
    onnx.TensorProto.DOUBLE: "double",
}


def prepare_float_model(path: pathlib.Path, opset: int | None = None, wanted: int = LOWEST) -> onnx.ModelProto:
    """Read a float model and fold what onnxruntime folds before quantization (batch-norm, constants).

    Args:
        path: the file.
        opset: the opset to bring it to; None keeps its own, but for those before 13.
        wanted: the opset that earlier ones are brought to, where none is asked for and onnx can do it.

    Raises:
        ModelError: if the file is no float32 ONNX model, has control flow, cannot be brought to the opset, or
            onnxruntime cannot process it.
        OptionError: if the opset cannot be written.
    """
    model, _ = read_model(path)
    operators = {node.op_type for graph in graphs(model.graph) for node in graph.node}
    quantized = sorted(name for name in operators if "Quantize" in name or "QLinear" in name or "Integer" in name)
    if quantized:
        raise ModelError(f"{path} is quantized already (it has {quantized[0]} nodes): give the float model")
    control = sorted(operators.intersection(_CONTROL_FLOW))
    if control:
        raise ModelError(f"{path} has control flow ({control[0]}), which cannot be quantized: export it unrolled")
    _check_floats(model, path)
    _close_inputs(model)
    try:
        model = _in_opset(model, opset, wanted)
    except ModelError as error:
        raise ModelError(f"{path} {error}") from error
    with tempfile.TemporaryDirectory(prefix="resq-deploy-") as folder:
        original, target = pathlib.Path(folder) / "float.onnx", pathlib.Path(folder) / "prepared.onnx"
        try:
            # By path: handed a model in memory, onnxruntime 1.32 moves its weights to external files and fails.
            onnx.save(model, str(original))
            with quiet():
                quant_pre_process(str(original), str(target), skip_symbolic_shape=True)
            prepared = onnx.load(str(target))
        except Exception as error:  # onnxruntime and onnx raise many types here
            raise ModelError(f"{path} cannot be prepared for quantization: {first_line(error)}") from error
    _drop_empty_inputs(prepared)
    _settle_biases(prepared)
    _drop_unused_domains(prepared)
    step_aside(prepared)
    return prepared


def _in_opset(model: onnx.ModelProto, opset: int | None, wanted: int) -> onnx.ModelProto:
    """Return a model in an opset, or in its own where that is only wanted and onnx cannot convert the model."""
    try:
        return convert_opset(model, opset, wanted)
    except ModelError:
        if opset is not None or wanted == LOWEST:
            raise
        return convert_opset(model, opset)


def _check_floats(model: onnx.ModelProto, path: pathlib.Path) -> None:
    """Check that images and layers are float32; what a Cast makes of the weights is seen when it is folded.

    Raises:
        ModelError: naming the image input or the weights that are of another type.
    """
    types = {name: tensor.data_type for tensor, name in stored_tensors(model.graph)}
    layers = [name for node in model.graph.node if node.op_type in _LAYERS for name in node.input if name in types]
    found = [(value.name, value.type.tensor_type.elem_type) for value in model.graph.input if value.name not in types]
    for name, kind in found + [(name, types[name]) for name in layers]:
        if kind in _OTHER_FLOATS:
            raise ModelError(f"{path} computes in {_OTHER_FLOATS[kind]} ({name!r}): give the float32 model")


def _close_inputs(model: onnx.ModelProto) -> None:
    """Make stored tensors that are graph inputs as well, as before IR version 4, constants that can be folded."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    if len(inputs) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)


def _drop_empty_inputs(model: onnx.ModelProto) -> None:
    """Leave out optional inputs that are written as empty names at the end, which the quantizer takes for values."""
    for node in model.graph.node:
        while node.input and not node.input[-1]:
            node.input.pop()


def _drop_unused_domains(model: onnx.ModelProto) -> None:
    """Leave out the domains that onnxruntime imports into every graph it saves, and that other runtimes do not know."""
    used = {node.domain or "" for graph in graphs(model.graph) for node in graph.node}
    imports = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx") or entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(imports)


def _settle_biases(model: onnx.ModelProto) -> None:
    """Give every Conv and Gemm a bias of its own, a value a channel, multiplied by `beta`, as the quantizer needs it.

    onnxruntime 1.32 quantizes a bias that layers share for one of them only, unless the layers are named and the form
    is QDQ; it sets the `beta` of a Gemm to 1 without multiplying the bias; and it fails on a bias with more than one
    axis, or with fewer values than channels, as ONNX lets a Gemm have. What differs from row to row is no bias: an
    addition after the product does the same.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    reads = collections.Counter(name for node in model.graph.node for name in node.input)
    taken, additions = names_of(model), dict[int, onnx.NodeProto]()
    for place, node in enumerate(model.graph.node):
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3 or node.input[2] not in stored:
            continue
        beta = next((attribute for attribute in node.attribute if attribute.name == "beta"), None)
        factor = beta.f if beta is not None else 1.0
        given = numpy_helper.to_array(stored[node.input[2]])
        bias = _by_channel(node, given, stored)
        if factor == 1 and reads[node.input[2]] == 1 and bias is given:
            continue
        own = np.asarray((given if bias is None else bias) * given.dtype.type(factor), dtype=given.dtype)
        name = fresh(f"{node.input[2]}_of_node{place}", taken)
        taken.add(name)
        model.graph.initializer.append(numpy_helper.from_array(own, name))
        if bias is None:
            additions[place] = _addition(node, name, taken)
        else:
            node.input[2] = name
        if beta is not None:
            beta.f = 1.0
    for place in sorted(additions, reverse=True):
        model.graph.node.insert(place + 1, additions[place])
    read = {name for node in model.graph.node for name in node.input}
    read.update(value.name for value in (*model.graph.input, *model.graph.output))
    for name in stored.keys() - read:  # a bias that was replaced
        model.graph.initializer.remove(stored[name])


def _by_channel(
    node: onnx.NodeProto, bias: NDArray[Any], stored: Mapping[str, onnx.TensorProto]
) -> NDArray[Any] | None:
    """Return the bias of a Conv or Gemm with a value a channel; the very same where it is such a vector already.

    None where a Gemm adds other values to each row.
    """
    if node.op_type == "Conv" or node.input[1] not in stored:
        return bias
    dims = stored[node.input[1]].dims
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    channels = dims[0 if transposed else 1]
    if bias.shape == (channels,):
        return bias
    if bias.ndim > 1 and math.prod(bias.shape[:-1]) != 1:
        return None
    return np.broadcast_to(bias.reshape(-1), (channels,)).copy()


def _addition(node: onnx.NodeProto, addend: str, taken: set[str]) -> onnx.NodeProto:
    """Let a Gemm add nothing, and return a node that adds it after."""
    output, product = node.output[0], fresh(f"{node.output[0]}_product", taken)
    taken.add(product)
    del node.input[2:]
    node.output[0] = product
    return helper.make_node("Add", [product, addend], [output], f"{product}_Add")
