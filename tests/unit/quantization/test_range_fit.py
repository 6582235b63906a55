"""Weights fitted inside a range: no other weights and no other range have a lower expected error."""

import numpy as np
import pytest
from scipy.optimize import lsq_linear

from resq_deploy.quantization.range_fit import fit_within_range

NOTHING = np.zeros(2)


def problem(seed, groups=2, channels=3, inputs=6, rows=40):
    """Inputs with related features, heavy-tailed weights, and the moments `fit_within_range` takes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(groups, rows, inputs)) @ rng.normal(size=(groups, inputs, inputs))
    weights = rng.standard_t(3, size=(groups, channels, inputs))
    second = x.transpose(0, 2, 1) @ x / rows
    return x, weights, second, weights @ second


def objective(fitted, weights, second, cost, shared):
    """The expected squared error, written down anew."""
    off = fitted - weights
    error = np.einsum("gci,gij,gcj->gc", off, second, off)
    largest = np.abs(fitted).max(axis=2)
    if shared:
        largest = np.full_like(largest, largest.max())
    return error + cost[:, None] * largest**2


def best_by_grid(x, weights, cost):
    """The least objective of one channel: bounded least squares by scipy at each of many ranges."""
    root = np.sqrt(len(x))
    found = []
    for limit in np.linspace(0, np.abs(weights).max(), 60)[1:]:
        fitted = lsq_linear(x / root, x @ weights / root, (-limit, limit), method="bvls")
        found.append(2 * fitted.cost + cost * limit**2)
    return min(found)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cost", [0.0, 0.3, 5.0])
def test_no_range_of_a_grid_with_the_best_weights_inside_is_better(seed, cost):
    x, weights, second, cross = problem(seed)
    costs = np.array([cost, 2 * cost])
    fitted = fit_within_range(weights, second, cross, costs, NOTHING, shared=False)
    found = objective(fitted, weights, second, costs, shared=False)
    for group in range(2):
        for channel in range(3):
            least = best_by_grid(x[group], weights[group, channel], costs[group])
            assert found[group, channel] <= least * 1.01 + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_a_shared_range_is_the_best_of_a_grid_too(seed):
    x, weights, second, cross = problem(seed)
    costs = np.array([0.5, 1.0])
    fitted = fit_within_range(weights, second, cross, costs, NOTHING, shared=True)
    found = objective(fitted, weights, second, costs, shared=True).sum()
    totals = []
    for limit in np.linspace(0, np.abs(weights).max(), 60)[1:]:
        total = 3 * costs.sum() * limit**2
        for group, channel in np.ndindex(2, 3):
            rows = x[group] / np.sqrt(len(x[group]))
            total += 2 * lsq_linear(rows, rows @ weights[group, channel], (-limit, limit), method="bvls").cost
        totals.append(total)
    assert found <= min(totals) * 1.01


def test_what_costs_nothing_stays():
    _, weights, second, cross = problem(7)
    np.testing.assert_array_equal(fit_within_range(weights, second, cross, np.zeros(2), NOTHING, shared=False), weights)


@pytest.mark.parametrize("shared", [False, True])
def test_inputs_that_are_always_zero_leave_the_weights_alone(shared):
    weights = np.random.default_rng(8).normal(size=(1, 2, 5))
    nothing = np.zeros((1, 5, 5))
    fitted = fit_within_range(weights, nothing, weights @ nothing, np.zeros(1), np.zeros(1), shared=shared)
    np.testing.assert_array_equal(fitted, weights)


def test_correlated_inputs_make_up_for_the_weight_cut_off():
    """Two inputs that are equal share one large weight, at no error; clipping alone would lose half of it."""
    x = np.random.default_rng(9).normal(size=(1, 100, 1)) @ np.ones((1, 1, 2))
    second = x.transpose(0, 2, 1) @ x / 100
    weights = np.array([[[2.0, 0.0]]])
    fitted = fit_within_range(weights, second, weights @ second, np.array([0.1]), np.zeros(1), shared=False)
    power = float(second[0, 0, 0])
    np.testing.assert_allclose(fitted, np.full((1, 1, 2), 4 * power / (4 * power + 0.1)), atol=1e-3)


def test_a_ridge_keeps_what_the_inputs_do_not_speak_of():
    """A direction the inputs never take is moved only as far as the range asks for."""
    x = np.random.default_rng(10).normal(size=(1, 100, 3)) * [1.0, 1.0, 0.0]
    second = x.transpose(0, 2, 1) @ x / 100
    weights = np.array([[[0.5, -0.5, 2.0]]])
    loose, tight = (
        fit_within_range(weights, second, weights @ second, np.array([0.01]), np.array([ridge]), shared=False)
        for ridge in (0.0, 1.0)
    )
    assert abs(loose[0, 0, 2]) < 1 < 1.9 < tight[0, 0, 2] < 2


def test_large_layers_find_their_step_another_way():
    """Beyond 512 inputs, by Lanczos, which cannot take a matrix of zeros."""
    rng = np.random.default_rng(11)
    x = rng.normal(size=(300, 600)) @ np.diag(rng.uniform(0.1, 3, 600))
    second = (x.T @ x / 300)[None]
    weights = rng.standard_t(3, size=(1, 4, 600))
    cost = np.array([30.0])
    fitted = fit_within_range(weights, second, weights @ second, cost, np.zeros(1), shared=False)
    found = objective(fitted, weights, second, cost, shared=False)
    plain = objective(weights, weights, second, cost, shared=False)
    assert (found < 0.9 * plain).all()
    nothing = fit_within_range(weights, 0 * second, 0 * weights, np.zeros(1), np.zeros(1), shared=False)
    np.testing.assert_array_equal(nothing, weights)
