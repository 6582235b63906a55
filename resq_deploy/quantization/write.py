"""Writing the static int8 file with onnxruntime's quantizer."""

import copy
import logging
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

from resq_deploy.deployed.session import InputSpec, first_line
from resq_deploy.errors import ModelError
from resq_deploy.quantization.calibrate import StreamedImages
from resq_deploy.quantization.scheme import Scheme

_FORMATS = {"qdq": QuantFormat.QDQ, "qoperator": QuantFormat.QOperator}


def write_int8(
    model: onnx.ModelProto,
    images: NDArray[Any],
    spec: InputSpec,
    scheme: Scheme,
    overrides: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> bytes:
    """Quantize a prepared float model: MinMax ranges unless overridden, int8 weights, uint8 activations.

    uint8 and not int8 activations, since onnxruntime fuses more of them into integer kernels (of ResNet18's 20
    convolutions int8 leaves 12 in float).

    Args:
        model: the float model, from `prepare_float_model`; not changed.
        images: calibration images as the data set holds them, shape [N, ...].
        spec: what the model takes.
        scheme: what to write.
        overrides: ranges of weights, as onnxruntime's `TensorQuantOverrides`.

    Returns:
        The int8 model, serialised, with no metadata but the opset and the producer.

    Raises:
        ModelError: if onnxruntime cannot quantize the model.
    """
    scratch = copy.deepcopy(model)  # onnxruntime 1.32 moves the weights of the model it is given to a temporary file
    with tempfile.TemporaryDirectory(prefix="resq-deploy-") as folder:
        target = pathlib.Path(folder) / "int8.onnx"
        try:
            with _quiet():
                quantize_static(
                    scratch,
                    str(target),
                    StreamedImages(images, spec),
                    quant_format=_FORMATS[scheme.format],
                    per_channel=scheme.granularity == "channel",
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    calibrate_method=CalibrationMethod.MinMax,
                    extra_options={"TensorQuantOverrides": overrides} if overrides else {},
                )
        except Exception as error:  # onnxruntime's quantizer raises many types
            raise ModelError(f"onnxruntime cannot quantize the model: {first_line(error)}") from error
        written = onnx.load(str(target))
    del written.metadata_props[:]
    written.producer_name, written.producer_version, written.doc_string = "resq-deploy", "", ""
    onnx.checker.check_model(written)
    serialised: bytes = written.SerializeToString(deterministic=True)
    return serialised


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's advice on the root logger off the user's terminal; it is about steps taken already."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
