"""The decoder of a code as standard ONNX nodes, which onnxruntime folds when it creates a session.

One function a file and code, called once for each tensor, over tables all calls share. It takes stored bytes as blocks
[B, 1, Q, 8] - byte i = 8 q + r - and gives the weights in the same order, int8. Only operators of opset 13 are needed:

    bits      BitShift by 0 ... 7: eight planes; what lies above the lowest bit does not matter to a parity
    suspects  blocks with a check that fails: ConvInteger with the checks laid out over (b, q, r), Mod 2, TopK
    syndromes the same with all checks, of suspects only
    flips     a table of 256 entries (`secded`), or the algebra of `bch.dected` on logarithms
    repair    Xor of the suspects' bits, packed by ConvInteger with 1, 2, 4 ..., written back by ScatterND
    weights   spare bits shifted out, the rest read as int8 and divided by 2 or 4 (opset 13: QLinearConv, exact there)

onnxruntime keeps what it folds until it has folded all, so that memory is the sum over nodes: what counts is how
little is computed of all blocks. From opset 18 on, suspects of `secded` are therefore found by BitwiseXor of whole
bytes, as blocks with a word of odd parity, and bytes are stored as int8: six bytes a weight in place of fifteen.

Tried with onnxruntime 1.20 (opset 13 only: it has no arithmetic on int8), 1.22, 1.24 and 1.32.
"""

import dataclasses

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from resq_deploy.codes.bch import half_roots, powers
from resq_deploy.codes.code import WORDS, Code
from resq_deploy.deployed.coded import DOMAIN, function_name
from resq_deploy.protection.graph_parts import Parts

LEAST_OPSET = 13
_INT8_OPSET, _XOR_OPSET = 14, 18  # arithmetic on int8; BitwiseXor
_NONE, _UNUSED = 255, 254  # positions: none, the word is kept; none, though there is another flip to correct


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """What a file needs once to decode all its tensors.

    Attributes:
        function: the function to call, of domain `DOMAIN`.
        tables: stored tables; they are to be protected by other means.
        nodes: nodes that compute further tables from these.
        shared: what each call takes behind the stored bytes: names of tables and computed tables.
        signed: whether bytes are stored as int8; uint8 otherwise.
    """

    function: onnx.FunctionProto
    tables: tuple[onnx.TensorProto, ...]
    nodes: tuple[onnx.NodeProto, ...]
    shared: tuple[str, ...]
    signed: bool

    def call(self, stored: str, weights: str) -> onnx.NodeProto:
        """Return the node that decodes stored bytes, [B, 1, Q, 8], to weights, int8 of that shape."""
        return helper.make_node(self.function.name, [stored, *self.shared], [weights], domain=DOMAIN)


def make_decoder(code: Code, opset: int, prefix: str) -> Decoder:
    """Return the decoder of a code.

    Args:
        code: the code.
        opset: of the file that is to hold it, 13 or later.
        prefix: begins the names of its tables and values in the file.
    """
    body = _Body(code, opset, prefix)
    weights = body.weights("stored")
    function = helper.make_function(
        DOMAIN,
        function_name(code),
        ["stored", *body.shared.values()],
        [weights],
        body.inside.nodes,
        [helper.make_opsetid("", opset)],
    )
    tables, nodes = tuple(body.outside.tables), tuple(body.outside.nodes)
    return Decoder(function=function, tables=tables, nodes=nodes, shared=tuple(body.shared), signed=body.signed)


