"""How many bytes a code adds to a file: those of its decoder, once, and of what gives back each tensor.

Both are measured, by protecting files of a few tensors: there is one place that knows what is written, and that writes.
"""

import dataclasses
import functools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.codes.code import Code
from resq_deploy.protection.protect import protect

_FEW, _MORE = 2, 6  # tensors of the files that are compared


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeBytes:
    """Bytes that a code adds to a file, whatever its weights hold.

    Attributes:
        decoder: of what all weights share.
        tensor: of each weight: what cuts it out and shapes it.
    """

    decoder: int
    tensor: int


@functools.cache
def code_bytes(code: Code, opset: int, *, health: bool = False) -> CodeBytes:
    """Return the bytes that a code adds to a file of an opset, with the most that it takes to fill a last block."""
    few, more = (_added(code, opset, count, health=health) for count in (_FEW, _MORE))
    tensor = round((more - few) / (_MORE - _FEW))
    return CodeBytes(decoder=few - _FEW * tensor + code.block - 1, tensor=tensor)


def _added(code: Code, opset: int, count: int, *, health: bool) -> int:
    """Return the bytes that a code adds to a file of some weights, of four dimensions each and no two alike."""
    nodes, stored, made = [], [], []
    for number in range(count):
        weight = f"layers.{number:02}.conv.weight_quantized"
        values = np.zeros((code.block * (number + 1), 1, 1, 1), dtype=np.int8)
        stored.append(numpy_helper.from_array(values, weight))
        nodes.append(helper.make_node("DequantizeLinear", [weight, "scale"], [f"y{number}"]))
        made.append(helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, values.shape))
    stored.append(helper.make_tensor("scale", TensorProto.FLOAT, [], [1.0]))
    graph = helper.make_graph(nodes, "few", [], made, stored)
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    weights = [tensor.name for tensor in stored[:-1]]
    return int(protect(model, weights, code, health=health).ByteSize() - model.ByteSize())
