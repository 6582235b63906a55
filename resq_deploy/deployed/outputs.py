"""Outputs of a file by sample: which of them are tensors, and how what one run gives is told apart by sample."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.errors import ModelError


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputSpec:
    """An output of a file that is a tensor.

    Attributes:
        name: the output's name.
        type: of its elements, as onnxruntime names it, such as `float` or `int64`.
        shape: dimensions; None where the model leaves one open; None as a whole where it says nothing.
    """

    name: str
    type: str
    shape: tuple[int | None, ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """How what one run gives for an output is told apart by sample.

    Attributes:
        leading: the first axis is that of the samples; else all that a run of one sample gives is that sample's.
        ragged: sizes differ from sample to sample: an object array [N] that holds an array a sample.
    """

    leading: bool = True
    ragged: bool = False

    @classmethod
    def of(cls, spec: OutputSpec, parts: Sequence[NDArray[Any]], rows: Sequence[int]) -> "Form":
        """Return the form of an output, told by what runs gave.

        Args:
            spec: the output.
            parts: what it held after each run, at least one.
            rows: samples of each run.

        Raises:
            ModelError: if several samples are run together, and the first axis is not theirs.
        """
        pairs = list(zip(parts, rows, strict=True))
        astray = next(((part, count) for part, count in pairs if part.shape[:1] != (count,)), None)
        leading = astray is None
        if set(rows) != {1}:
            if astray is not None:
                raise _no_samples(spec.name, astray[0].shape, astray[1])
            return cls()
        # Sizes that are alike in a few samples may still differ in others, or under a fault.
        open_ended = not leading and (spec.shape is None or None in spec.shape)
        unlike = len({part.shape for part in parts}) > 1
        return cls(leading=leading, ragged=unlike or open_ended)

    def by_sample(self, name: str, value: NDArray[Any], rows: int) -> NDArray[Any]:
        """Return what one run gave for an output as an array whose first axis is that of the samples, [rows, ...].

        Raises:
            ModelError: if it cannot be read so.
        """
        if (self.leading and value.shape[:1] != (rows,)) or (rows != 1 and not self.leading):
            raise _no_samples(name, value.shape, rows)
        if not self.ragged:
            return value if self.leading else value[None]
        packed = np.empty(1, dtype=object)
        packed[0] = value[0] if self.leading else value
        return packed


def joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return what several runs gave for an output, by sample, as one array.

    Raises:
        ValueError: if the sizes are not alike.
    """
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def find(outputs: Sequence[OutputSpec], names: Collection[str], others: Sequence[str] = ()) -> list[OutputSpec]:
    """Return the outputs of some names, in the order given; all for none.

    Args:
        outputs: those of the file that are tensors.
        names: which of them.
        others: the names of those that are none.

    Raises:
        ModelError: if the file has no such output.
    """
    known = {output.name: output for output in outputs}
    for name in names:
        if name not in known:
            there = ", ".join(map(repr, known)) or "none"
            why = "is no tensor" if name in others else "is not there"
            raise ModelError(f"the model's output {name!r} {why}; its outputs are {there}")
    return [known[name] for name in names or known]


def _no_samples(name: str, shape: tuple[int, ...], rows: int) -> ModelError:
    return ModelError(
        f"the model's output {name!r} has shape {list(shape)} for {rows} samples, which must be the first axis: "
        "export it with a batch of one, or with outputs of shape [N, ...]"
    )
