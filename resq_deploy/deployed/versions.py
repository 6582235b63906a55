"""Which onnxruntime a file needs, as its metadata say."""

import re

import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError

LEAST_ONNXRUNTIME = "resq.least_onnxruntime"
"""Key of the metadata under which a protected file names the least version that decodes and votes it."""

CODE = "resq.code"
"""Key of the metadata under which a protected file names its code."""


def annotate(model: onnx.ModelProto, key: str, value: str) -> None:
    """Set an entry of a file's metadata, in place."""
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = value
            return
    model.metadata_props.add(key=key, value=value)


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Return a file's metadata."""
    return {entry.key: entry.value for entry in model.metadata_props}


def is_before(version: str, other: str) -> bool:
    """Return whether a version (as 1.22.1) is an earlier one; what does not begin with a number counts as 0."""
    return _numbers(version) < _numbers(other)


def why_refused(model: bytes) -> str | None:
    """Return why the onnxruntime that is installed cannot load a file, as far as its metadata tell; None otherwise."""
    try:
        least = metadata(onnx.ModelProto.FromString(model)).get(LEAST_ONNXRUNTIME, "")
    except DecodeError:
        return None
    if not is_before(ort.__version__, least):
        return None
    return f"the file needs onnxruntime {least} or later to be decoded, and this is {ort.__version__}: update it"


def _numbers(version: str) -> list[int]:
    found = re.match(r"\d+(\.\d+)*", version)
    return [int(number) for number in found[0].split(".")][:2] if found else [0]
