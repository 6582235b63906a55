"""Fitting weights from elsewhere to a network: their names, the head of another size, stems of another size."""

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from resq_deploy.errors import CheckpointError

_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
"""Entries under which training scripts keep a `state_dict` beside optimisers and counters."""

_COUNTER = "num_batches_tracked"
_SHOWN = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted:
    """Weights as a network takes them.

    Attributes:
        state: the body's `state_dict`, complete.
        notes: what was changed on the way, a line each.
        new_head: whether the head is a fresh one, to be trained.
    """

    state: dict[str, Tensor]
    notes: tuple[str, ...]
    new_head: bool


def fit(given: Mapping[str, object], body: nn.Module, head: str, *, origin: str, adapt: bool) -> Fitted:
    """Fit what a file holds to a network.

    Prefixes that wrappers put before every name (`module.` of DataParallel, `_orig_mod.` of torch.compile, `model.` of
    training frameworks) are taken off. A head of another shape, or none, is replaced by the network's own fresh one.

    Args:
        given: what the file holds: tensors by name, or these under one of the usual entries.
        body: the network without its normalisation, with fresh weights.
        head: path of the layer that makes the logits.
        origin: what the file is called in messages.
        adapt: whether stems and position tables made for larger images may be made to fit, as the ports of ImageNet
            architectures to small images do.

    Raises:
        CheckpointError: if the weights are not the network's; the message names what is missing and what is surplus.
    """
    own = {name: tensor.detach().clone() for name, tensor in body.state_dict().items()}
    state, prefix = _without_prefix(_tensors(given, origin), own)
    notes = [f"'{prefix}' taken off the names"] if prefix else []
    fresh = {name for name in own if name.startswith(f"{head}.")}
    new_head = any(name not in state or state[name].shape != own[name].shape for name in fresh)
    # A new head takes the place of all layers its module holds: VGG's has three where ours for small images has one.
    replaced = f"{head.split('.')[0]}." if new_head else ""
    missing = [name for name in own if name not in state and not (new_head and name in fresh) and not _derived(name)]
    surplus = [name for name in state if name not in own and not (replaced and name.startswith(replaced))]
    if missing or surplus:
        raise CheckpointError(f"{origin} does not fit the network: {_listed('lacks', missing, surplus)}")
    for name, tensor in own.items():
        if name in state and not (new_head and name in fresh) and not _derived(name, other=state[name], own=tensor):
            own[name] = _shaped(name, state[name], tensor, notes, origin=origin, adapt=adapt)
    if new_head:
        classes = next(len(own[name]) for name in sorted(fresh))
        notes.append(f"the head is a new one, for {classes} classes: it has to be trained")
    return Fitted(state=own, notes=tuple(notes), new_head=new_head)


def _tensors(given: Mapping[str, object], origin: str) -> dict[str, Tensor]:
    """Return the tensors of a file, from the usual entry where they are not at the top."""
    for entry in _WRAPPERS:
        inner = given.get(entry)
        if isinstance(inner, Mapping) and any(isinstance(value, Tensor) for value in inner.values()):
            given = inner
            break
    found = {name: value for name, value in given.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not found:
        raise CheckpointError(
            f"{origin} holds no weights by name: save model.state_dict() with torch.save, or as .safetensors"
        )
    for name, tensor in found.items():
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise CheckpointError(f"{origin}: '{name}' is no dense tensor of numbers: save the float network")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"{origin}: '{name}' holds a number that is not finite")
    return found


def _without_prefix(given: dict[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return tensors without the prefix that all names share, if more of them are the network's then."""
    best, prefix = given, ""
    first = next(iter(given)).split(".")
    for depth in range(1, len(first)):
        candidate = ".".join(first[:depth]) + "."
        if not all(name.startswith(candidate) for name in given):
            break
        cut = {name.removeprefix(candidate): tensor for name, tensor in given.items()}
        if len(cut.keys() & own.keys()) > len(best.keys() & own.keys()):
            best, prefix = cut, candidate
    return best, prefix


def _derived(name: str, *, other: Tensor | None = None, own: Tensor | None = None) -> bool:
    """Return whether an entry is no weight: batch norm's counter, or an index that follows from the architecture."""
    if name.endswith(_COUNTER):
        return True
    index = name.endswith("relative_position_index")
    return index and (other is None or own is None or other.shape != own.shape)


def _listed(verb: str, missing: list[str], surplus: list[str]) -> str:
    parts = []
    for what, names in ((verb, missing), ("has besides", surplus)):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            parts.append(f"it {what} {', '.join(names[:_SHOWN])}{more}")
    return "; ".join(parts) + ": give --network as it was trained"


def _shaped(name: str, given: Tensor, own: Tensor, notes: list[str], *, origin: str, adapt: bool) -> Tensor:
    """Return a tensor in the shape and type of the network's own."""
    if given.shape != own.shape:
        made = _resized(name, given.float(), own) if adapt else None
        if made is None:
            raise CheckpointError(
                f"{origin} has shape {list(given.shape)} for '{name}', the network wants {list(own.shape)}: give "
                "--network as it was trained"
            )
        notes.append(f"'{name}' {list(given.shape)} made {list(own.shape)}")
        given = made
    return given.detach().to(own.dtype).clone()


def _resized(name: str, given: Tensor, own: Tensor) -> Tensor | None:
    """Return a stem or position table of ImageNet-size images for small ones; None where there is no usual way.

    A kernel of odd size (ResNet's 7x7) gives its middle, one of even size (Swin's patches of 4x4, which do not
    overlap) its means, times how many of the larger pixels a smaller one stands for, so that a flat image gives what
    it gave. Position tables of windows are interpolated (Liu et al. 2021 do so between window sizes).
    """
    if name.endswith("relative_position_bias_table") and given.shape[1:] == own.shape[1:]:
        old, new = math.isqrt(len(given)), math.isqrt(len(own))
        square = given.T.reshape(1, -1, old, old)
        return functional.interpolate(square, size=(new, new), mode="bicubic").reshape(-1, new * new).T
    if given.ndim != own.ndim or given.ndim != 4 or given.shape[:2] != own.shape[:2]:
        return None
    before, after = given.shape[2], own.shape[2]
    if given.shape[2] != given.shape[3] or own.shape[2] != own.shape[3] or after > before:
        return None
    if before % 2 and after % 2:
        start = (before - after) // 2
        return given[:, :, start : start + after, start : start + after]
    if before % after == 0:
        return functional.avg_pool2d(given, before // after) * (before // after) ** 2
    return None
