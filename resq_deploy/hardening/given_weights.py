"""Weights to start from that were trained elsewhere: a file of the user's, or torchvision's of ImageNet."""

import io
import pathlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from resq_deploy.data.preprocessing import Channels
from resq_deploy.errors import CheckpointError, ModelError
from resq_deploy.hardening.checkpoint import FORMAT, Checkpoint
from resq_deploy.hardening.options import GIVEN
from resq_deploy.networks.base import Network
from resq_deploy.networks.fitting import Fitted, fit
from resq_deploy.networks.registry import build_network
from resq_deploy.networks.torchvision_nets import pretrained_weights

if TYPE_CHECKING:
    from resq_deploy.data import Dataset

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, of pixels in [0, 1]."""


def given_start(
    state: Mapping[str, object],
    network: str,
    dataset: "Dataset",
    *,
    normalisation: Normalisation | None,
    origin: str,
    seed: int = 0,
    channels: Channels | None = None,
) -> tuple[Checkpoint, Fitted]:
    """Return weights trained elsewhere as the checkpoint that a training starts from, and what was done to fit them.

    Args:
        state: what `read_weights` or `imagenet_weights` gave.
        network: a built-in network's name, whose stem may be made to fit the images, or `module:function`.
        dataset: the images.
        normalisation: mean and standard deviation that the weights were trained with; None: those of the data set.
        origin: what the weights are called in messages.
        seed: of a fresh head.
        channels: the order of the channels that the network takes, as the images have it already; None: unsaid.

    Raises:
        CheckpointError: if they do not fit the network.
        ModelError: if the network cannot be built.
    """
    adapt = ":" not in network
    plain = ((0.0,) * dataset.image_channels, (1.0,) * dataset.image_channels)
    built = _built(network, dataset, normalisation or plain, seed)
    fitted = fit(state, built.body, built.head, origin=origin, adapt=adapt)
    mean, std = normalisation or dataset.mean_std()  # once the weights fit: it takes all training images
    if normalisation is None:
        built = _built(network, dataset, (mean, std), seed)
        fitted = fit(state, built.body, built.head, origin=origin, adapt=adapt)
    built.body.load_state_dict(fitted.state)
    start = Checkpoint(
        network=network,
        classes=tuple(dataset.classes),
        mean=tuple(mean),
        std=tuple(std),
        image_size=dataset.image_size,
        dataset=dataset.name,
        stage=GIVEN,
        lineage=(),
        epoch=0,
        metrics={},
        state=built.state_dict(),
        channels=channels,
        split=dataset.split,
    )
    return start, fitted


def _built(network: str, dataset: "Dataset", normalisation: Normalisation, seed: int) -> Network:
    """Return a network with fresh weights of a seed, which leaves torch's generator as it was."""
    mean, std = normalisation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(
            network, num_classes=len(dataset.classes), mean=mean, std=std, image_size=dataset.image_size
        )


def check_network(network: str, dataset: "Dataset") -> None:
    """Build a network of the user's own for the images of a data set, before all of these are read.

    Raises:
        ModelError: if it cannot be built, or does not turn such images into logits.
    """
    channels = dataset.image_channels
    _built(network, dataset, ((0.0,) * channels, (1.0,) * channels), 0)


def is_checkpoint(path: pathlib.Path) -> bool:
    """Return whether a file is a checkpoint of `train`; False for one that cannot be read."""
    try:
        read_weights(path)
    except CheckpointError as error:
        return isinstance(error, _CheckpointGivenError)
    return False


class _CheckpointGivenError(CheckpointError):
    """Weights were asked for, and a checkpoint was given."""


def read_weights(path: pathlib.Path) -> dict[str, object]:
    """Read a file of weights: what torch.save wrote of a `state_dict`, or safetensors. No code of it is run.

    Raises:
        CheckpointError: if the file is missing, corrupt, holds code, or is a checkpoint of this package.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read weights {path}: {error.strerror or error}") from error
    if path.suffix == ".safetensors":
        import safetensors.torch

        try:
            return dict(safetensors.torch.load(content))
        except Exception as error:  # its own error type is not exported by every version
            raise CheckpointError(f"{path} is no readable safetensors file: {_line(error)}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            held = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is none of its own makes torch's readers raise anything at all
        raise CheckpointError(
            f"{path} holds no plain weights, and code in such files is never run: save model.state_dict() with "
            "torch.save, or as .safetensors"
        ) from error
    if not isinstance(held, Mapping):
        raise CheckpointError(f"{path} holds a {type(held).__name__}: save model.state_dict()")
    if held.get("format") == FORMAT:
        raise _CheckpointGivenError(f"{path} is a checkpoint of resq-deploy train: give it as --init {path}")
    return dict(held)


def imagenet_weights(network: str) -> dict[str, object]:
    """Return torchvision's ImageNet weights of a built-in network, downloaded and checked against their digest.

    Raises:
        ModelError: if there are none for that network, or they cannot be downloaded.
    """
    weights = pretrained_weights(network)
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except Exception as error:  # of the network, the disk or the digest
        name = weights.url.rsplit("/", 1)[-1]
        folder = pathlib.Path(torch.hub.get_dir()) / "checkpoints"
        raise ModelError(
            f"cannot download {weights.url} ({_line(error)}): fetch it elsewhere into {folder}, or give "
            f"--weights {name}"
        ) from error


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
