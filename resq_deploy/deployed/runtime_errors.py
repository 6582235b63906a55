"""What onnxruntime raises, and what of its words is said to a user."""

import re

from onnxruntime.capi import onnxruntime_pybind11_state as _state

RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(_state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
)
"""What onnxruntime raises when it creates or runs a session; its exceptions have no base of their own."""

_ORIGIN = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : "
    r"(?:Non-zero status code returned while running (\w+) node\. Name:'([^']*)' Status Message: )?"
    r"(?:/\S+:\d+ .*?\) )?"
)
"""What onnxruntime puts before a message: codes of its own, the node, the place in its sources."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error, short enough for one line on a terminal; of onnxruntime's, what they say."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    text = _ORIGIN.sub(lambda found: f"{found[1]} node {found[2]!r}: " if found[1] else "", text)
    return text if len(text) <= 300 else text[:297] + "..."
