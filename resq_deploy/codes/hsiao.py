"""Hsiao's code: single-error correction, double-error detection (M. Y. Hsiao, IBM J. Res. Dev. 14, 1970)."""

from resq_deploy.codes.code import Code

_CHECKS = 8
_WEIGHTS = 7  # data bits of a byte


def secded() -> Code:
    """Return the (64, 56) code: the 8 spare bits are the unit columns, data bits the 56 columns of weight 3.

    All columns are distinct and of odd weight. One flip gives its own column; two give a non-zero syndrome of even
    weight, which is nobody's column and so detected: minimum distance 4. Every check reads 22 of the 64 bits, the
    fewest that a balanced matrix can.

    Turning a column of weight 3 by one bit eight times gives eight columns, as 3 and 8 have no common factor, and the
    56 fall into 7 such orbits. Bit b of row q has the b-th orbit's least column turned by q, so that all rows are
    alike but for the turn.
    """
    orbits = sorted(
        {min(_turned(column, q) for q in range(_CHECKS)) for column in range(256) if column.bit_count() == 3}
    )
    bases = [*orbits, 1]
    columns = tuple(_turned(base, q) for q in range(_CHECKS) for base in bases)
    return Code(name="secded", weight_bits=_WEIGHTS, check_bits=_CHECKS, corrects=1, columns=columns)


def _turned(column: int, places: int) -> int:
    """Return a column with its bits turned upwards."""
    return (column << places | column >> (_CHECKS - places)) & 0xFF
