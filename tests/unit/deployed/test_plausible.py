"""When an accuracy is warned about: near chance, or far below what the sidecar states."""

import numpy as np
import pytest

from resq_deploy.deployed.plausible import accuracy_warnings

TEN = [str(name) for name in range(10)]
EVEN = np.arange(1000) % 10
MOSTLY_ONE = (np.arange(1000) >= 950).astype(np.int64)


@pytest.mark.parametrize(
    ("right", "labels", "classes", "words"),
    [
        (98, EVEN, TEN, "9.8 % without any fault is near chance (one answer to all images: 10.0 %)"),
        (500, np.arange(1000) % 2, ["no", "yes"], "near chance (one answer to all images: 50.0 %)"),
        (950, MOSTLY_ONE, ["fine", "broken"], "near chance (one answer to all images: 95.0 %)"),
    ],
)
def test_near_chance(right, labels, classes, words):
    (line,) = accuracy_warnings(right, labels, classes)
    assert words in line
    assert "--mean and --std" in line
    assert "--channels bgr" in line


@pytest.mark.parametrize(
    ("right", "labels", "classes"),
    [
        (800, EVEN, TEN),
        (250, EVEN, TEN),
        (620, np.arange(1000) % 2, ["no", "yes"]),
        (990, MOSTLY_ONE, ["fine", "broken"]),
    ],
)
def test_believable(right, labels, classes):
    assert accuracy_warnings(right, labels, classes) == ()


def test_far_below_the_sidecar():
    (line,) = accuracy_warnings(800, EVEN, TEN, 0.92, 10_000)
    assert "is far below the 92.0 % of its sidecar" in line
    assert accuracy_warnings(890, EVEN, TEN, 0.92, 10_000) == ()
    assert accuracy_warnings(8, EVEN[:10], TEN, 0.92, 10_000) == (), "ten images tell nothing"
