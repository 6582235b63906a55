"""Feeding calibration images batch by batch, so that memory does not grow with their number."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader

from resq_deploy.deployed.session import InputSpec


class StreamedImages(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime carries no types
    """Hands images to onnxruntime's calibration, prepared only when asked for.

    Args:
        images: as the data set holds them, shape [N, ...].
        spec: what the model takes.
        batch: images a step, where the model leaves it open.
    """

    def __init__(self, images: NDArray[Any], spec: InputSpec, batch: int = 50) -> None:
        self._images = images
        self._spec = spec
        self._batch = spec.shape[0] or batch
        self._next = 0

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Return the next batch by input name, or None after the last."""
        part = self._images[self._next : self._next + self._batch]
        if not len(part):
            return None
        self._next += self._batch
        if self._spec.shape[0] is not None and len(part) < self._batch:
            part = np.concatenate([part, np.repeat(part[-1:], self._batch - len(part), axis=0)])
        return {self._spec.name: self._spec.prepare(part)}
