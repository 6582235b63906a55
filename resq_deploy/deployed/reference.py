"""What a file answers where it is exported, kept in its sidecar: how another machine tells that it runs it alike."""

import base64
import dataclasses
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from resq_deploy.deployed.arithmetic import Arithmetic
from resq_deploy.deployed.deployment import OPTIMIZATIONS, Deployment
from resq_deploy.deployed.likeness import Likeness, coarse_shape
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.synthetic import inputs_digest
from resq_deploy.records import cpu_features

COUNT = 256
"""How many inputs of each kind - synthetic ones, calibration images - a sidecar keeps the logits of."""

_DTYPES: dict[str, type[np.generic]] = {"float32": np.float32, "uint8": np.uint8}
_MAX_VALUES = 2**28
"""More values than this no sidecar asks for; it could be damaged."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn:
    """Which calibration images: `count` of the data set's, drawn with `seed`."""

    dataset: str
    count: int
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """Logits kept for some inputs.

    Attributes:
        digest: SHA-256 of the inputs.
        logits: shape [N, C].
    """

    digest: str
    logits: NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """What a sidecar keeps of a file's answers.

    Attributes:
        inputs: the synthetic inputs, shape [N, ...].
        synthetic: the answers to them.
        drawn: which calibration images were run as well; None if there were none.
        calibration: the answers to them.
        deployment: how the file was run.
        machine: processor and runtime.
    """

    inputs: NDArray[Any]
    synthetic: Answers
    drawn: Drawn | None
    calibration: Answers | None
    deployment: Deployment
    machine: Mapping[str, Any]


def reference(
    model: bytes, images: NDArray[Any], deployment: Deployment, *, drawn: Drawn | None = None, count: int = COUNT
) -> dict[str, Any]:
    """Run a file on synthetic inputs and on calibration images: the sidecar's entry `verification`.

    Args:
        model: the serialised file.
        images: calibration images as the data set gives them, [N, ...]; the synthetic inputs are made like them.
        deployment: how to run it here, and on the machine that verifies.
        drawn: which images these are, so that they can be had again; None where the answers to them are not kept.
        count: how many inputs of each kind.

    Returns:
        JSON values: what makes the inputs again, their digests, the logits, and where they were computed.

    Raises:
        ModelError: if onnxruntime refuses the model.
        DataError: if the images do not fit the model.
    """
    session = Session(model, deployment)
    prepared = session.input.prepare(images)
    likeness = Likeness.of(prepared, count, seed=0)
    inputs, calibration = likeness.inputs(), prepared[:count]
    kept = None
    if drawn is not None:
        kept = {
            "dataset": drawn.dataset,
            "drawn": drawn.count,
            "seed": drawn.seed,
            "inputs_sha256": inputs_digest(calibration),
            "logits": packed(session.run(calibration)),
        }
    return {
        "synthetic": {
            "shape": list(likeness.shape),
            "dtype": np.dtype(likeness.dtype).name,
            "coarse": packed(likeness.coarse),
            "noise": likeness.noise,
            "low": likeness.low,
            "high": likeness.high,
            "seed": likeness.seed,
            "inputs_sha256": inputs_digest(inputs),
            "logits": packed(session.run(inputs)),
        },
        "calibration": kept,
        "deployment": deployment.identity(),
        "machine": this_machine(),
    }


def read_reference(entry: Mapping[str, Any]) -> Reference:
    """Read a sidecar's entry `verification`.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: if it is damaged.
        ModelError: if its provider is not there.
    """
    made, kept = entry["synthetic"], entry["calibration"]
    machine = {key: str(entry["machine"][key]) for key in ("onnxruntime", "machine")}
    inputs, synthetic = _made_again(made), _answers(made)
    drawn = calibration = None
    if kept is not None:
        drawn = Drawn(dataset=str(kept["dataset"]), count=_whole(kept["drawn"], 1), seed=_whole(kept["seed"], 0))
        calibration = _answers(kept)
        if calibration.logits.shape[1:] != synthetic.logits.shape[1:]:
            raise ValueError("its two kinds of inputs have other numbers of logits")
    return Reference(
        inputs=inputs,
        synthetic=synthetic,
        drawn=drawn,
        calibration=calibration,
        deployment=_deployment(entry["deployment"]),
        machine={
            **machine,
            "cpu_flags": list(map(str, entry["machine"]["cpu_flags"])),
            "saturates": bool(entry["machine"]["saturates"]),
        },
    )


def _made_again(entry: Mapping[str, Any]) -> NDArray[Any]:
    shape, coarse = tuple(_whole(size, 1) for size in entry["shape"]), unpacked(entry["coarse"], np.uint8)
    if not shape or len(coarse) * np.prod(shape, dtype=np.float64) > _MAX_VALUES:
        raise ValueError(f"its inputs cannot have the shape {list(shape)}")
    if not len(coarse) or coarse.shape[1:] != coarse_shape(shape):
        raise ValueError(f"its patterns have the shape {list(coarse.shape)}")
    inputs = Likeness(
        shape=shape,
        dtype=_DTYPES[entry["dtype"]],
        coarse=coarse,
        noise=_whole(entry["noise"], 0),
        low=float(entry["low"]),
        high=float(entry["high"]),
        seed=_whole(entry["seed"], 0),
    ).inputs()
    if inputs_digest(inputs) != entry["inputs_sha256"]:
        raise ValueError("its inputs cannot be made again: their digest is another")
    if len(unpacked(entry["logits"], np.float32)) != len(inputs):
        raise ValueError(f"its logits are no table of {len(inputs)} rows")
    return inputs


def _answers(entry: Mapping[str, Any]) -> Answers:
    logits = unpacked(entry["logits"], np.float32)
    if logits.ndim != 2 or not logits.size:
        raise ValueError("its logits are no table")
    return Answers(digest=str(entry["inputs_sha256"]), logits=logits)


def _deployment(entry: Mapping[str, Any]) -> Deployment:
    batch, threads, optimization = _whole(entry["batch"], 1), _whole(entry["threads"], 0), entry["optimization"]
    if optimization not in OPTIMIZATIONS:
        raise ValueError(f"no session runs at optimisation {optimization!r}")
    return Deployment(
        providers=tuple(entry["providers"]),
        optimization=optimization,
        batch=batch,
        threads=threads,
        arithmetic=Arithmetic(entry["arithmetic"]),
    )


def _whole(value: Any, least: int) -> int:
    if int(value) != value or value < least:
        raise ValueError(f"{value!r} is no whole number from {least} up")
    return int(value)


def packed(values: NDArray[Any]) -> dict[str, Any]:
    """Return an array as JSON values: shape, and its bytes, least significant first, in base64."""
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return {"shape": list(values.shape), "base64": base64.b64encode(little.tobytes()).decode("ascii")}


def unpacked(entry: Mapping[str, Any], dtype: type[np.generic]) -> NDArray[Any]:
    """Return what `packed` took.

    Raises:
        KeyError, TypeError, ValueError: if it is damaged.
    """
    data = base64.b64decode(entry["base64"], validate=True)
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(entry["shape"]).astype(dtype)


def this_machine() -> dict[str, Any]:
    """Return what decides how products are computed: processor and runtime, and whether its kernels saturate."""
    return {
        "onnxruntime": ort.__version__,
        "machine": platform.machine(),
        "cpu_flags": cpu_features(),
        "saturates": Deployment().saturates,
    }
