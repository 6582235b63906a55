"""Are the figures of an attack campaign worth anything? Signs of attacks that failed, looked for in what they did.

The list is that of Carlini et al., "On Evaluating Adversarial Robustness" (2019), and of the warnings of AutoAttack
(Croce and Hein, ICML 2020), as far as a machine can tell. A network is not robust because an attack could not find its
way: weak gradients leave traces, such as an attack without gradients that does better. Everything here is a pure
function of answers, image by image. A check fails only where the data leave no doubt: where the 95 % interval of a
paired difference lies beyond what is allowed.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults.statistics import Estimate, matched, mcnemar, share

Flags = NDArray[np.bool_]
Curve = Mapping[str, Flags]
"""Which images are still answered right under an attack, shape [N], by epsilon, ascending."""

CONFIDENCE = 0.95
LEAST_AGREEMENT = 0.999
"""Share of the clean images on which a twin must answer as its file does."""
LITTLE = 0.01
"""Share of the images that twice as many steps may fool beyond those already fooled."""
MOST_MASKED = 0.01
"""Share of the images that may have an input gradient of 0."""
_TOLERANCE = 1e-6  # of a distance in [0, 1] pixels, which are float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One validity check.

    Attributes:
        passed: None where it could not be run.
        figures: what it was judged by.
        reason: why it failed or was not run; where it passed empty, or what came of it.
    """

    passed: bool | None
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the check as the JSON object of the file formats."""
        return dataclasses.asdict(self)


def not_run(reason: str) -> Check:
    """Return a check that could not be run."""
    return Check(passed=None, reason=reason)


def twin_agrees(agreement: Estimate, max_logit_difference: float, cause: str = "") -> Check:
    """Check that the network whose gradients are used answers clean images as the deployed file does.

    Args:
        agreement: share of the images that both answer alike.
        max_logit_difference: the largest difference of a logit.
        cause: what is known to set the two apart on this machine; empty for nothing.
    """
    passed = agreement.high >= LEAST_AGREEMENT
    found, needed = 100 * agreement.value, 100 * LEAST_AGREEMENT
    return Check(
        passed=passed,
        figures={"top1_agreement": agreement.as_dict(), "max_logit_difference": max_logit_difference},
        reason=""
        if passed
        else f"the twin answers {found:.2f} % of the clean images as the file does, not {needed:.1f} %{cause}",
    )


def gradients_present(zero: Flags) -> Check:
    """Check that there are gradients to follow.

    Args:
        zero: of each image that is answered right, whether its input gradient is 0 or not finite, shape [N].
    """
    if not len(zero):
        return not_run("no image is answered right")
    masked = share(int(zero.sum()), len(zero), CONFIDENCE)
    return Check(
        passed=masked.low <= MOST_MASKED,
        figures={"zero": masked.as_dict()},
        reason=""
        if masked.low <= MOST_MASKED
        else f"{100 * masked.value:.1f} % of the images have an input gradient of 0: gradients are masked",
    )


def within_ball(farthest: Mapping[str, Mapping[str, float]], valid: bool, radii: Mapping[str, float]) -> Check:
    """Check that every adversarial image lies in its ball and in [0, 1].

    Args:
        farthest: largest distance of an image, in [0, 1] pixels: attack -> epsilon -> distance.
        valid: whether all pixels lie in [0, 1].
        radii: radius in [0, 1] pixels by epsilon.
    """
    outside = [
        f"{attack} at {epsilon}"
        for attack, found in farthest.items()
        for epsilon, size in found.items()
        if not size <= radii[epsilon] + _TOLERANCE
    ]
    reason = f"images lie outside the ball: {', '.join(outside)}" if outside else ""
    if not valid:
        reason = "; ".join(filter(None, (reason, "pixels lie outside [0, 1]")))
    return Check(
        passed=not reason,
        figures={"farthest": {attack: dict(found) for attack, found in farthest.items()}, "radii": dict(radii)},
        reason=reason,
    )


def not_stronger(strong: Curve, weak: Mapping[str, Curve]) -> Check:
    """Check that attacks which ought to be weaker fool no more images than one that ought to be strong.

    Args:
        strong: under the attack that ought to be strong.
        weak: under the others, by attack, on the same images and at the same radii.
    """
    figures = {attack: _compared(curve, strong) for attack, curve in weak.items()}
    beaten = [
        f"{attack} at {epsilon} (by {100 * found['difference']['value']:.1f} points)"
        for attack, curve in figures.items()
        for epsilon, found in curve.items()
        if found["difference"]["low"] > 0.0
    ]
    return Check(passed=not beaten, figures=figures, reason=f"stronger: {', '.join(beaten)}" if beaten else "")


def unmasked(masked: Curve, straight: Curve) -> Check:
    """Tell whether gradients that pass through saturated roundings fool more than those that end there.

    It never fails: where they do, that attack is run on all images and takes the other's place.

    Args:
        masked: under the attack whose gradients are 0 where a code saturates.
        straight: under the same attack with gradients that pass on, on the same images.
    """
    figures = _compared(straight, masked)
    gained = [
        f"{100 * found['difference']['value']:.1f} points at {epsilon}"
        for epsilon, found in figures.items()
        if found["difference"]["low"] > 0.0
    ]
    told = f"they fool more, {', '.join(gained)}: that attack was run on all images, and counts" if gained else ""
    return Check(passed=True, figures=figures, reason=told)


def converged(once: Curve, twice: Curve) -> Check:
    """Check that twice as many steps change little.

    Args:
        once: under the attack.
        twice: under the same with twice as many steps, on the same images.
    """
    figures = _compared(twice, once)
    gained = [
        f"{100 * found['difference']['value']:.1f} points at {epsilon}"
        for epsilon, found in figures.items()
        if found["difference"]["low"] > LITTLE
    ]
    reason = f"twice as many steps fool more, {', '.join(gained)}: give more --steps" if gained else ""
    return Check(passed=not gained, figures=figures, reason=reason)


def falls(curves: Mapping[str, Curve]) -> Check:
    """Check that robust accuracy does not rise with epsilon.

    Args:
        curves: under each attack, at ascending radii.
    """
    figures: dict[str, Any] = {}
    for attack, curve in curves.items():
        pairs = list(zip(curve, list(curve)[1:], strict=False))
        figures[attack] = {
            f"{low} to {high}": _compared({high: curve[low]}, {high: curve[high]})[high] for low, high in pairs
        }
    if not any(figures.values()):
        return not_run("there is one radius only: give more than one --epsilon")
    risen = [
        f"{attack} from {step} (by {100 * found['difference']['value']:.1f} points)"
        for attack, steps in figures.items()
        for step, found in steps.items()
        if found["difference"]["low"] > 0.0
    ]
    return Check(passed=not risen, figures=figures, reason=f"it rises: {', '.join(risen)}" if risen else "")


def reaches_chance(robust: Flags, classes: int) -> Check:
    """Check that robust accuracy at a radius that leaves nothing of an image is that of guessing, or below.

    Args:
        robust: which images are answered right at that radius, shape [N].
        classes: how many classes there are.
    """
    found = share(int(robust.sum()), len(robust), CONFIDENCE)
    passed = found.low <= 1.0 / classes
    return Check(
        passed=passed,
        figures={"accuracy": found.as_dict(), "chance": 1.0 / classes},
        reason=""
        if passed
        else f"{100 * found.value:.1f} % of the images survive a radius at which nothing can be told: "
        "the attack does not find its way",
    )


def _compared(challenger: Curve, reference: Curve) -> dict[str, Any]:
    """Compare two attacks on the same images, radius by radius.

    `difference` is the robust accuracy under the reference less that under the challenger: above 0, the challenger
    fools more.
    """
    figures = {}
    for epsilon, robust in challenger.items():
        other = reference[epsilon]
        alone, beaten = int((other & ~robust).sum()), int((robust & ~other).sum())
        figures[epsilon] = {
            "difference": matched(alone, beaten, len(robust), CONFIDENCE).as_dict(),
            "only_this": alone,
            "only_the_reference": beaten,
            "p": mcnemar(other.astype(np.int64) - robust),
        }
    return figures


def worst_case(robust: Sequence[Flags]) -> Flags:
    """Return which images survive all attacks, shape [N]: the mean of the minimum, not the minimum of the means."""
    survivors: Flags = np.logical_and.reduce(list(robust))
    return survivors
