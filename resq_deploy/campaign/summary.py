"""From records to the figures of `summary.json`."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.detection import detection, detections
from resq_deploy.campaign.golden import MEANS, Golden
from resq_deploy.campaign.options import WHOLE, FaultModel
from resq_deploy.campaign.plan import Plan
from resq_deploy.campaign.record import Record
from resq_deploy.deployed.health import Health
from resq_deploy.faults import stratified
from resq_deploy.faults.cell_words import LAID_OUT
from resq_deploy.faults.judges.registry import identity
from resq_deploy.faults.outcomes import Outcome
from resq_deploy.faults.statistics import Estimate, cluster, proportion, share, spread

SCHEMA = 2
"""1: earlier versions, with figures of random bit errors pooled over the rates, and exposure over all stored bits."""

Flags = NDArray[np.bool_]
JsonEstimate = dict[str, Any]
"""An estimate as JSON values; value and upper end are None where the lower end alone is known."""

Group = tuple[str, str]
"""What faults are grouped by (role, layer or bit), and the name of the group."""


class Figures:
    """Estimates over the faults of a campaign, whatever way they were drawn.

    Args:
        plan: what was drawn, from which population.
        records: all its faults, in the order of the plan.
        confidence: coverage of the intervals.
        health: what the fault-free file reports of its code words; None where it reports nothing.

    Attributes:
        reports: whether the file reports on its code words.
        detected: which faults change that report, shape [n].
        uncorrectable: which faults make it count more uncorrectable words, shape [n].
        judged: which faults were judged, and are not `due`, shape [n].
        inert: which faults are proven to be masked on all images, shape [n].
    """

    def __init__(self, plan: Plan, records: Sequence[Record], confidence: float, health: Health | None = None) -> None:
        self.plan = plan
        self.records = records
        self.confidence = confidence
        self.reports = health is not None
        self.detected: Flags = np.array([record.detected for record in records], dtype=bool)
        least = health.uncorrectable if health else 0
        words = [record.health[1] if record.health else 0 for record in records]
        self.uncorrectable: Flags = np.array(words) > least
        self.judged: Flags = np.array([record.outcome is not Outcome.DUE for record in records], dtype=bool)
        self.inert: Flags = np.array([record.inert for record in records], dtype=bool)
        images = np.array([max(record.images, 1) for record in records], dtype=np.float64)
        first = records[0]
        self._rates = {name: np.array([record.counts[name] for record in records]) / images for name in first.counts}
        self._amounts = {name: np.array([one.amounts[name] for one in records]) / images for name in first.amounts}
        if self.reports:  # what is wrong, and whether one is told so
            self._rates["sdc1_detected"] = self._rates["sdc1"] * self.detected
            self._rates["sdc1_silent"] = self._rates["sdc1"] * ~self.detected
        rated = all(record.quality is not None for record in records)
        self._quality = np.array([record.quality for record in records], dtype=np.float64) if rated else None
        # Of all images, or of its own where it was judged on all of them.
        self._whole = images if plan.partition is None or plan.share == 1.0 else np.float64(plan.partition.images)

    def rates(self, domain: Flags, group: Group | None = None) -> dict[str, JsonEstimate | None]:
        """Return the rate of every kind of outcome over image runs of the faults in a domain.

        Faults that are `due` have no image runs and stay out; without any judged fault a rate is None.

        Args:
            domain: which faults count, shape [n].
            group: the role, layer or bit that the domain is.
        """
        if not (domain & self.judged).any():
            return dict.fromkeys(self._rates, None)
        return {
            name: self.estimate(values, domain, group, self.judged).as_dict() for name, values in self._rates.items()
        }

    def amounts(self, domain: Flags) -> dict[str, float | None]:
        """Return how much of each thing that is summed up an image run of the faults in a domain has, on average."""
        judged = domain & self.judged
        if not judged.any():
            return dict.fromkeys(self._amounts, None)
        weights = self.weights()[judged]
        return {name: float(np.average(values[judged], weights=weights)) for name, values in self._amounts.items()}

    @property
    def all_images(self) -> bool:
        """Whether every fault was judged on all images, so that what it does as a whole is known."""
        return self.plan.share == 1.0

    def of_each(self, name: str) -> NDArray[np.float64]:
        """Return the rate of one kind of outcome of each fault, 0 for one that is `due`, shape [n]."""
        return self._rates[name]

    def at_least(self, name: str) -> NDArray[np.float64]:
        """Return of all images the share on which each fault is known to have an outcome, shape [n].

        That is its rate where it was judged on all of them, and a lower bound of it where not.
        """
        counts = np.array([record.counts[name] for record in self.records], dtype=np.float64)
        return np.asarray(counts / self._whole)

    def at_most(self, name: str) -> NDArray[np.float64]:
        """Return of all images the share on which each fault can have an outcome other than masked, shape [n].

        Those it was not judged on count in, but for a fault that is inert; 0 for one that is `due`.
        """
        images = np.array([record.images for record in self.records], dtype=np.float64)
        unseen = np.where(self.judged & ~self.inert, self._whole - images, 0.0)
        return np.asarray(self.at_least(name) + unseen / self._whole)

    @property
    def qualities(self) -> NDArray[np.float64] | None:
        """The judge's figure under each fault, 0 for one that is `due`, shape [n]; None where there is none."""
        return self._quality

    def weights(self) -> NDArray[np.float64]:
        """Return how many faults of the population each fault stands for, up to a common factor, shape [n]."""
        return np.ones(len(self.records)) if self.plan.sample is None else self.plan.sample.weights()

    def estimate(
        self,
        values: NDArray[np.float64] | Flags,
        domain: Flags,
        group: Group | None = None,
        known: Flags | None = None,
    ) -> Estimate:
        """Estimate the mean over a domain of a figure that each fault has.

        Args:
            values: the figure of each fault, in [0, 1], or whether it has something, shape [n].
            domain: which faults count, shape [n].
            group: the role, layer or bit that the domain is; None for all faults, or all chips at one rate.
            known: which faults have such a figure at all, shape [n]; None for all of them.
        """
        sample, figures = self.plan.sample, values.astype(np.float64)
        if sample is not None:
            part = None if group is None else self.plan.part(*group)
            within = sample if part is None else sample.inside(domain, part)
            rated = None if known is None else known[domain]
            return stratified.estimate(figures[domain], within, self.confidence, rated)
        found = figures[domain if known is None else domain & known]
        population = self.plan.size if group is None else self.plan.group_size(*group)
        if domain.sum() >= population:
            population = len(found)  # all were seen, those without such a figure among them
        if values.dtype == np.bool_ and not self._stopped and self.all_images:
            return proportion(int(found.sum()), len(found), population, self.confidence)
        return cluster(found, population, self.confidence, stopped=self._stopped, share=self.plan.share)

    @property
    def _stopped(self) -> bool:
        """Whether the results of a simple sample decided how many units were drawn."""
        return self.plan.options.margin is not None


