import numpy as np
import pytest
from scipy import stats

from resq_deploy.faults.statistics import (
    Estimate,
    difference,
    holm,
    mcnemar,
    permutation_p,
    rank_correlation,
    share,
    sign_test,
    ways,
)


def wilson_share(successes, n):
    return share(successes, n, 0.95)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def test_the_sign_test_is_the_exact_binomial_one():
    differences = [0.5] * 15 + [-0.001] * 5 + [0.0, 1e-15, -1e-15]
    assert ways(differences) == (15, 5)
    assert sign_test(differences) == pytest.approx(stats.binomtest(15, 20).pvalue)
    assert sign_test([0.02] * 4) == pytest.approx(0.125)
    assert (sign_test([0.0] * 100), sign_test([]), sign_test([0.2])) == (1.0, 1.0, 1.0)


def test_the_sign_test_keeps_its_level_where_student_does_not(rng):
    """Chips that are alike but for a rare catastrophe of either file: Student's test sees too little spread."""
    wrong = 0
    for _ in range(500):
        first, second = ((rng.random(20) < 0.05) * 0.9 + rng.normal(0, 0.001, 20) for _ in range(2))
        wrong += sign_test(second - first) < 0.05
    assert wrong / 500 < 0.07


def test_mcnemar_of_one_fault_is_the_exact_binomial_test():
    differences = [1] * 10 + [-1] * 2 + [0] * 88
    assert mcnemar(differences) == pytest.approx(stats.binomtest(2, 12).pvalue)
    assert mcnemar([0, 0, 0]) == 1.0


def test_mcnemar_over_clusters_is_obuchowskis():
    assert mcnemar([2, 2, -1]) == pytest.approx(stats.chi2.sf(9 / 9, 1))


def test_mcnemar_keeps_its_level_where_answers_to_an_image_hang_together(rng):
    rejected = 0
    for _ in range(400):
        ease = rng.beta(0.3, 0.3, size=(2, 300))  # each image is easy or hard, for each file by itself
        counts = rng.binomial(20, ease)
        rejected += mcnemar(counts[1] - counts[0]) < 0.05
    assert 0.03 < rejected / 400 < 0.08
    # Chips pooled as if independent would reject most of the time:
    assert stats.chi2.sf(float((counts[1] - counts[0]).sum()) ** 2 / counts.sum(), 1) != mcnemar(counts[1] - counts[0])


def test_holm_adjusts_step_by_step():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_difference_of_independent_shares_is_newcombes():
    estimate = difference(wilson_share(48, 80), wilson_share(56, 70))
    assert estimate.value == pytest.approx(0.2)
    assert (estimate.low, estimate.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)  # his table II, method 10
    assert estimate.n == 70


def test_a_difference_needs_one_confidence():
    other = Estimate(value=0.5, low=0.4, high=0.6, n=10, confidence=0.9)
    with pytest.raises(ValueError, match="same confidence"):
        difference(wilson_share(1, 2), other)


def test_rank_correlation_is_spearmans_with_an_interval_that_covers(rng):
    covered = 0
    for _ in range(300):
        both = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=25)
        estimate = rank_correlation(both[:, 0], both[:, 1], 0.95)
        assert estimate.value == pytest.approx(stats.spearmanr(both[:, 0], both[:, 1]).statistic)
        covered += estimate.low <= 6 / np.pi * np.arcsin(0.3) <= estimate.high  # of a normal pair, Kruskal 1958
    assert 0.92 < covered / 300 < 0.99


@pytest.mark.parametrize(("first", "second"), [([1, 2, 3], [1, 2, 3]), ([1, 1, 1, 1], [1, 2, 3, 4])])
def test_rank_correlation_needs_something_to_rank(first, second):
    assert rank_correlation(first, second, 0.95) is None


def test_perfect_agreement_has_no_interval():
    estimate = rank_correlation([1, 2, 3, 4, 5], [10, 20, 30, 40, 50], 0.95)
    assert (estimate.value, estimate.low, estimate.high) == (1.0, 1.0, 1.0)


def test_the_permutation_test_is_scipys(rng):
    first, second = rng.choice([0.0, 0.0, 0.1, 0.4], 60), rng.choice([0.0, 0.1, 0.4, 0.5], 40)

    def statistic(a, b, axis):
        return np.abs(a.mean(axis=axis) - b.mean(axis=axis))

    expected = stats.permutation_test((first, second), statistic, alternative="greater", rng=1, vectorized=True).pvalue
    assert permutation_p(first, second, resamples=9999) == pytest.approx(expected, abs=0.015)
    assert permutation_p(first, first) == 1.0


def test_a_small_sample_without_the_rare_catastrophes_proves_nothing(rng):
    faults = rng.integers(0, 5, 20_000) / 1000
    faults[::150] = 0.6  # one in 150 does almost all the harm
    wrong = 0
    for _ in range(200):
        drawn = rng.permutation(faults)
        wrong += permutation_p(drawn[:2000], drawn[2000:2300], resamples=399) < 0.05
    assert wrong / 200 < 0.08
