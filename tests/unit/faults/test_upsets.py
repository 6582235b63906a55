"""Upsets of several neighbouring cells."""

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from resq_deploy.faults import upsets
from resq_deploy.faults.layout import WORD, Folded, Interleaved, Mapped, Run
from resq_deploy.faults.upsets import Pattern, pattern_of, struck

PATTERNS = (Pattern(1, 2, 0.6), Pattern(1, 3, 0.25), Pattern(2, 2, 0.15))


def test_patterns_occur_as_often_as_their_shares_say():
    found = Counter(pattern_of(PATTERNS, "w", bit) for bit in range(20_000))
    expected = [20_000 * pattern.share for pattern in PATTERNS]
    assert stats.chisquare([found[pattern] for pattern in PATTERNS], expected).pvalue > 0.001


def test_a_pattern_belongs_to_its_anchor():
    def drawn(tensor):
        return [pattern_of(PATTERNS, tensor, bit) for bit in range(50)]

    assert drawn("w") == drawn("w")
    assert drawn("w") != drawn("v")


def test_an_upset_strikes_neighbours_in_the_layout():
    words = Interleaved(bits=8 * WORD)
    assert struck(words, 70, Pattern(1, 3, 1.0)) == [70, 71, 72]
    apart = Interleaved(bits=8 * WORD, ways=4)
    assert struck(apart, 70, Pattern(1, 4, 1.0)) == [70, 70 + WORD, 70 + 2 * WORD, 7]
    row = np.arange(64)
    for anchor in row.tolist():
        _, columns = apart.cell(np.array(struck(apart, anchor, Pattern(1, 4, 1.0))))
        assert len(columns) == 4
        assert np.diff(columns).tolist() == [1, 1, 1]


def test_what_lies_beyond_the_edge_strikes_nothing():
    layout = Interleaved(bits=WORD)
    assert struck(layout, 62, Pattern(1, 4, 1.0)) == [62, 63]
    assert struck(layout, 0, Pattern(2, 2, 1.0)) == [0, 1]


def test_a_pattern_of_two_rows_strikes_what_lies_below():
    table = Mapped([Run(first=0, bytes=1, row=0, column=0), Run(first=512, bytes=1, row=1, column=4)])
    assert struck(table, 4, Pattern(2, 2, 1.0)) == [4, 5, 512, 513]
    assert struck(table, 3, Pattern(2, 2, 1.0)) == [3, 4, 512]
    assert struck(table, 100, Pattern(1, 2, 1.0)) == []
    assert struck(table, 100, Pattern(2, 6, 1.0)) == []  # and none of the cells that the corner would be next to


def test_a_pattern_has_as_many_cells_as_its_sides_say_where_there_are_rows_below():
    memory = Folded(bits=4 * WORD, width=WORD)
    assert struck(memory, 3, Pattern(1, 2, 1.0)) == [3, 4]
    assert struck(memory, 3, Pattern(2, 1, 1.0)) == [3, 67]
    assert struck(memory, 3, Pattern(2, 3, 1.0)) == [3, 4, 5, 67, 68, 69]
    assert struck(memory, 62, Pattern(2, 3, 1.0)) == [62, 63, 126, 127]


def test_a_number_beyond_the_last_share_is_the_last_pattern(monkeypatch):
    """Shares may sum to a little less than 1."""
    monkeypatch.setattr(upsets.draws, "uniforms", lambda *_: np.array([1.0 - 2.0**-53]))
    patterns = (Pattern(1, 2, 0.5), Pattern(1, 3, 0.5 - 1e-10))
    assert pattern_of(patterns, "w", 0) == patterns[1]


@pytest.mark.parametrize("share", [1.0, 0.999999999999])
def test_shares_that_round_leave_no_gap(share):
    patterns = (Pattern(1, 2, 0.0000000000005), Pattern(1, 3, share))
    assert {pattern_of(patterns, "w", bit).columns for bit in range(300)} == {3}
