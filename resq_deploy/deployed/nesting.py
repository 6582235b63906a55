"""Graphs within graphs: the subgraphs of control-flow nodes, and names that mean one value each."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import onnx


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and, depth first, the subgraphs of its control-flow nodes."""
    yield graph
    yield from inner_graphs(graph.node)


def inner_graphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """Yield the subgraphs of nodes, depth first."""
    for node in nodes:
        for _, subgraph in subgraphs(node):
            yield from graphs(subgraph)


def subgraphs(node: onnx.NodeProto) -> list[tuple[str, onnx.GraphProto]]:
    """Return the subgraphs of one node, each with the name of its attribute."""
    found = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found.append((attribute.name, attribute.g))
        found += [(f"{attribute.name}[{at}]", subgraph) for at, subgraph in enumerate(attribute.graphs)]
    return found


def captured(node: onnx.NodeProto) -> set[str]:
    """Return the values that the subgraphs of a node take from outside them."""
    found: set[str] = set()
    for _, subgraph in subgraphs(node):
        read = {value for inner in subgraph.node for value in inner.input} | {value.name for value in subgraph.output}
        read = read.union(*map(captured, subgraph.node))
        found |= read - _defined(subgraph).keys()
    return found - {""}


def node_label(node: onnx.NodeProto) -> str:
    """Return what a layer is called: the node's name, else its first output."""
    return node.name or next((output for output in node.output if output), node.op_type)


def make_names_unique(graph: onnx.GraphProto) -> None:
    """Rename, in place, what subgraphs call by a name that another graph has for something else.

    onnxruntime lets siblings use one name for two values, and a subgraph store a tensor under a name from around it; a
    fault could not say which it means. The new name begins with the node and the branch. The main graph keeps its
    names, and so do values that a subgraph computes under a name from around it: onnxruntime refuses such a file.
    """
    counts = Counter(name for part in graphs(graph) for name in _defined(part))
    if any(count > 1 for count in counts.values()):
        _rename(graph, {}, frozenset(), set(), set(counts), "")


def _defined(graph: onnx.GraphProto) -> dict[str, None]:
    """Return the names a graph gives to values of its own, each once."""
    names = [value.name for value in (*graph.input, *graph.initializer)]
    names += [sparse.values.name for sparse in graph.sparse_initializer]
    names += [output for node in graph.node for output in node.output]
    return dict.fromkeys(filter(None, names))


def _rename(
    graph: onnx.GraphProto,
    around: Mapping[str, str],
    visible: frozenset[str],
    seen: set[str],
    taken: set[str],
    path: str,
) -> None:
    """Rename in a graph and its subgraphs.

    Args:
        graph: the graph.
        around: new names of what it sees from outside.
        visible: what is computed around it before it, by the old names.
        seen: names that are given away by now.
        taken: names that no new one may be.
        path: what new names begin with.
    """
    names = dict(around)
    stored = {tensor.name for tensor in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    for name in _defined(graph):
        names.pop(name, None)
        if name in seen and (name in stored or name not in visible):
            names[name] = free_name(f"{path}{name}", taken)
        seen.add(names.get(name, name))
    for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)):
        tensor.name = names.get(tensor.name, tensor.name)
    before = {*visible, *stored, *(value.name for value in graph.input)}
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        outputs = list(node.output)
        for values in (node.input, node.output):
            for at, value in enumerate(values):
                values[at] = names.get(value, value)
        for attribute, subgraph in subgraphs(node):
            _rename(subgraph, names, frozenset(before), seen, taken, f"{path}{node_label(node)}.{attribute}/")
        before.update(outputs)


def free_name(name: str, taken: set[str]) -> str:
    """Return a name, or where it is taken the name with a number, and note it as taken."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    taken.add(free)
    return free
