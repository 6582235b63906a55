"""Which stored bits are neighbours: every layout is a map of cells, one to one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resq_deploy.faults.layout import WORD, Folded, Interleaved, Mapped, Memory, Run


def cells(layout, addresses):
    row, column = layout.cell(np.asarray(addresses, dtype=np.int64))
    return list(zip(row.tolist(), column.tolist(), strict=True))


def addresses(layout, places):
    row, column = (np.array(part, dtype=np.int64) for part in zip(*places, strict=True))
    return layout.address(row, column).tolist()


@given(words=st.integers(1, 20), ways=st.integers(1, 8))
def test_interleaving_is_one_to_one_and_there_and_back(words, ways):
    layout = Interleaved(bits=words * WORD, ways=ways)
    every = list(range(words * WORD))
    places = cells(layout, every)
    assert {row for row, _ in places} == {0}
    assert len({column for _, column in places}) == len(every)
    assert addresses(layout, places) == every


@given(blocks=st.integers(1, 4), ways=st.integers(2, 8), left=st.integers(0, 7), data=st.data())
def test_neighbouring_cells_belong_to_different_words(blocks, ways, left, data):
    layout = Interleaved(bits=(blocks * ways + min(left, ways - 1)) * WORD, ways=ways)
    first = data.draw(st.integers(0, blocks * ways * WORD - ways))
    found = addresses(layout, [(0, column) for column in range(first, first + ways)])
    assert len({address // WORD for address in found}) == len(found)


def test_words_one_behind_the_other_have_the_neighbours_of_the_file():
    layout = Interleaved(bits=2 * WORD)
    assert cells(layout, [0, 63, 64]) == [(0, 0), (0, 63), (0, 64)]
    assert cells(layout, [-1, 2 * WORD]) == [(-1, -1), (-1, -1)]
    assert addresses(layout, [(0, 2 * WORD), (1, 0), (0, -1)]) == [-1, -1, -1]


def test_four_words_are_interleaved_bit_by_bit_and_cells_between_the_last_hold_nothing():
    layout = Interleaved(bits=6 * WORD, ways=4)
    assert addresses(layout, [(0, column) for column in range(5)]) == [0, 64, 128, 192, 1]
    last = [(0, 4 * WORD + column) for column in range(5)]
    assert addresses(layout, last) == [4 * WORD, 5 * WORD, -1, -1, 4 * WORD + 1]
    assert addresses(layout, [(0, 8 * WORD - 4), (0, 8 * WORD)]) == [5 * WORD - 1, -1]


@given(words=st.integers(1, 9), width=st.integers(1, 300))
def test_rows_of_a_width_hold_every_bit_once_by_rows_and_by_columns(words, width):
    layout = Folded(bits=words * WORD, width=width)
    every = list(range(words * WORD))
    assert addresses(layout, cells(layout, every)) == every
    assert np.concatenate([layout.in_row(row) for row in layout.rows()]).tolist() == every
    assert all(len(layout.in_row(row)) for row in layout.rows())  # and there are no more
    by_column = [layout.in_column(column) for column in layout.columns()]
    assert sorted(np.concatenate(by_column).tolist()) == every
    for column, held in enumerate(by_column):
        assert {place[1] for place in cells(layout, held)} == {column}
    last = (len(layout.rows()) - 1, width - 1)
    assert addresses(layout, [last, (0, width), (-1, 0), (0, -1)])[1:] == [-1, -1, -1]
    beyond = divmod(words * WORD, width)  # the first cell that holds nothing
    assert addresses(layout, [beyond]) == [-1]
    assert cells(layout, [-1, words * WORD]) == [(-1, -1)] * 2


RUNS = (
    Run(first=0, bytes=2, row=5, column=8),
    Run(first=64, bytes=1, row=5, column=24),
    Run(first=16, bytes=1, row=6, column=8),
)


def test_a_table_puts_bytes_where_it_says():
    layout = Mapped(RUNS)
    assert cells(layout, [0, 15, 16, 23, 64, 71]) == [(5, 8), (5, 23), (6, 8), (6, 15), (5, 24), (5, 31)]
    assert cells(layout, [24, 63, 72]) == [(-1, -1)] * 3
    assert addresses(layout, [(5, 8), (5, 23), (5, 24), (6, 15)]) == [0, 15, 64, 23]
    assert addresses(layout, [(5, 7), (5, 32), (6, 16), (7, 8), (4, 8)]) == [-1] * 5


def test_lines_of_a_table():
    layout = Mapped(RUNS)
    assert layout.rows().tolist() == [5, 6]
    assert layout.columns().tolist() == list(range(8, 32))
    assert layout.in_row(5).tolist() == [*range(16), *range(64, 72)]
    assert layout.in_column(8).tolist() == [0, 16]
    assert layout.in_column(24).tolist() == [64]


@pytest.mark.parametrize(
    ("run", "what"),
    [
        (Run(first=8, bytes=1, row=9, column=0), (0, 3, "bytes")),
        (Run(first=128, bytes=1, row=5, column=31), (1, 3, "cells")),
        (Run(first=128, bytes=2, row=6, column=0), (2, 3, "cells")),
    ],
    ids=["a byte twice", "the last cell again", "the first cell again"],
)
def test_nothing_lies_in_two_places(run, what):
    with pytest.raises(ValueError, match=what[2]) as caught:
        Mapped([*RUNS, run])
    assert caught.value.args == what


def test_runs_may_touch():
    Mapped([*RUNS, Run(first=24, bytes=1, row=6, column=16), Run(first=128, bytes=1, row=5, column=0)])


def test_every_tensor_begins_at_a_word_of_its_own():
    memory = Memory({"a": 8, "b": 65, "c": 64})
    assert memory.bits == 4 * WORD
    assert [memory.address(name, 0) for name in "abc"] == [0, 64, 192]
    assert memory.address("b", 64) == 128
    assert memory.split([0, 7, 8, 63, 64, 128, 129, 192, 255, 256, -1]) == {"a": [0, 7], "b": [0, 64], "c": [0, 63]}


def test_bits_are_told_in_the_order_in_which_they_are_met():
    memory = Memory({"a": 8, "b": 65, "c": 64})
    found = memory.split([192, 129, 128, 0, 64, 193])
    assert found == {"c": [0, 1], "b": [64, 0], "a": [0]}
    assert list(found) == ["c", "b", "a"]
    assert memory.split([]) == {}
    assert {type(bit) for bits in found.values() for bit in bits} == {int}
