"""An FMEDA from run folders: what a file's campaign and that of the same file without mechanisms found, by element."""

import csv
import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from resq_deploy.errors import OptionError, RunFolderError
from resq_deploy.faults.cell_words import way_told
from resq_deploy.faults.drawn import Drawn
from resq_deploy.faults.estimate import as_estimate
from resq_deploy.faults.fmeda import Fmeda, Injected, Memory, fmeda
from resq_deploy.faults.statistics import Estimate
from resq_deploy.faults.stratified import Sample
from resq_deploy.report.runs import Run, audit_failed, draws_layers
from resq_deploy.report.text import listed

BY = ("role-layer", "role", "layer", "tensor")
"""What an element can be."""

DANGEROUS = ("share", "any")
"""How dangerous a fault is: by the share of images that it gives another answer, or whether it does on any."""

_BUNDLE = "bundle.json"
_MBIT = 1e6
_USUAL_RATE = 1.0
MEMORY_ECC = "memory-ecc"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What an analysis is asked for.

    Attributes:
        by: one of `BY`.
        dangerous: one of `DANGEROUS`.
        rates: raw rates, FIT in 10^6 bits, by role; under the empty text that of all other roles.
        selftest: of the file as it is deployed; None for none.
    """

    by: str = BY[0]
    dangerous: str = DANGEROUS[0]
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    selftest: "SelfTest | None" = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Element:
    """What a row is about.

    Attributes:
        name: role, layer or tensor; of `role-layer` both.
        mechanism: by what it is protected; empty text where by nothing.
        rate: raw rate, FIT in 10^6 bits, the mean over its bits.
    """

    name: str
    mechanism: str
    rate: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Analysis:
    """An FMEDA and what it rests on.

    Attributes:
        run: the campaign on the file as deployed.
        without: that on the file without mechanisms; None where there is none.
        asked: what was asked for.
        elements: of the rows, in their order.
        found: the figures.
        rate_given: whether raw rates were given; if not all rates are those of a memory of 1 FIT in 10^6 bits.
    """

    run: Run
    without: Run | None
    asked: Asked
    elements: Sequence[Element]
    found: Fmeda
    rate_given: bool


def analyse(run: Run, without: Run | None, asked: Asked) -> Analysis:
    """Return the FMEDA of a file.

    Args:
        run: a fault campaign on the file as it is deployed.
        without: one on the same file without its mechanisms (`scrub --bake`), or in a memory without ECC.
        asked: what is asked for.

    Raises:
        RunFolderError: if these are no such campaigns.
        OptionError: if what is asked for is not known from them.
    """
    present = _injected(run, asked.dangerous)
    bare = None if without is None else _injected(without, asked.dangerous)
    if without is not None:
        _check_alike(run, without)
    if asked.selftest is not None and asked.selftest.model != run.model:
        raise OptionError(f"--selftest: the bundle is for another file than {run.path} is about (SHA-256)")
    memory, elements, given = _memory(run, without, asked)
    return Analysis(
        run=run,
        without=without,
        asked=asked,
        elements=elements,
        found=fmeda(present, memory, bare, run.confidence),
        rate_given=given,
    )


def _tensors(run: Run) -> Mapping[str, Any]:
    tensors: Mapping[str, Any] = run.summary["drawing"]["tensors"]
    return tensors


def _injected(run: Run, dangerous: str) -> Injected:
    """Return what a campaign's faults do."""
    if run.command != "faultcamp":
        raise RunFolderError(f"{run.path}: an FMEDA is made of runs of faultcamp, this is one of {run.command}")
    if audit_failed(run):
        raise RunFolderError(f"{run.path}: the audit found faults that differ from reload-and-run: run it anew")
    if draws_layers(run):
        raise RunFolderError(
            f"{run.path}: layers drawn evenly weigh the bits of small ones more: draw bits for an FMEDA"
        )
    if "drawing" not in run.summary:
        raise RunFolderError(
            f"{run.path}: an earlier version ran it, which did not record how faults were drawn: run the campaign again"
        )
    drawing = run.summary["drawing"]
    if drawing is None:
        raise RunFolderError(
            f"{run.path}: an FMEDA adds up faults of one bit each, drawn by the campaign: run faultcamp with --faults "
            "single or stuck-at-0, stuck-at-1"
        )
    if dangerous == "any" and drawing["share"] < 1.0:
        raise OptionError(
            f"--dangerous any: {run.path} judged each fault on some of the images, so that it is not known which fail "
            "on any: run it with --images-per-fault all"
        )
    return injected(drawing, _rows(run), dangerous=dangerous, stopped=run.options.get("margin") is not None)


