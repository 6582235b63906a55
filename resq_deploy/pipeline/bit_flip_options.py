"""What a bit-flip attack is asked to do."""

import dataclasses
import pathlib
from typing import Any, Literal

from resq_deploy.data.dataset import Dataset
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import OptionError
from resq_deploy.records import sha256_file


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
        flippable: fault list that names the only bits which can be flipped; None for all.
    """

    batches: int = 5
    limit: int = 100
    target: str | None = None
    loss: Literal["gathered", "capped", "cross-entropy"] = "gathered"
    roles: tuple[Role, ...] = (Role.WEIGHT,)
    batch_images: int = 128
    flippable: pathlib.Path | None = None

    def __post_init__(self) -> None:
        for name in ("batches", "limit"):
            if getattr(self, name) < 1:
                raise OptionError(f"--bit-flip-{name} {getattr(self, name)}: give a whole number from 1 up")
        if self.batch_images < 1:
            raise OptionError(f"bit-flip: an attack batch of {self.batch_images} images; it needs at least 1")
        if self.flippable is not None and not self.flippable.is_file():
            raise OptionError(f"--flippable {self.flippable}: there is no such file")

    def identity(self) -> dict[str, Any]:
        """Return what decides the figures, as JSON values; of the bits that can be flipped the file's digest."""
        values = dataclasses.asdict(self)
        if self.flippable is None:  # as it was before bits could be named
            del values["flippable"]
        else:
            values["flippable"] = sha256_file(self.flippable)
        return values


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
