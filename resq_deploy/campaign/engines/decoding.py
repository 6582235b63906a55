"""Faults in code words: what is left of them once the session is created.

onnxruntime decodes weights that are stored under a code when it optimises the file. A fault that the code corrects
leaves the golden graph; one it does not is a fault in a few decoded weights, of which numpy says which and how. A file
that stores these weights as they are decoded is then optimised to the same graph, in the time of a plain file. All of
that is tried out for a file before it is relied on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx

from resq_deploy.campaign.engines.injection import Injector
from resq_deploy.codes.code import WORDS
from resq_deploy.codes.layout import byte_of
from resq_deploy.deployed.coded import HEALTH, coded_weights
from resq_deploy.deployed.decoding import Codes, Left, bake
from resq_deploy.deployed.health import Health
from resq_deploy.deployed.patch import Patcher
from resq_deploy.deployed.runtime_graph import RuntimeGraph, Signature
from resq_deploy.faults.bits import Bytes

Optimise = Callable[[bytes], RuntimeGraph | None]

_MOST_FLIPS = 4  # tried in one word: more than a code corrects, and than it is sure to detect
_BLOCKS = 512  # tried of each initializer


class Decoding:
    """The codes of a file that are decoded when it is optimised.

    Args:
        injector: knows the stored bytes and which tensors may be hit.
        graph: the golden graph.
        golden: its signatures.
        health: what the golden file reports of its code words; None where it reports nothing.
        optimise: returns the optimised graph of a file; None if there is none.

    Attributes:
        words: the initializers that hold code words; none where it cannot be relied on what numpy says of them.
    """

    def __init__(
        self,
        injector: Injector,
        graph: RuntimeGraph,
        golden: Sequence[Signature],
        health: Health | None,
        optimise: Optimise,
    ) -> None:
        self._patcher = injector.patcher
        self._health = health
        model = onnx.ModelProto.FromString(self._patcher.golden)
        self.codes = Codes(coded_weights(model), self._patcher.stored)
        self.words = self.codes.words
        known = all(injector.knows(name) and not self._patcher.shared(name) for name in self.words)
        if not self.words or not known or not all(group.sound for group in self.codes.groups):
            self.words = frozenset()
            return
        baked = bake(model, self.codes, injector.surfaces)
        self._baked = Patcher(baked.model, baked.surfaces)
        self._stays = {surface.tensor for surface in baked.surfaces}
        if not self._is_decoded(graph, golden, optimise):
            self.words = frozenset()

    def _is_decoded(self, graph: RuntimeGraph, golden: Sequence[Signature], optimise: Optimise) -> bool:
        """Try out that files with all kinds of faults are optimised to what they are once numpy has decoded them."""
        plain = optimise(self._baked.golden)
        if plain is None or plain.signatures(graph) != list(golden):
            return False
        for masks in self._trials():
            left = self.codes.left(masks)
            faulty, expected = optimise(self._patcher.apply(masks)), optimise(self.file({}, left))
            if faulty is None or expected is None or faulty.signatures(graph) != expected.signatures(graph):
                return False
            if self._health is not None and not _reports(faulty, self._health, left):
                return False
        return True

    def _trials(self) -> Iterator[dict[str, Bytes]]:
        """Yield faults in all initializers with code words: of some bits a word, and of one byte a block."""
        source = np.random.default_rng(0)  # any mixture will do; a fixed one keeps runs alike
        words, bytes_ = dict[str, Bytes](), dict[str, Bytes]()
        for group in self.codes.groups:
            size = group.code.block
            for name in group.stored:
                whole = np.zeros(len(self._patcher.stored(name)), dtype=np.uint8)
                count = min(len(whole) // size, _BLOCKS)
                blocks = np.sort(source.choice(len(whole) // size, count, replace=False))
                bits = source.permuted(np.tile(np.arange(size), (count, WORDS, 1)), axis=2)[..., :_MOST_FLIPS]
                flips = source.integers(_MOST_FLIPS + 1, size=(count, WORDS))
                block, word, place = np.nonzero(np.arange(_MOST_FLIPS) < flips[..., None])
                bit = bits[block, word, place]
                mask = words.setdefault(name, whole.copy()).reshape(-1, size)
                np.bitwise_xor.at(mask, (blocks[block], byte_of(bit, word)), (1 << bit % 8).astype(np.uint8))
                mask = bytes_.setdefault(name, whole).reshape(-1, size)
                mask[blocks, source.integers(size, size=count)] = source.integers(1, 256, size=count)
        yield words
        yield bytes_

    def left(self, masks: Mapping[str, Bytes]) -> Left:
        """Return what a fault leaves of the weights that are stored under a code."""
        return self.codes.left({name: mask for name, mask in masks.items() if name in self.words})

    def values(self, left: Left) -> dict[str, bytes]:
        """Return the new bytes of the weights that a fault changes."""
        return {name: (self.codes.value(name) ^ change).tobytes() for name, change in left.changes.items()}

    def covers(self, masks: Mapping[str, Bytes]) -> bool:
        """Return whether the file without code can have a fault, but for what it does to code words."""
        return bool(self.words) and self._stays.issuperset(masks)

    def file(self, masks: Mapping[str, Bytes], left: Left) -> bytes:
        """Return a file without code that is optimised to the graph of the file with a fault.

        Args:
            masks: of what the fault changes outside of code words.
            left: what it leaves of these.
        """
        return self._baked.apply({**masks, **left.changes})


def _reports(graph: RuntimeGraph, golden: Health, left: Left) -> bool:
    """Return whether a graph reports what numpy counts of code words."""
    said = graph.constant(HEALTH)
    expected = (golden.corrected + left.corrected, golden.uncorrectable + left.uncorrectable)
    return said is not None and tuple(said.reshape(-1).tolist()) == expected
