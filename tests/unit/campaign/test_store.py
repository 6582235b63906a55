import sqlite3
import sys

import pytest

from resq_deploy.campaign.record import Record
from resq_deploy.campaign.store import FILE, Store
from resq_deploy.errors import RunFolderError
from resq_deploy.faults.outcomes import COUNTS, Outcome


def record(number):
    counts = dict.fromkeys(COUNTS, 0)
    figures = {"images": 8, "counts": counts, "accuracy": 0.5, "logits": "", "right": b"\xf0", "changed": 1}
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
