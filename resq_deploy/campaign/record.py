"""What a campaign keeps of each fault."""

import dataclasses
import enum

from resq_deploy.faults.fault import Share
from resq_deploy.faults.outcomes import Outcome

WHOLE = Share(0, 1)
"""All images, where they are not cut."""


class Way(enum.StrEnum):
    """How a fault was evaluated.

    Each way but the first rests on a proof of its own that it gives what the first would give, so that canary and
    audit look at each by itself.
    """

    RELOAD = "reload"
    """The faulty file in a session of its own, over the images of the fault: the truth."""
    CHANNELS = "channels"
    """The output channels of one layer alone, then what the images that changed make of them."""
    VALUES = "values"
    """The golden graph with other stored values in it, proven to be what the optimiser makes of such faults."""
    REBUILD = "rebuild"
    """The faulty file optimised anew, and run from the first node that differs."""
    VOTES = "votes"
    """Outvoted by the copies that agree: nothing to run."""
    CODES = "codes"
    """Corrected by the code that weights are stored under, so that they are decoded as they were: nothing to run."""
    GOLDEN = "golden"
    """Optimised to the golden graph, or to one of which no node reads what the fault changes: nothing to run."""
    UNCHANGED = "unchanged"
    """No stored bit changes, or the memory corrects it or stops it: nothing to run."""


_INERT = frozenset({Way.VOTES, Way.CODES, Way.GOLDEN, Way.UNCHANGED})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """The result of one fault; `Golden` makes it.

    Attributes:
        number: the fault's number in the plan.
        outcome: the worst over the images it was judged on, or `due`.
        images: image runs judged; 0 for a `due` fault.
        counts: images for each rung of the judge's ladder.
        amounts: how much of something happened over its images (detections lost, positions changed), by the names that
            the judge sums up.
        quality: the judge's figure over its images (accuracy, mIoU, ...), 0 for a `due` fault; None where it has none.
        logits: digest of the judged outputs for its images, one output after the other, each part by part, bit by bit
            (128 bits of BLAKE2b, hexadecimal); empty if `due`.
        right: bitmap of right answers, part by part, most significant bit first (numpy.packbits), ceil(images / 8)
            bytes; empty where the figure is not made of right answers.
        gaps: how far its outputs lie from the golden ones, a code of `faults.gaps` an image, part by part; empty where
            all of them are bit-equal, or the fault is `due`; None where an earlier version did not look.
        changed: stored bits that the fault really changed.
        reason: why the fault is `due`; empty otherwise.
        way: how it was evaluated.
        share: the first part of the images it was judged on, of the campaign's partition.
        parts: how many parts from there on, in a ring; all images where these are all parts.
        health: what the faulty file reports of its code words: corrected, uncorrectable; None where it reports nothing.
        detected: whether that is something else than what the fault-free file reports.
    """

    number: int
    outcome: Outcome
    images: int
    counts: dict[str, int]
    quality: float | None
    logits: str
    right: bytes
    changed: int
    gaps: bytes | None = b""
    amounts: dict[str, int] = dataclasses.field(default_factory=dict)
    reason: str = ""
    way: Way = Way.RELOAD
    share: int = 0
    parts: int = 1
    health: tuple[int, int] | None = None
    detected: bool = False

    @property
    def sdc1(self) -> float:
        """Share of its images with another answer; 0 for a `due` fault."""
        return self.counts["sdc1"] / self.images if self.images else 0.0

    @property
    def inert(self) -> bool:
        """Whether it is proven to leave what the file computes as it is: masked on all images, not just on its own."""
        return self.way in _INERT and self.outcome is Outcome.MASKED

    @property
    def reloaded(self) -> bool:
        """Whether it was evaluated by reload-and-run."""
        return self.way is Way.RELOAD
