"""What one fault did to each sample, whatever the task."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults.judges.outputs import Flags, Rows
from resq_deploy.faults.judges.quality import Contributions
from resq_deploy.faults.outcomes import Outcome


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Verdict:
    """What one fault did to each sample.

    A sample that was set aside, as its golden output is not finite, has no flag, no amount and no contribution.

    Attributes:
        flags: for each rung of the judge's ladder, on which samples it happened, shape [N]; masked + benign + sdc1 are
            the samples not set aside.
        amounts: how much of something happened to each sample (detections lost, positions changed), shape [N].
        contributions: what each sample contributes to the quality figure; None without labels for it.
        right: which samples are answered right, shape [N]; None where the figure is not made of right answers.
    """

    flags: Mapping[str, Flags]
    amounts: Mapping[str, NDArray[np.int64]]
    contributions: Contributions | None
    right: Flags | None

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of samples for each rung."""
        return {name: int(flags.sum()) for name, flags in self.flags.items()}

    @property
    def totals(self) -> dict[str, int]:
        """Sums of the amounts over the samples."""
        return {name: int(amount.sum()) for name, amount in self.amounts.items()}

    @property
    def outcome(self) -> Outcome:
        """The worst outcome over the samples."""
        if self.flags["sdc1"].any():
            return Outcome.SDC1
        return Outcome.BENIGN if self.flags["benign"].any() else Outcome.MASKED

    @classmethod
    def joined(cls, parts: Sequence["Verdict"]) -> "Verdict":
        """Join the verdicts on further samples, in the order given; of at least one part."""
        first = parts[0]
        if len(parts) == 1:
            return first
        rated = [part.contributions for part in parts if part.contributions is not None]
        right = [part.right for part in parts if part.right is not None]
        return cls(
            flags={name: np.concatenate([part.flags[name] for part in parts]) for name in first.flags},
            amounts={name: np.concatenate([part.amounts[name] for part in parts]) for name in first.amounts},
            contributions=Contributions.joined(rated) if rated else None,
            right=np.concatenate(right) if right else None,
        )

    def take(self, samples: Rows) -> "Verdict":
        """Return that of some of the samples, in the order given."""
        return Verdict(
            flags={name: flags[samples] for name, flags in self.flags.items()},
            amounts={name: amount[samples] for name, amount in self.amounts.items()},
            contributions=None if self.contributions is None else self.contributions.take(samples),
            right=None if self.right is None else self.right[samples],
        )

    def spread(self, samples: Rows, total: int) -> "Verdict":
        """Return it as that of some samples, ascending, out of `total`; the others were set aside."""
        if len(samples) == total:
            return self

        def wide(values: NDArray[Any]) -> NDArray[Any]:
            spread = np.zeros(total, dtype=values.dtype)
            spread[samples] = values
            return spread

        return Verdict(
            flags={name: wide(flags) for name, flags in self.flags.items()},
            amounts={name: wide(amount) for name, amount in self.amounts.items()},
            contributions=None if self.contributions is None else self.contributions.spread(samples, total),
            right=None if self.right is None else wide(self.right),
        )
