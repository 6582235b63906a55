"""Folding of batch-norm into the convolution before it: the weights that a deployed file stores.

In evaluation mode batch-norm multiplies channel c by `k_c = gamma_c / sqrt(var_c + eps)` and shifts it. The
convolution's weights take the factor, its bias the shift. The int8 grid lies on the folded weights, so the same
factors serve the fake quantization of training.
"""

import copy
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

Module = TypeVar("Module", bound=nn.Module)
Run = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
_PROBE_TOLERANCE = 1e-3


def find_pairs(network: nn.Module, example: Tensor) -> dict[str, str]:
    """Return which batch-norm follows which convolution, as `{convolution name: batch-norm name}`.

    A pair counts only if the batch-norm is the convolution's single reader. The graph of torch.fx tells; a network
    that it cannot trace (control flow on values) is run once on `example` and watched.

    Args:
        network: any network; its mode and its running statistics are left as they are.
        example: float32 [N, C, H, W] in [0, 1], for the fallback.
    """
    try:
        graph = fx.symbolic_trace(network).graph
    # symbolic tracing runs the user's own forward on proxies: whatever that raises, it cannot be traced
    except Exception:
        return _watched_pairs(network, example)
    modules = dict(network.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    counts: dict[str, int] = {}
    for node in calls:
        counts[node.target] = counts.get(node.target, 0) + 1
    pairs = {}
    for node in calls:
        source = node.args[0] if node.args else None
        if (
            isinstance(modules[node.target], nn.BatchNorm2d)
            and isinstance(source, fx.Node)
            and source.op == "call_module"
            and isinstance(modules[str(source.target)], nn.Conv2d)
            and len(source.users) == 1
            and counts[node.target] == counts[str(source.target)] == 1
        ):
            pairs[str(source.target)] = str(node.target)
    return pairs


def fold_factors(norm: nn.BatchNorm2d) -> Tensor:
    """Return `k_c = gamma_c / sqrt(var_c + eps)` of the running statistics, float32 [channels]; it may be negative.

    The gradient reaches gamma.
    """
    variance = _statistic(norm.running_var)
    factors = torch.rsqrt(variance + norm.eps)
    return factors if norm.weight is None else factors * norm.weight


def fold_bias(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """Return the bias that a convolution has with the batch-norm folded in, float32 [channels].

    `(bias_c - mean_c) k_c + beta_c`; the gradient reaches the bias, gamma and beta.
    """
    factors = fold_factors(norm)
    bias = torch.zeros_like(factors) if conv.bias is None else conv.bias
    shift = torch.zeros_like(factors) if norm.bias is None else norm.bias
    return (bias - _statistic(norm.running_mean)) * factors + shift


def fold_batchnorm(network: Module, pairs: Mapping[str, str]) -> Module:
    """Return a copy of a network, in evaluation mode, with each paired batch-norm folded and made an identity.

    Args:
        network: the network; it is not changed.
        pairs: what `find_pairs` returns.
    """
    folded = copy.deepcopy(network).eval()
    for name, (conv, norm) in _modules_of(folded, pairs).items():
        conv.bias = nn.Parameter(fold_bias(conv, norm).detach())
        conv.weight = nn.Parameter((conv.weight * per_channel(fold_factors(norm))).detach())
        parent, _, leaf = pairs[name].rpartition(".")
        setattr(folded.get_submodule(parent), leaf, nn.Identity())
    return folded


class FoldedNetwork:
    """A network in which batch-norm is folded away, and which follows the weights of the network it was made of.

    It computes what that network computes with batch-norm on its running statistics, as the deployed file does, and
    without a pass over every activation for each batch-norm: crafting and validation take it. Its gradients are those
    of the network.

    Attributes:
        module: the architecture alone, in evaluation mode; its parameters hold no values.
    """

    def __init__(self, network: nn.Module, pairs: Mapping[str, str]) -> None:
        """Watch a network.

        Args:
            network: the network, with batch-norm in place.
            pairs: what `find_pairs` returns for it.
        """
        self._network = network
        self._folded = _modules_of(network, pairs)
        self.module = fold_batchnorm(network, pairs).to("meta")
        self._names = [name for name, _ in [*self.module.named_parameters(), *self.module.named_buffers()]]

    def tensors(self, weights: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the folded parameters and all buffers as the network stands now, for `run`.

        Args:
            weights: takes the place of the network's own (unfolded) parameters, by name.
        """
        found = {**dict(self._network.named_parameters()), **dict(self._network.named_buffers()), **(weights or {})}
        for name, (conv, norm) in self._folded.items():
            found[f"{name}.weight"] = found[f"{name}.weight"] * per_channel(fold_factors(norm))
            found[f"{name}.bias"] = fold_bias(conv, norm)
        return {name: found[name] for name in self._names}

    def run(self, images: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the logits [N, classes] of images, computed with what `tensors` gave."""
        logits: Tensor = functional_call(self.module, dict(tensors), (images,))
        return logits

    def classifier(self, run: Run | None = None) -> Callable[[Tensor], Tensor]:
        """Return the network as it stands now as a function of images alone; parameters collect no gradients.

        Args:
            run: what does the work of `run`, such as its compiled form.
        """
        tensors = {name: tensor.detach() for name, tensor in self.tensors().items()}
        chosen = run or self.run
        return lambda images: chosen(images, tensors)


def per_channel(values: Tensor, ndim: int = 4) -> Tensor:
    """Shape one value an output channel so that it broadcasts over weights of `ndim` dimensions."""
    return values.reshape(-1, *[1] * (ndim - 1))


def _modules_of(network: nn.Module, pairs: Mapping[str, str]) -> dict[str, tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return, by the convolution's name, the modules of each pair."""
    found = {}
    for conv_name, norm_name in pairs.items():
        conv, norm = network.get_submodule(conv_name), network.get_submodule(norm_name)
        if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
            raise TypeError(f"{conv_name} and {norm_name} are no convolution and batch-norm")
        found[conv_name] = conv, norm
    return found


def _statistic(buffer: Tensor | None) -> Tensor:
    if buffer is None:
        raise TypeError("a batch-norm without running statistics cannot be folded")
    return buffer


def _watched_pairs(network: nn.Module, example: Tensor) -> dict[str, str]:
    """Find pairs by running the network: a batch-norm whose input is the very tensor a convolution returned.

    Whether another layer reads that tensor too cannot be seen this way, so the pairs are accepted only if folding
    them leaves the outputs as they are.
    """
    produced: list[tuple[Tensor, str]] = []
    pairs: dict[str, str] = {}
    calls: dict[str, int] = {}
    probe = copy.deepcopy(network).eval()

    def watch(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(module, nn.Conv2d):
                produced.append((output, name))
            else:
                pairs.update({conv: name for tensor, conv in produced if tensor is inputs[0]})

        module.register_forward_hook(hook)

    for name, module in probe.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            watch(name, module)
    with torch.no_grad():
        expected = probe(example)
        pairs = {conv: norm for conv, norm in pairs.items() if calls[conv] == calls[norm] == 1}
        found = fold_batchnorm(network, pairs)(example)
    return pairs if torch.allclose(expected, found, rtol=_PROBE_TOLERANCE, atol=_PROBE_TOLERANCE) else {}
