"""The decoder of a code as standard ONNX nodes, which onnxruntime folds when it creates a session.

One function a file and code, called once for each tensor, over tables all calls share. It takes stored bytes as blocks
[B, 1, Q, 8] - byte i = 8 q + r - and gives the weights in the same order, int8. Only operators of opset 13 are needed:

    bits      BitShift by 0 ... 7: eight planes; what lies above the lowest bit does not matter to a parity
    suspects  blocks with a check that fails: ConvInteger with the checks laid out over (b, q, r), Mod 2, TopK; from
              opset 18 on a table for each row q, of what a byte adds to eight checks of eight words, and BitwiseXor
    syndromes the same with all checks, of suspects only
    flips     a table of 256 entries (`secded`), or the algebra of `bch.dected` on logarithms
    repair    Xor of the suspects' bits, packed by ConvInteger with 1, 2, 4 ..., written back by ScatterND
    weights   spare bits shifted out, the rest read as int8 and divided by 2 or 4 (opset 13: QLinearConv, exact there)

onnxruntime keeps what it folds until its sweep over the graph ends, so that memory is the sum over nodes: what counts
is how little is computed of all blocks. From opset 18 on, suspects of `secded` are found by BitwiseXor of whole bytes,
as blocks with a word of odd parity (unless words are counted: one with two flips has even parity), and bytes are stored
as int8: six bytes a weight.

Tried with onnxruntime 1.22, 1.24 and 1.32; 1.20 has no vote on bytes.
"""

import dataclasses

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from resq_deploy.codes.code import WORDS, Code
from resq_deploy.deployed.coded import DOMAIN, function_name
from resq_deploy.protection.graph_parts import Parts, Pool
from resq_deploy.protection.logarithms import NONE, logarithms

LEAST_OPSET = 13

LEAST_ONNXRUNTIME = "1.22"
"""The first version that votes on bytes; every version tried from there on decodes and folds all of it."""

