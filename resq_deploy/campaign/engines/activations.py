"""Golden activations: values of the fault-free graph, computed by segments, kept while there is room.

The golden run can be made with them (`sweep`): what it computes on its way to the outputs is then held of all images,
or the part of it that saves most (`holding`). What else faults ask for is computed when they do.
"""

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.engines.blocks import Blocks
from resq_deploy.campaign.engines.by_cost import ByCost
from resq_deploy.campaign.engines.holding import Held, Price, chosen
from resq_deploy.campaign.engines.recent import Recent
from resq_deploy.campaign.engines.segments import KINDS, Kind, segments
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

    Attributes:
        counts: images of each batch.
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
        self._segments = segments(graph)
        self._of = {value: number for number, segment in enumerate(self._segments) for value in segment.made}
        self._given = {value for segment in self._segments for value in (*segment.border, *segment.inner)}
        self._swept: list[Values] = [{} for _ in batches]
        self._held: ByCost[Values] = ByCost(memory)
        self._batch_locks = [threading.Lock() for _ in batches]
        self._parts: Recent[Part] = Recent(parts + 3 * len(self._segments))

    def __len__(self) -> int:
        return len(self.counts)

    def rows(self, batch: int) -> int:
        """Return how many rows a batch is run with, filled-up ones included."""
        return self._batches[batch].rows

    def images(self, batch: int) -> slice:
        """Return which images a batch holds."""
        return slice(int(self._starts[batch]), int(self._starts[batch + 1]))

    def batches(self, images: slice) -> range:
        """Return the batches of some images: of a part, which is run in batches of its own."""
        return range(*np.searchsorted(self._starts, [images.start, images.stop]).tolist())

    def feeds(self, batch: int) -> Values:
        """Return what a batch is fed."""
        return dict(self._batches[batch].feeds)

    def stages(self) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], Part]]:
        """Yield for each segment what later ones read of it, all that it gives, and what makes that, ready to run."""
        for number, segment in enumerate(self._segments):
            names = (*segment.border, *segment.inner)
            if names:
                yield segment.border, names, self._stage(number, names)

    # The golden run.

    def sweep(self) -> Iterator[Values]:
        """Run batch by batch, and yield the graph's outputs for each; thereafter hold what of all batches has room.

        Raises:
            Exception: whatever onnxruntime raises.
        """
        held, prices = self._everything, self._prices()
        if sum(price.size(kind) for price in prices for kind in KINDS) * len(self) > self._memory:
            held = chosen(self._prices(), self._memory // len(self))  # a session's first run takes longer
        blocks = Blocks()
        for batch in range(len(self)):
            outputs = dict[str, NDArray[Any]]()
            for number, made, _ in self._through(batch, held):
                segment = self._segments[number]
                outputs.update((name, made[name]) for name in self._graph.outputs if name in made)
                for kind in KINDS:
                    if (number, kind) in held:
                        values = {name: blocks.copy(made[name]) for name in segment.values(kind)}
                        self._swept[batch].update(values)
            yield outputs
        self._held = ByCost(max(0, self._memory - sum(map(_size, self._swept))))

    @property
    def _everything(self) -> Held:
        return {(number, kind) for number in range(len(self._segments)) for kind in KINDS}

    def _prices(self) -> list[Price]:
        """Run the first batch, and return what the segments cost and take."""
        prices, stored = [], sum(segment.stored for segment in self._segments)
        work = sum(segment.work for segment in self._segments)
        for number, made, seconds in self._through(0, self._everything):
            segment = self._segments[number]
            # Faults are drawn by bit or by layer; most of the time by bit, from strata that give small layers more.
            faults = segment.stored / max(stored, 1) + segment.work / max(work, 1)
            sizes = (sum(made[name].nbytes for name in segment.values(kind)) for kind in KINDS)
            prices.append(Price(seconds, faults, sorted({self._of[name] for name in segment.reads}), *sizes))
        return prices

    def _through(self, batch: int, held: Held) -> Iterator[tuple[int, Values, float]]:
        """Run a batch through all segments, and yield what each gives of what is to be held, and its seconds.

        What later segments read is always there, and so are outputs.
        """
        last = {value: number for number, segment in enumerate(self._segments) for value in segment.reads}
        live = self.feeds(batch)
        for number, segment in enumerate(self._segments):
            outputs = [name for name in self._graph.outputs if name in segment.inner]
            others = segment.inner if (number, "inner") in held else outputs
            names, made, begin = (*segment.border, *others), Values(), time.thread_time()
            if names:
                part = self._stage(number, names)
                begin = time.thread_time()
                made = part.run_named(live)
            yield number, made, time.thread_time() - begin
            live.update((name, made[name]) for name in segment.border)
            live = {name: value for name, value in live.items() if last.get(name, len(self._segments)) > number}

    # What faults ask for.

    def get(self, batch: int, names: Collection[str]) -> Values:
        """Return golden values of one batch."""
        with self._batch_locks[batch]:
            found = self._gathered(batch, names)
            others = [name for name in names if name not in found]
            if others:
                part = self._part(self._given, others)
                found.update(part.run_named({**found, **self._gathered(batch, part.inputs)}))
        return {name: found[name] for name in names}

    def _gathered(self, batch: int, names: Collection[str]) -> Values:
        """Return what is fed, and those of some values that segments give, and others beside them."""
        found: Values = dict(self._batches[batch].feeds)
        given = {name for name in names if name in self._given}
        for number in sorted({self._of[name] for name in given}):
            found.update(self._of_segment(batch, number, given))
        return found

    def _of_segment(self, batch: int, number: int, asked: Collection[str]) -> Values:
        """Return all values of a segment of the kinds of which some are asked for; made where they are not held."""
        found, missing = Values(), list[Kind]()
        for kind in KINDS:
            names = self._segments[number].values(kind)
            if any(name in asked for name in names):
                held = self._look_up(batch, number, kind)
                found.update(held or {})
                missing += [kind] if held is None else []
        if missing:
            names = tuple(name for kind in missing for name in self._segments[number].values(kind))
            found.update(self._run(batch, number, names))
            for kind in missing:
                self._hold(batch, number, kind, found)
        return found

    def _look_up(self, batch: int, number: int, kind: Kind) -> Values | None:
        names, swept = self._segments[number].values(kind), self._swept[batch]
        if names[0] in swept:
            return {name: swept[name] for name in names}
        return self._held.get((number, kind), batch)

    def _hold(self, batch: int, number: int, kind: Kind, found: Values) -> None:
        segment = self._segments[number]
        values = {name: found[name] for name in segment.values(kind)}
        cost = segment.before if kind == "border" else segment.work
        self._held.put((number, kind), batch, values, _size(values), cost)

    def _run(self, batch: int, number: int, outputs: tuple[str, ...]) -> Values:
        """Run a segment, behind those that it reads from."""
        part = self._stage(number, outputs)
        return part.run_named(self._gathered(batch, part.inputs))

    def _stage(self, number: int, outputs: tuple[str, ...]) -> Part:
        """Return what makes values of a segment of those of earlier ones, ready to run."""
        return self._part({value for segment in self._segments[:number] for value in segment.made}, outputs)

    def _part(self, known: Collection[str], outputs: Sequence[str]) -> Part:
        """Return what makes values of those that are known, ready to run."""

        def make() -> Part:
            model, inputs = self._graph.part(self._graph.between(known, outputs), outputs)
            return Part(model, inputs, outputs, self._deployment)

        return self._parts.get(tuple(outputs), make)


def _size(values: Values) -> int:
    return sum(value.nbytes for value in values.values())
