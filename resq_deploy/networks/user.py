"""A user's own network, given as `module:function`."""

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from resq_deploy.errors import ModelError
from resq_deploy.networks.names import find_user_function
from resq_deploy.user_code import importable_from_here, in_one_line


def call_user_function(spec: str, num_classes: int) -> nn.Module:
    """Import `module`, from the current directory too, and return what `function(num_classes=...)` returns.

    Raises:
        ModelError: if the module or function is missing, raises, or does not return a torch.nn.Module.
    """
    with importable_from_here():
        function = find_user_function(spec)
        try:
            body = function(num_classes=num_classes)
        except (Exception, SystemExit) as error:
            raise ModelError(f"{spec}(num_classes={num_classes}) failed: {in_one_line(error)}") from error
    if not isinstance(body, nn.Module):
        raise ModelError(f"{spec} returned a {type(body).__name__}: it must return a torch.nn.Module")
    return body


def find_taps(body: nn.Module, images: Tensor) -> tuple[tuple[str, ...], str]:
    """Find where to read the features of an unknown architecture, by running it once.

    The head is the Linear (or convolution) that runs last. The taps are `body.taps` where the user set it. Else they
    are the stages as they are usually written: the children of `body` that have children of their own, run once each,
    return one tensor and do not contain the head, in the order they run; from a single child one level is descended.

    Args:
        body: in eval mode.
        images: what the body takes, normalised [N, C, H, W].

    Returns:
        The paths of the taps and the path of the head.

    Raises:
        ModelError: if `body.taps` names no module, or no Linear or convolution runs at all.
    """
    runs = _record_runs(body, images)
    heads = [name for name, _ in runs if isinstance(body.get_submodule(name), (nn.Linear, nn.Conv2d))]
    if not heads:
        raise ModelError("the network runs no Linear or Conv2d layer: there is no logits layer to be found")
    wanted = getattr(body, "taps", None)
    if wanted is not None:
        return _checked_taps(body, wanted), heads[-1]
    prefix, parent = "", body
    while len(children := list(parent.named_children())) == 1 and any(children[0][1].children()):
        prefix, parent = f"{prefix}{children[0][0]}.", children[0][1]
    stages = {prefix + name for name, child in parent.named_children() if any(child.children())}
    names = [name for name, _ in runs]
    taps = [
        name
        for name, is_tensor in runs
        if name in stages and is_tensor and names.count(name) == 1 and not heads[-1].startswith(f"{name}.")
    ]
    return tuple(taps), heads[-1]


def _checked_taps(body: nn.Module, wanted: object) -> tuple[str, ...]:
    known = {name for name, _ in body.named_modules() if name}
    if isinstance(wanted, str) or not isinstance(wanted, (tuple, list)):
        raise ModelError(f"the network's attribute taps is {wanted!r}: it must be a list of module paths")
    for name in wanted:
        if name not in known:
            raise ModelError(f"the network's attribute taps names {name!r}, and there is no such module in it")
    return tuple(wanted)


def _record_runs(body: nn.Module, images: Tensor) -> list[tuple[str, bool]]:
    """Return the path of every module that ran, in the order they ended, and whether it returned one tensor."""
    runs: list[tuple[str, bool]] = []
    with ExitStack() as hooks, torch.no_grad():
        for name, module in body.named_modules():
            if name:
                record = lambda _m, _i, out, name=name: runs.append((name, isinstance(out, Tensor)))  # noqa: E731
                hooks.enter_context(module.register_forward_hook(record))
        body(images)
    return runs
