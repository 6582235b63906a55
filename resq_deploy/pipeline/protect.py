"""Any int8 file protected, measured before and after, gated, and written with its sidecar."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from resq_deploy.cores import usable_cores
from resq_deploy.data.dataset import Dataset, Split
from resq_deploy.data.preprocessing import Wish
from resq_deploy.deployed.arithmetic import Arithmetic
from resq_deploy.deployed.binding import bound
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.inputs import Given
from resq_deploy.deployed.layout import digests_of
from resq_deploy.deployed.made_up import made_up
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.reference import Drawn, reference
from resq_deploy.deployed.runtime_errors import RUNTIME_ERRORS, first_line
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.sidecar import chosen_preprocessing, source_checkpoint
from resq_deploy.deployed.surfaces import find_surfaces
from resq_deploy.deployed.synthetic import synthetic_inputs
from resq_deploy.deployed.votes import find_votes
from resq_deploy.errors import DataError, InputError, ModelError, OptionError
from resq_deploy.faults.outcomes import top1
from resq_deploy.faults.statistics import matched, share
from resq_deploy.pipeline.gates import enforce
from resq_deploy.protection.any_file import (
    ProtectedFile,
    ProtectOptions,
    check_source,
    facts,
    protect_file,
    starting_point,
)
from resq_deploy.protection.follow import check_followed
from resq_deploy.protection.gather import opset_of
from resq_deploy.quantization.opset import convert_opset
from resq_deploy.records import provenance, write_atomic, write_json

SCHEMA = 1
DEFAULT_BOUND = 0.5
"""Points of accuracy that a file may lose, unless told otherwise."""

_CALIBRATION_IMAGES = 500  # of which the sidecar keeps the answers, as those of an export
_BATCH = 1000
_CONFIDENCE = 0.95
_TRIAL_IMAGES = 8
_TRIAL_SIZES = (32, 224, 64)  # for what the model leaves open

_REFUSALS: tuple[type[Exception], ...] = (ModelError, *RUNTIME_ERRORS)

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """How a protected file is judged.

    Attributes:
        images: how many test images; None for all.
        bound: points of accuracy that it may lose; None for any number.
        enforced: whether losing more is an error; otherwise it is only recorded.
        arithmetic: in which both files are run.
    """

    images: int | None = None
    bound: float | None = DEFAULT_BOUND
    enforced: bool = True
    arithmetic: Arithmetic = Arithmetic.EXACT

    def __post_init__(self) -> None:
        if self.bound is not None and np.isnan(self.bound):
            raise OptionError(f"--gate clean={self.bound}: give a number of points, such as clean=0.5")
        if self.images is not None and self.images < 1:
            raise OptionError(f"--images {self.images}: give a whole number from 1 up")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What came of protecting a file.

    Attributes:
        source: the file that was protected.
        protected: what was done to it.
        sidecar: what stands in the sidecar.
    """

    source: DeployedModel
    protected: ProtectedFile
    sidecar: dict[str, Any]

    def bytes_of_votes(self) -> dict[str, int]:
        """Return the bytes that the votes of the protected file add, by the voted tensor."""
        return {vote.output: vote.bytes_added for vote in find_votes(self.protected.model)}


