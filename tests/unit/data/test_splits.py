import numpy as np
import pytest

from resq_deploy.data.splits import permutation, split_off


def test_permutation_is_the_same_for_ever():
    assert permutation(8, 0).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_permutation_holds_every_index_once(count):
    assert sorted(permutation(count, 3).tolist()) == list(range(count))


def test_permutation_depends_on_the_seed():
    assert permutation(100, 0).tolist() != permutation(100, 1).tolist()


@pytest.mark.parametrize(
    ("counts", "part"),
    [
        pytest.param([100, 50], [10, 5], id="a tenth of every class"),
        pytest.param([3, 2], [1, 1], id="at least one"),
        pytest.param([1, 20], [0, 2], id="a single image stays in the rest"),
        pytest.param([1, 1], [0, 0], id="nothing to spare"),
    ],
)
def test_split_off_takes_its_share_of_every_class(counts, part):
    labels = np.repeat(np.arange(len(counts)), counts)
    rest, taken = split_off(labels, 0.1, 7)
    assert np.bincount(labels[taken], minlength=len(counts)).tolist() == part
    assert sorted([*rest.tolist(), *taken.tolist()]) == list(range(len(labels)))
