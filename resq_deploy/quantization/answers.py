"""What a file of any task answers, held against what its float model answers, by the judge of the task.

Outputs of a detector or a segmenter are large: samples are run some at a time, and golden outputs kept only as far as
they fit.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.deployed.arithmetic import Arithmetic
from resq_deploy.deployed.inputs import Inputs
from resq_deploy.deployed.judging import choose
from resq_deploy.deployed.outputs import Form
from resq_deploy.deployed.session import Session
from resq_deploy.faults.judges.judge import Judge
from resq_deploy.faults.judges.outputs import Flags, Labels, Outputs, is_ragged
from resq_deploy.faults.judges.quality import FIGURES, Contributions
from resq_deploy.faults.judges.registry import identity
from resq_deploy.faults.statistics import Estimate, share
from resq_deploy.quantization.fidelity import Fidelity, every_core, running

GUESSED_ON = 16
"""Samples that a judge is guessed and settled on."""

_HELD = 256 * 2**20
"""Bytes of golden outputs that are kept."""

_PART = 64 * 2**20
"""Bytes of outputs at a time."""

_RESAMPLES, _CONFIDENCE = 200, 0.95


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """Samples of any task, with what is right about them.

    Attributes:
        images: what goes in, as the model takes it.
        labels: what is right about them, first axis as theirs, as the judge takes it; None where nothing is known.
    """

    images: Inputs
    labels: Labels | None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> "Labelled":
        """Return some of them."""
        return Labelled(images=self.images[rows], labels=None if self.labels is None else self.labels[rows])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What a file is for, and so how its answers are compared.

    Attributes:
        judge: settled on outputs of the float model.
        reason: why this one, a sentence.
        forms: how the outputs that it reads are told apart by sample.
    """

    judge: Judge
    reason: str
    forms: Mapping[str, Form]

    @property
    def classifies(self) -> bool:
        """Whether it is a classifier with one row of scores a sample, of which much more is known."""
        return self.judge.name == "top1"

    def as_dict(self) -> dict[str, Any]:
        """Return what the sidecar says."""
        return {"judge": identity(self.judge), "reason": self.reason, "figure": self.judge.figure}


def find_task(model: bytes, samples: Labelled, wanted: str | None = None, outputs: Sequence[str] = ()) -> Task:
    """Return the task of a float model: the judge asked for, or the one that fits its outputs.

    Args:
        model: serialised.
        samples: some to run it on; the first few are used.
        wanted: a judge as `--judge` takes it; None to guess.
        outputs: names of the outputs to judge; all for none.

    Raises:
        ModelError: if the model has no such output, or none that the judge can read.
        OptionError: if there is no such judge.
        DataError: if the samples do not fit the model.
    """
    few = samples[: min(GUESSED_ON, len(samples))]
    session = Session(model, every_core())
    with running():
        found, forms = session.first_answers([few.images], outputs)
    chosen = choose(wanted, outputs, session, model, found, few.labels)
    settled = chosen.judge.settled(found)
    settled.on(found, few.labels)  # labels that do not fit are told before the work, not after
    return Task(judge=settled, reason=chosen.reason, forms={name: forms[name] for name in settled.outputs})


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """A file's answers beside those of its float model, on the same samples.

    Attributes:
        relative_error: by output, ||found - float|| / ||float|| over all samples; NaN where not all are finite.
        cosine: by output, of the angle between both.
        same: samples whose answer is the float model's, shape [N].
        found: what the file's answers contribute to the quality figure; None without labels for it.
        known: what those of the float model do.
        figure: name of the quality figure.
    """

    relative_error: Mapping[str, float]
    cosine: Mapping[str, float]
    same: Flags
    found: Contributions | None
    known: Contributions | None
    figure: str

    @property
    def agreement(self) -> Estimate:
        """Share of the samples whose answer is the float model's."""
        return share(int(self.same.sum()), len(self.same))

    @property
    def quality(self) -> float | None:
        """The file's quality figure."""
        return None if self.found is None else FIGURES[self.figure](self.found)

    @property
    def float_quality(self) -> float | None:
        """The float model's."""
        return None if self.known is None else FIGURES[self.figure](self.known)

    @functools.cached_property
    def drop(self) -> Estimate | None:
        """By how much the file's figure is below the float model's, with the interval of a paired bootstrap.

        Percentiles of `_RESAMPLES` resamples of the samples (Efron and Tibshirani, "An Introduction to the Bootstrap",
        1993, chapter 13), since mAP and mIoU are no means over samples.
        """
        before, after = self.float_quality, self.quality
        if before is None or after is None or self.known is None or self.found is None:
            return None
        rng, figure, n = np.random.default_rng(0), FIGURES[self.figure], len(self.same)
        drops = []
        for _ in range(_RESAMPLES):
            rows = rng.integers(n, size=n)
            pair = figure(self.known.take(rows)), figure(self.found.take(rows))
            if pair[0] is not None and pair[1] is not None:
                drops.append(pair[0] - pair[1])
        low, high = np.percentile(drops, [50 * (1 - _CONFIDENCE), 50 * (1 + _CONFIDENCE)]) if drops else (-1.0, 1.0)
        value = before - after
        return Estimate(
            value=value, low=min(float(low), value), high=max(float(high), value), n=n, confidence=_CONFIDENCE
        )

    def as_dict(self) -> dict[str, Any]:
        """Return what the sidecar says."""
        errors = [
            {"output": name, "relative_error": _number(error), "cosine": _number(self.cosine[name])}
            for name, error in self.relative_error.items()
        ]
        drop = self.drop
        quality = None
        if drop is not None:
            quality = {"figure": self.figure, "float": self.float_quality, "int8": self.quality, "drop": drop.as_dict()}
        return {"samples": len(self.same), "agreement": self.agreement.as_dict(), "outputs": errors, "quality": quality}


