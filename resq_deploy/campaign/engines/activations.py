"""Golden activations: values of the fault-free graph at its cuts, computed when needed, kept while there is room."""

import collections
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.engines.recent import Recent
from resq_deploy.deployed.inputs import Batch
from resq_deploy.deployed.runtime_graph import Part, RuntimeGraph
from resq_deploy.deployed.session import Deployment

Values = dict[str, NDArray[Any]]


class Activations:
    """Golden values by batch. Those asked for together are computed from the nearest ones that are still held.

    Args:
        graph: the optimised fault-free graph.
        batches: the batches as they are run.
        deployment: how the file is run.
        memory: bytes that may be held; the least recently used values go first.
        parts: sessions that may be held.
    """

    def __init__(
        self,
        graph: RuntimeGraph,
        batches: Sequence[Batch],
        deployment: Deployment,
        memory: int,
        parts: int,
    ) -> None:
        self.counts = [batch.count for batch in batches]
        self._starts = np.cumsum([0, *self.counts])
        self._graph = graph
        self._batches = batches
        self._deployment = deployment
        self._memory = memory
        self._held: collections.OrderedDict[tuple[int, str], NDArray[Any]] = collections.OrderedDict()
        self._names: list[set[str]] = [set() for _ in batches]  # what is held, by batch
        self._bytes = 0
        self._lock = threading.Lock()
        self._batch_locks = [threading.Lock() for _ in batches]
        self._parts: Recent[Part] = Recent(parts)

    def __len__(self) -> int:
        return len(self.counts)

    def rows(self, batch: int) -> int:
        """Return how many rows a batch is run with, filled-up ones included."""
        return self._batches[batch].rows

    def images(self, batch: int) -> slice:
        """Return which images a batch holds."""
        return slice(int(self._starts[batch]), int(self._starts[batch + 1]))

    def get(self, batch: int, names: Collection[str]) -> Values:
        """Return golden values of one batch."""
        with self._batch_locks[batch]:
            held = self._look_up(batch, names)
            missing = [name for name in names if name not in held]
            if missing:
                held.update(self._compute(batch, missing))
        return held

    def _look_up(self, batch: int, names: Collection[str]) -> Values:
        found: Values = {}
        with self._lock:
            for name in names:
                if name in self._batches[batch].feeds:
                    found[name] = self._batches[batch].feeds[name]
                elif (batch, name) in self._held:
                    self._held.move_to_end((batch, name))
                    found[name] = self._held[batch, name]
        return found

    def _compute(self, batch: int, wanted: Sequence[str]) -> Values:
        with self._lock:
            known = set(self._names[batch])
        places = self._graph.between(known, wanted)
        part = self._part(places, wanted)
        inputs = self._look_up(batch, part.inputs)
        if len(inputs) < len(part.inputs):  # another batch's values pushed one out meanwhile
            return self._compute_from_input(batch, wanted)
        return self._keep(batch, part, inputs)

    def _compute_from_input(self, batch: int, wanted: Sequence[str]) -> Values:
        part = self._part(self._graph.between((), wanted), wanted)
        return self._keep(batch, part, self._batches[batch].feeds)

    def _keep(self, batch: int, part: Part, inputs: Mapping[str, object]) -> Values:
        computed: Values = {name: np.asarray(value) for name, value in zip(part.outputs, part.run(inputs), strict=True)}
        with self._lock:
            for name, value in computed.items():
                self._held[batch, name] = value
                self._names[batch].add(name)
                self._bytes += value.nbytes
            while self._bytes > self._memory and self._held:
                (at, name), dropped = self._held.popitem(last=False)
                self._names[at].discard(name)
                self._bytes -= dropped.nbytes
        return computed

    def _part(self, places: Collection[int], outputs: Sequence[str]) -> Part:
        def make() -> Part:
            model, inputs = self._graph.part(places, outputs)
            return Part(model, inputs, outputs, self._deployment)

        return self._parts.get((frozenset(places), tuple(outputs)), make)
