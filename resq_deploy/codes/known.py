"""The codes there are, by what a user calls them."""

import functools

from resq_deploy.codes.bch import dected
from resq_deploy.codes.code import Code
from resq_deploy.codes.hsiao import secded

KNOWN = (("secded", 7), ("dected", 7), ("dected", 6))
"""Names of codes, each with the bits of a weight."""


@functools.cache
def known_code(name: str, weight_bits: int = 7) -> Code:
    """Return a code.

    Args:
        name: `secded` or `dected`.
        weight_bits: bits of a weight: 7, or 6 for `dected`.

    Raises:
        ValueError: if there is no such code.
    """
    if (name, weight_bits) not in KNOWN:
        raise ValueError(f"there is no code {name!r} for weights of {weight_bits} bits: secded takes 7, dected 7 or 6")
    return dected(weight_bits) if name == "dected" else secded()
