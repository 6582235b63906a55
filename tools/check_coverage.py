#!/usr/bin/env python3
"""How often the intervals of `faultcamp` hold, and whether its estimates are unbiased: many samples of known faults.

Draws samples from made-up populations with rare, catastrophic faults, and from the faults of run folders (`faultcamp
--samples 6000`, or `--exhaustive` for a truth that was enumerated). For each it prints how many of the intervals lie
wholly below the truth and wholly above it: at 95 %, either may happen to 2.5 % at most. With --model the faults of an
exhaustive run of that file are drawn as `--margin` draws them, too, and the mean of the estimates is held against the
truth. With --images-per-fault each fault drawn is judged on that many of --images at random, or on as many as `auto`
decides. Exits with 1 if one side misses more often than --allowed, or the estimates of a stratified plan are off by
more than three standard errors.

Example:
  python tools/check_coverage.py --run sampled --run whole --model models/resnet8-digits-baseline.int8.onnx
  python tools/check_coverage.py --images-per-fault 20 --images 1000 --run sampled
"""

import argparse
import csv
import dataclasses
import math
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.option_text import parse_images_per_fault
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.plan import Plan, make_plan
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.faults.partition import Partition
from resq_deploy.faults.statistics import Estimate, cluster
from resq_deploy.faults.stratified import estimate
from resq_deploy.records import read_manifest

Floats = NDArray[np.float64]
_CONFIDENCE = 0.95
_SIZES = (100, 200, 1000, 5000)
_MADE_UP = ((1e-3, 0.9, 0.1, 0.002), (5e-4, 0.5, 0.1, 0.002), (2e-4, 0.5, 0.05, 0.001), (3e-3, 1.0, 0.0, 0.0))
"""Share of the faults that are catastrophic, their rate; share that do a little, and how little."""


@dataclasses.dataclass(frozen=True)
class Coverage:
    """What many intervals for one truth came to.

    Attributes:
        below: share of them that lie wholly below the truth.
        above: share of them that lie wholly above it.
        width: their median width.
        units: faults drawn, on average.
        bias: mean of the estimates over the truth, less 1.
        error: standard error of that.
    """

    below: float
    above: float
    width: float
    units: float
    bias: float
    error: float


def judged(figures: Sequence[Estimate], truth: float) -> Coverage:
    """Hold intervals against the truth."""
    low, high, value, n = (np.array([getattr(one, name) for one in figures]) for name in ("low", "high", "value", "n"))
    return Coverage(
        below=float(np.mean(high < truth)),
        above=float(np.mean(low > truth)),
        width=float(np.median(high - low)),
        units=float(n.mean()),
        bias=float(value.mean() / truth - 1.0),
        error=float(value.std(ddof=1) / truth / math.sqrt(len(value))),
    )


def made_up(size: int, seed: int) -> Iterator[tuple[str, Floats]]:
    """Yield populations in which few faults do most of the harm."""
    rng = np.random.default_rng(seed)
    for share, rate, many, little in _MADE_UP:
        kind = rng.random(size)
        small = little * rng.integers(0, 3, size)
        rates = np.where(kind < share, rate, np.where(kind < share + many, small, 0.0))
        yield f"{share:g} of the faults at {rate:g}", rates


def of_run(run: pathlib.Path) -> Floats:
    """Return SDC-1 of each judged fault of a run folder."""
    with (run / "faults.csv").open(encoding="utf-8") as stream:
        rows = [(int(row["sdc1"]), int(row["images"])) for row in csv.DictReader(stream)]
    return np.array([sdc1 / images for sdc1, images in rows if images])


@dataclasses.dataclass(frozen=True)
class Few:
    """Images that each fault is judged on.

    Attributes:
        images: how many; None for all, or for those that a plan says.
        of: how many there are. Rates are multiples of 1 / `of`.
        rng: draws them.
    """

    images: int | None
    of: int
    rng: np.random.Generator

    def seen(self, rates: Floats, images: int | None) -> Floats:
        """Return the shares that faults show on so many images of their own, drawn without replacement."""
        if images is None or images >= self.of:
            return rates
        bad = np.rint(rates * self.of).astype(np.int64)
        return self.rng.hypergeometric(bad, self.of - bad, images) / images


def simple(
    rates: Floats, n: int, replications: int, rng: np.random.Generator, whole: bool = False, few: Few | None = None
) -> Coverage:
    """Draw simple samples: of an endless population with these rates, or of these faults without replacement."""
    size, drawn, share = len(rates) if whole else math.inf, [], 1.0
    for _ in range(replications):
        values = rng.choice(rates, n, replace=not whole)
        if few is not None and few.images is not None:
            values, share = few.seen(values, few.images), min(1.0, few.images / few.of)
        drawn.append(cluster(values, size, _CONFIDENCE, share=share))
    return judged(drawn, float(rates.mean()))


