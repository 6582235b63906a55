"""The codes there are, by what a user calls them."""

import functools

from resq_deploy.codes.bch import dected
from resq_deploy.codes.code import Code
from resq_deploy.codes.hsiao import secded

NAMES = ("secded", "dected")
WEIGHT_BITS = (7, 6)


@functools.cache
def known_code(name: str, weight_bits: int = 7) -> Code:
    """Return a code.

    Args:
        name: `secded` or `dected`.
        weight_bits: bits of a weight: 7, or 6 for `dected`.

    Raises:
        ValueError: if there is no such code.
    """
    if name == "dected" and weight_bits in WEIGHT_BITS:
        return dected(weight_bits)
    if name == "secded" and weight_bits == 7:
        return secded()
    raise ValueError(f"there is no code {name!r} for weights of {weight_bits} bits: secded takes 7, dected 7 or 6")
