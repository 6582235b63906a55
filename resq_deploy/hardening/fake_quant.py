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
from torch import Tensor, nn

from resq_deploy.errors import TrainingError
from resq_deploy.grid import CODE_MAX, SMALLEST_SCALE
from resq_deploy.hardening.folding import fold_factors, per_channel
from resq_deploy.hardening.ranks import Ranks

_BITS = 8
_UINT8_MAX = 255
_RANGE_MEMORY = 0.95


Stored = Mapping[str, tuple[Tensor, Tensor]]
"""By layer, its codes and what a step of them is worth, as `WeightGrid.codes` gives them."""


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
        factors = fold_factors(norm).detach() if isinstance(norm, nn.BatchNorm2d) else weight.new_ones(len(weight))
        factors = per_channel(factors, weight.ndim)
        folded = weight * factors
        scale = folded.flatten(1).abs().amax(1).reshape(factors.shape) / CODE_MAX
        scale = torch.where(scale < SMALLEST_SCALE, torch.ones_like(scale), scale)
        codes = (folded / scale).round().clamp(-CODE_MAX, CODE_MAX)
        return codes, torch.where(factors == 0, torch.nan, scale / factors)

    def stored(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return what `codes` gives for every layer, for the branches of a step to share."""
        return {name: self.codes(name) for name in self.layers}

    def weights(self, stored: Stored, flips: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return quantized weights for `torch.func.functional_call`, with straight-through gradients.

        Args:
            stored: what `stored` gave.
            flips: for some layers, what to flip: uint8 of the weight's shape, XORed with the two's-complement codes.

        Returns:
            `{parameter name: unfolded weight on the grid}`; its gradient with respect to the float weight is 1.
        """
        flips = flips or {}
        substitutes = {}
        for name, layer in self.layers.items():
            codes, step = stored[name]
            if name in flips:
                codes = flip_codes(codes, flips[name])
            values = torch.where(step.isnan(), layer.weight.detach(), codes * step)
            substitutes[f"{name}.weight"] = _StraightThrough.apply(layer.weight, values)
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
        self._names = list(grid.layers)
        self.ranges: dict[str, tuple[float, float]] = {}

    @contextlib.contextmanager
    def applied(self, network: nn.Module, *, learn: bool) -> Iterator[None]:
        """Quantize activations for a while.

        Args:
            network: the network that is run, the one watched or its folded form.
            learn: let the ranges follow each batch (`r <- 0.95 r + 0.05 batch`, the first batch as it is). A layer
                without a range yet is not quantized.
        """
        handles = [
            network.get_submodule(name).register_forward_pre_hook(self._hook(name, learn=learn)) for name in self._names
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def agree(self, ranks: Ranks) -> None:
        """Average the ranges over the processes of a run."""
        if ranks.count > 1:
            ends = {f"{name} {end}": of[end] for name, of in self.ranges.items() for end in range(2)}
            means = ranks.means(ends)
            self.ranges = {name: (means[f"{name} 0"], means[f"{name} 1"]) for name in self.ranges}

    def _hook(self, name: str, *, learn: bool) -> Any:
        def quantize(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            values = inputs[0]
            # known extremes save more than they cost where a backward pass follows
            extremes = _extremes(values) if learn or values.requires_grad else None
            if learn and extremes is not None:
                self._follow(name, *extremes)
            if name not in self.ranges:
                return inputs
            return (quantize_activation(values, *self.ranges[name], extremes), *inputs[1:])

        return quantize

    def _follow(self, name: str, lowest: float, highest: float) -> None:
        low, high = min(lowest, 0.0), max(highest, 0.0)
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


def _extremes(values: Tensor) -> tuple[float, float]:
    # in the order they lie in memory: other layouts than the default would be copied first
    order = sorted(range(values.ndim), key=values.stride, reverse=True)
    lowest, highest = torch.aminmax(values.detach().permute(order))
    return lowest.item(), highest.item()


class _StraightThrough(torch.autograd.Function):
    """Put values in the place of a tensor, to the bit; the gradient passes to that tensor as it is."""

    @staticmethod
    def forward(_: Any, _replaced: Tensor, values: Tensor) -> Tensor:
        return values

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _Quantize(torch.autograd.Function):
    """Round to multiples of a step, half to even, between two bounds; the gradient is 1 between them and 0 outside.

    Where no value lies outside (`inside`), there is nothing to saturate and no gradient to stop, and a pass over the
    values each way is saved. A value on a bound keeps its gradient then, and else loses it: both are subgradients, and
    what a ReLU put there has none in either case.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, step: float, bounds: tuple[int, int], inside: bool) -> Tensor:
        ctx.bounds = None if inside else (bounds[0] * step, bounds[1] * step)
        if not inside:
            ctx.save_for_backward(values)
        # exact where the format is; in bf16 both are off by as much, and the product takes less time
        steps = values.div(step) if values.dtype == torch.float32 else values.mul(1 / step)
        steps.round_()
        return (steps if inside else steps.clamp_(*bounds)).mul_(step)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        if ctx.bounds is None:
            return gradients[0], None, None, None
        (values,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradients[0], values, *ctx.bounds), None, None, None


def quantize_activation(values: Tensor, low: float, high: float, extremes: tuple[float, float] | None = None) -> Tensor:
    """Return values on the uint8 grid of a range, saturated beyond it; the gradient is 1 inside and 0 outside.

    A few vectorised kernels; torch's own fake quantization took seven times as long on a CPU.

    Args:
        values: of any shape and float type, which is kept.
        low: end of the range, at most 0.
        high: end of the range, at least 0.
        extremes: the least and the greatest of the values, where they are known; that saves time.
    """
    step = max((high - low) / _UINT8_MAX, SMALLEST_SCALE)
    zero_point = min(max(round(-low / step), 0), _UINT8_MAX)
    bounds = -zero_point, _UINT8_MAX - zero_point
    inside = extremes is not None and bounds[0] * step <= extremes[0] and extremes[1] < bounds[1] * step
    quantized: Tensor = _Quantize.apply(values, step, bounds, inside)
    return quantized