def injected(
    drawing: Mapping[str, Any], rows: Sequence[Mapping[str, str]], *, dangerous: str, stopped: bool
) -> Injected:
    """Return what faults do.

    Args:
        drawing: as a summary holds it.
        rows: of the faults, in the order of the drawing, as `faults.csv` holds them.
        dangerous: one of `DANGEROUS`.
        stopped: whether the results of a simple sample decided how many were drawn.
    """
    place = {name: number for number, name in enumerate(drawing["tensors"])}
    images = np.array([float(row["images"]) for row in rows])
    wrong = np.array([float(row["sdc1"]) for row in rows]) / np.maximum(images, 1.0)
    lost = np.array([row["outcome"] == "due" for row in rows], dtype=bool)
    wrong = np.where(lost, 0.0, wrong if dangerous == "share" else wrong > 0.0)
    drawn = Drawn(
        tensor=np.array([place[row["tensor"]] for row in rows], dtype=np.int64),
        faults=_faults(drawing),
        sample=_sample(drawing),
        stopped=stopped,
        share=float(drawing["share"]),
    )
    reported = np.array([row.get("detected") == "1" for row in rows], dtype=bool)
    return Injected(drawn=drawn, wrong=wrong.astype(np.float64), lost=lost, reported=reported & ~lost)


def _rows(run: Run) -> list[dict[str, str]]:
    path = run.path / "faults.csv"
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        known = all(row["tensor"] in _tensors(run) and int(row["sdc1"]) <= int(row["images"]) for row in rows)
    except (OSError, ValueError, LookupError, TypeError, csv.Error) as error:
        raise RunFolderError(f"{path} is missing or broken ({error}): run the campaign again") from error
    if len(rows) != run.summary["faults"]["evaluated"] or not known:
        raise RunFolderError(f"{path} does not hold the faults of the summary: the folder is half-written")
    return rows


def _faults(drawing: Mapping[str, Any]) -> Any:
    strata = drawing["strata"]
    found = np.zeros((len(drawing["tensors"]), len(strata["sizes"]) if strata else 1), dtype=np.int64)
    for row, tensor in zip(found, drawing["tensors"].values(), strict=True):
        for stratum, count in tensor["faults"].items():
            row[int(stratum)] = count
    return found


def _sample(drawing: Mapping[str, Any]) -> Sample | None:
    strata = drawing["strata"]
    if strata is None:
        return None
    phase, stratum, count = (np.array(column, dtype=np.int64) for column in zip(*strata["drawn"], strict=True))
    sizes = np.array(strata["sizes"], dtype=np.int64)
    return Sample(
        stratum=np.repeat(stratum, count),
        phase=np.repeat(phase, count),
        sizes=sizes,
        groups=np.arange(len(sizes), dtype=np.int64),  # of no account for estimates
        pilots=strata["pilots"],
        images=tuple(strata["images"]),
        of=strata["of"],
        kept=strata["kept"],
    )


