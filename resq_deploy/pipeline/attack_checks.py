"""The validity checks of an attack campaign: what they need beyond the attacks themselves, and what comes of them."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from resq_deploy.attacks import checks
from resq_deploy.attacks.checks import Check, Curve
from resq_deploy.attacks.store import Store
from resq_deploy.attacks.summary import Results
from resq_deploy.attacks.target import Flags, Target
from resq_deploy.deployed.arithmetic import Arithmetic
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session
from resq_deploy.pipeline.attack_kit import (
    LARGE_RADIUS,
    MORE_STEPS,
    SINGLE_STEP,
    AttackKit,
    large_radius,
    one_thread,
)
from resq_deploy.pipeline.attack_options import SURROGATE, TWIN, UNMASKED

_BATCH = 100
_LARGE = "large"
_ON_THE_TWIN = (
    *("twin_agrees", "gradients_present", "straight_through", "single_step", "more_steps"),
    *("chance", "black_box", "transfer"),
)
_NO_WHITE_BOX = "it takes the gradients of the deployed file: add twin-pgd or twin-apgd"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TwinFigures:
    """What the twin of the deployed file does on clean images.

    Attributes:
        check: whether it answers as the file does.
        zero: of each image that the file answers right, whether the input gradient of the loss that the attacks on the
            twin raise is 0 or not finite.
    """

    check: Check
    zero: Flags


def judge_twin(kit: AttackKit) -> TwinFigures:
    """Compare the twin with the deployed file on all images, before anything is done with its gradients."""
    import torch

    from resq_deploy.twin import agreement, read_twin
    from resq_deploy.twin.whitebox import attack_loss

    session = Session(kit.model, kit.deployment)
    target = Target(session)
    pixels = target.prepared(kit.images)
    right = np.flatnonzero(target.is_right(pixels, kit.labels))
    zero = []
    with one_thread():
        network = read_twin(kit.deployed())
        found = agreement(network, session, session.input.prepare(kit.images))
        for begin in range(0, len(right), _BATCH):
            part = right[begin : begin + _BATCH]
            images = torch.from_numpy(pixels[part]).requires_grad_()
            logits = network(session.input.fed(images))
            loss = attack_loss(logits, torch.from_numpy(kit.labels[part]))
            (gradient,) = torch.autograd.grad(loss.sum(), images)
            size = gradient.abs().flatten(1).amax(1).numpy()
            zero.append(~(np.isfinite(size) & (size > 0)))
    return TwinFigures(
        check=checks.twin_agrees(found.top1_agreement, found.max_logit_difference, _cause(kit.deployment)),
        zero=np.concatenate([np.zeros(0, dtype=bool), *zero]),
    )


def _cause(deployment: Deployment) -> str:
    """Return why a twin, whose sums are exact, cannot answer as the file does here; empty where that is no reason."""
    if deployment.arithmetic == Arithmetic.NATIVE and deployment.saturates:
        return (
            ": this CPU saturates sums of 8-bit products in native arithmetic, and the twin computes them exactly: "
            "give --arithmetic exact, or attack a file with --weight-type uint8"
        )
    return ""


Tell = Callable[[str, int, int], None]


def try_unmasked(
    kit: AttackKit, store: Store, results: Results, radii: Mapping[str, float], workers: int, report: Tell
) -> Check:
    """Run the attack on the twin on the images of `store`, with gradients that pass through saturated roundings.

    Args:
        kit: runs the units.
        store: keeps them; of the images the checks take.
        results: the attacks of the campaign.
        radii: of the campaign.
        workers: processes.
        report: as of `run_probes`.
    """
    name = UNMASKED[kit.white_box]
    straight = _curves(store.attack((name,), radii, kit, workers=workers, report=report))[name]
    count = len(next(iter(straight.values())))
    return checks.unmasked(_head(_curves(results)[kit.white_box], count), straight)


def run_probes(kit: AttackKit, store: Store, radii: Mapping[str, float], workers: int, report: Tell) -> Results:
    """Run what only the checks need, on the images of `store`: one step, more steps, a radius that leaves nothing.

    Args:
        kit: runs the units.
        store: keeps them; of the images the checks take.
        radii: of the campaign.
        workers: processes.
        report: told the probe, and how many units of it are done, of how many.
    """
    largest = {_LARGE: large_radius(kit.norm, kit.images[0].size)}
    probes = dict(store.attack((SINGLE_STEP, MORE_STEPS), radii, kit, workers=workers, report=report))
    return probes | store.attack((LARGE_RADIUS,), largest, kit, workers=workers, report=report)


def run_checks(
    results: Results,
    probes: Results,
    twin: TwinFigures | None,
    straight: Check | None,
    radii: Mapping[str, float],
    classes: int,
) -> dict[str, Check]:
    """Judge a campaign by all checks; those that lack what they need are recorded as not run.

    Args:
        results: the attacks of the campaign.
        probes: of `run_probes`; empty where there was no attack on the twin.
        twin: of `judge_twin`; None likewise.
        straight: of `try_unmasked`; None likewise.
        radii: radius in [0, 1] pixels by epsilon.
        classes: how many classes there are.
    """
    with_gradients = (*TWIN, *UNMASKED.values())
    white = {attack: curve for attack, curve in _curves(results).items() if attack in with_gradients}
    strong = {epsilon: checks.worst_case([curve[epsilon] for curve in white.values()]) for epsilon in radii if white}
    transfer = {attack: curve for attack, curve in _curves(results).items() if attack in SURROGATE}
    black_box = {
        attack: curve for attack, curve in _curves(results).items() if attack not in (*with_gradients, *SURROGATE)
    }
    found = {"within_ball": _within_ball(results, radii), "falls_with_epsilon": checks.falls(_curves(results))}
    if twin is None or straight is None:
        return {name: checks.not_run(_NO_WHITE_BOX) for name in _ON_THE_TWIN} | found
    single, more, large = (_curves(probes)[name] for name in (SINGLE_STEP, MORE_STEPS, LARGE_RADIUS))
    count = len(large[_LARGE])
    iterative = next((white[name] for name in UNMASKED.values() if name in white), next(iter(white.values())))
    return {
        "twin_agrees": twin.check,
        "gradients_present": checks.gradients_present(twin.zero),
        "straight_through": straight,
        "single_step": checks.not_stronger(_head(iterative, count), {SINGLE_STEP: single}),
        "more_steps": checks.converged(_head(iterative, count), more),
        "chance": checks.reaches_chance(large[_LARGE], classes),
        "black_box": checks.not_stronger(strong, black_box)
        if black_box
        else checks.not_run("no black-box attack was asked for: add square"),
        "transfer": checks.not_stronger(strong, transfer)
        if transfer
        else checks.not_run("no transfer attack was asked for: add transfer-pgd, with a --surrogate"),
        **found,
    }


def _within_ball(results: Results, radii: Mapping[str, float]) -> Check:
    farthest = {
        attack: {epsilon: float(found.distance.max()) for epsilon, found in curve.items()}
        for attack, curve in results.items()
    }
    valid = all(found.valid.all() for curve in results.values() for found in curve.values())
    return checks.within_ball(farthest, bool(valid), radii)


def _curves(results: Results) -> dict[str, Curve]:
    return {attack: {epsilon: found.robust for epsilon, found in radii.items()} for attack, radii in results.items()}


def _head(curve: Curve, count: int) -> Curve:
    return {epsilon: robust[:count] for epsilon, robust in curve.items()}
