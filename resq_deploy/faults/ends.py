"""Sums and bounds of estimates that hold together."""

import dataclasses

from resq_deploy.faults.estimate import Estimate


def shared(confidence: float, estimates: int) -> float:
    """Return the confidence of each of several estimates that shall hold together."""
    return 1.0 - (1.0 - confidence) / estimates


def exact(value: float, confidence: float) -> Estimate:
    """Return what is known without a sample."""
    return Estimate(value=value, low=value, high=value, n=0, confidence=confidence)


def bounded(value: float, low: float, high: float, like: Estimate) -> Estimate:
    """Return an estimate whose interval holds its value."""
    return dataclasses.replace(like, value=value, low=min(low, value), high=max(high, value))


def with_value(found: Estimate, value: float) -> Estimate:
    """Return an estimate with another value, and an interval that holds it."""
    return bounded(value, found.low, found.high, found)


def at_most(found: Estimate, most: float) -> Estimate:
    """Return an estimate of what cannot be more than a bound."""
    value, low, high = (min(end, most) for end in (found.value, found.low, found.high))
    return dataclasses.replace(found, value=value, low=low, high=high)


def lower_of(first: Estimate, second: Estimate) -> Estimate:
    """Estimate the lower of two figures."""
    pairs = ((first.value, second.value), (first.low, second.low), (first.high, second.high))
    value, low, high = (min(pair) for pair in pairs)
    return dataclasses.replace(first, value=value, low=low, high=high)


def higher_of(first: Estimate, second: Estimate) -> Estimate:
    """Estimate the higher of two figures."""
    pairs = ((first.value, second.value), (first.low, second.low), (first.high, second.high))
    value, low, high = (max(pair) for pair in pairs)
    return dataclasses.replace(first, value=value, low=low, high=high)