def protect_source(
    source: pathlib.Path,
    out: pathlib.Path,
    options: ProtectOptions,
    judgement: Judgement,
    *,
    dataset: Dataset | None = None,
    wish: Wish | None = None,
    opset: int | None = None,
    report: Report = lambda _: None,
) -> Outcome:
    """Protect an int8 file, and write it with its sidecar.

    Args:
        source: the int8 file, of any origin; external data are taken in.
        out: the file to write; the sidecar goes beside it, as `.json`.
        options: what protects what.
        judgement: what it may lose, on the data.
        dataset: what both files are measured on; None where there are no data, so that neither is.
        wish: how images are made ready for the file, where its sidecar does not say so or is mistaken.
        opset: to raise the file to, first; None keeps its own.
        report: told each step as it begins.

    Raises:
        InputError: if the file or the data cannot be used.
        GateError: if it loses more accuracy than it may; nothing is written then.
    """
    check_source(source)
    given = DeployedModel.load(source)
    model = _raised(given, opset)
    start, weights = starting_point(model)
    report("protecting")
    protected = protect_file(model, start, weights, options)
    serialised: bytes = protected.model.SerializeToString(deterministic=True)
    preprocessing, notes = chosen_preprocessing(given, wish or Wish())
    for note in notes:
        report(note)
    dataset = None if dataset is None else dataset.in_channels(preprocessing.channels)
    deployment = Deployment(threads=len(usable_cores()), arithmetic=judgement.arithmetic, preprocessing=preprocessing)
    images = _answered_images(given, dataset, deployment)
    if protected.coded and images is not None:
        report("checking that every reader of a weight follows its codes")
        check_followed(start, [each.weight for each in protected.coded], images.inputs, deployment)
    measured: dict[str, Any] = {"dataset": None, "notes": [], "accuracy": None, "agreement": None, "gates": []}
    if dataset is not None:
        test = dataset.evaluation(judgement.images)
        report(f"measuring accuracy before and after on {len(test)} images")
        measured = _measured(given, serialised, dataset, test, judgement, deployment)
    verification = _verification(serialised, images, dataclasses.replace(deployment, threads=1))
    write_atomic(out, serialised)
    sidecar = {
        "schema": SCHEMA,
        "command": "protect",
        "model": {"file": out.name, "sha256": hashlib.sha256(serialised).hexdigest(), "bytes": len(serialised)},
        "source": {"file": source.name, "sha256": given.digest, "bytes": source.stat().st_size},
        "checkpoint": source_checkpoint(given),
        "opset": {"source": opset_of(given.proto), "file": opset_of(protected.model)},
        "arithmetic": str(judgement.arithmetic),
        "preprocessing": preprocessing.as_dict(),
        "weights": {"bits": options.code.weight_bits if options.code and protected.coded else None, **facts(protected)},
        "guards": _guards(protected, serialised, options),
        "stored_bits": _stored_bits(serialised),
        **measured,
        "verification": verification,
        "digests": digests_of(serialised, out.name),
        "provenance": provenance(),
    }
    write_json(out.with_suffix(".json"), sidecar)
    return Outcome(source=given, protected=protected, sidecar=sidecar)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Images:
    """What a file runs on.

    Attributes:
        images: as the data set gives them, or made up; None where the file takes something else.
        inputs: some of them, or other samples, as the file takes them.
        drawn: which images of a data set they are; None where they are made up.
    """

    images: NDArray[Any] | None
    inputs: Given
    drawn: Drawn | None


def _raised(given: DeployedModel, opset: int | None) -> onnx.ModelProto:
    if opset is not None and opset < opset_of(given.proto):
        raise OptionError(f"--opset {opset}: {given.path} has opset {opset_of(given.proto)} already: leave it out")
    try:
        return given.proto if opset is None else convert_opset(given.proto, opset)
    except ModelError as error:
        raise ModelError(f"{given.path}: {error}") from error


def _answered_images(given: DeployedModel, dataset: Dataset | None, deployment: Deployment) -> _Images | None:
    """Return what a file runs on: images of the data set, or made up; other samples, made up; None if it runs on none.

    Raises:
        InputError: if there is a data set, and it does not fit.
    """
    try:
        session = Session(given.proto.SerializeToString(), deployment)
        taken = session.input
    except ModelError as error:
        if dataset is None:
            return _other_samples(given, deployment)
        raise ModelError(f"{error}: leave --dataset out, and nothing is measured") from error
    if dataset is not None:
        drawn: Drawn | None = Drawn(dataset=dataset.name, count=_CALIBRATION_IMAGES, seed=0)
        try:
            images = dataset.calibration(_CALIBRATION_IMAGES, 0).images
        except DataError:  # there are none but those to test with
            images, drawn = dataset.evaluation(_CALIBRATION_IMAGES).images, None
        return _Images(images=images, inputs=taken.prepare(images[:_TRIAL_IMAGES]), drawn=drawn)
    for size in _TRIAL_SIZES:
        shape = [_CALIBRATION_IMAGES, *(length or size for length in taken.shape[1:])]
        images = synthetic_inputs(shape, taken.dtype)
        try:
            session.run(images[:_TRIAL_IMAGES])
        except _REFUSALS:
            continue
        return _Images(images=images, inputs=images[:_TRIAL_IMAGES], drawn=None)
    return None


