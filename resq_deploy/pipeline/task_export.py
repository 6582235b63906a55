"""From a float ONNX file of any task through its gates to the int8 file: detectors, segmentation, sequences."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray

from resq_deploy.data.dataset import Dataset
from resq_deploy.data.preprocessing import AS_IS, Preprocessing, Wish
from resq_deploy.data.samples import Parts, Samples
from resq_deploy.data.sources import load_parts
from resq_deploy.data.splits import permutation
from resq_deploy.deployed.binding import bound
from resq_deploy.deployed.graph import read_model
from resq_deploy.deployed.layout import digests_of
from resq_deploy.deployed.runtime_errors import RUNTIME_ERRORS, first_line
from resq_deploy.deployed.session import Session
from resq_deploy.errors import DataError, ModelError
from resq_deploy.pipeline.gates import GateOptions
from resq_deploy.pipeline.task_gates import run_task_gates
from resq_deploy.quantization.answers import Examiner, Labelled, Task, find_task
from resq_deploy.quantization.fidelity import every_core
from resq_deploy.quantization.float_model import prepare_float_model
from resq_deploy.quantization.opset import DECODER, LOWEST
from resq_deploy.quantization.options import ExportOptions
from resq_deploy.quantization.task_export import TaskData, TaskExport, export_task
from resq_deploy.records import write_atomic, write_json

Report = Callable[[str], None]
Presented = Callable[[Dataset], Wish]
"""How the images of a data set are made ready, as the user says it."""


def _as_is(_: Dataset) -> Wish:
    return Wish()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskWish:
    """What the user says of a task; all of it can be left to be guessed.

    Attributes:
        judge: as `--judge` takes it.
        outputs: names of the outputs that are judged.
        feeds: values of inputs that are the same for all samples.
    """

    judge: str | None = None
    outputs: tuple[str, ...] = ()
    feeds: Mapping[str, NDArray[Any]] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.judge or self.outputs or self.feeds)


def input_names(source: pathlib.Path) -> list[str]:
    """Return the names of what a float ONNX file takes.

    Raises:
        ModelError: if it is none.
    """
    model, _ = read_model(source)
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in stored]


def is_classifier(source: pathlib.Path, dataset: Dataset, preprocessing: Preprocessing = AS_IS) -> bool:
    """Return whether a float ONNX file gives one score for each class of a data set.

    Args:
        source: the file.
        dataset: its images, with their channels in the order that the file takes.
        preprocessing: what else stands between them and the file.

    Raises:
        InputError: if the file cannot be run on its images.
    """
    deployment = dataclasses.replace(every_core(), preprocessing=preprocessing)
    session = Session(prepare_float_model(source).SerializeToString(), deployment)
    if len(session.inputs) != 1:
        return False
    image = session.input
    prepared = image.prepare(dataset.evaluation(2).images)
    try:
        outputs, _ = session.first_answers([prepared], [session.output])
    except RUNTIME_ERRORS as error:
        raise ModelError(f"{source}: {first_line(error)}") from error
    values = outputs[session.output]
    try:
        dataset.check_outputs(values[0].size)
    except DataError:
        return False
    return True


def find_data(
    source: pathlib.Path,
    spec: str,
    data_dir: pathlib.Path | None,
    wish: TaskWish,
    presented: Presented = _as_is,
    split: float | None = None,
) -> tuple[Parts | Dataset, bool]:
    """Return what a float ONNX file is exported on, and whether it goes the way of tasks, or that of classifiers.

    Args:
        source: the float ONNX file.
        spec: of the data, as `--dataset` takes it.
        data_dir: where named data sets lie.
        wish: what the user says of the task.
        presented: what the user says of how images are made ready.
        split: share of each class to test on, of a folder DIR/CLASS/*.

    Raises:
        InputError: if there are no such data, or the file cannot be read.
    """
    data = load_parts(spec, data_dir, input_names(source))
    if isinstance(data, Parts):
        return data, True
    data = data.divided(split)
    asked = wish and wish != TaskWish(judge="top1")
    if asked:
        return data, True
    ready = presented(data).over(AS_IS)
    return data, not is_classifier(source, data.in_channels(ready.channels), ready)


def export_of_task(
    source: pathlib.Path,
    data: Parts | Dataset,
    out: pathlib.Path,
    options: ExportOptions,
    gates: GateOptions,
    wish: TaskWish,
    presented: Presented = _as_is,
    *,
    report: Report = lambda _: None,
) -> dict[str, Any]:
    """Export a float ONNX file of any task.

    Args:
        source: the float ONNX file.
        data: what calibrates and what judges; classes of a data set rate nothing here.
        out: the int8 file to write; the sidecar goes beside it, as `.json`.
        options: how to export.
        gates: what the int8 file may lose.
        wish: what the user says of the task.
        presented: what the user says of how images are made ready; arrays by the names of inputs are fed as they are.
        report: told each step as it begins.

    Returns:
        The sidecar.

    Raises:
        InputError: if source, data or judge do not fit together.
        GateError: if a gate fails and is enforced; nothing is written then.
    """
    report("preparing the float model")
    model = prepare_float_model(source, options.opset, DECODER if options.code else LOWEST)
    if isinstance(data, Dataset):
        ready = presented(data).over(AS_IS)
        data, options = data.in_channels(ready.channels), dataclasses.replace(options, preprocessing=ready)
    parts = Parts.of(data, options.calibration_images, options.seed) if isinstance(data, Dataset) else data
    fed = _fed(model, parts, options, wish)
    task = find_task(model.SerializeToString(), fed.test, wish.judge, wish.outputs)
    report(f"judge {task.judge.name}: {task.reason}")
    export = export_task(model, source, fed, task, options, report=report)
    passed = run_task_gates(export, fed.test, gates, report=report)
    cost = _bit_cost(export, fed.test, task, options, report)
    write_atomic(out, export.int8_file)
    written = {
        "file": out.name,
        "sha256": hashlib.sha256(export.int8_file).hexdigest(),
        "bytes": len(export.int8_file),
    }
    how = options.preprocessing.as_dict()
    sidecar = {
        **export.sidecar,
        "preprocessing": how,
        "model": written,
        "checkpoint": None,
        "gates": passed,
        "bit_cost": cost,
        "digests": digests_of(export.int8_file, out.name),
    }
    write_json(out.with_suffix(".json"), sidecar)
    return sidecar


def _fed(model: onnx.ModelProto, parts: Parts, options: ExportOptions, wish: TaskWish) -> TaskData:
    """Return data as the model takes them: calibration drawn by seed, test samples in their fixed order."""
    deployment = dataclasses.replace(every_core(), preprocessing=options.preprocessing)
    session = Session(model.SerializeToString(), deployment)
    outputs = [output.name for output in session.outputs]

    def of(samples: Samples) -> Labelled:
        given = dataclasses.replace(samples, once=wish.feeds)
        return Labelled(images=bound(given, session.inputs, outputs), labels=given.labels)

    drawn = permutation(len(parts.calibration), options.seed)[: options.calibration_images]
    return TaskData(
        name=parts.test.name,
        calibration=of(parts.calibration.take(drawn)),
        test=of(parts.test.evaluation(options.test_images)),
        digest=parts.test.digest,
        notes=(*parts.test.notes, *parts.notes),
    )


def _bit_cost(
    export: TaskExport, test: Labelled, task: Task, options: ExportOptions, report: Report
) -> dict[str, Any] | None:
    """Return what weights of fewer bits than 8 cost in the task's figure; None where they have 8, or nothing rates."""
    if export.eight_bit_file is None or export.compared.quality is None:
        return None
    report("measuring what weights of fewer bits cost")
    eight = export.eight_bit_file()
    found = Examiner(eight, test, task, arithmetic=options.arithmetic).compare(export.int8_file)
    drop = found.drop
    if drop is None:
        return None
    return {
        "images_from": "test",
        "apart": False,
        "images": len(test),
        "figure": found.figure,
        "drop": drop.as_dict(),
        "points": 100.0 * drop.value,
    }


def listed(names: Sequence[str]) -> tuple[str, ...]:
    """Return what was given several times, or with commas, each once."""
    return tuple(dict.fromkeys(part.strip() for text in names for part in text.split(",") if part.strip()))
