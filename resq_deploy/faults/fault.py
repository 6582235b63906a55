"""The value every room shares: a fault and the bits it changes."""

import dataclasses
import enum
import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Op(enum.StrEnum):
    """What happens to a stored bit, or (`word`) to a whole stored element."""

    FLIP = "flip"
    SET0 = "set0"
    SET1 = "set1"
    WORD = "word"


@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
    """One operation on some bits of one tensor.

    Attributes:
        tensor: the initializer's name.
        op: the operation.
        index: flat, row-major element positions, shape [n].
        bit: bit positions within the element, 0 the least significant, shape [n] (ignored by `word`).
        value: for `word` the new stored patterns, unsigned, shape [n]; empty otherwise.
    """

    tensor: str
    op: Op
    index: NDArray[np.int64]
    bit: NDArray[np.int64]
    value: NDArray[np.uint64] = dataclasses.field(default_factory=lambda: np.empty(0, dtype=np.uint64))

    @classmethod
    def of(
        cls, tensor: str, index: Sequence[int], bit: Sequence[int], op: Op = Op.FLIP, value: Sequence[int] = ()
    ) -> "Edit":
        """Build an edit from plain numbers."""
        return cls(
            tensor,
            op,
            np.asarray(index, dtype=np.int64),
            np.asarray(bit, dtype=np.int64),
            np.asarray(value, dtype=np.uint64),
        )


class Share(NamedTuple):
    """Which images a fault is judged on: neighbouring parts of a campaign's partition of its images, in a ring.

    Attributes:
        first: number of the first part.
        parts: how many there are.
    """

    first: int
    parts: int


@dataclasses.dataclass(frozen=True, eq=False)
class Fault:
    """A fault: its number within the campaign and what it does to the stored bits.

    Attributes:
        number: position in the plan; two campaigns with the same plan give the same fault the same number.
        edits: the operations, at most one edit a tensor and operation.
        ber: bit error rate, for a random-bit-error mask; otherwise None.
        chip: the simulated chip the mask belongs to; otherwise None.
        share: the images it is judged on; None for all.
    """

    number: int
    edits: tuple[Edit, ...]
    ber: float | None = None
    chip: int | None = None
    share: Share | None = None

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors it touches, each once, in order."""
        return tuple(dict.fromkeys(edit.tensor for edit in self.edits))


def digest(edits: Iterable[Edit]) -> str:
    """Return the SHA-256 over all operations of a fault, the identity of a mask."""
    total = hashlib.sha256()
    for edit in edits:
        total.update(f"{edit.tensor}\0{edit.op}\0{len(edit.index)}\0".encode())
        for part in (edit.index, edit.bit, edit.value):
            total.update(np.ascontiguousarray(part).astype("<i8" if part.dtype.kind == "i" else "<u8").tobytes())
    return total.hexdigest()
