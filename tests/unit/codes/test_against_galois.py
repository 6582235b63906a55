"""The BCH codes against the library galois, which knows nothing of ours: field, code words, decoding."""

import warnings

import numpy as np
import pytest

from resq_deploy.codes.bch import POLYNOMIALS, half_roots, powers
from resq_deploy.codes.known import known_code
from resq_deploy.codes.words import correct, encode

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its just-in-time compiler's own
    galois = pytest.importorskip("galois", reason="galois (extra: dev) is not installed")

DEGREES = [6, 7]

pytestmark = pytest.mark.slow  # needs the extra dev, which .ci/run installs before the slow tests


def field(degree):
    return galois.GF(1 << degree, irreducible_poly=POLYNOMIALS[degree], primitive_element=2)


def exponents(code):
    """For each bit of a word the power of alpha it stands for; -1 for the overall parity and bits not decoded."""
    table = powers(code.weight_bits)
    return np.array(
        [
            table.index(column % (1 << code.weight_bits)) if column % (1 << code.weight_bits) else -1
            for column in code.columns
        ]
    )


@pytest.mark.parametrize("degree", DEGREES)
def test_the_field(degree):
    gf = field(degree)
    assert gf.is_primitive_poly
    elements = gf.primitive_element ** np.arange((1 << degree) - 1)
    assert elements.tolist() == list(powers(degree))
    every = gf.elements
    values = np.asarray(every**2 + every)
    roots = half_roots(degree)
    assert sorted(set(values.tolist())) == np.flatnonzero(roots >= 0).tolist()
    found = gf(roots[values].astype(np.uint8))
    assert ((found**2 + found) == gf(values)).all()


@pytest.mark.parametrize("degree", DEGREES)
def test_columns_are_those_of_the_extended_code(degree):
    code, gf = known_code("dected", degree), field(degree)
    columns = np.array([column for column in code.columns if column])
    elements = gf((columns % (1 << degree)).astype(np.uint8))
    cubes = np.asarray(elements**3).astype(np.int64)
    assert (columns >> degree == cubes | 1 << degree).all()


@pytest.mark.parametrize("degree", DEGREES)
def test_words_are_code_words_and_decoded_alike(degree):
    """Our words, as polynomials: multiples of the generator; with two flips, decoded to the same by galois."""
    code = known_code("dected", degree)
    n = (1 << degree) - 1
    bch = galois.BCH(n, d=5, extension_field=field(degree), alpha=field(degree).primitive_element)
    random = np.random.default_rng(degree)
    weights = random.integers(-code.largest - 1, code.largest + 1, 40 * code.block).astype(np.int8)
    stored = encode(code, weights)
    power = exponents(code)
    places = np.flatnonzero(power >= 0)

    def polynomials(stored_bytes):
        """The words without overall parity, highest power first, [words, n]."""
        bits = np.unpackbits(stored_bytes.reshape(-1, code.block, 1), axis=2, bitorder="little")
        words = np.zeros((len(bits), 8, n), dtype=np.uint8)
        for word in range(8):
            byte = places - places % 8 + (word - places % 8) % 8
            words[:, word, n - 1 - power[places]] = bits[:, byte, places % 8]
        return galois.GF2(words.reshape(-1, n))

    sound = polynomials(stored)
    assert not bch.detect(sound).any()
    mask = np.zeros((40, code.block), dtype=np.uint8)
    for row in mask:
        for word in range(8):
            for place in random.choice(places, 2, replace=False):
                row[place - place % 8 + (word - place % 8) % 8] ^= 1 << place % 8
    faulty = stored ^ mask.reshape(-1)
    ours = polynomials(correct(code, faulty).stored)
    decoded, errors = bch.decode(polynomials(faulty), output="codeword", errors=True)
    assert (errors == 2).all()
    assert (decoded == ours).all()
    assert (ours == sound).all()
