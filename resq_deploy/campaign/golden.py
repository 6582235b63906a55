"""The golden run: what the fault-free file answers, which every faulty run is judged against."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.answers import apart, digest, placed, unfit
from resq_deploy.campaign.record import WHOLE, Record, Way
from resq_deploy.data.dataset import Dataset, Split
from resq_deploy.data.samples import Data, as_samples
from resq_deploy.deployed.binding import bound
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.health import Health
from resq_deploy.deployed.inputs import Given, Inputs, rounded_up
from resq_deploy.deployed.judging import Chosen, choose
from resq_deploy.deployed.outputs import Form
from resq_deploy.deployed.runtime_errors import RUNTIME_ERRORS, first_line
from resq_deploy.deployed.session import Session
from resq_deploy.errors import DataError, ModelError
from resq_deploy.faults.fault import Share
from resq_deploy.faults.gaps import Codes, gaps, scales
from resq_deploy.faults.judges import words
from resq_deploy.faults.judges.judge import Bench, Judge
from resq_deploy.faults.judges.outputs import Labels, Outputs, count, flat, same, take
from resq_deploy.faults.judges.quality import FIGURES, Contributions
from resq_deploy.faults.judges.registry import parse
from resq_deploy.faults.judges.verdict import Verdict
from resq_deploy.faults.outcomes import Outcome
from resq_deploy.faults.partition import Partition

Answers = Callable[[Session, Sequence[Given], Sequence[str]], tuple[dict[str, NDArray[Any]], dict[str, Form]]]
"""Runs pieces of samples, as `Session.first_answers` does: given a session, the pieces, and the outputs' names."""

_FEW = 64
"""Samples that a judge is guessed from."""

_RUN_FAILURES: tuple[type[Exception], ...] = (*RUNTIME_ERRORS, ModelError, ValueError, MemoryError)

