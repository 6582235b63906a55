"""What a file stores in many places brought together, so that votes can reach it, and reach it once.

A vote needs a tensor, and takes some 200 bytes for its names and nodes. So numbers in nodes become tensors, or are
dropped where they say nothing: Constant nodes are another way to write an initializer, and onnxruntime reads them so; a
float attribute with its default value, such as the `alpha` of Gemm, can be left out. And equal scales and zero points
are stored once, since quantizers write a zero point of zeros for every layer.
"""

import re
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.folding import computation
from resq_deploy.deployed.nesting import graphs
from resq_deploy.deployed.tensors import settle

_OWN = ("", "ai.onnx")
_IDLE = "resq-deploy.idle"
_QUANTIZES = re.compile("QuantizeLinear$|DequantizeLinear$|QLinear")
_NUMBERS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


def gathered(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that computes the same, with fewer numbers in nodes and fewer tensors.

    Args:
        model: self-contained; not changed.

    Returns:
        The model with Constant nodes of its main graph as initializers, without float attributes of standard operators
        that have their default values, and with one of equal scales or zero points; attributes with other values stay.
        The model as it is where onnxruntime would not run the same.

    Raises:
        ModelError: if onnxruntime refuses the model.
    """
    changed = _rewritten(model)
    alike = _computation(changed) == _computation(model)
    return changed if alike else model


def _computation(model: onnx.ModelProto) -> list[object]:
    """Return what onnxruntime runs of a model, to which a node of no use is added.

    A graph in which it finds nothing to do is written as it came, any other with all attributes that have defaults.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.initializer.append(helper.make_tensor(_IDLE, onnx.TensorProto.INT32, [1], [0]))
    changed.graph.node.append(helper.make_node("Identity", [_IDLE], [f"{_IDLE}.same"]))
    return computation(changed.SerializeToString(), Deployment())


def _rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    for node in model.graph.node:
        tensor = _tensor_of(node)
        if tensor is None:
            changed.graph.node.append(node)
        else:
            changed.graph.initializer.append(tensor)
    opset = opset_of(model)
    for part in graphs(changed.graph):
        for node in part.node:
            for attribute in [one for one in node.attribute if _is_default(node, one, opset)]:
                node.attribute.remove(attribute)
    _store_once(changed.graph)
    return changed


def opset_of(model: onnx.ModelProto) -> int:
    """Return the opset of a model; 0 if it names none."""
    return max((entry.version for entry in model.opset_import if entry.domain in _OWN), default=0)


def _tensor_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return the tensor that a Constant node gives; None for other nodes, and for text and sparse tensors."""
    if node.op_type != "Constant" or node.domain not in _OWN or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    tensor = onnx.TensorProto()
    if attribute.name == "value":
        tensor.CopyFrom(attribute.t)
    elif attribute.name in _NUMBERS:
        values: Any = helper.get_attribute_value(attribute)
        tensor.CopyFrom(numpy_helper.from_array(np.array(values, dtype=_NUMBERS[attribute.name])))
    else:
        return None
    tensor.name = node.output[0]
    return tensor


def _is_default(node: onnx.NodeProto, attribute: onnx.AttributeProto, opset: int) -> bool:
    """Return whether an attribute is a float with the value that it has if it is left out."""
    if node.domain not in _OWN or attribute.type != onnx.AttributeProto.FLOAT:
        return False
    try:
        known = onnx.defs.get_schema(node.op_type, opset, "").attributes.get(attribute.name)
    except onnx.defs.SchemaError:
        return False
    default = known.default_value if known is not None else None
    return default is not None and default.type == onnx.AttributeProto.FLOAT and bool(default.f == attribute.f)


def _store_once(graph: onnx.GraphProto) -> None:
    """Let operators that quantize read one of equal stored vectors or numbers; not in graphs with others inside.

    What others read, such as the copies of a vote, may be stored more than once for a reason.
    """
    if len(list(graphs(graph))) > 1:
        return
    fixed = {value.name for value in (*graph.input, *graph.output)}
    fixed.update(name for node in graph.node if not _QUANTIZES.match(node.op_type) for name in node.input)
    first: dict[bytes, str] = {}
    instead: dict[str, str] = {}
    for tensor in graph.initializer:
        if len(tensor.dims) > 1 or tensor.name in fixed or tensor.data_location == onnx.TensorProto.EXTERNAL:
            continue
        nameless = onnx.TensorProto()
        nameless.CopyFrom(tensor)
        nameless.name = ""
        settle(nameless)
        kept = first.setdefault(nameless.SerializeToString(deterministic=True), tensor.name)
        if kept != tensor.name:
            instead[tensor.name] = kept
    for node in graph.node:
        node.input[:] = [instead.get(name, name) for name in node.input]
    kept_tensors = [tensor for tensor in graph.initializer if tensor.name not in instead]
    stored = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept_tensors]
    del graph.initializer[:]
    graph.initializer.extend(stored)
