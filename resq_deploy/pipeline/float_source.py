"""A float network that the user has: a checkpoint of `train`, a train folder, a float ONNX file, or own weights."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from resq_deploy.data.preprocessing import Wish
from resq_deploy.errors import CheckpointError, InputError, OptionError

if TYPE_CHECKING:
    from resq_deploy.data import Dataset
    from resq_deploy.hardening.checkpoint import Checkpoint

STAGES = ("budget", "fault", "attack", "baseline")
"""Checkpoints of a train folder: what keeps to a budget that was named, else the most hardened first."""

_OF_TORCH = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".safetensors")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FloatSource:
    """What the user gives, checked as far as it can be without torch and data.

    Attributes:
        source: a checkpoint, a train folder or a float ONNX file; or, of a network that is named, a file of weights.
        weights: a state_dict or safetensors, in place of it.
        network: what these weights, or a checkpoint of a network of the user's own, are of.

    Raises:
        InputError: if nothing, both or something that is not there was given.
        OptionError: if it is not said what weights are of.
    """

    source: pathlib.Path | None = None
    weights: pathlib.Path | None = None
    network: str | None = None

    def __post_init__(self) -> None:
        if (self.source is None) == (self.weights is None):
            both = "both say what is meant: give one" if self.source else "give one of them"
            raise OptionError(f"SOURCE (checkpoint, train folder or float .onnx) and --weights: {both}")
        if self.weights is not None and self.network is None:
            raise OptionError(f"--weights {self.weights} are tensors by name: say with --network what they are of")
        if not self.given.exists():
            raise InputError(f"no such file or folder: {self.given}")
        if self.source is not None:
            _most_hardened(self.source)
        if self.weights is not None and self.weights.is_dir():
            raise OptionError(f"--weights {self.weights} is a folder: give the file in it")
        if self.network is not None and not self.needs_torch:
            raise OptionError(f"--network {self.network}: {self.source} is no checkpoint, and takes no network's code")

    @property
    def given(self) -> pathlib.Path:
        """The file or folder that was named."""
        found = self.source or self.weights
        if found is None:
            raise ValueError("neither source nor weights")
        return found

    @property
    def needs_torch(self) -> bool:
        """Whether this is anything but a float ONNX file."""
        return needs_torch(self.given) or self.weights is not None

    @property
    def path(self) -> pathlib.Path:
        """The file: of a train folder its most hardened checkpoint.

        Raises:
            CheckpointError: if the folder holds none.
        """
        return _most_hardened(self.given)

    def load(self, dataset: "Dataset", wish: Wish, *, tolerant: bool = False) -> "tuple[Checkpoint, tuple[str, ...]]":
        """Read a checkpoint, or make one of weights; return what is to be said of it, too. Needs torch.

        Args:
            dataset: what the network is for: its classes, and the size of its images.
            wish: how the network of the weights wants its images; without a word as they are, in [0, 1].
            tolerant: whether a wish is for weights alone, and nothing that contradicts a checkpoint.

        Raises:
            CheckpointError: if it cannot be read, is of another network, or has another head than the data set's.
            OptionError: if a checkpoint is to be normalised once more.
        """
        from resq_deploy.hardening.checkpoint import NoCheckpointError, load_checkpoint
        from resq_deploy.hardening.given_weights import given_start, is_checkpoint, read_weights

        path = self.path
        if self.weights is None and (self.network is None or is_checkpoint(path)):
            try:
                checkpoint = load_checkpoint(path, network=self.network)
            except NoCheckpointError as error:
                raise CheckpointError(f"{error}; if it holds weights, say with --network what they are of") from error
            if wish != Wish() and not tolerant:
                raise OptionError(
                    f"{path} is a checkpoint, which knows how its images are made ready: leave --mean, --std, "
                    "--preprocess and --channels out"
                )
            return checkpoint, ()
        assert self.network is not None  # or it has been refused
        if wish.layout is not None:
            raise OptionError("--input-layout is for float ONNX files: networks of torch take [N, C, H, W]")
        seen = dataset.in_channels(wish.channels)
        normalisation = normalisation_of(wish, seen.image_channels)
        checkpoint, fitted = given_start(
            read_weights(path),
            self.network,
            seen,
            normalisation=normalisation,
            origin=str(path),
            channels=wish.channels,
        )
        if fitted.new_head:
            raise CheckpointError(
                f"{path} has no logits for the {len(dataset.classes)} classes of {dataset.name}: give the data set it "
                "was trained on, or train a new head with `resq-deploy train --weights`"
            )
        notes = [f"{path.name}: {note}" for note in fitted.notes]
        if wish.mean is None and wish.scale is None:
            notes.append(
                f"{path.name}: nothing is said of its normalisation, so pixels go in as they are, in [0, 1]: give "
                "--mean and --std, or --preprocess, if it was trained otherwise"
            )
        return checkpoint, tuple(notes)


def _most_hardened(given: pathlib.Path) -> pathlib.Path:
    """Return a file, or of a train folder its most hardened checkpoint.

    Raises:
        CheckpointError: if the folder holds none.
    """
    if not given.is_dir():
        return given
    for stage in STAGES:
        if (given / f"{stage}.pt").is_file():
            return given / f"{stage}.pt"
    names = ", ".join(f"{stage}.pt" for stage in STAGES)
    raise CheckpointError(f"{given} holds none of {names}: give a train folder, a checkpoint or a float .onnx")


def needs_torch(source: pathlib.Path) -> bool:
    """Return whether something is a checkpoint, a folder of some, or weights, by its name."""
    return source.is_dir() or source.suffix in _OF_TORCH


def normalisation_of(wish: Wish, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of each channel, of pixels in [0, 1], that do what a wish asks.

    Raises:
        OptionError: if the numbers are not as many as the channels.
    """
    scale = wish.scale or 1.0
    parts = [part * channels if len(part) == 1 else part for part in (wish.mean or (0.0,), wish.std or (1.0,))]
    if any(len(part) != channels for part in parts):
        raise OptionError(
            f"the images have {channels} channels, the normalisation is for {max(map(len, parts))}: give one number "
            "for all, or one a channel"
        )
    mean, std = (tuple(value / scale for value in part) for part in parts)
    return mean, std
