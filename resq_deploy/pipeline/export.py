"""From whatever the user has - checkpoint, train folder, float ONNX file - to the int8 file."""

import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

from resq_deploy.data.dataset import Dataset
from resq_deploy.errors import CheckpointError, DataError, InputError
from resq_deploy.quantization.export import ExportOptions, export_int8

STAGES = ("fault", "attack", "baseline")
"""Checkpoints of a train folder, the most hardened first."""


def export_source(
    source: pathlib.Path,
    dataset: Dataset,
    out: pathlib.Path,
    options: ExportOptions,
    *,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Export a checkpoint, the most hardened checkpoint of a train folder, or a float ONNX file.

    Only checkpoints need torch.

    Raises:
        InputError: if the source cannot be used or does not fit the data set.
        GateError: if a gate fails.
    """
    if not source.exists():
        raise InputError(f"no such file or folder: {source}")
    if source.is_dir():
        source = _checkpoint_in(source)
    if source.suffix != ".pt":
        return export_int8(source, dataset, out, options, described=source.name, report=report)
    from resq_deploy.hardening.checkpoint import load_checkpoint
    from resq_deploy.hardening.trace import export_float_onnx

    checkpoint = load_checkpoint(source)
    if len(checkpoint.classes) != len(dataset.classes):
        raise DataError(
            f"{source} knows {len(checkpoint.classes)} classes, data set {dataset.name} has {len(dataset.classes)}: "
            "give the data set it was trained on"
        )
    described = f"{checkpoint.network}, stage {checkpoint.stage}, trained on {checkpoint.dataset}"
    with tempfile.TemporaryDirectory(prefix="resq-deploy-") as folder:
        traced = pathlib.Path(folder) / "float.onnx"
        report("exporting the float model")
        export_float_onnx(checkpoint, traced)
        return export_int8(traced, dataset, out, options, described=described, report=report)


def _checkpoint_in(folder: pathlib.Path) -> pathlib.Path:
    for stage in STAGES:
        if (folder / f"{stage}.pt").is_file():
            return folder / f"{stage}.pt"
    names = ", ".join(f"{stage}.pt" for stage in STAGES)
    raise CheckpointError(f"{folder} holds none of {names}: give a train folder, a checkpoint or a float .onnx")
