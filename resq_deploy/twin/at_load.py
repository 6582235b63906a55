"""Weights that a file stores as floats and onnxruntime makes int8 when it loads the file.

It does so with the weights and biases of layers between (de)quantized activations, and deploys codes that the file
does not hold. The twin quantizes them by nodes of its own, so that gradients reach what is stored.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtLoad:
    """What becomes of stored floats at load.

    Attributes:
        nodes: those of the file, with the quantized weights and biases in the place of the floats, and nodes that make
            them.
        added: the codes, scales and zero points, by onnxruntime's names.
        quantized: names of the stored floats; what they are decides the scales, too.
    """

    nodes: Sequence[onnx.NodeProto]
    added: Mapping[str, NDArray[Any]]
    quantized: frozenset[str]


def quantized_at_load(
    nodes: Sequence[onnx.NodeProto], stored: Mapping[str, onnx.TensorProto], basic: onnx.GraphProto
) -> AtLoad:
    """Find the floats that onnxruntime has quantized.

    Args:
        nodes: of the file.
        stored: its initializers, by name.
        basic: its graph after onnxruntime's basic optimisations, where layers are still float.
    """
    known = stored.keys() | {name for node in nodes for name in node.output}
    parameters = {tensor.name: tensor for tensor in basic.initializer}
    makers = {name: node for node in basic.node for name in node.output}
    loaded = {node.output[0]: node for node in basic.node if node.output}
    result, added, quantized = list[onnx.NodeProto](), dict[str, NDArray[Any]](), set[str]()
    for node in nodes:
        twin = loaded.get(node.output[0]) if node.output else None
        if twin is None or twin.op_type != node.op_type or len(twin.input) != len(node.input):
            result.append(node)
            continue
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        for slot, (name, now) in enumerate(zip(node.input, twin.input, strict=True)):
            maker = makers.get(now)
            if name not in stored or maker is None or maker.op_type != "DequantizeLinear":
                continue
            if maker.input[0] in known or any(entry not in parameters for entry in maker.input if entry):
                continue
            values = {entry: numpy_helper.to_array(parameters[entry]) for entry in maker.input if entry}
            added.update(values)
            quantized.add(name)
            if _meets(numpy_helper.to_array(stored[name]), maker, values):
                attributes = {a.name: helper.get_attribute_value(a) for a in maker.attribute if a.name == "axis"}
                label = f"{maker.input[0]} of {name}"
                inputs = [name, *maker.input[1:]]
                result.append(helper.make_node("QuantizeLinear", inputs, [maker.input[0]], label, **attributes))
            if maker not in result:
                result.append(maker)
            changed.input[slot] = now
        result.append(changed)
    return AtLoad(nodes=result, added=added, quantized=frozenset(quantized))


def _meets(floats: NDArray[Any], maker: onnx.NodeProto, values: Mapping[str, NDArray[Any]]) -> bool:
    """Return whether codes are those that QuantizeLinear makes of floats."""
    codes, scale = (values[name] for name in maker.input[:2])
    zero = values[maker.input[2]] if len(maker.input) > 2 and maker.input[2] else np.zeros((), codes.dtype)
    axis = next((attribute.i for attribute in maker.attribute if attribute.name == "axis"), 1)
    if codes.shape != floats.shape or floats.dtype != np.float32:
        return False
    if scale.size > 1:
        places = [i for i in range(floats.ndim) if i != axis % floats.ndim]
        scale = np.expand_dims(scale, places)
        zero = np.expand_dims(zero, places) if zero.size > 1 else zero
    limits = np.iinfo(codes.dtype)
    made = np.clip(np.rint(floats / scale) + zero.astype(np.float32), limits.min, limits.max)
    return bool(np.array_equal(made, codes))
