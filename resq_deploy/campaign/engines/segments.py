"""The golden graph in a few segments, one behind the other, so that golden values are computed a segment at a time.

What faults ask for differs from fault to fault, and a session for each choice of values would cost more than the values
do. So a segment always gives the same ones: all that costly nodes read and make, all at which the graph is cut behind
them, and at its border what later segments read. With the border of one segment held, the next is run by itself.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.engines.cuts import COSTLY, cut, with_cheap_readers
from resq_deploy.deployed.runtime_graph import RuntimeGraph
from resq_deploy.errors import ModelError

Kind = Literal["border", "inner"]
"""Values of a segment: those that later ones read, and the others that faults ask for."""

KINDS: tuple[Kind, ...] = ("border", "inner")

MOST = 8
"""Segments that a graph is cut into at most: what is run too much of one is small then, and sessions are few."""


@dataclasses.dataclass(frozen=True)
class Segment:
    """Nodes that follow each other.

    Attributes:
        border: values that later segments read.
        inner: others that faults ask for.
        made: all values that its nodes make.
        reads: values of earlier segments that its nodes read.
        work: how many of its nodes are costly.
        before: how many costly nodes there are up to its end.
        stored: bytes of what its nodes read that the file stores.
    """

    border: tuple[str, ...]
    inner: tuple[str, ...]
    made: frozenset[str]
    reads: tuple[str, ...]
    work: int
    before: int
    stored: int

    def values(self, kind: Kind) -> tuple[str, ...]:
        """Return the values of one kind."""
        return self.border if kind == "border" else self.inner


def segments(graph: RuntimeGraph) -> list[Segment]:
    """Cut a graph into segments of about as many costly nodes each, where the fewest values lead on."""
    costly = np.array([node.op_type in COSTLY for node in graph.nodes])
    ends = _ends(graph, np.cumsum(costly))
    asked = dict.fromkeys(_asked(graph))
    last_read = _last_read(graph)
    found = []
    for start, end in zip([0, *ends], [*ends, len(graph.nodes)], strict=True):
        made = [value for node in graph.nodes[start:end] for value in node.output if value]
        border = tuple(value for value in made if last_read.get(value, -1) >= end)
        inner = tuple(value for value in made if value in asked and value not in border)
        reads = dict.fromkeys(value for place in range(start, end) for value in graph.reads(place))
        found.append(
            Segment(
                border=border,
                inner=inner,
                made=frozenset(made),
                reads=tuple(value for value in reads if graph.makers.get(value, end) < start),
                work=int(costly[start:end].sum()),
                before=int(costly[:end].sum()),
                stored=sum(len(graph.parameters[name].raw_data) for name in reads if name in graph.parameters),
            )
        )
    return found


def _asked(graph: RuntimeGraph) -> Iterator[str]:
    """Yield the values that faults in costly nodes ask for, and the output."""
    yield from graph.outputs
    for place, node in enumerate(graph.nodes):
        if node.op_type in COSTLY:
            where = cut(graph, with_cheap_readers(graph, {place}), graph)
            yield from (*graph.reads(place), *node.output, *where.inputs, *where.dirty, *where.clean)


def _last_read(graph: RuntimeGraph) -> dict[str, int]:
    """Return the place of the last node that reads each value."""
    return {value: place for place in range(len(graph.nodes)) for value in graph.reads(place)}


def _ends(graph: RuntimeGraph, costly: NDArray[np.int64]) -> list[int]:
    """Return the places at which new segments begin, ascending.

    Args:
        graph: the graph.
        costly: how many nodes are costly up to each place, shape [nodes].
    """
    total = int(costly[-1])
    count = max(1, min(MOST, total))
    leading = _leading_on(graph)
    before = np.concatenate([[0], costly[:-1]])  # costly nodes in front of each place
    ends = []
    for number in range(1, count):
        target = number * total / count
        near = np.flatnonzero(np.abs(before - target) < total / count / 2).tolist()
        open_ = [place for place in near if place and leading[place]]
        if open_:
            ends.append(min(open_, key=lambda place: (leading[place], abs(before[place] - target), place)))
    return ends


def _leading_on(graph: RuntimeGraph) -> Sequence[int]:
    """Return how many values lead from in front of each place to it or behind; 0 where one cannot be fed."""
    size = len(graph.nodes)
    change, closed = np.zeros(size + 1, dtype=np.int64), np.zeros(size + 1, dtype=np.int64)
    for value, last in _last_read(graph).items():
        if value in graph.makers:
            first = graph.makers[value] + 1
            for counted in (change, closed) if not _can_be_fed(graph, value) else (change,):
                counted[first] += 1
                counted[last + 1] -= 1
    leading: list[int] = np.where(np.cumsum(closed) > 0, 0, np.cumsum(change))[:size].tolist()
    return leading


def _can_be_fed(graph: RuntimeGraph, value: str) -> bool:
    try:
        graph.element_type(value)
    except ModelError:
        return False
    return True