def stratified(
    begin: Callable[[int], Plan],
    rates: Floats,
    replications: int,
    report: Callable[[int], None] = lambda _: None,
    few: Few | None = None,
) -> Coverage:
    """Draw as a campaign with a margin does.

    Args:
        begin: the pilot by its seed.
        rates: SDC-1 of every fault of the population, by its number.
        replications: how many campaigns.
        report: told the number of each that is done.
        few: draws the images of each fault, as many as the plan says; None where all are run.
    """
    figures = []
    for seed in range(replications):
        plan, values = begin(seed), np.empty(0)
        while True:
            assert plan.sample is not None, "the margin takes the whole population"
            new = rates[plan.positions[len(values) :]]
            values = np.concatenate([values, new if few is None else few.seen(new, plan.sample.images[-1])])
            more = plan.continued(values)
            if more is None:
                break
            plan = more
        figures.append(estimate(values, plan.sample, _CONFIDENCE))
        report(seed)
    return judged(figures, float(rates.mean()))


def enumerated(
    run: pathlib.Path, model: DeployedModel, images: int | Literal["auto", "all"] = "all"
) -> tuple[Callable[[float], Callable[[int], Plan]], Floats]:
    """Return how to begin a campaign on the population of an exhaustive run, by margin and seed, and its rates."""
    asked = read_manifest(run)["options"]
    layers, of = asked["layers"], asked["images"]
    whole = make_plan(model.surfaces, CampaignOptions(exhaustive=True, layers=layers))
    rates = np.empty(len(whole))
    rates[whole.positions] = of_run(run)

    def begin(margin: float) -> Callable[[int], Plan]:
        def pilot(seed: int) -> Plan:
            options = CampaignOptions(margin=margin, layers=layers, seed=seed, images=of, images_per_fault=images)
            plan = make_plan(model.surfaces, options)
            return plan.judged_on(Partition.of(of, min(of, plan.part_size or of)))

        return pilot

    return begin, rates


def main(arguments: Sequence[str] | None = None) -> int:
    """Print misses on each side, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=pathlib.Path, action="append", default=[], help="run folder to resample")
    parser.add_argument("--model", type=pathlib.Path, help="file of the exhaustive runs, to draw them in strata")
    parser.add_argument("--margin", type=float, action="append", help="of the stratified plans (default: 0.02, 0.01)")
    parser.add_argument("--replications", type=int, default=10_000, help="samples each (default: 10000)")
    parser.add_argument("--campaigns", type=int, default=2000, help="stratified campaigns each (default: 2000)")
    parser.add_argument("--sizes", default=",".join(map(str, _SIZES)), help="faults a sample (default: %(default)s)")
    parser.add_argument("--allowed", type=float, default=0.027, help="misses on a side (default: %(default)s)")
    parser.add_argument("--images-per-fault", default="all", metavar="auto|N|all", help="(default: all)")
    parser.add_argument("--images", type=int, default=1000, help="of the made-up populations (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    rng, failed = np.random.default_rng(given.seed), False
    asked = parse_images_per_fault(given.images_per_fault)

    def told(what: str, found: Coverage, unbiased: bool = False) -> None:
        nonlocal failed
        off = unbiased and abs(found.bias) > 3 * found.error
        failed |= off or max(found.below, found.above) > given.allowed
        print(
            f"  {what}: below the truth {100 * found.below:.2f} %, above {100 * found.above:.2f} %, median width "
            f"{100 * found.width:.3g} points, bias {100 * found.bias:+.2f} +- {100 * found.error:.2f} %"
            + (f", {found.units:,.0f} faults" if unbiased else ""),
            flush=True,
        )

    populations = [(name, rates, False, given.images) for name, rates in made_up(10**6, given.seed)]
    for run in given.run:
        options = read_manifest(run)["options"]
        populations.append((str(run), of_run(run), bool(options["exhaustive"]), options["images"]))
    for name, rates, whole, of in populations:
        rates = np.rint(rates * of) / of
        few = None if asked == "all" else Few(asked if isinstance(asked, int) else None, of, rng)
        print(f"{name}: truth {100 * rates.mean():.4f} %")
        for n in map(int, given.sizes.split(",")):
            if n < len(rates):
                told(f"n {n}", simple(rates, n, given.replications, rng, whole, few))
        if whole and given.model is not None:
            begin, by_number = enumerated(pathlib.Path(name), DeployedModel.load(given.model), asked)
            for margin in given.margin or (0.02, 0.01):
                found = stratified(begin(margin), by_number, given.campaigns, few=few)
                told(f"--margin {margin:g}", found, unbiased=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
