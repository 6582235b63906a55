"""The one training loop: epochs, optimiser, files and resuming, for every stage alike."""

import dataclasses
import math
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import torch

from resq_deploy.data import Dataset
from resq_deploy.errors import CheckpointError, TrainingError
from resq_deploy.hardening import options as option_types
from resq_deploy.hardening.checkpoint import Checkpoint, load_checkpoint, load_weights
from resq_deploy.hardening.criticality import ranked
from resq_deploy.hardening.evaluate import correct, correct_under_pgd, estimate
from resq_deploy.hardening.events import EpochDone, Notice, Report, StepDone
from resq_deploy.hardening.norm_statistics import settle
from resq_deploy.hardening.options import STAGES, TrainOptions
from resq_deploy.hardening.progress import Progress, Record
from resq_deploy.hardening.stage import Stage, StepResult
from resq_deploy.hardening.stage0_baseline import Baseline
from resq_deploy.hardening.stage1_desensitize import Desensitize
from resq_deploy.hardening.stage2_fault_aware import FaultAware
from resq_deploy.hardening.workbench import Images, Workbench, as_images, seeded_globals
from resq_deploy.records import RunFolder, write_json

_LOWEST_RATE = 0.04
_MOST_UNDONE = 5
_SETTLED_STEPS = 16  # by then running averages have forgotten four fifths of their starting values


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run left behind.

    Attributes:
        checkpoints: the file of each stage's best epoch.
        summary: what `summary.json` holds.
    """

    checkpoints: Mapping[option_types.Stage, pathlib.Path]
    summary: Mapping[str, Any]


def train(
    options: TrainOptions, dataset: Dataset, run: RunFolder, report: Report, *, init: Checkpoint | None = None
) -> TrainResult:
    """Run the stages asked for, each from the best epoch of the one before, and write the run folder.

    A run folder that was interrupted is continued after its last finished epoch, with the figures (on one machine and
    thread count) of a run never interrupted.

    Args:
        options: what to do.
        dataset: the images.
        run: an open run folder; `baseline.pt`, `attack.pt`, `fault.pt`, `last.pt`, `metrics.jsonl`,
            `criticality.json` and `summary.json` are written to it.
        report: takes progress events.
        init: weights to start from, instead of fresh ones.

    Raises:
        CheckpointError: if `init` or a file of the run folder does not fit.
        DataError: if there are too few images, or of an unusable type.
        ModelError: if the network cannot be built.
        OptionError: if the device is not there.
        TrainingError: if a loss is no longer finite; the best epoch so far is kept.
        RunFolderError: if a file cannot be written.
    """
    if init is not None:
        _check_init(options, dataset, init)
    bench = Workbench(options, dataset, run.path, report, init=init)
    reached = Progress.load(run.path)
    if reached is not None:
        reached.write_metrics(run.path)
        report(Notice(message=f"resuming after epoch {reached.epoch} of stage {reached.stage}"))
    start, history = init, reached.history if reached else []
    for name in options.stages:
        path = run.path / f"{name}.pt"
        if reached is None or STAGES.index(reached.stage) <= STAGES.index(name):
            resumed = reached is not None and reached.stage == name
            history = _StageRun(bench, name, start, history).run(resumed=resumed)
        start = load_checkpoint(path)
    summary = _summarise(bench, [load_checkpoint(run.path / f"{name}.pt") for name in options.stages])
    write_json(run.path / "summary.json", summary)
    return TrainResult(checkpoints={name: run.path / f"{name}.pt" for name in options.stages}, summary=summary)


def learning_rate(progress: float, *, peak: float, warmup: float) -> float:
    """Return the one-cycle learning rate (Smith and Topin 2018) at a share of a stage's steps.

    It rises linearly from 4 % of the peak during the warm-up and falls along a cosine to 0 after it.
    """
    if progress < warmup:
        return peak * (_LOWEST_RATE + (1 - _LOWEST_RATE) * progress / warmup)
    rest = (progress - warmup) / (1 - warmup) if warmup < 1 else 0.0
    return peak * 0.5 * (1 + math.cos(math.pi * rest))


class _StageRun:
    """One stage in the loop."""

    def __init__(
        self, bench: Workbench, name: option_types.Stage, start: Checkpoint | None, history: list[Record]
    ) -> None:
        self.bench = bench
        self.options = bench.options
        self.name = name
        self.epochs = bench.options.epochs(name)
        earlier = start.lineage if start else ()
        self.lineage = (*(stage for stage in earlier if stage != name), name)
        if start is not None:
            load_weights(bench.network, start.state, origin=f"the checkpoint of stage {start.stage}")
        if name == "attack":
            ranked(bench, "before")
        self.stage = _make_stage(bench, name, hardened="attack" in earlier)
        self.optimiser = torch.optim.SGD(
            bench.network.parameters(),
            lr=bench.options.rate(name),
            momentum=bench.options.momentum,
            weight_decay=bench.options.weight_decay,
            nesterov=bench.options.momentum > 0,
        )
        self.progress = Progress(stage=name, history=list(history))

    def run(self, *, resumed: bool) -> list[Record]:
        """Train the epochs that are left; return the run's history."""
        if resumed:
            self._restore()
        else:
            self._save()
        while self.progress.epoch < self.epochs:
            record = self._epoch()
            if self.stage.rejects(_numbers(record)) and self.progress.attempt < _MOST_UNDONE:
                self._undo(record)
            else:
                self._accept(record)
        return self.progress.history

    def _epoch(self) -> Record:
        """Train and check one epoch; return its record."""
        epoch = self.progress.epoch
        key = (self.name, epoch, self.progress.attempt)
        began = time.perf_counter()
        tally = _Tally()
        with seeded_globals(self.bench, *key):
            for batch in self.bench.batches(*key, epochs=self.epochs, epoch=epoch):
                rate = learning_rate(
                    batch.progress, peak=self.options.rate(self.name), warmup=self.options.warmup_share
                )
                for group in self.optimiser.param_groups:
                    group["lr"] = rate
                self.optimiser.zero_grad(set_to_none=True)
                result = self.stage.step(batch)
                self._check_finite(result, batch.index)
                self.optimiser.step()
                self.stage.after_step(batch)
                tally.add(result, len(batch.labels))
                self._report_step(tally, time.perf_counter() - began)
            if (epoch + 1) * self.bench.steps < _SETTLED_STEPS:
                settle(self.bench)
        trained = time.perf_counter() - began
        metrics = self.stage.validate()
        return {
            "stage": self.name,
            "epoch": epoch + 1,
            **tally.figures(),
            "learning_rate": rate,
            **metrics,
            "images_per_second": round(tally.images / trained, 1),
            "seconds": round(time.perf_counter() - began, 2),
        }

    def _accept(self, record: Record) -> None:
        progress = self.progress
        score = self.stage.score(_numbers(record))
        progress.epoch += 1
        best = score > progress.best_score
        if best:
            progress.best_epoch, progress.best_score = progress.epoch, score
            self._checkpoint(record).save(self.bench.folder / f"{self.name}.pt")
        progress.history.append({**record, "best": best})
        self._save()
        self.bench.report(
            EpochDone(stage=self.name, epoch=progress.epoch, epochs=self.epochs, record=progress.history[-1], best=best)
        )

    def _undo(self, record: Record) -> None:
        """Go back to the state before the epoch, and try it again more gently."""
        self._restore()
        self.stage.soften()
        self.progress.attempt += 1
        self.progress.history.append({**record, "best": False, "undone": True})
        self._save()
        message = f"epoch {record['epoch']} lost its robustness at once (catastrophic overfitting): undone, step halved"
        self.bench.report(Notice(message=message))

    def _checkpoint(self, record: Record) -> Checkpoint:
        return Checkpoint(
            network=self.options.network,
            classes=self.bench.dataset.classes,
            mean=self.bench.mean,
            std=self.bench.std,
            image_size=self.bench.image_size,
            dataset=self.bench.dataset.name,
            stage=self.name,
            lineage=self.lineage,
            epoch=self.progress.epoch,
            metrics=_numbers(record),
            state=self.bench.network.state_dict(),
        )

    def _save(self) -> None:
        self.progress.save(self.bench.folder, self.bench.network, self.optimiser, self.stage.state())

    def _restore(self) -> None:
        self.progress, state = Progress.restore(self.bench.folder, self.bench.network, self.optimiser)
        self.stage.load_state(state)

    def _check_finite(self, result: StepResult, step: int) -> None:
        if not math.isfinite(result.loss):
            kept = f"{self.name}.pt of epoch {self.progress.best_epoch}" if self.progress.best_epoch else "last.pt"
            raise TrainingError(
                f"the loss is {result.loss} in stage {self.name}, epoch {self.progress.epoch + 1}, "
                f"step {step % self.bench.steps + 1}: lower the learning rate or give --precision float32; "
                f"{self.bench.folder / kept.partition(' ')[0]} is kept"
            )

    def _report_step(self, tally: "_Tally", seconds: float) -> None:
        self.bench.report(
            StepDone(
                stage=self.name,
                epoch=self.progress.epoch + 1,
                epochs=self.epochs,
                step=tally.steps,
                steps=self.bench.steps,
                loss=tally.loss / tally.steps,
                accuracy=tally.correct / tally.images,
                images_per_second=tally.images / seconds,
            )
        )


