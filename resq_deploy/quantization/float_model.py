"""Making a float ONNX file ready to quantize: batch-norm folded, shapes inferred, nothing quantized yet."""

import pathlib
import tempfile

import onnx
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
            return onnx.load(str(target))
        except Exception as error:  # onnxruntime and onnx raise many types here
            raise ModelError(f"{path} cannot be prepared for quantization: {first_line(error)}") from error
