"""Where a faulty graph parts from the golden one, and where it has come back to the same nodes."""

import dataclasses
from collections.abc import Collection, Sequence

from resq_deploy.deployed.runtime_graph import RuntimeGraph, Signature


@dataclasses.dataclass(frozen=True)
class Cut:
    """A faulty graph in three parts: clean nodes, the head, and the rest.

    Clean nodes are those of the golden graph and depend on nothing that changed: their values are the golden ones.
    The head holds the nodes that changed and whatever lies between them. The rest are nodes of the golden graph
    again, fed by the head and by clean values.

    Attributes:
        head: nodes of the faulty graph.
        inputs: clean values that the head reads.
        dirty: values the head makes for the rest; the graph's output if there is no rest.
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
    if faulty.output in made:
        dirty.append(faulty.output)
    return Cut(
        head=frozenset(head),
        inputs=tuple(value for value in read_by_head if value not in made and value not in faulty.parameters),
        dirty=tuple(dirty),
        rest=frozenset(golden.makers[_first_output(faulty, place)] for place in rest),
        clean=tuple(value for value in read_by_rest if value not in made | given and value not in faulty.parameters),
    )


def _first_output(graph: RuntimeGraph, place: int) -> str:
    return next(str(value) for value in graph.nodes[place].output if value)
