"""Data sets, by name, folder or file."""

import os
from typing import TYPE_CHECKING

from resq_deploy.api.given import PathLike, as_dataset

if TYPE_CHECKING:
    from resq_deploy.data import Dataset


def dataset(source: "str | os.PathLike[str] | Dataset", data_dir: PathLike | None = None) -> "Dataset":
    """Find a data set; its images are decoded when they are first used.

    Args:
        source: `digits` (ships with scikit-learn), `cifar10`, `cifar100`, `gtsrb`, a folder of images by class, or an
            `.npz`.
        data_dir: where named sets lie, or are downloaded to; None is a folder of the user's cache.

    Returns:
        The set: `.train`, `.validation` and `.test`, each with `.images` and `.labels`, `.classes`, `.notes`.

    Raises:
        DataError: if there is no such set, or what is found of it is unusable.
        MissingExtraError: if it must be downloaded and torchvision is not installed.
    """
    return as_dataset(source, data_dir)
