"""Which runs belong to one network: from stage to stage by checkpoint, from checkpoint to deployed file by digest."""

import dataclasses
import pathlib
from collections.abc import Sequence

from resq_deploy.records import sha256_file
from resq_deploy.report.runs import Run, of_command

STAGES = ("baseline", "attack", "fault", "budget")
"""The training stages, 0 to 2, and what keeps to a budget, by the names of their checkpoints."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """A stage of a line, and the runs on files made from its checkpoint.

    Attributes:
        train: the training run.
        stage: the stage's name.
        checkpoint: SHA-256 of its checkpoint; None where the checkpoint is no longer in the folder.
        campaigns: fault and attack campaigns on deployed files of this checkpoint.
    """

    train: Run
    stage: str
    checkpoint: str | None
    campaigns: Sequence[Run]

    @property
    def files(self) -> list[str]:
        """SHA-256 of the deployed files, in the order of the campaigns."""
        return list(dict.fromkeys(run.model for run in self.campaigns if run.model))


def lines(runs: Sequence[Run]) -> list[list[Step]]:
    """Return the stages of each training run, with those of the run whose checkpoint it started from in front.

    A deployed file belongs to a checkpoint where a run on it names the checkpoint's SHA-256: as the source of the
    file, or else as the surrogate of its attacks.
    """
    steps = {run.label: _steps(run, runs) for run in of_command(runs, "train")}
    found: dict[str, list[Step]] = {}
    for run in of_command(runs, "train"):
        found[run.label] = [*_before(run, steps), *steps[run.label]]
    continued = {step.train.label for label, line in found.items() for step in line if step.train.label != label}
    return [line for label, line in found.items() if label not in continued]


def _steps(train: Run, runs: Sequence[Run]) -> list[Step]:
    found = []
    for stage in STAGES:
        if stage not in train.summary["stages"]:
            continue
        checkpoint = _sha256(train.path / f"{stage}.pt")
        found.append(Step(train=train, stage=stage, checkpoint=checkpoint, campaigns=_on_files_of(checkpoint, runs)))
    return found


def _before(run: Run, steps: dict[str, list[Step]]) -> list[Step]:
    """Return the stages that led to the checkpoint a training run started from."""
    init = run.digest("init")
    for label, line in steps.items():
        for place, step in enumerate(line):
            if init and step.checkpoint == init and label != run.label:
                return [*_before(step.train, steps), *line[: place + 1]]
    return []


def _on_files_of(checkpoint: str | None, runs: Sequence[Run]) -> list[Run]:
    campaigns = [run for run in runs if run.command in ("faultcamp", "attackcamp")]
    if checkpoint is None:
        return []
    sources = {run.model: run.digest("surrogate") for run in campaigns if run.digest("surrogate")}
    sources |= {run.model: _source(run) for run in campaigns if _source(run)}  # what the file was really made from
    return [run for run in campaigns if sources.get(run.model) == checkpoint]


def _source(run: Run) -> str | None:
    """Return the SHA-256 of the checkpoint that a file was exported from, where the run recorded it."""
    found: str | None = run.manifest["settings"].get("checkpoint")
    return found


def _sha256(path: pathlib.Path) -> str | None:
    return sha256_file(path) if path.is_file() else None
