"""What weights to start from can do before they are trained, and whether another normalisation suits them better."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from resq_deploy.data.preprocessing import IMAGENET
from resq_deploy.hardening.checkpoint import Checkpoint, load_weights
from resq_deploy.hardening.evaluate import correct, share
from resq_deploy.hardening.given_weights import Normalisation
from resq_deploy.hardening.options import GIVEN
from resq_deploy.hardening.perturb import evaluation_mode
from resq_deploy.hardening.workbench import Workbench

_MOST_IMAGES = 500
_BETTER = 0.02
_NEAR_CHANCE = 2.0
_SIGMAS = 3.0


def check_start(bench: Workbench, start: Checkpoint, *, new_head: bool) -> tuple[str, ...]:
    """Load weights to start from, and return what is to be said of them: a line each.

    For weights from elsewhere other ways to present the images are tried on the same validation images - torchvision's
    normalisation, none, that of the data set, [-1, 1], channels the other way round - since the usual mistakes show
    there. What would have been better is said, never silently taken.

    Args:
        bench: the surroundings; its network gets the weights.
        start: the weights.
        new_head: whether the head is fresh, so that its answers mean nothing yet.
    """
    load_weights(bench.network, start.state, origin="the weights to start from")
    if new_head:
        return ()
    images = bench.validation.head(_MOST_IMAGES)
    found = share(correct(bench, bench.network, images))
    lines = [f"accuracy before the first epoch: {100 * found:.1f} % of {len(images)} validation images"]
    if start.stage == GIVEN:
        lines += _advice(bench, found, lambda seen: share(correct(bench, seen, images)))
        lines += _seen_before(bench, found, len(images))
    return tuple(lines)


def _advice(bench: Workbench, found: float, measure: Callable[[Any], float]) -> list[str]:
    with evaluation_mode(bench.network):
        tried = {name: measure(network) for name, network in _alternatives(bench)}
    best = max(tried, key=lambda name: tried[name], default=None)
    if best is not None and tried[best] > found + _BETTER:
        return [f"warning: {100 * tried[best]:.1f} % with {best}: these weights seem to have been trained so"]
    if found < _NEAR_CHANCE / bench.classes:
        return [
            "warning: that is near chance, and no usual normalisation mends it: look at the order of the classes "
            f"({', '.join(bench.dataset.classes[:3])}, ...) and at what the network was trained on"
        ]
    return []


def _seen_before(bench: Workbench, found: float, count: int) -> list[str]:
    """Return a warning where validation images are answered better than test images, as those trained on are."""
    test = bench.test.head(_MOST_IMAGES)
    unseen = share(correct(bench, bench.network, test))
    spread = math.sqrt(found * (1 - found) / count + unseen * (1 - unseen) / len(test))
    if found - unseen <= max(_BETTER, _SIGMAS * spread):
        return []
    return [
        f"warning: {100 * unseen:.1f} % of {len(test)} test images: these weights seem to have been trained on the "
        "validation images, which choose epochs; hold others out as val/, or give --keep last"
    ]


def _alternatives(bench: Workbench) -> list[tuple[str, Callable[[Tensor], Tensor]]]:
    """Return other ways to present images [N, C, H, W] in [0, 1] to the network's body, with what they are called."""
    mean, std = bench.network.normalise.mean.clone(), bench.network.normalise.std.clone()
    channels = len(bench.mean)
    own = bench.dataset.mean_std()
    normalisations: dict[str, Normalisation] = {
        f"--mean {_listed(own[0])} --std {_listed(own[1])} (the data set's own)": own,
        "--preprocess none (the network normalises by itself)": ((0.0,) * channels, (1.0,) * channels),
        "--mean 0.5 --std 0.5 (pixels in [-1, 1])": ((0.5,) * channels, (0.5,) * channels),
    }
    if channels == len(IMAGENET[0]):
        normalisations["--preprocess imagenet"] = IMAGENET

    def presented(values: Normalisation) -> Callable[[Tensor], Tensor]:
        new_mean, new_std = (mean.new_tensor(each).view_as(mean) for each in values)
        return lambda images: bench.network((images - new_mean) / new_std * std + mean)

    ways = [
        (name, presented(values))
        for name, values in normalisations.items()
        if not _alike(values, (bench.mean, bench.std))
    ]
    if channels > 1:
        other = "rgb" if bench.dataset.channels == "bgr" else "bgr"
        ways.append(
            (f"--channels {other} (channels the other way round)", lambda images: bench.network(images.flip(1)))
        )
    return ways


def _alike(one: Normalisation, other: Normalisation) -> bool:
    pairs = zip((value for part in one for value in part), (value for part in other for value in part), strict=True)
    return all(abs(a - b) < 1e-6 for a, b in pairs)


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:.4g}" for value in values)
