"""A node of a twin: what an operator's function is told besides its operands."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SINGLE = (np.float32, np.float16, np.int8, np.uint8, np.int16, np.uint16)
_EXACT = (np.bool_, np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """One operation.

    Attributes:
        op: the operator's name.
        label: what the node is called in messages.
        inputs: names of the operands; empty where an optional one is left out.
        outputs: names of the results.
        attributes: the operator's attributes, as Python values.
        operand_types: element type of each operand, as the file declares it.
        types: element type of each result.
        opset: version of the ONNX operators.
        clip_gradient: whether what saturates gets a zero gradient.
    """

    op: str
    label: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    operand_types: tuple[np.dtype[Any] | None, ...]
    types: tuple[np.dtype[Any] | None, ...]
    opset: int
    clip_gradient: bool

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute."""
        return self.attributes.get(name, default)

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest code of the result's type."""
        return code_limits(self.types[0])

    def operand_limits(self, slot: int) -> tuple[float, float]:
        """Return the smallest and the largest code of an operand's type."""
        return code_limits(self.operand_types[slot])


def code_limits(dtype: np.dtype[Any] | None) -> tuple[float, float]:
    """Return the smallest and the largest integer of a type; uint8 where it is not known."""
    if dtype is None or dtype.kind not in "iu":
        return 0.0, 255.0
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)


def as_tensor(values: NDArray[Any]) -> Tensor:
    """Return values as a twin computes with them, exactly: small integers and floats as float32, int32 as float64.

    int64 (shapes and indices) and booleans keep their type.
    """
    if values.dtype in _EXACT:
        return torch.from_numpy(values.copy())
    single = values.dtype in _SINGLE or values.dtype.itemsize == 1  # with types of less than a byte, of ml_dtypes
    return torch.from_numpy(values.astype(np.float32 if single else np.float64))
