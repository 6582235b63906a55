"""What functions of the API take: paths as text or `Path`, data sets by name, options as dataclasses or by name."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from resq_deploy.errors import OptionError

if TYPE_CHECKING:
    from resq_deploy.api.model import Model
    from resq_deploy.data import Dataset
    from resq_deploy.data.preprocessing import Asked, Preprocessing
    from resq_deploy.deployed.model import DeployedModel

PathLike = str | os.PathLike[str]
"""A path, as text or as a `pathlib.Path`."""

DataLike = "str | os.PathLike[str] | Dataset"
"""A data set: its name, a folder of images, an `.npz`, or one that `rd.dataset` has found."""

Say = Callable[[str], None]
"""Told, in a line, what a user should know: notes on the data, what is waited for, the step that begins."""

Tell = Callable[[float, float | None, str], None]
"""Told how far the work is: units done, of how many (None where that is not known), and what they are now."""

Options = TypeVar("Options")


def silent(_: str) -> None:
    """Say nothing."""


def as_path(given: PathLike) -> pathlib.Path:
    """Return a path."""
    return pathlib.Path(given)


def as_dataset(
    given: "str | os.PathLike[str] | Dataset", data_dir: PathLike | None = None, split: float | None = None
) -> "Dataset":
    """Return a data set.

    Raises:
        DataError: if there is no such set, or what is found of it is unusable.
    """
    from resq_deploy.data import Dataset, load_dataset

    if isinstance(given, Dataset):
        return given if split is None else given.divided(split)
    return load_dataset(os.fspath(given), None if data_dir is None else as_path(data_dir), split)


def as_deployed(given: "PathLike | Model") -> "DeployedModel":
    """Return an ONNX file, opened.

    Raises:
        ModelError: if the file is not a usable ONNX model.
    """
    from resq_deploy.api.model import Model, load

    return (given if isinstance(given, Model) else load(given)).deployed


def as_options(kind: type[Options], given: Options | None, named: Mapping[str, Any], **least: Any) -> Options:
    """Return options: those given, with what is named in their place.

    Args:
        kind: the dataclass that they are of.
        given: options that hold where nothing else is named; None for the defaults.
        named: fields by name.
        least: fields that the dataclass has no default for.

    Raises:
        OptionError: if there is no such field, or the options make no sense.
    """
    check_names(kind, named)
    if given is None:
        return kind(**{**least, **named})
    return dataclasses.replace(given, **named)  # type: ignore[type-var]  # a dataclass


def as_asked(given: "Preprocessing | Asked | None") -> "Asked":
    """Return how images are to be made ready; nothing said for None, so that sidecars are followed."""
    from resq_deploy.data.preprocessing import Asked, Wish

    if isinstance(given, Asked):
        return given
    return Asked() if given is None else Asked(wish=Wish(**vars(given)))


def check_names(kind: type[Any], named: Mapping[str, Any]) -> None:
    """Check that a dataclass has the fields that are named.

    Raises:
        OptionError: if it has not, with those that it has.
    """
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = next((name for name in named if name not in known), None)
    if unknown is not None:
        raise OptionError(f"no option {unknown!r}; there are {', '.join(known)}")


@contextmanager
def told(progress: bool | Tell, unit: str) -> Iterator[Tell]:
    """Return what is told of progress: nobody, a bar (in a notebook, too), or the caller's function."""
    if callable(progress):
        yield progress
    elif not progress:
        yield lambda *_: None
    else:
        from resq_deploy.progress import progress_bar

        with progress_bar(unit) as bar:
            task = bar.add_task("", total=None)

            def show(done: float, total: float | None, what: str) -> None:
                bar.update(task, completed=done, total=total, description=what)

            yield show
