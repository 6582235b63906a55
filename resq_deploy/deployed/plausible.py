"""Whether the accuracy of a fault-free file is what it should be, or its images reach it in another shape."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_FAR = 0.05
_SIGMAS = 3.0


def accuracy_warnings(
    right: int, labels: NDArray[np.int64], classes: Sequence[str], stated: float | None = None, stated_on: int = 1
) -> tuple[str, ...]:
    """Return what is to be said of an accuracy, a line each; nothing where it is believable.

    Near chance is what lies no more than three standard errors, or a twentieth of what is left, above one answer to
    all images.

    Args:
        right: how many images the fault-free file answers right.
        labels: right classes, shape [N].
        classes: their names.
        stated: the accuracy that the file's sidecar states for the same data set; None where it states none.
        stated_on: on how many images that was measured.
    """
    count = len(labels)
    accuracy = right / count
    chance = max(1 / len(classes), float(np.bincount(labels).max()) / count)
    if accuracy <= chance + max(_SIGMAS * _error(chance, count), _FAR * (1 - chance)):
        found = f"is near chance (one answer to all images: {100 * chance:.1f} %)"
    elif stated is not None and stated - accuracy > max(
        _FAR, _SIGMAS * math.hypot(_error(accuracy, count), _error(stated, stated_on))
    ):
        found = f"is far below the {100 * stated:.1f} % of its sidecar"
    else:
        return ()
    named = ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
    return (
        f"warning: an accuracy of {100 * accuracy:.1f} % without any fault {found}, and figures about it mean little. "
        "The usual reasons: another normalisation than it was trained with (--mean and --std, or --preprocess), other "
        "channels (--channels bgr or gray), another order of axes (--input-layout), another order of the classes "
        f"(here {named})",
    )


def _error(accuracy: float, count: int) -> float:
    """Return the standard error of an accuracy."""
    return math.sqrt(accuracy * (1 - accuracy) / max(count, 1))
