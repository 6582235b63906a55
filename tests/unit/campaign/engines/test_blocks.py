"""Arrays that are held in few large blocks."""

import numpy as np
import pytest

from resq_deploy.campaign.engines import blocks
from resq_deploy.campaign.engines.blocks import Blocks


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK", 1000)


def test_copies_are_what_was_given_whatever_becomes_of_that_and_share_blocks(small):
    rng = np.random.default_rng(0)
    given = [rng.integers(0, 256, size, dtype=np.uint8) for size in (1, 7, 64, (3, 5), (0, 4), 900, 2000, ())]
    given += [rng.normal(size=(2, 3)), rng.normal(size=4).astype(np.float32), np.array([True, False])]
    given += [rng.normal(size=(4, 6)).T, rng.integers(0, 9, (5, 8))[:, ::2]]
    wanted, held = [array.copy() for array in given], Blocks()
    copies = [held.copy(array) for array in given]
    for array in given:
        array[...] = 0
    for copy, array in zip(copies, wanted, strict=True):
        assert (copy.dtype, copy.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(copy, array)
        assert copy.flags.aligned
        assert copy.flags.c_contiguous
    assert copies[0].base is copies[1].base is not None
    assert copies[5].base is not copies[0].base  # 900 bytes have no room behind the first


def test_what_is_held_cannot_be_written_to(small):
    copy = Blocks().copy(np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        copy[0] = 1


def test_objects_stay_as_they_are(small):
    text = np.array(["a", "b"], dtype=object)
    assert Blocks().copy(text) is text
