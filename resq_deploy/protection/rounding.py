"""Rounding weights to integers without data: sums over a kernel, and over an output channel, are kept.

What rounding does to a layer's output is the sum over its inputs of weight error times input. Inputs behind a ReLU are
all positive, and neighbouring ones alike, so that errors of one sign add up. Rounding each weight to the nearest
integer bounds each error by 1/2 and their sum by nothing. Here the sums of the errors over each kernel (the weights of
one input channel for one output channel) and then over each output channel are brought within 1/2, by rounding those
weights to the other side that lose least by it. This is SQuant (Guo et al., ICLR 2022), whose three steps - element,
kernel, channel - stand for the parts of the Hessian of a layer's error that it approximates: its diagonal, and one
constant for each kernel and for each output channel.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def round_keeping_sums(values: Floats) -> NDArray[np.int64]:
    """Round to integers; no value moves by 1 or more, and integers stay what they are.

    Args:
        values: [channels, kernels, weights of a kernel].

    Returns:
        The integers, of the same shape. Whatever bounds with integer ends hold for the values hold for them.
    """
    nearest = np.rint(values)
    error = nearest - values
    _turn(error, nearest)
    # One weight a kernel may turn now: the one that leans most to the side on which the channel's sum is.
    side = np.sign(error.sum(axis=(1, 2)))[:, None, None]
    best = (error * side).argmax(axis=2)[..., None]
    leaning, chosen = (np.take_along_axis(part, best, axis=2)[..., 0] for part in (error, nearest))
    _turn(leaning, chosen, total=error.sum(axis=(1, 2)), order=error.sum(axis=2))
    np.put_along_axis(nearest, best, chosen[..., None], axis=2)
    return nearest.astype(np.int64)


def _turn(error: Floats, rounded: Floats, total: Floats | None = None, order: Floats | None = None) -> None:
    """Round some of a row's values to their other side, in place, so that the sum of the row's errors is within 1/2.

    Args:
        error: what rounding added, [..., row].
        rounded: the integers, [..., row].
        total: the sum of the errors, [...]; that of the row if None.
        order: what is turned first, by the side of the sum, [..., row]; the error itself if None.
    """
    total = error.sum(axis=-1) if total is None else total
    side, count = np.sign(total)[..., None], np.rint(np.abs(total))[..., None]
    leaning = error * side > 0
    key = np.where(leaning, -(error if order is None else order) * side, np.inf)
    rank = np.argsort(np.argsort(key, axis=-1, kind="stable"), axis=-1, kind="stable")
    turned = np.where(leaning & (rank < count), side, 0.0)
    error -= turned
    rounded -= turned
