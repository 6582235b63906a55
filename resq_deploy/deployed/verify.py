"""Checking on this machine that a file answers as it did where it was exported.

The sidecar of an export names the file's SHA-256 and keeps its logits on synthetic inputs, and on calibration images
for machines where the data are at hand; both are held against the file here. In exact arithmetic integer layers answer
alike everywhere; float kernels and versions of onnxruntime may differ in the last bit.
"""

import dataclasses
import enum
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.data.dataset import Dataset
from resq_deploy.deployed.arithmetic import Arithmetic
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.reference import Reference, read_reference, this_machine
from resq_deploy.deployed.runtime_errors import RUNTIME_ERRORS, first_line
from resq_deploy.deployed.saturation import SaturatingLayer, saturating_layers
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.sidecar import preprocessing_of, sidecar_of
from resq_deploy.deployed.synthetic import inputs_digest
from resq_deploy.errors import DataError, ModelError
from resq_deploy.faults.outcomes import top1
from resq_deploy.faults.statistics import Estimate, share
from resq_deploy.records import read_json

_MOST = 0.01
"""Share of answers that may differ where a file is still said to give the same classes."""

_CONFIDENCE = 0.95


class Verdict(enum.StrEnum):
    """How a file answers here, held against where it was exported."""

    IDENTICAL = "identical"
    SAME_CLASSES = "same classes"
    DIFFERS = "differs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Native:
    """What this CPU's own kernels make of the file, where they saturate; elsewhere, what others may make of it.

    Attributes:
        cpu_saturates: whether this CPU's kernels saturate.
        changed: share of the inputs that get another answer than in exact arithmetic; None where that is not so here.
        layers: the layers that could saturate on a CPU whose kernels do: an upper bound.
    """

    cpu_saturates: bool
    changed: Estimate | None
    layers: Sequence[SaturatingLayer]

    @property
    def line(self) -> str:
        """The same in one line; empty where there is nothing to say."""
        if self.changed is not None:
            value, low, high = (100 * part for part in (self.changed.value, self.changed.low, self.changed.high))
            return (
                f"native arithmetic on this CPU, which saturates, gives {value:.2f} % [{low:.2f}, {high:.2f}] of "
                f"{self.changed.n} inputs another answer than exact arithmetic does"
            )
        if not self.layers:
            return ""
        return (
            f"on a CPU that saturates (x86 without VNNI) {len(self.layers)} layers could pass 16 bits in native "
            f"arithmetic, the first is {self.layers[0].layer!r}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "cpu_saturates": self.cpu_saturates,
            "changed": self.changed.as_dict() if self.changed else None,
            "layers": [layer.as_dict() for layer in self.layers],
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verification:
    """What came of a check.

    Attributes:
        verdict: `identical` (all logits bit-equal), `same classes` (top-1 of every input, and differences too small to
            change one answer in a hundred) or `differs`.
        reason: why it is not `identical`, in one line; empty where it is.
        inputs: how many inputs the file was run on; 0 where it was not run, since it is not the file of the sidecar.
        images: how many of them are calibration images; the others are synthetic.
        bit_equal: of the inputs, how many have bit-equal logits.
        same_top1: of them, how many have the same top-1.
        at_risk: of them, how many have two largest logits that lie no farther apart than twice `max_difference`.
        max_difference: largest difference of a logit, None where not run; infinite where only one of them is finite.
        arithmetic: in which the file was run here.
        native: what CPUs that saturate make of the file; None where not run.
        exported: processor and runtime where the logits of the sidecar were computed.
        here: the same of this machine.
    """

    verdict: Verdict
    reason: str = ""
    inputs: int = 0
    images: int = 0
    bit_equal: int = 0
    same_top1: int = 0
    at_risk: int = 0
    max_difference: float | None = None
    arithmetic: str = str(Arithmetic.EXACT)
    native: Native | None = None
    exported: Mapping[str, Any]
    here: Mapping[str, Any]

    @property
    def line(self) -> str:
        """The result in one line."""
        if not self.inputs:
            return f"{self.verdict}: {self.reason}"
        kinds = f"{self.inputs} inputs" if not self.images else f"{self.inputs} inputs, {self.images} of them images"
        counts = f"logits bit-equal on {self.bit_equal} and top-1 equal on {self.same_top1} of {kinds}"
        return f"{self.verdict} in {self.arithmetic} arithmetic: {counts}" + (f"; {self.reason}" if self.reason else "")

    def as_dict(self) -> dict[str, Any]:
        """Return the result as the JSON object `inspect --json --verify` prints; an infinite difference is null."""
        finite = self.max_difference is not None and np.isfinite(self.max_difference)
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            **values,
            "max_difference": self.max_difference if finite else None,
            "native": self.native.as_dict() if self.native else None,
        }


