"""What a campaign records of its drawing, so that others can estimate from its faults without the file."""

from collections.abc import Callable, Collection, Mapping
from itertools import groupby
from typing import Any

import numpy as np
import onnx

from resq_deploy.campaign.options import ONE_BIT, Draw
from resq_deploy.campaign.plan import Plan
from resq_deploy.campaign.scrubbing import VOTES
from resq_deploy.deployed.coded import coded_weights
from resq_deploy.deployed.votes import find_votes
from resq_deploy.faults.bits import Bytes

Protected = Mapping[str, tuple[str, Collection[str]]]
_AT_ONCE = 1 << 20
"""Elements of which it is told at a time what strikes would change."""


def protections(model: onnx.ModelProto) -> dict[str, tuple[str, list[str]]]:
    """Return for each stored tensor that a code or votes protect by which, and the names of the values it stores.

    Args:
        model: the file, with its functions written out or not.
    """
    found: dict[str, tuple[str, list[str]]] = {}
    for coded in coded_weights(model):
        for name in coded.stored:
            found.setdefault(name, (coded.code.name, []))[1].append(coded.weight)
    for vote in find_votes(model):
        for name in vote.copies:
            found.setdefault(name, (VOTES, []))[1].append(vote.output)
    return found


def idle_bits(plan: Plan, stored: Callable[[str], Bytes]) -> dict[str, int] | None:
    """Return how many of the bits that may be struck hold already, in each tensor, what a strike would turn them to.

    Args:
        plan: what is struck.
        stored: returns the bytes of a tensor.

    Returns:
        None where a strike flips whatever it finds, or each chip has ways of its own.
    """
    options, population = plan.options, plan.population
    way = options.flip_direction.falling
    if population is None or way is None or (plan.masks and 0.0 < way < 1.0):
        return None
    found: dict[str, int] = {}
    for surface in plan.surfaces:
        held = np.unpackbits(stored(surface.tensor), bitorder="little")[: surface.bits].astype(bool)
        found[surface.tensor] = 0
        for bit in (bit for bit in range(surface.width) if not options.bits or bit in options.bits):
            for first in range(0, surface.elements, _AT_ONCE):
                index = np.arange(first, min(first + _AT_ONCE, surface.elements))
                places = index * surface.width + bit
                falls = population.strikes.falls(surface.tensor, places, options.seed)
                found[surface.tensor] += int((held[places] != falls).sum())
    return found


def drawing(plan: Plan, protected: Protected, idle: Mapping[str, int] | None = None) -> dict[str, Any] | None:
    """Return the drawing as JSON values; None where faults are not of one bit each, or bits do not count alike.

    Args:
        plan: what was drawn.
        protected: as `protections` returns it.
        idle: as `idle_bits` returns it.

    Returns:
        `tensors`: of each its `role`, `layer`, `protection` (null for none), `plain` (the names of the values that it
        stores), `faults` (stratum, as text -> faults of the population) and, where strikes do not flip whatever they
        find, `idle`: how many of these faults change nothing. `strata`: null for a simple sample, else
        `drawn` (runs of faults in their order: phase, stratum, how many), `sizes`, `pilots`, `images`, `of`, `kept` as
        of `faults.stratified.Sample`. `share`: the least part of the images that a fault was judged on.
    """
    population, sample = plan.population, plan.sample
    if plan.model not in ONE_BIT or plan.options.draw is Draw.LAYERS or population is None:
        return None
    of_cell = [0] * len(population.cells) if plan.strata is None else plan.strata.of_cell.tolist()
    tensors: dict[str, dict[str, Any]] = {}
    for cell, stratum in zip(population.cells, of_cell, strict=True):
        surface = cell.surface
        by, plain = protected.get(surface.tensor, (None, [surface.tensor]))
        entry = tensors.setdefault(
            surface.tensor,
            {"role": str(surface.role), "layer": surface.layer, "protection": by, "plain": list(plain), "faults": {}},
        )
        entry["faults"][str(stratum)] = entry["faults"].get(str(stratum), 0) + surface.elements
        if idle is not None:
            entry["idle"] = idle[surface.tensor]
    strata = None
    if sample is not None:
        pairs = zip(np.asarray(sample.phase).tolist(), np.asarray(sample.stratum).tolist(), strict=True)
        strata = {
            "drawn": [[*pair, len(list(run))] for pair, run in groupby(pairs)],
            "sizes": sample.sizes.tolist(),
            "pilots": sample.pilots,
            "images": list(sample.images),
            "of": sample.of,
            "kept": sample.kept,
        }
    return {"tensors": tensors, "strata": strata, "share": plan.share}
