import dataclasses
import sqlite3
import sys

import pytest

from resq_deploy.campaign.record import Record
from resq_deploy.campaign.store import FILE, Audited, Store, read_records
from resq_deploy.errors import RunFolderError
from resq_deploy.faults.outcomes import COUNTS, Outcome


def record(number):
    counts = dict.fromkeys(COUNTS, 0)
    figures = {"images": 8, "counts": counts, "quality": 0.5, "logits": "", "right": b"\xf0", "changed": 1}
    return Record(number=number, outcome=Outcome.MASKED, **figures)


def interrupted_after(statement):
    """Let Ctrl-C come as the n-th statement of `Store._write` has just ended."""
    ended = 0

    def hook(frame, event, function):
        nonlocal ended
        mine = event == "c_return" and frame.f_code is Store._write.__code__
        if mine and isinstance(function.__self__, sqlite3.Connection):
            ended += 1
            if ended == statement:
                raise KeyboardInterrupt

    sys.setprofile(hook)


@pytest.mark.parametrize(("statement", "kept"), [(1, {0}), (2, {0}), (3, {0, 1, 2})])
def test_ctrl_c_while_it_writes_keeps_all_or_none_and_stays_ctrl_c(tmp_path, statement, kept):
    with Store(tmp_path / FILE) as store:
        store.add([record(0)])
        interrupted_after(statement)
        with pytest.raises(KeyboardInterrupt):
            store.add([record(1), record(2)])
    with Store(tmp_path / FILE) as store:
        assert store.numbers() == kept


def test_records_that_cannot_be_written_leave_those_before(tmp_path):
    with Store(tmp_path / FILE) as store:
        store.add([record(0)])
        with pytest.raises(RunFolderError, match=r"cannot write .*--resume goes on from here"):
            store.add([record(1), record(0)])
        store.add([record(1)])
        assert list(store.records()) == [record(0), record(1)]


@pytest.mark.parametrize(
    "damage",
    ["UPDATE faults SET outcome = 'cheerful'", "UPDATE faults SET way = 'by hand'", "DROP TABLE faults"],
    ids=["outcome", "way", "table"],
)
def test_a_store_that_holds_what_nobody_wrote_is_one_clear_error(tmp_path, damage):
    with Store(tmp_path / FILE) as store:
        store.add([record(0)])
        with sqlite3.connect(tmp_path / FILE) as other:
            other.execute(damage)
        other.close()
        with pytest.raises(RunFolderError, match=r"is damaged \(.*\): run the campaign anew"):
            store.records()


@pytest.mark.parametrize(
    ("numbers", "audited"), [([0, 1, 99], []), ([0], []), ([0, 1], [7])], ids=["one more", "one less", "audited alone"]
)
def test_a_store_of_other_faults_than_the_plans_is_one_clear_error(tmp_path, numbers, audited):
    with Store(tmp_path / FILE) as store:
        store.add([record(0), record(1)])
        store.check_complete(2)
    with Store(tmp_path / "other.sqlite") as store:
        store.add([record(number) for number in numbers])
        store.add_audited([Audited(number=number, evenly=True, differs=False) for number in audited])
        with pytest.raises(RunFolderError, match="are not those of the campaign"):
            store.check_complete(2)


@pytest.mark.parametrize(
    "gaps", [b"", b"\x00\x01\xff", bytes(1000), None], ids=["none differs", "some", "long", "unknown"]
)
def test_how_far_outputs_moved_is_kept(tmp_path, gaps):
    kept = dataclasses.replace(record(0), gaps=gaps)
    with Store(tmp_path / FILE) as store:
        store.add([kept])
        assert store.records() == [kept]
    assert read_records(tmp_path / FILE) == [kept]


@pytest.fixture
def earlier(tmp_path):
    """A store as version 5 left it."""
    with Store(tmp_path / FILE) as store:
        store.add([record(0)])
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute("ALTER TABLE faults DROP COLUMN gaps")
        database.execute("PRAGMA user_version = 5")
    database.close()
    return tmp_path / FILE


def test_a_store_of_version_5_is_read_as_it_is(earlier):
    before = earlier.read_bytes()
    assert read_records(earlier) == [dataclasses.replace(record(0), gaps=None)]
    assert earlier.read_bytes() == before


def test_a_store_of_version_5_is_gone_on_with(earlier):
    for number in (1, 2):
        with Store(earlier) as store:
            store.add([record(number)])
    with Store(earlier) as store:
        assert store.records() == [dataclasses.replace(record(0), gaps=None), record(1), record(2)]


def test_gaps_that_cannot_be_unpacked_are_damage(tmp_path):
    with Store(tmp_path / FILE) as store:
        store.add([dataclasses.replace(record(0), gaps=b"\x01\x02")])
        with sqlite3.connect(tmp_path / FILE) as other:
            other.execute("UPDATE faults SET gaps = x'0102'")
        other.close()
        with pytest.raises(RunFolderError, match="is damaged"):
            store.records()
    with pytest.raises(RunFolderError, match="cannot be read as a campaign store"):
        read_records(tmp_path / FILE)
