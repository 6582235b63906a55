"""Stage 3 from float file to int8 file, still unjudged: adjusted, quantized, guarded and measured."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from resq_deploy.cores import usable_cores
from resq_deploy.data.dataset import Dataset, Split
from resq_deploy.deployed.arithmetic import Arithmetic
from resq_deploy.deployed.integer_share import integer_share
from resq_deploy.deployed.reference import Drawn, reference
from resq_deploy.deployed.saturation import saturating_layers
from resq_deploy.deployed.session import Deployment, InputSpec, Session
from resq_deploy.deployed.surfaces import find_surfaces
from resq_deploy.errors import OptionError
from resq_deploy.faults.outcomes import top1
from resq_deploy.faults.statistics import share
from resq_deploy.protection.apply import apply
from resq_deploy.protection.plan import DEFAULT_BUDGET, Plan, check_options, plan
from resq_deploy.protection.rates import GuardRates
from resq_deploy.quantization.adjust import adjust, write_adjusted
from resq_deploy.quantization.fidelity import logits
from resq_deploy.quantization.float_model import prepare_float_model
from resq_deploy.quantization.opset import check_opset
from resq_deploy.quantization.resemblance import resemblance
from resq_deploy.quantization.scheme import Scheme
from resq_deploy.records import provenance, sha256_file

SCHEMA = 3
_BATCH = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions(Scheme):
    """Options of an export: the int8 form, as `Scheme` has it, its guards, and how it is measured.

    Attributes:
        opset: ONNX opset to write; None for that of the source, 13 at least.
        guard: which initializers are stored three times and voted: `none`, all `parameters` but weights, or `auto`,
            those that lower the expected SDC most for each byte.
        guard_budget: bytes that `auto` may add, as a share of the file; 0.05 if None.
        guard_rates: what a campaign measured, for `auto` to plan by; None for built-in figures.
        calibration_images: how many training images the activation ranges are taken from.
        seed: of their choice.
        test_images: how many test images the accuracies are measured on; None for all.
        arithmetic: in which the int8 file is measured; adjustments are always chosen in exact arithmetic.
    """

    opset: int | None = None
    guard: str = "none"
    guard_budget: float | None = None
    guard_rates: GuardRates | None = None
    calibration_images: int = 500
    seed: int = 0
    test_images: int | None = None
    arithmetic: Arithmetic = Arithmetic.EXACT

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calibration_images < 1:
            raise OptionError(f"--calibration-images {self.calibration_images}: give a whole number from 1 up")
        if self.guard != "none":
            check_options(self.guard, DEFAULT_BUDGET if self.guard_budget is None else self.guard_budget)
        for option, value in (("--guard-budget", self.guard_budget), ("--guard-campaign", self.guard_rates)):
            if value is not None and self.guard != "auto":
                raise OptionError(f"{option} is for --guard auto, not {self.guard}: leave it out, or ask for auto")
        check_opset(self.opset)

    @property
    def is_plain(self) -> bool:
        """Whether the file is what onnxruntime's quantizer makes of the weights as they are."""
        return self.ranges == "minmax" and self.percentiles == (100.0,) and not (self.bias_correction or self.equalize)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Export:
    """A file that is ready to be judged and written.

    Attributes:
        int8_file: the int8 model, serialised.
        float_file: the float model it was made of, serialised.
        minmax_file: makes the MinMax export of the same weights, serialised; None where the file has those ranges.
        int8_right: which test images the int8 file answers right, shape [N].
        float_right: which of them the float model answers right, shape [N].
        sidecar: what is known of the file.
    """

    int8_file: bytes
    float_file: bytes
    minmax_file: Callable[[], bytes] | None
    int8_right: NDArray[np.bool_]
    float_right: NDArray[np.bool_]
    sidecar: dict[str, Any]


def export_int8(
    source: pathlib.Path,
    dataset: Dataset,
    options: ExportOptions,
    *,
    described: str,
    report: Callable[[str], None] = lambda _: None,
) -> Export:
    """Quantize a float ONNX file and measure what came of it.

    Args:
        source: the float ONNX file.
        dataset: calibrates with training images and measures accuracy on test images.
        options: how to.
        described: what the float file was made from, for the sidecar; no path of the machine.
        report: told each step as it begins.

    Raises:
        InputError: if the source or the data cannot be used.
    """
    report("preparing the float model")
    model = prepare_float_model(source, options.opset)
    float_file = model.SerializeToString()
    every_core = Deployment(threads=len(usable_cores()), arithmetic=options.arithmetic)
    session = Session(float_file, every_core)
    calibration = dataset.calibration(options.calibration_images, options.seed)
    dataset.check_outputs(logits(float_file, calibration.images[:2]).shape[1])  # before the work, not after
    made = adjust(model, calibration, session.input, options, report=report)
    report("comparing the int8 file with the float model, layer by layer")
    compared = resemblance(float_file, made.model, made.int8, calibration.images, session.input)
    int8_file, planned = _guarded(made.int8, options, report)
    test = dataset.evaluation(options.test_images)
    report(f"measuring float and int8 accuracy on {len(test)} images")
    export = Export(
        int8_file=int8_file,
        float_file=float_file,
        minmax_file=None if options.is_plain else _minmax(model, calibration, session.input, options),
        int8_right=_right(Session(int8_file, every_core), dataset, test),
        float_right=_right(session, dataset, test),
        sidecar={
            "schema": SCHEMA,
            "float_model": {"sha256": sha256_file(source), "bytes": source.stat().st_size},
            "source": described,
            "dataset": {"name": dataset.name, "classes": list(dataset.classes), "test_sha256": dataset.digest("test")},
            "notes": list(dataset.notes),
            "arithmetic": str(options.arithmetic),
            "quantization": {**_form(int8_file, options), "calibration_images": len(calibration), "seed": options.seed},
            "adjustments": made.record,
            "resemblance": compared.as_dict(),
            "guards": planned.as_dict() if planned else None,
            **_facts(int8_file, test),
            "verification": reference(
                int8_file,
                calibration.images,
                Deployment(arithmetic=options.arithmetic),
                drawn=Drawn(dataset=dataset.name, count=options.calibration_images, seed=options.seed),
            ),
            "native": _native(int8_file, dataset, test),
        },
    )
    export.sidecar.update(_accuracies(export), provenance=provenance())
    return export


