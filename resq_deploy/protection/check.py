"""Check a protected ONNX file for flipped bits, with numpy and onnx alone: a copy of this module runs on a device.

    python check.py FILE.onnx [--repair HEALED.onnx]

It finds code words with a syndrome that is not 0, idle bits that are set, and values whose copies do not agree.
Exit status: 0 sound; 3 all that was found can be corrected; 1 some of it cannot; 2 no protected file. --repair writes
the file with what can be corrected; if that is all, byte for byte as it was written.

Codes are made from their definitions, not from tables of the file, which may be damaged (`secded`: Hsiao, IBM J. Res.
Dev. 14, 1970; `dected`: extended BCH, Bose and Ray-Chaudhuri, 1960). Nothing covers attributes, names and framing.
"""

from __future__ import annotations

import argparse
import collections
import functools
import os
import sys
from typing import TYPE_CHECKING, Iterator, NamedTuple  # noqa: UP035 - as Python 3.8 has it

import numpy as np
import onnx
from onnx import numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

SOUND, DAMAGED, UNUSABLE, HEALABLE = 0, 1, 2, 3  # exit statuses
CORRECTED, UNCORRECTABLE = 1, 2  # a word or value that is not SOUND
_DOMAIN, _HEALTH, _OWN = "resq.codes", "resq_health", ("", "ai.onnx")
_BITWISE = {"BitwiseAnd": np.bitwise_and, "BitwiseOr": np.bitwise_or, "BitwiseXor": np.bitwise_xor}
_CHUNK = 1 << 15  # blocks


class CheckError(ValueError):
    """A file that cannot be checked or healed, in one line."""


class Code(NamedTuple):
    """A code: flips of a word that it corrects, bits of a syndrome, and for each bit of a word its column (0: idle)."""

    name: str
    corrects: int
    checks: int
    columns: tuple[int, ...]


class Found(NamedTuple):
    """What was found of a tensor in code words, or of the copies of one.

    `stored` and `healed`: its bytes, [blocks, bytes] or [values, bytes], by the name they are stored under; `status`:
    SOUND, CORRECTED or UNCORRECTABLE for each word, [blocks, 8], or value, [values]; `idle`: such bits set, [blocks].
    """

    name: str
    code: Code | None
    stored: dict[str, Bytes]
    healed: dict[str, Bytes]
    status: Bytes
    idle: NDArray[np.int64]


def examine(data: bytes) -> list[Found]:
    """Check the bytes of a file; raises CheckError where it is damaged outside of what codes and votes cover."""
    try:
        graph = onnx.ModelProto.FromString(data).graph
    except Exception as error:  # protocol buffers' own types, which differ between versions
        raise CheckError("it does not parse as an ONNX model: it is none, or its framing is damaged") from error
    stored = {tensor.name: tensor for tensor in graph.initializer}
    coded = {node.input[0]: node.op_type for node in graph.node if node.domain == _DOMAIN and node.input}
    words = [_check_words(name, make_code(operator), _raw(stored, name)) for name, operator in coded.items()]
    words += [_check_most(output, copies, stored) for output, copies in _majorities(graph, stored)]
    return words + [_check_copies(output, copies, stored) for output, copies in _triples(graph, stored)]


def verdict(found: list[Found]) -> int:
    """Return the exit status that says in what state a file is."""
    if any((each.status == UNCORRECTABLE).any() for each in found):
        return DAMAGED
    return HEALABLE if any(each.status.any() or each.idle.any() for each in found) else SOUND if found else UNUSABLE


def heal(data: bytes, found: list[Found]) -> bytes:
    """Return a file with everything corrected that can be: nothing but bytes of its tensors changes."""
    tensors = {tensor.name: tensor for tensor in onnx.ModelProto.FromString(data).graph.initializer}
    for each in found:
        for name, healed in each.healed.items():
            if (healed != each.stored[name]).any():
                before = tensors[name].SerializeToString()
                if not tensors[name].HasField("raw_data") or data.count(before) != 1:
                    raise CheckError(f"tensor {name!r} is not stored as onnx writes raw bytes: it cannot be healed")
                tensors[name].raw_data = healed.tobytes()
                data = data.replace(before, tensors[name].SerializeToString())
    return data


