"""The twin itself: the nodes of a deployed file, run with torch."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from resq_deploy.deployed.inputs import InputSpec
from resq_deploy.deployed.runtime_errors import first_line
from resq_deploy.errors import ModelError
from resq_deploy.twin.node import Node
from resq_deploy.twin.operators import OPERATORS
from resq_deploy.twin.rounding import to_codes

_WHITE = 255.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """What a twin runs.

    Attributes:
        nodes: each after the nodes it reads from; nothing that the output does not depend on.
        constants: tensors the nodes read that no fault can hit (shapes, indices), by name.
        quantized: names of stored floats that onnxruntime makes int8 at load.
    """

    nodes: Sequence[Node]
    constants: Mapping[str, Tensor]
    quantized: frozenset[str]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """What a twin is of.

    Attributes:
        listing: what it runs.
        relist: what it runs when the file stores other values. Integer kernels may then no longer apply:
            onnxruntime fuses a convolution only if the scale of its bias is about that of its products.
        stored: the tensors of the file that faults can hit, by name.
        steering: which of them can change the listing: all but weights and biases, unless these are quantized at load.
        input: what the file takes.
        output: name of the output that holds the class scores.
        clip_gradient: whether what saturates gets a zero gradient.
    """

    listing: Listing
    relist: Callable[[Mapping[str, Tensor]], Listing]
    stored: Mapping[str, Tensor]
    steering: frozenset[str]
    input: InputSpec
    output: str
    clip_gradient: bool


class Twin(nn.Module):
    """A deployed file as a differentiable function of its images and of what it stores; see `read_twin`.

    Attributes:
        stored: what the file stores and faults can hit, by the tensor's name in the file (each copy of a guarded
            tensor by itself): floats and 8-bit codes as float32, int32 as float64, all exact; without gradients.
        input: what the file takes.
    """

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.input = source.input
        self._source = source
        self._stored = dict(source.stored)
        self._plan = _Plan(source.listing, self._stored, source.output)

    @property
    def stored(self) -> Mapping[str, Tensor]:
        """What the file stores."""
        return MappingProxyType(self._stored)

    def forward(self, images: Tensor, stored: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the logits, float32 [N, classes].

        Args:
            images: [N, ...] in the file's layout: float32 in [0, 1], whatever the file takes (of a file that takes
                uint8, the levels are rounded, straight through), or uint8 levels.
            stored: replacements for some of the stored tensors, of the same shapes; gradients reach them.

        Raises:
            ModelError: if a replacement is of no stored tensor, onnxruntime refuses a file that stores it, or a node
                cannot compute what it is given.
        """
        replaced = dict(stored or {})
        plan = self._plan_for(replaced)
        known = plan.known(replaced)
        batch = self.input.shape[0] or len(images)
        if len(images) == batch:
            return self._run(plan, images, known)
        parts = []
        for part in torch.split(images, batch):
            filled = torch.cat([part, part[-1:].expand(batch - len(part), *part.shape[1:])])
            parts.append(self._run(plan, filled, known)[: len(part)])
        return torch.cat(parts)

    def _plan_for(self, replaced: Mapping[str, Tensor]) -> "_Plan":
        """Return what is run with some tensors replaced."""
        for name, tensor in replaced.items():
            if name not in self._stored or tensor.shape != self._stored[name].shape:
                shape = list(self._stored[name].shape) if name in self._stored else "no stored tensor of that name"
                raise ModelError(f"cannot replace {name!r}, {list(tensor.shape)}: the file has {shape}")
        steering = {name: replaced[name].detach() for name in self._source.steering & replaced.keys()}
        if all(torch.equal(tensor, self._stored[name]) for name, tensor in steering.items()):
            return self._plan
        return _Plan(self._source.relist(steering), self._stored, self._source.output)

    def _run(self, plan: "_Plan", images: Tensor, known: Mapping[str, Tensor]) -> Tensor:
        values = dict(known)
        values[self.input.name] = self._taken(images)
        for node, spent in zip(plan.varying, plan.spent, strict=True):
            values.update(_computed(node, values))
            for name in spent:
                values.pop(name, None)
        return values[self._source.output].reshape(len(images), -1).float()

    def _taken(self, images: Tensor) -> Tensor:
        """Return the images as the file takes them."""
        if not images.is_floating_point():
            return images.float() / _WHITE if self.input.dtype is np.float32 else images.float()
        if self.input.dtype is np.float32:
            return images
        return to_codes(images * _WHITE, images.new_zeros(()), (0.0, _WHITE), clip_gradient=self._source.clip_gradient)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the tensors to another device, as `to` asks; they are no buffers, whose names may hold no dots."""
        moved: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._stored = {name: fn(tensor) for name, tensor in self._stored.items()}
        self._plan = _Plan(self._source.listing, self._stored, self._source.output)
        return moved


class _Plan:
    """A listing, divided into what follows from stored values alone and what depends on images.

    Args:
        listing: the nodes.
        stored: the stored tensors.
        output: name of the output.

    Attributes:
        varying: the nodes that depend on images.
        spent: for each of them, the values that no later one reads, so that they need no memory.
    """

    def __init__(self, listing: Listing, stored: Mapping[str, Tensor], output: str) -> None:
        device = next((tensor.device for tensor in stored.values()), torch.device("cpu"))
        given = {**{name: tensor.to(device) for name, tensor in listing.constants.items()}, **stored}
        names = set(given)
        self.varying: list[Node] = []
        self._fixed: list[Node] = []
        for node in listing.nodes:
            if names.issuperset(filter(None, node.inputs)):
                self._fixed.append(node)
                names.update(node.outputs)
            else:
                self.varying.append(node)
        self.spent = _last_uses(self.varying, {*names, output})
        self._folded = given
        with torch.no_grad():
            for node in self._fixed:
                self._folded.update(_computed(node, self._folded))

    def known(self, replaced: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return all values that do not depend on images, computed anew where they depend on a replacement."""
        known = {**self._folded, **replaced}
        changed = set(replaced)
        for node in self._fixed:
            if not changed.isdisjoint(node.inputs):
                changed.update(node.outputs)
                known.update(_computed(node, known))
        return known


def _computed(node: Node, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the results of a node by name."""
    try:
        operands = [values[name] if name else None for name in node.inputs]
        results = OPERATORS[node.op](node, *operands)
    except (ArithmeticError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        reason = first_line(error)
        raise ModelError(f"the twin cannot compute the {node.op} node {node.label!r}: {reason}") from error
    if isinstance(results, Tensor):
        results = (results,)
    return {name: value for name, value in zip(node.outputs, results, strict=False) if name}


def _last_uses(nodes: Sequence[Node], kept: set[str]) -> list[list[str]]:
    """Return, for each node, which values nobody reads after it, so that they need no memory."""
    spent: list[list[str]] = []
    seen = set(kept)
    for node in reversed(nodes):
        ended = [name for name in {*node.inputs, *node.outputs} if name and name not in seen]
        seen.update(ended)
        spent.append(ended)
    return spent[::-1]
