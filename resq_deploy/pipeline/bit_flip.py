"""The bit-flip attack as a campaign: several attack batches, each from the golden file to chance; resumable anywhere.

The attacker knows the file and has a sample: labelled images that are not among those the attack is judged by. After
every flip the file is judged on all test images of the campaign, by the session, and what was done is on disk.
"""

import concurrent.futures
import csv
import dataclasses
import io
import math
import pathlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from resq_deploy.campaign.fault_list import read_fault_list
from resq_deploy.data.dataset import Dataset, Split
from resq_deploy.deployed.health import Health
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import Surface
from resq_deploy.errors import DataError, RunFolderError
from resq_deploy.faults.outcomes import Judge, top1
from resq_deploy.faults.statistics import cluster, share
from resq_deploy.pipeline.attack_options import AttackOptions
from resq_deploy.pipeline.attack_scene import Progress, Report
from resq_deploy.pipeline.bit_flip_options import BitFlipOptions, class_number
from resq_deploy.records import read_json, write_atomic, write_json
from resq_deploy.twin import read_twin
from resq_deploy.twin.bitflip import BitSearch, Prey, find_prey
from resq_deploy.twin.flip_gains import Flip
from resq_deploy.twin.flip_objective import AttackBatch

STATE = "bitflips.json"
LIST = "bitflips.csv"

_SCHEMA = 1
_MARGIN = 0.01  # an attack has reached its end this close to chance, or to the whole of the images
_CONFIDENCE = 0.95
_COLUMNS = ("fault", "tensor", "role", "layer", "index", "bit", "step", "loss", "twin_loss", "accuracy")

Verdict = dict[str, Any]
"""What a file does on the test images; see `_Jury.golden`."""

Batch = dict[str, Any]
"""One attack batch in `bitflips.json`: `end` (`reached`, `limit`, `stuck`; None while it runs) and its `steps`."""


