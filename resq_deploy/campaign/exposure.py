"""Which few per cent of the bits carry the risk: first-order exposure by role and layer, and failures in time.

Three kinds of failure, each a figure of its own:

- wrong answers: the share of image runs that a fault gives another top-1, averaged over faults. It is the risk of one
  inference while a fault lies in memory.
- failing faults: the share of faults that change any answer (or more than a share of them). A stored fault stays until
  the file is loaded again, so that this is the rate at which devices become faulty ones.
- due: the share of faults that leave a file which no longer loads or runs.

A fault that is `due` gives no answers: it is counted as due, and neither as a wrong answer nor as a failing fault.

Whether a fault fails takes all images to know. Where each was judged on some of them (`faults.two_stage`), those that
were seen to fail are counted, which are fewer than do, and `at_least` of the exposure names these kinds: their `value`
is None. Faults that are proven to leave all images as they are (outvoted, corrected by a code, or without effect on the
graph that is run) do not fail; where there are any, all others may, which gives the upper end. Where there are none,
`high` is None, too.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.options import LINES, ONE_BIT, Draw, FaultModel
from resq_deploy.campaign.plan import Plan
from resq_deploy.campaign.population import Population
from resq_deploy.campaign.scrubbing import Units, scrubbing
from resq_deploy.campaign.summary import Figures, JsonEstimate
from resq_deploy.faults.statistics import Estimate

KINDS = ("wrong_answers", "failing_faults", "failing_faults_over_share", "due")
"""The kinds of failure, by their names in the file formats."""

NEED_ALL_IMAGES = ("failing_faults", "failing_faults_over_share")
"""Kinds that a fault is of, or is not, by what it does on all images."""

_MBIT = 1e6
_NO_EXPOSURE = {
    FaultModel.BER: "the curve over bit error rates is what exposure estimates to first order",
    FaultModel.LIST: "the faults of a list are no sample of the stored bits",
    FaultModel.BURST: "exposure adds up faults of one bit each, and a burst flips several",
    **dict.fromkeys(LINES, "exposure adds up faults of one bit each, and a line of a memory holds many"),
    FaultModel.CLUSTER: "exposure adds up faults of one bit each, and an upset strikes several cells",
    FaultModel.WORD: "exposure adds up faults of one bit each, and a replaced word changes several",
}
_LAYERS_DRAWN = (
    "exposure adds up bits that flip alike, and layers drawn evenly weigh the bits of small ones more: draw bits for it"
)

Values = NDArray[np.float64]
Flags = NDArray[np.bool_]
Codes = NDArray[np.intp]


def no_exposure(plan: Plan) -> str | None:
    """Return why a campaign has no exposure, or None where it has one."""
    if plan.model not in ONE_BIT:
        return _NO_EXPOSURE[plan.model]
    return _LAYERS_DRAWN if plan.options.draw is Draw.LAYERS else None


def exposure(figures: Figures, units: Sequence[Units] = ()) -> dict[str, Any]:
    """Return what faults of one bit add up to, by kind of failure, role and layer.

    To first order, the expected failures are the sum over roles of bits * rate * failures of a single fault in that
    role. Only the bits of the population count: those that roles, layers and bit positions asked for leave. It holds
    while two faults at once are unlikely (bits * rate well below 1). What is scaled to a bit error rate is cut at 1,
    where it bounds a probability and no longer adds up. With a raw rate in FIT/Mbit (Mbit: 10^6 bits) it gives
    failures in 10^9 hours.

    Totals are the sum of their parts, over roles and over layers alike: roles by their numbers of bits, each role's
    part split among layers as the harm of its faults is. A role no fault fell on counts as the mean of all faults
    drawn, with an interval that leaves everything open. The interval of a total is that of the mean over all faults,
    of whichever role; where a sample has other shares of roles than the file, it is stretched to the value.

    Single faults are what was tried: flips that meet in one word of a code, or in two copies of a value, come on top
    (`scrubbing`), and how many do depends on how often the storage is made sound again.

    Args:
        figures: of a campaign whose faults hit one bit each.
        units: what fails as one in the file, where codes or votes protect it.

    Returns:
        `bits`, `complete` (whether a fault fell on every role), `failing_share`, `at_least` (the kinds whose values
        are not known, but ends), `roles` (bits, share of bits and of the risk, failures of a fault in the role), for
        each of `KINDS` its share of the faults (`total`, `by_role` and `by_layer`, parts of the total), `at` (one entry
        a bit error rate) and `fit`, with `scrubbing` where that was asked.
    """
    options = figures.plan.options
    split = _Split(figures)
    at_least = () if figures.all_images else NEED_ALL_IMAGES
    surely = _failures(figures, options.failing_share, figures.at_least("sdc1"))
    maybe = _failures(figures, options.failing_share, figures.at_most("sdc1"))
    kinds = {
        kind: split.bounds(values, maybe[kind]) if kind in at_least else split.parts(values)
        for kind, values in surely.items()
    }
    risk = kinds["wrong_answers"].total.value
    roles = {
        role: {
            "bits": bits,
            "share_of_bits": bits / split.bits,
            "share_of_risk": kinds["wrong_answers"].by_role[role].value / risk if role in split.hit and risk else None,
            **{kind: parts.told(parts.within[role]) if role in split.hit else None for kind, parts in kinds.items()},
        }
        for role, bits in split.role_bits.items()
    }
    rate = options.fit_per_mbit
    return {
        "bits": split.bits,
        "complete": len(split.hit) == len(split.role_bits),
        "failing_share": options.failing_share,
        "at_least": list(at_least),
        "roles": roles,
        **{kind: parts.scaled(1.0, layers=True) for kind, parts in kinds.items()},
        "at": [
            {"ber": ber, **{kind: parts.scaled(split.bits * ber, most=1.0) for kind, parts in kinds.items()}}
            for ber in options.ber
        ],
        "fit": None
        if rate is None
        else {
            "fit_per_mbit": rate,
            **{kind: parts.scaled(split.bits * rate / _MBIT, layers=True) for kind, parts in kinds.items()},
            "scrubbing": None
            if options.scrub_hours is None
            else scrubbing(units, rate, options.scrub_hours, options.lifetime_hours),
        },
    }


def _failures(figures: Figures, failing_share: float, changed: Values) -> dict[str, Values | Flags]:
    """Return for each kind how much of it each fault does, in [0, 1], or whether it does, shape [faults].

    Args:
        figures: of the campaign.
        failing_share: of the images, above which a fault is one that fails over a share.
        changed: of all images, the share with another answer: at least, or at most, shape [faults].
    """
    wrong = figures.of_each("sdc1")
    return dict(zip(KINDS, (wrong, changed > 0.0, changed > failing_share, ~figures.judged), strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Parts:
    """One kind of failure.

    Attributes:
        total: its share of all faults.
        within: its share of the faults of each role hit.
        by_role: what each role adds to the total.
        by_layer: what each layer adds to the total.
        valued: whether their values are known; else, ends alone.
        open: whether no upper end is known, either.
    """

    total: Estimate
    within: Mapping[str, Estimate]
    by_role: Mapping[str, Estimate]
    by_layer: Mapping[str, Estimate]
    valued: bool = True
    open: bool = False

    def told(self, estimate: Estimate) -> JsonEstimate:
        """Return one of its figures as JSON values."""
        if self.valued:
            return estimate.as_dict()
        return estimate.at_least() if self.open else {**estimate.at_least(), "high": estimate.high}

    def scaled(self, factor: float, *, most: float = math.inf, layers: bool = False) -> dict[str, Any]:
        """Return total and parts times a factor, cut at `most`."""

        def times(parts: Mapping[str, Estimate]) -> dict[str, JsonEstimate]:
            return {name: self.told(_times(part, factor, most)) for name, part in parts.items()}

        by_layer = {"by_layer": times(self.by_layer)} if layers else {}
        return {**times({"total": self.total}), "by_role": times(self.by_role), **by_layer}


class _Groups:
    """The bits and the faults of a population by role, or by layer.

    Args:
        population: the population.
        cell: the cell of each fault, shape [faults].
        key: role or layer.

    Attributes:
        bits: stored bits of each group, in the order of the population.
        of_cell: the group of each cell, by its place in `bits`.
        of_fault: the same of each fault.
    """

    def __init__(self, population: Population, cell: Codes, key: str) -> None:
        self._key = key
        self.bits: dict[str, int] = {}
        for found in population.cells:  # one fault a bit
            name = found.group(key)
            self.bits[name] = self.bits.get(name, 0) + found.surface.elements
        place = {name: number for number, name in enumerate(self.bits)}
        self.of_cell: Codes = np.array([place[found.group(key)] for found in population.cells], dtype=np.intp)
        self.of_fault: Codes = self.of_cell[cell]

    def within(self, values: Values | Flags, figures: Figures) -> dict[str, Estimate]:
        """Return the mean over the faults of each group that was hit."""
        chosen = ((name, self.of_fault == place) for place, name in enumerate(self.bits))
        return {name: figures.estimate(values, inside, (self._key, name)) for name, inside in chosen if inside.any()}


class _Split:
    """The faults of a campaign by role and by layer.

    Args:
        figures: of the campaign.

    Attributes:
        bits: stored bits of the population.
        role_bits: those of each role, in the order of the population.
        hit: the roles a fault fell on.
    """

    def __init__(self, figures: Figures) -> None:
        population = figures.plan.population
        if population is None:
            raise ValueError("faults of a list are drawn from no population")
        self._figures = figures
        self._cell_bits = np.array([found.surface.elements for found in population.cells], dtype=np.float64)
        cell = np.searchsorted(population.starts(), figures.plan.positions, side="right") - 1
        self._roles, self._layers = (_Groups(population, cell, key) for key in ("role", "layer"))
        self.bits = population.size
        self.role_bits = self._roles.bits
        self.hit = [role for place, role in enumerate(self.role_bits) if (self._roles.of_fault == place).any()]

    def bounds(self, surely: Flags | Values, maybe: Flags | Values) -> _Parts:
        """Return ends of total and parts of a kind of failure, each of which holds for half of the error.

        Args:
            surely: which faults fail, shape [faults].
            maybe: which may, shape [faults].
        """
        low, high = self.parts(surely), self.parts(maybe)

        def between(least: Mapping[str, Estimate], most: Mapping[str, Estimate]) -> dict[str, Estimate]:
            return {name: dataclasses.replace(found, high=most[name].high) for name, found in least.items()}

        return _Parts(
            total=dataclasses.replace(low.total, high=high.total.high),
            within=between(low.within, high.within),
            by_role=between(low.by_role, high.by_role),
            by_layer=between(low.by_layer, high.by_layer),
            valued=False,
            open=not self._figures.inert.any(),
        )

    def parts(self, values: Values | Flags) -> _Parts:
        """Return total and parts of one kind of failure.

        Args:
            values: how much of it each fault does, in [0, 1], or whether it does, shape [faults].
        """
        mean = self._figures.estimate(values, np.ones(len(values), dtype=bool))
        within = self._roles.within(values, self._figures)
        unknown = dataclasses.replace(mean, low=0.0, high=1.0, n=0)
        by_role = {
            role: _times(within.get(role, unknown), count / self.bits) for role, count in self._roles.bits.items()
        }
        in_layers = self._layers.within(values, self._figures)
        by_layer = {
            layer: _stretched(_times(in_layers.get(layer, unknown), self._layers.bits[layer] / self.bits), value)
            for layer, value in self._by_layer(values, by_role).items()
        }
        total = _stretched(mean, sum(part.value for part in by_role.values()))
        return _Parts(total=total, within=within, by_role=by_role, by_layer=by_layer)

    def _by_layer(self, values: Values | Flags, by_role: Mapping[str, Estimate]) -> dict[str, float]:
        """Return what each layer adds: the parts of the roles, split as their faults' harm is, or else their bits."""
        roles, layers = self._roles, self._layers
        part = np.array([found.value for found in by_role.values()])
        harm = values * self._figures.weights()
        of_role = np.bincount(roles.of_fault, weights=harm, minlength=len(part))
        scale = np.divide(part, of_role, out=np.zeros_like(part), where=of_role > 0)
        seen = np.bincount(layers.of_fault, weights=harm * scale[roles.of_fault], minlength=len(layers.bits))
        unseen = np.where(of_role > 0, 0.0, part / np.array(list(roles.bits.values())))
        rest = np.bincount(layers.of_cell, weights=self._cell_bits * unseen[roles.of_cell], minlength=len(layers.bits))
        return dict(zip(layers.bits, (seen + rest).tolist(), strict=True))


def _times(estimate: Estimate, factor: float, most: float = math.inf) -> Estimate:
    value, low, high = (min(most, factor * end) for end in (estimate.value, estimate.low, estimate.high))
    return dataclasses.replace(estimate, value=value, low=low, high=high)


def _stretched(estimate: Estimate, value: float) -> Estimate:
    """Return an estimate with another value, which its interval is stretched to hold."""
    low, high = min(estimate.low, value), max(estimate.high, value)
    return dataclasses.replace(estimate, value=value, low=low, high=high)
