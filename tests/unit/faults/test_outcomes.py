import numpy as np
import pytest

from resq_deploy.faults.outcomes import COUNTS, Judge, Outcome, are_probabilities, top1, top_confidence

GOLDEN = np.array([[3.0, 1.0, 0.5, 0.2, 0.1, 0.0, -1.0], [0.0, 2.0, 1.0, 0.5, 0.4, 0.3, 0.2]], dtype=np.float32)
LABELS = np.array([0, 0])  # the first image is answered right, the second wrong


def judged(row, image=0):
    """Judge one changed row, the other one as it was; return the flags of that image."""
    faulty = GOLDEN.copy()
    faulty[image] = row
    judgement = Judge(GOLDEN, LABELS)(faulty)
    return {name for name in COUNTS if judgement.flags[name][image]}, judgement


CONFIDENCE = {"sdc10", "sdc20", "sdc10_abs", "sdc20_abs"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param([3, 1, 0.5, 0.2, 0.1, 0, -1], {"masked"}, id="bit-equal"),
        pytest.param([3.0001, 1, 0.5, 0.2, 0.1, 0, -1], {"benign"}, id="hardly-moved"),
        pytest.param([2.2, 1, 0.5, 0.2, 0.1, 0, -1], {"benign"}, id="less-confident"),
        pytest.param([0.6, 0.5, 0.5, 0.2, 0.1, 0, -1], {"benign"}, id="hardly-confident"),
        pytest.param([3, 3.1, 0.5, 0.2, 0.1, 0, -1], {"sdc1", "corrupted"}, id="second-class-wins"),
        pytest.param([3, 1, 0.5, 0.2, 0.1, 0, 4], {"sdc1", "sdc5", "corrupted"}, id="last-class-wins"),
    ],
)
def test_ladder(row, expected):
    flags, _ = judged(row)
    assert flags - CONFIDENCE == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param([2.9, 1, 0.5, 0.2, 0.1, 0, -1], set(), id="under-ten-per-cent"),
        pytest.param([2.45, 1, 0.5, 0.2, 0.1, 0, -1], {"sdc10", "sdc10_abs"}, id="between"),
        pytest.param([0.6, 0.5, 0.5, 0.2, 0.1, 0, -1], CONFIDENCE, id="far"),
    ],
)
def test_confidence_is_held_against_the_golden_one(row, expected):
    flags, _ = judged(row)
    assert flags & CONFIDENCE == expected
    golden, faulty = (np.exp(np.float64(r)).max() / np.exp(np.float64(r)).sum() for r in (GOLDEN[0], row))
    assert ("sdc10" in flags) == (abs(faulty - golden) > 0.1 * golden)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_every_kind_of_sdc(broken):
    flags, judgement = judged([broken, 1, 0.5, 0.2, 0.1, 0, -1])
    assert flags == {"sdc1", "sdc5", "sdc10", "sdc20", "sdc10_abs", "sdc20_abs", "nonfinite", "corrupted"}
    assert not judgement.right[0]


def test_wrong_to_right_is_corrected():
    flags, judgement = judged([5, 2, 1, 0.5, 0.4, 0.3, 0.2], image=1)
    assert "corrected" in flags
    assert "corrupted" not in flags
    assert judgement.right.all()


def test_negative_zero_is_not_masked():
    golden = np.array([[0.0, 1.0]], dtype=np.float32)
    judgement = Judge(golden, np.array([1]))(np.array([[-0.0, 1.0]], dtype=np.float32))
    assert judgement.outcome is Outcome.BENIGN


def test_ties_go_to_the_lowest_index():
    assert top1(np.array([[1.0, 2.0, 2.0]], dtype=np.float32)).tolist() == [1]
    # Golden order with ties: class 0, then 1 ... 5; the sixth of equals is outside the golden top 5.
    golden = np.zeros((1, 7), dtype=np.float32)
    judge = Judge(golden, np.array([0]))
    for winner, outside in ((4, False), (5, True)):
        faulty = golden.copy()
        faulty[0, winner] = 1
        assert judge(faulty).flags["sdc5"][0] == outside


def test_counts_add_up_and_outcome_is_the_worst():
    rng = np.random.default_rng(0)
    golden = rng.normal(size=(200, 10)).astype(np.float32)
    faulty = golden + (rng.random((200, 1)) < 0.5) * rng.normal(size=(200, 10)).astype(np.float32)
    judgement = Judge(golden, rng.integers(0, 10, 200))(faulty.astype(np.float32))
    counts = judgement.counts
    assert counts["masked"] + counts["benign"] + counts["sdc1"] == 200
    assert counts["corrected"] + counts["corrupted"] <= counts["sdc1"]
    assert judgement.outcome is Outcome.SDC1
    assert Judge(golden, np.zeros(200, int))(golden).outcome is Outcome.MASKED


def test_outputs_that_are_probabilities_are_not_softmaxed_again():
    probabilities = np.array([[0.7, 0.3], [0.2, 0.8]], dtype=np.float32)
    assert are_probabilities(probabilities)
    assert top_confidence(probabilities, True).tolist() == pytest.approx([0.7, 0.8])
    assert not are_probabilities(GOLDEN)
    assert top_confidence(GOLDEN, False)[0] == pytest.approx(np.exp(3) / np.exp(GOLDEN[0].astype(float)).sum())