class BitFlipAttack:
    """A bit-flip attack that is ready to run: model, data and options have been checked against each other.

    Args:
        model: the file under attack.
        dataset: the attacker's sample is drawn from its training images.
        options: of the campaign; what is asked for here is in its `bit_flip`.

    Raises:
        InputError: if model, data or options cannot be used.
    """

    def __init__(self, model: DeployedModel, dataset: Dataset, options: AttackOptions) -> None:
        self._model = model
        self._dataset = dataset
        self._campaign = options
        self._options = options.bit_flip
        self._target = class_number(self._options.target, dataset)
        self._sample = _sample(dataset, self._options, options.seed)
        listed = self._options.flippable
        bits = None if listed is None else read_fault_list(listed, model.surfaces)[1]
        self._twin = read_twin(model, deployment=options.deployment)
        self._prey = find_prey(model, self._twin, self._options.roles, bits)
        self._jury = _Jury(model, dataset, options, self._target)

    def run(self, folder: pathlib.Path, report: Report) -> dict[str, Any]:
        """Run the attack, or go on with it.

        Args:
            folder: gets `bitflips.json` after every flip, and `bitflips.csv`, a fault list, at the end.
            report: told how many flips were made, of those that may be made.

        Returns:
            `bit_flip` of the summary.

        Raises:
            RunFolderError: if the folder cannot be used.
        """
        batches = _read_state(folder / STATE)
        for number in range(self._options.batches):
            if number == len(batches):
                batches.append({"end": None, "steps": []})
            for _ in self._continued(number, batches[number]):
                write_json(folder / STATE, {"schema": _SCHEMA, "batches": batches})
                report(self._progress(number, batches[number]))
        surfaces = {surface.tensor: surface for surface in self._model.surfaces}
        write_atomic(folder / LIST, _fault_list(batches, surfaces, self._jury.images))
        return self._summary(batches)

    def _continued(self, number: int, batch: Batch) -> Iterator[None]:
        """Go on with an attack batch, in place, up to its end; yields whenever there is something new to keep."""
        if batch["end"]:
            return
        verdict = batch["steps"][-1] if batch["steps"] else self._jury.golden
        if not self._is_over(verdict):
            search = self._search(number)
            flips = _flips(batch)
            begin = time.perf_counter()
            for step in search.steps(flips):
                flips += step.flips
                verdict = self._jury(search.file(flips))
                batch["steps"].append(
                    {
                        "flips": [dataclasses.astuple(flip) for flip in step.flips],
                        "loss": step.loss,
                        "twin_loss": step.twin_loss,
                        "trials": step.trials,
                        **verdict,
                        "seconds": time.perf_counter() - begin,
                    }
                )
                begin = time.perf_counter()
                if self._is_over(verdict) or len(flips) >= self._options.limit:
                    break
                yield
        spent = len(_flips(batch))
        batch["end"] = "reached" if self._is_over(verdict) else "limit" if spent >= self._options.limit else "stuck"
        yield

    def _progress(self, number: int, batch: Batch) -> Progress:
        limit = self._options.limit
        done = limit if batch["end"] else min(len(_flips(batch)), limit)
        return Progress("bit-flip", number * limit + done, self._options.batches * limit)

    def _summary(self, batches: Sequence[Batch]) -> dict[str, Any]:
        """Return the figures of all batches."""
        flips = [len(_flips(batch)) for batch in batches]
        steps = [step for batch in batches for step in batch["steps"]]
        last = [batch["steps"][-1] if batch["steps"] else self._jury.golden for batch in batches]
        images = self._jury.images
        return {
            "flips": _flips_to_end(flips, [batch["end"] == "reached" for batch in batches]),
            "accuracy": cluster([verdict["right"] / images for verdict in last], math.inf, _CONFIDENCE).as_dict(),
            "batches": [
                {
                    "end": batch["end"],
                    "flips": count,
                    "steps": len(batch["steps"]),
                    "accuracy": share(verdict["right"], images, _CONFIDENCE).as_dict(),
                    "nonfinite": verdict["nonfinite"],
                    "on_target": share(verdict["on_target"], images, _CONFIDENCE).as_dict() if self._targeted else None,
                    **_told(verdict.get("health"), self._jury.golden["health"]),
                }
                for batch, count, verdict in zip(batches, flips, last, strict=True)
            ],
            "goal": {"target": self._options.target, "chance": self._jury.chance, "margin": _MARGIN},
            "loss": self._options.loss,
            "limit": self._options.limit,
            "golden": share(self._jury.golden["right"], images, _CONFIDENCE).as_dict(),
            "images": images,
            "sample": {
                "images": len(self._sample[0]),
                "split": "calibration",
                "notes": list(self._dataset.notes),
            },
            "attacked": _attacked(self._prey, self._options),
            "trials": sum(step["trials"] for step in steps),
            "max_loss_difference": max((abs(step["loss"] - step["twin_loss"]) for step in steps), default=0.0),
            "seconds_per_flip": sum(step["seconds"] for step in steps) / max(sum(flips), 1),
        }

    @property
    def _targeted(self) -> bool:
        return self._target is not None

    def _is_over(self, verdict: Mapping[str, Any]) -> bool:
        if self._targeted:
            return bool(verdict["on_target"] >= (1 - _MARGIN) * self._jury.images)
        return bool(verdict["right"] <= (self._jury.chance + _MARGIN) * self._jury.images + 1e-9)

    def _search(self, number: int) -> BitSearch:
        sample = self._sample[number]
        images = self._jury.prepare(sample.images)
        return BitSearch(
            self._model,
            self._twin,
            self._prey,
            AttackBatch(images=images, labels=sample.labels, target=self._target, loss=self._options.loss),
            deployment=self._campaign.deployment,
            workers=self._campaign.worker_count,
        )


class _Jury:
    """Judges a file on the test images of the campaign.

    Args:
        model: the file under attack.
        dataset: its test images are judged by.
        options: of the campaign.
        target: the class that the attacker wants.

    Attributes:
        golden: the verdict on the fault-free file: how many images are answered `right`, are given the class
            `on_target`, and have `nonfinite` scores; and its `health`: words that were corrected and that cannot be,
            None where the file reports nothing.
        images: how many images there are.
        chance: the best accuracy of one answer to all images, which is the share of their commonest class.
        prepare: brings images into the layout and type that the model takes.
    """

    def __init__(self, model: DeployedModel, dataset: Dataset, options: AttackOptions, target: int | None) -> None:
        self._deployment = options.deployment
        self._workers = options.worker_count
        self._target = target
        test = dataset.evaluation(options.images)
        golden = Session(model.patcher().golden, self._deployment)
        self.prepare = golden.input.prepare
        self._inputs = self.prepare(test.images)
        self.images = len(self._inputs)
        self.chance = float(np.bincount(test.labels).max()) / self.images
        scores = self._scores(golden)
        dataset.check_outputs(scores.shape[1])
        self._judge = Judge(scores, test.labels)
        self.golden = self._verdict(scores, golden.health(self._inputs))

    def __call__(self, file: bytes) -> Verdict:
        """Return the verdict on a serialised model."""
        session = Session(file, self._deployment)
        return self._verdict(self._scores(session), session.health(self._inputs))

    def _scores(self, session: Session) -> NDArray[np.float32]:
        """Run all images, several batches at a time; each batch is the one that a single run would have."""
        starts = range(0, self.images, session.batch)
        with concurrent.futures.ThreadPoolExecutor(self._workers) as pool:
            parts = pool.map(lambda start: session.run(self._inputs[start : start + session.batch]), starts)
            return np.concatenate(list(parts))

    def _verdict(self, scores: NDArray[np.float32], health: Health | None) -> Verdict:
        judgement = self._judge(scores)
        finite = np.isfinite(scores).all(axis=1)
        on_target = 0 if self._target is None else int(((top1(scores) == self._target) & finite).sum())
        counts = {"right": int(judgement.right.sum()), "on_target": on_target, "nonfinite": int((~finite).sum())}
        return {**counts, "health": health and list(health)}


