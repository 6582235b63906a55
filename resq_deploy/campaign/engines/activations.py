"""Golden activations: values of the fault-free graph, computed by segments when needed, kept while there is room."""

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.engines.by_cost import ByCost
from resq_deploy.campaign.engines.recent import Recent
from resq_deploy.campaign.engines.segments import segments
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.inputs import Batch
from resq_deploy.deployed.runtime_graph import Part, RuntimeGraph

Values = dict[str, NDArray[Any]]


class Activations:
    """Golden values by batch.

    Args:
        graph: the optimised fault-free graph.
        batches: the batches as they are run.
        deployment: how the file is run.
        memory: bytes that may be held.
        parts: sessions that may be held for values beside those that segments give.
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
        self._segments = segments(graph)
        self._of = {value: number for number, segment in enumerate(self._segments) for value in segment.made}
        self._given = {value for segment in self._segments for value in (*segment.border, *segment.inner)}
        self._held: ByCost[Values] = ByCost(memory)
        self._batch_locks = [threading.Lock() for _ in batches]
        self._parts: Recent[Part] = Recent(parts + 2 * len(self._segments))

    def __len__(self) -> int:
        return len(self.counts)

    def rows(self, batch: int) -> int:
        """Return how many rows a batch is run with, filled-up ones included."""
        return self._batches[batch].rows

    def images(self, batch: int) -> slice:
        """Return which images a batch holds."""
        return slice(int(self._starts[batch]), int(self._starts[batch + 1]))

    def feeds(self, batch: int) -> Values:
        """Return what a batch is fed."""
        return dict(self._batches[batch].feeds)

    def stages(self) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], Part]]:
        """Yield for each segment what later ones read of it, all that it gives, and what makes that, ready to run."""
        earlier = set[str]()
        for segment in self._segments:
            names = (*segment.border, *segment.inner)
            if names:
                yield segment.border, names, self._part(earlier, names)
            earlier |= segment.made

    def get(self, batch: int, names: Collection[str]) -> Values:
        """Return golden values of one batch."""
        with self._batch_locks[batch]:
            found = self._gathered(batch, names, self._whole)
            others = [name for name in names if name not in found]
            if others:
                part = self._part(self._given, others)
                found.update(part.run_named({**found, **self._gathered(batch, part.inputs, self._whole)}))
        return {name: found[name] for name in names}

    def _gathered(self, batch: int, names: Collection[str], give: Callable[[int, int], Values]) -> Values:
        """Return what is fed, and what the segments that make some values give."""
        found: Values = dict(self._batches[batch].feeds)
        for number in sorted({self._of[name] for name in names if name in self._of}):
            found.update(give(batch, number))
        return found

    def _whole(self, batch: int, number: int) -> Values:
        """Return all values that a segment gives."""
        segment = self._segments[number]
        border, inner = (self._held.get((number, kind), batch) for kind in ("border", "inner"))
        if border is None or inner is None:
            made = self._run(batch, number, (*segment.border, *segment.inner))
            border = {name: made[name] for name in segment.border}
            inner = {name: made[name] for name in segment.inner}
            self._hold(batch, number, border, segment.before, "border")
            self._hold(batch, number, inner, segment.work, "inner")
        return {**border, **inner}

    def _border(self, batch: int, number: int) -> Values:
        """Return the values of a segment that later ones read."""
        held = self._held.get((number, "border"), batch)
        if held is None:
            held = self._run(batch, number, self._segments[number].border)
            self._hold(batch, number, held, self._segments[number].before, "border")
        return held

    def _hold(self, batch: int, number: int, values: Values, work: int, kind: str) -> None:
        self._held.put((number, kind), batch, values, sum(value.nbytes for value in values.values()), work)

    def _run(self, batch: int, number: int, outputs: Sequence[str]) -> Values:
        """Run a segment, behind those that it reads from."""
        if not outputs:
            return {}
        earlier = {value for segment in self._segments[:number] for value in segment.made}
        part = self._part(earlier, outputs)
        return part.run_named(self._gathered(batch, part.inputs, self._border))

    def _part(self, known: Collection[str], outputs: Sequence[str]) -> Part:
        """Return what makes values of those that are known, ready to run."""

        def make() -> Part:
            model, inputs = self._graph.part(self._graph.between(known, outputs), outputs)
            return Part(model, inputs, outputs, self._deployment)

        return self._parts.get(tuple(outputs), make)
