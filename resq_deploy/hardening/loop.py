"""The one training loop: stage after stage, with what it leaves behind and how it is resumed."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from resq_deploy.data import Dataset
from resq_deploy.errors import CheckpointError
from resq_deploy.hardening import budget
from resq_deploy.hardening import options as option_types
from resq_deploy.hardening.checkpoint import Checkpoint, load_checkpoint
from resq_deploy.hardening.events import Notice, Report
from resq_deploy.hardening.options import STAGES, TrainOptions
from resq_deploy.hardening.progress import Progress
from resq_deploy.hardening.ranks import Ranks
from resq_deploy.hardening.stage_run import StageRun
from resq_deploy.hardening.start_check import check_start
from resq_deploy.hardening.summary import summarise
from resq_deploy.hardening.workbench import Workbench
from resq_deploy.records import write_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run left behind.

    Attributes:
        checkpoints: the file of each stage's best epoch, and of what keeps to the budget.
        summary: what `summary.json` holds.
    """

    checkpoints: Mapping[str, pathlib.Path]
    summary: Mapping[str, Any]


def train(
    options: TrainOptions,
    dataset: Dataset,
    folder: pathlib.Path,
    report: Report,
    *,
    init: Checkpoint | None = None,
    new_head: bool = False,
    ranks: Ranks | None = None,
) -> TrainResult:
    """Run the stages asked for, each from the best epoch of the one before, and write the run folder.

    A run folder that was interrupted is continued after its last finished epoch, with the figures (on one machine,
    thread and process count) of a run never interrupted.

    Args:
        options: what to do.
        dataset: the images.
        folder: an open run folder; `baseline.pt`, `attack.pt`, `fault.pt`, `budget.pt`, `last.pt`,
            `metrics.jsonl`, `criticality.json`, `pareto.json` and `summary.json` are written to it.
        report: takes progress events; of several processes, give it to the first and `silent` to the others.
        init: weights to start from, instead of fresh ones.
        new_head: whether the head of these is fresh, so that they answer nothing yet.
        ranks: the processes that share the work; each calls this function, and the first alone writes.

    Raises:
        CheckpointError: if `init` or a file of the run folder does not fit.
        DataError: if there are too few images, or of an unusable type.
        ModelError: if the network cannot be built.
        OptionError: if the device is not there, or batches cannot be shared out among the processes.
        TrainingError: if a loss is no longer finite; the best epoch so far is kept.
        RunFolderError: if a file cannot be written.
    """
    budget.check_budget(options.clean_budget, options.stages, fresh=init is None)
    if init is not None:
        _check_init(options, dataset, init)
    bench = Workbench(options, dataset, folder, report, init=init, ranks=ranks)
    reached = bench.ranks.first(lambda: _reached(bench))
    start, history = init, reached.history if reached else []
    if init is not None and reached is None:
        for line in check_start(bench, init, new_head=new_head):
            bench.report(Notice(message=line))
    for name in options.stages:
        if reached is None or STAGES.index(reached.stage) <= STAGES.index(name):
            resumed = reached is not None and reached.stage == name
            history = StageRun(bench, name, start, history).run(resumed=resumed)
        start = _checkpoint_of(bench, name)
    found: dict[str, Checkpoint] = {name: _checkpoint_of(bench, name) for name in options.stages}
    if options.clean_budget is not None:
        found[budget.STAGE] = _within_budget(bench, init, found)
    summary = summarise(bench, list(found.values()))
    if bench.ranks.leads:
        write_json(folder / "summary.json", summary)
    return TrainResult(checkpoints={name: folder / f"{name}.pt" for name in found}, summary=summary)


def _within_budget(bench: Workbench, init: Checkpoint | None, found: Mapping[str, Checkpoint]) -> Checkpoint:
    """Choose, write and return the weights that keep to the budget of clean accuracy."""
    start = found.get("baseline", init)
    assert start is not None  # a run that hardens fresh weights has been refused
    chosen = budget.meet_budget(bench, start, list(found.values())[-1])
    if bench.ranks.leads:
        chosen.save(bench.folder / f"{budget.STAGE}.pt")
    return chosen


def _reached(bench: Workbench) -> Progress | None:
    """Return how far an earlier run came, with `metrics.jsonl` mended where it was killed before writing it."""
    found = Progress.load(bench.folder)
    if found is None:
        return None
    reached, _ = found
    reached.write_metrics(bench.folder)
    bench.report(Notice(message=f"resuming after epoch {reached.epoch} of stage {reached.stage}"))
    return reached


def _checkpoint_of(bench: Workbench, stage: option_types.Stage) -> Checkpoint:
    return bench.ranks.first(lambda: load_checkpoint(bench.folder / f"{stage}.pt", network=bench.options.network))


def _check_init(options: TrainOptions, dataset: Dataset, init: Checkpoint) -> None:
    if init.network != options.network:
        raise CheckpointError(f"the checkpoint is of network {init.network}: give --network {init.network}")
    if len(init.classes) != len(dataset.classes):
        raise CheckpointError(
            f"the checkpoint has {len(init.classes)} classes and {dataset.name} has {len(dataset.classes)}: "
            "give the data set it was trained on"
        )
    if sorted(init.classes) == sorted(dataset.classes) and init.classes != tuple(dataset.classes):
        raise CheckpointError(f"the checkpoint has the classes of {dataset.name} in another order: train afresh")