def _guarded(int8_file: bytes, options: ExportOptions, report: Callable[[str], None]) -> tuple[bytes, Plan | None]:
    """Return the file with the guards that were asked for, and their plan."""
    if options.guard == "none":
        return int8_file, None
    report("guarding")
    model = onnx.ModelProto.FromString(int8_file)
    budget = DEFAULT_BUDGET if options.guard_budget is None else options.guard_budget
    planned = plan(model, mode=options.guard, budget=budget, rates=options.guard_rates)
    return apply(model, planned).SerializeToString(deterministic=True), planned


def _minmax(model: onnx.ModelProto, calibration: Split, spec: InputSpec, options: ExportOptions) -> Callable[[], bytes]:
    """Return a function that makes the plain export of the same weights in the same form."""
    plain = Scheme(
        granularity=options.granularity,
        format=options.format,
        reduce_range=options.reduce_range,
        weight_type=options.weight_type,
    )
    return lambda: write_adjusted(model, calibration, spec, plain)[0]


def _form(int8_file: bytes, options: ExportOptions) -> dict[str, Any]:
    opsets = onnx.ModelProto.FromString(int8_file).opset_import
    return {
        "format": options.format,
        "opset": next(entry.version for entry in opsets if entry.domain in ("", "ai.onnx")),
        "ranges": options.ranges,
        "granularity": options.granularity,
        "activation_percentile": options.activation_percentile or 100.0,
        "bias_correction": options.bias_correction,
        "equalize": options.equalize,
        "reconstruct": options.reconstructs,
        "weights": "int7 in int8" if options.reduce_range else options.weight_type,
        "activations": "uint8",
    }


def _facts(int8_file: bytes, test: Split) -> dict[str, Any]:
    """Return what the file stores, and what of it runs in integers."""
    bits: dict[str, int] = {}
    for surface in find_surfaces(onnx.ModelProto.FromString(int8_file)):
        bits[str(surface.role)] = bits.get(str(surface.role), 0) + surface.bits
    session = Session(int8_file, Deployment())
    first = session.input.prepare(test.images[:1])
    return {
        "stored_bits": bits,
        "integer_share": integer_share(int8_file, Deployment(), first).as_dict(),
    }


def _accuracies(export: Export) -> dict[str, Any]:
    """Return the accuracies, and the share of test images that both files answer right, or both wrong."""
    rights = {"float": export.float_right, "int8": export.int8_right}
    return {
        "accuracy": {name: share(int(right.sum()), len(right)).as_dict() for name, right in rights.items()},
        "agreement": share(int((export.float_right == export.int8_right).sum()), len(export.int8_right)).as_dict(),
    }


def _native(int8_file: bytes, dataset: Dataset, test: Split) -> dict[str, Any]:
    """Return what CPUs whose kernels saturate make of the file.

    Where this CPU is one, that is the share of the test answers that differ between exact and native arithmetic;
    elsewhere the layers that could saturate there are named, which is an upper bound.
    """
    exact = Deployment(threads=len(usable_cores()))
    native = dataclasses.replace(exact, arithmetic=Arithmetic.NATIVE)
    changed = None
    if exact.saturates:
        answers = [_answers(Session(int8_file, how), dataset, test) for how in (exact, native)]
        changed = share(int((answers[0] != answers[1]).sum()), len(test)).as_dict()
    layers = [layer.as_dict() for layer in saturating_layers(int8_file, exact)]
    return {"cpu_saturates": exact.saturates, "changed": changed, "layers": layers}


def _right(session: Session, dataset: Dataset, test: Split) -> NDArray[np.bool_]:
    """Return which test images a session answers right, shape [N]."""
    right: NDArray[np.bool_] = _answers(session, dataset, test) == test.labels
    return right


def _answers(session: Session, dataset: Dataset, test: Split) -> NDArray[np.int64]:
    """Return the top-1 of a session for the test images, shape [N]."""
    scores = np.concatenate(
        [
            session.run(session.input.prepare(test.images[start : start + _BATCH]))
            for start in range(0, len(test), _BATCH)
        ]
    )
    dataset.check_outputs(scores.shape[1])
    return top1(scores)
