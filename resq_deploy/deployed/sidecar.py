"""What the sidecar beside a file says of it: its checkpoint, how its images are made ready, its accuracy."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from resq_deploy.data.dataset import Dataset, agreed
from resq_deploy.data.preprocessing import AS_IS, Channels, Preprocessing, Wish
from resq_deploy.data.samples import Samples
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.plausible import accuracy_warnings
from resq_deploy.errors import OptionError, RunFolderError
from resq_deploy.records import read_json


def sidecar_of(model: pathlib.Path) -> pathlib.Path:
    """Return where the sidecar of a file lies: beside it, as `.json`."""
    return model.with_suffix(".json")


def sidecar(model: DeployedModel) -> Mapping[str, Any]:
    """Return the sidecar of this very file; empty where there is none, or only one of another file."""
    path = sidecar_of(model.path)
    try:
        found: Any = read_json(path) if path.is_file() else None
    except RunFolderError:
        return {}
    try:
        return found if found["model"]["sha256"] == model.digest else {}
    except (KeyError, TypeError):  # an older sidecar, or some other JSON file
        return {}


def source_checkpoint(model: DeployedModel) -> str | None:
    """Return the SHA-256 of the checkpoint a file was exported from; None where no sidecar of this very file says."""
    found = sidecar(model).get("checkpoint")
    return found if isinstance(found, str) else None


def stated_accuracy(model: DeployedModel) -> tuple[str, float, int] | None:
    """Return on which data set, how accurate and on how many images a file is by its sidecar; None if that is silent.

    Where a file was protected it is the accuracy after that.
    """
    held = sidecar(model)
    try:
        figures = held["accuracy"]
        figure = figures["int8"] if "int8" in figures else figures["after"]
        return str(held["dataset"]["name"]), float(figure["value"]), int(figure["n"])
    except (KeyError, TypeError, ValueError):
        return None


def preprocessing_of(model: DeployedModel) -> Preprocessing:
    """Return what stands between pixels and a file by its sidecar; nothing where that is silent."""
    try:
        return Preprocessing.from_dict(sidecar(model)["preprocessing"])
    except (KeyError, TypeError, ValueError, OptionError):
        return AS_IS


def normalisation_wish(model: DeployedModel, preprocessing: Preprocessing) -> Wish:
    """Return how the float network that a file was made of wants its images.

    That is what stands before the file; where nothing does and its sidecar says how the network inside of it
    normalises, it is that.

    Args:
        model: the file.
        preprocessing: what stands before it.
    """
    if preprocessing.normalises:
        scale, mean, std = preprocessing.scale, preprocessing.mean, preprocessing.std
        return Wish(channels=preprocessing.channels, scale=scale, mean=mean, std=std)
    try:
        inside = sidecar(model)["normalises"]
        mean, std = (tuple(map(float, inside[name])) for name in ("mean", "std"))
    except (KeyError, TypeError, ValueError):
        return Wish(channels=preprocessing.channels)
    return Wish(channels=preprocessing.channels, mean=mean, std=std)


class _Deploying(Protocol):
    """Options that say how a file is run."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def deployment(self) -> Deployment: ...


class _Source(Protocol):
    """A data set, or other samples."""

    @property
    def notes(self) -> tuple[str, ...]: ...

    def in_channels(self, channels: Channels | None) -> Any: ...


Options = TypeVar("Options", bound=_Deploying)
Source = TypeVar("Source", bound=_Source)


def made_ready(
    options: Options,
    model: DeployedModel,
    dataset: Source,
    wish: Wish,
    *,
    split: float | None = None,
    calibrates: bool = False,
) -> tuple[Source, Options, tuple[str, ...]]:
    """Return data and options of a campaign with its images made ready as the user or the sidecar says.

    Args:
        options: has the field `deployment`.
        model: the file.
        dataset: as it was found; or other samples, whose images are made ready alone.
        wish: what the user says.
        split: which share of an undivided data set the user says to test on; None for that of the sidecar.
        calibrates: whether the campaign needs images apart from those it judges by.

    Returns:
        Both, and what is to be said of the data and of what was chosen: a line each, once nothing is refused.

    Raises:
        OptionError: if the numbers make no sense together.
    """
    if isinstance(dataset, Samples) and dataset.images is None:  # arrays are fed as they are
        if wish.over(AS_IS) != AS_IS:
            raise OptionError(
                f"{wish.over(AS_IS)}: {dataset.name} gives no images but arrays, fed as they are: leave it out"
            )
        chosen, notes = AS_IS, tuple[str, ...]()
    else:
        chosen, notes = chosen_preprocessing(model, wish)
    found: Any = dataset
    if isinstance(dataset, Dataset):
        found, said = _judged_by(model, dataset, split, calibrates=calibrates)
        notes = (*said, *notes)
    elif split is not None:
        raise OptionError(f"--split {split:g} is for folders of images that are not divided: leave it out")
    lines = (*(f"note: {note}" for note in found.notes), *notes)
    deployment = dataclasses.replace(options.deployment, preprocessing=chosen)
    ready: Source = found.in_channels(chosen.channels)
    return ready, dataclasses.replace(options, deployment=deployment), lines


def _judged_by(
    model: DeployedModel, dataset: Dataset, split: float | None, *, calibrates: bool
) -> tuple[Dataset, tuple[str, ...]]:
    """Return a data set with the test images that a campaign judges by, and what is to be said of them."""
    divided, said = agreed(dataset.divided(split), _split_of(model, dataset), split)
    return (divided if calibrates or _made_on(model, divided) else divided.undivided()), said


def _split_of(model: DeployedModel, dataset: Dataset) -> float | None:
    """Return which share of a data set was the test set when a file was made; None where that is not known."""
    try:
        made_with = sidecar(model)["dataset"]
        return float(made_with["split"]) if made_with["name"] == dataset.name else None
    except (KeyError, TypeError, ValueError):
        return None


def _made_on(model: DeployedModel, dataset: Dataset) -> bool:
    """Return whether a file was calibrated on what this very data set keeps for that."""
    if dataset.undivided() is dataset:
        return False
    try:
        return bool(sidecar(model)["dataset"]["test_sha256"] == dataset.digest("test"))
    except (KeyError, TypeError):
        return False


def accuracy_told(
    model: DeployedModel, dataset: Dataset | Samples, right: int | None, labels: NDArray[np.int64] | None
) -> tuple[str, ...]:
    """Return what is to be said of the accuracy of the fault-free file, a line each: near chance, or far below.

    Nothing of a file whose outputs are no classes, or where it is not known which are right.
    """
    if right is None or labels is None or labels.ndim != 1 or dataset.classes is None:
        return ()
    name, value, count = stated_accuracy(model) or ("", 0.0, 1)
    return accuracy_warnings(right, labels, dataset.classes, value if name == dataset.name else None, count)


def chosen_preprocessing(model: DeployedModel, wish: Wish) -> tuple[Preprocessing, tuple[str, ...]]:
    """Return what is to stand between pixels and a file, and what is to be said of it: a line each.

    What the sidecar says need not be repeated. Where the user says otherwise, that counts, with a warning.

    Raises:
        OptionError: if the two together make no sense.
    """
    known = preprocessing_of(model)
    chosen = wish.over(known)
    if chosen != known and known != AS_IS:
        return chosen, (
            f"warning: the sidecar of {model.path.name} says {known}, and you {chosen}: yours counts, and figures will "
            "not compare",
        )
    if chosen == known != AS_IS:
        return chosen, (f"note: images are made ready as the sidecar of {model.path.name} says: {known}",)
    return chosen, ()
