"""Writing down nodes, functions and tables of an ONNX file by what they compute."""

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


class Parts:
    """Nodes and stored tables in the making; every value gets a name of its own.

    Args:
        prefix: begins all names.

    Attributes:
        nodes: nodes so far, in order.
        tables: stored tables so far.
    """

    def __init__(self, prefix: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tables: list[onnx.TensorProto] = []
        self._known: dict[tuple[object, ...], str] = {}
        self._prefix = prefix
        self._count = itertools.count()

    def table(self, values: NDArray[Any]) -> str:
        """Store a table, and return its name; equal ones are stored once."""
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._known:
            self._known[key] = self.stored(values)
        return self._known[key]

    def stored(self, values: NDArray[Any]) -> str:
        """Store values, and return their name."""
        name = self.name()
        self.tables.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node with one output, and return its name."""
        made = output or self.name()
        self.nodes.append(helper.make_node(operator, inputs, [made], **attributes))
        return made

    def split(self, value: str, count: int, axis: int) -> list[str]:
        """Cut a value into equal parts, and return their names."""
        made = [self.name() for _ in range(count)]
        self.nodes.append(helper.make_node("Split", [value], made, axis=axis, num_outputs=count))
        return made

    def cut(self, value: str, sizes: str, count: int) -> list[str]:
        """Cut a flat value into so many parts, of the sizes that a table holds, and return their names."""
        made = [self.name() for _ in range(count)]
        self.nodes.append(helper.make_node("Split", [value, sizes], made, axis=0))
        return made

    def top(self, values: str, count: str) -> str:
        """Add a node that finds so many of the largest values, and return the name of their places."""
        made = self.name()
        self.nodes.append(helper.make_node("TopK", [values, count], [self.name(), made]))
        return made

    def xor(self, values: Iterable[str]) -> str:
        """Return the sum over GF(2), bit by bit, of some values of opset 18 or later."""
        total, *others = values
        for value in others:
            total = self.node("BitwiseXor", total, value)
        return total

    def name(self) -> str:
        """Return a name that no other value has."""
        return f"{self._prefix}{next(self._count):x}"