class _Tally:
    """Sums of an epoch's figures."""

    def __init__(self) -> None:
        self.steps = self.images = self.correct = 0
        self.loss = 0.0
        self._terms: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, result: StepResult, images: int) -> None:
        self.steps += 1
        self.images += images
        self.correct += result.correct
        self.loss += result.loss
        for name, term in result.terms.items():
            self._terms[name] = self._terms[name] + term if name in self._terms else term
            self._counts[name] = self._counts.get(name, 0) + 1

    def figures(self) -> dict[str, float]:
        """Return the mean loss, the mean of each term over the steps that had it, and the training accuracy."""
        terms = {f"loss_{name}": term.item() / self._counts[name] for name, term in self._terms.items()}
        return {"loss": self.loss / self.steps, **terms, "train_accuracy": self.correct / self.images}


def _make_stage(bench: Workbench, name: option_types.Stage, *, hardened: bool) -> Stage:
    if name == "baseline":
        return Baseline(bench)
    if name == "attack":
        return Desensitize(bench)
    return FaultAware(bench, hardened=hardened)


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in record.items() if not isinstance(value, str | bool)}


def _check_init(options: TrainOptions, dataset: Dataset, init: Checkpoint) -> None:
    if init.network != options.network:
        raise CheckpointError(f"the checkpoint is of network {init.network}: give --network {init.network}")
    if len(init.classes) != len(dataset.classes):
        raise CheckpointError(
            f"the checkpoint has {len(init.classes)} classes and {dataset.name} has {len(dataset.classes)}: "
            "give the data set it was trained on"
        )


