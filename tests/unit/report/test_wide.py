"""Rows that say nothing are folded away, not left to be read as findings."""

from resq_deploy.report.document import Table
from resq_deploy.report.wide import folded_where_wide

TABLE = Table(headers=["layer", "SDC-1"], rows=[["a", "1 %"], ["b", "40 %"], ["c", "-"]])


def estimate(low, high):
    return {"value": low, "low": low, "high": high, "n": 3, "confidence": 0.95}


def test_rows_of_which_every_interval_is_wide_are_folded_away():
    wide, narrow = estimate(0.1, 0.61), estimate(0.1, 0.6)
    kept, few = folded_where_wide(TABLE, [[wide, narrow], [wide, None], [None, None]], "faults")
    assert [row[0] for row in kept.rows] == ["a", "c"]
    assert not kept.folded
    assert [row[0] for row in few.rows] == ["b"]
    assert few.folded == "1 of 3 rows: too few faults to tell (intervals wider than 50 points)"


def test_a_lower_end_alone_reaches_up_to_all():
    known = {"value": None, "low": 0.2, "high": None, "n": 3, "confidence": 0.95}
    (few,) = folded_where_wide(Table(headers=["a"], rows=[["x"]], folded="All"), [[known]], "faults")
    assert few.folded.startswith("All; 1 of 1 rows: too few faults")


def test_a_table_that_says_something_stays_as_it_is():
    assert folded_where_wide(TABLE, [[estimate(0.1, 0.2)]] * 3, "faults") == [TABLE]
