"""Corruptions in an attack campaign: what sensors do to its images; resumable, corruption by corruption.

They are no attack: nobody chooses them to do harm, and no worst case over attacks counts them.
"""

import io
import pathlib
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.attacks.ball import WHITE, Norm
from resq_deploy.attacks.corruptions import CORRUPTIONS, SEVERITIES, corrupted, definitions_for
from resq_deploy.attacks.summary import Figures, corruption_figures
from resq_deploy.attacks.target import Flags, Levels, Target
from resq_deploy.attacks.units import SHARD
from resq_deploy.data.dataset import Dataset, Split
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.errors import DataError, RunFolderError
from resq_deploy.pipeline.attack_options import ON_IMAGES, AttackOptions
from resq_deploy.pipeline.attack_scene import Progress, Report
from resq_deploy.records import write_atomic

FILE = "corruptions.npz"


class Corruptions:
    """The corruptions of a campaign, ready to run.

    Args:
        model: the file under test.
        dataset: where its images come from.
        test: the images.
        options: of the campaign.

    Attributes:
        notes: what is to be said of them, a line each.

    Raises:
        InputError: if the images are none with pixels in [0, 1], or have other than one or three channels.
    """

    def __init__(self, model: DeployedModel, dataset: Dataset, test: Split, options: AttackOptions) -> None:
        session = Session(model.patcher().golden, options.deployment)
        self._target = Target(session)
        self._prepare = session.input.prepare
        self._labels = test.labels
        self._options = options
        self._order = slice(None, None, -1 if dataset.channels == "bgr" else 1)
        self._images = self._in_levels(test.images)
        self._definitions = definitions_for(*self._images.shape[1:3])
        self.notes = (*self._on_size(), *_on_radii(options))

    def _in_levels(self, images: NDArray[Any]) -> Levels:
        """Return images as a sensor gives them: uint8 [N, H, W, C], three channels in the order red, green, blue."""
        pixels = self._target.prepared(images)
        found = self._target.as_dataset(np.rint(pixels * WHITE).astype(np.uint8))
        if found.shape[3] not in (1, 3):
            raise DataError(f"the images have {found.shape[3]} channels: corruptions are defined for 1 or 3")
        return found[..., self._order]

    def _on_size(self) -> tuple[str, ...]:
        found, (height, width) = self._definitions, self._images.shape[1:3]
        if height == width == found.made_for:
            return ()
        return (
            f"severities of corruptions are those of {found.name}, made for {found.made_for}x{found.made_for} images; "
            f"these are {height}x{width}, so that figures do not compare with published ones",
        )

    def run(self, folder: pathlib.Path, report: Report) -> Figures:
        """Judge every image under every corruption and severity; returns `corruptions` of the summary.

        Args:
            folder: the run folder; `corruptions.npz` in it keeps which images are answered right, shape
                [severities, N] each, and a campaign goes on with what is missing there.
            report: told after every severity.

        Raises:
            RunFolderError: if that file is broken.
        """
        path = folder / FILE
        right, steps = self._read(path), len(CORRUPTIONS) * len(SEVERITIES)
        for number, name in enumerate(CORRUPTIONS):
            if name in right:
                continue
            rows = []
            for severity in SEVERITIES:
                report(Progress("corruptions", number * len(SEVERITIES) + severity - 1, steps))
                rows.append(self._right(name, severity))
            right[name] = np.stack(rows)
            write_atomic(path, _packed(right))
        report(Progress("corruptions", steps, steps))
        return {
            "definitions": self._definitions.name,
            "image_size": list(self._images.shape[1:3]),
            "images": len(self._labels),
            **corruption_figures({name: right[name] for name in CORRUPTIONS}),
        }

    def mixed(self) -> dict[str, Levels]:
        """Return the images at each severity, each under one corruption, in turn: as a data set has them."""
        return {str(severity): self._mixed(severity)[..., self._order] for severity in SEVERITIES}

    def _mixed(self, severity: int) -> Levels:
        made = np.empty_like(self._images)
        for number in range(len(made)):
            name = CORRUPTIONS[number % len(CORRUPTIONS)]
            made[number] = self._corrupted(name, severity, number, number + 1)[0]
        return made

    def _right(self, name: str, severity: int) -> Flags:
        """Return which images are answered right under a corruption, shape [N]."""

        def judge(begin: int) -> Flags:
            end = min(begin + SHARD, len(self._images))
            made = self._corrupted(name, severity, begin, end)[..., self._order]
            return self._target.answers_right(self._prepare(made), self._labels[begin:end])

        with ThreadPoolExecutor(self._options.worker_count) as pool:
            return np.concatenate(list(pool.map(judge, range(0, len(self._images), SHARD))))

    def _corrupted(self, name: str, severity: int, begin: int, end: int) -> Levels:
        return corrupted(
            self._images[begin:end],
            name,
            severity,
            definitions=self._definitions,
            seed=self._options.seed,
            first=begin,
        )

    def _read(self, path: pathlib.Path) -> dict[str, Flags]:
        """Return what a campaign has found so far."""
        if not path.exists():
            return {}
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
                found = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise RunFolderError(f"{path} is broken ({error}): delete it, and --resume makes it again") from error
        shape = (len(SEVERITIES), len(self._labels))
        if any(flags.shape != shape or flags.dtype != np.bool_ for flags in found.values()):
            raise RunFolderError(f"{path} is not of these images: delete it, and --resume makes it again")
        return found


def _packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]  # names are no parameters of it
    return stream.getvalue()


def _on_radii(options: AttackOptions) -> tuple[str, ...]:
    """Say that a radius means nothing here, where one was given and no attack takes it."""
    given = [name for name, told in (("--epsilon", options.epsilon), ("--norm", options.norm is not Norm.LINF)) if told]
    if not given or set(options.chosen) & set(ON_IMAGES):
        return ()
    return (f"{' and '.join(given)}: corruptions have severities from 1 to 5 and no radius: it changes nothing",)
