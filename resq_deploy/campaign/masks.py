"""The bits that a chip flips in the chosen surfaces at a bit error rate."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.options import CampaignOptions, Draw
from resq_deploy.deployed.surfaces import Surface
from resq_deploy.faults.bit_errors import drawn_by_layer, flipped_bits
from resq_deploy.faults.cells import Strikes
from resq_deploy.faults.fault import Edit

Integers = NDArray[np.int64]

_CHIP = "chip"  # so that directions of a chip are never those of a seed


def mask(
    surfaces: Sequence[Surface], options: CampaignOptions, strikes: Strikes, rate: float, chip: int
) -> tuple[Edit, ...]:
    """Return what a chip flips, by the surfaces that are hit, in their order.

    Args:
        surfaces: the chosen surfaces.
        options: bit positions that may flip, and whether every bit flips alike or layers are drawn.
        strikes: what happens to a cell that is struck; which way is drawn by the chip, whatever the rate.
        rate: bit error rate.
        chip: the chip's number.
    """
    drawn = _by_layer if options.draw is Draw.LAYERS else _alike
    struck = dict(drawn(surfaces, options.bits, rate, chip))
    return tuple(
        edit
        for surface in surfaces
        if surface.tensor in struck
        for edit in strikes.edits(surface.tensor, struck[surface.tensor], surface.width, _CHIP, chip)
    )


def _alike(surfaces: Sequence[Surface], bits: Sequence[int], rate: float, chip: int) -> Iterator[tuple[str, Integers]]:
    """Yield tensors and the bits that flip, each with the same probability."""
    for surface in surfaces:
        found = flipped_bits(surface.tensor, surface.bits, rate, chip)
        hit = found[np.isin(found % surface.width, bits)] if bits else found
        if len(hit):
            yield surface.tensor, hit


def _by_layer(
    surfaces: Sequence[Surface], bits: Sequence[int], rate: float, chip: int
) -> Iterator[tuple[str, Integers]]:
    """Yield the same where layers are drawn; a layer's bits lie one surface after the other, by the tensors' names."""
    layers: dict[str, list[tuple[Surface, Integers]]] = {}
    for surface in sorted(surfaces, key=lambda found: found.tensor):
        allowed = np.array([bit for bit in range(surface.width) if not bits or bit in bits], dtype=np.int64)
        if surface.elements * len(allowed):
            layers.setdefault(surface.layer, []).append((surface, allowed))
    ends = {
        layer: np.cumsum([surface.elements * len(allowed) for surface, allowed in parts])
        for layer, parts in layers.items()
    }
    for layer, found in drawn_by_layer({name: int(end[-1]) for name, end in ends.items()}, rate, chip).items():
        cuts = np.searchsorted(found, ends[layer])
        for (surface, allowed), end, inside in zip(layers[layer], ends[layer], np.split(found, cuts), strict=False):
            if len(inside):
                index, place = np.divmod(inside - (end - surface.elements * len(allowed)), len(allowed))
                yield surface.tensor, index * surface.width + allowed[place]
