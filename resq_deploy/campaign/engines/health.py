"""What a faulty file reports of its code words and votes, where that follows without a run.

The report is folded when the session is created. It counts words that were corrected or cannot be, and values whose
stored copies are not all alike; numpy counts the same, once that was tried out.
"""

from collections.abc import Callable, Iterable

import numpy as np
import onnx

from resq_deploy.campaign.engines.decoding import Decoding
from resq_deploy.campaign.engines.injection import Injection
from resq_deploy.campaign.engines.majorities import Majorities
from resq_deploy.campaign.engines.voting import Voting
from resq_deploy.deployed.coded import HEALTH
from resq_deploy.deployed.decoding import Left
from resq_deploy.deployed.health import Health
from resq_deploy.deployed.patch import Patcher
from resq_deploy.deployed.runtime_graph import RuntimeGraph
from resq_deploy.faults.bits import Bytes

Optimise = Callable[[bytes], RuntimeGraph | None]


class HealthReport:
    """The report of a file on its health.

    Args:
        golden: what the fault-free file reports; None where it reports nothing.
        patcher: knows the stored bytes.
        voting: the votes of the file.
        majorities: its bitwise majorities.
        decoding: its codes.
        optimise: returns the optimised graph of a faulty file; None if there is none.
    """

    def __init__(
        self,
        golden: Health | None,
        patcher: Patcher,
        voting: Voting,
        majorities: Majorities,
        decoding: Decoding,
        optimise: Optimise,
    ) -> None:
        self._golden = golden
        self._voting, self._majorities, self._decoding = voting, majorities, decoding
        self._reads: frozenset[str] = frozenset()
        if golden is None:
            return
        counted = set(decoding.words)
        if self._counts_votes(golden, patcher, optimise):
            counted.update(copy for vote in voting.votes for copy in vote.copies)
        self._reads = frozenset(_stored_behind(onnx.ModelProto.FromString(patcher.golden).graph, HEALTH) - counted)

    def _counts_votes(self, golden: Health, patcher: Patcher, optimise: Optimise) -> bool:
        """Try out, with a file in which one value of one copy of each vote is faulty, that each counts as corrected."""
        masks: dict[str, Bytes] = {}
        for place, vote in enumerate(self._voting.votes):
            copy = vote.copies[place % len(vote.copies)]
            masks[copy] = np.zeros_like(patcher.stored(copy))
            masks[copy][-1] = 1
        if not masks:
            return True
        faulty = optimise(patcher.apply(masks))
        expected = golden.corrected + self._voting.differing(patcher.values(masks))
        return faulty is not None and faulty.health() == golden._replace(corrected=expected)

    def follows(self, tensors: Iterable[str]) -> bool:
        """Return whether it is known what a file reports that has faults in some stored tensors."""
        return self._reads.isdisjoint(tensors)

    def of(self, injection: Injection, left: Left) -> Health | None:
        """Return what a file with a fault reports, where that follows; `left` is what it leaves of code words."""
        if self._golden is None:
            return None
        differing = self._voting.differing(injection.values) + self._majorities.differing(injection.masks)
        return Health(
            self._golden.corrected + left.corrected + differing, self._golden.uncorrectable + left.uncorrectable
        )


def _stored_behind(graph: onnx.GraphProto, value: str) -> set[str]:
    """Return the initializers that a value is made of."""
    makers = {output: node for node in graph.node for output in node.output if output}
    stored = {tensor.name for tensor in graph.initializer}
    found, waiting = set[str](), [value]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        if name in makers:
            waiting += filter(None, makers[name].input)
    return found & stored
