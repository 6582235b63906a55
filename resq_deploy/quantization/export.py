"""Stage 3 from float file to int8 file, still unjudged: adjusted, quantized, guarded and measured."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from resq_deploy.cores import usable_cores
from resq_deploy.data.dataset import Dataset, Split
from resq_deploy.deployed.arithmetic import Arithmetic
from resq_deploy.deployed.inputs import InputSpec
from resq_deploy.deployed.integer_share import integer_share
from resq_deploy.deployed.reference import Drawn, reference
from resq_deploy.deployed.saturation import saturating_layers
from resq_deploy.deployed.session import Deployment, Session
from resq_deploy.deployed.surfaces import find_surfaces
from resq_deploy.faults.outcomes import top1
from resq_deploy.faults.statistics import share
from resq_deploy.protection.apply import apply
from resq_deploy.protection.plan import DEFAULT_BUDGET, Plan, plan
from resq_deploy.quantization.adjust import Adjusted, adjust, write_adjusted
from resq_deploy.quantization.fidelity import logits
from resq_deploy.quantization.float_model import prepare_float_model
from resq_deploy.quantization.opset import LOWEST
from resq_deploy.quantization.options import ExportOptions
from resq_deploy.quantization.ranges import STORED_BITS
from resq_deploy.quantization.resemblance import resemblance
from resq_deploy.quantization.scheme import Scheme
from resq_deploy.records import provenance, sha256_file

SCHEMA = 4
_DECODER_OPSET = 18  # from which on decoders are smaller, and made ready faster
_BATCH = 1000


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Export:
    """A file that is ready to be judged and written.

    Attributes:
        int8_file: the int8 model, serialised.
        float_file: the float model it was made of, serialised.
        minmax_file: makes the MinMax export of the same weights, unprotected and of 8 bits where this one is coded,
            serialised; None where this is that file.
        eight_bit_file: makes the export with weights of 8 bits, unprotected, serialised; None where they have 8 bits.
        int8_right: which test images the int8 file answers right, shape [N].
        float_right: which of them the float model answers right, shape [N].
        sidecar: what is known of the file.
    """

    int8_file: bytes
    float_file: bytes
    minmax_file: Callable[[], bytes] | None
    eight_bit_file: Callable[[], bytes] | None
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
    model = prepare_float_model(source, options.opset, _DECODER_OPSET if options.code else LOWEST)
    float_file = model.SerializeToString()
    every_core = Deployment(threads=len(usable_cores()), arithmetic=options.arithmetic)
    session = Session(float_file, every_core)
    calibration = dataset.calibration(options.calibration_images, options.seed)
    dataset.check_outputs(logits(float_file, calibration.images[:2]).shape[1])  # before the work, not after
    quantize = functools.partial(adjust, model, calibration, session.input, report=report)
    made, planned, options = _planned(quantize, options)
    report("comparing the int8 file with the float model, layer by layer")
    compared = resemblance(float_file, made.model, made.int8, calibration.images, session.input)
    int8_file = _protected(made.int8, planned, options, report)
    test = dataset.evaluation(options.test_images)
    report(f"measuring float and int8 accuracy on {len(test)} images")
    export = Export(
        int8_file=int8_file,
        float_file=float_file,
        minmax_file=None if options.is_plain else _minmax(model, calibration, session.input, options),
        eight_bit_file=None if options.bits == STORED_BITS else lambda: quantize(_unprotected(options)).int8,
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
            "guards": _guards(planned, made.int8, int8_file, options) if planned else None,
            **_facts(int8_file, test),
            "verification": reference(
                int8_file,
                calibration.images,
                Deployment(arithmetic=options.arithmetic),
                drawn=Drawn(dataset=dataset.name, count=options.calibration_images, seed=options.seed),
            ),
            "native": _native(made.int8, dataset, test),
        },
    )
    export.sidecar.update(_accuracies(export), provenance=provenance())
    return export


def _planned(
    quantize: Callable[[ExportOptions], Adjusted], options: ExportOptions
) -> tuple[Adjusted, Plan | None, ExportOptions]:
    """Return the int8 file, the plan of its protection, and the options it was made with.

    Those are other ones where `auto` finds no use for a code: then weights keep all their bits, unless fewer were asked
    for.
    """
    made = quantize(options)
    if options.guard == "none":
        return made, None, options
    planned = plan(
        onnx.ModelProto.FromString(made.int8),
        mode=options.guard,
        code=options.code,
        budget=DEFAULT_BUDGET if options.guard_budget is None else options.guard_budget,
        rates=options.guard_rates,
        health=options.health,
    )
    if options.code and not planned.coded and options.weight_bits is None and options.guard == "auto":
        return _planned(quantize, dataclasses.replace(options, weight_bits=STORED_BITS, weight_code=None))
    return made, planned, options


def _protected(int8_file: bytes, planned: Plan | None, options: ExportOptions, report: Callable[[str], None]) -> bytes:
    if planned is None:
        return int8_file
    report("protecting")
    protected = apply(onnx.ModelProto.FromString(int8_file), planned, planned.code, options.health)
    return bytes(protected.SerializeToString(deterministic=True))


def _guards(planned: Plan, plain: bytes, protected: bytes, options: ExportOptions) -> dict[str, Any]:
    """Return what the sidecar says of protection: the plan, and what it came to."""
    added = len(protected) - len(plain)
    measured = {"bytes_added": added, "share_of_file": added / len(plain), "health": options.health}
    return planned.as_dict() | measured


def _unprotected(options: ExportOptions) -> ExportOptions:
    """Return the same options for a file with weights of 8 bits and without protection."""
    return dataclasses.replace(
        options,
        guard="none",
        weight_bits=STORED_BITS,
        weight_code=None,
        guard_budget=None,
        guard_rates=None,
        health=False,
    )


def _minmax(model: onnx.ModelProto, calibration: Split, spec: InputSpec, options: ExportOptions) -> Callable[[], bytes]:
    """Return a function that makes the plain export of the same weights in the same form, without protection."""
    plain = Scheme(
        granularity=options.granularity,
        format=options.format,
        reduce_range=options.reduce_range,
        weight_type=options.weight_type,
        weight_bits=STORED_BITS if options.code else options.bits,
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
        "weights": _weight_type(options),
        "weight_bits": options.bits,
        "activations": "uint8",
    }


def _weight_type(options: ExportOptions) -> str:
    if options.bits == STORED_BITS and not options.reduce_range:
        return options.weight_type
    bits = options.bits if options.bits < STORED_BITS else STORED_BITS - 1
    return f"{options.weight_type.replace('8', str(bits))} in {options.weight_type}"


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
