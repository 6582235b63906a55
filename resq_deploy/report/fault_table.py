"""What a fault campaign kept of each fault: `faults.csv`, and the answers in `campaign.sqlite`."""

import array
import csv
import dataclasses
import hashlib
import heapq
import itertools
import math
import pathlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.errors import RunFolderError
from resq_deploy.faults.fault import Share
from resq_deploy.faults.partition import Partition
from resq_deploy.report.runs import Run, subsampled
from resq_deploy.report.task import knows_right_answers, quality_column
from resq_deploy.report.text import listed

STORE_SCHEMAS = (1, 2, 3, 4, 5, 6)
"""Schema versions of the store that can be read: answers are kept alike in all."""

GROUPS = ("role", "layer", "bit")
MIXED = "mixed"
_CHUNK = 2048
_BITS = ("op", "tensor", "index", "bit", "value")

Flags = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CriticalFault:
    """One of a campaign's worst faults.

    Attributes:
        label: what the campaign calls it.
        outcome: the worst over its images, or `due`.
        where: tensor, layer, role and bits it hits.
        sdc1: share of images with another top-1; 1 for a `due` fault.
        quality: under the fault; NaN where nothing was labelled.
    """

    label: str
    outcome: str
    where: dict[str, str]
    sdc1: float
    quality: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FaultTable:
    """The faults of a campaign, in the order of its plan.

    Attributes:
        key: what identifies a fault across files: a digest of the bits it changes, or of rate and chip, shape [n].
        sdc1: share of images with another top-1, NaN for a `due` fault, shape [n].
        quality: the judge's figure, such as the share of images answered right, 0 for a `due` fault; NaN where nothing
            was labelled; shape [n].
        images: on how many images each was judged, 0 for a `due` fault, shape [n].
        share: number of the first part of the images that each was judged on, shape [n].
        parts: how many parts from there on, shape [n].
        groups: for role, layer and bit the names, and the number of each fault's name, shape [n].
        ber: bit error rate of each fault, shape [n]; empty for other models.
        mask: digests of the masks, of random bit errors only.
        worst: the faults that change most answers, the worst first.
    """

    key: NDArray[np.uint64]
    sdc1: NDArray[np.float64]
    quality: NDArray[np.float64]
    images: NDArray[np.int64]
    share: NDArray[np.int64]
    parts: NDArray[np.int64]
    groups: dict[str, tuple[list[str], NDArray[np.int32]]]
    ber: NDArray[np.float64]
    mask: list[str]
    worst: list[CriticalFault]

    def __len__(self) -> int:
        return len(self.key)


def read_faults(run: Run, worst: int = 0) -> FaultTable:
    """Read the table of faults of a campaign.

    Args:
        run: the campaign.
        worst: how many of the worst faults to keep by name.

    Raises:
        RunFolderError: if the table is missing, broken, or does not hold the faults of the summary.
    """
    path = run.path / "faults.csv"
    reader = _Reader(path, worst, quality_column(run))
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader.read(stream)
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, csv.Error) as error:
        raise RunFolderError(f"{path} is missing or broken ({error}): run the campaign again") from error
    table = reader.table()
    expected = run.summary["faults"]["evaluated"]
    if len(table) != expected:
        raise RunFolderError(f"{path} holds {len(table)} faults, the summary {expected}: the folder is half-written")
    return table


