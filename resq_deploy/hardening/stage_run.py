"""One stage in the training loop: its epochs, optimiser, checkpoints and training state, for every stage alike."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import torch

from resq_deploy.errors import CheckpointError, TrainingError
from resq_deploy.hardening import options as option_types
from resq_deploy.hardening.averaging import WeightAverage
from resq_deploy.hardening.checkpoint import Checkpoint, load_weights
from resq_deploy.hardening.criticality import ranked
from resq_deploy.hardening.events import EpochDone, Notice, StepDone
from resq_deploy.hardening.norm_statistics import running_statistics, settle
from resq_deploy.hardening.optimizer import learning_rate, make_optimizer
from resq_deploy.hardening.progress import LAST, Progress, Record
from resq_deploy.hardening.stage import Stage, StepResult
from resq_deploy.hardening.stage0_baseline import Baseline
from resq_deploy.hardening.stage1_desensitize import Desensitize
from resq_deploy.hardening.stage2_fault_aware import FaultAware
from resq_deploy.hardening.workbench import Batch, Workbench, seeded_globals

_MOST_UNDONE = 5
_SETTLED_STEPS = 16  # by then running averages have forgotten four fifths of their starting values


class StageRun:
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
        self.optimiser = make_optimizer(bench.network, self.options, rate=self.options.rate(name))
        self.average = WeightAverage(bench.network, bench.options.ema) if bench.options.ema else None
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
                tally.add(self.step(batch), len(batch.labels))
                self._report_step(tally, time.perf_counter() - began)
            if self._unsettled:
                settle(self.bench)
        self._check_weights()
        trained = time.perf_counter() - began
        metrics = self.stage.watch()
        with self._judged():
            metrics |= self.stage.validate()
        return {
            "stage": self.name,
            "epoch": epoch + 1,
            **self.bench.ranks.means(tally.figures()),
            "learning_rate": self.optimiser.param_groups[0]["lr"],
            **metrics,
            "images_per_second": round(tally.images * self.bench.ranks.count / trained, 1),
            "seconds": round(time.perf_counter() - began, 2),
        }

    def step(self, batch: Batch) -> StepResult:
        """Train on one batch."""
        options = self.options
        rate = learning_rate(batch.progress, peak=options.rate(self.name), warmup=options.warmup_share)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        result = self.stage.step(batch)
        if self.bench.ranks.count > 1:
            result = self._shared(result)
        self._check_finite(result, batch.index)
        self.optimiser.step()
        self.stage.after_step(batch)
        if self.average is not None:
            self.average.update()
        return result

    def _shared(self, result: StepResult) -> StepResult:
        """Average gradients, batch-norm statistics and the loss over all processes, so that they stay the same."""
        loss = torch.tensor([result.loss], device=self.bench.device)
        gradients = [weight.grad for weight in self.bench.network.parameters() if weight.grad is not None]
        self.bench.ranks.average([loss, *gradients, *running_statistics(self.bench.network)])
        return dataclasses.replace(result, loss=loss.item())

    @property
    def _unsettled(self) -> bool:
        return (self.progress.epoch + 1) * self.bench.steps < _SETTLED_STEPS

    @contextlib.contextmanager
    def _judged(self) -> Iterator[None]:
        """Give the network the weights that are judged and kept: the averaged ones where there are any."""
        if self.average is None:
            yield
            return
        with self.average.applied():
            if self._unsettled:
                settle(self.bench)
            yield

    def _accept(self, record: Record) -> None:
        progress = self.progress
        score = self.stage.score(_numbers(record))
        best = score > progress.best_score or self.options.keep == "last"
        if best:
            progress.best_epoch, progress.best_score = progress.epoch + 1, score
            self._keep(record)
        progress.epoch += 1
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

    def _keep(self, record: Record) -> None:
        """Write the checkpoint of the stage."""
        if not self.bench.ranks.leads:
            return
        with self._judged():
            self._checkpoint(record).save(self.bench.folder / f"{self.name}.pt")

    def _checkpoint(self, record: Record) -> Checkpoint:
        return Checkpoint(
            network=self.options.network,
            classes=self.bench.dataset.classes,
            channels=self.bench.options.channels,
            split=self.bench.dataset.split,
            mean=self.bench.mean,
            std=self.bench.std,
            image_size=self.bench.image_size,
            dataset=self.bench.dataset.name,
            stage=self.name,
            lineage=self.lineage,
            epoch=self.progress.epoch + 1,
            metrics=_numbers(record),
            state=self.bench.network.state_dict(),
        )

    def _save(self) -> None:
        if not self.bench.ranks.leads:
            return
        parts = {
            "model": self.bench.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "stage": self.stage.state(),
            "average": self.average.state() if self.average else None,
        }
        self.progress.save(self.bench.folder, parts)

    def _restore(self) -> None:
        path = self.bench.folder / LAST
        found = self.bench.ranks.first(lambda: Progress.load(self.bench.folder))
        if found is None:
            raise CheckpointError(f"{path} has gone: train again in a new folder")
        self.progress, parts = found
        try:
            load_weights(self.bench.network, parts["model"], origin=str(path))
            self.optimiser.load_state_dict(parts["optimiser"])
            self.stage.load_state(parts["stage"])
            if self.average is not None:
                self.average.load_state(parts["average"])
        except (KeyError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{path} does not belong to this run ({error}): train again in a new folder"
            ) from error

    def _check_finite(self, result: StepResult, step: int) -> None:
        if not math.isfinite(result.loss):
            self._diverged(f"the loss is {result.loss}", f", step {step % self.bench.steps + 1}")

    def _check_weights(self) -> None:
        """Stop before weights are kept that the epoch's last step has spoilt: no loss has told of it yet."""
        for name, tensor in self.bench.network.state_dict().items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                self._diverged(f"{name} holds a number that is not finite", "")

    def _diverged(self, what: str, step: str) -> NoReturn:
        kept = f"{self.name}.pt" if self.progress.best_epoch else "last.pt"
        raise TrainingError(
            f"{what} in stage {self.name}, epoch {self.progress.epoch + 1}{step}: lower the learning rate or give "
            f"--precision float32; {self.bench.folder / kept} is kept"
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
                images_per_second=tally.images * self.bench.ranks.count / seconds,
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
