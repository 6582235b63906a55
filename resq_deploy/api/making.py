"""Making files: a network hardened, exported to int8, protected."""

import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resq_deploy.api.given import (
    PathLike,
    Say,
    Tell,
    as_asked,
    as_dataset,
    as_options,
    as_path,
    check_names,
    silent,
    told,
)
from resq_deploy.api.runs import TrainRun
from resq_deploy.errors import MissingExtraError, OptionError
from resq_deploy.records import RunFolder, read_manifest

if TYPE_CHECKING:
    from resq_deploy.data import Dataset
    from resq_deploy.data.preprocessing import Asked, Preprocessing
    from resq_deploy.hardening.events import Event
    from resq_deploy.pipeline.gates import GateOptions
    from resq_deploy.pipeline.protect import Judgement, Outcome
    from resq_deploy.pipeline.task_export import TaskWish
    from resq_deploy.protection.any_file import ProtectOptions
    from resq_deploy.quantization.options import ExportOptions


def harden(
    network: str,
    data: "str | os.PathLike[str] | Dataset",
    *,
    out: PathLike,
    data_dir: PathLike | None = None,
    init: PathLike | None = None,
    weights: PathLike | None = None,
    pretrained: bool = False,
    preprocess: str | None = None,
    stages: str | None = None,
    resume: bool = False,
    progress: bool | Tell = False,
    say: Say = silent,
    **named: Any,
) -> TrainRun:
    """Train a network in up to three stages: baseline, attack resilience, fault resilience; as the command `train`.

    Example:
        >>> run = rd.harden("resnet8", "digits", out="run", epochs_baseline=12)
        >>> rd.export_int8(run.path, "digits", "net.int8.onnx")

    Args:
        network: a name, or `module:function` of your own, called with `num_classes=N`.
        data: the images.
        out: run folder to write.
        data_dir: where named data sets lie.
        init: checkpoint of an earlier run to start from.
        weights: weights of your own to start from: a state_dict or safetensors file.
        pretrained: start from torchvision's ImageNet weights.
        preprocess: `dataset`, `imagenet` or `none`: what images are normalised by; mean and std may be named instead,
            as numbers for each channel.
        stages: such as `baseline,attack,fault`; None for all, and for those after the baseline where weights are given.
        resume: go on with the run in `out`.
        progress: True for a bar, or a function that is told of steps.
        say: told, a line an epoch, how training goes, and what a user should know.
        named: options by name, as `TrainOptions` has them; radii are in units of [0, 1] pixels there.

    Raises:
        InputError: if network, data or options cannot be used.
        MissingExtraError: if torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("training", "train") from error
    from resq_deploy.hardening.events import EpochDone, Measuring, StepDone
    from resq_deploy.hardening.loop import train
    from resq_deploy.hardening.options import TrainOptions, with_recipe
    from resq_deploy.hardening.start import Source, channels_of_start, for_channels, read_start

    source = Source(
        init=None if init is None else as_path(init),
        weights=None if weights is None else as_path(weights),
        pretrained=pretrained,
    )
    named["channels"] = channels_of_start(source, network, named.get("channels"))
    dataset = as_dataset(data, data_dir).in_channels(named["channels"])
    asked = _normalisation(named, preprocess, pretrained=pretrained)
    normalisation = for_channels(asked, dataset)
    start = read_start(source, network, dataset, normalisation, named.get("seed", 0), named["channels"])
    mean, std = normalisation or (None, None)
    chosen = (stages or start.stages).split(",")
    values = {**named, "network": network, "stages": tuple(stage.strip() for stage in chosen), "mean": mean, "std": std}
    check_names(TrainOptions, values)
    options = with_recipe(dataset.name, values)
    for note in (*dataset.notes, *start.notes):
        say(f"note: {note}")
    path = as_path(out)
    sha256 = {"init": start.sha256, "train": dataset.digest("train"), "test": dataset.digest("test")}
    settings = {"device": options.device, "threads": torch.get_num_threads(), "processes": 1}
    folder = RunFolder.open(
        path, command="train", options=options.identity(), sha256=sha256, settings=settings, resume=resume
    )
    with told(progress, "steps") as tell, folder:

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

        result = train(options, dataset, path, report, init=start.checkpoint, new_head=start.new_head)
    return TrainRun(path, read_manifest(path), result.summary)


def export_int8(
    source: PathLike,
    data: "str | os.PathLike[str] | Dataset",
    out: PathLike,
    options: "ExportOptions | None" = None,
    *,
    gates: "GateOptions | None" = None,
    data_dir: PathLike | None = None,
    network: str | None = None,
    preprocessing: "Preprocessing | Asked | None" = None,
    task: "TaskWish | None" = None,
    say: Say = silent,
    **named: Any,
) -> dict[str, Any]:
    """Turn a checkpoint, a train folder, own weights or a float ONNX file into a static int8 ONNX file.

    Args:
        source: what to export; of a train folder the most hardened checkpoint; a file of weights with `network`.
        data: calibrates with training images, judges with test images.
        out: the file to write; the sidecar goes beside it, as `.json`.
        options: how to export; `named` options stand in place of theirs.
        gates: what the int8 file may lose; None for the defaults.
        data_dir: where named data sets lie.
        network: what weights, or a checkpoint, are of; one of your own networks must be named, as its code is run.
        preprocessing: how the network wants its images, where that is not known of it.
        task: of a float ONNX file that may be no classifier, what judges and what is fed; None to guess.
        say: told each step as it begins.
        named: options by name, as `ExportOptions` has them: `guard="all"`, `weight_bits=7`.

    Returns:
        The sidecar.

    Raises:
        InputError: if the source cannot be used or does not fit the data.
        GateError: if a gate fails and is enforced; nothing is written then.
    """
    from resq_deploy.pipeline.export import export_source
    from resq_deploy.pipeline.float_source import FloatSource
    from resq_deploy.pipeline.gates import GateOptions
    from resq_deploy.quantization.options import ExportOptions

    chosen = as_options(ExportOptions, options, named)
    given, path = FloatSource(source=as_path(source), network=network), _onnx(out)
    gates = gates or GateOptions(ber=chosen.storage_ber, seed=chosen.seed, arithmetic=chosen.arithmetic)
    wanted = as_asked(preprocessing)
    if not given.needs_torch and isinstance(data, str | os.PathLike):
        from resq_deploy.pipeline.task_export import TaskWish, export_of_task, find_data

        asked, folder = task or TaskWish(), None if data_dir is None else as_path(data_dir)
        found, of_task = find_data(given.path, os.fspath(data), folder, asked, wanted.on)
        if of_task:
            return export_of_task(given.path, found, path, chosen, gates, asked, wanted.on, report=say)
    dataset = as_dataset(data, data_dir)
    return export_source(given, dataset, path, chosen, gates, wish=wanted.on(dataset), report=say)


def protect(
    source: PathLike,
    out: PathLike,
    options: "ProtectOptions | None" = None,
    *,
    data: "str | os.PathLike[str] | Dataset | None" = None,
    data_dir: PathLike | None = None,
    judgement: "Judgement | None" = None,
    preprocessing: "Preprocessing | Asked | None" = None,
    opset: int | None = None,
    say: Say = silent,
    **named: Any,
) -> "Outcome":
    """Make an int8 ONNX file of any origin heal itself: votes for parameters, a code for weights; no training data.

    Args:
        source: the int8 file.
        out: the file to write; the sidecar goes beside it, as `.json`.
        options: what protects what; `named` options stand in place of theirs.
        data: both files are measured on its test images; None where there are no data.
        data_dir: where named data sets lie.
        judgement: what the file may lose on the data; None for the defaults.
        preprocessing: what stands between images and the file; None for what its sidecar says.
        opset: to raise the file to, first; None keeps its own.
        say: told each step as it begins.
        named: options by name, as `ProtectOptions` has them; `guard_campaign`, the folder of a `faultcamp` run of
            single flips in this file, gives `guard_rates`.

    Returns:
        What was done: `.protected`, and `.sidecar` with bytes, accuracies and what is left unprotected.

    Raises:
        InputError: if the file or the data cannot be used.
        GateError: if it loses more accuracy than it may; nothing is written then.
    """
    from resq_deploy.pipeline.protect import Judgement, protect_source
    from resq_deploy.protection.any_file import ProtectOptions

    target, asked = _onnx(out), as_asked(preprocessing)
    if as_path(source).exists() and target.exists() and target.samefile(source):
        raise OptionError(f"--out {target} is MODEL itself: give another name, since what is protected is made of it")
    if asked.of_dataset and data is None:
        raise OptionError("--preprocess dataset takes numbers from training images: give --dataset, too")
    chosen, judgement = as_options(ProtectOptions, options, _with_rates(named)), judgement or Judgement()
    dataset = None if data is None else as_dataset(data, data_dir)
    return protect_source(
        as_path(source),
        target,
        chosen,
        judgement,
        dataset=dataset,
        wish=asked.wish if dataset is None else asked.on(dataset),
        opset=opset,
        report=say,
    )


def _with_rates(named: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with the rates of the campaign that is named, by `guard_campaign`, for `auto` to plan by."""
    values = dict(named)
    campaign = values.pop("guard_campaign", None)
    if campaign is not None:
        from resq_deploy.protection.rates import read_rates

        values["guard_rates"] = read_rates(as_path(campaign))
    return values


