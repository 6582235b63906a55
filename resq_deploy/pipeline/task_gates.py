"""The gates of an export of any task: what the int8 file may lose, by outputs, by answers and by the task's figure.

`outputs` and `answers` need no labels. `clean` needs them; so does `faults`, which without them goes by answers.
Attacks are on classifiers, and their gates are not run.
"""

import functools
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import GateError, ModelError
from resq_deploy.faults.statistics import cluster, paired_difference
from resq_deploy.pipeline.gates import FIRST_CHIP, Gate, GateOptions, NotRunError, in_turn
from resq_deploy.quantization.activations import faulty_files
from resq_deploy.quantization.answers import Examiner, Labelled
from resq_deploy.quantization.task_export import TaskExport

_CONFIDENCE = 0.95
_ROLES = (Role.WEIGHT, Role.CODE)


def run_task_gates(
    export: TaskExport, test: Labelled, options: GateOptions, *, report: Callable[[str], None] = lambda _: None
) -> list[Gate]:
    """Measure each gate of a file of any task.

    Args:
        export: the file, what it was made of, and its answers on the test samples.
        test: those samples.
        options: bounds and sizes.
        report: told each gate as it begins.

    Returns:
        One JSON object a gate, as `gates.run_gates` has them; figures and bounds in points, of `outputs` in percent.

    Raises:
        GateError: at the first gate that fails, if gates are enforced.
        InputError: if a file or the data cannot be used.
    """

    def on_test(name: str) -> tuple[float, Gate]:
        figure, details = _MEASURES[name](export, test, options)
        return figure, {"images_from": "test", "apart": False, **details}

    measures = {name: functools.partial(on_test, name) for name in _MEASURES}
    gates = in_turn(measures, options, _enforce, report)
    return gates + [{"gate": name, "not_run": "it is for classifiers of images"} for name in ("transfer-pgd", "square")]


def _enforce(gates: Sequence[Gate]) -> None:
    """Check the last of some gates.

    Raises:
        GateError: if it failed.
    """
    last = gates[-1]
    if not last["passed"]:
        name, unit = last["gate"], "PERCENT" if last["gate"] == "outputs" else "POINTS"
        raise GateError(
            f"gate {name!r} failed: {_SAID[name].format(figure=last['figure'])}, the bound is {last['bound']:.2f}; "
            f"raise it with --gate {name}={unit} or export with --no-gate",
            gates,
        )


_SAID = {
    "outputs": "an output of the int8 file is {figure:.2f} % off the float model's (relative L2)",
    "answers": "{figure:.2f} % of the samples get another answer than from the float model",
    "clean": "the int8 file loses {figure:.2f} points",
    "faults": "the int8 file loses {figure:.2f} points under bit errors, against MinMax ranges",
}


def _outputs(export: TaskExport, _test: Labelled, _options: GateOptions) -> tuple[float, Gate]:
    errors = export.compared.relative_error
    if not errors:
        raise NotRunError("no output holds floats")
    worst = max(errors, key=lambda name: errors[name] if np.isfinite(errors[name]) else np.inf)
    figure = 100.0 * errors[worst] if np.isfinite(errors[worst]) else 1e9
    return figure, {"output": worst, "cosine": export.compared.as_dict()["outputs"]}


def _answers(export: TaskExport, _test: Labelled, _options: GateOptions) -> tuple[float, Gate]:
    agreement = export.compared.agreement
    return 100.0 * (1.0 - agreement.value), {"agreement": agreement.as_dict()}


def _clean(export: TaskExport, _test: Labelled, _options: GateOptions) -> tuple[float, Gate]:
    drop = export.compared.drop
    if drop is None:
        raise NotRunError("nothing is labelled for the judge's figure")
    return 100.0 * drop.value, {"quality": export.compared.as_dict()["quality"]}


def _faults(export: TaskExport, test: Labelled, options: GateOptions) -> tuple[float, Gate]:
    """Hold the file against the MinMax export on the same chips, by the task's figure, else by its answers."""
    if export.minmax_file is None:
        raise NotRunError("the file is itself the MinMax export that it would be held against")
    few = test[: min(options.fault_images, len(test))]
    examiner = Examiner(export.float_file, few, export.task, arithmetic=options.arithmetic)
    minmax, int8 = (_by_chip(file, examiner, options) for file in (export.minmax_file(), export.int8_file))
    drops = minmax - int8
    return 100.0 * float(drops.mean()), {
        "ber": options.ber,
        "roles": [str(role) for role in _ROLES],
        "chips": options.chips,
        "images": len(few),
        "figure_of": export.task.judge.figure if export.compared.quality is not None else "answers",
        "minmax": cluster(minmax, np.inf, _CONFIDENCE).as_dict(),
        "int8": cluster(int8, np.inf, _CONFIDENCE).as_dict(),
        "drop": paired_difference(drops, _CONFIDENCE).as_dict(),
    }


def _by_chip(file: bytes, examiner: Examiner, options: GateOptions) -> NDArray[np.float64]:
    """Return the figure of a file on each chip, shape [chips]; 0 where onnxruntime refuses or stops on the faults."""
    with tempfile.TemporaryDirectory(prefix="resq-deploy-") as folder:
        path = pathlib.Path(folder) / "candidate.onnx"
        path.write_bytes(file)
        model = DeployedModel.load(path)
    figures = []
    for faulty in faulty_files(model, options.ber, range(FIRST_CHIP, FIRST_CHIP + options.chips), _ROLES):
        try:
            found = examiner.compare(faulty)
        except (ModelError, ValueError):  # not loaded, not run, or of other sizes
            figures.append(0.0)
            continue
        quality = found.quality
        figures.append(found.agreement.value if quality is None else quality)
    return np.array(figures)


_MEASURES: dict[str, Callable[[TaskExport, Labelled, GateOptions], tuple[float, dict[str, Any]]]] = {
    "outputs": _outputs,
    "answers": _answers,
    "clean": _clean,
    "faults": _faults,
}
