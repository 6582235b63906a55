"""Stored tensors by themselves: how wide each type is stored, and that what is stored fits the shape."""

import math

import onnx
from onnx import numpy_helper

from resq_deploy.errors import ModelError


def _by_name(widths: dict[str, int]) -> dict[int, int]:
    """Return widths by type number, without the types this version of onnx does not know."""
    known = dict(onnx.TensorProto.DataType.items())
    return {known[name]: width for name, width in widths.items() if name in known}


WIDTHS = _by_name(
    {
        "FLOAT": 32,
        "FLOAT16": 16,
        "BFLOAT16": 16,
        "DOUBLE": 64,
        "INT8": 8,
        "UINT8": 8,
        "INT16": 16,
        "UINT16": 16,
        "INT32": 32,
        "UINT32": 32,
        "INT64": 64,
        "UINT64": 64,
        "BOOL": 8,
        "INT4": 4,
        "UINT4": 4,
        "INT2": 2,
        "UINT2": 2,
        "FLOAT8E4M3FN": 8,
        "FLOAT8E4M3FNUZ": 8,
        "FLOAT8E5M2": 8,
        "FLOAT8E5M2FNUZ": 8,
        "FLOAT8E8M0": 8,
        "FLOAT4E2M1": 4,
    }
)
"""Stored bits of one element, for the types that onnxruntime computes with."""

FLOATS = frozenset(
    {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
)
"""Types of floating-point numbers that networks compute with."""

_OTHER_WIDTHS = _by_name({"COMPLEX64": 64, "COMPLEX128": 128})
_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


def stored_bytes(tensor: onnx.TensorProto) -> int | None:
    """Return how many bytes a tensor of this type and shape takes in `raw_data`; None for types without a width.

    Raises:
        ModelError: if a dimension is negative.
    """
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"tensor {tensor.name!r} has a negative dimension {list(tensor.dims)}: export the model anew")
    width = WIDTHS.get(tensor.data_type) or _OTHER_WIDTHS.get(tensor.data_type)
    return None if width is None else (math.prod(tensor.dims) * width + 7) // 8


def settle(tensor: onnx.TensorProto) -> None:
    """Check a tensor against its shape, and move a parameter's values from typed fields into `raw_data`.

    Raises:
        ModelError: if the shape, the type and what is stored contradict each other.
    """
    expected = stored_bytes(tensor)
    if expected is None:
        return
    if tensor.HasField("segment"):
        raise ModelError(f"tensor {tensor.name!r} is stored in segments, which onnxruntime cannot read")
    if not tensor.HasField("raw_data"):
        _check_typed(tensor)
        if tensor.data_type in WIDTHS:
            _to_raw(tensor)
    if tensor.HasField("raw_data") and len(tensor.raw_data) != expected:
        raise ModelError(
            f"tensor {tensor.name!r} of shape {list(tensor.dims)} should store {expected} bytes "
            f"and stores {len(tensor.raw_data)}: the file is damaged, export it anew"
        )


def _check_typed(tensor: onnx.TensorProto) -> None:
    """Check the number of values in the typed fields, so that a huge shape costs no memory."""
    elements = math.prod(tensor.dims)
    width = WIDTHS.get(tensor.data_type, 8)
    wanted = (elements * width + 7) // 8 if width < 8 else elements  # packed elements share an entry
    if onnx.TensorProto.DataType.Name(tensor.data_type).startswith("COMPLEX"):
        wanted *= 2
    held = sum(len(getattr(tensor, field)) for field in _FIELDS)
    if held != wanted:
        raise ModelError(
            f"tensor {tensor.name!r} of shape {list(tensor.dims)} should hold {wanted} stored values "
            f"and holds {held}: the file is damaged, export it anew"
        )


def _to_raw(tensor: onnx.TensorProto) -> None:
    try:
        raw = numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"tensor {tensor.name!r} cannot be read ({error}): export the model anew") from error
    tensor.CopyFrom(raw)