class Examiner:
    """Holds files against a float model on samples.

    Args:
        model: the float model, serialised.
        samples: some.
        task: how answers are compared.
        arithmetic: in which files are run.
    """

    def __init__(
        self, model: bytes, samples: Labelled, task: Task, *, arithmetic: Arithmetic = Arithmetic.EXACT
    ) -> None:
        self._session = Session(model, every_core())
        self._samples = samples
        self._task = task
        self._deployment = dataclasses.replace(every_core(), arithmetic=arithmetic)
        self._kept: dict[int, Outputs] = {}
        self._bytes = 0
        first = self._run(self._session, samples.images[:1])
        size = max(1, sum(_bytes(values) for values in first.values()))
        fixed = samples.images.fixed or 1
        self._step = max(1, min(100, _PART // size) // fixed) * fixed

    def __len__(self) -> int:
        return len(self._samples)

    def judge(self, file: bytes) -> Fidelity:
        """Return how near a file comes to the float model.

        Raises:
            ModelError: if onnxruntime refuses the file.
        """
        compared = self.compare(file)
        errors = np.array([*compared.relative_error.values()])
        return Fidelity(
            squared_error=float(np.square(errors).mean()) if len(errors) else float((~compared.same).mean()),
            agreement=compared.agreement,
            accuracy=None,
            agrees=compared.same,
        )

    def right(self, file: bytes, count: int) -> Flags:
        """Return on which of the first `count` samples a file answers as the float model does."""
        return self.compare(file, count).same

    def compare(self, file: bytes, count: int | None = None) -> Compared:
        """Compare a file with the float model.

        Args:
            file: serialised.
            count: on the first so many samples; None for all.

        Raises:
            ModelError: if onnxruntime refuses the file, or its outputs are of another type or shape.
            DataError: if the labels do not fit.
        """
        session, sums = Session(file, self._deployment), dict[str, NDArray[np.float64]]()
        same, found, known = list[Flags](), list[Contributions](), list[Contributions]()
        for start, part in self._parts(count):
            golden = self._golden(start, part)
            outputs = self._run(session, part.images)
            bench = self._task.judge.on(golden, part.labels)
            verdict = bench(outputs)
            same.append(~verdict.flags["sdc1"] & bench.usable)
            if verdict.contributions is not None and bench.golden.contributions is not None:
                found.append(verdict.contributions)
                known.append(bench.golden.contributions)
            for name in golden:
                if _is_compared(golden[name]):
                    sums[name] = sums.get(name, np.zeros(4)) + _products(golden[name], outputs[name])
        with np.errstate(all="ignore"):  # of outputs that are not finite, or all zero
            errors = {name: float(np.sqrt(apart / size)) for name, (size, apart, *_) in sums.items()}
            cosines = {name: float(both / np.sqrt(size * own)) for name, (size, _, both, own) in sums.items()}
        return Compared(
            relative_error=errors,
            cosine=cosines,
            same=np.concatenate(same),
            found=Contributions.joined(found) if found else None,
            known=Contributions.joined(known) if known else None,
            figure=self._task.judge.figure,
        )

    def _parts(self, count: int | None) -> Iterator[tuple[int, Labelled]]:
        total = len(self._samples) if count is None else min(count, len(self._samples))
        for start in range(0, total, self._step):
            yield start, self._samples[start : min(start + self._step, total)]

    def _golden(self, start: int, part: Labelled) -> Outputs:
        known = self._kept.get(start)
        if known is not None and len(next(iter(known.values()))) == len(part):
            return known
        found = self._run(self._session, part.images)
        size = sum(_bytes(values) for values in found.values())
        if start not in self._kept and self._bytes + size <= _HELD:
            self._kept[start] = found
            self._bytes += size
        return found

    def _run(self, session: Session, inputs: Inputs) -> Outputs:
        with running():
            return session.answers(inputs, self._task.forms)


def _bytes(values: NDArray[Any]) -> int:
    return sum(one.nbytes for one in values) if is_ragged(values) else values.nbytes


def _is_compared(values: NDArray[Any]) -> bool:
    return values.dtype.kind == "f"


def _products(golden: NDArray[Any], found: NDArray[Any]) -> NDArray[np.float64]:
    """Return sums, shape [4]: of golden squared, the difference squared, golden times found, and found squared."""
    one, other = golden.astype(np.float64).ravel(), found.astype(np.float64).ravel()
    apart = other - one
    return np.array([one @ one, apart @ apart, one @ other, other @ other])


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
