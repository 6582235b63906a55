"""int8 weights of a written file stored as uint8: every code plus a zero point, 128 for codes of 8 bits.

The values, and with them all that is computed, stay as they are. Where uint8 activations meet int8 weights, onnxruntime
adds up pairs of products in 16 bits on x86 CPUs without VNNI, which saturates; uint8 times uint8 it adds up in 32.

The quantizer writes int8 first, since its own uint8 weights are others: their step is 2 c / 255 for a range [-c, c],
and is not made larger where an int32 bias would overflow.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from resq_deploy.deployed.graph import node_label
from resq_deploy.deployed.operators import slots
from resq_deploy.errors import ModelError
from resq_deploy.grid import UINT8_ZERO_POINT, as_uint8

_LINEAR = ("QuantizeLinear", "DequantizeLinear")


def store_as_uint8(model: onnx.ModelProto, zero: int = UINT8_ZERO_POINT) -> None:
    """Turn stored int8 codes and their zero points into uint8, in place.

    Args:
        model: as onnxruntime's quantizer wrote it, QDQ or QOperator; only its main graph is looked at.
        zero: the zero point they get; codes lie between it and its opposite.

    Raises:
        ModelError: if codes with an int8 zero point are not stored, or something stored as int8 is read in another way
            as well, so that it would mean another value there.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    changed: set[str] = set()
    read: set[tuple[int, int]] = set()
    for place, node in enumerate(model.graph.node):
        for codes, zero_point in _operands(node):
            if zero_point >= len(node.input) or node.input[zero_point] not in stored:
                continue
            if node.input[codes] not in stored:
                raise _refusal(node, f"its operand {node.input[codes]!r} is int8, but not stored")
            changed.update((node.input[codes], node.input[zero_point]))
            read.update(((place, codes), (place, zero_point)))
    for place, node in enumerate(model.graph.node):
        for slot, name in enumerate(node.input):
            if name in changed and (place, slot) not in read:
                raise _refusal(node, f"it reads {name!r} otherwise than as codes with a zero point")
    for name in sorted(changed):
        tensor = stored[name]
        tensor.CopyFrom(numpy_helper.from_array(as_uint8(np.asarray(numpy_helper.to_array(tensor)), zero), name))


def _operands(node: onnx.NodeProto) -> Iterator[tuple[int, int]]:
    """Yield the slots of the codes a node reads and of their zero points."""
    if node.op_type in _LINEAR:
        yield 0, 2
        return
    meaning = slots(node.op_type, len(node.input))
    for codes, _, zero_point in meaning.quantized if meaning else ():
        if zero_point is not None:
            yield codes, zero_point


def _refusal(node: onnx.NodeProto, reason: str) -> ModelError:
    return ModelError(
        f"the weights of node {node_label(node)!r} cannot be stored as uint8 ({reason}): "
        "export with --weight-type int8, and --reduce-range for CPUs that saturate"
    )
