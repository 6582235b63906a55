"""Options of a campaign as text: what the command line, a recipe and Python take alike."""

import math
import pathlib
from typing import Literal

from resq_deploy.campaign.options import ADJACENT, FOLDED, INTERLEAVED, Draw
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import OptionError
from resq_deploy.faults.cells import Direction, TrueCells
from resq_deploy.faults.upsets import Pattern

_DIRECTIONS = {str(direction): direction for direction in (Direction.BOTH, Direction.UP, Direction.DOWN)}
_FALLING = f"{Direction.DOWN}:"
_LAST_BIT = 63
_MOST_WAYS = 1024
_MOST_BYTES = 2**20


def parse_patterns(text: str) -> tuple[Pattern, ...]:
    """Read patterns of upsets with their shares, such as `2=0.6,3=0.4` (cells of one row) or `1x2=0.9,2x2=0.1`.

    Raises:
        OptionError: if the text is not of that form.
    """
    found = []
    try:
        for part in text.split(","):
            size, _, share = part.partition("=")
            rows, _, columns = size.rpartition("x")
            found.append(Pattern(int(rows or 1), int(columns), float(share)))
    except ValueError as error:
        raise OptionError(
            f"--cluster-shares {text!r}: give cells and shares such as 2=0.6,3=0.25,4=0.15, or 1x2=0.9,2x2=0.1"
        ) from error
    if len({(pattern.rows, pattern.columns) for pattern in found}) < len(found):
        raise OptionError(f"--cluster-shares {text!r}: give each pattern once")
    return tuple(found)


def parse_layout(text: str) -> str:
    """Read a memory layout: `file`, `interleaved:N`, `rows:BYTES`, or the path of a table.

    Raises:
        OptionError: if it is none of these.
    """
    if text.startswith(INTERLEAVED):
        ways = text.removeprefix(INTERLEAVED)
        if not ways.isdecimal() or not 2 <= int(ways) <= _MOST_WAYS:
            raise OptionError(f"--memory-layout {text!r}: interleave from 2 to {_MOST_WAYS} words, interleaved:4")
    elif text.startswith(FOLDED):
        width = text.removeprefix(FOLDED)
        if not width.isdecimal() or not 1 <= int(width) <= _MOST_BYTES:
            raise OptionError(f"--memory-layout {text!r}: rows hold from 1 to {_MOST_BYTES} bytes, rows:64")
    elif text != ADJACENT and not pathlib.Path(text).is_file():
        raise OptionError(
            f"--memory-layout {text!r}: there is no such file; give {ADJACENT}, interleaved:N, rows:BYTES, or a CSV "
            "file"
        )
    return text


def parse_direction(text: str) -> Direction:
    """Read which way bits flip: `both`, `0to1`, `1to0`, or `1to0:SHARE` of the strikes, and the others `0to1`.

    Raises:
        OptionError: if it is none of these.
    """
    if text in _DIRECTIONS:
        return _DIRECTIONS[text]
    try:
        share = float(text.removeprefix(_FALLING)) if text.startswith(_FALLING) else math.nan
    except ValueError:
        share = math.nan
    if not 0.0 <= share <= 1.0:
        raise OptionError(
            f"--flip-direction {text!r}: give {', '.join(_DIRECTIONS)}, or a share from 0 to 1 such as 1to0:0.8"
        )
    return Direction(share)


def parse_true_cells(text: str) -> TrueCells:
    """Read which cells are true ones: a share such as `0.5`, or `rows:N`.

    Raises:
        OptionError: if the text is neither.
    """
    try:
        if text.startswith(FOLDED):
            return TrueCells(rows=int(text.removeprefix(FOLDED)))
        return TrueCells(share=float(text))
    except ValueError as error:
        raise OptionError(
            f"--true-cells {text!r}: give a share from 0 to 1, or rows:N for N rows of each kind by turns"
        ) from error


def parse_bits(text: str) -> tuple[int, ...]:
    """Read bit positions such as `7` or `0-3,31`.

    Raises:
        OptionError: if the text is not of that form, or a position is above 63.
    """
    bits: set[int] = set()
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            bits.update(range(int(first), min(int(last or first), _LAST_BIT + 1) + 1))
    except ValueError as error:
        raise OptionError(f"--bits {text!r}: give positions such as 7 or 0-3,31") from error
    if not bits or min(bits) < 0 or max(bits) > _LAST_BIT:
        raise OptionError(f"--bits {text!r}: positions run from 0 (least significant) to {_LAST_BIT}")
    return tuple(sorted(bits))


def parse_draw(text: str) -> Draw:
    """Read what is drawn evenly, `bits` or `layers`.

    Raises:
        OptionError: if the text is neither.
    """
    try:
        return Draw(text)
    except ValueError as error:
        raise OptionError(f"--draw {text!r}: give {' or '.join(Draw)}") from error


def parse_images_per_fault(text: str) -> int | Literal["auto", "all"]:
    """Read a number of images, `auto` or `all`.

    Raises:
        OptionError: if the text is none of them.
    """
    if text == "auto":
        return "auto"
    if text == "all":
        return "all"
    try:
        return int(text)
    except ValueError as error:
        raise OptionError(f"--images-per-fault {text!r}: give a whole number from 1 up, auto or all") from error


def parse_roles(text: str) -> tuple[Role, ...]:
    """Read roles such as `weight,bias`; `all` stands for every role.

    Raises:
        OptionError: if a role is unknown.
    """
    if text == "all":
        return ()
    known = {str(role): role for role in Role}
    names = [name.strip() for name in text.split(",")]
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise OptionError(f"--roles: unknown role {unknown!r}; roles are {', '.join(known)}")
    return tuple(role for name, role in known.items() if name in names)


def parse_rates(text: str) -> tuple[float, ...]:
    """Read bit error rates such as `1e-4,1e-3`; they come back ascending and without repeats.

    Raises:
        OptionError: if the text holds anything but numbers.
    """
    try:
        return tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError as error:
        raise OptionError(f"--ber {text!r}: give numbers such as 1e-4,1e-3") from error
