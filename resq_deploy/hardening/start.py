"""What `resq-deploy train` starts from: fresh weights, its own checkpoint, the user's weights or ImageNet's."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from resq_deploy.errors import CheckpointError, OptionError

if TYPE_CHECKING:
    from resq_deploy.data import Dataset
    from resq_deploy.data.preprocessing import Channels
    from resq_deploy.hardening.checkpoint import Checkpoint
    from resq_deploy.hardening.given_weights import Normalisation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where the first weights come from, as the options say it; none of the three: fresh ones.

    Attributes:
        init: a checkpoint of `train`.
        weights: a file of the user's.
        pretrained: torchvision's ImageNet weights.
    """

    init: pathlib.Path | None
    weights: pathlib.Path | None
    pretrained: bool

    def __post_init__(self) -> None:
        given = [
            flag
            for flag, value in (("--init", self.init), ("--weights", self.weights), ("--pretrained", self.pretrained))
            if value
        ]
        if len(given) > 1:
            raise OptionError(f"{' and '.join(given)} both say what to start from: give one")
        for path in (self.init, self.weights):
            if path is not None and path.is_dir():
                raise OptionError(f"{path} is a folder: give the file in it, such as {path / 'baseline.pt'}")
        for kind, path in (("checkpoint", self.init), ("weights", self.weights)):
            if path is not None and not path.exists():
                raise CheckpointError(f"cannot read {kind} {path}: No such file or directory")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """What a training starts from.

    Attributes:
        checkpoint: the weights; None: fresh ones.
        new_head: whether its head is a fresh one.
        notes: what is to be said about it, a line each.
        sha256: digest of the file, where there is one.
        stages: what is run where the user does not say.
    """

    checkpoint: "Checkpoint | None"
    new_head: bool
    notes: tuple[str, ...]
    sha256: str | None
    stages: str


def read_start(
    source: Source,
    network: str,
    dataset: "Dataset",
    normalisation: "Normalisation | None",
    seed: int,
    channels: "Channels | None" = None,
) -> Start:
    """Read the weights to start from.

    Raises:
        CheckpointError: if a file cannot be read or does not fit.
        ModelError: if the network cannot be built, or has no ImageNet weights to be had.
    """
    from resq_deploy.hardening.checkpoint import load_checkpoint
    from resq_deploy.hardening.given_weights import check_network, given_start, imagenet_weights, read_weights
    from resq_deploy.records import sha256_file

    everything = "baseline,attack,fault"
    path = source.init or source.weights
    digest = sha256_file(path) if path and path.is_file() else None
    if not (source.weights or source.pretrained):
        checkpoint = load_checkpoint(source.init, network=network) if source.init else None
        if checkpoint is None and ":" in network:
            check_network(network, dataset)
        return Start(checkpoint=checkpoint, new_head=False, notes=(), sha256=digest, stages=everything)
    origin = str(source.weights) if source.weights else f"ImageNet weights of {network}"
    state = read_weights(source.weights) if source.weights else imagenet_weights(network)
    checkpoint, fitted = given_start(
        state, network, dataset, normalisation=normalisation, origin=origin, seed=seed, channels=channels
    )
    notes = [f"{origin}: {note}" for note in fitted.notes]
    if normalisation is None:
        shown = ("[" + ", ".join(f"{value:.3f}" for value in part) + "]" for part in (checkpoint.mean, checkpoint.std))
        mean, std = shown
        notes.append(
            f"images are normalised by the mean {mean} and deviation {std} of {dataset.name}: give --mean and --std, "
            "or --preprocess, if the weights were trained otherwise"
        )
    stages = everything if fitted.new_head else "attack,fault"
    return Start(checkpoint=checkpoint, new_head=fitted.new_head, notes=tuple(notes), sha256=digest, stages=stages)


def channels_of_start(source: Source, network: str, channels: "Channels | None") -> "Channels | None":
    """Return the channels as the network takes them: those of a checkpoint that is gone on with, else those given.

    Raises:
        CheckpointError: if it cannot be read.
        OptionError: if the two contradict each other.
    """
    if source.init is None:
        return channels
    from resq_deploy.hardening.checkpoint import load_checkpoint

    known = load_checkpoint(source.init, network=network).channels
    if channels not in (None, known):
        raise OptionError(
            f"--channels {channels}: {source.init} takes {known or 'its images as they are'}: leave it out"
        )
    return known


def split_of_start(source: Source, network: str) -> float | None:
    """Return which share of its images a checkpoint that is gone on with was tested on; None where that is not known.

    Raises:
        CheckpointError: if it cannot be read.
    """
    if source.init is None:
        return None
    from resq_deploy.hardening.checkpoint import load_checkpoint

    return load_checkpoint(source.init, network=network).split


def for_channels(asked: "Normalisation | str", dataset: "Dataset") -> "Normalisation | None":
    """Return mean and deviation of each channel of a data set's images; None: those of the data set.

    Raises:
        OptionError: if the numbers are not as many as the channels.
    """
    from resq_deploy.data.preprocessing import IMAGENET

    channels = dataset.image_channels
    if asked == "dataset":
        return None
    if asked == "none":
        return (0.0,) * channels, (1.0,) * channels
    mean, std = IMAGENET if isinstance(asked, str) else asked
    mean, std = (part * channels if len(part) == 1 else part for part in (mean, std))
    if not len(mean) == len(std) == channels:
        raise OptionError(
            f"images of {dataset.name} have {channels} channels, the normalisation is for {max(len(mean), len(std))}: "
            "give one number for all, or one a channel"
        )
    return mean, std
