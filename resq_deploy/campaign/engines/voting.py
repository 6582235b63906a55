"""Faults in the copies of voted tensors: what is left of them once the session is created.

A vote over stored copies is taken when the file is optimised. A fault it outvotes leaves the golden graph, and one it
does not is a fault in the voted tensor. That is proven for a file before it is relied on.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx

from resq_deploy.campaign.engines.injection import Injector
from resq_deploy.deployed.patch import Patcher
from resq_deploy.deployed.runtime_graph import RuntimeGraph, Signature
from resq_deploy.deployed.votes import Vote, find_votes, holds_negative_zero
from resq_deploy.faults.bits import Bytes

Optimise = Callable[[bytes], RuntimeGraph | None]
Values = Mapping[str, bytes]

_DAMAGE = 0x40  # of a stored byte: in the exponent of a float and far up in an integer


class Voting:
    """The votes of a file that are taken when it is optimised.

    Args:
        injector: knows the stored bytes and which tensors may be hit.
        graph: the golden graph.
        golden: its signatures.
        optimise: returns the optimised graph of a faulty file; None if there is none.
    """

    def __init__(
        self, injector: Injector, graph: RuntimeGraph, golden: Sequence[Signature], optimise: Optimise
    ) -> None:
        self._patcher = injector.patcher
        votes = [
            vote
            for vote in find_votes(onnx.ModelProto.FromString(self._patcher.golden))
            if all(injector.knows(copy) and not self._patcher.shared(copy) for copy in vote.copies)
            and _is_plain(vote, self._patcher)
            and _is_folded(vote, graph)
        ]
        proven = votes if votes and self._leave_golden(votes, graph, golden, optimise) else []
        self._votes = {vote.output: vote for vote in proven}
        self._of = {copy: vote for vote in proven for copy in vote.copies}

    def _leave_golden(
        self, votes: Sequence[Vote], graph: RuntimeGraph, golden: Sequence[Signature], optimise: Optimise
    ) -> bool:
        """Try out, with one file in which every element of one copy of each vote is faulty, that the graph stays."""
        masks: dict[str, Bytes] = {}
        for place, vote in enumerate(votes):
            copy = vote.copies[place % len(vote.copies)]
            masks[copy] = np.full_like(self._patcher.stored(copy), _DAMAGE)
        faulty = optimise(self._patcher.apply(masks))
        return faulty is not None and faulty.signatures(graph) == list(golden)

    @property
    def involved(self) -> set[str]:
        """The tensors that are voted, and their copies."""
        return {*self._votes, *self._of}

    def outcome(self, values: Values) -> dict[str, bytes]:
        """Return what a fault leaves behind the votes.

        Args:
            values: new stored bytes of the tensors it changes.

        Returns:
            New bytes of voted tensors and of tensors that no vote protects; those that keep theirs are left out.
        """
        left = {name: value for name, value in values.items() if name not in self._of}
        for output in dict.fromkeys(self._of[name].output for name in values if name in self._of):
            vote = self._votes[output]
            voted = vote.outcome({copy: values.get(copy) or self._stored(copy) for copy in vote.copies})
            if voted != self.stored(output):
                left[output] = voted
        return left

    def voted(self, tensor: str) -> str:
        """Return the tensor that is voted from a stored one; itself if none is."""
        return self._of[tensor].output if tensor in self._of else tensor

    @property
    def votes(self) -> list[Vote]:
        """The votes."""
        return list(self._votes.values())

    def differing(self, values: Values) -> int:
        """Return how many voted values have copies that are not all alike.

        Args:
            values: new stored bytes of the tensors that a fault changes.
        """
        count = 0
        for output in dict.fromkeys(self._of[name].output for name in values if name in self._of):
            vote = self._votes[output]
            a, b, c = (np.frombuffer(values.get(copy) or self._stored(copy), vote.dtype) for copy in vote.copies)
            count += int(((a != b) | (a != c)).sum())
        return count

    def exposed(self, tensors: Sequence[str]) -> list[str]:
        """Return the tensors that a fault in some stored ones can change: no voted one if it hits one copy only."""
        found = [name for name in tensors if name not in self._of]
        hit = [self._of[name].output for name in dict.fromkeys(tensors) if name in self._of]
        return found + [output for output in dict.fromkeys(hit) if hit.count(output) > 1]

    def copies(self, tensor: str) -> tuple[str, ...]:
        """Return the stored tensors that a tensor of the golden graph comes from: its copies, or itself."""
        return self._votes[tensor].copies if tensor in self._votes else (tensor,)

    def stored(self, tensor: str) -> bytes:
        """Return the golden bytes of a voted or stored tensor."""
        return self._stored(self.copies(tensor)[0])

    def _stored(self, tensor: str) -> bytes:
        return self._patcher.stored(tensor).tobytes()


def _is_plain(vote: Vote, patcher: Patcher) -> bool:
    """Return whether the file stores the same in all copies of a vote, and nothing that onnxruntime would alter."""
    values = {patcher.stored(copy).tobytes() for copy in vote.copies}
    return len(values) == 1 and not holds_negative_zero(np.frombuffer(values.pop(), dtype=vote.dtype))


def _is_folded(vote: Vote, graph: RuntimeGraph) -> bool:
    """Return whether an optimised graph neither makes the voted tensor nor reads a copy of it."""
    return vote.output not in graph.makers and graph.parameters.keys().isdisjoint(vote.copies)
