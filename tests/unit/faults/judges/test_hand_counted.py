"""For each judge outputs whose sdc1, counted by hand, is neither what top1 nor what values would say."""

import numpy as np
import pytest

from resq_deploy.faults import outcomes
from resq_deploy.faults.judges.registry import parse


def one_sigmoid():
    """Two answers change sides, one of them by very little; one becomes a little less certain."""
    golden = np.array([[0.51], [0.9], [0.99], [0.1]])
    return golden, np.array([[0.49], [0.4], [0.95], [0.1]]), [True, True, False, False]


def classes():
    """Class 100 becomes 101, a hundredth of its number; 1 becomes 2."""
    return np.array([[100], [1], [7]]), np.array([[101], [2], [7]]), [True, True, False]


def segmentation():
    """A fifth of the pixels of the first picture changes class by a hair's breadth; the second's scores are doubled."""
    golden = np.zeros((4, 2, 10, 10))
    golden[:, 0], golden[:, 1] = 1.0, 0.999
    golden[:, 0, 9, 9] = 5  # what a classifier would call the answer
    faulty = golden.copy()
    faulty[0, 1, :2] = 1.001
    faulty[1] *= 2
    faulty[2:, 1, 0, 0] = 9  # one pixel of a hundred
    return golden, faulty, [True, False, False, False]


def detector():
    """A ghost from one score; a size that no detection has; a detection whose score falls from 0.9 to 0.3."""
    golden = np.zeros((4, 6, 50))
    golden[:, :4] = np.array([50, 50, 20, 20])[:, None] + 30.0 * np.arange(50)
    golden[:, 4, 0] = 0.9
    faulty = golden.copy()
    faulty[0, 5, 30] = 0.8
    faulty[1, 3, 10] = 9000
    faulty[2, 4, 0] = 0.3
    faulty[3, 4, 0] = 0.2
    return golden, faulty, [True, False, False, True]


def embedding():
    """A vector four times as long; one turned by 37 degrees; two that are hardly turned, but over a diagonal."""
    golden = np.array([[0.8, 0.6], [0.8, 0.6], [0.71, 0.7], [0.71, 0.7]])
    return golden, np.array([[3.2, 2.4], [1.0, 0.0], [0.7, 0.71], [0.7, 0.71]]), [False, True, False, False]


def mask():
    """Numbers of which another one is the largest by little, twice, and some of which all but the largest is gone."""
    golden = np.full((3, 3), [1.0, 0.99, 0.98])
    return golden, np.array([[1.0, 1.01, 0.98], [1.0, 1.02, 0.98], [1.0, 0.0, 0.0]]), [False, False, True]


def classifier():
    """Scores that are all twice as large, and a winner by a hair's breadth."""
    golden = np.array([[1.0, 0.99, 0.0], [2.0, 0.0, 0.0], [1.0, 0.99, 0.0]])
    return golden, np.array([[2.0, 1.98, 0.0], [4.0, 0.0, 0.0], [0.98, 0.99, 0.0]]), [False, False, True]


CASES = {
    "top1": classifier,
    "binary": one_sigmoid,
    "labels": classes,
    "map": segmentation,
    "boxes:decode=yolov8": detector,
    "embedding": embedding,
    "values": mask,
}


@pytest.mark.parametrize("text", CASES)
def test_by_hand(text):
    golden, faulty, sdc1 = CASES[text]()
    if golden.dtype.kind == "f":
        golden, faulty = golden.astype(np.float32), faulty.astype(np.float32)

    def says(name):
        judge = parse(name, ["y"]).settled({"y": golden})
        return judge.on({"y": golden}, None)({"y": faulty}).flags["sdc1"].tolist()

    assert says(text) == sdc1
    rows = [one.reshape(len(one), -1).astype(np.float32) for one in (golden, faulty)]
    classified = outcomes.Judge(rows[0], np.zeros(len(golden), dtype=int))(rows[1]).flags["sdc1"].tolist()
    for name, other in (("top1", classified), ("values", says("values"))):
        if name != text:
            assert sum(other) != sum(sdc1), name