def verify(
    model: DeployedModel, *, dataset: Dataset | None = None, arithmetic: Arithmetic = Arithmetic.EXACT
) -> Verification:
    """Run a file on the inputs of its sidecar, and hold its logits against those kept there.

    Args:
        model: the file; its sidecar lies beside it.
        dataset: the data it was calibrated on, to take the calibration images from; None for synthetic inputs alone.
        arithmetic: in which to run it.

    Raises:
        InputError: if the sidecar is missing, damaged or without logits, the data set is not the one of the sidecar,
            or onnxruntime refuses the file.
    """
    sha256, expected = _read(sidecar_of(model.path))
    here = this_machine()
    data = model.path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        return Verification(
            verdict=Verdict.DIFFERS,
            reason=f"{model.path.name} is not the file its sidecar belongs to, or was changed: its SHA-256 is another",
            arithmetic=str(arithmetic),
            exported=expected.machine,
            here=here,
        )
    preprocessing = preprocessing_of(model)
    deployment = dataclasses.replace(expected.deployment, arithmetic=arithmetic, preprocessing=preprocessing)
    inputs, logits = [expected.inputs], [expected.synthetic.logits]
    if dataset is not None:
        seen = dataset.in_channels(preprocessing.channels)
        inputs.append(_calibration_images(expected, seen, Session(data, deployment)))
        logits.append(expected.calibration.logits if expected.calibration else np.zeros(0, np.float32))
    found = _run(model, data, deployment, inputs)
    compared = _compare(np.concatenate(logits), found, expected, here, arithmetic)
    return dataclasses.replace(
        compared,
        images=sum(map(len, inputs[1:])),
        native=_native(model, data, deployment, inputs, found),
    )


