"""The output by which a file reports its own health; what it counts is written by `protection`."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resq_deploy.deployed.coded import HEALTH
from resq_deploy.errors import ModelError


class Health(NamedTuple):
    """What a file reports of its code words: how many were corrected when it was loaded, and how many cannot be."""

    corrected: int
    uncorrectable: int


def read_health(said: NDArray[np.generic] | NDArray[Any]) -> Health:
    """Return what a model's output says.

    Raises:
        ModelError: if it says anything else than two whole numbers.
    """
    if said.shape != (2,) or said.dtype.kind not in "iu":
        raise ModelError(f"the model's output {HEALTH!r} is no count of corrected and of uncorrectable words")
    return Health(*map(int, said))
