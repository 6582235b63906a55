"""From what attacks did to the figures of `summary.json`."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.attacks.checks import CONFIDENCE, Check, worst_case
from resq_deploy.attacks.units import Attacked
from resq_deploy.faults.statistics import cluster, share

Results = Mapping[str, Mapping[str, Attacked]]
"""What each attack did: attack -> epsilon -> result, all on the same images."""

Figures = dict[str, Any]

_MASKING = (("chance",), ("falls_with_epsilon",), ("black_box", "transfer"))
"""The checks that look for masked gradients: of each group one must have passed."""


def robust_figures(results: Results) -> Figures:
    """Return robust accuracy by attack and epsilon, and that of each image's worst case; as left, and at 8 bits."""
    figures: Figures = {}
    for suffix in ("", "_8bit"):
        flags = {
            attack: {epsilon: getattr(found, f"robust{suffix}") for epsilon, found in radii.items()}
            for attack, radii in results.items()
        }
        figures[f"robust{suffix}"] = {
            attack: {epsilon: _share(robust) for epsilon, robust in radii.items()} for attack, radii in flags.items()
        }
        epsilons = list(next(iter(flags.values()), {}))
        figures[f"worst_case{suffix}"] = {
            epsilon: _share(worst_case([radii[epsilon] for radii in flags.values()])) for epsilon in epsilons
        }
    return figures


def query_figures(results: Results) -> Figures:
    """Return what the attacks that ask the deployed file itself have sent: attack -> epsilon -> figures."""
    return {
        attack: {
            epsilon: {
                "mean": float(found.queries.mean()),
                "largest": int(found.queries.max()),
                "total": int(found.queries.sum()),
            }
            for epsilon, found in radii.items()
        }
        for attack, radii in results.items()
        if any(found.queries.any() for found in radii.values())
    }


def corruption_figures(right: Mapping[str, NDArray[np.bool_]]) -> Figures:
    """Return accuracy by corruption and severity, the mean over corruptions at each severity, and that over all.

    A mean counts for each image the share of corruptions under which it is answered right, so that its interval is over
    images, however alike the corruptions of one image are.

    Args:
        right: which images are answered right, by corruption: shape [severities, N], the mildest severity first.
    """
    held = np.stack(list(right.values()))
    return {
        "accuracy": {
            name: {str(number): _share(flags) for number, flags in enumerate(rows, 1)} for name, rows in right.items()
        },
        "by_severity": {
            str(number): cluster(held[:, number - 1].mean(axis=0), math.inf, CONFIDENCE).as_dict()
            for number in range(1, held.shape[1] + 1)
        },
        "mean": cluster(held.mean(axis=(0, 1)), math.inf, CONFIDENCE).as_dict(),
    }


def verdict(checks: Mapping[str, Check], white_box: bool) -> Figures:
    """Return what the checks say of the figures as a whole.

    `trustworthy` is False where a check failed; True where none did and those that look for masked gradients were run
    and passed; else None, as nobody has looked. `trustworthy_missing` names the ones that were not. Without an attack
    that has the gradients of the file itself robust accuracy is no more than an upper bound, and `upper_bound` says so.
    """
    failed = any(check.passed is False for check in checks.values())
    passed = {name for name, check in checks.items() if check.passed}
    missing = [" or ".join(names) for names in _MASKING if passed.isdisjoint(names)]
    return {
        "checks": {name: check.as_dict() for name, check in checks.items()},
        "trustworthy": False if failed else None if missing else True,
        "trustworthy_missing": missing,
        "upper_bound": not white_box or failed,
    }


def _share(flags: NDArray[np.bool_]) -> Figures:
    return dict(share(int(flags.sum()), len(flags), CONFIDENCE).as_dict())
