"""What faults that are replayed share: the golden graph and its values, and sessions of parts of it."""

from collections.abc import Sequence

from resq_deploy.campaign.engines.activations import Activations
from resq_deploy.campaign.engines.channels import ChannelLayer
from resq_deploy.campaign.engines.company import Company, companies
from resq_deploy.campaign.engines.cuts import COSTLY, Cut, cut, with_cheap_readers
from resq_deploy.campaign.engines.fed import Fed
from resq_deploy.campaign.engines.recent import Recent
from resq_deploy.campaign.engines.rest import Outputs, Rest
from resq_deploy.campaign.golden import Golden
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.runtime_graph import Part, RuntimeGraph
from resq_deploy.errors import ModelError

_LAYERS = 1024  # whose channels are ready to be run; each takes its own stored values


class Stage:
    """The golden graph with all that is made of it.

    Args:
        graph: the golden graph.
        activations: its values.
        golden: the fault-free run.
        deployment: how the file is run.
        workers: how many threads use it at a time.
        room: bytes of stored values that sessions may hold, if that is more than one for each worker.

    Attributes:
        graph: the golden graph.
        activations: its values.
    """

    def __init__(
        self,
        graph: RuntimeGraph,
        activations: Activations,
        golden: Golden,
        deployment: Deployment,
        workers: int,
        room: int,
    ) -> None:
        self.graph, self.activations = graph, activations
        self._golden, self._deployment, self._room = golden, deployment, room
        sessions = workers + 1  # what each works on, and what comes next
        self._layers: Recent[ChannelLayer | None] = Recent(_LAYERS)
        self._links: Recent[tuple[Cut, Part | None]] = Recent(_LAYERS)
        self._rests: Recent[Rest] = Recent(sessions, room)
        self._fed: Recent[Fed] = Recent(_LAYERS)
        self._companies: list[Company] | None = None
        self._agreeing: dict[int, bool] = {}
        self._stretches = self._find_stretches()

    def _find_stretches(self) -> list[int]:
        """Return for each node the number of its stretch: nodes of which all rests can be held at once."""
        numbers, number, taken = [], 0, 0
        for place, node in enumerate(self.graph.nodes):
            if node.op_type in COSTLY:
                behind = self._stored(self.graph.descendants([place]))
                taken += behind
                if taken > self._room and taken > behind:
                    number, taken = number + 1, behind
            numbers.append(number)
        return numbers

    def _stored(self, places: set[int] | frozenset[int]) -> int:
        """Return how many bytes some nodes store."""
        names = {name for place in places for name in self.graph.reads(place) if name in self.graph.parameters}
        return sum(len(self.graph.parameters[name].raw_data) for name in names)

    def stretch(self, place: int) -> int:
        """Return the number of the stretch that a node lies in: what is behind its nodes can be held at once."""
        return self._stretches[place] if place < len(self._stretches) else self._stretches[-1]

    def layer(self, place: int) -> ChannelLayer | None:
        """Return a layer that can be computed by channels, tried out; None if it cannot."""

        def make() -> ChannelLayer | None:
            try:
                layer = ChannelLayer(self.graph, place, self._deployment)
            except (ValueError, ModelError):
                return None
            if place not in self._agreeing:
                golden = self.activations.get(0, [layer.data, layer.output])
                self._agreeing[place] = layer.agrees(golden[layer.data], golden[layer.output])
            return layer if self._agreeing[place] else None

        return self._layers.get(place, make)

    def behind_layer(self, place: int) -> tuple[Cut, Part | None]:
        """Return where to cut behind a layer, and the cheap nodes between the layer and that cut, ready to run."""

        def make() -> tuple[Cut, Part | None]:
            head = with_cheap_readers(self.graph, {place})
            where = cut(self.graph, head, self.graph)
            if head == {place}:
                return where, None
            model, inputs = self.graph.part(head - {place}, where.dirty)
            return where, Part(model, inputs, where.dirty, self._deployment)

        return self._links.get(place, make)

    def fed(self, tensor: str, trial: bytes, batch: int) -> Fed:
        """Return what reads a stored tensor, tried out with some new bytes on a batch."""
        return self._fed.get(tensor, lambda: Fed(self.graph, tensor, self.activations, self._deployment, trial, batch))

    def rest(self, where: Cut) -> Rest | None:
        """Return the rest behind a cut; those used last are kept."""
        if not where.rest:
            return None
        key = where.dirty, where.rest

        def make() -> Rest:
            if self._companies is None:
                self._companies = list(companies(self.graph, self.activations))
            return Rest(self.graph, where, self.activations, self._golden, self._deployment, self._companies)

        return self._rests.get(key, make, self._stored(where.rest))

    def outputs(self, where: Cut, rest: Rest | None, batches: Sequence[Sequence[int]]) -> Outputs:
        """Return outputs in the making, of faults in front of a cut, given the batches that each is run on."""
        return Outputs(where.dirty, rest, self.activations, self._golden, batches)