def summarise(plan: Plan, golden: Golden, records: Sequence[Record]) -> dict[str, Any]:
    """Return the figures of a campaign, as in `summary.json`.

    Args:
        plan: what was drawn, from which population.
        golden: the fault-free run.
        records: its faults, in the order of the plan.
    """
    figures = Figures(plan, records, plan.options.confidence, golden.health)
    summary: dict[str, Any] = {
        "schema": SCHEMA,
        "fault_model": str(plan.model),
        "draw": None if plan.model in WHOLE else str(plan.options.draw),
        "design": "stratified" if plan.sample is not None else "simple",
        "judge": _judge(golden),
        "golden": _golden(golden, plan.options.confidence),
        "images": _images(figures, golden),
        "population": {"bits": plan.bits, "faults": None if math.isinf(plan.size) else int(plan.size), **_layers(plan)},
        "faults": {
            "evaluated": len(records),
            "due": int((~figures.judged).sum()),
            "reloaded": sum(record.reloaded for record in records),
            "inert": int(figures.inert.sum()),
        },
    }
    summary |= physics(plan)
    figure = _figure(golden, figures)
    if plan.model is FaultModel.BER:
        rates = sorted({rate for rate, _ in plan.masks})
        return {**summary, "curve": [_point(figures, rate, figure) for rate in rates]}
    everything = np.ones(len(records), dtype=bool)
    return {
        **summary,
        **_whole(figures, everything, figure),
        "detection": detections(figures),
        **{f"by_{key}": _by_group(figures, key) for key in ("role", "layer", "bit")},
    }


def _judge(golden: Golden) -> dict[str, Any]:
    """Return how outputs were judged, and why so."""
    options = identity(golden.judge)
    name, outputs = options.pop("name"), options.pop("outputs")
    return {
        "name": name,
        "outputs": outputs,
        "options": options,
        "reason": golden.reason,
        "ladder": list(golden.ladder),
    }


def physics(plan: Plan) -> dict[str, Any]:
    """Return what cells are struck together, and which way bits flip, where that is not any way."""
    options, found = plan.options, dict[str, Any]()
    if options.flip_direction.falling is not None and plan.population is not None:
        found["flip_direction"] = str(options.flip_direction)
        if plan.population.strikes.true is not None:
            found["true_cells"] = LAID_OUT if options.true_cells is None else str(options.true_cells)
    if plan.model is FaultModel.CLUSTER:
        layout = options.identity()["memory_layout"]
        found["upsets"] = {
            "layout": layout,
            "patterns": [dataclasses.asdict(pattern) for pattern in options.cluster_shares],
        }
    if options.placed and plan.model is not FaultModel.CLUSTER:
        found["memory_layout"] = options.identity()["memory_layout"]
    return found