def _check_alike(run: Run, without: Run) -> None:
    """Check that two campaigns are about the same kind of faults, on the same images.

    Raises:
        RunFolderError: if they are not.
    """
    same: dict[str, Callable[[Run], Any]] = {
        "fault model": lambda one: one.summary["fault_model"],
        "way in which bits flip": lambda one: way_told(one.summary),
        "data": lambda one: one.digest("data"),
        "number of images": lambda one: one.summary["golden"]["images"],
        "judge": lambda one: one.summary["judge"]["name"],
        "--bits": lambda one: one.options.get("bits"),
    }
    for what, of in same.items():
        if of(run) != of(without):
            raise RunFolderError(f"{without.path}: another {what} than {run.path}: run both campaigns alike")
    if any(entry["protection"] for entry in _tensors(without).values()):
        raise RunFolderError(
            f"{without.path}: its file is protected as well: give a campaign on what scrub --bake writes as the second"
        )
    if without.options.get("ecc", "none") != "none":
        raise RunFolderError(f"{without.path}: it ran with --ecc: the second campaign is the one without mechanisms")
    if run.confidence != without.confidence:
        raise RunFolderError(f"{without.path}: another --confidence than {run.path}: run both campaigns alike")


def _memory(run: Run, without: Run | None, asked: Asked) -> tuple[Memory, list[Element], bool]:
    tensors = _tensors(run)
    ecc = MEMORY_ECC if run.options.get("ecc", "none") != "none" else ""
    mechanism = [entry["protection"] or ecc for entry in tensors.values()]
    rates, given = _rates(run, asked.rates)
    keys = [(_element(name, entry, asked.by), by) for (name, entry), by in zip(tensors.items(), mechanism, strict=True)]
    numbers = {key: number for number, key in enumerate(sorted(set(keys)))}
    element = np.array([numbers[key] for key in keys], dtype=np.int64)
    places = {} if without is None else {name: number for number, name in enumerate(_tensors(without))}
    plain = [[places[name] for name in entry["plain"] if name in places] for entry in tensors.values()]
    memory = Memory(
        rate=rates / _MBIT,
        element=element,
        mechanism=mechanism,
        plain=plain,
        idle=np.array([entry.get("idle", 0) for entry in tensors.values()], dtype=np.int64),
    )
    bits = np.array([sum(entry["faults"].values()) for entry in tensors.values()], dtype=np.float64)
    elements = [
        Element(name=name, mechanism=by, rate=float(np.average(rates[inside], weights=bits[inside])))
        for (name, by), number in numbers.items()
        for inside in (element == number,)
    ]
    return memory, elements, given


def _element(name: str, entry: Mapping[str, Any], by: str) -> str:
    if by == "tensor":
        return name
    return f"{entry['role']} {entry['layer']}" if by == "role-layer" else str(entry[by])


def _rates(run: Run, asked: Mapping[str, float]) -> tuple[Any, bool]:
    """Return the raw rate of each tensor, FIT in 10^6 bits, and whether any was given."""
    roles = [entry["role"] for entry in _tensors(run).values()]
    unknown = sorted(set(asked) - {""} - set(roles))
    if unknown:
        raise OptionError(f"--fit-per-mbit: no role {unknown[0]!r} was hit; there are {listed(sorted(set(roles)))}")
    recorded = run.options.get("fit_per_mbit")
    usual = asked.get("", recorded)
    missing = sorted(set(roles) - set(asked)) if asked and usual is None else []
    if missing:
        raise OptionError(
            f"--fit-per-mbit: no rate for {listed(missing)}: name them as well, or give a number for all others"
        )
    rates = [asked.get(role, _USUAL_RATE if usual is None else usual) for role in roles]
    return np.array(rates, dtype=np.float64), bool(asked) or recorded is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfTest:
    """What a self-test's bundle says of itself.

    Attributes:
        model: SHA-256 of the file that it is for.
        coverage: share of failing faults that it reveals, as measured on faults that chose none of its inputs.
    """

    model: str
    coverage: Estimate


def read_self_test(path: pathlib.Path) -> SelfTest:
    """Return the coverage that the bundle of a self-test was measured to have.

    Raises:
        OptionError: if it is no such bundle, or no coverage was measured.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            header = json.loads(archive.read(_BUNDLE))
        return SelfTest(model=header["model"]["sha256"], coverage=as_estimate(header["self_test"]["coverage"]))
    except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile) as error:
        raise OptionError(f"--selftest {path}: no bundle of selftest that tells its coverage ({error})") from error
