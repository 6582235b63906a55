"""Weights fitted inside a narrow range: those that are left make up for those that were cut off.

Equation 6 of the RESQ specification weighs what clipping costs against what bit flips cost, in the weights, each for
itself. What counts is the output of the layer, and there the weights of a channel can stand in for one another. So with
`x` the inputs of a layer, `W` its weights in the float model and `c` the range of a channel, this minimises

    E |w x - W x|^2 + (21845 p + 1/12) (c / 127)^2 E |x|^2      over w and c, where |w_i| <= c

the expected squared error of the channel's output: of the fit, and of flips and rounding (127 and 21845 for 8 bits; see
`ranges` for others). It is convex, and c is the
largest |w|, so it is least squares with a squared maximum norm. FISTA solves it (Beck and Teboulle 2009), and its
proximal step is eq. 6's closed form, `least_clip`. Layer-wise reconstruction is that of AdaRound (Nagel et al. 2020)
and GPTQ (Frantar et al. 2023), which fit roundings; a range chosen together with the weights, for flips, is ours.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import eigsh

from resq_deploy.quantization.ranges import least_clip

STEPS = 100
"""Steps of FISTA: with 300 the expected errors of a ResNet-20 were the same within a per cent."""

_SMALL = 512
"""Inputs up to which all eigenvalues are had sooner than the largest alone."""

Float = NDArray[np.float64]


def fit_within_range(start: Float, second: Float, cross: Float, cost: Float, ridge: Float, *, shared: bool) -> Float:
    """Return weights that minimise `w S w - 2 w B + ridge |w - start|^2 + cost max|w|^2`, for each channel.

    Args:
        start: the weights to begin with, shape [groups, channels of a group, inputs of a channel].
        second: S, the second moments of the inputs, shape [groups, inputs, inputs]; positive semidefinite.
        cross: B, the moments of the inputs with the outputs wanted, shape of `start`.
        cost: of a squared unit of range, by group, shape [groups].
        ridge: what a squared unit of change costs by itself, by group, shape [groups].
        shared: whether all channels have one range; then their sum is minimised.

    Returns:
        float64, the shape of `start`.
    """
    groups, channels, _ = start.shape
    steepest = np.array([_largest_eigenvalue(matrix) for matrix in second]) + ridge
    if shared:
        steepest = np.full(groups, steepest.max())
    steepest = np.where(steepest > 0, steepest, 1.0)
    costs = np.repeat(cost / steepest, channels)
    pull, length = ridge[:, None, None], steepest[:, None, None]
    fitted = ahead = start
    momentum = 1.0
    for _ in range(STEPS):
        moved = ahead - (ahead @ second - cross + pull * (ahead - start)) / length
        clip = _clips(moved, costs, shared)
        clipped = np.clip(moved, -clip, clip)
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = clipped + (momentum - 1) / following * (clipped - fitted)
        fitted, momentum = clipped, following
    return fitted


def _largest_eigenvalue(matrix: Float) -> float:
    """Return the largest eigenvalue of a positive semidefinite matrix."""
    if len(matrix) <= _SMALL:
        return float(np.linalg.eigvalsh(matrix)[-1])
    if not matrix.any():  # which ARPACK refuses
        return 0.0
    start = np.random.default_rng(0).normal(size=len(matrix))
    return float(eigsh(matrix, k=1, v0=start, return_eigenvectors=False)[0])


def _clips(weights: Float, costs: Float, shared: bool) -> NDArray[Any]:
    """Return the clip of each channel, shape [groups, channels, 1], or of all of them, shape [1, 1, 1]."""
    magnitudes = np.abs(weights)
    if shared:
        return least_clip(magnitudes.reshape(1, -1), costs.sum()).reshape(1, 1, 1)
    return least_clip(magnitudes.reshape(-1, weights.shape[2]), costs).reshape(*weights.shape[:2], 1)
