"""Operators on floats, by torch's own functions: arithmetic, activations, pooling, normalisation, reductions.

Arithmetic also serves the integers of shapes, and logic the votes of guarded files.
"""

import functools
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from resq_deploy.twin.node import Node
from resq_deploy.twin.windows import padded, window

_MAX_POOLS: Mapping[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOLS: Mapping[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}

Operator = Callable[..., Tensor | tuple[Tensor, ...]]


def elementwise(function: Callable[..., Tensor]) -> Operator:
    """Return a function of tensors as an operator without attributes."""
    return lambda _, *operands: function(*operands)


def div(_: Node, left: Tensor, right: Tensor) -> Tensor:
    """Div: of integers (shapes) towards zero."""
    return torch.div(left, right) if left.is_floating_point() else torch.div(left, right, rounding_mode="trunc")


def clip(node: Node, values: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Clip: bounds as operands, or before opset 11 as attributes."""
    if node.opset < 11:
        return values.clamp(node.get("min"), node.get("max")) if node.attributes else values
    return values if low is None and high is None else torch.clamp(values, low, high)


def gelu(node: Node, values: Tensor) -> Tensor:
    """Gelu, exact or by tanh."""
    return F.gelu(values, approximate=node.get("approximate", "none"))


def quick_gelu(node: Node, values: Tensor) -> Tensor:
    """QuickGelu (com.microsoft): `x sigmoid(alpha x)`."""
    return values * torch.sigmoid(node.get("alpha", 1.702) * values)


def hard_sigmoid(node: Node, values: Tensor) -> Tensor:
    """HardSigmoid: `max(0, min(1, alpha x + beta))`."""
    return torch.clamp(values * node.get("alpha", 0.2) + node.get("beta", 0.5), 0, 1)


def leaky_relu(node: Node, values: Tensor) -> Tensor:
    """LeakyRelu."""
    return F.leaky_relu(values, node.get("alpha", 0.01))


def elu(node: Node, values: Tensor) -> Tensor:
    """Elu."""
    return F.elu(values, node.get("alpha", 1.0))


def softmax(node: Node, values: Tensor) -> Tensor:
    """Softmax along one axis, or before opset 13 along it and all that follow."""
    if node.opset >= 13:
        return torch.softmax(values, node.get("axis", -1))
    return torch.softmax(values.flatten(node.get("axis", 1)), -1).reshape(values.shape)


def max_pool(node: Node, images: Tensor) -> Tensor:
    """MaxPool: NCHW."""
    frame = window(node, tuple(node.get("kernel_shape")), tuple(images.shape[2:]))
    images, padding = padded(images, frame, value=-torch.inf)
    pool = _MAX_POOLS[len(frame.kernel)]
    rounding = bool(node.get("ceil_mode", 0))
    return pool(images, frame.kernel, frame.strides, padding, frame.dilations, ceil_mode=rounding)


def nhwc_max_pool(node: Node, images: Tensor) -> Tensor:
    """NhwcMaxPool (com.microsoft)."""
    return max_pool(node, images.movedim(-1, 1)).movedim(1, -1)


def average_pool(node: Node, images: Tensor) -> Tensor:
    """AveragePool: NCHW."""
    frame = window(node, tuple(node.get("kernel_shape")), tuple(images.shape[2:]))
    pool = functools.partial(
        _AVERAGE_POOLS[len(frame.kernel)],
        kernel_size=frame.kernel,
        stride=frame.strides,
        ceil_mode=bool(node.get("ceil_mode", 0)),
    )
    counted = bool(node.get("count_include_pad", 0))
    if frame.begin == frame.end:
        return pool(images, padding=frame.begin, count_include_pad=counted)
    inside, _ = padded(torch.ones_like(images[:1, :1]), frame)
    images, _ = padded(images, frame)
    return pool(images) if counted else pool(images) / pool(inside)


def global_average_pool(_: Node, images: Tensor) -> Tensor:
    """GlobalAveragePool: NCHW."""
    return images.mean(tuple(range(2, images.ndim)), keepdim=True)


def global_max_pool(_: Node, images: Tensor) -> Tensor:
    """GlobalMaxPool: NCHW."""
    return images.amax(tuple(range(2, images.ndim)), keepdim=True)


def reduction(function: Callable[..., Tensor]) -> Operator:
    """Return a reduction over axes, given as an operand or, in older opsets, as an attribute."""

    def reduce(node: Node, values: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = tuple(node.get("axes", ())) if axes is None else tuple(axes.tolist())
        if not chosen and node.get("noop_with_empty_axes", 0):
            return values
        return function(values, chosen or tuple(range(values.ndim)), keepdim=bool(node.get("keepdims", 1)))

    return reduce


def layer_normalization(node: Node, values: Tensor, gain: Tensor, shift: Tensor | None = None) -> Tensor:
    """LayerNormalization over the axes from `axis` on."""
    return F.layer_norm(values, values.shape[node.get("axis", -1) :], gain, shift, node.get("epsilon", 1e-5))


def batch_normalization(node: Node, *operands: Tensor) -> Tensor:
    """BatchNormalization with stored statistics."""
    values, gain, shift, mean, variance = operands
    return F.batch_norm(values, mean, variance, gain, shift, training=False, eps=node.get("epsilon", 1e-5))


FLOAT_OPERATORS: dict[str, Operator] = {
    "Abs": elementwise(torch.abs),
    "Add": elementwise(torch.add),
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Clip": clip,
    "Div": div,
    "Elu": elu,
    "Equal": elementwise(torch.eq),
    "Erf": elementwise(torch.erf),
    "Exp": elementwise(torch.exp),
    "Gelu": gelu,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "Greater": elementwise(torch.gt),
    "HardSigmoid": hard_sigmoid,
    "HardSwish": elementwise(F.hardswish),
    "LayerNormalization": layer_normalization,
    "LeakyRelu": leaky_relu,
    "Less": elementwise(torch.lt),
    "Log": elementwise(torch.log),
    "Max": elementwise(lambda *values: functools.reduce(torch.maximum, values)),
    "MaxPool": max_pool,
    "Min": elementwise(lambda *values: functools.reduce(torch.minimum, values)),
    "Mul": elementwise(torch.mul),
    "Neg": elementwise(torch.neg),
    "NhwcMaxPool": nhwc_max_pool,
    "Pow": elementwise(torch.pow),
    "QuickGelu": quick_gelu,
    "Reciprocal": elementwise(torch.reciprocal),
    "ReduceMax": reduction(torch.amax),
    "ReduceMean": reduction(torch.mean),
    "ReduceSum": reduction(torch.sum),
    "Relu": elementwise(torch.relu),
    "Sigmoid": elementwise(torch.sigmoid),
    "Softmax": softmax,
    "Softplus": elementwise(F.softplus),
    "Sqrt": elementwise(torch.sqrt),
    "Sub": elementwise(torch.sub),
    "Tanh": elementwise(torch.tanh),
    "Where": elementwise(torch.where),
}
