"""Operators on codes that onnxruntime computes by table or by sums of codes: activations, softmax, pooling."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from resq_deploy.twin.float_ops import average_pool
from resq_deploy.twin.node import Node
from resq_deploy.twin.quantized import Quantized, quantized, requantized
from resq_deploy.twin.rounding import replaced, to_codes


def qlinear_sigmoid(node: Node, *operands: Tensor | None) -> Tensor:
    """QLinearSigmoid."""
    return _by_table(node, operands, torch.sigmoid)


def qlinear_leaky_relu(node: Node, *operands: Tensor | None) -> Tensor:
    """QLinearLeakyRelu."""
    return _by_table(node, operands, lambda values: F.leaky_relu(values, node.get("alpha", 0.01)))


def _by_table(node: Node, operands: tuple[Tensor | None, ...], activation: Callable[[Tensor], Tensor]) -> Tensor:
    result = Quantized.of((operands[0], *operands[3:5]))
    return quantized(node, activation(Quantized.of(operands[:3]).floats), result.scale, result.zero_point)


def qlinear_average_pool(node: Node, *operands: Tensor | None) -> Tensor:
    """QLinearAveragePool: averages of floats, `rint(average / scale + zero_point)`."""
    images, result = Quantized.of(operands[:3]), Quantized.of((operands[0], *operands[3:5]))
    last = bool(node.get("channels_last", 0))
    averages = average_pool(node, images.floats.movedim(-1, 1) if last else images.floats)
    values = averages / result.scale + result.zero_point
    codes = to_codes(values, values.new_zeros(()), node.limits, clip_gradient=node.clip_gradient)
    return codes.movedim(1, -1) if last else codes


def qlinear_global_average_pool(node: Node, *operands: Tensor | None) -> Tensor:
    """QLinearGlobalAveragePool: integer sums times `scale_x / (scale_y n)`."""
    images, result = Quantized.of(operands[:3]), Quantized.of((operands[0], *operands[3:5]))
    first = 1 if node.get("channels_last", 0) else 2
    axes = tuple(range(first, images.codes.ndim + first - 2))
    size = math.prod(images.codes.shape[axis] for axis in axes)
    sums = images.centred.sum(axes, keepdim=True)
    return requantized(node, sums, images.scale / (result.scale * size), result.zero_point)


def qlinear_softmax(node: Node, *operands: Tensor | None) -> Tensor:
    """QLinearSoftmax: a table of exponentials shifted towards the end of float32's range, summed one after the other.

    The codes are those of the kernel, whose result scale is `floor(1 / scale)`; the gradient is that of the softmax.
    """
    scores, result = Quantized.of(operands[:3]), Quantized.of((operands[0], *operands[3:5]))
    axis = node.get("axis", -1 if node.get("opset", node.opset) >= 13 else 1)
    if node.get("opset", node.opset) < 13:
        shape = scores.codes.shape
        flat = Quantized(scores.codes.flatten(axis), scores.scale, scores.zero_point)
        return _softmax_codes(node, flat, result, -1).reshape(shape)
    return _softmax_codes(node, scores, result, axis)


def _softmax_codes(node: Node, scores: Quantized, result: Quantized, axis: int) -> Tensor:
    smooth = torch.softmax(scores.floats, axis) / result.scale + result.zero_point
    with torch.no_grad():
        count = scores.codes.shape[axis]
        scale = scores.scale.double()
        shift = max(0.0, math.log(torch.finfo(torch.float32).max / count) - 5.0) / scale
        below = (scores.codes - scores.codes.amax(axis, keepdim=True)).movedim(axis, 0).double()
        powers = torch.exp((below + shift) * scale).float().contiguous()
        total = torch.zeros_like(powers[0])
        for power in powers:  # in the kernel's order, which decides the last bit
            total = total + power
        shares = (powers * torch.floor(1 / result.scale)) / total
        low, high = node.limits
        exact = (shares.round() + result.zero_point).clamp(low, high).movedim(0, axis)
    inside = torch.where((smooth >= low) & (smooth <= high), smooth, smooth.detach()) if node.clip_gradient else smooth
    return replaced(exact, inside)
