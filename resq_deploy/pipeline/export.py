"""From whatever the user has - checkpoint, train folder, float ONNX file - through the gates to the int8 file."""

import hashlib
import pathlib
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from resq_deploy.data.dataset import Dataset
from resq_deploy.errors import CheckpointError, DataError, InputError, OptionError
from resq_deploy.pipeline.bit_cost import bit_cost
from resq_deploy.pipeline.gates import Candidate, GateOptions, run_gates
from resq_deploy.quantization.export import Export, export_int8
from resq_deploy.quantization.options import ExportOptions
from resq_deploy.records import sha256_file, write_atomic, write_json

if TYPE_CHECKING:
    from resq_deploy.hardening.checkpoint import Checkpoint

STAGES = ("budget", "fault", "attack", "baseline")
"""Checkpoints of a train folder: what keeps to a budget that was named, else the most hardened first."""

Report = Callable[[str], None]


def export_source(
    source: pathlib.Path,
    dataset: Dataset,
    out: pathlib.Path,
    options: ExportOptions,
    gates: GateOptions,
    *,
    network: str | None = None,
    report: Report = lambda _: None,
) -> dict[str, Any]:
    """Export a checkpoint, the most hardened checkpoint of a train folder, or a float ONNX file.

    Only checkpoints need torch.

    Args:
        source: what to export.
        dataset: calibrates with training images, and judges with test images.
        out: the int8 file to write; the sidecar goes beside it, as `.json`.
        options: how to export.
        gates: what the int8 file may lose.
        network: what the user says a checkpoint is of; one of the user's own networks must be named, as its code is
            run.
        report: told each step as it begins.

    Returns:
        The sidecar.

    Raises:
        InputError: if the source cannot be used or does not fit the data set.
        GateError: if a gate fails and is enforced; nothing is written then.
    """
    if not source.exists():
        raise InputError(f"no such file or folder: {source}")
    if source.is_dir():
        source = _checkpoint_in(source)
    if source.suffix != ".pt":
        if network is not None:
            raise OptionError(f"--network {network}: {source} is no checkpoint, and takes no network's code")
        export = export_int8(source, dataset, options, described=source.name, report=report)
        return _finish(export, None, dataset, out, gates, report)
    from resq_deploy.hardening.checkpoint import load_checkpoint
    from resq_deploy.hardening.trace import export_float_onnx

    checkpoint = load_checkpoint(source, network=network)
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
        export = export_int8(traced, dataset, options, described=described, report=report)
    return _finish(export, (checkpoint, sha256_file(source)), dataset, out, gates, report)


def _finish(
    export: Export,
    made_from: "tuple[Checkpoint, str] | None",
    dataset: Dataset,
    out: pathlib.Path,
    gates: GateOptions,
    report: Report,
) -> dict[str, Any]:
    """Judge an export and write it with its sidecar; return that.

    Args:
        export: the int8 file.
        made_from: the checkpoint and its SHA-256; None where a float ONNX file was exported.
        dataset: judges.
        out: the file to write.
        gates: what the file may lose.
        report: told each step as it begins.

    Raises:
        GateError: if a gate fails and is enforced; nothing is written then.
    """
    candidate = Candidate(
        int8_file=export.int8_file,
        float_file=export.float_file,
        int8_right=export.int8_right,
        float_right=export.float_right,
        network=made_from[0].build() if made_from else None,
        minmax_file=export.minmax_file,
    )
    passed = run_gates(candidate, dataset, gates, report=report)
    cost = None
    if export.eight_bit_file:
        report("measuring what weights of fewer bits cost")
        cost = bit_cost(export.eight_bit_file(), export.int8_file, dataset, gates.arithmetic)
    write_atomic(out, export.int8_file)
    model = {
        "file": out.name,
        "sha256": hashlib.sha256(export.int8_file).hexdigest(),
        "bytes": len(export.int8_file),
    }
    digest = made_from[1] if made_from else None
    sidecar = {**export.sidecar, "model": model, "checkpoint": digest, "gates": passed, "bit_cost": cost}
    write_json(out.with_suffix(".json"), sidecar)
    return sidecar


def _checkpoint_in(folder: pathlib.Path) -> pathlib.Path:
    for stage in STAGES:
        if (folder / f"{stage}.pt").is_file():
            return folder / f"{stage}.pt"
    names = ", ".join(f"{stage}.pt" for stage in STAGES)
    raise CheckpointError(f"{folder} holds none of {names}: give a train folder, a checkpoint or a float .onnx")
