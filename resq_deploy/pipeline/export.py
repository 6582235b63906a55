"""From whatever the user has - checkpoint, train folder, float ONNX file - through the gates to the int8 file."""

import dataclasses
import hashlib
import pathlib
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from resq_deploy.data.dataset import Dataset, agreed
from resq_deploy.data.preprocessing import AS_IS, Preprocessing, Wish
from resq_deploy.deployed.layout import digests_of
from resq_deploy.deployed.plausible import accuracy_warnings
from resq_deploy.errors import DataError
from resq_deploy.hardening.options import GIVEN
from resq_deploy.pipeline.bit_cost import bit_cost
from resq_deploy.pipeline.float_source import FloatSource
from resq_deploy.pipeline.gates import Candidate, GateOptions, every_core, run_gates
from resq_deploy.quantization.export import Export, export_int8
from resq_deploy.quantization.options import ExportOptions
from resq_deploy.records import sha256_file, write_atomic, write_json

if TYPE_CHECKING:
    from resq_deploy.hardening.checkpoint import Checkpoint

Report = Callable[[str], None]


def export_source(
    source: FloatSource,
    dataset: Dataset,
    out: pathlib.Path,
    options: ExportOptions,
    gates: GateOptions,
    *,
    wish: Wish | None = None,
    split: float | None = None,
    report: Report = lambda _: None,
) -> dict[str, Any]:
    """Export a checkpoint, the most hardened checkpoint of a train folder, own weights, or a float ONNX file.

    All but the last need torch.

    Args:
        source: what to export.
        dataset: calibrates with training images, and judges with test images.
        out: the int8 file to write; the sidecar goes beside it, as `.json`.
        options: how to export.
        gates: what the int8 file may lose.
        wish: how the network wants its images, where that is not known of it.
        split: which share of an undivided data set the user says to test on; None for that of the checkpoint.
        report: told each step as it begins.

    Returns:
        The sidecar.

    Raises:
        InputError: if the source cannot be used or does not fit the data set.
        GateError: if a gate fails and is enforced; nothing is written then.
    """
    wish = wish or Wish()
    if not source.needs_torch:
        preprocessing = wish.over(AS_IS)
        dataset = dataset.in_channels(preprocessing.channels)
        options = dataclasses.replace(options, preprocessing=preprocessing)
        gates = dataclasses.replace(gates, preprocessing=preprocessing)
        export = export_int8(source.path, dataset, options, described=source.path.name, report=report)
        return _finish(export, None, dataset, out, gates, report)
    from resq_deploy.hardening.trace import export_float_onnx

    checkpoint, notes = source.load(dataset, wish)
    dataset, said = agreed(dataset, checkpoint.split, split)
    for line in (*(f"note: {note}" for note in notes), *said):
        report(line)
    if len(checkpoint.classes) != len(dataset.classes):
        raise DataError(
            f"{source.path} knows {len(checkpoint.classes)} classes, data set {dataset.name} has "
            f"{len(dataset.classes)}: give the data set it was trained on"
        )
    dataset = dataset.in_channels(checkpoint.channels)
    options = dataclasses.replace(options, preprocessing=Preprocessing(channels=checkpoint.channels))
    described = f"{checkpoint.network}, stage {checkpoint.stage}, trained on {checkpoint.dataset}"
    if checkpoint.stage == GIVEN:
        described = f"{checkpoint.network}, weights {source.path.name}"
    with tempfile.TemporaryDirectory(prefix="resq-deploy-") as folder:
        traced = pathlib.Path(folder) / "float.onnx"
        report("exporting the float model")
        export_float_onnx(checkpoint, traced)
        export = export_int8(traced, dataset, options, described=described, report=report)
    return _finish(export, (checkpoint, sha256_file(source.path)), dataset, out, gates, report)


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
    labels = dataset.evaluation(len(export.float_right)).labels
    for line in accuracy_warnings(int(export.float_right.sum()), labels, dataset.classes):
        report(line)
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
        cost = bit_cost(export.eight_bit_file(), export.int8_file, dataset, every_core(gates))
    write_atomic(out, export.int8_file)
    model = {
        "file": out.name,
        "sha256": hashlib.sha256(export.int8_file).hexdigest(),
        "bytes": len(export.int8_file),
    }
    digest = made_from[1] if made_from else None
    inside = {"mean": list(made_from[0].mean), "std": list(made_from[0].std)} if made_from else None
    sidecar = {
        **export.sidecar,
        "normalises": inside,
        "model": model,
        "checkpoint": digest,
        "gates": passed,
        "bit_cost": cost,
        "digests": digests_of(export.int8_file, out.name),
    }
    write_json(out.with_suffix(".json"), sidecar)
    return sidecar
