"""What a network multiplies its values by: are these the stored weights of layers, which are what is hardened?

Layers are ranked, quantized and faulted by their modules. A weight that a network hands to a function itself, or that
it computes from what it stores, would be deployed all the same, and never have been hardened. So one pass is watched.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_PRODUCTS: frozenset[Callable[..., Any]] = frozenset(
    {
        *(getattr(F, f"conv{axes}d") for axes in (1, 2, 3)),
        *(getattr(F, f"conv_transpose{axes}d") for axes in (1, 2, 3)),
        *(F.linear, F.bilinear, F.multi_head_attention_forward, torch._native_multi_head_attention),
        *(torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum, torch.tensordot),
        *(Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, Tensor.mm, Tensor.bmm, Tensor.addmm),
        *(torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu),
    }
)


def complaint(network: nn.Module, images: Tensor) -> str | None:
    """Return what the first weight is that a network multiplies its values by and that is no layer's; None if none is.

    Args:
        network: in evaluation mode, its parameters all take gradients.
        images: float32 [N, C, H, W] that it takes, not all zero.
    """
    watches = list[dict[int, tuple[str, Tensor]]]()
    for given in (images, torch.zeros_like(images)):
        with _Operands(network) as watch:
            network(given.requires_grad_())
        watches.append(watch.suspects)
    first, second = watches
    for place, (text, value) in first.items():
        # what differs with the images is no weight, though a detach may hide that it comes from them
        if place in second and torch.equal(value, second[place][1]):
            return text
    return None


class _Operands(TorchFunctionMode):
    """Watches a forward pass for operands of products that come from parameters but are no layer's weight.

    Attributes:
        suspects: what they would be if they were weights, and their values, by the number of the operand.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.suspects: dict[int, tuple[str, Tensor]] = {}
        self._count = 0
        self._names = {id(parameter): name for name, parameter in network.named_parameters()}
        self._layers = {id(part.weight) for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear)}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _PRODUCTS:
            for operand in _tensors((args, kwargs)):
                self._count += 1
                text = self._suspected(operand) if operand.ndim > 1 and id(operand) not in self._layers else None
                if text is not None:
                    self.suspects[self._count] = text, operand.detach().clone()
        return func(*args, **(kwargs or {}))

    def _suspected(self, operand: Tensor) -> str | None:
        """Return what is wrong with an operand if it is a weight; None if it comes from no parameter alone."""
        if id(operand) in self._names:
            return (
                f"{self._names[id(operand)]} is multiplied by its values and is no weight of a Conv2d or Linear layer, "
                "the kinds that are hardened: make it one"
            )
        named = [self._names.get(id(leaf)) for leaf in _leaves(operand)]
        if None in named or not named:  # the images are no parameter
            return None
        return (
            f"its values are multiplied by what is computed from {named[0]} (a standardised or normalised weight), and "
            "flips need a weight that is stored as it is used: put a plain Conv2d or Linear layer in its place"
        )


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def _leaves(tensor: Tensor) -> list[Tensor]:
    """Return the tensors with gradients that a tensor was computed from, once each."""
    waiting, seen, found = [tensor.grad_fn], set[Any](), list[Tensor]()
    while waiting:
        step = waiting.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        if hasattr(step, "variable"):
            found.append(step.variable)
        waiting += [following for following, _ in step.next_functions]
    return found
