"""Numbers in nodes made stored tensors, or dropped where they say nothing, so that no vote has to pass them by.

A vote needs a tensor, and a number in an attribute is none. Constant nodes are another way to write an initializer, and
onnxruntime reads them so; a float attribute with its default value, such as the `alpha` of Gemm, can be left out.
"""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from resq_deploy.deployed.nesting import graphs

_OWN = ("", "ai.onnx")
_NUMBERS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


def hoisted(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that computes the same, with fewer numbers in nodes.

    Args:
        model: self-contained; not changed.

    Returns:
        The model with Constant nodes of its main graph as initializers, and without float attributes of standard
        operators that have their default values; attributes with other values stay.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    nodes = []
    for node in changed.graph.node:
        tensor = _tensor_of(node)
        if tensor is None:
            nodes.append(node)
        else:
            changed.graph.initializer.append(tensor)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del changed.graph.node[:]
    changed.graph.node.extend(kept)
    opset = opset_of(model)
    for part in graphs(changed.graph):
        for node in part.node:
            for attribute in [one for one in node.attribute if _is_default(node, one, opset)]:
                node.attribute.remove(attribute)
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
