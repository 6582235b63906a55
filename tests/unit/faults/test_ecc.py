import numpy as np
import pytest

from resq_deploy.faults.ecc import secded


@pytest.mark.parametrize(
    ("bits", "left", "detected"),
    [
        pytest.param([], [], False, id="nothing"),
        pytest.param([3], [], False, id="one-corrected"),
        pytest.param([3, 63], [3, 63], True, id="two-in-a-word-detected"),
        pytest.param([63, 64], [], False, id="one-in-each-of-two-words"),
        pytest.param([0, 1, 2], [0, 1, 2], False, id="three-pass"),
        pytest.param([0, 1, 2, 130], [0, 1, 2], False, id="three-pass-and-one-is-corrected"),
        pytest.param([128, 159], [128, 159], True, id="short-last-word"),
    ],
)
def test_secded(bits, left, detected):
    mask = np.zeros(20, dtype=np.uint8)
    for bit in bits:
        mask[bit // 8] |= 1 << (bit % 8)
    after, found = secded(mask)
    assert np.flatnonzero(np.unpackbits(after, bitorder="little")).tolist() == left
    assert found == detected
    assert len(after) == 20
