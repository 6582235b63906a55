"""Scales, zero points and other stored values that the optimiser hands on: no file need be optimised for their faults.

A faulty scale can change which nodes are fused, so that the faulty file has to be optimised to know what is run. For
most faults the optimised graph then is the golden one with the new value in it, or the golden one itself where the
optimiser throws the value away. That is proven here class by class, by comparing optimised graphs node by node and byte
by byte. The files it is tried with depend on the golden file alone, so that it does not matter which faults come first:

- small changes of floats, by less than a thirtieth: a file in which all elements of even position, or of odd position,
  of all tensors of a role are changed, by as much as the class allows or less. What looks at whether one value is near
  another, as onnxruntime does for the scale of a bias and the product of two others, then lets smaller changes pass;
- a large change of floats: a file in which these very bits are flipped in all elements of even, or of odd position, of
  all tensors of the role, or where that leads to another graph of the one tensor. The optimiser has then been shown the
  very value. Roles and tensors that do not stand a change by half are not tried any further;
- integers: a file in which these bits are flipped in the elements of even, or of odd position, of the one tensor.

No tensor is shown with all its values changed alike, and of floats that have the same value in several tensors only one
is changed: what looks at whether two are the same sees what it would see of a single fault. Faults that make a value
special are left out and optimised one by one: zero, negative, not finite or subnormal numbers, the ends of the range of
integers, and what another element of the same role already has.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.engines.injection import Injection, Injector
from resq_deploy.deployed.runtime_graph import RuntimeGraph, Signature
from resq_deploy.faults.bits import Bytes, bit_positions

Optimise = Callable[[bytes], RuntimeGraph | None]
Patterns = NDArray[np.unsignedinteger]
Integers = NDArray[np.int64]

_TYPES = {name: np.dtype(name) for name in ("float16", "int8", "uint8", "int16", "uint16")}
_TYPES["float"] = np.dtype("float32")
_MOST_ELEMENTS = 2**16
"""Of a tensor; larger ones are weights."""

_SMALL = 5
"""Bits below the mantissa's highest from which on a change is small: by less than 2^-5."""


class _Flip(NamedTuple):
    """One element with some of its bits flipped."""

    tensor: str
    element: int
    pattern: int


