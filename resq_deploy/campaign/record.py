"""What a campaign keeps of each fault."""

import dataclasses
import enum
import hashlib

import numpy as np

from resq_deploy.faults.outcomes import COUNTS, Judgement, Logits, Outcome


class Way(enum.StrEnum):
    """How a fault was evaluated.

    Each way but the first rests on a proof of its own that it gives what the first would give, so that canary and
    audit look at each by itself.
    """

    RELOAD = "reload"
    """The faulty file in a session of its own, over all images: the truth."""
    CHANNELS = "channels"
    """The output channels of one layer alone, then what the images that changed make of them."""
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
        outcome: the worst over its images, or `due`.
        images: image runs judged; 0 for a `due` fault.
        counts: images for each name of `COUNTS`.
        accuracy: share of images answered right; 0 for a `due` fault.
        logits: digest of the outputs for all images, bit by bit (128 bits of BLAKE2b, hexadecimal); empty if `due`.
        right: bitmap of right answers, most significant bit first (numpy.packbits), ceil(images / 8) bytes.
        changed: stored bits that the fault really changed.
        reason: why the fault is `due`; empty otherwise.
        way: how it was evaluated.
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
    health: tuple[int, int] | None = None
    detected: bool = False

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
        health: tuple[int, int] | None = None,
        detected: bool = False,
    ) -> "Record":
        """Make the record of a fault whose images were judged."""
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
            health=health,
            detected=detected,
        )

    @classmethod
    def due(cls, number: int, changed: int, reason: str, *, way: Way = Way.RELOAD) -> "Record":
        """Make the record of a fault that left the file unusable."""
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
        )
