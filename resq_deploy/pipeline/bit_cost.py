"""What weights of fewer bits cost: the accuracy of the same export with 8 bits, paired with that of the file."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.data.dataset import Dataset, Split
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session
from resq_deploy.errors import DataError
from resq_deploy.faults.outcomes import top1
from resq_deploy.faults.statistics import matched, share
from resq_deploy.pipeline.gates import judged_images

IMAGES = 2000
"""Most images that both files are judged on."""

_BATCH, _CONFIDENCE = 500, 0.95


def bit_cost(eight: bytes, fewer: bytes, dataset: Dataset, deployment: Deployment) -> dict[str, Any]:
    """Return what weights of fewer bits than 8 cost in accuracy.

    Args:
        eight: the file with weights of 8 bits, serialised.
        fewer: the file with fewer.
        dataset: its validation images judge, or its test images where it has none.
        deployment: how both are run.

    Returns:
        The JSON object of the sidecar: accuracies as fractions, the paired drop with its interval, the same in points.
    """
    split, origin = judged_images(dataset, min(IMAGES, _validation(dataset) or IMAGES))
    before, after = (_right(file, split, deployment) for file in (eight, fewer))
    lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
    images = len(split)
    return {
        **origin,
        "images": images,
        "eight_bits": share(int(before.sum()), images).as_dict(),
        "fewer_bits": share(int(after.sum()), images).as_dict(),
        "drop": matched(lost, gained, images, _CONFIDENCE).as_dict(),
        "points": 100.0 * (lost - gained) / images,
    }


def _validation(dataset: Dataset) -> int:
    """Return how many validation images there are."""
    try:
        return len(dataset.validation)
    except DataError:  # there are no training images at all
        return 0


def _right(file: bytes, split: Split, deployment: Deployment) -> NDArray[np.bool_]:
    """Return which images a file answers right, shape [N]."""
    session = Session(file, deployment)
    parts = [
        top1(session.run(session.input.prepare(split.images[start : start + _BATCH])))
        for start in range(0, len(split), _BATCH)
    ]
    right: NDArray[np.bool_] = np.concatenate(parts) == split.labels
    return right
