"""What holds of every judge on its golden outputs: it can be sent elsewhere, and it does without a usable sample."""

import pickle

import numpy as np
import pytest

from resq_deploy.faults.gaps import BEYOND, gaps, scales
from resq_deploy.faults.judges.outputs import finite, pieces, ragged, same
from resq_deploy.faults.judges.quality import FIGURES
from resq_deploy.faults.judges.registry import parse
from resq_deploy.faults.judges.verdict import Verdict

RNG = np.random.default_rng(3)
HEAD = RNG.random((4, 7, 30)) * np.array([300, 300, 40, 40, 1, 1, 1])[:, None]
TASKS = {
    "top1": (RNG.normal(size=(4, 5)), RNG.integers(0, 5, 4)),
    "binary": (RNG.normal(size=(4, 1)), RNG.integers(0, 2, 4)),
    "labels": (RNG.integers(0, 3, 4).astype(np.float32), RNG.integers(0, 3, 4)),
    "map": (RNG.normal(size=(4, 3, 6, 6)), RNG.integers(0, 3, (4, 6, 6))),
    "boxes:decode=yolov8": (HEAD, np.tile([[0, 10.0, 10, 40, 40]], (4, 1, 1))),
    "boxes:decode=detr": ({"b": RNG.random((4, 9, 4)), "l": RNG.normal(size=(4, 9, 3))}, np.full((4, 1, 5), -1)),
    "embedding": (RNG.normal(size=(4, 8)), RNG.normal(size=(4, 8))),
    "values": (RNG.normal(size=(4, 8)), RNG.normal(size=(4, 8))),
    "values:norm=max": (ragged([np.ones(size) for size in (1, 2, 3, 4)]), None),
}


def set_up(text, *, broken=()):
    values, labels = TASKS[text]
    outputs = values if isinstance(values, dict) else {"y": values}
    golden = {name: one.copy() if one.dtype == object else one.astype(np.float32) for name, one in outputs.items()}
    for row in broken:
        for one in golden.values():
            one[row] = np.full_like(one[row], np.nan)
    return golden, parse(text, list(golden)).settled(golden), labels


@pytest.mark.parametrize("text", TASKS)
def test_a_bench_can_be_sent_to_a_worker(text):
    golden, judge, labels = set_up(text)
    bench = judge.on(golden, labels)
    faulty = {name: values[::-1].copy() for name, values in golden.items()}
    one, other = bench(faulty), pickle.loads(pickle.dumps(bench))(faulty)
    assert one.counts == other.counts
    assert one.totals == other.totals
    if one.contributions is not None:
        assert one.contributions.to_bytes() == other.contributions.to_bytes()


@pytest.mark.parametrize("text", TASKS)
def test_what_is_known_of_differences_changes_no_verdict(text):
    golden, judge, labels = set_up(text)
    bench = judge.on(golden, labels)
    faulty = {name: values.copy() for name, values in golden.items()}
    for values in faulty.values():
        values[1] = -values[1]
        for row, wrong in ((2, np.nan), (3, np.inf)):
            values[row] = np.full_like(values[row], wrong)
    codes = gaps(golden, faulty, scales(golden), np.flatnonzero(~same(golden, faulty)))
    assert codes[0] == 0
    assert set(codes[2:]) == {BEYOND}
    known, unknown = bench(faulty, codes), bench(faulty)
    assert known.flags["nonfinite"].tolist() == [False, False, True, True]
    assert {name: flags.tolist() for name, flags in known.flags.items()} == {
        name: flags.tolist() for name, flags in unknown.flags.items()
    }
    assert known.totals == unknown.totals


@pytest.mark.parametrize("text", TASKS)
def test_without_a_usable_sample_there_is_nothing_to_count(text):
    golden, judge, labels = set_up(text, broken=range(4))
    bench = judge.on(golden, labels)
    found = bench(golden)
    assert not bench.usable.any()
    assert set(found.counts.values()) == {0}
    if found.contributions is not None:
        assert FIGURES[judge.figure](found.contributions) is None


@pytest.mark.parametrize("text", TASKS)
def test_a_sample_set_aside_changes_nothing_of_the_others(text):
    golden, judge, labels = set_up(text)
    whole = judge.on(golden, labels)
    broken, _, _ = set_up(text, broken=[1])
    bench = judge.on(broken, labels)
    faulty = {name: values[::-1].copy() for name, values in golden.items()}
    kept = np.array([0, 2, 3])
    assert bench.usable.tolist() == [True, False, True, True]
    one, other = whole(faulty), bench(faulty)
    for name, flags in other.flags.items():
        assert flags[kept].tolist() == one.flags[name][kept].tolist()
        assert not flags[1]
    assert bench.among(np.array([1])).golden.counts["masked"] == 0


def test_ragged_samples_are_compared_by_type_shape_and_bits():
    known = ragged([np.ones(2), np.ones(2), np.zeros(1), np.ones(1, np.float32)])
    found = ragged([np.ones(2), np.ones((1, 2)), -np.zeros(1), np.ones(1)])
    assert same({"y": known}, {"y": found}).tolist() == [True, False, False, False]
    assert finite({"y": ragged([np.array([1, np.inf]), np.array([1])])}).tolist() == [False, True]


def test_outputs_in_pieces_are_judged_as_a_whole():
    """Pieces are views, as many samples as fit; verdicts on them join to that on all."""
    source = np.random.default_rng(3)
    golden = {"y": source.normal(size=(9, 400, 300)).astype(np.float32)}
    faulty = {"y": golden["y"] * (1 + 0.2 * (source.random((9, 1, 1)) < 0.5)).astype(np.float32)}
    parts = pieces(faulty)
    assert [len(part["y"]) for part in parts] == [4, 4, 1]
    assert all(np.shares_memory(part["y"], faulty["y"]) for part in parts)
    judge = parse("values:bound=0.1", ["y"]).settled(golden)
    bench = judge.on(golden, golden["y"])
    starts = np.cumsum([0, *(len(part["y"]) for part in parts)])
    whole = bench(faulty)
    joined = Verdict.joined(
        [bench.among(np.arange(a, b))(part) for part, a, b in zip(parts, starts, starts[1:], strict=False)]
    )
    assert 0 < whole.counts["sdc1"] < 9
    assert {name: flags.tolist() for name, flags in joined.flags.items()} == {
        name: flags.tolist() for name, flags in whole.flags.items()
    }
    assert joined.right.tolist() == whole.right.tolist()
    assert joined.contributions.rows.tolist() == whole.contributions.rows.tolist()
    assert [len(part["y"]) for part in pieces({"y": golden["y"][:1]})] == [1]
