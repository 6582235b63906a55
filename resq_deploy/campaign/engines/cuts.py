"""Where a faulty graph parts from the golden one, and where it has come back to the same nodes."""

import dataclasses
from collections.abc import Collection, Sequence

from resq_deploy.deployed.operators import PRODUCTS
from resq_deploy.deployed.runtime_graph import RuntimeGraph, Signature

COSTLY = PRODUCTS | {
    "Attention",
    "DynamicQuantizeLSTM",
    "GRU",
    "If",
    "LSTM",
    "Loop",
    "MultiHeadAttention",
    "QAttention",
    "RNN",
    "Scan",
}
"""Operators whose work is worth saving."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """A faulty graph in three parts: clean nodes, the head, and the rest.

    Clean nodes are those of the golden graph and depend on nothing that changed: their values are the golden ones.
    The head holds the nodes that changed and whatever lies between them. The rest are nodes of the golden graph
    again, fed by the head and by clean values.

    Attributes:
        head: nodes of the faulty graph.
        inputs: clean values that the head reads.
        dirty: values the head makes for the rest, and the graph's outputs among those it makes.
        rest: nodes of the golden graph.
        clean: golden values that the rest reads.
    """

    head: frozenset[int]
    inputs: tuple[str, ...]
    dirty: tuple[str, ...]
    rest: frozenset[int]
    clean: tuple[str, ...]


def changed_nodes(faulty: Sequence[Signature], golden: Collection[Signature]) -> set[int]:
    """Return the places of the nodes that the golden graph does not have."""
    return {place for place, signature in enumerate(faulty) if signature not in golden}


def with_cheap_readers(graph: RuntimeGraph, places: Collection[int]) -> set[int]:
    """Return nodes and the cheap ones behind them, as long as no more values than before lead out of them.

    Additions, pooling, activations and roundings hide many changes: it pays to compare behind them.
    """
    head = set(places)
    while True:
        ways_out = _ways_out(graph, head)
        readers = {place for value in ways_out for place in graph.readers(value)} - head
        if not readers or any(graph.nodes[place].op_type in COSTLY for place in readers):
            return head
        if len(_ways_out(graph, head | readers)) > len(ways_out):
            return head
        head |= readers


def _ways_out(graph: RuntimeGraph, head: Collection[int]) -> list[str]:
    """Return the values of a set of nodes that other nodes read."""
    made = [value for place in sorted(head) for value in graph.nodes[place].output if value]
    return [value for value in made if any(place not in head for place in graph.readers(value))]


def cut(faulty: RuntimeGraph, changed: Collection[int], golden: RuntimeGraph) -> Cut:
    """Cut a faulty graph behind the nodes that changed.

    Args:
        faulty: the faulty graph.
        changed: which of its nodes the golden graph does not have; at least one.
        golden: the golden graph.
    """
    touched = faulty.descendants(changed)
    head = touched & faulty.ancestors(changed)
    rest = touched - head
    made = {value for place in head for value in faulty.nodes[place].output if value}
    given = {value for place in rest for value in faulty.nodes[place].output if value}
    read_by_head = dict.fromkeys(value for place in sorted(head) for value in faulty.reads(place))
    read_by_rest = dict.fromkeys(value for place in sorted(rest) for value in faulty.reads(place))
    dirty = [value for value in read_by_rest if value in made]
    dirty += [output for output in faulty.outputs if output in made and output not in dirty]
    return Cut(
        head=frozenset(head),
        inputs=tuple(value for value in read_by_head if value not in made and value not in faulty.parameters),
        dirty=tuple(dirty),
        rest=frozenset(golden.makers[_first_output(faulty, place)] for place in rest),
        clean=tuple(value for value in read_by_rest if value not in made | given and value not in faulty.parameters),
    )


def _first_output(graph: RuntimeGraph, place: int) -> str:
    return next(str(value) for value in graph.nodes[place].output if value)