def _read(path: pathlib.Path) -> tuple[str, Reference]:
    """Return what a sidecar says: SHA-256 of the file, and its answers.

    Raises:
        InputError: if it is missing, broken, or has no answers.
    """
    if not path.is_file():
        raise ModelError(f"there is no sidecar {path}: --verify needs it beside the model, copy it along")
    sidecar = read_json(path)
    if isinstance(sidecar, dict) and sidecar.get("verification", {}) is None:
        raise ModelError(
            f"the sidecar {path} holds no answers, since the file takes other things than one image: leave --verify out"
        )
    if isinstance(sidecar, dict) and "model" in sidecar and "synthetic" not in (sidecar.get("verification") or {}):
        raise ModelError(f"the sidecar {path} holds no answers that this version reads: export the model anew")
    try:
        return str(sidecar["model"]["sha256"]), read_reference(sidecar["verification"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"the sidecar {path} is damaged ({type(error).__name__}: {error}): copy it anew") from error


def _calibration_images(expected: Reference, dataset: Dataset, session: Session) -> NDArray[Any]:
    """Return the calibration images whose answers are kept, as the model takes them.

    Raises:
        DataError: if none are kept, or the data set gives others.
    """
    if expected.drawn is None or expected.calibration is None:
        raise DataError("the sidecar keeps no answers to calibration images: leave --dataset out")
    drawn = dataset.calibration(expected.drawn.count, expected.drawn.seed).images
    images = session.input.prepare(drawn[: len(expected.calibration.logits)])
    if inputs_digest(images) != expected.calibration.digest:
        raise DataError(
            f"data set {dataset.name} gives other calibration images than those that the file was exported with "
            f"({expected.drawn.dataset}): give that one, or leave --dataset out"
        )
    return images


def _run(
    model: DeployedModel, data: bytes, deployment: Deployment, inputs: Sequence[NDArray[Any]]
) -> NDArray[np.float32]:
    """Return the logits for all inputs, one kind after the other, each in batches of its own as it was exported."""
    session = Session(data, deployment)
    try:
        return np.concatenate([session.run(session.input.prepare(part)) for part in inputs])
    except RUNTIME_ERRORS as error:
        raise ModelError(f"{model.path}: onnxruntime cannot run it: {first_line(error)}") from error


def _native(
    model: DeployedModel,
    data: bytes,
    deployment: Deployment,
    inputs: Sequence[NDArray[Any]],
    found: NDArray[np.float32],
) -> Native:
    """Return what kernels that saturate make of the file, given its logits in the deployment's arithmetic."""
    changed = None
    if deployment.saturates:
        other = Arithmetic.NATIVE if deployment.arithmetic == Arithmetic.EXACT else Arithmetic.EXACT
        answers = _run(model, data, dataclasses.replace(deployment, arithmetic=other), inputs)
        changed = share(int((top1(answers) != top1(found)).sum()), len(found), _CONFIDENCE)
    return Native(cpu_saturates=deployment.saturates, changed=changed, layers=saturating_layers(data, deployment))


def _compare(
    expected: NDArray[np.float32],
    found: NDArray[np.float32],
    kept: Reference,
    here: Mapping[str, Any],
    arithmetic: Arithmetic,
) -> Verification:
    if expected.shape != found.shape:
        raise ModelError(f"the sidecar keeps {expected.shape[1]} logits an input, the file gives {found.shape[1]}")
    alike = (expected.view(np.uint32) == found.view(np.uint32)) | (np.isnan(expected) & np.isnan(found))
    with np.errstate(invalid="ignore"):  # between two infinities
        gaps = np.where(alike, 0.0, np.abs(expected.astype(np.float64) - found))
    largest = float(np.where(np.isnan(gaps), np.inf, gaps).max())
    bit_equal, same = int(alike.all(axis=1).sum()), int((top1(expected) == top1(found)).sum())
    at_risk = int((_lead(expected) <= 2 * largest).sum()) if largest else 0
    if bit_equal == len(expected):
        verdict, reason = Verdict.IDENTICAL, ""
    else:
        verdict = Verdict.SAME_CLASSES if _harmless(len(expected), same, at_risk) else Verdict.DIFFERS
        reason = f"logits differ by up to {largest:.3g}, {_cause(kept, here, arithmetic)}"
    return Verification(
        verdict=verdict,
        reason=reason,
        inputs=len(expected),
        bit_equal=bit_equal,
        same_top1=same,
        at_risk=at_risk,
        max_difference=largest,
        arithmetic=str(arithmetic),
        exported=kept.machine,
        here=here,
    )


def _harmless(inputs: int, same: int, at_risk: int) -> bool:
    """Return whether no answer differed, and no more than one in a hundred of further ones is to be expected to.

    Either the inputs are so many that they show it by themselves, or no more of them than that have two largest logits
    so near to each other that the largest difference seen could change their order.
    """
    shown = share(0, inputs, _CONFIDENCE).high <= _MOST
    return same == inputs and (shown or at_risk <= _MOST * inputs)


def _lead(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return how far the largest logit of each row lies above the second, [N, C] -> [N]; 0 where that is no number."""
    if logits.shape[1] < 2:
        return np.abs(logits[:, 0]).astype(np.float64)
    ordered = np.sort(logits.astype(np.float64), axis=1)
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(ordered[:, -1] - ordered[:, -2], nan=0.0, posinf=np.inf)


def _cause(expected: Reference, here: Mapping[str, Any], arithmetic: Arithmetic) -> str:
    """Return what may make the difference, as far as it is known."""
    exported = expected.machine
    there = expected.deployment.arithmetic == Arithmetic.NATIVE and exported["saturates"]
    now = arithmetic == Arithmetic.NATIVE and here["saturates"]
    if there != now:
        lacking = "this CPU" if now else "the CPU it was exported on"
        return (
            f"since {lacking} saturates sums of products in 16 bits: --arithmetic exact answers alike on every CPU, "
            "and so does a file exported with --weight-type uint8"
        )
    changes = [
        f"{key} {exported[key]} there and {here[key]} here"
        for key in ("onnxruntime", "machine")
        if exported[key] != here[key]
    ]
    apart = set(exported["cpu_flags"]) ^ set(here["cpu_flags"])
    if apart:
        changes.append(f"CPU features {', '.join(sorted(apart))} on one of the two machines only")
    return "with " + "; ".join(changes) if changes else "though processor and runtime are the same"
