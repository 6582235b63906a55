"""A known-answer self-test: the few inputs that reveal most harmful faults of a campaign, and how many others they do.

Inputs are chosen by what some faults do, and the coverage is measured on others: a part of the campaign's own that is
held out, fault by fault, or a second campaign. It is the share of harmful faults that the test reveals.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.answers import run_in_pieces
from resq_deploy.campaign.finished import Finished
from resq_deploy.campaign.golden import Golden
from resq_deploy.campaign.options import FaultModel
from resq_deploy.campaign.plan import Plan
from resq_deploy.campaign.summary import physics
from resq_deploy.data.preprocessing import Wish
from resq_deploy.data.samples import Data
from resq_deploy.deployed.deployment import OPTIMIZATIONS
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.runtime_errors import RUNTIME_ERRORS
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.sidecar import made_ready
from resq_deploy.errors import FailedError, ModelError, OptionError
from resq_deploy.faults import draws, stratified
from resq_deploy.faults.cover import covered, greedy_cover
from resq_deploy.faults.coverage import coverage
from resq_deploy.faults.fault import digest
from resq_deploy.faults.gaps import Codes, at_least, gaps, most
from resq_deploy.faults.judges.outputs import Flags, same
from resq_deploy.faults.outcomes import Outcome
from resq_deploy.faults.statistics import Estimate, proportion
from resq_deploy.pipeline.selftest_bundle import bundle, levels_passed
from resq_deploy.records import write_atomic

LEAST_TOLERANCE = 2.0**-12
"""Of an output's largest golden magnitude: far above the rounding of float32, far below a step of 8 bits."""

_WORD = 1 << 32
_CANNOT_RUN: tuple[type[Exception], ...] = (*RUNTIME_ERRORS, ModelError, ValueError, MemoryError)

