"""Names of a float model that the quantizer would take for its own.

onnxruntime's quantizer and calibration name what they add after what it belongs to: the scale of `x` is `x_scale`,
whatever the file calls so already; the two are taken for one then, and the file computes something else, with no word.
So what the file calls so steps aside before. What the file takes and returns gets its names back in the end.
"""

import re
from collections.abc import Iterable, Mapping

import onnx

_WORDS = "scale|zero_point|quant|quantized|QuantizeLinear|DequantizeLinear|ReduceMin|ReduceMax|bias_reshape"
_ADDED = re.compile(
    rf"_(?:{_WORDS})(?=_|$)(?:_(?:{_WORDS}|Input|Output|input|output|Reshape|convert|fixed|cast|Sub|Div|\d+))*$"
)
"""What onnxruntime 1.32 adds to a name."""

_ASIDE = ".float"
_GIVEN = "resq-deploy.name."
"""Metadata of a prepared model: what an input or output was called that has stepped aside."""


def fresh(name: str, taken: Iterable[str]) -> str:
    """Return a name that is not taken: the one wanted if possible, else with a number."""
    known = set(taken)
    found, number = name, 1
    while found in known:
        found, number = f"{name}_{number}", number + 1
    return found


def names_of(model: onnx.ModelProto) -> set[str]:
    """Return every name in the graph of a model without subgraphs: values, stored tensors and nodes."""
    graph = model.graph
    found = {tensor.name for tensor in graph.initializer}
    found.update(sparse.values.name for sparse in graph.sparse_initializer)
    found.update(value.name for value in (*graph.input, *graph.output, *graph.value_info))
    for node in graph.node:
        found.update((node.name, *node.input, *node.output))
    return found - {""}


def step_aside(model: onnx.ModelProto) -> None:
    """Rename, in place, what the quantizer could name so itself; nodes get names of their own.

    Args:
        model: without subgraphs.
    """
    _name_nodes(model)
    taken = names_of(model)
    new: dict[str, str] = {}
    for name in sorted(taken):
        if _could_be_made(name, taken):
            new[name] = fresh(f"{name}{_ASIDE}", taken.union(new.values()))
    if not new:
        return
    for value in (*model.graph.input, *model.graph.output):
        if value.name in new:
            model.metadata_props.add(key=f"{_GIVEN}{new[value.name]}", value=value.name)
    _rename(model, new)


def with_given_names(int8: bytes, model: onnx.ModelProto) -> bytes:
    """Return an int8 file whose inputs and outputs are called as the float file called them.

    What the quantizer added may be called so: it takes another name then.

    Args:
        int8: the file, serialised.
        model: the prepared float model it was made from.
    """
    given = {
        entry.key.removeprefix(_GIVEN): entry.value for entry in model.metadata_props if entry.key.startswith(_GIVEN)
    }
    if not given:
        return int8
    written = onnx.ModelProto.FromString(int8)
    taken = names_of(written)
    new = {name: fresh(f"{name}_made", taken) for name in taken.intersection(given.values())}
    _rename(written, new)
    _rename(written, given)
    serialised: bytes = written.SerializeToString(deterministic=True)
    return serialised


def _could_be_made(name: str, taken: set[str]) -> bool:
    """Return whether a name is another one with what the quantizer adds."""
    return any(
        name[:place] in taken and _ADDED.match(name, place)
        for place, letter in enumerate(name)
        if letter == "_" and place
    )


def _name_nodes(model: onnx.ModelProto) -> None:
    """Give nodes without a name, or with one that another node has, the name of their first output.

    The quantizer of the QDQ form keeps what it knows of nodes by their names.
    """
    known: set[str] = set()
    counts: dict[str, int] = {}
    for node in model.graph.node:
        counts[node.name] = counts.get(node.name, 0) + 1
    twice = {name for name, count in counts.items() if count > 1}
    known.update(counts.keys() - twice)
    for node in model.graph.node:
        if node.name in twice or not node.name:
            node.name = fresh(next((name for name in node.output if name), node.op_type), known)
            known.add(node.name)


def _rename(model: onnx.ModelProto, new: Mapping[str, str]) -> None:
    """Rename values, stored tensors and nodes, in place."""
    graph = model.graph
    for tensor in graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = new.get(sparse.values.name, sparse.values.name)
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = new.get(value.name, value.name)
    for node in graph.node:
        node.name = new.get(node.name, node.name)
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
