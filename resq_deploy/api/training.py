"""Hardening: a network trained in up to three stages, in one process or in several that torchrun started."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from resq_deploy.api.extras import need_extra
from resq_deploy.api.given import PathLike, Say, Tell, as_dataset, as_path, check_names, silent, told
from resq_deploy.api.images import Normalisation, Numbers, unit_normalisation
from resq_deploy.api.runs import TrainRun
from resq_deploy.errors import ResqError
from resq_deploy.records import RunFolder, check_free, read_manifest

if TYPE_CHECKING:
    from resq_deploy.data import Dataset
    from resq_deploy.hardening.events import Event, Report
    from resq_deploy.hardening.options import TrainOptions
    from resq_deploy.hardening.start import Source

_EVERY_STAGE = "baseline,attack,fault"


def harden(
    network: str,
    data: "str | os.PathLike[str] | Dataset",
    *,
    out: PathLike,
    data_dir: PathLike | None = None,
    split: float | None = None,
    stem: Literal["cifar", "stride2"] | None = None,
    init: PathLike | None = None,
    weights: PathLike | None = None,
    pretrained: bool = False,
    preprocess: str | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    scale: float | None = None,
    stages: str | None = None,
    resume: bool = False,
    progress: bool | Tell = False,
    say: Say = silent,
    **named: Any,
) -> TrainRun:
    """Train a network in up to three stages: baseline, attack resilience, fault resilience; as the command `train`.

    Started by torchrun, several processes share the work; of these one writes, and its run says so by `leads`.

    Example:
        >>> run = rd.harden("resnet8", "digits", out="run", epochs_baseline=12)
        >>> rd.export_int8(run.path, "digits", "net.int8.onnx")

    Args:
        network: a name, or `module:function` of your own, called with `num_classes=N`.
        data: the images.
        out: run folder to write.
        data_dir: where named data sets lie.
        split: share of each class to test on, of a folder DIR/CLASS/*.
        stem: first layer of torchvision's networks on small images: `cifar` keeps their size, `stride2` halves it.
        init: checkpoint of an earlier run to start from.
        weights: weights of your own to start from: a state_dict or safetensors file.
        pretrained: start from torchvision's ImageNet weights.
        preprocess: `dataset`, `imagenet` or `none`: what images are normalised by; in its place `mean` and `std`.
        mean: what is taken off each channel.
        std: what each channel is divided by.
        scale: what white is before mean and std: 1, or 255.
        stages: such as `baseline,attack,fault`; None for all, and for those after the baseline where weights are given.
        resume: go on with the run in `out`.
        progress: True to show it as the command does, or a function that is told of steps.
        say: told what a user should know, and, where the progress is not shown, how training goes, a line an epoch.
        named: options by name, as `TrainOptions` has them; radii are in units of [0, 1] pixels there.

    Raises:
        InputError: if network, data or options cannot be used.
        MissingExtraError: if torch is not installed.
    """
    from resq_deploy.hardening.start import Source
    from resq_deploy.networks.names import check_name, with_stem

    path = as_path(out)
    with first_tells():
        need_extra("training", "train", "torch", "torchvision")
        network = with_stem(network, stem)
        source = Source(
            init=None if init is None else as_path(init),
            weights=None if weights is None else as_path(weights),
            pretrained=pretrained,
        )
        asked = unit_normalisation(preprocess, mean, std, scale) or ("imagenet" if pretrained else "dataset")
        train_options(network, stages=stages, **named)
        check_name(network)
        check_free(path, resume=resume)
        found = as_dataset(data, data_dir, split)  # before torch, which takes longer to load than a slip to see
    request = _Request(network, found, split, source, asked, stages, named)
    return _train(request, path, resume=resume, progress=progress, say=say)


def train_options(
    network: str, dataset: str = "-", *, stages: str | None = None, normalisation: Any = None, **named: Any
) -> "TrainOptions":
    """Return the options of a training, with the recipe of a data set, checked as a whole.

    Args:
        network: its name.
        dataset: the data set's name.
        stages: such as `baseline,attack,fault`; None for all.
        normalisation: mean and deviation of each channel; None for those of the data set.
        named: other fields of `TrainOptions` by name; None lets the recipe decide.

    Raises:
        OptionError: if there is no such option, or one, or a combination of them, makes no sense.
    """
    from resq_deploy.hardening.options import TrainOptions, with_recipe

    given = tuple(name for stage in (stages or _EVERY_STAGE).split(",") if (name := stage.strip()))
    mean, std = normalisation or (None, None)
    values = {**named, "network": network, "stages": given, "mean": mean, "std": std}
    check_names(TrainOptions, values)
    return with_recipe(dataset, values)


@contextlib.contextmanager
def first_tells(*more: type[Exception]) -> Iterator[None]:
    """Leave it to the first process that torchrun started to tell of an error that all of them meet.

    Args:
        more: errors beside those of this package.
    """
    errors: tuple[type[Exception], ...] = (ResqError, *more)
    try:
        yield
    except errors as error:
        if os.environ.get("RANK", "0") != "0":
            from resq_deploy.hardening.ranks import launched, leave_silently

            if launched():
                leave_silently(int(getattr(error, "exit_status", getattr(error, "exit_code", 1))))
        raise


@dataclasses.dataclass(frozen=True)
class _Request:
    """A training, as the caller asks for it, with its data."""

    network: str
    data: "Dataset"
    split: float | None
    source: "Source"
    normalisation: "Normalisation | str"
    stages: str | None
    named: Mapping[str, Any]


def _train(request: _Request, out: pathlib.Path, *, resume: bool, progress: bool | Tell, say: Say) -> TrainRun:
    from resq_deploy.data import agreed
    from resq_deploy.hardening.events import silent as unheard
    from resq_deploy.hardening.loop import train
    from resq_deploy.hardening.ranks import joined_ranks
    from resq_deploy.hardening.start import channels_of_start, for_channels, read_start, split_of_start

    source, network = request.source, request.network
    named = dict(request.named)
    with joined_ranks() as ranks, contextlib.ExitStack() as stack:
        data, said = agreed(request.data, split_of_start(source, network), request.split)
        named["channels"] = channels_of_start(source, network, named.get("channels"))
        data = data.in_channels(named["channels"])
        normalisation = for_channels(request.normalisation, data)
        seed = named.get("seed") or 0
        start = read_start(source, network, data, normalisation, seed, named["channels"])
        stages = request.stages or start.stages
        options = train_options(network, data.name, stages=stages, normalisation=normalisation, **named)
        report: Report = unheard
        if ranks.leads:
            for note in (*data.notes, *start.notes, *_augmentation(options, data)):
                say(f"note: {note}")
            for line in said:
                say(line)
            sha256 = {"init": start.sha256, "train": data.digest("train"), "test": data.digest("test")}
            stack.enter_context(_run_folder(out, options, sha256, resume=resume, processes=ranks.count))
            report = stack.enter_context(reporting(progress, say))
        result = train(options, data, out, report, init=start.checkpoint, new_head=start.new_head, ranks=ranks)
    manifest = read_manifest(out) if ranks.leads else {}
    return TrainRun(out, manifest, result.summary, leads=ranks.leads)


def _run_folder(
    out: pathlib.Path, options: "TrainOptions", sha256: Mapping[str, str | None], *, resume: bool, processes: int
) -> RunFolder:
    import torch

    return RunFolder.open(
        out,
        command="train",
        options=options.identity(),
        sha256=sha256,
        settings={"device": options.device, "threads": torch.get_num_threads(), "processes": processes},
        resume=resume,
    )


def _augmentation(options: "TrainOptions", data: "Dataset") -> tuple[str, ...]:
    """Return what is to be said about augmentation, where nobody chose it and the images are the user's own."""
    from resq_deploy.data.sources import DATASETS

    if options.augment != "auto" or data.augmentation != "crop" or data.name in DATASETS:
        return ()
    return (
        "training shifts images and does not mirror them: give --augment crop-flip where a mirror image is of the same "
        "class, none where even a shift is too much",
    )


@contextlib.contextmanager
def reporting(progress: bool | Tell, say: Say) -> "Iterator[Report]":
    """Return what takes a training's events: the display, or the caller's functions."""
    if progress is True:
        from resq_deploy.api.training_progress import training_progress

        with training_progress() as shown:
            yield shown
        return
    from resq_deploy.hardening.events import EpochDone, Measuring, StepDone

    with told(progress, "steps") as tell:

        def report(event: "Event") -> None:
            if isinstance(event, StepDone):
                done, total = (event.epoch - 1) * event.steps + event.step, event.epochs * event.steps
                tell(done, total, f"{event.stage}, accuracy {100 * event.accuracy:.1f} %")
            elif isinstance(event, Measuring):
                tell(event.done, event.total, event.what)
            elif isinstance(event, EpochDone):
                say(_epoch(event.record, event.epochs))
            else:
                say(event.message)

        yield report


def _epoch(record: Mapping[str, Any], epochs: int) -> str:
    shown = (("clean_accuracy", "clean"), ("robust_accuracy", "robust"), ("faulty_accuracy", "faulty"))
    figures = ", ".join(f"{label} {100 * record[key]:.1f} %" for key, label in shown if key in record)
    return f"{record['stage']} {record['epoch']}/{epochs}: loss {record['loss']:.3f}, {figures}"