def make_code(operator: str) -> Code:
    """Return the code that a decoder is named after."""
    operator = str(operator).replace("_unsigned", "")  # protocol buffers give bytes for what is not UTF-8
    if operator == "decode_secded":
        turned = [[(column * 257 << q >> 8) & 255 for q in range(8)] for column in range(256)]  # its bits turned by q
        bases = sorted({min(row) for column, row in enumerate(turned) if bin(column).count("1") == 3})
        return Code("secded", 1, 8, tuple(turned[base][q] for q in range(8) for base in [*bases, 1]))
    if operator not in ("decode_dected", "decode_dected_6"):
        raise CheckError(f"its words are decoded by {operator!r}, a code that is not known here: take a later version")
    m = 7 if operator == "decode_dected" else 6
    powers, units, rows = [1], (1 << m) - 1, (1 << m) // 8
    while len(powers) < units:
        doubled = powers[-1] << 1
        powers.append(doubled ^ (units + 4 if doubled >> m else 0))  # modulo x^m + x + 1
    column = [x | powers[3 * k % units] << m | 1 << 2 * m for k, x in enumerate(powers)]
    column.insert(2 * m, 1 << 2 * m)  # the element 0 is the last check bit
    checks = [8 * q + b for b in range(m, 8) for q in range(rows)][: 2 * m + 1]
    order = checks + [8 * q + b for q in range(rows) for b in range(m)]
    columns = {bit: column[place] for place, bit in enumerate(order)}
    return Code(operator[7:].replace("_", "-"), 2, 2 * m + 1, tuple(columns.get(bit, 0) for bit in range(8 * rows)))


def _check_words(name: str, code: Code, raw: bytes) -> Found:
    """Correct a tensor of code words: bit p = 8 q + b of word w is bit b of byte 8 q + (w - b) mod 8 of its block."""
    block, (table, leaders, unused) = len(code.columns), _tables(code)
    if len(raw) % block:
        raise CheckError(f"tensor {name!r} should store whole blocks of {block} bytes and stores {len(raw)} bytes")
    stored: Bytes = np.frombuffer(raw, np.uint8).reshape(-1, block)
    sums, idle = np.zeros((len(stored), 2), np.uint64), np.zeros(len(stored), np.int64)
    for start in range(0, len(stored), _CHUNK):
        here = slice(start, start + _CHUNK)
        for place in range(block):
            sums[here] ^= table[place][stored[here, place]]
        idle[here] = np.unpackbits(stored[here] & unused, axis=1).sum(1)
    syndromes = sums.view(np.uint16)
    where, word = np.nonzero(syndromes)
    flips = leaders[syndromes[where, word]]
    status = np.zeros((len(stored), 8), np.uint8)
    status[where, word] = np.where(flips[:, 0] < 0, UNCORRECTABLE, CORRECTED)
    healed = stored & ~unused
    for flip in flips.T:
        some = flip >= 0
        p, w = flip[some], word[some]
        np.bitwise_xor.at(healed, (where[some], p - p % 8 + (w - p) % 8), (1 << p % 8).astype(np.uint8))
    return Found(name, code, {name: stored}, {name: healed}, status, idle)


