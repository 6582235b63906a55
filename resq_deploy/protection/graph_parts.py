"""Writing down nodes, functions and tables of an ONNX file by what they compute."""

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.protection.guards import make_guard
from resq_deploy.protection.majority import COPIES, LEAST_OPSET, majority_nodes

_COUNTED_SPLIT = 18  # opset from which on a cut into equal parts says how many
_BYTE = 255  # the largest number a byte holds
_MOST = 7 << 10
"""Most bytes of all copies of a table: with names and framing they stay within 8 KiB."""

_DIGIT = 128  # base of numbers that take more than a byte


class Parts:
    """Nodes in the making; every value gets a name of its own.

    Args:
        prefix: begins all names.
        opset: of the file.

    Attributes:
        nodes: nodes so far, in order.
        opset: of the file.
    """

    def __init__(self, prefix: str, opset: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._prefix, self.opset = prefix, opset
        self._count = itertools.count()

    def node(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node with one output, and return its name."""
        made = output or self.name()
        self.nodes.append(helper.make_node(operator, inputs, [made], **attributes))
        return made

    def cast(self, value: str, kind: int) -> str:
        """Turn a value into another type, as ONNX numbers it, and return its name."""
        return self.node("Cast", value, to=kind)

    def split(self, value: str, count: int, axis: int = 0) -> list[str]:
        """Cut a value into equal parts, and return their names."""
        made = [self.name() for _ in range(count)]
        self.nodes.append(helper.make_node("Split", [value], made, axis=axis))
        if self.opset >= _COUNTED_SPLIT:
            self.nodes[-1].attribute.append(helper.make_attribute("num_outputs", count))
        return made

    def cut(self, value: str, sizes: str, count: int, axis: int = 0) -> list[str]:
        """Cut a value into so many parts, of the sizes that a table holds, and return their names."""
        made = [self.name() for _ in range(count)]
        self.nodes.append(helper.make_node("Split", [value, sizes], made, axis=axis))
        return made

    def after(self, one: str, tick: str) -> str:
        """Return the number 1 once more, int64 [1]: one that onnxruntime knows a sweep over the graph later.

        onnxruntime folds in sweeps, and frees what was of use within a sweep at its end. In a sweep it folds the
        branches of an If before it puts the chosen one in its place, for the next sweep to go on with; but it cannot
        fold a Shape in there whose value got its shape in the same sweep.

        Args:
            one: the number 1.
            tick: the number 1, as known a sweep earlier.
        """
        known = self.node("Reshape", one, tick)
        branches = {}
        for branch in ("then_branch", "else_branch"):
            shape = helper.make_node("Shape", [known], [self.name()])
            output = helper.make_tensor_value_info(shape.output[0], TensorProto.INT64, [1])
            branches[branch] = helper.make_graph([shape], branch[:4], [], [output])
        return self.node("If", self.cast(tick, TensorProto.BOOL), **branches)

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


class Pool(Parts):
    """Small tables of whole numbers, all stored in one vector of bytes, `Repeated`.

    Tables are many and tiny: a vote for each, with the names of its copies, would take more than what they hold. The
    nodes are those that cut the vector and give each table its type and shape.
    """

    def __init__(self, prefix: str, opset: int) -> None:
        super().__init__(prefix, opset)
        self._pieces: dict[bytes, str] = {}
        self._tables: dict[tuple[object, ...], str] = {}

    def table(self, values: NDArray[Any]) -> str:
        """Return the name of a table; equal ones are stored once.

        Args:
            values: whole numbers from -128 to 255, or from 0 on; a single number is a vector of one.
        """
        values = np.atleast_1d(values)
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._tables:
            self._tables[key] = self._made(values)
        return self._tables[key]

    def written(self, taken: set[str]) -> "Repeated":
        """Return what is stored, and the nodes that make the tables of it.

        Args:
            taken: names in the file; new ones are added.
        """
        sizes = np.array([len(piece) for piece in self._pieces])
        whole = np.frombuffer(b"".join(self._pieces), dtype=np.uint8)
        # A size is a sum of bytes, not an int64: of so many bits more would be hit, and more lost by a vote on values.
        rows = -(-int(sizes.max()) // _BYTE)
        digits = np.clip(sizes - _BYTE * np.arange(rows)[:, None], 0, _BYTE).astype(np.uint8)
        stored = Repeated(self, taken)
        table, size = stored.add(whole), stored.add(digits.reshape(-1))
        making = Parts(f"{self._prefix}s", self.opset)
        wide = making.cast(size, TensorProto.INT64)
        total, *others = making.split(wide, rows) if rows > 1 else [wide]
        for other in others:
            total = making.node("Add", total, other)
        making.nodes.append(helper.make_node("Split", [table, total], list(self._pieces.values()), axis=0))
        self.nodes[:0] = [*stored.nodes, *making.nodes]
        return stored

    def _made(self, values: NDArray[Any]) -> str:
        """Write down how a table is made of bytes, and return its name."""
        flat, kind = values.reshape(-1), helper.np_dtype_to_tensor_dtype(values.dtype)
        if flat.max() > np.iinfo(np.uint8).max:
            made, has = self._wide(flat), TensorProto.INT64
        else:
            made, has = self._piece(flat.astype(np.uint8)), TensorProto.UINT8
        if flat.min() < 0:
            made, has = self.cast(made, TensorProto.INT8), TensorProto.INT8
        if has != kind:
            made = self.cast(made, kind)
        return made if values.ndim == 1 else self.node("Reshape", made, self.table(np.array(values.shape)))

    def _wide(self, values: NDArray[Any]) -> str:
        """Write down numbers by their digits, the lowest last, int64."""
        count = -(-int(values.max()).bit_length() // (_DIGIT.bit_length() - 1))
        digits = values.astype(np.int64)[None] // _DIGIT ** np.arange(count)[::-1, None] % _DIGIT
        total, *lower = self.split(self.cast(self._piece(digits.astype(np.uint8)), TensorProto.INT64), count)
        for digit in lower:
            total = self.node("Add", self.node("Mul", total, self.table(np.array([_DIGIT]))), digit)
        return total

    def _piece(self, values: NDArray[np.uint8]) -> str:
        return self._pieces.setdefault(values.tobytes(), self.name())


class Repeated:
    """Bytes that all weights hang on, stored so often that bit error rates a weight survives do not break them.

    From opset 18 on, the bitwise majority of seven copies, or of five where seven take more than `_MOST`: 500 bytes
    lose a bit in 0.1 % (4 %) of files at a bit error rate of 1e-2. Before, where there are no bitwise operators, votes
    on three votes between three copies, value by value: 14 % at 1e-2, 0.1 % at 3e-3.

    Args:
        pool: whose names are used.
        taken: names in the file; new ones are added.

    Attributes:
        copies: what is stored, all copies of one after the other.
        nodes: nodes that give the bytes.
    """

    def __init__(self, pool: Pool, taken: set[str]) -> None:
        self.copies: list[tuple[onnx.TensorProto, ...]] = []
        self.nodes: list[onnx.NodeProto] = []
        self._pool, self._taken = pool, taken

    def add(self, values: NDArray[np.uint8]) -> str:
        """Store bytes, and return the name of what comes out of their copies."""
        if self._pool.opset < LEAST_OPSET:
            return self._votes(values)
        count = next((count for count in COPIES if count * len(values) <= _MOST), COPIES[-1])
        names = [self._pool.name() for _ in range(count)]
        self.copies.append(tuple(numpy_helper.from_array(values, name) for name in names))
        made = self._pool.name()
        self.nodes += majority_nodes(names, made)
        return made

    def _votes(self, values: NDArray[np.uint8]) -> str:
        inner = [make_guard(numpy_helper.from_array(values, self._pool.name()), self._taken) for _ in range(3)]
        for guard in inner:
            self.copies.append(guard.copies)
            self.nodes += guard.nodes
        first, second, third = (guard.nodes[-1].output[0] for guard in inner)
        same, made = self._pool.name(), self._pool.name()
        self.nodes.append(helper.make_node("Equal", [first, second], [same]))
        self.nodes.append(helper.make_node("Where", [same, first, third], [made]))
        return made
