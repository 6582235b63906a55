"""Whatever outputs are: golden against itself is masked, masked is never sdc, and parts of the samples add up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resq_deploy.faults.judges.quality import FIGURES, Contributions
from resq_deploy.faults.judges.registry import parse

SEEDS = st.integers(0, 2**32 - 1)
PIXELS = np.array([100, 100, 40, 40])


def numbers(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def predictions(rng, samples):
    """A YOLOv8 head of few distinct boxes and scores, so that there are ties."""
    head = rng.integers(0, 5, (samples, 7, 12)) / 5
    head[:, :4] *= PIXELS[:, None]
    return head.astype(np.float32)


def texts(rng, samples):
    return np.array([["cat", "dog", "eel"][kind] for kind in rng.integers(0, 3, samples)], dtype=object)


def boxes_of(rng, samples):
    corners = rng.integers(0, 100, (samples, 4, 5)).astype(float)
    corners[..., 0] = rng.integers(-1, 3, (samples, 4))
    return corners


TASKS = {
    "top1": (lambda rng, n: numbers(rng, n, 6), lambda rng, n: rng.integers(0, 6, n)),
    "binary": (lambda rng, n: numbers(rng, n, 2), lambda rng, n: rng.integers(0, 2, (n, 2))),
    "labels": (lambda rng, n: rng.integers(0, 3, n), lambda rng, n: rng.integers(0, 3, n)),
    "map:share=0.3": (lambda rng, n: numbers(rng, n, 3, 4, 4), lambda rng, n: rng.integers(-1, 3, (n, 4, 4))),
    "map:axis=-1": (lambda rng, n: numbers(rng, n, 5, 3), lambda rng, n: rng.integers(-1, 3, (n, 5))),
    "boxes:decode=yolov8": (predictions, boxes_of),
    "embedding": (lambda rng, n: numbers(rng, n, 4), lambda rng, n: numbers(rng, n, 4)),
    "values": (lambda rng, n: numbers(rng, n, 4), lambda rng, n: numbers(rng, n, 4)),
    "values:each=yes": (lambda rng, n: numbers(rng, n, 2, 2), lambda rng, n: numbers(rng, n, 2, 2)),
}
TASKS_OF_TEXT = {"labels": (texts, texts)}


def faulty_from(rng, golden):
    """Some samples as they were, some from others, some not finite where that is possible, golden ones among them."""
    golden, faulty = golden.copy(), golden.copy()
    count = len(golden)
    other = rng.random(count) < 0.5
    faulty[other] = golden[rng.integers(0, count, other.sum())]
    if golden.dtype.kind == "f":
        faulty[rng.random(count) < 0.3] *= np.float32(1.25)
        for outputs in (golden, faulty):
            where = rng.random(count) < 0.15
            outputs[where] = np.where(rng.random(outputs[where].shape) < 0.2, np.nan, outputs[where])
    return golden, faulty


def drawn(task, seed, samples=9):
    rng = np.random.default_rng(seed)
    make, label = task
    golden, faulty = faulty_from(rng, make(rng, samples))
    return {"y": golden}, {"y": faulty}, label(rng, samples)


CASES = [*TASKS.items(), *TASKS_OF_TEXT.items()]
IDS = [*TASKS, "labels-text"]


@pytest.mark.parametrize(("text", "task"), CASES, ids=IDS)
@settings(max_examples=40)
@given(seed=SEEDS, labelled=st.booleans())
def test_golden_is_masked_and_masked_is_no_sdc(text, task, seed, labelled):
    golden, faulty, labels = drawn(task, seed)
    judge = parse(text, ["y"]).settled(golden)
    bench = judge.on(golden, labels if labelled else None)
    itself, found = bench(golden), bench(faulty)
    assert itself.flags["masked"].tolist() == bench.usable.tolist()
    assert [name for name, flags in itself.flags.items() if flags.any() and name != "masked"] == []
    assert not any(amount.any() for amount in itself.amounts.values())
    steps = np.stack([found.flags[name] for name in ("masked", "benign", "sdc1")])
    assert steps.sum(axis=0).tolist() == bench.usable.astype(int).tolist()
    others = [flags for name, flags in found.flags.items() if name not in ("masked", "benign")]
    assert not (np.any(others, axis=0) & found.flags["masked"]).any()
    assert not (found.flags["nonfinite"] & ~found.flags["sdc1"]).any()
    assert set(found.flags) == set(judge.ladder(found.contributions is not None and labelled))
    for verdict in (itself, bench.golden):
        if verdict.contributions is not None:
            figure = FIGURES[judge.figure]
            assert figure(verdict.contributions) == figure(bench.golden.contributions)


@pytest.mark.parametrize(("text", "task"), CASES, ids=IDS)
@settings(max_examples=25)
@given(seed=SEEDS, order=st.permutations(range(9)), cut=st.integers(0, 9))
def test_parts_of_the_samples_add_up(text, task, seed, order, cut):
    golden, faulty, labels = drawn(task, seed)
    judge = parse(text, ["y"]).settled(golden)
    bench = judge.on(golden, labels)
    whole = bench(faulty)
    parts = [np.array(part, dtype=np.int64) for part in (order[:cut], order[cut:]) if len(part)]
    for make in (bench.among, lambda rows: judge.on({"y": golden["y"][rows]}, labels[rows])):
        found = [make(rows)({"y": faulty["y"][rows]}) for rows in parts]
        for rows, one in zip(parts, found, strict=True):
            for name, flags in whole.flags.items():
                assert one.flags[name].tolist() == flags[rows].tolist(), name
            for name, amount in whole.amounts.items():
                assert one.amounts[name].tolist() == amount[rows].tolist(), name
        if whole.contributions is not None:
            joined = Contributions.joined([one.contributions for one in found])
            right = whole.contributions.take(np.concatenate(parts))
            np.testing.assert_array_equal(joined.rows, right.rows)
            np.testing.assert_array_equal(joined.sample, right.sample)


@settings(max_examples=40)
@given(seed=SEEDS, order=st.permutations(range(12)))
def test_the_order_of_detections_changes_nothing(seed, order):
    rng = np.random.default_rng(seed)
    golden, faulty = predictions(rng, 3), predictions(rng, 3)
    judge = parse("boxes:decode=yolov8", ["y"]).settled({"y": golden})
    bench = judge.on({"y": golden}, boxes_of(rng, 3))
    assert not bench({"y": golden[..., order]}).flags["sdc1"].any()
    one, other = bench({"y": faulty}), bench({"y": faulty[..., order]})
    for name in judge.amounts:
        assert one.amounts[name].tolist() == other.amounts[name].tolist()
    np.testing.assert_array_equal(one.contributions.rows, other.contributions.rows)