@functools.lru_cache(maxsize=None)  # noqa: UP033
def _tables(code: Code) -> tuple[NDArray[np.uint64], NDArray[np.int64], Bytes]:
    """Return what byte values add to syndromes, flips by syndrome (-1: none; first: hopeless), idle bits of bytes."""
    columns, byte, bit = np.array(code.columns), np.arange(len(code.columns))[:, None], np.arange(8)
    own = columns[8 * (byte // 8) + bit]
    adds = np.zeros((len(columns), 256, 8), np.uint16)
    adds[byte, :, (byte + bit) % 8] = (np.arange(256) >> bit[:, None] & 1) * own[..., None]
    bits, flips = np.flatnonzero(columns), np.full((1 << code.checks, code.corrects), -1)
    flips[columns[bits], 0] = bits
    if code.corrects == 2:
        one, two = (bits[each] for each in np.triu_indices(len(bits), 1))
        flips[columns[one] ^ columns[two]] = np.stack([one, two], axis=1)
    return adds.view(np.uint64), flips, ((own == 0) << bit).sum(1).astype(np.uint8)


def _triples(graph: onnx.GraphProto, stored: dict[str, onnx.TensorProto]) -> Iterator[tuple[str, list[str]]]:
    """Yield votes, `Where(Equal(a, b), a, c)` over stored tensors of one type and shape that nothing else reads."""
    reads = _reads(graph)
    compared = {node.output[0]: node.input for node in graph.node if node.op_type == "Equal" and node.domain in _OWN}
    for node in graph.node:
        if node.op_type != "Where" or node.domain not in _OWN or node.input[1] not in compared.get(node.input[0], ()):
            continue
        same, a, c = node.input
        b = compared[same][compared[same][0] == a]
        wanted = {a: 2, b: 1, c: 1, same: 1}
        alone = len(wanted) == 4 and all(reads[name] == times for name, times in wanted.items())
        held = [stored[name] for name in (a, b, c) if name in stored]
        if alone and len(held) == 3 and len({(tensor.data_type, *tensor.dims) for tensor in held}) == 1:
            yield node.output[0], [a, b, c]


def _reads(graph: onnx.GraphProto) -> collections.Counter[str]:
    """Return how often each value is read in a graph and its subgraphs, or given: but for the file's own health."""
    reads = collections.Counter(value.name for value in graph.output if value.name != _HEALTH)
    told = len(graph.output) > sum(reads.values())
    for node in reversed(graph.node):  # each stands behind those it reads from; told: some may serve the health alone
        if told and not any(reads[name] for name in node.output):
            continue
        reads.update(node.input)
        for attribute in node.attribute:
            for part in [attribute.g] * attribute.HasField("g") + list(attribute.graphs):
                reads.update(_reads(part))
    return reads


def _check_copies(output: str, copies: list[str], stored: dict[str, onnx.TensorProto]) -> Found:
    """Compare three copies value by value, bit for bit."""
    count = max(1, int(np.prod(stored[copies[0]].dims)))
    held = [_raw(stored, name) for name in copies]
    if len({len(raw) for raw in held}) > 1 or len(held[0]) % count:
        raise CheckError(f"the copies of {output!r} do not store the bytes of their shape: the framing is damaged")
    a, b, c = (np.frombuffer(raw, np.uint8).reshape(count, -1) for raw in held)
    ab, ac, bc = ((x == y).all(1) for x, y in ((a, b), (a, c), (b, c)))
    lost, winner = ~(ab | ac | bc)[:, None], np.where((ab | ac)[:, None], a, b)
    own = {copies[0]: a, copies[1]: b, copies[2]: c}
    healed = {name: np.where(lost, copy, winner) for name, copy in own.items()}
    status = np.where(lost[:, 0], UNCORRECTABLE, np.where(ab & ac, SOUND, CORRECTED)).astype(np.uint8)
    return Found(output, None, own, healed, status, np.zeros(1, np.int64))


def _majorities(graph: onnx.GraphProto, stored: dict[str, onnx.TensorProto]) -> Iterator[tuple[str, list[str]]]:
    """Yield bitwise majorities of five or seven stored vectors: nodes that give it for each combination of bits."""
    makers = {node.output[0]: node for node in graph.node if node.op_type in _BITWISE and node.domain in _OWN}
    inner = {name for node in makers.values() for name in node.input}
    for output in makers.keys() - inner:
        leaves: set[str] = set()
        waiting = [output]
        while waiting:
            names = makers[waiting.pop()].input
            leaves.update(name for name in names if name not in makers)
            waiting += [name for name in names if name in makers]
        if len(leaves) in (5, 7) and leaves <= stored.keys():
            bits = np.arange(1 << len(leaves)) >> np.arange(len(leaves))[:, None] & 1
            values = dict(zip(sorted(leaves), bits))  # noqa: B905 - Python 3.8
            for name in reversed(_below(output, makers)):
                values[name] = _BITWISE[makers[name].op_type](*(values[each] for each in makers[name].input))
            if (values[output] == (2 * bits.sum(0) > len(leaves))).all():
                yield output, sorted(leaves)


def _below(output: str, makers: dict[str, onnx.NodeProto]) -> list[str]:
    """Return a value and all that bitwise nodes make it of, each before those that it is made of."""
    order: dict[str, None] = {}

    def visit(name: str) -> None:
        if name in makers and name not in order:
            for each in makers[name].input:
                visit(each)
            order[name] = None

    visit(output)
    return list(reversed(order))


def _check_most(output: str, copies: list[str], stored: dict[str, onnx.TensorProto]) -> Found:
    """Compare five or seven copies of bytes, of which most decide each bit: they cannot tell that too many are hit."""
    held = [np.frombuffer(_raw(stored, name), np.uint8) for name in copies]
    if len({len(copy) for copy in held}) > 1:
        raise CheckError(f"the copies of {output!r} are of different length: the framing is damaged")
    set_bits = np.unpackbits(np.stack(held)[..., None], axis=2).sum(0)
    winner = np.packbits(2 * set_bits > len(held), axis=1)
    status = np.any([copy != winner[:, 0] for copy in held], axis=0).astype(np.uint8)
    own = {name: copy[:, None] for name, copy in zip(copies, held)}  # noqa: B905 - Python 3.8
    return Found(output, None, own, dict.fromkeys(own, winner), status, np.zeros(1, np.int64))


def _raw(stored: dict[str, onnx.TensorProto], name: str) -> bytes:
    tensor = stored.get(name)
    if tensor is None:
        raise CheckError(f"it decodes {name!r}, which it does not store: its framing is damaged")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise CheckError(f"tensor {name!r} lies in external data: a protected file holds its tensors itself")
    return tensor.raw_data if tensor.HasField("raw_data") else bytes(numpy_helper.to_array(tensor).tobytes())


def main() -> int:
    """Check a file, print what was found, and return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--repair", metavar="HEALED", help="write the file healed; may be the file itself")
    options = parser.parse_args()
    try:
        with open(options.file, "rb") as stream:  # noqa: PTH123 - few modules: devices are small
            found = examine(data := stream.read())
        status = verdict(found)
        if status == UNUSABLE:
            raise CheckError("it carries neither codes nor votes: there is nothing to check")
        if options.repair:
            _write(os.path.realpath(options.repair), heal(data, found))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{options.file}: {error}\n")
        return UNUSABLE
    for each in found:
        fixed, lost = (int((each.status == state).sum()) for state in (CORRECTED, UNCORRECTABLE))
        if fixed or lost or each.idle.any():
            sys.stdout.write(f"{each.name}: {fixed} corrected, {lost} cannot be, {each.idle.sum()} idle bits set\n")
    sys.stdout.write(f"{options.file}: {('sound', 'DAMAGED', '', 'can be healed')[status]}\n")
    return status


def _write(path: str, data: bytes) -> None:
    """Write a file so that whoever reads it, or power lost at any moment, finds the old content or the new."""
    with open(path + ".part", "wb") as stream:  # noqa: PTH123
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(path + ".part", path)  # noqa: PTH105


if __name__ == "__main__":
    sys.exit(main())
