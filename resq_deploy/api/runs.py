"""Run folders as objects: what a campaign, an attack or a training found, figure by figure and fault by fault."""

import csv
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from resq_deploy.api.frames import pandas_or_error
from resq_deploy.api.gates import GateVerdict, of_attacks, of_audit, of_faults
from resq_deploy.api.given import PathLike, as_path
from resq_deploy.api.words import outcome_meanings
from resq_deploy.errors import MissingExtraError, RunFolderError
from resq_deploy.faults.estimate import Estimate, as_estimate
from resq_deploy.records import read_json, read_manifest

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_ESTIMATE = frozenset(field.name for field in dataclasses.fields(Estimate))
_OF_A_BIT = ("fault", "op", "tensor", "role", "layer", "index", "bit", "value")
_OF_A_CHIP = ("fault", "ber", "chip", "flips", "mask")
_BESIDE_COUNTS = (
    "outcome",
    "images",
    "accuracy",
    "share",
    "parts",
    "detected",
    "words_corrected",
    "words_uncorrectable",
)
_NOT_COUNTS = frozenset((*_OF_A_BIT, *_OF_A_CHIP, *_BESIDE_COUNTS))


class Run:
    """A finished run.

    Args:
        path: its folder.
        manifest: `manifest.json`: command, options, versions, digests of what was read.
        summary: `summary.json`: every figure.
    """

    def __init__(self, path: pathlib.Path, manifest: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.summary = summary

    @property
    def command(self) -> str:
        """The command that made it."""
        return str(self.manifest["command"])

    @functools.cached_property
    def estimates(self) -> dict[str, Estimate]:
        """Every figure that has an interval, by its place in the summary, joined by slashes: `rates/sdc1`."""
        return dict(_estimates(self.summary, ""))

    def figures(self) -> "dict[str, Figure]":
        """Return the plots of the run's report, by the headings they stand under, as matplotlib figures.

        Raises:
            MissingExtraError: if what the report needs is not installed.
            RunFolderError: if the folder cannot be reported on.
        """
        try:
            from resq_deploy.report.build import document, gather
            from resq_deploy.report.document import Plot
            from resq_deploy.report.figures import draw
        except ImportError as error:
            raise MissingExtraError("a figure", "report") from error
        found: dict[str, Figure] = {}
        for section in document(gather([self.path])).sections:
            plots = [block for block in section.blocks if isinstance(block, Plot)]
            for number, plot in enumerate(plots, 1):
                found[section.title if number == 1 else f"{section.title} ({number})"] = draw(plot)
        return found

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaultBit:
    """A stored bit that a fault changes.

    Attributes:
        tensor: the stored tensor, as `Model.surfaces` names it.
        role: what that is for.
        layer: the first node that computes with it.
        index: the element, counted in row-major order.
        bit: the bit of it, 0 the least significant; the first one of a word.
        op: flip, set-0, set-1, or word: the whole element replaced.
        value: what a word is replaced by, as an unsigned number; None for other operations.
    """

    tensor: str
    role: str
    layer: str
    index: int
    bit: int
    op: str
    value: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault of a campaign and what it did.

    Attributes:
        label: what the campaign calls it.
        outcome: the worst over the images it was judged on: masked, benign, sdc1; or due, where the file no longer
            loads or runs.
        images: on how many images it was judged; 0 for a `due` fault.
        counts: images by outcome: masked, benign, sdc1 and further rungs, which overlap (every sdc10 image is sdc1).
        accuracy: share of those images answered right under the fault; None where there are no labels.
        bits: the bits it changes; empty for chips of random bit errors, whose masks the seed draws again.
        ber: bit error rate of a chip; None for other faults.
        flips: how many bits of a chip are flipped; of other faults the bits.
    """

    label: str
    outcome: str
    images: int
    counts: Mapping[str, int]
    accuracy: float | None
    bits: tuple[FaultBit, ...]
    ber: float | None
    flips: int

    @property
    def sdc1(self) -> float:
        """Share of its images with another answer; 0 for a `due` fault."""
        return self.counts["sdc1"] / self.images if self.images else 0.0


class FaultRun(Run):
    """A finished fault campaign."""

    @property
    def sdc1(self) -> Estimate | None:
        """Share of image runs with another answer, over the population of faults; None for bit error rates."""
        return self.estimates.get("rates/sdc1")

    @property
    def accuracy(self) -> Estimate | None:
        """Accuracy under fault, mean over the population of faults; None for bit error rates, or without labels."""
        return self.estimates.get("accuracy")

    @property
    def gates(self) -> tuple[GateVerdict, ...]:
        """What became of the gates, in the order given; of bit error rates once for each."""
        return tuple(map(of_faults, self.summary.get("gates", ())))

    @property
    def audit(self) -> GateVerdict:
        """What came of running faults again by reload-and-run; a campaign in which one differs does not end."""
        confidence = self.summary.get("curve", [self.summary])[0]["due"]["confidence"]
        return of_audit(self.summary["audit"], confidence)

    @property
    def meanings(self) -> Mapping[str, str]:
        """What each outcome means, in the words of the task."""
        return outcome_meanings(self.summary["judge"])

    def curve(self, figure: str = "accuracy") -> dict[float, Estimate]:
        """Return a figure over bit error rates; they are never pooled.

        Args:
            figure: `accuracy`, or an outcome such as `sdc1`.
        """
        found = {}
        for point in self.summary.get("curve", ()):
            given = point[figure] if figure == "accuracy" else point["rates"][figure]
            if given is not None:
                found[float(point["ber"])] = as_estimate(given)
        return found

    def by(self, group: str, figure: str = "sdc1") -> dict[str, Estimate]:
        """Return a figure by role, layer or bit, where a fault fell on it.

        Args:
            group: `role`, `layer` or `bit`.
            figure: an outcome.
        """
        rows = self.summary.get(f"by_{group}")
        if rows is None:
            raise RunFolderError(f"{self.path}: no figures by {group}: single faults have them by role, layer and bit")
        return {name: as_estimate(row[figure]) for name, row in rows.items() if row.get(figure) is not None}

    def faults(self) -> Iterator[Fault]:
        """Yield the faults, in the order of the plan, as `faults.csv` holds them.

        Raises:
            RunFolderError: if that file cannot be read.
        """
        try:
            with (self.path / "faults.csv").open(encoding="utf-8", newline="") as stream:
                for _, rows in itertools.groupby(csv.DictReader(stream), key=_fault_of):
                    yield _fault(list(rows))
        except (OSError, UnicodeError, csv.Error) as error:
            raise RunFolderError(f"{self.path / 'faults.csv'} cannot be read: {error}") from error

    __iter__ = faults

    def frame(self) -> "pd.DataFrame":
        """Return `faults.csv` as a data frame: a row for each fault and bit, or for each chip of random bit errors.

        Columns: `fault` (its number, or its label in the fault list), `op`, `tensor`, `role`, `layer`, `index`, `bit`,
        `value`; of chips `ber`, `chip`, `flips`, `mask` (a digest). Then, alike in all rows of a fault: `outcome`, the
        worst; `images`, on how many it was judged; a column for each outcome, counting images; `accuracy` on those;
        `share` and `parts`, which images those are, as parts of the campaign's partition from number `share` on.

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        frame: pd.DataFrame = pandas_or_error().read_csv(
            self.path / "faults.csv",
            dtype={"fault": "str", "mask": "str", "value": "str", "tensor": "str", "layer": "str"},
            keep_default_na=False,
            na_values={"accuracy": [""], "bit": [""], "index": [""]},
        )
        return frame


class AttackRun(Run):
    """A finished attack campaign."""

    @property
    def clean(self) -> Estimate:
        """Accuracy without an attack, on the images attacked."""
        return as_estimate(self.summary["clean"])

    @property
    def trustworthy(self) -> bool | None:
        """Whether the figures can be trusted: False if a check failed; None if one that is needed did not run."""
        found: bool | None = self.summary["trustworthy"]
        return found

    @property
    def gates(self) -> tuple[GateVerdict, ...]:
        """What became of the gates, in the order given."""
        return tuple(map(of_attacks, self.summary.get("gates", ())))

    def robust(self, attack: str | None = None) -> dict[float, Estimate]:
        """Return robust accuracy by radius, in 1/255 for Linf.

        Args:
            attack: its name; None for the worst case over all that ran, image by image.
        """
        rows = self.summary["worst_case"] if attack is None else self.summary["robust"].get(attack)
        if rows is None:
            there = ", ".join(self.summary["robust"])
            raise RunFolderError(f"{self.path}: no attack {attack!r} ran; there are {there}")
        return {float(epsilon): as_estimate(found) for epsilon, found in rows.items()}

    def corruptions(self, corruption: str | None = None) -> dict[int, Estimate]:
        """Return accuracy under corruptions by severity, from 1 to 5.

        Args:
            corruption: its name, such as `fog`; None for the mean over all.

        Raises:
            RunFolderError: if the campaign ran none, or has no such corruption.
        """
        found = self.summary.get("corruptions")
        if found is None:
            raise RunFolderError(f"{self.path}: no corruptions ran: attackcamp takes attacks=['corruptions']")
        rows = found["by_severity"] if corruption is None else found["accuracy"].get(corruption)
        if rows is None:
            there = ", ".join(found["accuracy"])
            raise RunFolderError(f"{self.path}: no corruption {corruption!r} ran; there are {there}")
        return {int(severity): as_estimate(row) for severity, row in rows.items()}


class TrainRun(Run):
    """A finished training.

    Args:
        path: its folder.
        manifest: as of any run; empty in a process that does not lead.
        summary: every figure.
        leads: whether this process wrote it: of those that torchrun started one does.
    """

    def __init__(
        self, path: pathlib.Path, manifest: Mapping[str, Any], summary: Mapping[str, Any], *, leads: bool = True
    ) -> None:
        super().__init__(path, manifest, summary)
        self.leads = leads

    @property
    def checkpoints(self) -> dict[str, pathlib.Path]:
        """The file of each stage's best epoch, and of what keeps to a budget."""
        names = (*self.summary["stages"], "budget")
        return {name: path for name in names if (path := self.path / f"{name}.pt").is_file()}

    def test(self, stage: str, figure: str = "clean") -> Estimate:
        """Return a figure on test images after a stage.

        Args:
            stage: `baseline`, `attack` or `fault`.
            figure: `clean` or `robust`.
        """
        stages = self.summary["stages"]
        if stage not in stages:
            raise RunFolderError(f"{self.path}: stage {stage!r} was not run; there are {', '.join(stages)}")
        return as_estimate(stages[stage]["test"][figure])


_KINDS: dict[str, type[Run]] = {"faultcamp": FaultRun, "attackcamp": AttackRun, "train": TrainRun}


def open_run(folder: PathLike) -> Run:
    """Open the folder of a finished run: a `FaultRun`, an `AttackRun` or a `TrainRun`.

    Raises:
        RunFolderError: if it holds no such run, or one that is not finished.
    """
    path = as_path(folder)
    manifest = read_manifest(path)
    kind = _KINDS.get(str(manifest.get("command")))
    if kind is None:
        raise RunFolderError(f"{path}: a run of {manifest.get('command')}, which holds no figures; give one of a run")
    if manifest.get("status") != "done":
        raise RunFolderError(f"{path}: this run is {manifest.get('status')}, not done: go on with it by --resume first")
    return kind(path, manifest, read_json(path / "summary.json"))


def _estimates(value: Any, place: str) -> Iterator[tuple[str, Estimate]]:
    if isinstance(value, Mapping):
        if value.keys() >= _ESTIMATE:
            if value["value"] is not None:
                yield place, as_estimate(value)
            return
        for key, inner in value.items():
            yield from _estimates(inner, f"{place}/{key}" if place else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _estimates(inner, f"{place}/{number}")


def _fault_of(row: Mapping[str, str]) -> str:
    return row["fault"]


def _fault(rows: list[dict[str, str]]) -> Fault:
    first = rows[0]
    chip = "ber" in first
    return Fault(
        label=first["fault"],
        outcome=first["outcome"],
        images=int(first["images"]),
        counts={name: int(count) for name, count in first.items() if name not in _NOT_COUNTS and count.isdecimal()},
        accuracy=float(first["accuracy"]) if first.get("accuracy") else None,
        bits=() if chip else tuple(map(_bit, rows)),
        ber=float(first["ber"]) if chip else None,
        flips=int(first["flips"]) if chip else len(rows),
    )


def _bit(row: Mapping[str, str]) -> FaultBit:
    return FaultBit(
        tensor=row["tensor"],
        role=row["role"],
        layer=row["layer"],
        index=int(row["index"]),
        bit=int(row["bit"]),
        op=row["op"],
        value=int(row["value"]) if row["value"] else None,
    )
