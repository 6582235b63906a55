"""Which way struck cells turn: a function of the cell, and of nothing that is drawn beside it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resq_deploy.faults.cells import ByRows, Direction, Drawn, Strikes, Tabled, TrueCells
from resq_deploy.faults.fault import Op
from resq_deploy.faults.layout import Folded, Mapped, Memory, Run

SHARES = st.sampled_from([0.0, 0.3, 0.5, 1.0])
BITS = st.lists(st.integers(0, 2**40), unique=True, max_size=40).map(lambda bits: np.array(bits, dtype=np.int64))


def ways(edits, width):
    """What each bit becomes, by its place in the tensor's string of bits."""
    return {
        int(index) * width + int(bit): edit.op
        for edit in edits
        for index, bit in zip(edit.index, edit.bit, strict=True)
    }


@given(bits=BITS, falling=SHARES, true=st.none() | SHARES, seed=st.integers(0, 9), width=st.sampled_from([1, 8, 32]))
def test_every_strike_has_one_way_whatever_is_struck_beside_it(bits, falling, true, seed, width):
    strikes = Strikes(Direction(falling), None if true is None else Drawn(true, seed))
    edits = strikes.edits("w", bits, width, seed)
    assert len({edit.op for edit in edits}) == len(edits) <= 2
    found = ways(edits, width)
    assert sorted(found) == sorted(bits.tolist())
    assert set(found.values()) <= {Op.SET0, Op.SET1}
    for bit in bits.tolist():
        assert ways(strikes.edits("w", np.array([bit]), width, seed), width) == {bit: found[bit]}


@given(bits=BITS, falling=SHARES, true=SHARES)
def test_in_anti_cells_all_goes_the_other_way(bits, falling, true):
    mixed, every = Strikes(Direction(falling), Drawn(true, 1)), Strikes(Direction(falling))
    differs = mixed.falls("w", bits, 1) != every.falls("w", bits, 1)
    assert (differs == ~Drawn(true, 1)("w", bits)).all()


@given(bits=BITS, seed=st.integers(0, 9))
def test_without_a_direction_whatever_is_held_flips(bits, seed):
    (edit,) = Strikes().edits("w", bits, 8, seed)
    assert (edit.op, (edit.index * 8 + edit.bit).tolist()) == (Op.FLIP, bits.tolist())


@pytest.mark.parametrize(
    ("direction", "true", "op"),
    [
        (Direction.DOWN, 1.0, Op.SET0),
        (Direction.DOWN, 0.0, Op.SET1),
        (Direction.UP, 1.0, Op.SET1),
        (Direction.UP, 0.0, Op.SET0),
    ],
    ids=["true cells lose", "anti cells lose", "true cells gain", "anti cells gain"],
)
def test_a_true_cell_that_loses_its_charge_reads_0_and_an_anti_cell_1(direction, true, op):
    (edit,) = Strikes(direction, Drawn(true, 0)).edits("w", np.arange(50), 8, 0)
    assert edit.op is op


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_shares_are_kept_to_and_belong_to_tensor_and_seed(share):
    """Of 20,000 bits; 5 sigma."""
    bits = np.arange(20_000)
    found = [
        Strikes(Direction(share)).falls("w", bits, 0),
        Strikes(Direction(share)).falls("w", bits, 1),
        Strikes(Direction(share)).falls("v", bits, 0),
        Drawn(share, 0)("w", bits),
        Drawn(share, 1)("w", bits),
        Drawn(share, 0)("v", bits),
    ]
    within = 5 * np.sqrt(share * (1 - share) / len(bits))
    assert all(abs(one.mean() - share) < within for one in found)
    alike = share**2 + (1 - share) ** 2  # of two that know nothing of each other
    for place, one in enumerate(found):
        for other in found[:place]:
            assert abs((one == other).mean() - alike) < 5 * np.sqrt(alike * (1 - alike) / len(bits))


def test_more_true_cells_are_those_of_fewer_and_others():
    bits = np.arange(1000)
    assert not (Drawn(0.3, 0)("w", bits) & ~Drawn(0.6, 0)("w", bits)).any()


def test_rows_are_of_one_kind_by_turns():
    memory = Memory({"w": 64, "v": 40})
    true = ByRows(memory, Folded(bits=memory.bits, width=16), 2)
    assert true("w", np.arange(64)).tolist() == [True] * 32 + [False] * 32
    assert true("v", np.array([39, 0, 31, 32])).tolist() == [False, True, True, False]


def test_a_table_says_of_each_run_what_its_cells_are():
    memory = Memory({"w": 16, "v": 8})
    runs = [
        Run(first=64, bytes=1, row=0, column=0, true=True),
        Run(first=8, bytes=1, row=1, column=0, true=True),
        Run(first=0, bytes=1, row=2, column=0, true=False),
    ]
    layout = Mapped(runs)
    assert layout.has_kinds
    assert not Mapped([Run(first=0, bytes=1, row=0, column=0)]).has_kinds
    true = Tabled(memory, layout)
    assert true("w", np.arange(16)).tolist() == [False] * 8 + [True] * 8
    assert true("v", np.arange(8)).tolist() == [True] * 8
    assert layout.true(np.array([63, 72, -1])).tolist() == [False] * 3  # where there is no cell


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Direction.BOTH, "both"),
        (Direction.UP, "0to1"),
        (Direction.DOWN, "1to0"),
        (Direction(0.8), "1to0:0.8"),
        (TrueCells(share=0.5), "0.5"),
        (TrueCells(share=0.0), "0.0"),
        (TrueCells(rows=512), "rows:512"),
    ],
)
def test_what_was_asked_for_is_told_as_it_is_given(value, text):
    assert str(value) == text
