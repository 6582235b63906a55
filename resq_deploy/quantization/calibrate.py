"""Calibration: the range of every activation over the images, in one pass and bounded memory.

onnxruntime's own MinMaxCalibrater holds no activations, but its graph does, all of a batch at once: so the batches are
small.
"""

import logging
import pathlib
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import InferenceSession, set_default_logger_severity
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from resq_deploy.deployed.inputs import Inputs, InputSpec
from resq_deploy.deployed.runtime_errors import first_line
from resq_deploy.errors import ModelError
from resq_deploy.quantization.fidelity import running

OPERATORS = sorted({*QLinearOpsRegistry, *QDQRegistry})
"""The operators that are quantized: all that onnxruntime can, as is its default."""

Images = NDArray[Any] | Inputs
"""Images as the data set holds them, [N, ...]; or samples as the model takes them."""

ActivationRanges = Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
"""By name of the tensor, the lowest and the highest value its uint8 codes are to reach; shapes [1]."""

_BATCH = 50
_HELD = 64 * 2**20
"""Bytes of activations held at a time; more of them is no faster."""
_FATAL, _WARNING = 4, 2
"""Levels of onnxruntime's log; the second is its default."""
_MERGED = 100
"""Batches whose ranges onnxruntime keeps before it merges them."""


class StreamedImages(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime carries no types
    """Hands images, or other samples, to onnxruntime's calibration, prepared only when asked for.

    Args:
        images: some.
        spec: what a model of images takes; samples that are no images need none.
        batch: images a step, where the model leaves it open.

    Attributes:
        rows: samples of the batch that was handed out last, those that fill up a fixed batch included.
    """

    def __init__(self, images: Images, spec: InputSpec | None, batch: int = 50) -> None:
        self._images = images
        self._spec = spec
        fixed = images.fixed if isinstance(images, Inputs) else spec.shape[0] if spec else None
        self._batch = fixed or batch
        self._next = 0
        self.rows = 0

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Return the next batch by input name, or None after the last."""
        part = self._images[self._next : self._next + self._batch]
        if not len(part):
            return None
        self._next += self._batch
        batch = next(self._prepared(part).batches(self._batch))
        self.rows = batch.rows
        return batch.feeds

    def _prepared(self, part: Images) -> Inputs:
        if isinstance(part, Inputs):
            return part
        if self._spec is None:
            raise TypeError("images cannot be prepared without what the model takes")
        return Inputs.of(self._spec, self._spec.prepare(part))


def activation_ranges(model: onnx.ModelProto, images: Images, spec: InputSpec | None) -> ActivationRanges:
    """Return the smallest and the largest value of every activation: the ranges that `quantize_static` takes.

    Args:
        model: the float model, from `prepare_float_model`; not changed.
        images: of calibration.
        spec: what a model of images takes.

    Raises:
        ModelError: if onnxruntime cannot run the model.
        DataError: if the images do not fit it.
    """
    batch = _Observer(model, images, spec).batch
    calibrator = _calibrator(model, CalibrationMethod.MinMax)
    for start in range(0, len(images), batch * _MERGED):
        part = images[start : start + batch * _MERGED]
        with running(), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, where an activation is nothing but NaN
            calibrator.collect_data(StreamedImages(part, spec, batch))
    found = calibrator.compute_data()
    return {name: found[name].range_value for name in found}


def observed(model: onnx.ModelProto, images: Images, spec: InputSpec | None) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the activations that can be quantized, by name, some images at a time: so many that 64 MB hold them.

    Args:
        model: the float model, from `prepare_float_model`; not changed.
        images: of calibration.
        spec: what a model of images takes.

    Raises:
        ModelError: if onnxruntime cannot run the model.
        DataError: if the images do not fit it.
    """
    observer = _Observer(model, images, spec)
    reader = StreamedImages(images, spec, observer.batch)
    left = len(images)
    while feeds := reader.get_next():
        batch = reader.rows
        values = observer.run(feeds)
        yield {name: _without_filling(value, batch, min(batch, left)) for name, value in values.items()}
        left -= batch


class _Observer:
    """Runs a model, and returns the activations that can be quantized.

    Attributes:
        batch: how many images may be run at a time.
    """

    def __init__(self, model: onnx.ModelProto, images: Images, spec: InputSpec | None) -> None:
        calibrator = _calibrator(model, CalibrationMethod.Percentile)
        self._session: InferenceSession = calibrator.infer_session
        self._names = sorted(calibrator.tensors_to_calibrate)
        size = sum(value.nbytes for value in self.run(StreamedImages(images[:1], spec).get_next()).values())
        self.batch = max(1, min(_BATCH, _HELD // max(size, 1)))

    def run(self, feeds: Mapping[str, NDArray[Any]] | None) -> dict[str, NDArray[Any]]:
        """Return the activations by name."""
        with running():
            return dict(zip(self._names, self._session.run(self._names, feeds), strict=True))


def _calibrator(model: onnx.ModelProto, method: CalibrationMethod) -> Any:
    """Return onnxruntime's calibrator of a model, which runs it unoptimised."""
    try:
        with tempfile.TemporaryDirectory(prefix="resq-deploy-") as folder, quiet():
            path = pathlib.Path(folder) / "float.onnx"
            onnx.save(model, str(path))
            return create_calibrator(path, OPERATORS, str(path.with_name("augmented.onnx")), method)
    except Exception as error:  # onnxruntime's calibration raises many types
        raise ModelError(f"onnxruntime cannot calibrate the model: {first_line(error)}") from error


def _without_filling(value: NDArray[Any], batch: int, count: int) -> NDArray[Any]:
    """Return an activation without what belongs to the copies that fill up a batch of fixed size."""
    if count == batch or not value.ndim or value.shape[0] % batch:
        return value
    return value[: value.shape[0] // batch * count]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep onnxruntime's advice off the user's terminal; it is about steps taken already.

    It comes on Python's root logger, and, from the sessions that onnxruntime's tools create for themselves, straight
    from C++ on standard error. What goes wrong is raised besides.
    """
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    set_default_logger_severity(_FATAL)
    try:
        yield
    finally:
        set_default_logger_severity(_WARNING)
        root.setLevel(level)