MEANS = frozenset({"accuracy", "within", "quality"})
"""Figures that are means over samples: those of some samples, drawn evenly, estimate those of all."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Golden:
    """The fault-free run.

    Attributes:
        inputs: samples as the model takes them, N of them.
        labels: what is right, first axis as the samples'; None where that is not known or does not fit the judge.
        outputs: the judged outputs of the fault-free file, by name, [N, ...] each, in the judge's order.
        forms: how a run's outputs are told apart by sample.
        judge: what the answers are taken for.
        bench: compares faulty outputs with these.
        deployment: how the file is run, which is one by one where outputs cannot be told apart otherwise.
        reason: why this judge.
        partition: the parts that samples are run in, each in batches of its own; None for one part.
        health: what the fault-free file reports of its code words; None where it reports nothing.
        set_aside: samples left out, as the fault-free file's outputs for them are not finite.
        notes: what a reader of the figures should know about how outputs are judged.
    """

    inputs: Inputs
    labels: Labels | None
    outputs: Mapping[str, NDArray[Any]]
    forms: Mapping[str, Form]
    judge: Judge
    bench: Bench
    deployment: Deployment
    reason: str = ""
    partition: Partition | None = None
    health: Health | None = None
    set_aside: int = 0
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return count(self.outputs)

    @property
    def parts(self) -> Partition:
        """The partition, of one part where there is no other."""
        return self.partition or Partition(images=len(self))

    def whole(self, share: Share | None) -> bool:
        """Return whether a share holds all images."""
        return share is None or share.parts >= self.parts.parts

    def pieces(self, share: Share | None) -> list[slice]:
        """Return the images of each part of a share, in the order of the ring; None for all."""
        return [self.parts.part(number) for number in self.parts.numbers(share or self.parts.whole())]

    def outputs_on(self, share: Share | None) -> dict[str, NDArray[Any]]:
        """Return the golden outputs for the images of a share, in the order of its parts, [n, ...] each."""
        if share is None or self.whole(share):
            return dict(self.outputs)
        return take(self.outputs, self.parts.rows(share))

    def bench_on(self, share: Share | None) -> Bench:
        """Return what compares faulty outputs for the images of a share, in that order, with the golden ones."""
        return self.bench if share is None or self.whole(share) else self.bench.among(self.parts.rows(share))

    @functools.cached_property
    def scales(self) -> dict[str, float]:
        """What differences of each judged output are measured in: its largest golden magnitude."""
        return scales(self.outputs)

    # What a judge makes of a fault.

    def record(
        self,
        number: int,
        outputs: Outputs | Sequence[Outputs],
        changed: int,
        *,
        way: Way = Way.RELOAD,
        share: Share | None = None,
        health: Health | None = None,
    ) -> Record:
        """Return the record of a fault.

        Args:
            number: the fault's number in the plan.
            outputs: what the faulty file gives for the images of the share, in the order of its parts; or that for
                some images after the other.
            changed: stored bits that the fault really changed.
            way: how it was evaluated.
            share: the images it is judged on; None for all.
            health: what the faulty file reports of its code words.

        Raises:
            ValueError: if an output is not of the golden type or shape.
        """
        first, parts = share or WHOLE
        found = apart(outputs)
        verdict, codes = self._judged(found, share)
        rating = verdict.contributions
        return Record(
            number=number,
            outcome=verdict.outcome,
            images=sum(map(count, found)),
            counts=verdict.counts,
            amounts=verdict.totals,
            quality=self._figure_of(rating) if self.whole(share) or self.judge.figure in MEANS else None,
            logits=digest(found, self.judge.outputs),
            right=b"" if verdict.right is None else np.packbits(verdict.right).tobytes(),
            changed=changed,
            gaps=codes.tobytes() if codes.any() else b"",
            way=way,
            share=first,
            parts=parts,
            health=health,
            detected=health != self.health,
        )

    def _judged(self, parts: Sequence[Outputs], share: Share | None) -> tuple[Verdict, Codes]:
        """Judge outputs that are given for some images after the other, and say how far they lie from the golden."""
        bench, every = self.bench_on(share), self.outputs_on(share)
        verdicts, codes = [], []
        for part, begin, end in placed(parts):  # one after the other: what is read several times is in the cache
            rows = np.arange(begin, end)
            known = take(every, rows)
            codes.append(gaps(known, part, self.scales, np.flatnonzero(~same(known, part))))
            verdicts.append((bench if len(parts) == 1 else bench.among(rows))(part, codes[-1]))
        return Verdict.joined(verdicts), np.concatenate(codes)

    def due(
        self, number: int, changed: int, reason: str, *, way: Way = Way.RELOAD, share: Share | None = None
    ) -> Record:
        """Return the record of a fault that left the file unusable."""
        first, parts = share or WHOLE
        return Record(
            number=number,
            outcome=Outcome.DUE,
            images=0,
            counts=dict.fromkeys(self.ladder, 0),
            amounts=dict.fromkeys(self.judge.amounts, 0),
            quality=0.0 if self.rated else None,
            logits="",
            right=b"",
            changed=changed,
            reason=reason,
            way=way,
            share=first,
            parts=parts,
        )

    def differs(self, outputs: Outputs | Sequence[Outputs], share: Share | None = None) -> str | None:
        """Return why outputs for the images of a share are none that can be judged; None if they can.

        Those of a file that a fault has hit may have another type or shape than the golden ones.
        """
        return unfit(self.outputs_on(share), apart(outputs))

    # What is known of the fault-free file.

    @property
    def rated(self) -> bool:
        """Whether there is a quality figure: labels that fit the judge, and anything labelled."""
        return self.quality is not None

    @property
    def ladder(self) -> tuple[str, ...]:
        """The rungs that are counted, in the order of the file formats."""
        return tuple(self.bench.golden.flags)

    @property
    def quality(self) -> float | None:
        """The judge's figure of the fault-free file; None where it has none."""
        return self._figure_of(self.bench.golden.contributions)

    def _figure_of(self, rating: Contributions | None) -> float | None:
        return None if rating is None else FIGURES[self.judge.figure](rating)

    @property
    def right(self) -> int | None:
        """How many images the fault-free file gets right; None where the figure is not made of right answers."""
        right = self.bench.golden.right
        return None if right is None else int(right.sum())

    @property
    def classes(self) -> int:
        """How many numbers a sample has in the first judged output: the classes, of scores."""
        return int(flat(next(iter(self.outputs.values()))).shape[1])


def untold(judge: Judge, images_per_fault: int | None) -> tuple[str, ...]:
    """Return notes on a quality figure that faults on some images each do not tell.

    Pooled over faults, mIoU and mAP would be those of a network that errs anew on every image, and of few images alone
    they are biased: neither is what a fault does to the figure on all images, and no interval holds it.
    """
    if images_per_fault is None or judge.figure in MEANS:
        return ()
    name = words.FIGURES[judge.figure]
    return (
        f"{name} under faults is left out: it is no mean over images, so that {images_per_fault:,} or so a fault do "
        "not tell it; --images-per-fault all does",
    )


def golden_run(
    model: bytes,
    deployment: Deployment,
    data: Data,
    images: int,
    part: int | None = None,
    judge: str | None = None,
    outputs: Sequence[str] = (),
    answers: Answers = Session.first_answers,
) -> Golden:
    """Run the fault-free file over samples.

    Args:
        model: the serialised model.
        deployment: how to run it.
        data: gives the samples, test images or others, in a fixed random order, and what is right.
        images: how many samples to run; all where there are fewer.
        part: how many of them are run by themselves; more for a file with larger batches of a fixed size. None for all.
        judge: as asked for with `--judge`; None to guess one.
        outputs: which outputs are judged; those that the judge reads for none.
        answers: runs the samples, in whatever way the session's own outputs are got.

    Raises:
        ModelError: if the model cannot be run or judged, or its outputs are finite for no sample.
        DataError: if the samples or the classes do not fit the model.
        OptionError: if there is no such judge.
    """
    samples = as_samples(data).evaluation(images)
    if not len(samples):
        raise DataError(f"data set {samples.name} has no test images")
    session = Session(model, deployment)
    inputs = bound(samples, session.inputs, [*(output.name for output in session.outputs), *session.others])
    few = min(_FEW, len(inputs))
    try:
        session, deployment = _told_apart(session, model, deployment, inputs, few, outputs)
        seen, _ = session.first_answers([inputs[:few]], outputs)
    except _RUN_FAILURES as error:
        raise _cannot_run(error) from error
    labels = samples.labels
    chosen = choose(judge, outputs, session, model, seen, None if labels is None else labels[:few])
    golden = golden_of(session, inputs, labels, chosen, part, deployment, answers)
    if golden.judge.name == "top1":
        samples.check_outputs(golden.classes)
    return golden


