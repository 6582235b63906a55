"""Random bit errors as common random numbers: one fixed threshold a stored bit and chip.

A chip stands for one device: every stored bit of a tensor has, on that chip, its own fixed u, uniform on [0, 1),
and is flipped at bit error rate p if and only if u < p (Stutz et al., "Bit Error Robustness for Energy-Efficient
DNN Accelerators", MLSys 2021). Masks at a lower rate are therefore subsets of those at a higher one, and two files
with the same tensors see the same faults.

Layers may be drawn evenly instead (`drawn_by_layer`), as some published campaigns do: a rate then says how many draws
there are, and not how likely each bit is to flip.

The thresholds are never stored. They are drawn decade by decade, [0, 1e-9), [1e-9, 1e-8), ..., each from a stream
of its own, and only as far as the rate asked for: the cost grows with the flips and not with the bits.
"""

import itertools
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults import draws

FIRST_CHIP = 100
_EDGES = (0.0, *(10.0**exponent for exponent in range(-9, 1)))


def flipped_bits(tensor: str, bits: int, rate: float, chip: int) -> NDArray[np.int64]:
    """Return the addresses of the bits of a tensor that a chip flips at a bit error rate.

    Args:
        tensor: the tensor's name, part of the random key.
        bits: how many bits the tensor stores.
        rate: bit error rate p, in [0, 1].
        chip: the chip's number, part of the random key.

    Returns:
        Bit addresses (element * width + bit), ascending, shape [flips].

    Raises:
        ValueError: if the rate is not in [0, 1].
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"bit error rate {rate} is not in [0, 1]")
    positions = np.empty(0, dtype=np.int64)
    thresholds = np.empty(0, dtype=np.float64)
    for decade, (low, high) in enumerate(itertools.pairwise(_EDGES)):
        if low >= rate:
            break
        found, threshold = _decade(tensor, bits, chip, decade, low, high)
        if not len(found):
            continue
        new = ~np.isin(found, positions)  # a bit already placed in a lower decade keeps its threshold there
        positions = np.concatenate([positions, found[new]])
        thresholds = np.concatenate([thresholds, threshold[new]])
    return np.sort(positions[thresholds < rate])


def drawn_by_layer(sizes: Mapping[str, int], rate: float, chip: int) -> dict[str, NDArray[np.int64]]:
    """Return the bits of each layer that a chip flips where every draw takes a layer evenly, whatever its size.

    With B bits in all layers a chip makes floor(p B + u) draws, u uniform on [0, 1) and its own: p B on average. Each
    draw takes one of the layers with the same probability, and then one of its bits that are not flipped yet, evenly; a
    draw that falls on a layer without such a bit flips none. So a layer of n bits among L has about min(n, p B / L)
    flips, and the share of its bits that flip is about p B / (L n): far above p in small layers.

    Chips hold their order of draws: those at a lower rate come first at a higher one. A layer's name, and the names of
    all, are what the draws are made of, so that files with the same layers see the same faults.

    Args:
        sizes: bits of each layer by its name, above 0.
        rate: p, in [0, 1].
        chip: the chip's number, part of the random key.

    Returns:
        Of the layers that were hit: bit addresses within the layer, ascending, shape [flips].

    Raises:
        ValueError: if the rate is not in [0, 1].
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"bit error rate {rate} is not in [0, 1]")
    names = sorted(sizes)
    whole = draws.uniforms(draws.stream("ber-draws", chip), 1)[0]
    count = math.floor(rate * sum(sizes.values()) + whole)
    hit = np.bincount(draws.integers(draws.stream("ber-layers", chip), len(names), count), minlength=len(names))
    return {
        name: np.sort(draws.sample(draws.stream("ber-bits", chip, name), sizes[name], min(times, sizes[name])))
        for name, times in zip(names, hit.tolist(), strict=True)
        if times
    }


def _decade(
    tensor: str, bits: int, chip: int, decade: int, low: float, high: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the bits whose threshold lies in [low, high) unless it is lower, and those thresholds.

    Each bit is taken with the probability of lying in this decade given that it lies in no lower one.
    """
    probability = min(1.0, (high - low) / (1.0 - low))
    places = _bernoulli(draws.stream("ber", chip, tensor, counter=2 * decade), bits, probability)
    if not len(places):
        return places, np.empty(0, dtype=np.float64)
    inside = draws.uniforms(draws.stream("ber", chip, tensor, counter=2 * decade + 1), len(places))
    return places, low + (high - low) * inside


def _bernoulli(source: np.random.Philox, bits: int, probability: float) -> NDArray[np.int64]:
    """Return which of `bits` independent trials succeed, by drawing the gaps between successes."""
    if probability >= 1.0:
        return np.arange(bits, dtype=np.int64)
    scale = 1.0 / np.log1p(-probability)
    parts: list[NDArray[np.int64]] = []
    last = -1.0
    while last < bits:
        expected = (bits - last) * probability
        count = int(expected + 6.0 * np.sqrt(expected)) + 16
        gaps = np.floor(np.log1p(-draws.uniforms(source, count)) * scale) + 1.0
        places = last + np.cumsum(np.minimum(gaps, 2.0 * bits + 1.0))
        parts.append(places[places < bits].astype(np.int64))
        last = float(places[-1])
    return np.concatenate(parts)
