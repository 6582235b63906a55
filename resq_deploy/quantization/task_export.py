"""Stage 3 for files of any task, from float file to int8 file, still unjudged: detectors, segmentation, sequences."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import onnx

from resq_deploy.deployed.arithmetic import Arithmetic
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.integer_share import integer_share
from resq_deploy.deployed.saturation import saturating_layers
from resq_deploy.errors import ModelError
from resq_deploy.faults.statistics import share
from resq_deploy.quantization.adjust import Adjusted, adjust
from resq_deploy.quantization.answers import Compared, Examiner, Labelled, Task
from resq_deploy.quantization.options import ExportOptions
from resq_deploy.quantization.ranges import STORED_BITS
from resq_deploy.quantization.resemblance import IMAGES, described, layer_ratios, straying
from resq_deploy.quantization.scheme import Scheme
from resq_deploy.quantization.steps import form, guards, minmax, planned, protected, stored_bits, unprotected
from resq_deploy.quantization.tail import float_tail, matching
from resq_deploy.quantization.write import write_dynamic
from resq_deploy.records import provenance, sha256_file

SCHEMA = 4

Report = Callable[[str], None]

LEAST_AGREEMENT = 0.2
"""Share of samples with the float model's answer below which outputs that are far off are those of another network."""

_NO_RANGES: dict[str, Any] = {
    "mode": "minmax",
    "design_ber": None,
    "expected_ber": None,
    "tensors": [],
    "not_adjusted": [],
}
"""What the sidecar says of weight ranges where the quantizer alone chooses them."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TaskData:
    """Data of any task.

    Attributes:
        name: of the data set; never a path.
        calibration: training samples that ranges are taken from.
        test: samples that judge.
        digest: SHA-256 of the test samples.
        notes: what a reader of the figures should know about how they were chosen.
    """

    name: str
    calibration: Labelled
    test: Labelled
    digest: str
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TaskExport:
    """A file that is ready to be judged and written.

    Attributes:
        int8_file: the int8 model, serialised.
        float_file: the float model it was made of, serialised.
        minmax_file: makes the MinMax export of the same weights, as `Export`; None where this is that file.
        eight_bit_file: makes the export with weights of 8 bits, as `Export`; None where they have 8 bits.
        task: what judges.
        compared: its answers on the test samples, beside the float model's.
        sidecar: what is known of the file.
    """

    int8_file: bytes
    float_file: bytes
    minmax_file: Callable[[], bytes] | None
    eight_bit_file: Callable[[], bytes] | None
    task: Task
    compared: Compared
    sidecar: dict[str, Any]


def export_task(
    model: onnx.ModelProto,
    source: pathlib.Path,
    data: TaskData,
    task: Task,
    options: ExportOptions,
    *,
    report: Report = lambda _: None,
) -> TaskExport:
    """Quantize a prepared float model of any task and measure what came of it.

    What comes after the last layers stays in float, and whatever the options keep there.

    Args:
        model: from `prepare_float_model`.
        source: the file it was read from.
        data: calibrates and judges.
        task: the judge and what it reads.
        options: how to.
        report: told each step as it begins.

    Raises:
        InputError: if the model or the data cannot be used.
    """
    in_float = dict.fromkeys((*float_tail(model), *matching(model, options.keep_float)))
    options = dataclasses.replace(options, float_nodes=tuple(in_float))
    float_file = model.SerializeToString()
    quantize = functools.partial(_quantized, model, float_file, data.calibration, task, report=report)
    made, plan, options = planned(quantize, options)
    report("comparing the int8 file with the float model, layer by layer")
    compared = _resemblance(float_file, made, data.calibration[:IMAGES], task)
    int8_file = protected(made.int8, plan, options, report)
    report(f"measuring the float and the int8 file on {len(data.test)} samples")
    found = Examiner(float_file, data.test, task, arithmetic=options.arithmetic).compare(int8_file)
    return TaskExport(
        int8_file=int8_file,
        float_file=float_file,
        minmax_file=_plain(model, data.calibration, options),
        eight_bit_file=None if options.bits == STORED_BITS else lambda: quantize(unprotected(options)).int8,
        task=task,
        compared=found,
        sidecar={
            "schema": SCHEMA,
            "float_model": {"sha256": sha256_file(source), "bytes": source.stat().st_size},
            "source": source.name,
            "dataset": {"name": data.name, "classes": [], "test_sha256": data.digest},
            "notes": list(data.notes),
            "arithmetic": str(options.arithmetic),
            "task": task.as_dict() | found.as_dict(),
            "quantization": {
                **form(int8_file, options),
                "calibration_images": len(data.calibration),
                "seed": options.seed,
            },
            "adjustments": made.record,
            "resemblance": compared,
            "guards": guards(plan, made.int8, int8_file, options),
            "stored_bits": stored_bits(int8_file),
            "integer_share": integer_share(int8_file, Deployment(), data.test.images[:1]).as_dict(),
            "verification": None,
            "native": _native(made.int8, data.test, task),
            "accuracy": None,
            "agreement": found.agreement.as_dict(),
            "provenance": provenance(),
        },
    )


def _quantized(
    model: onnx.ModelProto, float_file: bytes, calibration: Labelled, task: Task, scheme: Scheme, *, report: Report
) -> Adjusted:
    if scheme.format == "dynamic":
        report("quantizing the weights")
        return Adjusted(int8=write_dynamic(model, scheme), model=model, record={"ranges": _NO_RANGES})

    def referee(rows: slice) -> Examiner:
        return Examiner(float_file, calibration[rows], task)

    return adjust(model, calibration, None, scheme, referee=referee, report=report)


def _plain(model: onnx.ModelProto, calibration: Labelled, options: ExportOptions) -> Callable[[], bytes] | None:
    return None if options.is_plain or options.format == "dynamic" else minmax(model, calibration, None, options)


def _resemblance(float_file: bytes, made: Adjusted, samples: Labelled, task: Task) -> dict[str, Any]:
    """Return what the sidecar says of how near the file comes, layer by layer and by its outputs.

    Raises:
        ModelError: if hardly a sample gets the float model's answer, and an output is not finite or farther off than
            zeros would be; naming the first layer that strays.
    """
    layers = layer_ratios(made.model, onnx.ModelProto.FromString(made.int8), samples.images, None)
    found = Examiner(float_file, samples, task).compare(made.int8)
    broken = [name for name, error in found.relative_error.items() if not error < 1.0]  # NaN, too
    if broken and found.agreement.value < LEAST_AGREEMENT:
        strays = straying(layers)
        where = f"the first layer that strays is {strays[0]!r}" if strays else "no single layer strays"
        raise ModelError(
            f"the int8 file does not compute what the float model computes: its output {broken[0]!r} is farther off "
            f"than zeros would be, {int(found.same.sum())} of {len(samples)} samples get the same answer, and {where}: "
            "keep it in float with --keep-float, or give --granularity channel, --ranges minmax or the other --format"
        )
    outputs = [{"output": name, "relative_error": error} for name, error in found.relative_error.items()]
    return {
        "images": len(samples),
        "output": {"outputs": outputs, "agreement": found.agreement.value},
        **described(layers),
    }


def _native(int8_file: bytes, test: Labelled, task: Task) -> dict[str, Any]:
    """Return what CPUs whose kernels saturate make of the file, as the export of classifiers says it."""
    exact, changed = Deployment(), None
    if exact.saturates:
        native = Examiner(int8_file, test, task, arithmetic=Arithmetic.NATIVE).compare(int8_file)
        changed = share(int((~native.same).sum()), len(test)).as_dict()
    layers = [layer.as_dict() for layer in saturating_layers(int8_file, exact)]
    return {"cpu_saturates": exact.saturates, "changed": changed, "layers": layers}
