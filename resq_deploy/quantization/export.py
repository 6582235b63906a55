"""The export as a whole: float file in; int8 file and sidecar out, unless a gate fails."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.data.dataset import Dataset, Split
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Deployment, Session
from resq_deploy.errors import GateError, OptionError
from resq_deploy.faults.outcomes import top1
from resq_deploy.faults.statistics import Estimate, share
from resq_deploy.quantization.adjust import write_adjusted
from resq_deploy.quantization.float_model import prepare_float_model
from resq_deploy.quantization.scheme import Scheme
from resq_deploy.records import provenance, sha256_file, write_atomic, write_json

SCHEMA = 1
DEFAULT_GATES = {"clean": 1.0}
"""Largest drop allowed, in points; `clean`: accuracy of the int8 file below that of the float file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions(Scheme):
    """Options of an export: the int8 form, as `Scheme` has it, and how it is measured.

    Attributes:
        calibration_images: how many training images the activation ranges are taken from.
        seed: of their choice.
        test_images: how many test images the accuracies are measured on; None for all.
        gates: largest drop allowed by gate name, in points.
        enforce: whether a failed gate is an error; otherwise it is only recorded.
    """

    calibration_images: int = 500
    seed: int = 0
    test_images: int | None = None
    gates: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(DEFAULT_GATES))
    enforce: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calibration_images < 1:
            raise OptionError(f"--calibration-images {self.calibration_images}: give a whole number from 1 up")
        unknown = sorted(self.gates.keys() - DEFAULT_GATES.keys())
        if unknown:
            raise OptionError(f"--gate: unknown gate {unknown[0]!r}; gates are {', '.join(DEFAULT_GATES)}")


def export_int8(
    source: pathlib.Path,
    dataset: Dataset,
    out: pathlib.Path,
    options: ExportOptions,
    *,
    described: str,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Quantize a float ONNX file and write it with its sidecar, `out` with the suffix `.json`.

    Args:
        source: the float ONNX file.
        dataset: calibrates with training images and measures accuracy on the whole test set.
        out: the int8 file to write.
        options: how to.
        described: what the float file was made from, for the sidecar; no path of the machine.
        report: told each step as it begins.

    Returns:
        The sidecar.

    Raises:
        InputError: if the source or the data cannot be used.
        GateError: if a gate fails and is enforced; nothing is written then.
    """
    report("preparing the float model")
    model = prepare_float_model(source)
    every_core = Deployment(threads=len(os.sched_getaffinity(0)))
    session = Session(model.SerializeToString(), every_core)
    calibration = dataset.calibration(options.calibration_images, options.seed)
    report(f"calibrating on {len(calibration)} images")
    int8, adjustments = write_adjusted(model, calibration.images, session.input, options)
    test = dataset.evaluation(options.test_images)
    report(f"measuring float and int8 accuracy on {len(test)} images")
    float_right = _right(session, dataset, test)
    int8_right = _right(Session(int8, every_core), dataset, test)
    accuracy = {"float": _accuracy(float_right), "int8": _accuracy(int8_right)}
    gates = _gates(accuracy, options)
    write_atomic(out, int8)
    sidecar = {
        "schema": SCHEMA,
        "model": {"file": out.name, "sha256": hashlib.sha256(int8).hexdigest(), "bytes": len(int8)},
        "float_model": {"sha256": sha256_file(source), "bytes": source.stat().st_size},
        "source": described,
        "dataset": {"name": dataset.name, "classes": list(dataset.classes), "test_sha256": dataset.digest("test")},
        "notes": list(dataset.notes),
        "quantization": {**_scheme(options), "calibration_images": len(calibration), "seed": options.seed},
        "adjustments": adjustments,
        "stored_bits": _stored_bits(out),
        "accuracy": {name: estimate.as_dict() for name, estimate in accuracy.items()},
        "agreement": share(int((float_right == int8_right).sum()), len(test)).as_dict(),
        "gates": gates,
        "provenance": provenance(),
    }
    write_json(out.with_suffix(".json"), sidecar)
    return sidecar


def _scheme(options: ExportOptions) -> dict[str, str]:
    return {
        "format": options.format,
        "ranges": options.ranges,
        "granularity": options.granularity,
        "weights": "int8",
        "activations": "uint8",
    }


def _right(session: Session, dataset: Dataset, test: Split) -> NDArray[np.bool_]:
    """Return which test images a session answers right, shape [N]."""
    logits = np.concatenate(
        [session.run(session.input.prepare(test.images[i : i + 1000])) for i in range(0, len(test), 1000)]
    )
    dataset.check_outputs(logits.shape[1])
    right: NDArray[np.bool_] = top1(logits) == test.labels
    return right


def _accuracy(right: NDArray[np.bool_]) -> Estimate:
    return share(int(right.sum()), len(right))


def _gates(accuracy: Mapping[str, Estimate], options: ExportOptions) -> list[dict[str, Any]]:
    """Return each gate with its figure and bound, in points, and whether it passed.

    Raises:
        GateError: if one failed and is enforced.
    """
    drop = 100.0 * (accuracy["float"].value - accuracy["int8"].value)
    bound = options.gates.get("clean", DEFAULT_GATES["clean"])
    if drop > bound and options.enforce:
        raise GateError(
            f"gate 'clean' failed: the int8 file loses {drop:.2f} points, the bound is {bound:.2f}; "
            "raise it with --gate clean=POINTS or export with --no-gate"
        )
    return [{"gate": "clean", "figure": drop, "bound": bound, "passed": drop <= bound, "enforced": options.enforce}]


def _stored_bits(path: pathlib.Path) -> dict[str, int]:
    """Return how many bits the written file stores in each role."""
    totals: dict[str, int] = {}
    for surface in DeployedModel.load(path).surfaces:
        totals[str(surface.role)] = totals.get(str(surface.role), 0) + surface.bits
    return totals
