"""What training reports while it runs: small typed events, handed to a callback; free of torch."""

import dataclasses
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepDone:
    """One batch is trained.

    Attributes:
        stage: the stage's name.
        epoch: counted from 1.
        epochs: epochs of the stage.
        step: batches done in this epoch, counted from 1.
        steps: batches of an epoch.
        loss: mean loss of this epoch so far.
        accuracy: training accuracy of this epoch so far, a fraction.
        images_per_second: of this epoch so far.
    """

    stage: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    images_per_second: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochDone:
    """One epoch is trained, checked and saved; `record` is its line of `metrics.jsonl`."""

    stage: str
    epoch: int
    epochs: int
    record: Mapping[str, float | int | str | bool]
    best: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Notice:
    """Something worth a line: a resumed run, a roll-back, a long measurement that begins."""

    message: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measuring:
    """A measurement is so far; `what` it is, `done` of `total` parts."""

    what: str
    done: int
    total: int


Event = StepDone | EpochDone | Measuring | Notice
Report = Callable[[Event], None]


def silent(_: Event) -> None:
    """Take events and show nothing: of several processes, one reports."""