def _golden(golden: Golden, confidence: float) -> dict[str, Any]:
    """Return what the fault-free file does; its quality only where it is known what is right."""
    found: dict[str, Any] = {}
    if golden.rated:
        found["quality"] = {"name": golden.judge.figure, "value": golden.quality, "n": len(golden)}
    if golden.judge.figure == "accuracy" and golden.right is not None:
        found["accuracy"] = share(golden.right, len(golden), confidence).as_dict()
    health = golden.health and golden.health._asdict()
    return {**found, "images": len(golden), "set_aside": golden.set_aside, "health": health}


def _figure(golden: Golden, figures: Figures) -> str | None:
    """Return the figure that can be told of faults, if there is one.

    Where each was judged on some of the images, that is only one which is a mean over images.
    """
    name = golden.judge.figure
    return name if golden.rated and (figures.all_images or name in MEANS) else None


def _images(figures: Figures, golden: Golden) -> dict[str, int | str | None]:
    """Return how many images each fault of the last phase was judged on (None for all), and how they were cut."""
    plan, partition = figures.plan, golden.parts
    size, images = partition.size, partition.images
    return {
        "per_fault": plan.images_per_fault,
        "parts": partition.parts,
        "part_size": size,
        "of": images,
        "not_known": not_known(plan, int(figures.inert.sum())),
    }


def not_known(plan: Plan, inert: int = 0) -> str | None:
    """Return in words what faults that were judged on some images leave open; None where all were run.

    Args:
        plan: the campaign's.
        inert: how many faults are proven to be masked on all images.
    """
    if plan.share == 1.0:
        return None
    known = "a lower bound alone"
    if inert:
        known = f"a lower bound, and as an upper one since {inert:,} are proven to leave every image as it is"
    return (
        f"each fault was judged on some of the images: how many fail on any image is known as {known}, and what is "
        "told of single faults, and of those that are due, is what they do on their own images"
    )


def _whole(figures: Figures, domain: Flags, figure: str | None) -> dict[str, Any]:
    """Return the figures over all faults, or over the chips at one rate; a `due` fault has a quality of 0."""
    found: dict[str, Any] = {"rates": figures.rates(domain)}
    if amounts := figures.amounts(domain):
        found["amounts"] = amounts
    found["due"] = figures.estimate(~figures.judged, domain).as_dict()
    if figure is not None and figures.qualities is not None:
        estimate = figures.estimate(figures.qualities, domain).as_dict()
        found["quality"] = {"name": figure, **estimate}
        if figure == "accuracy":
            found["accuracy"] = estimate
    return found


def _layers(plan: Plan) -> dict[str, list[str]]:
    """Return which layers could be hit, so that those no fault fell on can be named."""
    if plan.population is None:
        return {}
    return {"layers": list(dict.fromkeys(cell.group("layer") for cell in plan.population.cells))}


def _by_group(figures: Figures, key: str) -> dict[str, Any]:
    """Return the rates of the faults in each role, layer or bit that was hit, in the order of the population."""
    plan = figures.plan
    names = np.array([plan.group(number, key) for number in range(len(figures.records))])
    present = list(dict.fromkeys(names.tolist()))
    if plan.population is not None:
        ordered = dict.fromkeys(cell.group(key) for cell in plan.population.cells)
        present = [name for name in ordered if name in set(present)]
    return {name: figures.rates(names == name, (key, name)) for name in present}


def _point(figures: Figures, rate: float, figure: str | None) -> dict[str, Any]:
    """Return the figures at one bit error rate, over its chips alone: chips share their faults over all rates.

    The estimates are for further chips; `worst` and `spread` describe the chips drawn and are no interval.
    """
    chosen = np.array([at == rate for at, _ in figures.plan.masks])
    judged = figures.of_each("sdc1")[chosen & figures.judged]
    point = {
        "ber": rate,
        "chips": int(chosen.sum()),
        **_whole(figures, chosen, figure),
        "detection": detection(figures, chosen),
    }
    spreads = {"sdc1": spread(judged) if len(judged) else None}
    if figure is not None and figures.qualities is not None:
        quality = figures.qualities[chosen]
        point["worst"] = float(quality.min())
        spreads = {"accuracy" if figure == "accuracy" else "quality": spread(quality), **spreads}
    return {**point, "spread": spreads}
