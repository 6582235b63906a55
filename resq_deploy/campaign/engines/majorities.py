"""Faults in copies whose bits go by majority: what decoders read is stored seven times, and three copies may be wrong.

onnxruntime takes these majorities when it optimises the file. That the graph stays golden whichever copies are
outvoted, and that a report counts each byte whose copies are not all alike, is tried out before it is relied on.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx

from resq_deploy.campaign.engines.injection import Injector
from resq_deploy.deployed.health import Health
from resq_deploy.deployed.majority import Majority, find_majorities, majority
from resq_deploy.deployed.runtime_graph import RuntimeGraph, Signature
from resq_deploy.faults.bits import Bytes

Optimise = Callable[[bytes], RuntimeGraph | None]


class Majorities:
    """The bitwise majorities of a file that are taken when it is optimised.

    Args:
        injector: knows the stored bytes and which tensors may be hit.
        graph: the golden graph.
        golden: its signatures.
        health: what the golden file reports; None where it reports nothing.
        optimise: returns the optimised graph of a faulty file; None if there is none.
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
        found = [
            one
            for one in find_majorities(onnx.ModelProto.FromString(self._patcher.golden).graph)
            if all(injector.knows(copy) and not self._patcher.shared(copy) for copy in one.copies)
            and len({self._stored(copy).tobytes() for copy in one.copies}) == 1
            and graph.parameters.keys().isdisjoint(one.copies)
        ]
        self._of: dict[str, Majority] = {}
        if found and self._leave_golden(found, graph, golden, health, optimise):
            self._of = {copy: one for one in found for copy in one.copies}

    def _leave_golden(
        self,
        found: Sequence[Majority],
        graph: RuntimeGraph,
        golden: Sequence[Signature],
        health: Health | None,
        optimise: Optimise,
    ) -> bool:
        """Try out, with one file in which as many copies of each byte are faulty as may be, that the graph stays.

        Which copies these are goes through all choices from byte to byte. Each byte counts as corrected.
        """
        masks: dict[str, Bytes] = {}
        place = 0
        for one in found:
            choices = list(itertools.combinations(one.copies, len(one.copies) // 2))
            size = len(self._stored(one.copies[0]))
            of_byte = [choices[(place + byte) % len(choices)] for byte in range(size)]
            place += size
            for copy in one.copies:
                masks[copy] = np.array([0xFF if copy in chosen else 0 for chosen in of_byte], dtype=np.uint8)
        faulty = optimise(self._patcher.apply({copy: mask for copy, mask in masks.items() if mask.any()}))
        if faulty is None or faulty.signatures(graph) != list(golden):
            return False
        return health is None or faulty.health() == health._replace(corrected=health.corrected + place)

    def _stored(self, copy: str) -> Bytes:
        return self._patcher.stored(copy)

    def outvoted(self, masks: Mapping[str, Bytes]) -> set[str]:
        """Return those of the tensors that a fault changes whose majority stays what it was.

        Args:
            masks: what it flips in each of them.
        """
        found = set[str]()
        for one, flips in self._flips(masks):
            if not majority(flips).any():  # of copies that are alike, the majority of flips is what flips in theirs
                found.update(name for name in one.copies if name in masks)
        return found

    def differing(self, masks: Mapping[str, Bytes]) -> int:
        """Return how many bytes have copies that are not all alike.

        Args:
            masks: what a fault flips in each tensor that it changes.
        """
        return sum(int((np.stack(flips) != flips[0]).any(axis=0).sum()) for _, flips in self._flips(masks))

    def _flips(self, masks: Mapping[str, Bytes]) -> Iterator[tuple[Majority, list[Bytes]]]:
        """Yield the majorities that a fault hits, and what it flips in each of their copies."""
        for one in dict.fromkeys(self._of[name] for name in masks if name in self._of):
            untouched = np.zeros_like(self._stored(one.copies[0]))
            yield one, [masks.get(copy, untouched) for copy in one.copies]

    def hidden(self, tensors: Collection[str]) -> set[str]:
        """Return those of some tensors that faults can do nothing in, as most copies are none of them."""
        hit = Counter(self._of[name] for name in set(tensors) if name in self._of)
        few = {one for one, count in hit.items() if 2 * count < len(one.copies)}
        return {name for name in tensors if self._of.get(name) in few}
