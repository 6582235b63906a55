"""The hardware architectural metrics of ISO 26262-5:2018, clause 8, and their targets."""

from resq_deploy.faults.statistics import Estimate

TARGETS = {"spfm": {"B": 0.90, "C": 0.97, "D": 0.99}, "lfm": {"B": 0.60, "C": 0.80, "D": 0.90}}
"""Targets of each metric by automotive safety integrity level, ascending (ISO 26262-5:2018, tables 4 and 5)."""


def single_point_metric(undetected: float, raw: float) -> float:
    """Return 1 - sum(SPF + RF) / sum(lambda) (ISO 26262-5:2018, 8.4.5); 1 where nothing can fail."""
    return 1.0 - undetected / raw if raw else 1.0


def latent_metric(latent: float, undetected: float, raw: float) -> float:
    """Return 1 - sum(latent) / sum(lambda - SPF - RF) (ISO 26262-5:2018, 8.4.6), cut to [0, 1].

    It is 1 where nothing is latent, whatever is left of the rate.
    """
    if latent <= 0.0:
        return 1.0
    rest = raw - undetected
    return max(0.0, 1.0 - latent / rest) if rest > 0.0 else 0.0


def level(metric: str, low: float) -> str | None:
    """Return the highest level whose target of one metric a lower end reaches; None where it reaches none."""
    reached = [name for name, target in TARGETS[metric].items() if low >= target]
    return reached[-1] if reached else None


def with_self_test(undetected: Estimate, revealed: Estimate, raw: float) -> Estimate:
    """Estimate the single-point fault metric if what a self-test reveals counts as detected.

    That is so where it runs at least once in each fault-tolerant time interval (ISO 26262-5:2018, annex D). Both
    intervals must hold, so that it does with what is left of certainty when either may fail.
    """
    ends = ((undetected.value, revealed.value), (undetected.high, revealed.low), (undetected.low, revealed.high))
    value, low, high = (single_point_metric(rate * (1.0 - share), raw) for rate, share in ends)
    confidence = undetected.confidence + revealed.confidence - 1.0
    return Estimate(value=value, low=low, high=high, n=min(undetected.n, revealed.n), confidence=confidence)
