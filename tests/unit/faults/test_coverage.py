"""Diagnostic coverage: the share of failing faults that is detected, and whether its interval holds."""

import numpy as np
import pytest

from resq_deploy.faults import stratified
from resq_deploy.faults.coverage import coverage
from resq_deploy.faults.statistics import cluster
from resq_deploy.faults.stratified import Sample


def simple(values):
    return cluster(values, np.inf, 0.95)


def flags(failing, detected, n):
    fails = np.zeros(n)
    fails[:failing] = 1.0
    found = np.zeros(n)
    found[:detected] = 1.0
    return found, fails


def test_the_value_is_the_share_and_the_interval_holds_it():
    found = coverage(*flags(40, 30, 200), simple)
    assert found.value == pytest.approx(0.75)
    assert found.n == 40
    assert 0.4 < found.low < 0.75 < found.high < 0.95


@pytest.mark.parametrize(("detected", "end"), [(0, "low"), (40, "high")])
def test_what_is_never_or_always_detected_is_bounded_on_the_other_side(detected, end):
    found = coverage(*flags(40, detected, 200), simple)
    assert getattr(found, end) == found.value
    assert found.high - found.low < 0.35


def test_few_failing_faults_tell_little():
    widths = [found.high - found.low for n in (2, 10, 50) for found in [coverage(*flags(n, n // 2, 400), simple)]]
    assert widths[0] > 0.9
    assert widths == sorted(widths, reverse=True)


def strata(random):
    """A population in two strata with unlike rates, and a sample of it that takes more where harm is."""
    sizes, drawn = np.array([20_000, 2_000]), np.array([150, 250])
    chance, told = np.array([0.02, 0.3]), np.array([0.9, 0.4])
    stratum = np.repeat([0, 1], drawn)
    failing = random.random(len(stratum)) < chance[stratum]
    detected = failing & (random.random(len(stratum)) < told[stratum])
    truth = (sizes * chance * told).sum() / (sizes * chance).sum()
    sample = Sample(stratum, np.zeros(len(stratum), dtype=np.int64), sizes, np.zeros(2, dtype=np.int64))
    return failing.astype(float), detected.astype(float), sample, truth


def test_faults_drawn_in_strata_count_for_those_they_stand_for():
    random = np.random.default_rng(0)
    found = []
    for _ in range(60):
        failing, detected, sample, truth = strata(random)
        found.append(coverage(detected, failing, lambda values, of=sample: stratified.estimate(values, of, 0.95)))
    held = [one.low <= truth <= one.high for one in found]
    assert np.mean(held) >= 0.95
    assert abs(np.mean([one.value for one in found]) - truth) < 0.05  # far from the share in the sample, about 0.48
    assert max(one.high - one.low for one in found) < 1.0
