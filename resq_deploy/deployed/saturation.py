"""What a file would do on a CPU whose kernels saturate: which layers can pass 16 bits there.

Kernels for uint8 x int8 without VNNI add two neighbouring products of an output in 16 bits. A layer can pass them
where two stored codes of one output have |w1| + |w2| times 255 above 32,767. Which codes are neighbours depends on how
the kernel packs them, so the two largest of each output are taken: an upper bound. Whether activations get so large is
not looked at.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from resq_deploy.deployed.arithmetic import Operands, products
from resq_deploy.deployed.deployment import Deployment, optimised_file

_LARGEST_SUM = 32_767
_LARGEST_ACTIVATION = 255


@dataclasses.dataclass(frozen=True)
class SaturatingLayer:
    """A layer of the optimised graph whose sums can saturate on a CPU without VNNI.

    Attributes:
        layer: the node's name, else its first output.
        operator: what onnxruntime runs it as.
        outputs: how many of its output channels can pass 16 bits; None where the codes are not stored.
        of: how many it has; None likewise.
    """

    layer: str
    operator: str
    outputs: int | None
    of: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return dataclasses.asdict(self)


def saturating_layers(model: bytes, deployment: Deployment) -> list[SaturatingLayer]:
    """Return the layers of a file whose sums could saturate on a CPU without VNNI, whatever CPU this is.

    Args:
        model: the serialised file.
        deployment: how it is run; the optimisation level decides which layers become integer.

    Raises:
        ModelError: if onnxruntime refuses the model.
    """
    proto = optimised_file(model, deployment)
    return [layer for operands in products(proto.graph) for layer in _found(operands)]


def _found(operands: Operands) -> Iterator[SaturatingLayer]:
    node, tensor = operands.node, operands.right
    if node.op_type == "ConvInteger":  # its kernel takes the weights for the left operand
        if operands.types == (TensorProto.INT8, TensorProto.UINT8):
            yield SaturatingLayer(_name(node), node.op_type, None, None)
        return
    if operands.types != (TensorProto.UINT8, TensorProto.INT8) or _is_depthwise(node, tensor):
        return
    if tensor is None:
        yield SaturatingLayer(_name(node), node.op_type, None, None)
        return
    passing = _passing(_by_output(node, numpy_helper.to_array(tensor)))
    if passing.any():
        yield SaturatingLayer(_name(node), node.op_type, int(passing.sum()), len(passing))


def _passing(codes: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Return which rows hold two codes whose products with the largest activation pass 16 bits; [M, K] -> [M]."""
    largest = np.sort(np.abs(codes), axis=1)[:, -2:].astype(np.int64)
    passing: NDArray[np.bool_] = largest.sum(axis=1) * _LARGEST_ACTIVATION > _LARGEST_SUM
    return passing


def _by_output(node: onnx.NodeProto, codes: NDArray[np.int8]) -> NDArray[np.int16]:
    """Return the codes of each output channel in a row, [M, K]."""
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    wide = codes.astype(np.int16)
    if node.op_type == "QLinearConv" or transposed:
        return wide.reshape(len(wide), -1)
    return np.moveaxis(wide, -2, -1).reshape(-1, wide.shape[-2])


def _is_depthwise(node: onnx.NodeProto, tensor: TensorProto | None) -> bool:
    """Return whether each output reads one channel: kernels for that are exact everywhere."""
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return node.op_type == "QLinearConv" and tensor is not None and groups == tensor.dims[0] > 1 and tensor.dims[1] == 1


def _name(node: onnx.NodeProto) -> str:
    """Return the layer's name in the file, without what onnxruntime's optimiser adds to names."""
    return re.sub(r"_token_\d+$", "", node.name or node.output[0])