class _Reader:
    """Collects the rows of a table, compactly: a campaign may hold millions of faults."""

    def __init__(self, path: pathlib.Path, worst: int, rated: str | None) -> None:
        self._path = path
        self._rated = rated
        self._worst = worst
        self._heap: list[tuple[tuple[float, float, int], CriticalFault]] = []
        self._numbers = {name: array.array("d") for name in ("sdc1", "quality", "ber")}
        self._counts = {name: array.array("q") for name in ("images", "share", "parts")}
        self._keys = array.array("Q")
        self._codes = {group: array.array("i") for group in GROUPS}
        self._names: dict[str, dict[str, int]] = {group: {} for group in GROUPS}
        self._masks: list[str] = []

    def read(self, stream: Iterator[str]) -> None:
        rows = self._rows(stream)
        header = next(rows, [])
        place = {name: number for number, name in enumerate(header)}
        masks = "mask" in place
        for label, members in itertools.groupby(rows, key=lambda row: row[place["fault"]]):
            fault = [dict(zip(header, row, strict=True)) for row in members]
            self._add(label, fault, masks=masks)

    @staticmethod
    def _rows(stream: Iterator[str]) -> Iterator[list[str]]:
        reader = csv.reader(stream, strict=True)
        for row in reader:
            if not row:
                raise ValueError(f"line {reader.line_num} is blank")
            yield row

    def _add(self, label: str, rows: Sequence[dict[str, str]], *, masks: bool) -> None:
        first = rows[0]
        images = int(first["images"])
        sdc1 = int(first["sdc1"]) / images if images else float("nan")
        quality = float("nan") if self._rated is None else float(first[self._rated])
        if not ((self._rated is None or 0.0 <= quality <= 1.0) and 0 <= int(first["sdc1"]) <= max(images, 0)):
            raise ValueError(f"fault {label}: {self._rated} {quality} or SDC-1 {first['sdc1']} is impossible")
        self._numbers["sdc1"].append(sdc1)
        self._numbers["quality"].append(quality)
        for name, before in (("images", images), ("share", 0), ("parts", 1)):  # earlier versions ran all images
            self._counts[name].append(int(first.get(name, before)))
        if masks:
            self._numbers["ber"].append(float(first["ber"]))
            self._masks.append(first["mask"])
            self._keys.append(_digest(f"{float(first['ber'])!r} {first['chip']}"))
            return
        self._keys.append(_digest("\n".join(sorted(" ".join(row[name] for name in _BITS) for row in rows))))
        where = {name: _common(row[name] for row in rows) for name in (*GROUPS, "tensor", "index")}
        if where["tensor"] != MIXED and where["index"] != MIXED:
            where["bit"] = min((row["bit"] for row in rows), key=int)  # a burst counts by its lowest bit
        for group in GROUPS:
            names = self._names[group]
            self._codes[group].append(names.setdefault(where[group], len(names)))
        self._keep(label, first["outcome"], where, sdc1, quality)

    def _keep(self, label: str, outcome: str, where: dict[str, str], sdc1: float, quality: float) -> None:
        if not self._worst:
            return
        harm = 1.0 if math.isnan(sdc1) else sdc1
        rank = (harm, 0.0 if math.isnan(quality) else -quality, -len(self._keys))
        if len(self._heap) == self._worst and rank <= self._heap[0][0]:
            return
        fault = CriticalFault(label=label, outcome=outcome, where=where, sdc1=harm, quality=quality)
        keep = heapq.heappush if len(self._heap) < self._worst else heapq.heapreplace
        keep(self._heap, (rank, fault))

    def table(self) -> FaultTable:
        groups = {group: (list(self._names[group]), np.array(self._codes[group], dtype=np.int32)) for group in GROUPS}
        return FaultTable(
            key=np.array(self._keys, dtype=np.uint64),
            groups=groups,
            mask=self._masks,
            worst=[fault for _, fault in sorted(self._heap, key=lambda entry: entry[0], reverse=True)],
            **{name: np.array(values, dtype=np.float64) for name, values in self._numbers.items()},
            images=np.array(self._counts["images"], dtype=np.int64),
            share=np.array(self._counts["share"], dtype=np.int64),
            parts=np.array(self._counts["parts"], dtype=np.int64),
        )


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _common(values: Iterator[str]) -> str:
    found = set(values)
    return found.pop() if len(found) == 1 else MIXED


def right_answers(run: Run, chosen: Flags) -> NDArray[np.int64]:
    """Count, for each image, the faults under which it was answered right.

    Args:
        run: the campaign.
        chosen: which of its faults to count, in the order of its plan, shape [faults].

    Returns:
        Counts, shape [images]; a `due` fault answers nothing right.

    Raises:
        RunFolderError: if the store is missing, broken, of another schema version, or half-written.
    """
    images = int(run.summary["golden"]["images"])
    counts = np.zeros(images, dtype=np.int64)
    seen = 0
    for numbers, maps in _bitmaps(run, "SELECT number, right FROM faults ORDER BY number"):
        if numbers != list(range(seen, seen + len(numbers))):
            break  # faults are numbered from 0 without gaps
        seen += len(numbers)
        if seen > len(chosen):
            break
        wanted = [bitmap for number, bitmap in zip(numbers, maps, strict=True) if bitmap and chosen[number]]
        if wanted:
            counts += _unpacked(wanted, images, run).sum(axis=0, dtype=np.int64)
    if seen != len(chosen):
        raise RunFolderError(
            f"{_store(run)} does not hold the faults of faults.csv: the folder is half-written; copy it again, or run "
            "the campaign again"
        )
    return counts


