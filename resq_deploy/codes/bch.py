"""Extended BCH codes: double-error correction, triple-error detection.

R. C. Bose and D. K. Ray-Chaudhuri, Information and Control 3, 1960; A. Hocquenghem, Chiffres 2, 1959.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from resq_deploy.codes.code import Code

POLYNOMIALS = {6: 0b1000011, 7: 0b10000011}
"""Primitive polynomials, bit i the coefficient of x^i: x^6 + x + 1 and x^7 + x + 1. alpha is a root."""


@functools.cache
def powers(degree: int) -> tuple[int, ...]:
    """Return alpha^0 ... alpha^(2^degree - 2), the non-zero elements of GF(2^degree) as integers."""
    elements, element = [], 1
    for _ in range((1 << degree) - 1):
        elements.append(element)
        element <<= 1
        if element >> degree:
            element ^= POLYNOMIALS[degree]
    return tuple(elements)


def half_roots(degree: int) -> NDArray[np.int16]:
    """Return for each u of GF(2^degree) the lesser t with t^2 + t = u; -1 where there is none. Shape [2^degree]."""
    roots = np.full(1 << degree, -1, dtype=np.int16)
    for t in reversed(range(1 << degree)):
        roots[_square(t, degree) ^ t] = t
    return roots


def _square(element: int, degree: int) -> int:
    table = powers(degree)
    return table[2 * table.index(element) % len(table)] if element else 0


def dected(weight_bits: int) -> Code:
    """Return the code that corrects two flips of a word and detects three.

    The column of a field element x is (x, x^3, 1): the lowest m bits, the next m, and the last one, 2 m + 1 in all.
    For flips at x and y, the sum of columns is s1 = x + y, s3 = x^3 + y^3, and the last bit tells odd from even:

        last bit 1: one flip, at x = s1, if s3 = s1^3
        last bit 0: two flips, at s1 t and s1 (t + 1), where t^2 + t = 1 + s3 / s1^3, if that has a solution

    and whatever else comes out is more than two. Any four columns (x, x^3) are independent (minimum distance 5), and
    with the last bit any five (6). Which bit of a word is which element: check bits are 1, alpha, alpha^2, ... (their
    columns are independent, since the generator polynomial of the code has degree 2 m) and, last, the element 0; data
    bits the powers that follow, in the order of the bits; the powers left over stand for no bit (shortening).

    Args:
        weight_bits: 7: GF(2^7), (127, 112), words of 128 bits of which one is not decoded. 6: GF(2^6), (61, 48),
            words of 64 bits of which three are not decoded.
    """
    degree = weight_bits  # 2^m bits a word: as many spare bits as 2 m + 1 checks need, and hardly one more
    rows = (1 << degree) // 8
    column = [x | _cube(power, degree) << degree | 1 << 2 * degree for power, x in enumerate(powers(degree))]
    bits = np.arange(8 * rows)
    spare = bits[bits % 8 >= weight_bits]
    data = bits[bits % 8 < weight_bits]
    spare = spare[np.argsort(spare % 8, kind="stable")]
    columns = np.zeros(8 * rows, dtype=np.int64)
    columns[spare[: 2 * degree]] = column[: 2 * degree]
    columns[spare[2 * degree]] = 1 << 2 * degree
    columns[data] = column[2 * degree : 2 * degree + len(data)]
    name = "dected" if weight_bits == 7 else f"dected-{weight_bits}"
    return Code(
        name=name,
        weight_bits=weight_bits,
        check_bits=2 * degree + 1,
        corrects=2,
        columns=tuple(columns.tolist()),
    )


def _cube(power: int, degree: int) -> int:
    table = powers(degree)
    return table[3 * power % len(table)]
