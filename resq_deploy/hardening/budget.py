"""A price for resilience: weights between the starting network and the hardened one, within a budget of clean accuracy.

Fine-tuned weights and those they started from lie in one valley of the loss, so that what lies on the line between
them works too, and trades one end's strengths for the other's (WiSE-FT: Wortsman et al., CVPR 2022, arXiv 2109.01903).
Batch-norm statistics do not mix: those of a network between the ends are measured anew on training images.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from resq_deploy.errors import OptionError
from resq_deploy.faults.statistics import cluster
from resq_deploy.hardening.as_deployed import AsDeployed
from resq_deploy.hardening.checkpoint import Checkpoint, load_weights
from resq_deploy.hardening.evaluate import CONFIDENCE, correct, correct_under_pgd, estimate
from resq_deploy.hardening.events import Notice
from resq_deploy.hardening.norm_statistics import settle
from resq_deploy.hardening.workbench import Images, Workbench
from resq_deploy.records import write_json

FILE = "pareto.json"
STAGE = "budget"
"""The name of the checkpoint, `budget.pt`, beside those of the stages."""

SHARES = tuple(step / 10 for step in range(11))
"""Shares of the hardened weights that are tried; 0 and 1 are the ends as they are."""

_AT_STAKE = {"attack": "robust_accuracy", "fault": "faulty_accuracy"}


def check_budget(budget: float | None, stages: Sequence[str], *, fresh: bool) -> None:
    """Check that a budget can be met.

    Raises:
        OptionError: if no stage is run that costs clean accuracy, or there is no network that it could be lost from.
    """
    if budget is not None and not set(stages) & _AT_STAKE.keys():
        raise OptionError("--clean-budget is about what hardening may cost: run stage attack or fault, or leave it out")
    if budget is not None and fresh and "baseline" not in stages:
        raise OptionError("--clean-budget needs a trained network: give --init or --weights, or run stage baseline")


def meet_budget(bench: Workbench, start: Checkpoint, hardened: Checkpoint) -> Checkpoint:
    """Choose weights on the line from the start to the hardened network, write `pareto.json`, and return them.

    Every choice is made on validation images, on the quantized networks: of the shares whose clean accuracy is within
    the budget of the start's, the one with the most resilience, which is the mean of the accuracies that the stages
    run were for (under PGD-10 for stage 1, at the highest bit error rate for stage 2). The start itself is always
    within; where the figures are equal, the smaller share is taken.

    Args:
        bench: the surroundings; its network is left with the weights chosen.
        start: where the hardening began.
        hardened: where it ended.
    """
    options = bench.options
    budget = options.clean_budget or 0.0
    at_stake = [figure for stage, figure in _AT_STAKE.items() if stage in options.stages]
    points = []
    for share in SHARES:
        bench.report(Notice(message=f"weighing resilience against clean accuracy, {share:.0%} of the hardened weights"))
        load_mix(bench, start, hardened, share)
        points.append({"share": share, **weighed(bench, at_stake, bench.validation)})
    floor = points[0]["clean_accuracy"]["value"] - budget
    chosen = choose(points, at_stake, floor)
    if bench.ranks.leads:
        known = {"schema": 1, "split": "validation", "at_stake": at_stake, "budget": budget, "floor": floor}
        write_json(bench.folder / FILE, {**known, "chosen": points[chosen]["share"], "points": points})
    found = points[chosen]
    load_mix(bench, start, hardened, found["share"])
    values = {name: found[name]["value"] for name in ("clean_accuracy", *at_stake)}
    bench.report(Notice(message=_told(found["share"], values)))
    state = {name: tensor.detach().clone() for name, tensor in bench.network.state_dict().items()}
    return dataclasses.replace(hardened, stage=STAGE, metrics={"share": found["share"], **values}, state=state)


def choose(points: Sequence[Mapping[str, Any]], at_stake: Sequence[str], floor: float) -> int:
    """Return which point has the most resilience of those with at least so much clean accuracy; the first if none."""
    best, place = -math.inf, 0
    for index, point in enumerate(points):
        resilience = math.fsum(point[name]["value"] for name in at_stake) / len(at_stake)
        if point["clean_accuracy"]["value"] >= floor - 1e-12 and resilience > best:
            best, place = resilience, index
    return place


def mixed(start: Mapping[str, Tensor], hardened: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return weights on the line from one network to another; counters are the second's, ends are exact."""
    if share in (0.0, 1.0):
        return dict(hardened if share else start)
    return {
        name: torch.lerp(start[name].float(), tensor.float(), share).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in hardened.items()
    }


def load_mix(bench: Workbench, start: Checkpoint, hardened: Checkpoint, share: float) -> None:
    """Give the bench's network weights on the line from one checkpoint to another, batch-norm measured anew between."""
    load_weights(bench.network, mixed(start.state, hardened.state, share), origin="weights between two checkpoints")
    if 0 < share < 1:
        settle(bench)


def weighed(bench: Workbench, at_stake: Sequence[str], images: Images) -> dict[str, Any]:
    """Return clean accuracy of the bench's network, quantized, and what is at stake, as estimates over images.

    Args:
        bench: the surroundings; its options say the radius of the attack and the highest bit error rate.
        at_stake: `robust_accuracy` and `faulty_accuracy`, or one of them.
        images: all of them tell the clean accuracy, the first `validation_images` the others.
    """
    deployed = AsDeployed(bench)
    deployed.learn_ranges()
    stored, held_out = deployed.grid.stored(), images.head(bench.options.validation_images)
    still = deployed.frozen(stored)
    figures = {"clean_accuracy": estimate(correct(bench, still, images))}
    if "robust_accuracy" in at_stake:
        figures["robust_accuracy"] = estimate(correct_under_pgd(bench, still, held_out))
    if "faulty_accuracy" in at_stake:
        right = deployed.right_under_faults(stored, held_out).double().mean(0)
        figures["faulty_accuracy"] = cluster(right.numpy(), math.inf, CONFIDENCE).as_dict()
    return figures


def _told(share: float, values: Mapping[str, float]) -> str:
    names = {"clean_accuracy": "clean", "robust_accuracy": "robust", "faulty_accuracy": "faulty"}
    figures = itertools.chain.from_iterable((names[name], f"{100 * value:.1f} %") for name, value in values.items())
    return f"within the budget: {share:.0%} of the hardened weights, {' '.join(figures)} on validation images"
