"""Making files: a network exported to int8, an int8 file protected."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from resq_deploy.api.extras import need_extra
from resq_deploy.api.given import PathLike, Say, as_asked, as_dataset, as_options, as_path, silent
from resq_deploy.errors import OptionError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from resq_deploy.data import Dataset
    from resq_deploy.data.preprocessing import Asked, Preprocessing
    from resq_deploy.pipeline.float_source import FloatSource
    from resq_deploy.pipeline.gates import GateOptions
    from resq_deploy.pipeline.protect import Judgement, Outcome
    from resq_deploy.pipeline.task_export import TaskWish
    from resq_deploy.protection.any_file import ProtectOptions
    from resq_deploy.quantization.options import ExportOptions


def export_int8(
    source: PathLike | None,
    data: "str | os.PathLike[str] | Dataset",
    out: PathLike,
    options: "ExportOptions | None" = None,
    *,
    gates: "GateOptions | None" = None,
    data_dir: PathLike | None = None,
    split: float | None = None,
    network: str | None = None,
    weights: PathLike | None = None,
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
        gates: what the int8 file may lose; None for the defaults. `rd.gate_options` makes some.
        data_dir: where named data sets lie.
        split: share of each class to test on, of a folder DIR/CLASS/*; None for that of the checkpoint.
        network: what weights, or a checkpoint, are of; one of your own networks must be named, as its code is run.
        weights: in place of `source`: a state_dict or safetensors file of `network`.
        preprocessing: how the network wants its images, where that is not known of it.
        task: of a float ONNX file that may be no classifier, what judges and what is fed; None to guess.
        say: told each step as it begins.
        named: options by name, as `export_options` takes them: `guard="all"`, `weight_bits=7`.

    Returns:
        The sidecar.

    Raises:
        InputError: if the source cannot be used or does not fit the data.
        GateError: if a gate fails and is enforced; nothing is written then.
    """
    from resq_deploy.pipeline.float_source import FloatSource

    target = _onnx(out)
    given = FloatSource(
        source=None if source is None else as_path(source),
        weights=None if weights is None else as_path(weights),
        network=network,
    )
    if given.needs_torch:
        need_extra("exporting a checkpoint", "train", "torch", "onnxscript")
    asked, chosen = as_asked(preprocessing), export_options(options, **named)
    held = gate_options(chosen) if gates is None else gates
    if given.needs_torch and task:
        raise OptionError("--judge, --outputs and --feed are for float ONNX files")
    if given.needs_torch or not isinstance(data, str | os.PathLike):
        from resq_deploy.pipeline.export import export_source

        dataset = as_dataset(data, data_dir, split)
        wish = asked.on(dataset)
        return export_source(given, dataset, target, chosen, held, wish=wish, split=split, report=say)
    return _exported_file(given, os.fspath(data), data_dir, split, target, chosen, held, asked, task, say)


def _exported_file(
    given: "FloatSource",
    spec: str,
    data_dir: PathLike | None,
    split: float | None,
    out: pathlib.Path,
    options: "ExportOptions",
    gates: "GateOptions",
    asked: "Asked",
    task: "TaskWish | None",
    say: Say,
) -> dict[str, Any]:
    """Export a float ONNX file, a classifier or one of another task, as its outputs or the caller say."""
    from resq_deploy.data import Dataset
    from resq_deploy.pipeline.export import export_source
    from resq_deploy.pipeline.task_export import TaskWish, export_of_task, find_data

    wish, folder = task or TaskWish(), None if data_dir is None else as_path(data_dir)
    found, of_task = find_data(given.path, spec, folder, wish, asked.on, split)
    if of_task or not isinstance(found, Dataset):
        return export_of_task(given.path, found, out, options, gates, wish, asked.on, report=say)
    return export_source(given, found, out, options, gates, wish=asked.on(found), report=say)


