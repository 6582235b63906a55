"""The plain file that a protected one stands for, for runtimes that do not fold what decodes and votes."""

from collections.abc import Collection, Iterable, Iterator

import onnx
from onnx import helper, numpy_helper

from resq_deploy.deployed.coded import DOMAIN, HEALTH, coded_weights
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.folding import computation
from resq_deploy.deployed.nesting import graphs
from resq_deploy.deployed.versions import CODE, LEAST_ONNXRUNTIME
from resq_deploy.deployed.votes import find_votes
from resq_deploy.errors import ModelError
from resq_deploy.protection.decoded import decoded_weights, needed

_OWN = ("", "ai.onnx")
_FUNCTIONS_IR, _LEAST_IR = 8, 4  # the first with functions; with initializers that are no inputs


def bake(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the plain file: decoded weights and voted tensors as initializers under their own names, and no more.

    Nodes, tables, functions and outputs that serve protection alone are left out. Whatever codes and votes cannot
    correct stays in the values, which are those that onnxruntime would compute with.

    Args:
        model: the protected file; self-contained; not changed.

    Returns:
        The plain file, of the lowest opset whose operators are those of the protected file's, and the lowest IR version
        that takes it.

    Raises:
        ModelError: if weights are not decoded to what their code words hold, or onnxruntime does not compute with the
            plain file what it computes with the protected one.
    """
    baked = plain_model(model)
    _check(model, baked)
    return baked


def plain_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the plain file, as `bake` does, without asking onnxruntime whether it computes the same.

    Raises:
        ModelError: if weights are not decoded to what their code words hold.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    plain = {
        name: numpy_helper.from_array(values, name)
        for name, values in decoded_weights(model, coded_weights(model)).items()
    }
    for vote in find_votes(model):
        if not tensors.keys() >= set(vote.copies):
            continue  # of a subgraph, or of Constant nodes: not of our making
        first = tensors[vote.copies[0]]
        raw = vote.outcome({name: numpy_helper.to_array(tensors[name]).tobytes() for name in vote.copies})
        plain[vote.output] = onnx.TensorProto(
            name=vote.output, data_type=first.data_type, dims=first.dims, raw_data=raw
        )
    baked = _with_plain(model, plain)
    _lower(baked)
    return baked


def _with_plain(model: onnx.ModelProto, plain: dict[str, onnx.TensorProto]) -> onnx.ModelProto:
    """Return a model with some values stored, without what only served to make them."""
    graph = model.graph
    outputs = [value for value in graph.output if value.name != HEALTH]
    given = {value.name for value in outputs}
    dropped = _serving(graph, given, plain)
    nodes = [node for place, node in enumerate(graph.node) if place not in dropped]
    read = _reads(nodes) | given
    idle = _reads(graph.node[place] for place in dropped) - read
    gone = idle.union(*(graph.node[place].output for place in dropped))
    baked = onnx.ModelProto()
    baked.CopyFrom(model)
    for field, kept in (
        ("node", nodes),
        ("output", outputs),
        ("initializer", [tensor for tensor in graph.initializer if tensor.name not in idle]),
        ("value_info", [value for value in graph.value_info if value.name not in gone]),
    ):
        baked.graph.ClearField(field)
        getattr(baked.graph, field).extend(kept)
    baked.graph.initializer.extend(tensor for name, tensor in plain.items() if name in read)
    functions = [function for function in model.functions if function.domain != DOMAIN]
    del baked.functions[:]
    baked.functions.extend(functions)
    metadata = [entry for entry in model.metadata_props if entry.key not in (CODE, LEAST_ONNXRUNTIME)]
    del baked.metadata_props[:]
    baked.metadata_props.extend(metadata)
    return baked


def _serving(graph: onnx.GraphProto, wanted: Collection[str], known: Collection[str]) -> set[int]:
    """Return the places of the nodes that served only to make known values, or values of which none is wanted now.

    A node that nothing needed before either stays, unless it reads from one of these.
    """
    left = {*needed(graph, wanted, known)}
    dropped = {*needed(graph, [value.name for value in graph.output])} - left
    gone = {name for place in dropped for name in graph.node[place].output if name not in known}
    for place, node in enumerate(graph.node):
        if place not in left | dropped and not gone.isdisjoint(_reads([node])):
            dropped.add(place)
            gone.update(node.output)
    return dropped


def _reads(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Return every value that nodes and their subgraphs read."""
    return {name for node in _every(nodes) for name in node.input}


def _every(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes and those of their subgraphs."""
    yield from (node for part in graphs(onnx.GraphProto(node=nodes)) for node in part.node)


def _lower(model: onnx.ModelProto) -> None:
    """Give a model the lowest opset in which each of its operators is the one it is now, and the lowest IR version."""
    opsets = {entry.domain: entry.version for entry in model.opset_import if entry.domain != DOMAIN}
    own = next((domain for domain in _OWN if domain in opsets), None)
    if own is not None and not model.functions and opsets[own] <= onnx.defs.onnx_opset_version():
        used = {node.op_type for node in _every(model.graph.node) if node.domain in _OWN}
        since = [onnx.defs.get_schema(name, opsets[own], "").since_version for name in used]
        opsets[own] = max(since, default=opsets[own])
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(*entry) for entry in opsets.items())
    if max((tensor.data_type for tensor in model.graph.initializer), default=0) > onnx.TensorProto.BFLOAT16:
        return  # types that came with IR versions of their own
    least = max(_FUNCTIONS_IR if model.functions else _LEAST_IR, _ir_of(model))
    model.ir_version = min(model.ir_version, least)


def _ir_of(model: onnx.ModelProto) -> int:
    version: int = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    return version


def _check(model: onnx.ModelProto, baked: onnx.ModelProto) -> None:
    """Check that onnxruntime runs the same for both.

    Raises:
        ModelError: if it does not.
    """
    silent = onnx.ModelProto()
    silent.CopyFrom(model)
    del silent.graph.output[:]
    silent.graph.output.extend(baked.graph.output)
    here = Deployment()
    if computation(silent.SerializeToString(), here) != computation(baked.SerializeToString(), here):
        raise ModelError("onnxruntime does not make of the plain file what it makes of the protected one")
