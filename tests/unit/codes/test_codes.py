"""The codes as matrices: what their columns must be for what they correct and detect, by trying all."""

import itertools

import numpy as np
import pytest

from resq_deploy.codes.bch import half_roots, powers
from resq_deploy.codes.code import inverse
from resq_deploy.codes.known import known_code

CODES = {"secded": ("secded", 7), "dected": ("dected", 7), "dected-6": ("dected", 6)}


@pytest.fixture(params=CODES)
def code(request):
    return known_code(*CODES[request.param])


def columns(code):
    return np.array([column for column in code.columns if column])


@pytest.mark.parametrize(
    ("name", "block", "data", "checks", "idle"),
    [("secded", 64, 56, 8, 0), ("dected", 128, 112, 15, 1), ("dected-6", 64, 48, 13, 3)],
    ids=CODES,
)
def test_every_bit_of_a_word_has_one_use(name, block, data, checks, idle):
    code = known_code(*CODES[name])
    assert code.name == name
    assert code.block == block == data + checks + idle
    assert (len(code.data), len(code.checks), len(code.idle)) == (data, checks, idle)
    assert sorted([*code.data, *code.checks, *code.idle]) == list(range(block))
    assert all(code.columns[bit] for bit in (*code.data, *code.checks))


def test_secded_is_hsiaos():
    code = known_code("secded")
    assert sorted(code.columns[bit] for bit in code.checks) == [1 << place for place in range(8)]
    of_data = [code.columns[bit] for bit in code.data]
    assert sorted(of_data) == [column for column in range(256) if column.bit_count() == 3]
    assert code.parity_check.sum(axis=1).tolist() == [22] * 8


def sums_of(some, count):
    """All sums over GF(2) of so many different columns."""
    picked = np.array(list(itertools.combinations(range(len(some)), count)))
    return np.bitwise_xor.reduce(some[picked], axis=1)


@pytest.mark.parametrize(("name", "distance"), [("secded", 4), ("dected", 6), ("dected-6", 6)], ids=CODES)
def test_minimum_distance(name, distance):
    """No fewer columns than `distance` add up to 0, and some as many do: all combinations are tried.

    An odd number cannot, as each column has an odd share of 1s (secded) or its last bit set (dected). An even number
    k adds up to 0 where two different sets of k / 2 columns have the same sum.
    """
    code = known_code(*CODES[name])
    some = columns(code)
    last = np.bitwise_count(some) if name == "secded" else some >> (code.check_bits - 1)
    assert (last % 2 == 1).all()
    for half in range(1, distance // 2):
        sums = sums_of(some, half)
        assert len(np.unique(sums)) == len(sums)
    sums = sums_of(some, distance // 2)
    assert len(np.unique(sums)) < len(sums)


def test_one_flip_more_than_is_corrected_is_always_detected(code):
    flips, count = code.leaders
    assert (count[sums_of(columns(code), code.corrects + 1)] == 255).all()
    for errors in range(code.corrects + 1):
        assert (count == errors).sum() == len(list(itertools.combinations(columns(code), errors)))
    assert ((flips >= 0).sum(axis=1)[count != 255] == count[count != 255]).all()


@pytest.mark.parametrize("name", ["dected", "dected-6"])
def test_leaders_are_what_the_algebra_of_the_bch_code_says(name):
    """The formulas of the docstring of `dected`, for every syndrome there is."""
    code = known_code(*CODES[name])
    degree = code.weight_bits
    table, size = powers(degree), 1 << degree
    log = {element: power for power, element in enumerate(table)}

    def product(a, b):
        return table[(log[a] + log[b]) % (size - 1)] if a and b else 0

    bit_of = {column % size: bit for bit, column in enumerate(code.columns) if column}
    roots = half_roots(degree)
    flips, count = code.leaders
    for syndrome in range(1 << code.check_bits):
        s1, s3, odd = syndrome % size, syndrome >> degree & (size - 1), syndrome >> 2 * degree
        cube = product(s1, product(s1, s1))
        found = None
        if syndrome == 0:
            found = []
        elif odd:
            found = [s1] if s3 == cube else None
        elif s1:
            u = 1 ^ product(s3, table[-log[cube] % (size - 1)])
            t = int(roots[u])
            found = [product(s1, t), product(s1, t ^ 1)] if t >= 0 else None
        bits = [bit_of.get(element) for element in found] if found is not None else [None]
        if None in bits:
            assert count[syndrome] == 255
        else:
            assert count[syndrome] == len(bits)
            assert sorted(flips[syndrome, : len(bits)].tolist()) == sorted(bits)


def test_powers_run_through_the_whole_field():
    for degree in (6, 7):
        assert sorted(powers(degree)) == list(range(1, 1 << degree))


def test_check_bits_are_a_function_of_the_data(code):
    matrix = code.parity_check[:, code.checks].astype(int)
    identity = matrix @ code.check_of_syndrome.astype(int) % 2
    assert (identity == np.eye(code.check_bits)).all()


def test_a_singular_matrix_has_no_inverse():
    with pytest.raises(ValueError, match="singular"):
        inverse(np.ones((2, 2), dtype=bool))


@pytest.mark.parametrize(("name", "bits"), [("secded", 6), ("dected", 5), ("dected", 8), ("hamming", 7)])
def test_a_code_that_there_is_not(name, bits):
    with pytest.raises(ValueError, match=f"no code '{name}' for weights of {bits} bits"):
        known_code(name, bits)
