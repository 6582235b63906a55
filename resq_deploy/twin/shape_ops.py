"""Operators that move values and compute shapes."""

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from resq_deploy.twin.float_ops import Operator
from resq_deploy.twin.node import Node, as_tensor


def _whole(values: Tensor | None) -> list[int]:
    """Return an operand that holds sizes, axes or places as plain integers."""
    return [] if values is None else [int(value) for value in values.reshape(-1).tolist()]


def _axes(node: Node, operand: Tensor | None) -> list[int]:
    """Return axes, which newer opsets give as an operand and older ones as an attribute."""
    return list(node.get("axes", ())) if operand is None else _whole(operand)


def identity(_: Node, values: Tensor, *__: Tensor | None) -> Tensor:
    """Identity; Dropout as deployed."""
    return values


def cast(node: Node, values: Tensor) -> Tensor:
    """Cast to the type of the result, as a twin holds it."""
    target = node.types[0] if node.types[0] is not None else onnx.helper.tensor_dtype_to_np_dtype(node.get("to"))
    if target == np.float16:
        return values.half().float()
    sample = as_tensor(np.zeros(1, target)).dtype
    if target.kind in "iu" and values.is_floating_point():
        values = values.trunc()
    return values.to(sample)


def reshape(node: Node, values: Tensor, shape: Tensor | None = None) -> Tensor:
    """Reshape: 0 keeps a dimension (unless `allowzero`), -1 is what is left."""
    sizes = list(node.get("shape", ())) if shape is None else _whole(shape)
    if not node.get("allowzero", 0):
        sizes = [values.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    return values.reshape(sizes)


def flatten(node: Node, values: Tensor) -> Tensor:
    """Flatten to a matrix."""
    axis = node.get("axis", 1)
    lead = values.shape[:axis] if axis else ()
    return values.reshape(torch.Size(lead).numel(), -1)


def transpose(node: Node, values: Tensor) -> Tensor:
    """Transpose."""
    return values.permute(node.get("perm", tuple(reversed(range(values.ndim)))))


def concat(node: Node, *parts: Tensor) -> Tensor:
    """Concat."""
    return torch.cat(parts, node.get("axis"))


def split(node: Node, values: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Split into given sizes, or into as many equal parts as there are results (the last may be smaller)."""
    axis = node.get("axis", 0)
    given = list(node.get("split", ())) if sizes is None else _whole(sizes)
    return torch.split(values, given or -(-values.shape[axis] // len(node.outputs)), axis)


def slice_(node: Node, values: Tensor, *bounds: Tensor | None) -> Tensor:
    """Slice; a negative step goes backwards."""
    starts, ends, axes, steps = map(_whole, (*bounds, None, None, None, None)[:4])
    if not bounds:
        starts, ends, axes = (list(node.get(name, ())) for name in ("starts", "ends", "axes"))
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = axes[place] if axes else place
        places = range(values.shape[axis])[start : end : steps[place] if steps else 1]
        if places.step < 0:
            values = values.index_select(axis, torch.tensor(places, device=values.device))
        elif len(places) < values.shape[axis]:
            inner = [slice(None)] * values.ndim
            inner[axis] = slice(places.start, places.stop, places.step)
            values = values[tuple(inner)]
    return values


def squeeze(node: Node, values: Tensor, axes: Tensor | None = None) -> Tensor:
    """Squeeze."""
    chosen = _axes(node, axes)
    return values.squeeze(tuple(chosen)) if chosen else values.squeeze()


def unsqueeze(node: Node, values: Tensor, axes: Tensor | None = None) -> Tensor:
    """Unsqueeze."""
    chosen = _axes(node, axes)
    for axis in sorted(axis % (values.ndim + len(chosen)) for axis in chosen):
        values = values.unsqueeze(axis)
    return values


def gather(node: Node, values: Tensor, places: Tensor) -> Tensor:
    """Gather; negative places count from the end."""
    axis = node.get("axis", 0) % values.ndim
    wanted = places.long() % values.shape[axis]
    taken = values.index_select(axis, wanted.reshape(-1))
    return taken.reshape((*values.shape[:axis], *places.shape, *values.shape[axis + 1 :]))


def gather_nd(node: Node, values: Tensor, places: Tensor) -> Tensor:
    """GatherND: slices of each batch, found by their first coordinates; negative ones count from the end."""
    batch, depth = node.get("batch_dims", 0), places.shape[-1]
    sizes = values.shape[batch : batch + depth]
    batches = values.reshape(-1, *values.shape[batch:])
    wanted = places.long().reshape(len(batches), -1, depth) % torch.tensor(sizes, device=places.device)
    number = torch.arange(len(batches), device=places.device)[:, None].expand(wanted.shape[:2])
    taken = batches[(number, *wanted.unbind(-1))]
    return taken.reshape((*places.shape[:-1], *values.shape[batch + depth :]))


def shape_of(node: Node, values: Tensor) -> Tensor:
    """Shape, or a part of it."""
    return torch.tensor(values.shape[node.get("start", 0) : node.get("end")], dtype=torch.int64)


def pad(node: Node, values: Tensor, *others: Tensor | None) -> Tensor:
    """Pad: constant, reflect, edge or wrap; negative padding cuts."""
    pads, value, axes = (*others, None, None, None)[:3]
    sides = list(node.get("pads", ())) if pads is None else _whole(pads)
    chosen = _whole(axes) if axes is not None else list(range(values.ndim))
    wanted = {axis % values.ndim: (sides[at], sides[at + len(chosen)]) for at, axis in enumerate(chosen)}
    first = min((axis for axis, ends in wanted.items() if any(ends)), default=values.ndim)
    flat = [side for axis in reversed(range(first, values.ndim)) for side in wanted.get(axis, (0, 0))]
    if not flat:
        return values
    mode = {"edge": "replicate", "wrap": "circular"}.get(node.get("mode", "constant"), node.get("mode", "constant"))
    if mode == "constant":
        return F.pad(values, flat, value=node.get("value", 0.0) if value is None else float(value))
    return F.pad(values, flat, mode=mode)


def expand(_: Node, values: Tensor, shape: Tensor) -> Tensor:
    """Expand: broadcast both ways."""
    return values.expand(np.broadcast_shapes(tuple(values.shape), tuple(_whole(shape))))


def constant_of_shape(node: Node, shape: Tensor) -> Tensor:
    """ConstantOfShape."""
    given = node.get("value")
    value = torch.zeros(1) if given is None else as_tensor(onnx.numpy_helper.to_array(given))
    return value.reshape(-1).expand(_whole(shape) or (1,)).clone() if shape.numel() else value.reshape(())


def range_(_: Node, *bounds: Tensor) -> Tensor:
    """Range."""
    start, limit, step = (bound.item() for bound in bounds)
    return torch.arange(start, limit, step, dtype=bounds[0].dtype)


SHAPE_OPERATORS: dict[str, Operator] = {
    "Cast": cast,
    "Concat": concat,
    "ConstantOfShape": constant_of_shape,
    "Dropout": identity,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "GatherND": gather_nd,
    "Identity": identity,
    "Pad": pad,
    "Range": range_,
    "Reshape": reshape,
    "Shape": shape_of,
    "Slice": slice_,
    "Split": split,
    "Squeeze": squeeze,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
