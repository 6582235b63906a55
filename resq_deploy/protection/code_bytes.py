"""How many bytes a code adds to a file: those of its decoder, once, and of what gives back each tensor.

They are measured by protecting small files with weights of the same names and ranks, since one place knows what is
written, and that writes. What weights hold takes no more bytes than before, but for the padding of their last block.
"""

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.codes.code import Code
from resq_deploy.deployed.surfaces import Surface
from resq_deploy.protection.protect import protect


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeBytes:
    """Bytes that a code adds to a file, whatever its weights hold.

    Attributes:
        decoder: of what all weights share; with the most that padding takes.
        tensor: of each weight: what cuts it out and shapes it; the mean of all.
    """

    decoder: int
    tensor: int


def code_bytes(code: Code, opset: int, weights: Sequence[Surface], *, health: bool = False) -> CodeBytes:
    """Return the bytes that a code adds to a file.

    Args:
        code: the code.
        opset: of the file, 13 or later.
        weights: those that can be coded, int8 or uint8; not none.
        health: whether the file is to report its health.
    """
    shapes: dict[tuple[int, ...], tuple[int, ...]] = {}
    for weight in weights:
        if weight.shape not in shapes:
            shapes[weight.shape] = _alike(weight.shape, shapes.values())
    entries = [(weight.tensor, weight.dtype, shapes[weight.shape]) for weight in weights]
    one, total = (_added(code, opset, some, health=health) for some in (entries[:1], entries))
    tensor = round((total - one) / max(len(entries) - 1, 1))
    return CodeBytes(decoder=total - len(entries) * tensor + code.block, tensor=tensor)


def _alike(shape: tuple[int, ...], taken: Collection[tuple[int, ...]]) -> tuple[int, ...]:
    """Return a shape of the same rank and largest size, or a little more, of few values and unlike others."""
    if not shape:
        return shape
    size = max(shape)
    while (size, *[1] * (len(shape) - 1)) in taken:
        size += 1
    return (size, *[1] * (len(shape) - 1))


def _added(code: Code, opset: int, weights: Sequence[tuple[str, str, tuple[int, ...]]], *, health: bool) -> int:
    """Return the bytes that a code adds to a file of some weights, given by name, type and shape."""
    nodes, stored, made = [], [], []
    for number, (name, dtype, shape) in enumerate(weights):
        stored.append(numpy_helper.from_array(np.zeros(shape, dtype), name))
        nodes.append(helper.make_node("DequantizeLinear", [name, "scale"], [f"y{number}"]))
        made.append(helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, shape))
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [1.0])
    graph = helper.make_graph(nodes, "weights", [], made, [*stored, scale])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    padding = code.block - sum(int(np.prod(shape)) for _, _, shape in weights) % code.block
    protected = protect(model, [tensor.name for tensor in stored], code, health=health)
    return int(protected.ByteSize() - model.ByteSize() - padding % code.block)
