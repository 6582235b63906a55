"""Weights that a file stores under codes, decoded in numpy: what they are, what flips leave, and the file without code.

onnxruntime decodes when it creates the session. What is said of that here holds for code words that are sound before
the flips, and for tables as `protect` wrote them; whoever relies on it tries it out on the file first.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from resq_deploy.codes.code import WORDS, Code
from resq_deploy.codes.layout import Bytes
from resq_deploy.codes.words import Status, decode, encode, left_by_flips
from resq_deploy.deployed.coded import DOMAIN, HEALTH, Coded, decoding
from resq_deploy.deployed.nesting import captured
from resq_deploy.deployed.stored import Site
from resq_deploy.deployed.surfaces import Role, Surface
from resq_deploy.errors import ModelError
from resq_deploy.faults.fault import Edit

_FIRST = re.compile(r"^(initializer|node)\[(\d+)\]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Left:
    """What changed bits of code words leave.

    Attributes:
        changes: XOR mask of each decoded weight that is changed, a byte a value, uint8 [values].
        corrected: words that were corrected.
        uncorrectable: words that could not be.
    """

    changes: Mapping[str, Bytes]
    corrected: int
    uncorrectable: int


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Weights that are stored one behind the other under one code.

    Attributes:
        code: the code.
        stored: the initializers that hold the words, each with the byte at which it begins.
        weights: the weights, ascending by the byte that stores the first value.
        values: all decoded bytes as they are read, those of the padding too, uint8 [bytes].
        sound: whether the file's words are.
    """

    code: Code
    stored: Mapping[str, int]
    weights: Sequence[Coded]
    values: Bytes
    sound: bool

    def left(self, bits: NDArray[np.int64]) -> Left:
        """Return what flips of some bits of the words leave; addresses 8 byte + bit, counted over all initializers."""
        found = left_by_flips(self.code, bits)
        read = self.as_read(found.change)
        starts = np.array([weight.start for weight in self.weights])
        owner = np.searchsorted(starts, found.index, side="right") - 1
        changes = {}
        for place in np.unique(owner[owner >= 0]):
            weight = self.weights[place]
            index, change = found.index[owner == place] - weight.start, read[owner == place]
            inside = index < weight.count  # the rest is padding
            if inside.any():
                changes[weight.weight] = np.zeros(weight.count, dtype=np.uint8)
                changes[weight.weight][index[inside]] = change[inside]
        corrected, uncorrectable = (int((found.status == s).sum()) for s in (Status.CORRECTED, Status.UNCORRECTABLE))
        return Left(changes=changes, corrected=corrected, uncorrectable=uncorrectable)

    def as_read(self, bytes_: Bytes) -> Bytes:
        """Return bytes that are decoded to int8 as those of the type that weights have: of uint8, spare bits are 0."""
        return bytes_ & np.uint8(self.code.data_mask) if self.unsigned else bytes_

    @property
    def unsigned(self) -> bool:
        """Whether the weights are uint8; otherwise int8."""
        return self.weights[0].unsigned

    def broken(self, bytes_: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return flips that no word they hit can be corrected of, though each is sure to detect them.

        One more than a word corrects: all of them stay, and nothing else changes.

        Args:
            bytes_: the bytes to hit, of those that store weights; the highest bits of each word are taken.

        Returns:
            Addresses of bits, ascending; none where too few bytes share a word.
        """
        wanted = self.code.corrects + 1
        byte = np.repeat(bytes_, self.code.weight_bits)
        bit = np.tile(np.arange(self.code.weight_bits), len(bytes_))
        word = byte // self.code.block * WORDS + (byte + bit) % WORDS
        order = np.lexsort((byte, -bit, word))
        _, first, count = np.unique(word[order], return_index=True, return_counts=True)
        taken = order[(first[count >= wanted, None] + np.arange(wanted)).reshape(-1)]
        return np.sort(8 * byte[taken] + bit[taken]).astype(np.int64)

    def as_edits(self, bits: NDArray[np.int64]) -> tuple[Edit, ...]:
        """Return flips of some bits, counted over all initializers, by initializer."""
        names, starts = list(self.stored), np.array(list(self.stored.values()))
        owner = np.searchsorted(starts, bits // 8, side="right") - 1
        return tuple(
            Edit.of(names[place], (mine // 8).tolist(), (mine % 8).tolist())
            for place in np.unique(owner)
            for mine in [bits[owner == place] - 8 * starts[place]]
        )


class Codes:
    """What a file stores under codes.

    Args:
        coded: where its weights are stored.
        stored: returns the stored bytes of an initializer.

    Attributes:
        groups: weights that share code words.
        weights: the decoded weights by name.
        words: the initializers that hold code words.

    Raises:
        ModelError: if these are no whole blocks.
    """

    def __init__(self, coded: Iterable[Coded], stored: Callable[[str], Bytes]) -> None:
        together: dict[tuple[str, ...], list[Coded]] = {}
        for each in coded:
            together.setdefault(each.stored, []).append(each)
        self.groups = tuple(_group(names, members, stored) for names, members in together.items())
        self._of = {name: group for group in self.groups for name in group.stored}
        self._group_of = {weight.weight: group for group in self.groups for weight in group.weights}
        self.weights = {weight.weight: weight for group in self.groups for weight in group.weights}
        self.words = frozenset(self._of)

    def group_of(self, tensor: str) -> Group:
        """Return the group of a weight, or of an initializer that holds code words."""
        return self._group_of.get(tensor) or self._of[tensor]

    def value(self, weight: str) -> Bytes:
        """Return the decoded bytes of a weight, uint8 [values]; not to be written to."""
        where = self.weights[weight]
        return self._group_of[weight].values[where.start : where.start + where.count]

    def left(self, masks: Mapping[str, Bytes]) -> Left:
        """Return what is left where stored bytes change.

        Args:
            masks: XOR mask of the bytes of each initializer that changes; those without code words are ignored.
        """
        bits: dict[int, list[NDArray[np.int64]]] = {}
        for name in masks.keys() & self.words:
            group = self._of[name]
            bits.setdefault(self.groups.index(group), []).append(8 * group.stored[name] + set_bits(masks[name]))
        parts = [self.groups[place].left(np.concatenate(found)) for place, found in bits.items()]
        return Left(
            changes={name: change for part in parts for name, change in part.changes.items()},
            corrected=sum(part.corrected for part in parts),
            uncorrectable=sum(part.uncorrectable for part in parts),
        )

    def masks(self, changes: Mapping[str, Bytes]) -> dict[str, Bytes]:
        """Return how the stored bytes change where weights do: from code words to code words.

        Args:
            changes: XOR masks of weights, within their bits, sign included; uint8 [values].
        """
        found: dict[str, Bytes] = {}
        for group in self.groups:
            flat = np.zeros_like(group.values)
            for weight in group.weights:
                if weight.weight in changes:
                    flat[weight.start : weight.start + weight.count] = changes[weight.weight]
            if flat.any():
                spare = 8 - group.code.weight_bits  # the sign, whatever the type
                words = encode(group.code, (flat << np.uint8(spare)).view(np.int8) >> np.int8(spare))
                ends = [*list(group.stored.values())[1:], len(words)]
                found |= {name: words[start:end] for (name, start), end in zip(group.stored.items(), ends, strict=True)}
        return found


def set_bits(mask: Bytes) -> NDArray[np.int64]:
    """Return the addresses of the bits that are set in a mask, ascending, at a cost that grows with them."""
    byte = np.flatnonzero(mask != 0)  # much faster on truth values than on bytes
    which, bit = np.nonzero(np.unpackbits(mask[byte][:, None], axis=1, bitorder="little"))
    return (8 * byte[which] + bit).astype(np.int64)


def _group(names: Sequence[str], members: Sequence[Coded], stored: Callable[[str], Bytes]) -> Group:
    parts = [stored(name) for name in names]
    if any(len(part) % members[0].code.block for part in parts):
        raise ModelError(f"the code words of {names[0]!r} are no whole blocks: the file is damaged")
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    decoded = decode(members[0].code, np.concatenate(parts))
    values = decoded.weights.view(np.uint8)
    return Group(
        code=members[0].code,
        stored=dict(zip(names, starts, strict=False)),
        weights=sorted(members, key=lambda each: each.start),
        values=values & np.uint8(members[0].code.data_mask) if members[0].unsigned else values,
        sound=not decoded.status.any(),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Baked:
    """A file whose weights are stored as they are decoded.

    Attributes:
        model: the file, without code words, tables, decoders, and without its report on health.
        surfaces: those that are left of the protected file's, and the weights.
    """

    model: onnx.ModelProto
    surfaces: tuple[Surface, ...]


def bake(model: onnx.ModelProto, codes: Codes, surfaces: Collection[Surface] = ()) -> Baked:
    """Return what a file computes once its weights are decoded, as a file without code.

    Args:
        model: the protected file; not changed.
        codes: what it stores under codes.
        surfaces: of the protected file.
    """
    kept = _kept_nodes(model.graph, codes.weights)
    read = {value for node, stays in zip(model.graph.node, kept, strict=True) if stays for value in _reads(node)}
    serving = {value for node, stays in zip(model.graph.node, kept, strict=True) if not stays for value in node.input}
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    del plain.graph.node[:], plain.graph.initializer[:], plain.functions[:], plain.graph.output[:]
    places = {}
    for kind, stay, new in (
        (
            "initializer",
            [t.name in read or t.name not in serving for t in model.graph.initializer],
            plain.graph.initializer,
        ),
        ("node", kept, plain.graph.node),
    ):
        for old, (part, stays) in enumerate(zip(getattr(model.graph, kind), stay, strict=True)):
            if stays:
                places[f"{kind}[{old}]"] = f"{kind}[{len(new)}]"
                new.append(part)
    plain.functions.extend(function for function in model.functions if function.domain != DOMAIN)
    plain.graph.output.extend(value for value in model.graph.output if value.name != HEALTH)
    left = [moved for surface in surfaces if (moved := _moved(surface, places))]
    for weight in codes.weights.values():
        place = f"initializer[{len(plain.graph.initializer)}]"
        number, shape = onnx.TensorProto.UINT8 if weight.unsigned else onnx.TensorProto.INT8, weight.shape
        raw = codes.value(weight.weight).tobytes()
        plain.graph.initializer.append(helper.make_tensor(weight.weight, number, shape, raw, raw=True))
        left.append(
            Surface(
                tensor=weight.weight,
                role=Role.WEIGHT,
                layer=weight.weight,
                dtype="uint8" if weight.unsigned else "int8",
                shape=shape,
                width=8,
                sites=(Site(place, 0, weight.count),),
            )
        )
    return Baked(model=plain, surfaces=tuple(left))


def _kept_nodes(graph: onnx.GraphProto, weights: Collection[str]) -> list[bool]:
    """Return which nodes still serve once weights are stored as they are decoded: all but those that decoded them."""
    made = decoding(graph).made
    makers = {output: node for node in graph.node for output in node.output if output and output not in weights}
    served, waiting = set[str](), [value.name for value in graph.output if value.name != HEALTH]
    waiting += [value for node in graph.node if made.keys().isdisjoint(node.output) for value in _reads(node)]
    while waiting:
        name = waiting.pop()
        if name in makers and name not in served:
            served.update(makers[name].output)
            waiting += _reads(makers[name])
    return [made.keys().isdisjoint(node.output) or not served.isdisjoint(node.output) for node in graph.node]


def _reads(node: onnx.NodeProto) -> list[str]:
    return [*filter(None, node.input), *captured(node)]


def _moved(surface: Surface, places: Mapping[str, str]) -> Surface | None:
    """Return a surface at its new places; None where one of them is gone."""
    sites = []
    for site in surface.sites:
        first = _FIRST.match(site.place)
        where = site.place if first is None else places.get(first[0])
        if where is None:
            return None
        place = site.place if first is None else where + site.place[first.end() :]
        sites.append(Site(place, site.start, site.length))
    return dataclasses.replace(surface, sites=tuple(sites))