class HandedOn:
    """The faults after which the optimiser hands on what is stored.

    Args:
        injector: knows the stored bytes and which tensors may be hit.
        voted: tensors that are voted from others, or copies; they are left out.
        graph: the golden graph.
        golden: its signatures.
        optimise: returns the optimised graph of a faulty file; None if there is none.
    """

    def __init__(
        self,
        injector: Injector,
        voted: Iterable[str],
        graph: RuntimeGraph,
        golden: Sequence[Signature],
        optimise: Optimise,
    ) -> None:
        self._patcher = injector.patcher
        self._graph = graph
        self._golden = list(golden)
        self._optimise = optimise
        left_out = set(voted)
        self._surfaces = {
            surface.tensor: surface
            for surface in injector.surfaces
            if surface.dtype in _TYPES
            and surface.elements <= _MOST_ELEMENTS
            and surface.tensor not in left_out
            and not self._patcher.shared(surface.tensor)
        }
        self._taken: dict[str, Patterns] = {}
        self._proofs: dict[tuple[str, tuple[str, str], int, int], bool] = {}
        self._lock = threading.Lock()

    def holds(self, injection: Injection, *, alone: bool = True) -> bool:
        """Return whether a fault is proven to leave the golden graph, with its new stored bytes in it.

        Args:
            injection: the fault.
            alone: whether it is worth while to try floats of its tensor by themselves, where those of the role do not
                stand together. They mostly do not, either, and a try takes as long as reloading the faulty file.
        """
        flip = self._flip(injection)
        if flip is None or not self._plain(flip.tensor, flip.pattern, np.array([flip.element])).all():
            return False
        with self._lock:
            if self._type(flip.tensor).kind != "f":
                return self._stands([flip.tensor], flip.pattern, flip.element)
            return self._float(flip, alone=alone)

    def _float(self, flip: _Flip, *, alone: bool) -> bool:
        tensor, element, pattern = flip
        mantissa, alike = np.finfo(self._type(tensor)).nmant, self._alike(tensor)
        if self._repeats(tensor, element, alike):
            alike = [tensor]
        if pattern < 1 << (mantissa - _SMALL):
            return self._stands(alike, 0, element)
        half = 1 << (mantissa - 1)
        if self._stands(alike, half, element) and self._stands(alike, pattern, element):
            return True
        return alone and self._stands([tensor], half, element) and self._stands([tensor], pattern, element)

    def _repeats(self, tensor: str, element: int, alike: Sequence[str]) -> bool:
        """Return whether an element holds what one of an earlier tensor does, so that it is not changed with others."""
        earlier = [self._stored(name) for name in alike[: alike.index(tensor)]]
        return bool(np.isin(self._stored(tensor)[element], np.concatenate([*earlier, self._stored(tensor)[:0]])))

    def _flip(self, injection: Injection) -> _Flip | None:
        """Return what an injection flips; None if that is more than one element, or in a tensor that is left out."""
        if len(injection.masks) != 1:
            return None
        ((tensor, mask),) = injection.masks.items()
        if tensor not in self._surfaces:
            return None
        elements, bits = np.divmod(bit_positions(mask), self._surfaces[tensor].width)
        if (elements != elements[0]).any():
            return None
        return _Flip(tensor, int(elements[0]), sum(1 << bit for bit in bits.tolist()))

    def _stands(self, tensors: Sequence[str], pattern: int, element: int) -> bool:
        """Return whether a file stays as golden in which elements of some tensors have a pattern flipped; 0 for small.

        Those of even position, or those of odd position, as that of an element.
        """
        first = self._surfaces[tensors[0]]
        key = first.tensor if len(tensors) == 1 else "", (str(first.role), first.dtype), pattern, element % 2
        if key not in self._proofs:
            masks = self._masks(tensors, pattern, element % 2)
            faulty = self._optimise(self._patcher.apply(masks))
            expected = self._graph.signatures_with(self._golden, self._patcher.values(masks))
            self._proofs[key] = faulty is not None and faulty.signatures(self._graph) == expected
        return self._proofs[key]

    def _masks(self, tensors: Iterable[str], pattern: int, parity: int) -> Mapping[str, Bytes]:
        """Return masks that flip a pattern, or small ones for 0, in elements of even or of odd position."""
        masks: dict[str, Bytes] = {}
        earlier: list[Patterns] = []
        for tensor in tensors:
            stored = self._stored(tensor)
            elements = np.arange(parity, len(stored), 2)
            if pattern >> self._surfaces[tensor].width:
                continue
            patterns = np.full(len(elements), pattern) if pattern else self._small(tensor, elements)
            keep = self._plain(tensor, patterns, elements)
            if self._type(tensor).kind == "f":
                keep &= ~np.isin(stored[elements], np.concatenate([*earlier, stored[:0]]))
                earlier.append(stored)
            mask = np.zeros_like(stored)
            mask[elements[keep]] = patterns[keep]
            if keep.any():
                masks[tensor] = mask.view(np.uint8)
        return masks

    def _small(self, tensor: str, elements: Integers) -> Integers:
        """Return small patterns, one an element: the largest one bit makes, and in turn the smaller ones."""
        highest = np.finfo(self._type(tensor)).nmant - _SMALL - 1
        turn = elements // 2
        patterns: Integers = 1 << np.where(turn % 2 == 0, highest, turn // 2 % highest)
        return patterns

    def _plain(self, tensor: str, patterns: Integers | int, elements: Integers) -> NDArray[np.bool_]:
        """Return which of some elements of a tensor stay nothing special with patterns flipped, shape [n]."""
        stored, dtype = self._stored(tensor)[elements], self._type(tensor)
        new = stored ^ np.asarray(patterns).astype(stored.dtype)
        values = new.view(dtype)
        if dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                plain = np.isfinite(values) & (values >= np.finfo(dtype).tiny)
        else:
            ends = np.iinfo(dtype)
            plain = (values != 0) & (values != ends.min) & (values != ends.max)
        return np.asarray(plain & ~np.isin(new, self._taken_by(tensor)))

    def _taken_by(self, tensor: str) -> Patterns:
        """Return what the elements of all tensors of a tensor's role and type hold, each once."""
        alike = self._alike(tensor)
        if alike[0] not in self._taken:
            self._taken[alike[0]] = np.unique(np.concatenate([self._stored(name) for name in alike]))
        return self._taken[alike[0]]

    def _alike(self, tensor: str) -> list[str]:
        """Return the tensors of a tensor's role and type, in the order of the file."""
        of = self._surfaces[tensor]
        return [name for name, other in self._surfaces.items() if (other.role, other.dtype) == (of.role, of.dtype)]

    def _type(self, tensor: str) -> np.dtype[Any]:
        return _TYPES[self._surfaces[tensor].dtype]

    def _stored(self, tensor: str) -> Patterns:
        """Return the golden elements of a tensor as patterns, shape [elements]."""
        patterns: Patterns = self._patcher.stored(tensor).view(f"u{self._surfaces[tensor].width // 8}")
        return patterns