def classifier_run(model: bytes, deployment: Deployment, dataset: Dataset, evaluation: Split) -> Golden:
    """Run a fault-free classifier over some images of a data set, all of which must have finite scores.

    The scores are the first output of floats, as of `Session.run`.

    Raises:
        ModelError: if the model cannot be run, is no classifier, or gives scores that are not finite.
        DataError: if the images or the classes do not fit the model.
    """
    session = Session(model, deployment)
    inputs = session.input.prepare(evaluation.images)
    golden = golden_of(session, inputs, evaluation.labels, deployment=deployment)
    dataset.check_outputs(golden.classes)
    if golden.set_aside:
        raise _not_finite()
    return golden


def golden_of(
    session: Session,
    samples: Given,
    labels: Labels | None,
    chosen: Chosen | None = None,
    part: int | None = None,
    deployment: Deployment | None = None,
    answers: Answers = Session.first_answers,
) -> Golden:
    """Run the fault-free file over prepared samples.

    Args:
        session: over the file.
        samples: one or more.
        labels: what is right; None where nothing is known.
        chosen: the judge; None for a classifier's, of the first output of floats.
        part: how many samples are run by themselves, as of `golden_run`.
        deployment: how the session runs the file; None for the usual way.
        answers: runs the samples, as of `golden_run`.

    Raises:
        ModelError: if the model cannot be run or judged, or its outputs are finite for no sample.
        DataError: if the labels do not fit a classifier.
    """
    chosen = chosen or Chosen(parse("top1", [session.output]), "a classifier is asked for")
    inputs = session.given(samples)
    total, notes = len(inputs), list(chosen.notes)
    while True:
        size = len(inputs) if part is None else rounded_up(part, inputs.fixed)
        partition = Partition.of(len(inputs), min(size, len(inputs)))
        pieces = [partition.part(number) for number in range(partition.parts)]
        try:
            outputs, forms = answers(session, [inputs[piece] for piece in pieces], chosen.judge.outputs)
            health = session.health(inputs)
        except _RUN_FAILURES as error:
            raise _cannot_run(error) from error
        judge = chosen.judge.settled(outputs)
        try:
            bench = judge.on(outputs, labels)
        except DataError as error:
            if judge.name == "top1":
                raise
            notes.append(f"no quality figure, as the labels do not fit: {error}")
            labels = None
            continue
        if bench.usable.all():
            break
        # Those that are left are run again, since what shares a batch may decide how a kernel rounds.
        rows = np.flatnonzero(bench.usable)
        if not len(rows):
            raise _not_finite()
        inputs, labels = inputs[rows], None if labels is None else labels[rows]
    if len(inputs) < total:
        notes.append(f"{total - len(inputs):,} of {total:,} samples are set aside: their golden outputs are not finite")
    return Golden(
        inputs=inputs,
        labels=labels,
        outputs={name: outputs[name] for name in judge.outputs},
        forms={name: forms[name] for name in judge.outputs},
        judge=judge,
        bench=bench,
        deployment=deployment or Deployment(),
        reason=chosen.reason,
        partition=partition,
        health=health,
        set_aside=total - len(inputs),
        notes=tuple(notes),
    )


def _told_apart(
    session: Session, model: bytes, deployment: Deployment, inputs: Inputs, few: int, outputs: Sequence[str]
) -> tuple[Session, Deployment]:
    """Return a session whose outputs can be told apart by sample: one by one where no axis of a batch does."""
    try:
        session.first_answers([inputs[: min(2, few)]], outputs)
    except ModelError:
        alone = dataclasses.replace(deployment, batch=1)
        if inputs.fixed is not None or deployment.batch == 1:
            raise
        return Session(model, alone), alone
    return session, deployment


def _not_finite() -> ModelError:
    return ModelError("the fault-free model gives outputs that are not finite: it cannot serve as a golden run")


def _cannot_run(error: Exception) -> ModelError:
    if isinstance(error, ModelError):  # which says what is wrong with the file
        return error
    return ModelError(f"the model cannot be run on these images: {first_line(error)}")