def _summarise(bench: Workbench, checkpoints: list[Checkpoint]) -> dict[str, Any]:
    """Measure each stage's best epoch, in float32, on validation and test images."""
    options = bench.options
    test = as_images(bench.dataset.evaluation(options.test_images))
    parts = {
        "validation": (bench.validation, bench.validation.head(options.validation_images)),
        "test": (test, test.head(options.robust_test_images)),
    }
    stages = {}
    for checkpoint in checkpoints:
        load_weights(bench.network, checkpoint.state, origin=f"{checkpoint.stage}.pt")
        stages[checkpoint.stage] = {
            "epoch": checkpoint.epoch,
            **{name: _figures(bench, plain, attacked) for name, (plain, attacked) in parts.items()},
        }
    last = checkpoints[-1]
    if last.stage != "fault":
        ranked(bench, "after" if "attack" in last.lineage else "before")
    attack = {"norm": "linf", "epsilon": options.epsilon, "steps": 10, "knowledge": "white box, float network"}
    return {
        "schema": 1,
        "network": options.network,
        "dataset": bench.dataset.name,
        "attack": attack,
        "stages": stages,
        "notes": list(bench.dataset.notes),
    }


def _figures(bench: Workbench, plain: Images, attacked: Images) -> dict[str, Any]:
    return {
        "clean": estimate(correct(bench, bench.network, plain, exact=True)),
        "robust": estimate(correct_under_pgd(bench, bench.network, attacked, exact=True)),
    }
