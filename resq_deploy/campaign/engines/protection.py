"""What votes, majorities and codes let through: of a fault in stored bytes, what is left in tensors that layers read.

A file that protects what it stores is decided on by what is left: nothing, a fault in the channels of one layer, or a
file that is to be optimised anew - without decoders, where the fault hits none of them.
"""

import dataclasses
from collections.abc import Callable, Sequence

from resq_deploy.campaign.engines.decoding import Decoding
from resq_deploy.campaign.engines.health import HealthReport
from resq_deploy.campaign.engines.injection import Injection, Injector
from resq_deploy.campaign.engines.majorities import Majorities
from resq_deploy.campaign.engines.voting import Values, Voting
from resq_deploy.campaign.record import Way
from resq_deploy.deployed.decoding import Left
from resq_deploy.deployed.health import Health
from resq_deploy.deployed.runtime_graph import RuntimeGraph, Signature
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import ModelError
from resq_deploy.faults.bits import Bytes

Optimise = Callable[[bytes], RuntimeGraph | None]


@dataclasses.dataclass(frozen=True, eq=False)
class Leaving:
    """What a fault leaves behind votes and codes.

    Attributes:
        values: new bytes of voted, decoded and plain tensors; of tables as well.
        words: what is left of code words.
        health: what the faulty file reports; None where it reports nothing.
        known: whether that follows.
    """

    values: Values
    words: Left
    health: Health | None
    known: bool


class Protection:
    """Votes, codes and report of a file.

    Args:
        injector: knows the stored bytes and which tensors may be hit.
        graph: the golden graph.
        golden: its signatures.
        health: what the golden file reports; None where it reports nothing.
        optimise: returns the optimised graph of a faulty file; None if there is none.

    Attributes:
        voting: its votes.
        decoding: its codes.
    """

    def __init__(
        self,
        injector: Injector,
        graph: RuntimeGraph,
        golden: Sequence[Signature],
        health: Health | None,
        optimise: Optimise,
    ) -> None:
        self._patcher, self._surfaces = injector.patcher, injector.surfaces
        self._golden_health = health
        self.voting = Voting(injector, graph, golden, optimise)
        self.decoding = Decoding(injector, graph, golden, health, optimise)
        self._majorities = Majorities(injector, graph, golden, health, optimise)
        self.report = HealthReport(health, injector.patcher, self.voting, self._majorities, self.decoding, optimise)

    @property
    def involved(self) -> set[str]:
        """The tensors that votes and codes decide on: copies and what is voted, code words, and what decodes them."""
        tables = {surface.tensor for surface in self._surfaces if surface.role is Role.CODE}
        return {*self.voting.involved, *self.decoding.codes.words, *tables}

    def exposed(self, tensors: Sequence[str]) -> list[str]:
        """Return the tensors that faults in some stored ones can change.

        Of code words that is not known by their names alone: they count as corrected.
        """
        hidden = self.decoding.words | self._majorities.hidden(tensors)
        return [name for name in self.voting.exposed(tensors) if name not in hidden]

    def left(self, injection: Injection) -> Leaving:
        """Return what a fault leaves."""
        left = self.decoding.left(injection.masks)
        gone = self._majorities.outvoted(injection.masks)
        voted = self.voting.outcome({name: value for name, value in injection.values.items() if name not in gone})
        values = {name: value for name, value in voted.items() if name not in self.decoding.words}
        known = self.report.follows(injection.masks.keys() - gone)
        health = self.report.of(injection, left) if known else None
        return Leaving({**values, **self.decoding.values(left)}, left, health, known)

    def way(self, injection: Injection) -> Way:
        """Return how it is known of a fault that it leaves nothing."""
        return Way.VOTES if self.decoding.words.isdisjoint(injection.masks) else Way.CODES

    def without_code(self, injection: Injection, left: Leaving) -> bool:
        """Return whether a file without code is optimised to what the file with a fault is, in a plain file's time."""
        return left.known and self.decoding.covers(self._beside(injection, left))

    def _beside(self, injection: Injection, left: Leaving) -> dict[str, Bytes]:
        """Return the masks of what a fault changes beside code words and is not outvoted."""
        return {
            name: mask
            for name, mask in injection.masks.items()
            if name not in self.decoding.words and self.voting.voted(name) in left.values
        }

    def optimised(
        self, injection: Injection, left: Leaving, optimise: Callable[[bytes], RuntimeGraph]
    ) -> tuple[RuntimeGraph, Health | None]:
        """Return the optimised graph of a file with a fault, and what the file reports.

        Raises:
            ModelError: if it has to be run to know what it reports.
            Exception: whatever `optimise` raises.
        """
        if self.without_code(injection, left):
            return optimise(self.decoding.file(self._beside(injection, left), left.words)), left.health
        graph = optimise(self._patcher.apply(injection.masks))
        if self._golden_health is None:
            return graph, None
        health = graph.health()
        if health is None:
            raise ModelError("the report on code words is not folded")
        return graph, health