def _other_samples(given: DeployedModel, deployment: Deployment) -> _Images | None:
    """Return made-up samples for a file that takes other things than one image; None if it runs on none."""
    try:
        samples = made_up(given.proto, deployment, count=_TRIAL_IMAGES)
        session = Session(given.proto.SerializeToString(), deployment)
        inputs = bound(samples, session.inputs, [output.name for output in session.outputs])
    except InputError:
        return None
    return _Images(images=None, inputs=inputs, drawn=None)


def _measured(
    given: DeployedModel,
    serialised: bytes,
    dataset: Dataset,
    test: Split,
    judgement: Judgement,
    deployment: Deployment,
) -> dict[str, Any]:
    """Return accuracy before and after, and what the gate says.

    Raises:
        GateError: if the gate fails and is enforced.
    """
    before, after = (
        _right(given, file, dataset, test, deployment) for file in (given.proto.SerializeToString(), serialised)
    )
    lost, gained, images = int((before & ~after).sum()), int((after & ~before).sum()), len(test)
    figures = {
        name: share(int(right.sum()), images).as_dict() for name, right in (("before", before), ("after", after))
    }
    gates: list[dict[str, Any]] = []
    if judgement.bound is not None:
        points = 100.0 * (lost - gained) / images
        gates.append(
            {
                "gate": "clean",
                "figure": points,
                "bound": judgement.bound,
                "passed": points <= judgement.bound,
                "enforced": judgement.enforced,
                "images_from": "test",
                "apart": False,
                "images": images,
                **figures,
                "drop": matched(lost, gained, images, _CONFIDENCE).as_dict(),
                "lost": lost,
                "gained": gained,
            }
        )
    if judgement.enforced:
        enforce(gates)
    return {
        "dataset": {"name": dataset.name, "classes": list(dataset.classes), "test_sha256": dataset.digest("test")},
        "notes": list(dataset.notes),
        "accuracy": figures,
        "agreement": share(int((before == after).sum()), images).as_dict(),
        "gates": gates,
    }


def _right(
    given: DeployedModel, file: bytes, dataset: Dataset, test: Split, deployment: Deployment
) -> NDArray[np.bool_]:
    """Return which test images a file answers right, shape [N]."""
    session = Session(file, deployment)
    parts = (test.images[start : start + _BATCH] for start in range(0, len(test), _BATCH))
    try:
        scores = np.concatenate([session.run(session.input.prepare(part)) for part in parts])
    except RUNTIME_ERRORS as error:
        raise ModelError(f"{given.path}: onnxruntime cannot run it: {first_line(error)}") from error
    dataset.check_outputs(scores.shape[1])
    right: NDArray[np.bool_] = top1(scores) == test.labels
    return right


def _verification(serialised: bytes, images: _Images | None, deployment: Deployment) -> dict[str, Any] | None:
    """Return what `inspect --verify` holds the file against; None for a file that does not run on images alone."""
    if images is None or images.images is None:
        return None
    return reference(serialised, images.images, deployment, drawn=images.drawn)


def _guards(protected: ProtectedFile, serialised: bytes, options: ProtectOptions) -> dict[str, Any]:
    """Return what the sidecar says of protection, as that of an export does: the plan, and what it came to."""
    plain = protected.plain.ByteSize()
    added = len(serialised) - plain
    return {
        **protected.plan.as_dict(),
        "bytes_added": added,
        "share_of_file": added / plain,
        "health": options.health and bool(protected.plan.coded),
        "left_out": protected.left_out,
        "votes_replaced": protected.votes_before,
    }


def _stored_bits(serialised: bytes) -> dict[str, int]:
    bits: dict[str, int] = {}
    for surface in find_surfaces(onnx.ModelProto.FromString(serialised)):
        bits[str(surface.role)] = bits.get(str(surface.role), 0) + surface.bits
    return bits
