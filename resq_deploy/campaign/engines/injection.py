"""What a fault leaves in the stored bytes, after the memory's error correction; proven before anything runs."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Literal

import numpy as np

from resq_deploy.deployed.patch import Patcher
from resq_deploy.deployed.surfaces import Surface
from resq_deploy.faults.bits import Bytes, bit_positions
from resq_deploy.faults.ecc import secded
from resq_deploy.faults.fault import Edit, Fault, Op


@dataclasses.dataclass(frozen=True, eq=False)
class Injection:
    """A fault on the stored bytes.

    Attributes:
        fault: the fault, as the memory's correction left it.
        masks: XOR mask of each tensor that changes; empty where the fault changes no stored bit.
        values: new stored bytes of each of those tensors.
        changed: stored bits that differ.
        detected: whether the memory noticed errors that it cannot correct; nothing is changed then.
    """

    fault: Fault
    masks: Mapping[str, Bytes]
    values: Mapping[str, bytes]
    changed: int
    detected: bool = False


class Injector:
    """Makes injections, and proves that each changes exactly the bits its fault asks for.

    Args:
        patcher: knows the stored bytes.
        surfaces: the tensors that may be hit.
        ecc: the memory's error correction.
    """

    def __init__(self, patcher: Patcher, surfaces: Mapping[str, Surface], ecc: Literal["none", "secded"]) -> None:
        self.patcher = patcher
        self._surfaces = surfaces
        self._ecc = ecc

    @property
    def surfaces(self) -> Collection[Surface]:
        """The tensors that may be hit."""
        return self._surfaces.values()

    def knows(self, tensor: str) -> bool:
        """Return whether a tensor is one of the surfaces."""
        return tensor in self._surfaces

    def inject(self, fault: Fault) -> Injection:
        """Return what a fault does to the stored bytes.

        Raises:
            InjectionError: if the new bytes are not exactly what the fault asks for.
        """
        masks = self.patcher.masks(fault)
        if self._ecc == "secded":
            corrected = {tensor: secded(mask) for tensor, mask in masks.items()}
            if any(detected for _, detected in corrected.values()):
                return Injection(fault, {}, {}, 0, detected=True)
            masks = {tensor: mask for tensor, (mask, _) in corrected.items() if mask.any()}
            fault = self._as_flips(fault, masks)
        values = self.patcher.values(masks)
        return Injection(fault, masks, values, self.patcher.prove_values(fault, values))

    def _as_flips(self, fault: Fault, masks: Mapping[str, Bytes]) -> Fault:
        """Return what is left of a fault as plain flips, so that it can be proven bit by bit."""
        edits = []
        for tensor, mask in masks.items():
            index, bit = np.divmod(bit_positions(mask), self._surfaces[tensor].width)
            edits.append(Edit(tensor, Op.FLIP, index, bit))
        return dataclasses.replace(fault, edits=tuple(edits))