Load = Callable[[DeployedModel, Finished], Data]
"""Returns the samples that a campaign was run on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfTestOptions:
    """What a self-test is made of.

    Attributes:
        images: how many inputs.
        held_out: which share of the faults takes no part in choosing them, or another campaign of the same kind.
        tolerance: of an output's largest golden magnitude; None for the least at which any half of the inputs qualify.
        harm_above: a fault is harmful if it changes more than this share of the answers.
        confidence: of the intervals.
        seed: of the faults held out.
    """

    images: int = 8
    held_out: float | pathlib.Path = 0.5
    tolerance: float | None = None
    harm_above: float = 0.0
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.images < 1:
            raise OptionError(f"--images {self.images}: give a whole number from 1 up")
        if not isinstance(self.held_out, pathlib.Path) and not 0.0 < self.held_out < 1.0:
            raise OptionError(f"--held-out {self.held_out:g}: give a share between 0 and 1, or a second run folder")
        if self.tolerance is not None and not 0.0 < self.tolerance < math.inf:
            raise OptionError(f"--tolerance {self.tolerance:g}: give a number above 0, such as 0.001")
        if not 0.0 <= self.harm_above < 1.0:
            raise OptionError(f"--harm-above {self.harm_above:g}: give a fraction from 0 to below 1")
        if not 0.5 <= self.confidence < 1.0:
            raise OptionError(f"--confidence {self.confidence:g}: give a fraction from 0.5 to below 1, such as 0.95")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """What a finished campaign tells of its faults and samples.

    Attributes:
        plan: its faults.
        golden: its fault-free run.
        codes: how far each fault moves the outputs of each sample, of `faults.gaps`, shape [faults, samples].
        harm: share of the samples that each fault gives another answer, shape [faults]; 0 of those that are `due`.
        due: how many faults left the file unusable, which needs no self-test to see.
    """

    plan: Plan
    golden: Golden
    codes: Codes
    harm: NDArray[np.float64]
    due: int

    @classmethod
    def read(cls, finished: Finished, model: DeployedModel, data: Data) -> "Evidence":
        """Run the fault-free file once more, over the samples of a campaign that `usable_run` has read.

        Raises:
            InputError: if these are other samples, or the file cannot be run.
        """
        records = finished.records
        finished.check_data(data)
        golden = finished.golden(model, data)
        judged = [record.outcome is not Outcome.DUE for record in records]
        codes = np.zeros((len(records), len(golden)), dtype=np.uint8)
        for row, record in zip(codes, records, strict=True):
            if record.gaps:
                row[:] = np.frombuffer(record.gaps, dtype=np.uint8)
        return cls(
            plan=finished.plan(model, golden),
            golden=golden,
            codes=codes,
            harm=np.array([record.sdc1 for record in records]),
            due=len(judged) - sum(judged),
        )

    def digests(self) -> list[str]:
        """Return a digest of what each fault does to the file."""
        return [digest(self.plan.fault(number).edits) for number in range(len(self.harm))]

    def weights(self) -> NDArray[np.float64]:
        """Return how many faults of the population each stands for, shape [faults]."""
        return np.ones(len(self.harm)) if self.plan.sample is None else self.plan.sample.weights()


def share_of(evidence: Evidence, revealed: Flags, domain: Flags, confidence: float) -> Estimate | None:
    """Estimate which share of the faults in a domain is revealed; None where there is none in it.

    Those of a simple sample that lie in a domain are a simple sample of it: Clopper and Pearson's interval. Of faults
    drawn in strata it is that of `faults.coverage`.
    """
    if not domain.any():
        return None
    sample = evidence.plan.sample
    if sample is None:
        return proportion(int((revealed & domain).sum()), int(domain.sum()), math.inf, confidence)
    mean = functools.partial(stratified.estimate, sample=sample, confidence=confidence)
    return coverage((revealed & domain).astype(np.float64), domain.astype(np.float64), mean)


def marked(digests: list[str], share: float, seed: int) -> Flags:
    """Return which faults are held out, told for each by itself: a fault is so in every campaign or in none."""
    words = [draws.integers(draws.stream("self-test", seed, name), _WORD, 1)[0] for name in digests]
    return np.array(words, dtype=np.float64) < share * _WORD


def spreads(golden: Golden, model: bytes) -> dict[str, Codes]:
    """Return how far the fault-free file's own outputs move where it is run otherwise, one code a sample, by the way.

    Other levels of optimisation have other kernels, which round otherwise, as those of other CPUs and of other versions
    of onnxruntime may; so has a run of one sample. A way in which the file cannot be run is left out.
    """
    deployment = golden.deployment
    ways = {
        f"optimization {level}": dataclasses.replace(deployment, optimization=level)
        for level in OPTIMIZATIONS
        if level != deployment.optimization
    }
    if golden.inputs.fixed is None and deployment.batch != 1:
        ways["one by one"] = dataclasses.replace(deployment, batch=1)
    found = {}
    for way, other in ways.items():
        try:
            session = Session(model, other)
            outputs = run_in_pieces(session, golden.inputs, golden.pieces(None), golden.forms)
        except _CANNOT_RUN:
            continue
        if golden.differs(outputs) is None:
            unlike = np.flatnonzero(~same(golden.outputs, outputs))
            found[way] = gaps(golden.outputs, outputs, golden.scales, unlike)
    return found


def settled_tolerance(spread: NDArray[np.float64], asked: float | None, count: int) -> tuple[float, Flags]:
    """Return a tolerance, and which samples qualify for it: their golden outputs move by no more than half of it.

    Args:
        spread: how far the golden outputs of each sample move at most, shape [N].
        asked: the tolerance asked for; None for twice what half of the samples stay within.
        count: how many samples must qualify.

    Raises:
        OptionError: if too few do.
    """
    ordered = np.sort(spread)
    needed = max(count, -(-len(spread) // 2))
    if needed > len(spread):
        raise OptionError(f"--images {count}: the campaign was run on {len(spread)} samples alone")
    tolerance = asked if asked is not None else max(LEAST_TOLERANCE, 2.0 * float(ordered[needed - 1]))
    qualified = 2.0 * spread <= tolerance
    if qualified.sum() < count or not math.isfinite(tolerance):
        raise OptionError(
            f"--tolerance {tolerance:g}: the fault-free file's own answers stay within half of it on "
            f"{int(qualified.sum())} samples alone where it is run otherwise: give a larger one, or fewer --images"
        )
    return tolerance, qualified


def make(
    model: DeployedModel,
    campaign: pathlib.Path,
    out: pathlib.Path,
    options: SelfTestOptions,
    load: Load,
    *,
    split: float | None = None,
) -> dict[str, Any]:
    """Choose the inputs, measure what they reveal, and write the bundle.

    Args:
        model: the file under test.
        campaign: run folder of a finished campaign on it.
        out: the bundle to write.
        options: what to make it of.
        load: returns the samples that the campaign was run on.
        split: which share of an undivided data set is the test set, where its sidecar does not say.

    Returns:
        What the bundle's header says of the choice, and the levels of optimisation at which the file `passed`.

    Raises:
        InputError: if the campaign, the file or the samples cannot be used.
        FailedError: if no fault does harm, or the fault-free file does not pass.
    """
    runs = [usable_run(campaign, model)]
    if isinstance(options.held_out, pathlib.Path):
        runs.append(usable_run(options.held_out, model))
        _check_alike(*runs)
    evidence = _evidence(runs[0], model, load, split)
    other = evidence if len(runs) == 1 else _evidence(runs[1], model, load, split)
    training, held = divided(evidence, other, options)
    if not training.any() or not held.any():
        harmful = int((evidence.harm > options.harm_above).sum())
        raise FailedError(
            f"{campaign}: {harmful} of its {len(evidence.harm)} faults do harm, and a self-test takes some to choose "
            "inputs by and others to measure them on: run more faults (--samples)"
        )
    file = model.patcher().golden
    ways = spreads(evidence.golden, file)
    spread = np.max([most(codes) for codes in ways.values()], axis=0) if ways else np.zeros(len(evidence.golden))
    tolerance, qualified = settled_tolerance(spread, options.tolerance, options.images)
    seen = at_least(evidence.codes[training], 2.0 * tolerance)
    chosen = greedy_cover(seen, evidence.weights()[training], options.images, qualified)
    report = {
        "campaign": _told(evidence, training),
        "held_out": {"by": "campaign" if other is not evidence else "split", **_told(other, held)},
        "harm_above": options.harm_above,
        "tolerance": tolerance,
        "qualified": int(qualified.sum()),
        "ways": {way: _moved(codes) for way, codes in ways.items()},
        "chosen": chosen,
        **_figures(evidence, other, training, held, chosen, qualified, tolerance, options.confidence),
    }
    written = bundle(model, file, evidence.golden, chosen, tolerance, report)
    passed = levels_passed(written, file, evidence.golden.deployment)
    if evidence.golden.deployment.optimization not in passed:
        raise FailedError("the fault-free file does not pass its own self-test: no bundle is written")
    write_atomic(out, written)
    return {**report, "passed": passed}


def divided(evidence: Evidence, other: Evidence, options: SelfTestOptions) -> tuple[Flags, Flags]:
    """Return which harmful faults of a campaign choose inputs, and which of the other one measure what these reveal.

    No fault does both: of a second campaign those count that the first one did not draw.
    """
    harmful, digests = evidence.harm > options.harm_above, evidence.digests()
    if isinstance(options.held_out, pathlib.Path):
        known = set(digests)
        fresh = np.array([name not in known for name in other.digests()])
        return harmful, (other.harm > options.harm_above) & fresh
    mark = marked(digests, options.held_out, options.seed)
    return harmful & ~mark, harmful & mark


def usable_run(path: pathlib.Path, model: DeployedModel) -> Finished:
    """Read a campaign that tells which of its samples reveal each of its faults.

    Raises:
        InputError: if it does not, was run on another file, or is not finished.
    """
    finished = Finished.read(path)
    finished.check_model(model)
    if finished.options.faults is FaultModel.BER:
        raise OptionError(
            f"{path}: random bit errors hit many bits at a time, and rates are never pooled: give a campaign of "
            "another --faults, such as single"
        )
    if any(record.gaps is None for record in finished.records):
        raise OptionError(
            f"{path}: an earlier version ran that campaign, and did not keep how far outputs move: run it again"
        )
    if finished.some_images:
        raise OptionError(
            f"{path}: its faults were judged on some of the samples each, and which inputs reveal a fault takes all: "
            "run it with --images-per-fault all, or with --samples"
        )
    return finished


def _evidence(finished: Finished, model: DeployedModel, load: Load, split: float | None) -> Evidence:
    wanted = finished.options.deployment.preprocessing
    data, options, _ = made_ready(finished.options, model, load(model, finished), Wish(**vars(wanted)), split=split)
    if options.deployment != finished.options.deployment:
        raise OptionError(f"{finished.path}: its images were made ready otherwise than the file's sidecar says now")
    return Evidence.read(finished, model, data)


def _check_alike(one: Finished, other: Finished) -> None:
    """Check that both campaigns were judged alike on the same samples."""
    if (one.options.deployment, one.judge, one.images) != (other.options.deployment, other.judge, other.images):
        raise OptionError(
            f"--held-out {other.path}: it was run or judged otherwise, or on another number of samples: both campaigns "
            "must differ in their faults alone, such as in --seed"
        )


def _figures(
    evidence: Evidence,
    other: Evidence,
    training: Flags,
    held: Flags,
    chosen: list[int],
    qualified: Flags,
    tolerance: float,
    confidence: float,
) -> dict[str, Any]:
    """Return what the inputs reveal: one by one, by role, and weighed by harm; and what all samples would."""
    shows, shown = (at_least(each.codes, 2.0 * tolerance) for each in (evidence, other))
    before, after = covered(shows, chosen), covered(shown, chosen)
    curve = [
        {
            "images": number,
            "training": _value(share_of(evidence, first, training, confidence)),
            "held_out": _as_dict(share_of(other, second, held, confidence)),
        }
        for number, (first, second) in enumerate(zip(before, after, strict=True), 1)
    ]
    weighed = other.weights() * other.harm * held
    roles = np.array([other.plan.group(number, "role") for number in range(len(held))])
    any_of_all: Flags = np.logical_or.reduce(shown[:, qualified], axis=1)
    return {
        "coverage": curve[-1]["held_out"],
        "curve": curve,
        "of_wrong_answers": float(weighed[after[-1]].sum() / weighed.sum()),
        "by_role": {
            role: _as_dict(share_of(other, after[-1], held & (roles == role), confidence))
            for role in dict.fromkeys(roles[held].tolist())
        },
        "all_qualified": _as_dict(share_of(other, any_of_all, held, confidence)),
    }


def _told(evidence: Evidence, harmful: Flags) -> dict[str, Any]:
    plan = evidence.plan
    return {
        "fault_model": str(plan.model),
        **physics(plan),
        "design": "stratified" if plan.sample is not None else "simple",
        "faults": len(evidence.harm),
        "due": evidence.due,
        "harmful": int(harmful.sum()),
        "images": len(evidence.golden),
    }


def _moved(codes: Codes) -> dict[str, float]:
    largest = float(most(codes).max(initial=0.0))
    return {"changed": float((codes > 0).mean()), "at_most": largest if math.isfinite(largest) else -1.0}


def _as_dict(found: Estimate | None) -> dict[str, float | int] | None:
    return None if found is None else found.as_dict()


def _value(found: Estimate | None) -> float | None:
    return None if found is None else found.value