def _onnx(out: PathLike) -> pathlib.Path:
    path = as_path(out)
    if path.suffix != ".onnx":
        raise OptionError(f"--out {path}: the file's name must end in .onnx")
    return path


def _normalisation(named: dict[str, Any], preprocess: str | None, *, pretrained: bool) -> Any:
    """Take mean and std out of options; return what images are normalised by, as `for_channels` takes it."""
    mean, std = named.pop("mean", None), named.pop("std", None)
    if (mean is None) != (std is None):
        raise OptionError("mean and std go together: give both, one number for all channels or one a channel")
    if mean is None:
        return preprocess or ("imagenet" if pretrained else "dataset")
    if preprocess is not None:
        raise OptionError("preprocess stands in place of mean and std: give one or the others")
    return tuple(tuple(map(float, part if hasattr(part, "__len__") else (part,))) for part in (mean, std))


def _epoch(record: Mapping[str, Any], epochs: int) -> str:
    shown = (("clean_accuracy", "clean"), ("robust_accuracy", "robust"), ("faulty_accuracy", "faulty"))
    figures = ", ".join(f"{label} {100 * record[key]:.1f} %" for key, label in shown if key in record)
    return f"{record['stage']} {record['epoch']}/{epochs}: loss {record['loss']:.3f}, {figures}"
