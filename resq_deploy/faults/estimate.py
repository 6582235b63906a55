"""A figure with its interval, as summaries hold it and people read it."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its confidence interval.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: upper end of the interval.
        n: how many units (faults, chips, images) it rests on.
        confidence: coverage the interval is built for.
    """

    value: float
    low: float
    high: float
    n: int
    confidence: float

    @property
    def half_width(self) -> float:
        """The larger distance from the value to an end of the interval."""
        return max(self.high - self.value, self.value - self.low)

    def as_dict(self) -> dict[str, float | int]:
        """Return the estimate as the JSON object of the file formats."""
        return dataclasses.asdict(self)

    def at_least(self) -> dict[str, Any]:
        """Return the JSON object of a figure of which the lower end alone is known: no value, and no upper end."""
        return {**dataclasses.asdict(self), "value": None, "high": None}


def as_estimate(given: Mapping[str, Any]) -> Estimate:
    """Return the estimate that a JSON object of the file formats holds."""
    return Estimate(**{field.name: given[field.name] for field in dataclasses.fields(Estimate)})
