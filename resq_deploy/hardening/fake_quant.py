"""Fake quantization on the deployment grid: int8 weights with or without flipped bits, uint8 activations.

The grid is that of the batch-norm-folded weights, since those are what the deployed file stores. Per output
channel, folding multiplies a channel by `k_c` and its scale by `|k_c|`: the codes keep their size, but where `k_c` is
negative they change sign, and a flip of a two's-complement code is another one then.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resq_deploy.errors import TrainingError
from resq_deploy.grid import CODE_MAX, SMALLEST_SCALE
from resq_deploy.hardening.folding import fold_factors

_BITS = 8
_UINT8_MAX = 255
_RANGE_MEMORY = 0.95


class WeightGrid:
    """The stored weights of a network, as int8 codes that follow its float weights.

    Attributes:
        layers: the convolutions and linear layers by name; `<name>.weight` is the parameter.
    """

    def __init__(self, network: nn.Module, pairs: Mapping[str, str]) -> None:
        """Watch a network.

        Args:
            network: the network in training, with batch-norm in place.
            pairs: which batch-norm follows which convolution (`folding.find_pairs`).
        """
        modules = dict(network.named_modules())
        self.layers: dict[str, nn.Conv2d | nn.Linear] = {
            name: module for name, module in modules.items() if isinstance(module, nn.Conv2d | nn.Linear)
        }
        self._norms = {conv: modules[norm] for conv, norm in pairs.items()}

    def codes(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the stored codes of a layer and what one step of them is worth in the unfolded weights.

        Returns:
            Codes as float32 integers in [-127, 127], shape of the weight; and `s_c / k_c`, float32
            [channels, 1, ...], NaN where `k_c` is 0: such a channel stores zeros whatever its weights are.
        """
        weight = self.layers[name].weight.detach()
        norm = self._norms.get(name)
        factors = fold_factors(norm) if isinstance(norm, nn.BatchNorm2d) else torch.ones_like(weight.flatten(1)[:, 0])
        factors = factors.reshape(-1, *[1] * (weight.ndim - 1))
        folded = weight * factors
        scale = folded.flatten(1).abs().amax(1).reshape(factors.shape) / CODE_MAX
        scale = torch.where(scale < SMALLEST_SCALE, torch.ones_like(scale), scale)
        codes = (folded / scale).round().clamp(-CODE_MAX, CODE_MAX)
        return codes, torch.where(factors == 0, torch.nan, scale / factors)

    def weights(self, flips: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return quantized weights for `torch.func.functional_call`, with straight-through gradients.

        Args:
            flips: for some layers, what to flip: uint8 of the weight's shape, XORed with the two's-complement codes.

        Returns:
            `{parameter name: unfolded weight on the grid}`; its gradient with respect to the float weight is 1.
        """
        flips = flips or {}
        substitutes = {}
        for name, layer in self.layers.items():
            codes, step = self.codes(name)
            if name in flips:
                codes = flip_codes(codes, flips[name])
            stored = torch.where(step.isnan(), layer.weight.detach(), codes * step)
            substitutes[f"{name}.weight"] = layer.weight + (stored - layer.weight).detach()
        return substitutes

    def draw_flips(
        self, names: Mapping[str, Any] | list[str], rate: float, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Draw independent flips with probability `rate` of each stored bit of some layers.

        The gaps between flips are geometric, so that the cost grows with the flips and not with the bits.

        Args:
            names: the layers.
            rate: probability of a flip, in (0, 1).
            generator: on the weights' device.

        Returns:
            `{layer: uint8 mask of the weight's shape}`.
        """
        shapes = {name: self.layers[name].weight.shape for name in names}
        sizes = [shape.numel() for shape in shapes.values()]
        device = generator.device
        places = _bernoulli_places(sum(sizes) * _BITS, rate, generator)
        words = torch.zeros(sum(sizes), dtype=torch.int32, device=device)
        # bits of one word are distinct, so that their sum is their union
        words.index_add_(0, places // _BITS, torch.ones_like(places, dtype=torch.int32) << (places % _BITS).int())
        parts = torch.split(words.to(torch.uint8), sizes)
        return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def flip_codes(codes: Tensor, flips: Tensor) -> Tensor:
    """Return codes with bits flipped: integers in [-128, 127] in float32, `flips` uint8 of the same shape."""
    stored = codes.to(torch.int8).view(torch.uint8) ^ flips
    return stored.view(torch.int8).to(codes.dtype)


def _bernoulli_places(count: int, rate: float, generator: torch.Generator) -> Tensor:
    """Return, in rising order, which of `count` independent trials succeed; int64."""
    expected = count * rate
    block = int(expected + 6 * expected**0.5) + 16
    places = torch.zeros(0, dtype=torch.int64, device=generator.device)
    end = 0
    while end <= count:
        gaps = torch.empty(block, dtype=torch.float64, device=generator.device).geometric_(rate, generator=generator)
        more = gaps.long().cumsum(0) + end
        places = torch.cat([places, more])
        end = int(more[-1])
    return places[places <= count] - 1


class ActivationGrid:
    """uint8 fake quantization of what convolutions and linear layers read, with running ranges.

    Layers that a network calls as functions (the attention of Swin) are not seen and stay in float.

    Attributes:
        ranges: the running minimum (<= 0) and maximum (>= 0) of what each layer reads.
    """

    def __init__(self, grid: WeightGrid) -> None:
        self._layers = dict(grid.layers)
        self.ranges: dict[str, tuple[float, float]] = {}

    @contextlib.contextmanager
    def applied(self, *, learn: bool) -> Iterator[None]:
        """Quantize activations for a while.

        Args:
            learn: let the ranges follow each batch (`r <- 0.95 r + 0.05 batch`, the first batch as it is). A layer
                without a range yet is not quantized.
        """
        handles = [
            layer.register_forward_pre_hook(self._hook(name, learn=learn)) for name, layer in self._layers.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str, *, learn: bool) -> Any:
        def quantize(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            values = inputs[0]
            if learn:
                self._follow(name, values.detach())
            if name not in self.ranges:
                return inputs
            return (quantize_activation(values, *self.ranges[name]), *inputs[1:])

        return quantize

    def _follow(self, name: str, values: Tensor) -> None:
        low, high = min(values.amin().item(), 0.0), max(values.amax().item(), 0.0)
        if not math.isfinite(high - low):
            raise TrainingError(
                f"layer {name} reads values that are not finite: lower the learning rates or give --precision float32; "
                "the checkpoints of earlier epochs are kept"
            )
        old_low, old_high = self.ranges.get(name, (low, high))
        self.ranges[name] = (
            _RANGE_MEMORY * old_low + (1 - _RANGE_MEMORY) * low,
            _RANGE_MEMORY * old_high + (1 - _RANGE_MEMORY) * high,
        )


class _Round(torch.autograd.Function):
    """Round to multiples of a step, half to even; the gradient passes straight through."""

    @staticmethod
    def forward(_: Any, values: Tensor, step: float) -> Tensor:
        return values.div(step).round_().mul_(step)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def quantize_activation(values: Tensor, low: float, high: float) -> Tensor:
    """Return values on the uint8 grid of a range, saturated beyond it; the gradient is 1 inside and 0 outside.

    Two vectorised kernels; torch's own fake quantization took seven times as long on a CPU.

    Args:
        values: of any shape and float type, which is kept.
        low: end of the range, at most 0.
        high: end of the range, at least 0.
    """
    step = max((high - low) / _UINT8_MAX, SMALLEST_SCALE)
    zero_point = min(max(round(-low / step), 0), _UINT8_MAX)
    saturated = F.hardtanh(values, -zero_point * step, (_UINT8_MAX - zero_point) * step)
    rounded: Tensor = _Round.apply(saturated, step)
    return rounded