def _told(health: Sequence[int] | None, golden: Sequence[int] | None) -> dict[str, Any]:
    """Return what a file with all flips of a batch reports of its code words, and whether that gives them away."""
    if health is None or golden is None:
        return {"health": None, "detected": None, "uncorrectable": None}
    return {"health": list(health), "detected": list(health) != list(golden), "uncorrectable": health[1] > golden[1]}


def _read_state(path: pathlib.Path) -> list[Batch]:
    """Return the attack batches that are on disk.

    Raises:
        RunFolderError: if the file is broken, or of another version.
    """
    if not path.exists():
        return []
    state = read_json(path)
    if not isinstance(state, dict) or state.get("schema") != _SCHEMA:
        raise RunFolderError(f"{path} is not the state of a bit-flip attack of this version: give another --out")
    batches: list[Batch] = state["batches"]
    return batches


def _flips(batch: Batch) -> list[Flip]:
    return [Flip(*flip) for step in batch["steps"] for flip in step["flips"]]


def _sample(dataset: Dataset, options: BitFlipOptions, seed: int) -> list[Split]:
    """Return the attack batches: training images, no two batches sharing one.

    Raises:
        DataError: if there are not enough.
    """
    wanted = options.batches * options.batch_images
    images = dataset.calibration(wanted, seed)
    size = min(options.batch_images, len(images) // options.batches)
    if not size:
        raise DataError(
            f"bit-flip: {dataset.name} has {len(images)} images to attack with, fewer than the {options.batches} "
            "batches: give fewer --bit-flip-batches"
        )
    return [images.take(range(number * size, (number + 1) * size)) for number in range(options.batches)]


def _flips_to_end(flips: Sequence[int], reached: Sequence[bool]) -> dict[str, Any]:
    """Estimate the flips that an attack takes, with Student's interval over attack batches.

    A batch that was given up is counted with the flips it had made: the mean is then one that the true mean is not
    below, and there is no upper end of the interval; so with a single batch.
    """
    n, mean = len(flips), statistics.fmean(flips)
    spread = statistics.stdev(flips) if n > 1 else None
    censored = n - sum(reached)
    reach = 0.0 if spread is None else float(stats.t.ppf(0.5 + _CONFIDENCE / 2, n - 1)) * spread / n**0.5
    return {
        "value": mean,
        "low": 0.0 if spread is None else max(0.0, mean - reach),
        "high": None if censored or spread is None else mean + reach,
        "n": n,
        "confidence": _CONFIDENCE,
        "standard_deviation": spread,
        "reached": sum(reached),
        "censored": censored,
    }


def _attacked(prey: Sequence[Prey], options: BitFlipOptions) -> dict[str, Any]:
    """Return what the attacker may flip."""
    return {
        "roles": [str(role) for role in options.roles] or "all",
        "tensors": len(prey),
        "bits": sum(one.surface.bits if one.allowed is None else int(one.allowed.sum()) for one in prey),
        "voted_tensors": sum(one.voted for one in prey),
        "coded_tensors": sum(one.coded for one in prey),
    }


def _fault_list(batches: Sequence[Batch], surfaces: Mapping[str, Surface], images: int) -> str:
    """Return all flips as a fault list, one fault an attack batch, with what each step left on so many images."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for number, batch in enumerate(batches):
        for place, step in enumerate(batch["steps"], start=1):
            for tensor, index, bit in step["flips"]:
                surface = surfaces[tensor]
                row = {"fault": number, "tensor": tensor, "role": str(surface.role), "layer": surface.layer}
                accuracy = f"{step['right'] / images:.6f}"
                writer.writerow({**step, **row, "index": index, "bit": bit, "step": place, "accuracy": accuracy})
    return stream.getvalue()