def golden_right(run: Run) -> NDArray[np.int64] | None:
    """Return which images the fault-free file answers right (1 or 0, shape [images]).

    The store does not keep the golden run itself; a fault that was masked on all its images answers like it on them.

    Returns:
        None where no fault was masked on all images, those that were masked on theirs leave some out, or quality is
        not made of right answers.

    Raises:
        RunFolderError: as `right_answers`.
    """
    if not knows_right_answers(run):
        return None
    if subsampled(run):
        return _golden_by_parts(run)
    for _, maps in _bitmaps(run, "SELECT number, right FROM faults WHERE outcome = 'masked' ORDER BY number LIMIT 1"):
        right: NDArray[np.int64] = _unpacked(maps, int(run.summary["golden"]["images"]), run)[0].astype(np.int64)
        return right
    return None


def _golden_by_parts(run: Run) -> NDArray[np.int64] | None:
    """Return the same from masked faults that were judged on some images each; None where they leave any out."""
    found = np.full(int(run.summary["images"]["of"]), -1, dtype=np.int64)
    partition = Partition(images=len(found), parts=int(run.summary["images"]["parts"]))
    for share in _shares_of_masked(run):
        rows = partition.rows(share)
        if (found[rows] >= 0).all():
            continue
        query = (
            "SELECT number, right FROM faults WHERE outcome = 'masked' "
            f"AND share = {share.first} AND parts = {share.parts} ORDER BY number LIMIT 1"
        )
        for _, maps in _bitmaps(run, query):
            found[rows] = _unpacked(maps, len(rows), run)[0]
    return found if (found >= 0).all() else None


def _shares_of_masked(run: Run) -> list[Share]:
    """Return the shares of images that faults were masked on, each once, the largest first."""
    query = "SELECT DISTINCT share, parts FROM faults WHERE outcome = 'masked' ORDER BY parts DESC, share"
    return [Share(*one) for shares, parts in _bitmaps(run, query) for one in zip(shares, parts, strict=True)]


def _unpacked(maps: Sequence[bytes], images: int, run: Run) -> NDArray[np.uint8]:
    if not all(isinstance(bitmap, bytes) for bitmap in maps):
        raise RunFolderError(f"{_store(run)} holds answers that are no bitmaps: run the campaign again")
    if any(len(bitmap) != (images + 7) // 8 for bitmap in maps):
        raise RunFolderError(
            f"{_store(run)} holds answers to another number of images than the summary names: run again"
        )
    packed = np.frombuffer(b"".join(maps), dtype=np.uint8).reshape(len(maps), -1)
    return np.unpackbits(packed, axis=1, count=images)


def _bitmaps(run: Run, query: str) -> Iterator[tuple[list[int], list[Any]]]:
    """Yield the two columns of a query, some thousands of rows at a time."""
    path = _store(run)
    if not path.is_file():
        raise RunFolderError(f"{path} is missing: copy the whole folder again, or run the campaign again")
    if not path.stat().st_size:
        raise RunFolderError(f"{path} is empty: copy the whole folder again, or run the campaign again")
    # A finished store has no writer: immutable leaves no file beside it, and works where nothing may be written.
    unclean = path.with_name(f"{path.name}-wal").is_file()
    try:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?{'mode=ro' if unclean else 'immutable=1'}", uri=True)
        try:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version not in STORE_SCHEMAS:
                known = listed(STORE_SCHEMAS)
                raise RunFolderError(f"{path} has schema version {version}, this resq-deploy reads {known}: run again")
            cursor = database.execute(query)
            while rows := cursor.fetchmany(_CHUNK):
                yield [row[0] for row in rows], [row[1] for row in rows]
        finally:
            database.close()
    except sqlite3.Error as error:
        raise RunFolderError(f"{path} cannot be read as a campaign store ({error}): run the campaign again") from error


def _store(run: Run) -> pathlib.Path:
    return run.path / "campaign.sqlite"
