"""Weights of 8 bits made ones of 7 or 6, without data, so that a code finds its spare bits.

    w = scale * (code - zero point)    ->    (factor * scale) * (code' - zero point')

Channels whose codes fit already keep them. Of the others each has a factor of its own where scales are stored per
channel: the least with which its largest code fits, at most some 2 for 7 bits and 4 for 6. A weight moves by less than
one step of the new scale, and sums over kernels and output channels stay (`rounding`). What goes with the codes -
scales, zero points, int32 biases - changes along (`companions`); where another tensor reads it too, a copy does.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from resq_deploy.deployed.graph import graphs
from resq_deploy.deployed.nesting import free_name
from resq_deploy.protection.companions import CompanionReader, Companions, Place, UnreadableError
from resq_deploy.protection.rounding import Floats, round_keeping_sums

Integers = NDArray[np.int16]

_CHUNK = 1 << 20  # weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Narrowed:
    """What became of one weight.

    Attributes:
        weight: its name.
        fits: whether its codes have the wanted bits now.
        reason: why it was left as it is; empty where it fits.
        factor: the largest factor of its scales, 1 where it was kept as it is.
        channels: how many factors are above 1: of channels, or the one of the tensor.
        error: root of the sum of squared changes over that of squared weights.
    """

    weight: str
    fits: bool
    reason: str = ""
    factor: float = 1.0
    channels: int = 0
    error: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Codes:
    """A weight's codes anew.

    Attributes:
        codes: the integers to store.
        zero: zero point, of the shape of that before.
        factor: what scales are multiplied by: [], or along the weight's axis [channels].
    """

    codes: Integers
    zero: Integers
    factor: Floats


Rule = Callable[[Integers, Companions, int, int], Codes]
"""Gives new codes for a weight's codes less its zero points, what goes with them, and the ends of what fits."""


