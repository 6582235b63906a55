"""What a bit-flip attack is asked to do."""

import dataclasses
from typing import Literal

from resq_deploy.data.dataset import Dataset
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import OptionError


@dataclasses.dataclass(frozen=True, kw_only=True)
class BitFlipOptions:
    """Options of the bit-flip attack; all of them decide its figures.

    Attributes:
        batches: attacks from scratch, each with an attack batch of its own.
        limit: flipped bits after which an attack that has not reached its end is given up.
        target: class that all images are to be given, by name or number; None to bring accuracy down to chance.
        loss: `gathered`, `capped`, or `cross-entropy`, as published; see `AttackBatch`.
        roles: roles whose bits may be flipped; empty for all.
        batch_images: images of an attack batch.
    """

    batches: int = 5
    limit: int = 100
    target: str | None = None
    loss: Literal["gathered", "capped", "cross-entropy"] = "gathered"
    roles: tuple[Role, ...] = (Role.WEIGHT,)
    batch_images: int = 128

    def __post_init__(self) -> None:
        for name in ("batches", "limit"):
            if getattr(self, name) < 1:
                raise OptionError(f"--bit-flip-{name} {getattr(self, name)}: give a whole number from 1 up")
        if self.batch_images < 1:
            raise OptionError(f"bit-flip: an attack batch of {self.batch_images} images; it needs at least 1")


def class_number(target: str | None, dataset: Dataset) -> int | None:
    """Return the class an attacker wants, given by name or else by number.

    Raises:
        OptionError: if there is no such class.
    """
    if target is None:
        return None
    if target in dataset.classes:
        return dataset.classes.index(target)
    if target.isdecimal() and int(target) < len(dataset.classes):
        return int(target)
    examples = ", ".join(dataset.classes[:3])
    raise OptionError(
        f"--bit-flip-target {target!r}: {dataset.name} has no such class; give a name, such as {examples}, "
        f"or a number from 0 to {len(dataset.classes) - 1}"
    )
