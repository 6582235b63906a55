"""What comes after the last layers: the decoding of boxes, a softmax, a resize. It has no weights, and stays in float.

A detector's file mostly ends by joining boxes in pixels with scores in [0, 1] into one output. One scale for both
leaves the scores two or three levels: mAP of a detector of digits fell by 4.5 points, with the tail in float by none.
"""

import fnmatch
from collections.abc import Collection, Sequence

import onnx

from resq_deploy.errors import OptionError

_LAYERS = frozenset(
    {"Attention", "Conv", "ConvTranspose", "GRU", "Gemm", "LSTM", "MatMul", "MultiHeadAttention", "RNN"}
)


def float_tail(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the names of the nodes that depend on a layer and lead to no further one, layers left out.

    Args:
        model: from `prepare_float_model`, whose nodes all have names of their own.
    """
    behind = _behind(model, _LAYERS)
    return tuple(node.name for node in model.graph.node if node.name in behind)


def matching(model: onnx.ModelProto, patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the nodes whose name or operator is like one of some patterns.

    Args:
        model: from `prepare_float_model`.
        patterns: as in a shell, such as `/head/*` or `Softmax`.

    Raises:
        OptionError: if no node is like one of them.
    """
    found = set[str]()
    for pattern in patterns:
        mine = {
            node.name
            for node in model.graph.node
            if fnmatch.fnmatchcase(node.name, pattern) or fnmatch.fnmatchcase(node.op_type, pattern)
        }
        if not mine:
            layers = ", ".join(repr(node.name) for node in model.graph.node if node.op_type in _LAYERS)
            raise OptionError(
                f"--keep-float {pattern}: no node has such a name or operator; the layers are {layers[:300]}"
            )
        found |= mine
    return tuple(node.name for node in model.graph.node if node.name in found)


def _behind(model: onnx.ModelProto, layers: Collection[str]) -> set[str]:
    """Return the names of the nodes that depend on a layer and that no layer depends on."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    before = _closure([node for node in model.graph.node if node.op_type in layers], model)
    after, pending = set[str](), [node for node in model.graph.node if node.op_type in layers]
    while pending:
        for name in pending.pop().output:
            for reader in readers.get(name, []):
                if reader.name not in after:
                    after.add(reader.name)
                    pending.append(reader)
    return after - before


def _closure(nodes: list[onnx.NodeProto], model: onnx.ModelProto) -> set[str]:
    """Return the names of nodes and of all that they depend on."""
    makers = {name: node for node in model.graph.node for name in node.output if name}
    found, pending = {node.name for node in nodes}, list(nodes)
    while pending:
        for name in pending.pop().input:
            maker = makers.get(name)
            if maker is not None and maker.name not in found:
                found.add(maker.name)
                pending.append(maker)
    return found
