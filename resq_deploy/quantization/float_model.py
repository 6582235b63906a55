"""Making a float ONNX file ready to quantize: batch-norm folded, shapes inferred, nothing quantized yet."""

import collections
import pathlib
import tempfile

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization.shape_inference import quant_pre_process

from resq_deploy.deployed.graph import graphs, read_model
from resq_deploy.deployed.session import first_line
from resq_deploy.errors import ModelError

_CONTROL_FLOW = ("If", "Loop", "Scan")


def prepare_float_model(path: pathlib.Path) -> onnx.ModelProto:
    """Read a float model and fold what onnxruntime folds before quantization (batch-norm, constants).

    Raises:
        ModelError: if the file is no float ONNX model, has control flow, or onnxruntime cannot process it.
    """
    model, _ = read_model(path)
    operators = {node.op_type for graph in graphs(model.graph) for node in graph.node}
    quantized = sorted(name for name in operators if "Quantize" in name or "QLinear" in name or "Integer" in name)
    if quantized:
        raise ModelError(f"{path} is quantized already (it has {quantized[0]} nodes): give the float model")
    control = sorted(operators.intersection(_CONTROL_FLOW))
    if control:
        raise ModelError(f"{path} has control flow ({control[0]}), which cannot be quantized: export it unrolled")
    with tempfile.TemporaryDirectory(prefix="resq-deploy-") as folder:
        original, target = pathlib.Path(folder) / "float.onnx", pathlib.Path(folder) / "prepared.onnx"
        try:
            # By path: handed a model in memory, onnxruntime 1.32 moves its weights to external files and fails.
            onnx.save(model, str(original))
            quant_pre_process(str(original), str(target), skip_symbolic_shape=True)
            prepared = onnx.load(str(target))
        except Exception as error:  # onnxruntime and onnx raise many types here
            raise ModelError(f"{path} cannot be prepared for quantization: {first_line(error)}") from error
    _settle_biases(prepared)
    return prepared


def _settle_biases(model: onnx.ModelProto) -> None:
    """Give every Conv and Gemm a bias of its own, multiplied by `beta`, so that the quantizer scales it rightly.

    onnxruntime 1.32 quantizes a bias that layers share for one of them only, unless the layers are named and the form
    is QDQ; and it sets the `beta` of a Gemm to 1 without multiplying the bias.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    reads = collections.Counter(name for node in model.graph.node for name in node.input)
    for place, node in enumerate(model.graph.node):
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3 or node.input[2] not in stored:
            continue
        beta = next((attribute for attribute in node.attribute if attribute.name == "beta"), None)
        factor = beta.f if beta is not None else 1.0
        if factor == 1 and reads[node.input[2]] == 1:
            continue
        bias = numpy_helper.to_array(stored[node.input[2]])
        own = np.asarray(bias * bias.dtype.type(factor), dtype=bias.dtype)
        node.input[2] = f"{node.input[2]}_of_node{place}"
        model.graph.initializer.append(numpy_helper.from_array(own, node.input[2]))
        if beta is not None:
            beta.f = 1.0
    read = {name for node in model.graph.node for name in node.input}
    read.update(value.name for value in (*model.graph.input, *model.graph.output))
    for name in stored.keys() - read:  # a bias that was replaced
        model.graph.initializer.remove(stored[name])
