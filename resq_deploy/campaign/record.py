"""What a campaign keeps of each fault."""

import dataclasses
import enum
import hashlib

import numpy as np

from resq_deploy.faults.fault import Share
from resq_deploy.faults.outcomes import COUNTS, Judgement, Logits, Outcome

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
    UNCHANGED = "unchanged"
    """No stored bit changes, or the memory corrects it or stops it: nothing to run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """The result of one fault.

    Attributes:
        number: the fault's number in the plan.
        outcome: the worst over the images it was judged on, or `due`.
        images: image runs judged; 0 for a `due` fault.
        counts: images for each name of `COUNTS`.
        accuracy: share of images answered right; 0 for a `due` fault.
        logits: digest of the outputs for its images, part by part, bit by bit (128 bits of BLAKE2b, hexadecimal);
            empty if `due`.
        right: bitmap of right answers, part by part, most significant bit first (numpy.packbits), ceil(images / 8)
            bytes.
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
    accuracy: float
    logits: str
    right: bytes
    changed: int
    reason: str = ""
    way: Way = Way.RELOAD
    share: int = 0
    parts: int = 1
    health: tuple[int, int] | None = None
    detected: bool = False

    @property
    def sdc1(self) -> float:
        """Share of its images with another top-1; 0 for a `due` fault."""
        return self.counts["sdc1"] / self.images if self.images else 0.0

    @property
    def reloaded(self) -> bool:
        """Whether it was evaluated by reload-and-run."""
        return self.way is Way.RELOAD

    @classmethod
    def of(
        cls,
        number: int,
        judgement: Judgement,
        changed: int,
        logits: Logits,
        *,
        way: Way = Way.RELOAD,
        share: Share | None = None,
        health: tuple[int, int] | None = None,
        detected: bool = False,
    ) -> "Record":
        """Make the record of a fault whose images were judged; a share of None is the one part there is."""
        first, parts = share or WHOLE
        return cls(
            number=number,
            outcome=judgement.outcome,
            images=len(judgement.right),
            counts=judgement.counts,
            accuracy=float(judgement.right.mean()),
            logits=hashlib.blake2b(logits.tobytes(), digest_size=16).hexdigest(),
            right=np.packbits(judgement.right).tobytes(),
            changed=changed,
            way=way,
            share=first,
            parts=parts,
            health=health,
            detected=detected,
        )

    @classmethod
    def due(
        cls, number: int, changed: int, reason: str, *, way: Way = Way.RELOAD, share: Share | None = None
    ) -> "Record":
        """Make the record of a fault that left the file unusable; a share of None is the one part there is."""
        first, parts = share or WHOLE
        return cls(
            number=number,
            outcome=Outcome.DUE,
            images=0,
            counts=dict.fromkeys(COUNTS, 0),
            accuracy=0.0,
            logits="",
            right=b"",
            changed=changed,
            reason=reason,
            way=way,
            share=first,
            parts=parts,
        )
