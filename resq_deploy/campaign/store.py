"""`campaign.sqlite`: one row a fault, written as it is evaluated, whole or not at all; and what the audit found.

What the audit found stays: a fault whose record once differed from reload-and-run is counted for good.
"""

import contextlib
import dataclasses
import json
import pathlib
import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

from resq_deploy.campaign.record import Record, Way
from resq_deploy.errors import RunFolderError
from resq_deploy.faults.outcomes import Outcome

SCHEMA = 6
"""6: how far outputs lie from golden ones, which a store of version 5 gets as an empty column; 5: counts and amounts as
JSON objects, since every judge has rungs of its own; 4: a column each, of top1's."""

FILE = "campaign.sqlite"

_COLUMNS = (
    *("number", "outcome", "images", "counts", "amounts", "quality", "logits", "right", "changed", "reason", "way"),
    *("share", "parts", "gaps"),
    *("detected", "words_corrected", "words_uncorrectable"),
)
_ALL = f"SELECT {', '.join(_COLUMNS)} FROM faults ORDER BY number"
_BEFORE_GAPS = 5
"""The schema that lacks them and nothing else."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audited:
    """A fault that was evaluated a second time, by reload-and-run.

    Attributes:
        number: the fault's number in the plan.
        evenly: whether it was drawn evenly from all that can be audited, rather than to visit its group.
        differs: whether its record was another one.
    """

    number: int
    evenly: bool
    differs: bool


class Store:
    """The results of a campaign so far. One process writes it, from one thread.

    Args:
        path: the database file; created where it is missing.

    Raises:
        RunFolderError: if the file is no store of this schema version, or is damaged.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        try:
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._prepare()
        except sqlite3.Error as error:
            raise RunFolderError(f"{path} cannot be used as a campaign store ({error})") from error

    def _prepare(self) -> None:
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _BEFORE_GAPS, SCHEMA):
            raise RunFolderError(_other_schema(self._path, version))
        if version == _BEFORE_GAPS:
            self._add_gaps()
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS faults (number INTEGER PRIMARY KEY, outcome TEXT NOT NULL,"
            " images INTEGER NOT NULL, counts TEXT NOT NULL, amounts TEXT NOT NULL, quality REAL,"
            " logits TEXT NOT NULL, right BLOB NOT NULL,"
            " changed INTEGER NOT NULL, reason TEXT NOT NULL, way TEXT NOT NULL,"
            " share INTEGER NOT NULL, parts INTEGER NOT NULL, gaps BLOB,"
            " detected INTEGER NOT NULL, words_corrected INTEGER, words_uncorrectable INTEGER)"
        )
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS audits (number INTEGER PRIMARY KEY, evenly INTEGER NOT NULL,"
            " differs INTEGER NOT NULL)"
        )
        self._database.execute(f"PRAGMA user_version = {SCHEMA}")

    def _add_gaps(self) -> None:
        """Make a store of version 5 one of this version, whole or not at all: of its faults they stay unknown."""
        self._database.execute("BEGIN")
        self._database.execute("ALTER TABLE faults ADD COLUMN gaps BLOB")
        self._database.execute(f"PRAGMA user_version = {SCHEMA}")
        self._database.execute("COMMIT")

    def add(self, records: Sequence[Record]) -> None:
        """Keep records, all of them or none.

        Raises:
            RunFolderError: if the disk is full or the file cannot be written.
        """
        marks = ", ".join("?" * len(_COLUMNS))
        self._write(f"INSERT INTO faults ({', '.join(_COLUMNS)}) VALUES ({marks})", map(_as_row, records))

    def add_audited(self, audited: Sequence[Audited]) -> None:
        """Keep what an audit found. A fault that differed once, in whatever session, stays one that differs.

        Raises:
            RunFolderError: if the disk is full or the file cannot be written.
        """
        self._write(
            "INSERT INTO audits VALUES (?, ?, ?) ON CONFLICT (number) DO UPDATE SET"
            " evenly = max(evenly, excluded.evenly), differs = max(differs, excluded.differs)",
            [(one.number, int(one.evenly), int(one.differs)) for one in audited],
        )

    def _write(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        try:
            self._database.execute("BEGIN")
            try:
                self._database.executemany(statement, rows)
                self._database.execute("COMMIT")
            except BaseException:
                self._database.rollback()  # unlike the statement, no error where Ctrl-C came just after the commit
                raise
        except sqlite3.Error as error:
            raise RunFolderError(f"cannot write {self._path} ({error}); --resume goes on from here") from error

    def numbers(self) -> set[int]:
        """Return the numbers of the faults already evaluated.

        Raises:
            RunFolderError: if the file is damaged.
        """
        return {row[0] for row in self._rows("SELECT number FROM faults")}

    def records(self) -> list[Record]:
        """Return all records in the order of the plan, whatever order they were evaluated in.

        Raises:
            RunFolderError: if the file is damaged.
        """
        rows = self._rows(_ALL)
        try:
            return [_from_row(row) for row in rows]
        except (ValueError, zlib.error) as error:
            raise self._damaged(error) from error

    def audited(self) -> list[Audited]:
        """Return what all audits of this campaign found, by number.

        Raises:
            RunFolderError: if the file is damaged.
        """
        rows = self._rows("SELECT number, evenly, differs FROM audits ORDER BY number")
        return [Audited(number=number, evenly=bool(evenly), differs=bool(differs)) for number, evenly, differs in rows]

    def check_complete(self, faults: int) -> None:
        """Check that the store holds every fault of a plan of so many, and no others.

        Raises:
            RunFolderError: if it does not.
        """
        audited = self._rows("SELECT number FROM audits WHERE number NOT IN (SELECT number FROM faults)")
        if self.numbers() != set(range(faults)) or audited:
            raise self._damaged("its faults are not those of the campaign")

    def _rows(self, statement: str) -> list[tuple[Any, ...]]:
        try:
            return self._database.execute(statement).fetchall()
        except sqlite3.Error as error:
            raise self._damaged(error) from error

    def _damaged(self, reason: object) -> RunFolderError:
        return RunFolderError(f"{self._path} is damaged ({reason}): run the campaign anew, in another folder")

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()


def read_records(path: pathlib.Path) -> list[Record]:
    """Return the records of a campaign that is finished, in the order of its plan, and leave its store as it is.

    Raises:
        RunFolderError: if the file is no store of this schema version, or is damaged.
    """
    unclean = path.with_name(f"{path.name}-wal").is_file()
    try:
        address = f"{path.resolve().as_uri()}?{'mode=ro' if unclean else 'immutable=1'}"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as database:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version not in (_BEFORE_GAPS, SCHEMA):
                raise RunFolderError(_other_schema(path, version))
            asked = _ALL if version == SCHEMA else _ALL.replace("gaps", "NULL")
            return [_from_row(row) for row in database.execute(asked)]
    except (sqlite3.Error, ValueError, zlib.error) as error:
        raise RunFolderError(f"{path} cannot be read as a campaign store ({error})") from error


def _other_schema(path: pathlib.Path, version: int) -> str:
    return (
        f"{path} has schema version {version}, this resq-deploy goes on with {SCHEMA}: go on with the version that "
        "began it, or run the campaign anew, in another folder"
    )


def _as_row(record: Record) -> tuple[object, ...]:
    return (
        record.number,
        str(record.outcome),
        record.images,
        json.dumps(record.counts),
        json.dumps(record.amounts),
        record.quality,
        record.logits,
        record.right,
        record.changed,
        record.reason,
        str(record.way),
        record.share,
        record.parts,
        None if record.gaps is None else zlib.compress(record.gaps) if record.gaps else b"",
        int(record.detected),
        *(record.health or (None, None)),
    )


def _from_row(row: tuple[object, ...]) -> Record:
    values = dict(zip(_COLUMNS, row, strict=True))
    values |= {name: json.loads(str(values[name])) for name in ("counts", "amounts")}
    packed = values["gaps"]
    values["gaps"] = zlib.decompress(packed) if isinstance(packed, bytes) and packed else packed
    values["outcome"] = Outcome(str(values["outcome"]))
    values["way"] = Way(str(values["way"]))
    words = values.pop("words_corrected"), values.pop("words_uncorrectable")
    values |= {"detected": bool(values["detected"]), "health": None if None in words else words}
    return Record(**values)  # type: ignore[arg-type]  # the schema above fixes the types