_INT8_OPSET, _XOR_OPSET = 14, 18  # arithmetic on int8; BitwiseXor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """How some weights of a file are decoded.

    Attributes:
        function: the function to call, of domain `DOMAIN`.
        shared: what each call takes behind the stored bytes and the tick: tables of the file.
        stored_type: type of stored bytes.
        health: whether it counts words too.
    """

    function: onnx.FunctionProto
    shared: tuple[str, ...]
    stored_type: type[np.int8] | type[np.uint8]
    health: bool

    def call(self, stored: str, tick: str, weights: str, counts: str | None = None) -> onnx.NodeProto:
        """Return the node that decodes stored bytes.

        Args:
            stored: name of the bytes, [B, 1, Q, 8].
            tick: name of the number 1, int64 [1]: nothing is decoded before it is known.
            weights: name to give to the weights, int8 or uint8 of that shape.
            counts: name to give to the numbers of words corrected and words that cannot be corrected, int64 [2].
        """
        outputs = [weights, counts] if self.health and counts else [weights]
        return helper.make_node(self.function.name, [stored, tick, *self.shared], outputs, domain=DOMAIN)


def make_decoder(code: Code, opset: int, pool: Pool, *, unsigned: bool = False, health: bool = False) -> Decoder:
    """Return the decoder of a code.

    Args:
        code: the code.
        opset: of the file that is to hold it, 13 or later.
        pool: the tables of the file; what the decoder reads is added.
        unsigned: whether weights are uint8, spare bits 0, and not int8, sign in the highest of their bits.
        health: whether it is to count words too.
    """
    body = _Body(code, opset, pool, unsigned=unsigned, health=health)
    outputs = body.written("stored", "tick")
    function = helper.make_function(
        DOMAIN,
        function_name(code, unsigned=unsigned),
        ["stored", "tick", *body.shared.values()],
        outputs,
        body.inside.nodes,
        [helper.make_opsetid("", opset)],
    )
    kind = np.int8 if body.signed else np.uint8
    return Decoder(function=function, shared=tuple(body.shared), stored_type=kind, health=health)


def is_light(code: Code, opset: int, *, health: bool) -> bool:
    """Return whether decoding takes six bytes a weight on the way; it takes up to thirty otherwise."""
    return code.corrects == 1 and opset >= _XOR_OPSET and not health


class _Body:
    """The function's nodes as they are written down, with the tables they read.

    Attributes:
        inside: nodes of the function.
        signed: whether bytes are stored as int8; uint8 otherwise.
        shared: for values of the file that the function takes, their names in there.
    """

    def __init__(self, code: Code, opset: int, pool: Pool, *, unsigned: bool, health: bool) -> None:
        self.inside = Parts("v", opset)
        self.shared: dict[str, str] = {}
        self._parities_only = is_light(code, opset, health=health)
        self.signed = self._parities_only and not unsigned
        self._code, self._opset, self._pool, self._rows = code, opset, pool, code.block // 8
        self._unsigned, self._health = unsigned, health
        within = np.arange(8)
        self._word_of = self._table((within[:, None, None] + within) % 8, np.int32)  # [b, 1, r]

    def written(self, stored: str, tick: str) -> list[str]:
        """Write down the decoding of stored bytes, and return the names of the weights and, if wanted, of counts.

        Args:
            stored: name of the bytes.
            tick: name of the number 1, without which nothing is to begin.
        """
        add = self.inside.node
        blocks = self._suspects(self._marks(stored, tick))
        suspects = add("Gather", stored, blocks, axis=0)
        planes = self._planes(self.inside.cast(suspects, TensorProto.UINT8) if self.signed else suspects)
        by_word = self._syndromes(planes)
        positions = self._two_flips(by_word) if self._code.corrects == 2 else self._one_flip(by_word)
        odd = self.inside.cast(add("Mod", planes, self._table(2, np.uint8)), TensorProto.BOOL)
        bits = self.inside.cast(add("Xor", odd, self._flips(positions)), TensorProto.UINT8)
        packed = add("ConvInteger", bits, self._table(1 << np.arange(8).reshape(1, 8, 1, 1), np.uint8))
        repaired = self.inside.cast(packed, TensorProto.INT8 if self.signed else TensorProto.UINT8)
        column = add("Reshape", blocks, self._table([-1, 1], np.int64))
        weights = self._extended(add("ScatterND", stored, column, repaired))
        return [weights, self._counts(by_word, positions[0])] if self._health else [weights]

    def _laid_out(self, checks: NDArray[np.bool_]) -> str:
        """Write down parity checks for all words and places of a block, uint8 [8 checks, b, q, r], in the file.

        Args:
            checks: which bits of a word each reads, [checks, block].
        """
        add = self._pool.node
        packed = np.packbits(checks, axis=1, bitorder="little")[:, None, :, None]  # [j, 1, q, 1]
        places = self._pool.table(np.arange(8, dtype=np.uint8).reshape(-1, 1, 1))
        shifted = add("BitShift", self._pool.table(packed), places, direction="RIGHT")
        of_word = add("Mod", shifted, self._pool.table(np.array(2, np.uint8)))
        within = np.arange(8)
        word_of = self._pool.table(((within[:, None, None] + within) % 8).astype(np.int32))
        here = add("Equal", word_of, self._pool.table(np.arange(WORDS, dtype=np.int32).reshape(-1, 1, 1, 1, 1)))
        whole = add("Where", here, of_word, self._pool.table(np.array(0, np.uint8)))  # [w, j, b, q, r]
        shape = self._pool.table(np.array([-1, 8, self._rows, 8]))
        return self._share(add("Reshape", whole, shape))

    def _planes(self, stored: str) -> str:
        """Write down the bits of bytes, [N, 1, Q, 8] -> [N, 8, Q, 8]; only the lowest of each counts."""
        shifts = self._table(np.arange(8).reshape(-1, 1, 1), np.uint8)
        return self.inside.node("BitShift", stored, shifts, direction="RIGHT")

    def _marks(self, stored: str, tick: str) -> str:
        """Write down marks of blocks, [B], 0 where there is nothing to do.

        To correct, not all checks are needed: the parity of a word tells that one bit is flipped, and s1 = x + y of
        `bch.dected`, which is not 0, that two are.
        """
        code = self._code
        if self._parities_only:
            return self._parities(stored, tick)
        checks = code.parity_check
        if not self._health:
            odd = checks[-1:] if code.corrects == 2 else np.ones_like(checks[:1])
            checks = np.concatenate([checks[: code.weight_bits], odd]) if code.corrects == 2 else odd
        return (
            self._looked_up_sums(stored, tick, checks)
            if self._opset >= _XOR_OPSET
            else self._sums(stored, tick, checks)
        )

    def _looked_up_sums(self, stored: str, tick: str, checks: NDArray[np.bool_]) -> str:
        """Write down whether checks fail, uint64 [B], by what each byte adds to them.

        A table for each row q has for each byte eight checks of the words of its eight bits, a byte of an int64 for
        each word. They are added over rows; in column r, bit b belongs to word (b + r) mod 8, so that sums are turned
        by r bytes, and added over columns.
        """
        add, inside = self.inside.node, self.inside
        single = add("Mul", self._table(np.ones(self._rows), np.int64), tick)
        flat = self._table(-1, np.int64)
        rows = [
            inside.cast(add("Reshape", row, flat), TensorProto.INT32)
            for row in inside.cut(stored, single, self._rows, axis=2)
        ]
        marks = []
        for first in range(0, len(checks), 8):
            tables = self._share(self._contributions(checks[first : first + 8]))
            of_row = inside.split(tables, self._rows)
            sums = inside.xor(add("GatherElements", add("Reshape", of_row[q], flat), row) for q, row in enumerate(rows))
            columns = inside.cast(add("Reshape", sums, self._table([-1, 8], np.int64)), TensorProto.UINT64)
            up = add("BitShift", columns, self._table(8 * np.arange(8), np.uint64), direction="LEFT")
            # Not turned at all is a shift by 64 bits, or of none on some processors: 0, or the value itself.
            down = add("BitShift", columns, self._table(64 - 8 * np.arange(8), np.uint64), direction="RIGHT")
            marks.append(inside.xor(inside.split(add("BitwiseOr", up, down), 8, axis=1)))
        mark = marks[0]
        for other in marks[1:]:
            mark = add("BitwiseOr", mark, other)
        return add("Reshape", mark, flat)

    def _contributions(self, checks: NDArray[np.bool_]) -> str:
        """Write down, in the file, what a byte adds to up to eight checks of its eight words, int64 [Q, 256].

        Args:
            checks: which bits of a word each reads, [checks, block].
        """
        add, table = self._pool.node, self._pool.table
        eight = np.arange(8, dtype=np.uint8)
        high = add("Reshape", table(np.arange(16, dtype=np.int32)), table(np.array([-1, 1])))
        values = add("Add", add("Mul", high, table(np.array(16, np.int32))), table(np.arange(16, dtype=np.int32)))
        values = self._pool.cast(add("Reshape", values, table(np.array([-1, 1]))), TensorProto.UINT8)  # [256, 1]
        two = table(np.array(2, np.uint8))
        bits = add("Mod", add("BitShift", values, table(eight), direction="RIGHT"), two)  # [256, b]
        bits = add("Reshape", bits, table(np.array([-1, 8, 1])))
        packed = np.packbits(checks, axis=1, bitorder="little").T[:, None, None]  # [q, 1, 1, j]
        read = add("BitShift", table(packed), table(eight.reshape(-1, 1)), direction="RIGHT")  # [q, 1, b, j]
        hit = self._pool.cast(add("BitwiseAnd", read, bits), TensorProto.INT64)  # [q, 256, b, j]
        hit = add("Mod", hit, table(np.array(2)))
        places = 8 * eight[:, None].astype(np.uint64) + np.arange(len(checks), dtype=np.uint64)
        powers = add("BitShift", table(np.array(1, np.uint64)), table(places.reshape(-1)), direction="LEFT")
        whole = add("Reshape", hit, table(np.array([self._rows, 256, places.size])))
        return add("MatMul", whole, self._pool.cast(powers, TensorProto.INT64))

    def _sums(self, stored: str, tick: str, checks: NDArray[np.bool_]) -> str:
        """Write down how many checks of a block fail, int32 [B].

        One convolution goes over all blocks, since one a block is slow.
        """
        add = self.inside.node
        rows = add("Reshape", stored, add("Mul", self._table([1, 1, -1, 8], np.int64), tick))
        sums = add("ConvInteger", self._planes(rows), self._laid_out(checks), strides=[self._rows, 8])
        return add(
            "ReduceSum", add("Mod", sums, self._table(2, np.int32)), self._table([0, 1, 3], np.int64), keepdims=0
        )

    def _parities(self, stored: str, tick: str) -> str:
        """Write down the parities of the eight words of each block, uint8 [N], bit w that of word w.

        All bits of a column r of bytes are added, bit by bit; bit b of the sum belongs to word (b + r) mod 8, so that
        it is turned by r bits, and the eight columns are added.
        """
        add = self.inside.node
        single = add("Mul", self._table(np.ones(self._rows), np.int64), tick)
        of_column = self.inside.xor(self.inside.cut(stored, single, self._rows, axis=2))
        if self.signed:
            of_column = self.inside.cast(of_column, TensorProto.UINT8)
        up = add("BitShift", of_column, self._table(np.arange(8), np.uint8), direction="LEFT")
        down = add("BitShift", of_column, self._table(8 - np.arange(8), np.uint8), direction="RIGHT")
        turned = self.inside.split(add("BitwiseOr", up, down), 8, axis=3)
        return add("Reshape", self.inside.xor(turned), self._table([-1], np.int64))

    def _suspects(self, marks: str) -> str:
        """Write down the blocks with a mark that is not 0, or some block where there is none: int64 [K].

        NonZero would do it, but onnxruntime folds no node whose result has a size that only its values tell. That of
        TopK is known once the number of marks is folded.
        """
        add, inside = self.inside.node, self.inside
        marked = inside.cast(inside.cast(marks, TensorProto.BOOL), TensorProto.INT32)
        count = add("ReduceSum", marked, self._table([0], np.int64))
        size = inside.cast(add("Max", count, self._table(1, np.int32)), TensorProto.INT64)
        return inside.top(marked, size)

    def _syndromes(self, planes: str) -> str:
        """Write down the syndromes of suspects, bit by bit, int32 [K, 8, checks]."""
        add = self.inside.node
        sums = add("ConvInteger", planes, self._laid_out(self._code.parity_check))
        by_bit = add("Mod", sums, self._table(2, np.int32))
        return add("Reshape", by_bit, self._table([-1, WORDS, self._code.check_bits], np.int64))

    def _flips(self, positions: list[str]) -> str:
        """Write down which bits of suspects are to be flipped, bool [K, 8, Q, 8]."""
        add = self.inside.node
        rows = add("Mul", self._table(np.arange(self._rows)[:, None], np.int32), self._table(8, np.int32))
        there = add("Add", rows, self._table(np.arange(8).reshape(-1, 1, 1), np.int32))  # [b, q, 1]
        masks = [add("Equal", add("Gather", each, self._word_of, axis=1), there) for each in positions]
        return masks[0] if len(masks) == 1 else add("Or", *masks)

    def _counts(self, by_word: str, position: str) -> str:
        """Write down how many words are corrected and how many cannot be, int64 [2].

        A word is faulty if any of its checks fails, and cannot be corrected if it has no position to flip all the same.
        """
        add, one = self.inside.node, self._table(1, np.int64)
        failing = add("ReduceSum", by_word, self._table(2, np.int64), keepdims=0)
        failing = self.inside.cast(self.inside.cast(failing, TensorProto.BOOL), TensorProto.INT64)
        kept = self.inside.cast(add("Equal", position, self._table(NONE, np.int32)), TensorProto.INT64)
        hopeless = add("Mul", failing, kept)
        corrected = add("Sub", failing, hopeless)
        both = self._table([0, 1], np.int64)
        totals = [add("ReduceSum", each, both, keepdims=0) for each in (corrected, hopeless)]
        return add("Concat", *(add("Reshape", total, one) for total in totals), axis=0)

    def _number(self, by_word: str, first: int, last: int) -> str:
        """Write down bits `first` ... `last - 1` of syndromes as numbers, [K, 8, r] -> int32 [K, 8]."""
        places = np.arange(self._code.check_bits) - first
        values = np.where((places >= 0) & (places < last - first), 1 << np.maximum(places, 0), 0)
        return self.inside.node("MatMul", by_word, self._table(values, np.int32))

    def _one_flip(self, by_word: str) -> list[str]:
        """Write down the position of the one flip of each word, int32 [K, 8], by its syndrome."""
        flips, count = self._code.leaders
        position = np.where(count == 1, flips[:, 0], NONE)
        syndrome = self._number(by_word, 0, self._code.check_bits)
        return [self._looked_up(position, syndrome)]

    def _two_flips(self, by_word: str) -> list[str]:
        """Write down the positions of up to two flips of each word, int32 [K, 8] each: the algebra of `bch.dected`.

        Field elements are added as logarithms where they are multiplied. The logarithm of u - 1 = s3 / s1^3 (all ones
        where s3 is 0) and the last bit of the syndrome say what the flips are in units of s1, by two tables.
        """
        code, add = self._code, self.inside.node
        m = code.weight_bits
        units = (1 << m) - 1  # elements that are not 0; as a logarithm: the element 0
        tables = logarithms(code)
        s1, s3, odd = (self._number(by_word, *ends) for ends in ((0, m), (m, 2 * m), (2 * m, 2 * m + 1)))
        log1, log3 = (self._looked_up(tables.log, value) for value in (s1, s3))
        zero, order = self._table(0, np.int32), self._table(units, np.int32)
        cube = add("Mul", log1, self._table(3, np.int32))
        quotient = add("Add", add("Sub", log3, cube), self._table(3 * units, np.int32))
        none3 = add("Equal", s3, zero)
        row = add("Where", none3, order, add("Mod", quotient, order))
        row = add("Add", row, add("Mul", odd, self._table(units + 1, np.int32)))
        alone = add("Mul", odd, self.inside.cast(none3, TensorProto.INT32))
        alone = add("Add", alone, self._table(2 * units + 2, np.int32))
        alone = add("Add", alone, add("Mul", self._not(none3), self._table(2, np.int32)))
        row = add("Where", add("Equal", s1, zero), alone, row)
        positions = []
        for table in tables.multiple:
            factor = self._looked_up(table, row)
            power = add("Mod", add("Add", log1, factor), order)
            power = add("Where", add("Less", factor, order), power, factor)
            positions.append(self._looked_up(tables.position, power))
        kept = self._table(NONE, np.int32)
        hopeless = add("Or", *(add("Equal", each, kept) for each in positions))
        return [add("Where", hopeless, kept, each) for each in positions]

    def _not(self, value: str) -> str:
        """Write down the opposite of truth values, as int32."""
        return self.inside.cast(self.inside.node("Not", value), TensorProto.INT32)

    def _looked_up(self, table: NDArray[np.integer], index: str) -> str:
        """Write down a look-up in a table of bytes, as int32."""
        found = self.inside.node("Gather", self._table(table, np.uint8), index)
        return self.inside.cast(found, TensorProto.INT32)

    def _extended(self, stored: str) -> str:
        """Write down bytes without their spare bits, as weights."""
        add, spare = self.inside.node, 8 - self._code.weight_bits
        if self._unsigned and self._opset >= _XOR_OPSET:
            return add("BitwiseAnd", stored, self._table(self._code.data_mask, np.uint8))
        if self.signed:
            factor = self._table(1 << spare, np.int8)
            return add("Div", add("Mul", stored, factor), factor)  # the product is modulo 256
        shifted = add("BitShift", stored, self._table(spare, np.uint8), direction="LEFT")
        if self._unsigned:
            return add("BitShift", shifted, self._table(spare, np.uint8), direction="RIGHT")
        shifted = self.inside.cast(shifted, TensorProto.INT8)
        if self._opset >= _INT8_OPSET:
            return add("Div", shifted, self._table(1 << spare, np.int8))
        one, zero = self._table(1, np.float32), self._table(0, np.int8)
        kernel, scale = self._table([[[[1]]]], np.int8), self._table(1 << spare, np.float32)
        return add("QLinearConv", shifted, one, zero, kernel, one, zero, scale, zero)

    def _table(self, values: object, dtype: type[np.generic]) -> str:
        """Store a table once for the function to read, and return its name in there."""
        return self._share(self._pool.table(np.asarray(values).astype(dtype)))

    def _share(self, value: str) -> str:
        """Hand a value of the file to the function, and return its name in there."""
        return self.shared.setdefault(value, f"t{len(self.shared):x}")
