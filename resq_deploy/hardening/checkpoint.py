"""Checkpoints: a network's weights with all that is needed to build it again, in a file that holds no code."""

import dataclasses
import io
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any, Self

import torch

from resq_deploy.data.preprocessing import CHANNELS, Channels
from resq_deploy.errors import CheckpointError
from resq_deploy.networks.base import Network
from resq_deploy.networks.names import NETWORKS
from resq_deploy.networks.registry import build_network
from resq_deploy.records import write_atomic

SCHEMA = 1
FORMAT = "resq-deploy checkpoint"
_LATER = ("channels", "split")  # which earlier checkpoints lack


class NoCheckpointError(CheckpointError):
    """A file can be read, and holds something else than a checkpoint."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained network as stored on disk.

    Attributes:
        network: the architecture's name, or `module:function` of a user's own.
        classes: class names in the order of the logits.
        mean: mean of each channel, of images in [0, 1]; the network normalises by itself.
        std: standard deviation of each channel.
        image_size: height and width of the images, in pixels.
        dataset: name of the data set it was trained on.
        stage: the stage that made it (`baseline`, `attack` or `fault`).
        lineage: all stages the weights went through, in order.
        epoch: the epoch of that stage, counted from 1.
        metrics: the figures of that epoch.
        state: the network's `state_dict`.
        channels: the order of the channels it takes, or one grey one; None: as the images of its data set have them.
        split: share of its images that were the test set, where these came undivided; else None.
    """

    network: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    dataset: str
    stage: str
    lineage: tuple[str, ...]
    epoch: int
    metrics: Mapping[str, float]
    state: Mapping[str, torch.Tensor]
    channels: Channels | None = None
    split: float | None = None

    def build(self) -> Network:
        """Build the network with the stored weights, on the CPU and in evaluation mode.

        Raises:
            CheckpointError: if the weights do not fit the architecture.
            ModelError: if the architecture cannot be built.
        """
        network = build_network(
            self.network, num_classes=len(self.classes), mean=self.mean, std=self.std, image_size=self.image_size
        )
        load_weights(network, self.state, origin=f"the checkpoint of '{self.network}'")
        return network.eval()

    def save(self, path: pathlib.Path) -> None:
        """Write the checkpoint atomically.

        Raises:
            RunFolderError: if the file cannot be written.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state.items()}
        save_payload(path, {**fields, "metrics": dict(self.metrics), "state": state}, kind=FORMAT)

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Self:
        """Make a checkpoint of what a file held, refusing missing or foreign entries with `KeyError`/`TypeError`."""
        values = {field.name: payload[field.name] for field in dataclasses.fields(cls) if field.name not in _LATER}
        values |= {name: payload.get(name) for name in _LATER}
        for name in ("classes", "mean", "std", "lineage"):
            values[name] = tuple(values[name])
        for name, tensor in values["state"].items():
            if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided:
                raise TypeError("the state holds something other than dense tensors")
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise TypeError(f"'{name}' holds a number that is not finite")
        numbers = (*values["mean"], *values["std"], *([] if values["split"] is None else [values["split"]]))
        if not all(isinstance(value, float) for value in numbers):
            raise TypeError("mean and std are no numbers")
        if values["channels"] not in (None, *CHANNELS):
            raise TypeError(f"it takes channels {values['channels']!r}")
        return cls(**values)


def load_checkpoint(path: pathlib.Path, *, network: str | None = None) -> Checkpoint:
    """Read a checkpoint; no code of the file is ever run (`weights_only`), and none that it merely names.

    A checkpoint may name `module:function`, which building it imports and calls. A file that came from elsewhere must
    not choose what is run here, so that the user has to name the same.

    Args:
        path: the file.
        network: what the user says it is of; None where nothing was said, which does for our own architectures.

    Raises:
        CheckpointError: if the file is missing, corrupt, no checkpoint of this package, or of another version; if it is
            of another network, or of one of the user's own that nobody named.
    """
    payload = load_payload(path, kind=FORMAT)
    try:
        checkpoint = Checkpoint.from_payload(payload)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"checkpoint {path} is broken or incomplete ({error}): train again, or give another file"
        ) from error
    if network is None and checkpoint.network not in NETWORKS:
        raise CheckpointError(
            f"{path} is of the network '{checkpoint.network}', whose code would be imported and run: if you trust "
            f"that code, give --network {checkpoint.network}"
        )
    if network not in (None, checkpoint.network):
        raise CheckpointError(f"{path} is of network {checkpoint.network}: give --network {checkpoint.network}")
    return checkpoint


def load_weights(network: torch.nn.Module, state: Mapping[str, torch.Tensor], *, origin: str) -> None:
    """Load weights into a network, all of them or none.

    Raises:
        CheckpointError: naming the first tensor that is missing, unknown or of another shape.
    """
    own = network.state_dict()
    for name in [*own, *state]:
        if name not in state:
            raise CheckpointError(f"{origin} lacks '{name}': it belongs to another network")
        if name not in own:
            raise CheckpointError(f"{origin} holds '{name}', unknown to this network: it belongs to another network")
        if own[name].shape != state[name].shape:
            raise CheckpointError(
                f"{origin} has shape {list(state[name].shape)} for '{name}', this network wants "
                f"{list(own[name].shape)}: give the checkpoint of the same network and class count"
            )
    network.load_state_dict(dict(state))


def save_payload(path: pathlib.Path, payload: Mapping[str, Any], *, kind: str) -> None:
    """Write tensors and plain values atomically, marked with a format name and the schema version."""
    buffer = io.BytesIO()
    torch.save({"format": kind, "schema": SCHEMA, **payload}, buffer)
    write_atomic(path, buffer.getvalue())


def load_payload(path: pathlib.Path, *, kind: str) -> dict[str, Any]:
    """Read what `save_payload` wrote, onto the CPU.

    Raises:
        CheckpointError: if the file is missing, corrupt, of another format or of another version.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error.strerror or error}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            payload = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    # a file that is none of its own makes torch's readers raise (and warn of) anything at all
    except Exception as error:
        raise CheckpointError(f"{path} is no readable {kind}: the file is corrupt or of another program") from error
    if not isinstance(payload, dict) or payload.get("format") != kind:
        raise NoCheckpointError(f"{path} is no {kind}: give a file that resq-deploy train wrote")
    if payload.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{path} has schema version {payload.get('schema')!r}, this resq-deploy reads {SCHEMA}: "
            "use the version that wrote it, or train again"
        )
    return payload
