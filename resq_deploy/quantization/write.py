"""Writing the static int8 file with onnxruntime's quantizer."""

import contextlib
import copy
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantizationMode, QuantType, quant_utils, quantize_dynamic
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from resq_deploy.deployed.runtime_errors import first_line
from resq_deploy.errors import ModelError
from resq_deploy.grid import largest_code
from resq_deploy.quantization.calibrate import OPERATORS, ActivationRanges, quiet
from resq_deploy.quantization.ranges import STORED_BITS
from resq_deploy.quantization.scheme import Scheme
from resq_deploy.quantization.unsigned import store_as_uint8


def write_int8(
    model: onnx.ModelProto,
    activations: ActivationRanges,
    scheme: Scheme,
    overrides: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> bytes:
    """Quantize a prepared float model: MinMax weight ranges unless overridden, uint8 activations.

    uint8 and not int8 activations, since onnxruntime fuses more of them into integer kernels (of ResNet18's 20
    convolutions int8 leaves 12 in float).

    Args:
        model: the float model, from `prepare_float_model`; not changed.
        activations: the range of every activation, from `activation_ranges` or narrower.
        scheme: what to write.
        overrides: ranges of weights, as onnxruntime's `TensorQuantOverrides`.

    Returns:
        The int8 model, serialised, with no metadata but the opset and the producer.

    Raises:
        ModelError: if onnxruntime cannot quantize the model, or its int8 weights cannot be stored as uint8.
    """
    try:
        with quiet():
            written = _quantized(model, activations, scheme, {"TensorQuantOverrides": overrides} if overrides else {})
    except Exception as error:  # onnxruntime's quantizer raises many types
        raise ModelError(f"onnxruntime cannot quantize the model: {first_line(error)}") from error
    if scheme.weight_type == "uint8":
        store_as_uint8(written, scheme.zero_point)
    return _finished(written)


def write_dynamic(model: onnx.ModelProto, scheme: Scheme) -> bytes:
    """Quantize the weights of a prepared float model alone: activations become integers as the file runs.

    Args:
        model: the float model, from `prepare_float_model`; not changed.
        scheme: what to write; its format is `dynamic`.

    Returns:
        The int8 model, serialised, with no metadata but the opset and the producer.

    Raises:
        ModelError: if onnxruntime cannot quantize the model.
    """
    weights = QuantType.QInt8 if scheme.weight_type == "int8" else QuantType.QUInt8
    try:
        with tempfile.TemporaryDirectory(prefix="resq-deploy-") as folder, quiet():
            source, target = (pathlib.Path(folder) / name for name in ("float.onnx", "int8.onnx"))
            onnx.save(model, str(source))
            quantize_dynamic(
                source,
                target,
                weight_type=weights,
                per_channel=scheme.granularity == "channel",
                reduce_range=scheme.reduce_range,
                nodes_to_exclude=list(scheme.float_nodes),
            )
            written = onnx.load(str(target))
    except Exception as error:  # onnxruntime's quantizer raises many types
        raise ModelError(f"onnxruntime cannot quantize the model: {first_line(error)}") from error
    return _finished(written)


def _finished(written: onnx.ModelProto) -> bytes:
    """Return a file without what the quantizer says of itself, serialised."""
    del written.metadata_props[:]
    written.producer_name, written.producer_version, written.doc_string = "resq-deploy", "", ""
    onnx.checker.check_model(written)
    serialised: bytes = written.SerializeToString(deterministic=True)
    return serialised


def _quantized(
    model: onnx.ModelProto, activations: ActivationRanges, scheme: Scheme, extra: Mapping[str, Any]
) -> onnx.ModelProto:
    """Return what onnxruntime's `quantize_static` gives; that function itself calibrates anew at every call."""
    scratch = copy.deepcopy(model)  # onnxruntime 1.32 moves the weights of the model it is given to a temporary file
    ranges = TensorsData(CalibrationMethod.MinMax, dict(activations))
    types, excluded = (QuantType.QInt8, QuantType.QUInt8), list(scheme.float_nodes)
    common: tuple[Any, ...] = (*types, ranges, [], excluded, OPERATORS, dict(extra))
    # Fewer bits for the constants of additions as well, which in QDQ onnxruntime does not tell from weights.
    per_channel, reduce_range = scheme.granularity == "channel", scheme.reduce_range and scheme.bits == STORED_BITS
    if scheme.format == "qdq":
        quantizer = QDQQuantizer(scratch, per_channel, reduce_range, *common)
    else:
        mode = QuantizationMode.QLinearOps
        quantizer = ONNXQuantizer(scratch, per_channel, reduce_range, mode, True, *common)
    with _symmetric_range(largest_code(scheme.bits)):
        quantizer.quantize_model()
    with tempfile.TemporaryDirectory(prefix="resq-deploy-") as folder:
        target = pathlib.Path(folder) / "int8.onnx"
        quantizer.model.save_model_to_file(str(target))
        return onnx.load(str(target))


@contextlib.contextmanager
def _symmetric_range(code_max: int) -> Iterator[None]:
    """Let the quantizer give int8 weights the codes up to a largest one, for which it has no option.

    `readback` finds out if a version of onnxruntime reads another table.
    """
    table = quant_utils.ONNX_INT_TYPE_SYMMETRIC_RANGE
    before = table[onnx.TensorProto.INT8]
    table[onnx.TensorProto.INT8] = (np.array(-code_max, dtype=np.int8), np.array(code_max, dtype=np.int8))
    try:
        yield
    finally:
        table[onnx.TensorProto.INT8] = before
