"""What the parts of an attack campaign share: the file, the images, the run folder, and who is told."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from resq_deploy.data.dataset import Dataset, Split
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.pipeline.attack_options import AttackOptions

Adversarial = Mapping[str, Mapping[str, NDArray[np.uint8]]]
"""8-bit adversarial images [N, H, W, C], in the order of the test images: attack -> epsilon as in `radii` -> images.

Corruptions stand among them, with severities in the place of radii.
"""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a campaign is.

    Attributes:
        stage: what is being run, such as `square`, `checks`, `bit-flip`.
        done: units of it that are done.
        total: units of it there are.
    """

    stage: str
    done: int
    total: int


Report = Callable[[Progress], None]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """What the parts of a campaign share.

    Attributes:
        model: the file under attack.
        dataset: where its images come from.
        test: the images under attack, in the order of all arrays and files of the campaign.
        options: what to do.
        folder: the run folder; a part keeps what it needs to resume in files of its own.
        report: told how far it is.
    """

    model: DeployedModel
    dataset: Dataset
    test: Split
    options: AttackOptions
    folder: pathlib.Path
    report: Report