class _Body:
    """The function's nodes as they are written down, with the tables they read.

    Attributes:
        outside: tables and nodes of the file.
        inside: nodes of the function.
        signed: whether bytes are stored as int8; uint8 otherwise.
        shared: for values of the file that the function takes, their names in there.
    """

    def __init__(self, code: Code, opset: int, prefix: str) -> None:
        self.outside, self.inside = Parts(prefix), Parts("v")
        self.shared: dict[str, str] = {}
        self.signed = code.corrects == 1 and opset >= _XOR_OPSET
        self._code, self._opset, self._rows = code, opset, code.block // 8
        within = np.arange(8)
        self._word_of = self._stored((within[:, None, None] + within) % 8, np.int32)  # [b, 1, r]

    def weights(self, stored: str) -> str:
        """Write down the decoding of stored bytes, and return the name of the weights."""
        add = self.inside.node
        blocks = self._suspects(self._parities(stored) if self.signed else self._sums(stored))
        suspects = add("Gather", stored, blocks, axis=0)
        planes = self._planes(add("Cast", suspects, to=TensorProto.UINT8) if self.signed else suspects)
        odd = add("Cast", add("Mod", planes, self._table(2, np.uint8)), to=TensorProto.BOOL)
        bits = add("Cast", add("Xor", odd, self._flips(planes)), to=TensorProto.UINT8)
        packed = add("ConvInteger", bits, self._table(1 << np.arange(8).reshape(1, 8, 1, 1), np.uint8))
        repaired = add("Cast", packed, to=TensorProto.INT8 if self.signed else TensorProto.UINT8)
        column = add("Reshape", blocks, self._table([-1, 1], np.int64))
        return self._sign_extended(add("ScatterND", stored, column, repaired))

    def _laid_out(self, columns: NDArray[np.int64], checks: int) -> str:
        """Write down parity checks for all words and places of a block, uint8 [8 checks, b, q, r], in the file.

        Args:
            columns: the column of each bit of a word, [block].
            checks: bits of a column.
        """
        add = self.outside.node
        by_place = columns.reshape(self._rows, 8).T[..., None]  # [b, q, 1]
        places = np.arange(checks).reshape(-1, 1, 1, 1)
        # Stored as uint16 to be small; earlier versions of onnxruntime shift other types only.
        wide = add("Cast", self._stored(by_place, np.uint16), to=TensorProto.UINT32)
        shifted = add("BitShift", wide, self._stored(places, np.uint32), direction="RIGHT")
        of_word = add("Cast", add("Mod", shifted, self._stored(2, np.uint32)), to=TensorProto.UINT8)
        here = add("Equal", self._word_of, self._stored(np.arange(WORDS).reshape(-1, 1, 1, 1, 1), np.int32))
        whole = add("Where", here, of_word, self._stored(0, np.uint8))  # [w, j, b, q, r]
        return self._share(add("Reshape", whole, self._stored([-1, 8, self._rows, 8], np.int64)))

    def _planes(self, stored: str) -> str:
        """Write down the bits of bytes, [N, 1, Q, 8] -> [N, 8, Q, 8]; only the lowest of each counts."""
        shifts = self._table(np.arange(8).reshape(-1, 1, 1), np.uint8)
        return self.inside.node("BitShift", stored, shifts, direction="RIGHT")

    def _sums(self, stored: str) -> str:
        """Write down marks of blocks, int32 [B], 0 where no word can be corrected.

        Not all checks are needed for that: the parity of a word tells that one bit is flipped, and s1 = x + y of
        `bch.dected`, which is not 0, that two are. One convolution goes over all blocks, since one a block is slow.
        """
        add, code = self.inside.node, self._code
        columns, checks = np.array(code.columns), 1
        if code.corrects == 2:
            m = code.weight_bits
            columns, checks = columns % (1 << m) + (columns >> 2 * m << m), m + 1
        else:
            columns = np.ones_like(columns)
        rows = add("Reshape", stored, self._table([1, 1, -1, 8], np.int64))
        sums = add("ConvInteger", self._planes(rows), self._laid_out(columns, checks), strides=[self._rows, 8])
        return add(
            "ReduceSum", add("Mod", sums, self._table(2, np.int32)), self._table([0, 1, 3], np.int64), keepdims=0
        )

    def _parities(self, stored: str) -> str:
        """Write down the parities of the eight words of each block, uint8 [N], bit w that of word w.

        All bits of a column r of bytes are added, bit by bit; bit b of the sum belongs to word (b + r) mod 8, so that
        it is turned by r bits, and the eight columns are added.
        """
        add = self.inside.node
        of_column = self.inside.xor(self.inside.split(stored, self._rows, axis=2))
        of_column = add("Cast", of_column, to=TensorProto.UINT8)
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
        marked = add("Cast", add("Cast", marks, to=TensorProto.BOOL), to=TensorProto.INT32)
        count = add("ReduceSum", marked, self._table([0], np.int64))
        size = add("Cast", add("Max", count, self._table(1, np.int32)), to=TensorProto.INT64)
        return inside.top(marked, size)

    def _flips(self, planes: str) -> str:
        """Write down which bits of suspects are to be flipped, bool [K, 8, Q, 8]."""
        code, add = self._code, self.inside.node
        matrix = self._laid_out(np.array(code.columns), code.check_bits)
        syndromes = add("Mod", add("ConvInteger", planes, matrix), self._table(2, np.int32))
        by_word = add("Reshape", syndromes, self._table([-1, WORDS, code.check_bits], np.int64))
        positions = self._two_flips(by_word) if code.corrects == 2 else self._one_flip(by_word)
        numbers = np.arange(code.block).reshape(self._rows, 8).T[..., None]  # [b, q, 1]
        there, word_of = add("Cast", self._table(numbers, np.uint8), to=TensorProto.INT32), self._share(self._word_of)
        masks = [add("Equal", add("Gather", each, word_of, axis=1), there) for each in positions]
        return masks[0] if len(masks) == 1 else add("Or", *masks)

    def _number(self, by_word: str, first: int, last: int) -> str:
        """Write down bits `first` ... `last - 1` of syndromes as numbers, [K, 8, r] -> int32 [K, 8]."""
        places = np.arange(self._code.check_bits) - first
        values = np.where((places >= 0) & (places < last - first), 1 << np.maximum(places, 0), 0)
        return self.inside.node("MatMul", by_word, self._table(values, np.int32))

    def _one_flip(self, by_word: str) -> list[str]:
        """Write down the position of the one flip of each word, int32 [K, 8], by its syndrome."""
        flips, count = self._code.leaders
        position = np.where(count == 1, flips[:, 0], _NONE)
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
        tables = _logarithms(code)
        s1, s3, odd = (self._number(by_word, *ends) for ends in ((0, m), (m, 2 * m), (2 * m, 2 * m + 1)))
        log1, log3 = (self._looked_up(tables.log, value) for value in (s1, s3))
        zero, order = self._table(0, np.int32), self._table(units, np.int32)
        cube = add("Mul", log1, self._table(3, np.int32))
        quotient = add("Add", add("Sub", log3, cube), self._table(3 * units, np.int32))
        none3 = add("Equal", s3, zero)
        row = add("Where", none3, order, add("Mod", quotient, order))
        row = add("Add", row, add("Mul", odd, self._table(units + 1, np.int32)))
        alone = add("Mul", odd, add("Cast", none3, to=TensorProto.INT32))
        alone = add("Add", alone, self._table(2 * units + 2, np.int32))
        alone = add("Add", alone, add("Mul", self._not(none3), self._table(2, np.int32)))
        row = add("Where", add("Equal", s1, zero), alone, row)
        positions = []
        for table in tables.multiple:
            factor = self._looked_up(table, row)
            power = add("Mod", add("Add", log1, factor), order)
            power = add("Where", add("Less", factor, order), power, factor)
            positions.append(self._looked_up(tables.position, power))
        kept = self._table(_NONE, np.int32)
        hopeless = add("Or", *(add("Equal", each, kept) for each in positions))
        return [add("Where", hopeless, kept, each) for each in positions]

    def _not(self, value: str) -> str:
        """Write down the opposite of truth values, as int32."""
        return self.inside.node("Cast", self.inside.node("Not", value), to=TensorProto.INT32)

    def _looked_up(self, table: NDArray[np.integer], index: str) -> str:
        """Write down a look-up in a table of bytes, as int32."""
        found = self.inside.node("Gather", self._table(table, np.uint8), index)
        return self.inside.node("Cast", found, to=TensorProto.INT32)

    def _sign_extended(self, stored: str) -> str:
        """Write down bytes without their spare bits, as int8."""
        add, spare = self.inside.node, 8 - self._code.weight_bits
        if self.signed:
            shifted = add("Mul", stored, self._table(1 << spare, np.int8))  # modulo 256
        else:
            shifted = add("BitShift", stored, self._table(spare, np.uint8), direction="LEFT")
            shifted = add("Cast", shifted, to=TensorProto.INT8)
        if self._opset >= _INT8_OPSET:
            return add("Div", shifted, self._table(1 << spare, np.int8))
        one, zero = self._table(1, np.float32), self._table(0, np.int8)
        kernel, scale = self._table([[[[1]]]], np.int8), self._table(1 << spare, np.float32)
        return add("QLinearConv", shifted, one, zero, kernel, one, zero, scale, zero)

    def _table(self, values: object, dtype: type[np.generic]) -> str:
        """Store a table once for the function to read, and return its name in there."""
        return self._share(self._stored(values, dtype))

    def _stored(self, values: object, dtype: type[np.generic]) -> str:
        """Store a table once, and return its name in the file."""
        return self.outside.table(np.asarray(values).astype(dtype))

    def _share(self, value: str) -> str:
        """Hand a value of the file to the function, and return its name in there."""
        return self.shared.setdefault(value, f"t{len(self.shared):x}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Logarithms:
    """Tables of the algebra over GF(2^m), n = 2^m - 1 elements of which are not 0.

    Attributes:
        log: logarithm of each element; of 0, any. [2^m]
        multiple: for both flips, what they are in units of s1, as logarithm; n: the element 0, and n + 1: the word is
            hopeless, n + 2: there is no such flip. [2 (n + 1) + 4]: for s1 not 0 first those of an even syndrome, by
            the logarithm of s3 / s1^3 (n: s3 is 0), then those of an odd one; for s1 = 0 those of an even and an odd
            one with s3 = 0 and with another.
        position: bit of a word for a logarithm, n for the element 0. [n + 3]
    """

    log: NDArray[np.integer]
    multiple: tuple[NDArray[np.integer], NDArray[np.integer]]
    position: NDArray[np.integer]


def _logarithms(code: Code) -> _Logarithms:
    m = code.weight_bits
    elements, units = powers(m), (1 << m) - 1
    hopeless, unused = units + 1, units + 2
    log = np.zeros(units + 1, dtype=np.int64)
    log[list(elements)] = np.arange(units)
    log_or_zero = log.copy()
    log_or_zero[0] = units
    roots = half_roots(m)[[1 ^ ratio for ratio in (*elements, 0)]]
    first = np.where(roots < 0, hopeless, log_or_zero[roots])
    second = np.where(roots < 0, hopeless, log_or_zero[roots ^ 1])
    single = np.where(np.arange(units + 1) == 0, 0, hopeless)
    position = np.full(units + 3, _NONE)
    for bit, column in enumerate(code.columns):
        if column:
            position[log_or_zero[column & units]] = bit
    position[unused] = _UNUSED
    return _Logarithms(
        log=log,
        multiple=(
            np.concatenate([first, single, [unused, units, hopeless, hopeless]]),
            np.concatenate([second, np.full(units + 1, unused), [unused, unused, unused, unused]]),
        ),
        position=position,
    )