def export_options(options: "ExportOptions | None" = None, **named: Any) -> "ExportOptions":
    """Return the options of an export, checked as a whole.

    Args:
        options: what holds where nothing else is named; None for the defaults.
        named: fields of `ExportOptions` by name; arithmetic and `activation_percentile` may be text, `keep_float` a
            pattern or several, and `guard_campaign`, the folder of a `faultcamp` run of single flips in this file,
            unguarded, gives `guard_rates`.

    Raises:
        OptionError: if there is no such option, or one, or a combination of them, makes no sense.
    """
    from resq_deploy.deployed.arithmetic import Arithmetic
    from resq_deploy.pipeline.task_export import listed
    from resq_deploy.quantization.options import ExportOptions

    values = _with_rates(named)
    if "arithmetic" in values:
        values["arithmetic"] = Arithmetic(values["arithmetic"])
    if isinstance(percentile := values.get("activation_percentile"), str):
        values["activation_percentile"] = _percentile(percentile)
    if "keep_float" in values:
        patterns = values["keep_float"]
        values["keep_float"] = listed((patterns,) if isinstance(patterns, str) else patterns)
    return as_options(ExportOptions, options, values)


def gate_options(
    options: "ExportOptions", bounds: Mapping[str, float | None] | Sequence[str] = (), *, enforce: bool = True
) -> "GateOptions":
    """Return what an int8 file may lose.

    Example:
        >>> options = rd.export_options(guard="all")
        >>> rd.export_int8(run.path, "digits", "net.onnx", options, gates=rd.gate_options(options, ["clean=2"]))

    Args:
        options: of the export, whose bit error rate, seed and arithmetic gates take on.
        bounds: points by the gate's name, None for a gate that is off; or as text, `clean=2` and `square=off`. Gates
            that are not named have their default bound.
        enforce: whether a gate that fails is an error; otherwise it is only recorded.

    Raises:
        OptionError: if there is no such gate, or a bound is no number.
    """
    from resq_deploy.pipeline.gates import GateOptions

    given = bounds if isinstance(bounds, Mapping) else dict(map(_gate, bounds))
    off = [name for name, bound in given.items() if bound is None]
    return GateOptions(
        bounds={name: bound or 0.0 for name, bound in given.items()},  # of those that are off, only the names count
        gates=tuple(name for name in (*GateOptions.DEFAULTS, *GateOptions.OF_TASKS) if name not in off),
        enforce=enforce,
        ber=options.storage_ber,
        seed=options.seed,
        arithmetic=options.arithmetic,
    )


def task_wish(
    *,
    judge: str | None = None,
    decode: str | None = None,
    outputs: Sequence[str] = (),
    feed: "Mapping[str, ArrayLike] | Sequence[str]" = (),
) -> "TaskWish":
    """Say what a float ONNX file is for; what is not said is guessed from its outputs.

    Args:
        judge: which answers are the same, as `--judge` takes it.
        decode: how a detector's outputs become boxes, as `--decode` takes it.
        outputs: which outputs are judged; empty for all that the judge reads.
        feed: values of inputs that are the same for all samples, by input; or as text, `NAME=VALUE`.

    Raises:
        InputError: if a value cannot be read.
    """
    import numpy as np

    from resq_deploy.data.samples import parse_feeds
    from resq_deploy.faults.judges.registry import check_judge, with_decoder
    from resq_deploy.pipeline.task_export import TaskWish, listed

    feeds = (
        {name: np.asarray(value) for name, value in feed.items()} if isinstance(feed, Mapping) else parse_feeds(feed)
    )
    asked = with_decoder(judge, decode)
    if asked is not None:
        check_judge(asked)
    return TaskWish(judge=asked, outputs=listed(outputs), feeds=feeds)


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


def _percentile(text: str) -> float | Literal["auto"]:
    try:
        return "auto" if text == "auto" else float(text)
    except ValueError as error:
        raise OptionError(f"--activation-percentile {text!r}: give auto, or a number up to 100") from error


def _gate(text: str) -> tuple[str, float | None]:
    """Read a gate with its bound in points; None for `off`."""
    name, _, bound = text.partition("=")
    try:
        return name, None if bound == "off" else float(bound)
    except ValueError as error:
        raise OptionError(f"--gate {text!r}: give NAME=POINTS, such as clean=2, or NAME=off") from error
