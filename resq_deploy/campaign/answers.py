"""What a run answers, given for some images after the other: run so, digested, and held against the golden outputs."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import xxhash
from numpy.typing import NDArray

from resq_deploy.deployed.inputs import Given
from resq_deploy.deployed.outputs import Form
from resq_deploy.deployed.session import Session
from resq_deploy.faults.judges.outputs import Outputs, count, is_ragged, pieces

DIGEST = "XXH3-128"
"""What digests of outputs are made by: records with others cannot be compared with them."""


def run_in_pieces(
    session: Session,
    inputs: Given,
    pieces: Sequence[slice],
    forms: Mapping[str, Form],
    terminate: ort.RunOptions | None = None,
) -> dict[str, NDArray[Any]]:
    """Return outputs for some images by name, piece by piece, each in batches of its own, [n, ...] each.

    Raises:
        ModelError: if outputs cannot be told apart by image.
        ValueError: if their sizes differ though they must not.
        Exception: whatever onnxruntime raises; its types have no common base.
    """
    parts = [session.answers(inputs[piece], forms, terminate) for piece in pieces]
    return {name: parts[0][name] if len(parts) == 1 else np.concatenate([one[name] for one in parts]) for name in forms}


def apart(outputs: Outputs | Sequence[Outputs]) -> Sequence[Outputs]:
    """Return outputs as those for some images after the other, whichever way they are given."""
    return pieces(outputs) if isinstance(outputs, Mapping) else outputs


def placed(parts: Sequence[Outputs]) -> Iterator[tuple[Outputs, int, int]]:
    """Yield outputs for some images after the other, with the first of these and the end."""
    ends = np.cumsum([0, *map(count, parts)]).tolist()
    for part, (begin, end) in zip(parts, itertools.pairwise(ends), strict=True):
        yield part, begin, end


def digest(parts: Sequence[Outputs], names: Sequence[str]) -> str:
    """Return 128 bits of XXH3 over outputs, one after the other, hexadecimal, however they are parted.

    It tells whether two engines agree, where nobody has a hand in what is digested: speed counts, and no secrecy.
    """
    state = xxhash.xxh3_128()
    for values in (part[name] for name in names for part in parts):
        if values.dtype != object:
            state.update(np.ascontiguousarray(values).data if values.size else b"")
            continue
        for one in values.ravel():
            array = one if isinstance(one, np.ndarray) else None
            state.update(repr((array.shape, array.dtype.str) if array is not None else one).encode())
            state.update(b"" if array is None else array.tobytes())
    return state.hexdigest()


def unfit(golden: Outputs, parts: Sequence[Outputs]) -> str | None:
    """Return why outputs are none that can be judged against the golden ones of their images; None if they can."""
    for name, known in golden.items():
        arrays = [part[name] for part in parts]
        found, total = arrays[0], sum(map(len, arrays)) if arrays[0].ndim else 0
        alike = all((one.dtype, one.shape[1:]) == (known.dtype, known.shape[1:]) for one in arrays)
        if not alike or total != len(known):
            where = "outputs" if len(golden) == 1 else f"output {name!r}"
            return f"{where} of shape {found.shape if len(arrays) == 1 else (total, *found.shape[1:])}"
        if is_ragged(known) and any(
            one.dtype != other.dtype or one.ndim != other.ndim
            for one, other in zip(known, np.concatenate(arrays), strict=True)
        ):
            return f"output {name!r} with another number of axes"
    return None
