"""Digests of a file by block and by tensor, which find and name what was changed in it; and how they are compared.

Blocks are those of the bytes as they lie in the file, so that a file is checked without being parsed: one that no
session loads any more is checked all the same. A block has the CRC-32 of IEEE 802.3, which finds every change of up to
three bits in up to 91,607 (P. Koopman, "32-bit cyclic redundancy codes for internet applications", DSN 2002), and so in
4,096 bytes, every burst of up to 32 bits, and all but one in 2^32 of others. A whole file has its SHA-256.
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from resq_deploy.errors import RunFolderError

BLOCK = 4096
"""Bytes of a block."""

ALGORITHM = "crc32"
_DIGITS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Held:
    """Where a stored tensor lies.

    Attributes:
        tensor: its name.
        role: what it is for; empty where it is no surface of the file.
        layer: the first node that computes with it; empty likewise.
        file: which file holds it: 0 the model itself, from 1 up its external data.
        begin: its first byte there.
        end: one past its last byte.
    """

    tensor: str
    role: str
    layer: str
    file: int
    begin: int
    end: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Damaged:
    """A tensor, or what lies outside all tensors, that is not as it was.

    Attributes:
        tensor: its name; empty outside of all tensors: names, nodes, shapes and framing.
        role: what it is for.
        layer: the first node that computes with it.
        file: name of the file.
        ranges: where it was changed, as far as blocks tell: first byte, and one past the last, of stretches.
    """

    tensor: str
    role: str
    layer: str
    file: str
    ranges: tuple[tuple[int, int], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as a JSON object; ranges as pairs."""
        return {**dataclasses.asdict(self), "ranges": [list(pair) for pair in self.ranges]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the digests of files say of them.

    Attributes:
        blocks: how many blocks were compared.
        tensors: how many tensors.
        damaged_blocks: how many blocks are not as they were.
        damaged: what that is.
        sizes: what is to be said of files that are missing, or of another size than they had.
        record: why the digests themselves are damaged; empty where they are not.
    """

    blocks: int
    tensors: int
    damaged_blocks: int
    damaged: tuple[Damaged, ...]
    sizes: tuple[str, ...]
    record: str

    @property
    def sound(self) -> bool:
        """Whether nothing was found, in the files or in the digests."""
        return not (self.damaged_blocks or self.damaged or self.sizes or self.record)


def make_digests(files: Sequence[tuple[str, bytes]], tensors: Sequence[Held]) -> dict[str, Any]:
    """Return the digests of files and tensors, as JSON values.

    Args:
        files: name and content, the model itself first.
        tensors: what lies where in them.
    """
    return {
        "algorithm": ALGORITHM,
        "block_bytes": BLOCK,
        "files": [
            {
                "file": name,
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "blocks": "".join(_crc(data[begin : begin + BLOCK]) for begin in range(0, len(data), BLOCK)),
                "outside": _outside(data, [held for held in tensors if held.file == number]),
            }
            for number, (name, data) in enumerate(files)
        ],
        "tensors": [
            {**dataclasses.asdict(held), "digest": _crc(files[held.file][1][held.begin : held.end])} for held in tensors
        ],
    }


def files_named(digests: Mapping[str, Any]) -> list[str]:
    """Return the names of the files that digests are of.

    Raises:
        RunFolderError: if these are no digests.
    """
    try:
        if digests["algorithm"] != ALGORITHM or digests["block_bytes"] != BLOCK:
            raise ValueError("they are of another kind")
        for one in digests["files"]:
            if len(one["blocks"]) != _DIGITS * -(-one["bytes"] // BLOCK) or one["bytes"] < 0:
                raise ValueError("there are fewer or more blocks than the file has")
        names = [str(one["file"]) for one in digests["files"]]
        held = [_held(row) for row in digests["tensors"]]
        if not names or any(not 0 <= each.file < len(names) for each in held):
            raise ValueError("a tensor lies in none of the files")
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"the digests cannot be read: {error}") from error
    return names


def compare(digests: Mapping[str, Any], contents: Sequence[bytes | None]) -> Comparison:
    """Compare files with their digests.

    Args:
        digests: of `make_digests`; `files_named` has found that they can be read.
        contents: the files, in that order; None for one that is missing.
    """
    damaged: list[Damaged] = []
    sizes, flaws = list[str](), list[str]()
    blocks = lost_blocks = 0
    held = [(_held(row), str(row["digest"])) for row in digests["tensors"]]
    for number, (record, data) in enumerate(zip(digests["files"], contents, strict=True)):
        name, expected = str(record["file"]), _split(record["blocks"])
        blocks += len(expected)
        if data is None:
            sizes.append(f"{name} is missing")
            continue
        changed = [at for at, crc in enumerate(expected) if _crc(data[at * BLOCK : (at + 1) * BLOCK]) != crc]
        if len(data) != record["bytes"]:
            sizes.append(f"{name} holds {len(data):,} bytes, and held {record['bytes']:,}")
        here = [(each, crc) for each, crc in held if each.file == number]
        told = [_of_tensor(each, changed, name) for each, crc in here if _crc(data[each.begin : each.end]) != crc]
        gaps = _gaps(len(data), [each for each, _ in here])
        if _crc_of(data, gaps) != record["outside"] and len(data) == record["bytes"]:
            told.append(_outside_all(name, len(data), changed, gaps))
        if hashlib.sha256(data).hexdigest() == record["sha256"]:
            if changed or told:
                flaws.append(f"{name} has the SHA-256 that it had, and other blocks or tensors")
            continue
        if not changed and not told and len(data) == record["bytes"]:
            flaws.append(f"all blocks of {name} are as they were, and its SHA-256 is not")
        damaged += told
        lost_blocks += len(changed)
    return Comparison(
        blocks=blocks,
        tensors=len(held),
        damaged_blocks=lost_blocks,
        damaged=tuple(damaged),
        sizes=tuple(sizes),
        record="; ".join(flaws),
    )


def _of_tensor(held: Held, changed: Sequence[int], file: str) -> Damaged:
    """Return a damaged tensor, with the stretches of it that lie in damaged blocks."""
    inside = [(max(held.begin, at * BLOCK), min(held.end, (at + 1) * BLOCK)) for at in changed]
    ranges = tuple(_merged([pair for pair in inside if pair[0] < pair[1]]))
    return Damaged(tensor=held.tensor, role=held.role, layer=held.layer, file=file, ranges=ranges)


def _outside_all(file: str, size: int, changed: Sequence[int], gaps: Sequence[tuple[int, int]]) -> Damaged:
    """Return what lies outside of all tensors, with the damaged blocks that hold bytes of it."""
    blocks = [(at * BLOCK, min(size, (at + 1) * BLOCK)) for at in changed]
    held = [(low, high) for low, high in blocks if any(begin < high and low < end for begin, end in gaps)]
    return Damaged(tensor="", role="", layer="", file=file, ranges=tuple(_merged(held)))


def _merged(pairs: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield ranges in order, those that touch as one."""
    begin = end = -1
    for low, high in sorted(pairs):
        if low > end:
            if end > begin:
                yield begin, end
            begin, end = low, high
        end = max(end, high)
    if end > begin:
        yield begin, end


def _gaps(size: int, held: Sequence[Held]) -> list[tuple[int, int]]:
    """Return the stretches of a file that no tensor lies in."""
    gaps, at = [], 0
    for begin, end in _merged([(each.begin, each.end) for each in held]):
        gaps.append((at, begin))
        at = end
    return [(low, high) for low, high in (*gaps, (at, size)) if low < high]


def _outside(data: bytes, held: Sequence[Held]) -> str:
    return _crc_of(data, _gaps(len(data), held))


def _crc_of(data: bytes, parts: Sequence[tuple[int, int]]) -> str:
    value = 0
    for begin, end in parts:
        value = zlib.crc32(data[begin:end], value)
    return f"{value:08x}"


def _crc(data: bytes) -> str:
    return f"{zlib.crc32(data):08x}"


def _split(digits: str) -> list[str]:
    return [digits[begin : begin + _DIGITS] for begin in range(0, len(digits), _DIGITS)]


def _held(row: Mapping[str, Any]) -> Held:
    """Read where a tensor lies.

    Raises:
        KeyError: if something is missing.
        ValueError: if it lies nowhere.
    """
    held = Held(**{field.name: row[field.name] for field in dataclasses.fields(Held)})
    if not 0 <= int(held.begin) <= int(held.end) or len(row["digest"]) != _DIGITS:
        raise ValueError(f"{held.tensor!r} lies nowhere")
    return held
