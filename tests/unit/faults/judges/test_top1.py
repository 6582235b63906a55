import numpy as np
import pytest

from resq_deploy.errors import DataError, ModelError
from resq_deploy.faults import outcomes
from resq_deploy.faults.judges.registry import parse
from resq_deploy.faults.outcomes import COUNTS, Outcome

RNG = np.random.default_rng(22)
LOGITS = RNG.normal(size=(60, 7)).astype(np.float32)
SOFTMAX = (np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)).astype(np.float32)
LABELS = RNG.integers(0, 7, 60)


def spoiled(golden):
    faulty = golden.copy()
    faulty[:20] += RNG.normal(size=(20, *golden.shape[1:])).astype(golden.dtype)
    faulty[20, 3], faulty[21, 0] = np.nan, np.inf
    faulty[22] = -faulty[22]
    return faulty


def bench(golden, labels=LABELS, text="top1"):
    judge = parse(text, ["scores"])
    return judge.settled({"scores": golden}).on({"scores": golden}, labels)


@pytest.mark.parametrize("golden", [LOGITS, SOFTMAX], ids=["logits", "softmax"])
@pytest.mark.parametrize("shape", [(60, 7), (60, 7, 1, 1), (60, 1, 7)], ids=str)
def test_every_flag_is_that_of_the_ladder(golden, shape):
    faulty = spoiled(golden)
    known = outcomes.Judge(golden, LABELS)(faulty)
    found = bench(golden.reshape(shape))({"scores": faulty.reshape(shape)})
    assert tuple(found.flags) == COUNTS
    for name in COUNTS:
        np.testing.assert_array_equal(found.flags[name], known.flags[name], err_msg=name)
    np.testing.assert_array_equal(found.right, known.right)
    assert (found.outcome, found.counts) == (known.outcome, known.counts)


def test_chunks_are_read_as_the_whole_was():
    # One row of the logits happens to be a distribution; by itself it would be taken for one.
    golden = np.concatenate([SOFTMAX[:1], LOGITS[1:]])
    faulty = golden + np.float32(0.1) * (np.arange(7) == 0)
    judge = parse("top1", ["scores"]).settled({"scores": golden})
    whole = judge.on({"scores": golden}, LABELS)({"scores": faulty})
    chunk = judge.on({"scores": golden[:1]}, LABELS[:1])({"scores": faulty[:1]})
    for name in COUNTS:
        assert chunk.flags[name][0] == whole.flags[name][0], name


def test_without_labels_nothing_is_said_of_right_answers():
    found = bench(LOGITS, None)({"scores": spoiled(LOGITS)})
    assert set(COUNTS) - set(found.flags) == {"corrected", "corrupted"}
    assert found.right is None
    assert found.contributions is None


def test_integer_scores_have_no_confidence():
    golden = np.array([[10, 200, 30], [5, 6, 7]], dtype=np.uint8)
    faulty = np.array([[10, 90, 30], [9, 6, 7]], dtype=np.uint8)
    found = bench(golden, np.array([1, 2]))({"scores": faulty})
    assert not [name for name in found.flags if name.startswith(("sdc10", "sdc20"))]
    assert found.flags["sdc1"].tolist() == [False, True]
    assert found.flags["benign"].tolist() == [True, False]


def test_a_difference_below_float32_is_benign():
    golden = np.array([[0.25, 0.75]])
    faulty = golden.copy()
    faulty[0, 0] = np.nextafter(0.25, 1)
    found = bench(golden, np.array([1]))({"scores": faulty})
    assert found.outcome is Outcome.BENIGN
    assert not found.flags["masked"].any()


def test_golden_outputs_that_are_not_finite_are_set_aside():
    golden = LOGITS.copy()
    golden[[3, 40], 0] = np.nan, np.inf
    faulty = spoiled(golden)
    kept = np.delete(np.arange(60), [3, 40])
    judge = bench(golden)
    found = judge({"scores": faulty})
    assert np.flatnonzero(~judge.usable).tolist() == [3, 40]
    assert sum(found.counts[name] for name in ("masked", "benign", "sdc1")) == 58
    known = outcomes.Judge(golden[kept], LABELS[kept])(faulty[kept])
    assert found.counts == known.counts
    assert not any(flags[[3, 40]].any() for flags in found.flags.values())


@pytest.mark.parametrize("shape", [(4, 84, 8400), (4, 1), (4,), (4, 3, 8, 8)], ids=str)
def test_what_is_no_row_of_scores_is_refused(shape):
    golden = {"scores": np.zeros(shape, dtype=np.float32)}
    with pytest.raises(ModelError, match=r"one row of two or more scores.*give another --judge"):
        parse("top1", ["scores"]).settled(golden)


def test_labels_must_be_classes():
    with pytest.raises(DataError, match="one class a sample"):
        bench(LOGITS, np.zeros((60, 7)))
