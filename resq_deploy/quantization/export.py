"""Stage 3 from float file to int8 file, still unjudged: adjusted, quantized, guarded and measured."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.cores import usable_cores
from resq_deploy.data.dataset import Dataset, Split
from resq_deploy.data.preprocessing import AS_IS, Preprocessing
from resq_deploy.deployed.arithmetic import Arithmetic
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.inputs import InputSpec
from resq_deploy.deployed.integer_share import integer_share
from resq_deploy.deployed.reference import Drawn, reference
from resq_deploy.deployed.saturation import saturating_layers
from resq_deploy.deployed.session import Session
from resq_deploy.faults.outcomes import top1
from resq_deploy.faults.statistics import share
from resq_deploy.quantization.adjust import adjust
from resq_deploy.quantization.fidelity import logits
from resq_deploy.quantization.float_model import prepare_float_model
from resq_deploy.quantization.opset import DECODER, LOWEST
from resq_deploy.quantization.options import ExportOptions
from resq_deploy.quantization.ranges import STORED_BITS
from resq_deploy.quantization.resemblance import resemblance
from resq_deploy.quantization.steps import form, guards, minmax, planned, protected, stored_bits, unprotected
from resq_deploy.quantization.tail import matching
from resq_deploy.records import provenance, sha256_file

SCHEMA = 4
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
    model = prepare_float_model(source, options.opset, DECODER if options.code else LOWEST)
    float_file = model.SerializeToString()
    every_core = Deployment(
        threads=len(usable_cores()), arithmetic=options.arithmetic, preprocessing=options.preprocessing
    )
    session = Session(float_file, every_core)
    calibration = _as_fed(dataset.calibration(options.calibration_images, options.seed), session.input)
    dataset.check_outputs(logits(float_file, calibration.images[:2]).shape[1])  # before the work, not after
    options = dataclasses.replace(options, float_nodes=matching(model, options.keep_float))
    quantize = functools.partial(adjust, model, calibration, session.input, report=report)
    made, plan, options = planned(quantize, options)
    report("comparing the int8 file with the float model, layer by layer")
    compared = resemblance(float_file, made.model, made.int8, calibration.images, session.input)
    int8_file = protected(made.int8, plan, options, report)
    test = dataset.evaluation(options.test_images)
    report(f"measuring float and int8 accuracy on {len(test)} images")
    export = Export(
        int8_file=int8_file,
        float_file=float_file,
        minmax_file=None if options.is_plain else minmax(model, calibration, session.input, options),
        eight_bit_file=None if options.bits == STORED_BITS else lambda: quantize(unprotected(options)).int8,
        int8_right=_right(Session(int8_file, every_core), dataset, test),
        float_right=_right(session, dataset, test),
        sidecar={
            "schema": SCHEMA,
            "float_model": {"sha256": sha256_file(source), "bytes": source.stat().st_size},
            "source": described,
            "dataset": {
                "name": dataset.name,
                "classes": list(dataset.classes),
                "test_sha256": dataset.digest("test"),
                "split": dataset.split,
            },
            "notes": list(dataset.notes),
            "arithmetic": str(options.arithmetic),
            "preprocessing": options.preprocessing.as_dict(),
            "quantization": {**form(int8_file, options), "calibration_images": len(calibration), "seed": options.seed},
            "adjustments": made.record,
            "resemblance": compared.as_dict(),
            "guards": guards(plan, made.int8, int8_file, options),
            **_facts(int8_file, session.input.prepare(test.images[:1])),
            "verification": reference(
                int8_file,
                calibration.images,
                Deployment(arithmetic=options.arithmetic),
                drawn=Drawn(dataset=dataset.name, count=options.calibration_images, seed=options.seed),
            ),
            "native": _native(made.int8, dataset, test, options.preprocessing),
        },
    )
    export.sidecar.update(_accuracies(export), provenance=provenance())
    return export


def _as_fed(split: Split, spec: InputSpec) -> Split:
    """Return images as the model is fed them, where that takes more than a change of type: all that follows has it."""
    if spec.preprocessing == AS_IS or split.images.dtype != np.uint8 or spec.dtype is not np.float32:
        return split
    return Split(images=spec.prepare(split.images), labels=split.labels)


def _facts(int8_file: bytes, first: NDArray[Any]) -> dict[str, Any]:
    """Return what the file stores, and what of it runs in integers on an image as it is fed."""
    return {
        "stored_bits": stored_bits(int8_file),
        "integer_share": integer_share(int8_file, Deployment(), first).as_dict(),
    }


def _accuracies(export: Export) -> dict[str, Any]:
    """Return the accuracies, and the share of test images that both files answer right, or both wrong."""
    rights = {"float": export.float_right, "int8": export.int8_right}
    return {
        "accuracy": {name: share(int(right.sum()), len(right)).as_dict() for name, right in rights.items()},
        "agreement": share(int((export.float_right == export.int8_right).sum()), len(export.int8_right)).as_dict(),
    }


def _native(int8_file: bytes, dataset: Dataset, test: Split, preprocessing: Preprocessing) -> dict[str, Any]:
    """Return what CPUs whose kernels saturate make of the file.

    Where this CPU is one, that is the share of the test answers that differ between exact and native arithmetic;
    elsewhere the layers that could saturate there are named, which is an upper bound.
    """
    exact = Deployment(threads=len(usable_cores()), preprocessing=preprocessing)
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
