"""The training state on disk: everything that a killed run needs to go on as if nothing had happened."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any, Self

from resq_deploy.errors import CheckpointError
from resq_deploy.hardening.checkpoint import load_payload, save_payload
from resq_deploy.hardening.options import Stage
from resq_deploy.records import write_atomic

LAST = "last.pt"
METRICS = "metrics.jsonl"
_FORMAT = "resq-deploy training state"

Record = dict[str, float | int | str | bool]


@dataclasses.dataclass(kw_only=True)
class Progress:
    """Where a run stands.

    Randomness is no part of it: every epoch's generators derive from (seed, stage, epoch, attempt), and the
    learning rate is a function of the step.

    Attributes:
        stage: the stage under way.
        epoch: its finished epochs.
        attempt: how many of the stage's epochs were undone.
        best_epoch: the best epoch so far, counted from 1; 0 for none.
        best_score: its score.
        history: the lines of `metrics.jsonl`, those of earlier stages included.
    """

    stage: Stage
    epoch: int = 0
    attempt: int = 0
    best_epoch: int = 0
    best_score: float = float("-inf")
    history: list[Record] = dataclasses.field(default_factory=list)

    def save(self, folder: pathlib.Path, parts: Mapping[str, Any]) -> None:
        """Write `last.pt`, then `metrics.jsonl` from the same history, so that no line can occur twice.

        Args:
            folder: the run folder.
            parts: states of model, optimiser, stage and whatever else the run goes on with.

        Raises:
            RunFolderError: if a file cannot be written.
        """
        save_payload(folder / LAST, {"progress": dataclasses.asdict(self), **parts}, kind=_FORMAT)
        self.write_metrics(folder)

    def write_metrics(self, folder: pathlib.Path) -> None:
        """Write `metrics.jsonl`, one line an epoch."""
        write_atomic(folder / METRICS, "".join(json.dumps(line, allow_nan=False) + "\n" for line in self.history))

    @classmethod
    def load(cls, folder: pathlib.Path) -> tuple[Self, dict[str, Any]] | None:
        """Read how far a run came, and the parts it was saved with; `None` where no state was saved yet.

        Raises:
            CheckpointError: if `last.pt` is corrupt or no training state.
        """
        if not (folder / LAST).exists():
            return None
        payload = load_payload(folder / LAST, kind=_FORMAT)
        try:
            return cls(**payload["progress"]), payload
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / LAST} is incomplete ({error}): train again in a new folder") from error