def code_range(data_type: int, bits: int) -> tuple[int, int]:
    """Return the smallest and largest code that so many bits hold, int8 or uint8."""
    return (0, (1 << bits) - 1) if data_type == TensorProto.UINT8 else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def narrow(
    model: onnx.ModelProto, weights: Collection[str], bits: int, rule: Rule | None = None
) -> tuple[onnx.ModelProto, tuple[Narrowed, ...]]:
    """Make 8-bit weights ones of fewer bits.

    Args:
        model: self-contained, without votes and codes; not changed.
        weights: names of int8 or uint8 initializers of its main graph.
        bits: 7 or 6.
        rule: gives new codes; `fitted` if None.

    Returns:
        The model, and what became of each weight, in the order of the file. Those that are left as they are have the
        reason.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    reader, stored = CompanionReader(changed), {tensor.name: tensor for tensor in changed.graph.initializer}
    changes, found = _Changes(changed), []
    for tensor in model.graph.initializer:
        if tensor.name not in set(weights):
            continue
        codes = np.atleast_1d(numpy_helper.to_array(tensor))
        low, high = code_range(tensor.data_type, bits)
        if not codes.size or (codes.min() >= low and codes.max() <= high):
            found.append(Narrowed(weight=tensor.name, fits=True))
            continue
        try:
            companions = reader.companions(tensor.name)
        except UnreadableError as error:
            found.append(Narrowed(weight=tensor.name, fits=False, reason=f"left as it is: {error}"))
            continue
        centred = codes.astype(np.int16) - along(companions.zero, codes.ndim, companions.axis)
        made = (rule or fitted)(centred, companions, low, high)
        changes.add(companions, made, stored)
        found.append(_summary(companions, centred, made))
    changes.apply(reader)
    return changed, tuple(found)


def fitted(centred: Integers, companions: Companions, low: int, high: int) -> Codes:
    """Return codes that fit, by the least factors with which they do.

    Args:
        centred: codes less zero points, int16.
        companions: what goes with the weight.
        low: smallest code that fits.
        high: largest code that fits.
    """
    axis, shape = companions.axis, centred.shape
    others = tuple(at for at in range(centred.ndim) if at != axis)
    least = np.minimum(centred.min(axis=others), 0).astype(np.float64)
    most = np.maximum(centred.max(axis=others), 0).astype(np.float64)
    zero, factor = _zero_and_factor(least, most, companions, low, high)
    codes = np.empty_like(centred)
    spread = [np.broadcast_to(along(part, len(shape), axis), shape) for part in (factor, zero)]
    *views, into = (np.moveaxis(part, companions.outputs, 0) for part in (centred, *spread, codes))
    for part in _parts(into.shape):
        steps, factors, zeros = (view[part] for view in views)
        # A quotient may be off by its last bit, beyond what the factor was made for.
        values = np.clip(steps / factors, low - zeros, high - zeros)
        kernels = values.reshape(len(values), values.shape[1], -1) if values.ndim > 1 else values.reshape(-1, 1, 1)
        into[part] = round_keeping_sums(kernels).reshape(values.shape) + zeros
    return Codes(codes=codes, zero=zero, factor=factor)


def _parts(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield parts of an array, some rows each, that are worked on at once: float64 takes eight bytes a weight."""
    step = max(1, _CHUNK // max(1, math.prod(shape[1:])))
    yield from (slice(start, start + step) for start in range(0, shape[0], step))


def _zero_and_factor(
    least: Floats, most: Floats, companions: Companions, low: int, high: int
) -> tuple[Integers, Floats]:
    """Return zero points and factors: the least of these, with zero points that stay where they may not move.

    Args:
        least: smallest of the centred codes and 0, [] or [channels].
        most: largest of these, likewise.
        companions: what goes with the weight.
        low: smallest code that fits.
        high: largest code that fits.
    """
    zero = companions.zero
    if not companions.zero_points or not zero.any():
        candidates = np.zeros(1, np.int16)  # it means symmetric codes, or it is not there to be changed
    elif (zero == 128).all() and low == 0:
        candidates = np.array([(high + 1) // 2], np.int16)
    else:
        candidates = np.arange(low, high + 1, dtype=np.int16)
    above, below = (high - candidates).astype(np.float64), (candidates - low).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = np.fmax(most[..., None] / above, -least[..., None] / below)  # 0 / 0 needs nothing
    factors = np.fmax(needed, 1.0)
    if zero.ndim:  # each channel has its own
        best = factors.argmin(axis=-1)
        return candidates[best], np.take_along_axis(factors, best[..., None], axis=-1)[..., 0]
    place = int((factors**2).sum(axis=tuple(range(factors.ndim - 1))).argmin())
    return np.array(candidates[place]), np.asarray(factors[..., place])


def along(values: NDArray[Any], ndim: int, axis: int | None) -> NDArray[Any]:
    """Shape values, [] or [channels], so that they broadcast along an axis of an array of so many dimensions."""
    return (
        values if not values.ndim or axis is None else values.reshape([-1 if at == axis else 1 for at in range(ndim)])
    )


def _summary(companions: Companions, centred: Integers, made: Codes) -> Narrowed:
    ndim, axis = centred.ndim, companions.axis
    views = [np.broadcast_to(along(part, ndim, axis), centred.shape) for part in (made.zero, made.factor)]
    changes = squares = 0.0
    for part in _parts(centred.shape):
        zero, factor = (view[part] for view in views)
        before = centred[part].astype(np.float64)
        changes += float((((made.codes[part] - zero) * factor - before) ** 2).sum())
        squares += float((before**2).sum())
    return Narrowed(
        weight=companions.weight,
        fits=True,
        factor=float(made.factor.max()),
        channels=int((made.factor > 1).sum()),
        error=math.sqrt(changes / squares) if squares else 0.0,
    )


class _Changes:
    """New values for places of a graph, stored where nobody else reads what they replace, or else beside it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._taken = {
            name for part in graphs(model.graph) for node in part.node for name in (*node.input, *node.output)
        }
        self._taken |= {value.name for part in graphs(model.graph) for value in (*part.input, *part.initializer)}
        self._codes: list[TensorProto] = []
        self._new: dict[str, list[tuple[Place, TensorProto]]] = {}

    def add(self, companions: Companions, made: Codes, stored: Mapping[str, TensorProto]) -> None:
        """Note what a weight's new codes change."""
        self._codes.append(_like(stored[companions.weight], made.codes))  # all who read them are companions
        for places, computed in (
            (companions.zero_points, lambda old: np.broadcast_to(made.zero.reshape(-1), (old.size,))),
            (companions.scales, lambda old: old.astype(np.float64).reshape(-1) * made.factor),
            (companions.biases, lambda old: np.rint(old.reshape(-1) / made.factor)),
        ):
            for place in places:
                tensor = stored[place.value]
                old = numpy_helper.to_array(tensor)
                new = _like(tensor, computed(old))
                if new.raw_data != old.tobytes():
                    self._new.setdefault(tensor.name, []).append((place, new))

    def apply(self, reader: CompanionReader) -> None:
        """Store all that was noted."""
        stored = {tensor.name: tensor for tensor in self._graph.initializer}
        for codes in self._codes:
            stored[codes.name].CopyFrom(codes)
        for name, noted in self._new.items():
            readers = reader.readers(name)
            changed = {place.key for place, _ in noted}
            versions: dict[bytes, str] = {}
            if readers is not None and changed.issuperset(place.key for place in readers):
                stored[name].CopyFrom(noted[0][1])  # nobody reads the old values any more
                versions[noted[0][1].raw_data] = name
            for place, new in noted:
                if new.raw_data not in versions:
                    new.name = versions[new.raw_data] = free_name(f"{name}_narrow", self._taken)
                    self._graph.initializer.append(new)
                place.node.input[place.slot] = versions[new.raw_data]


def _like(tensor: TensorProto, values: NDArray[Any]) -> TensorProto:
    """Return a tensor of the same name and type with other values."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return numpy_helper.from_array(values.astype(dtype).reshape(tensor.dims), tensor.name)
