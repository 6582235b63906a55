"""Checking on this machine that a file answers as it did where it was exported.

The sidecar of an export names the file's SHA-256 and keeps its logits on seeded synthetic inputs; both are held against
the file here. Integer kernels differ between processors (without VNNI, x86 saturates sums of products in 16 bits), and
so do float kernels and versions of onnxruntime.
"""

import dataclasses
import enum
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import RUNTIME_ERRORS, Deployment, Session, first_line
from resq_deploy.deployed.synthetic import DTYPES, inputs_digest, synthetic_inputs, this_machine
from resq_deploy.errors import ModelError, RunFolderError
from resq_deploy.faults.outcomes import top1
from resq_deploy.records import read_json

OPTIMIZATIONS = ("all", "extended", "basic", "none")
_VNNI = {"avx512_vnni", "avx_vnni"}
_X86 = {"x86_64", "AMD64"}
_MAX_VALUES = 2**28
"""More values than this no sidecar asks for; it could be damaged."""


class Verdict(enum.StrEnum):
    """How a file answers here, held against where it was exported."""

    IDENTICAL = "identical"
    SAME_CLASSES = "same classes"
    DIFFERS = "differs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verification:
    """What came of a check.

    Attributes:
        verdict: `identical` (all logits bit-equal), `same classes` (top-1 of every input) or `differs`.
        reason: why it is not `identical`, in one line; empty where it is.
        inputs: how many inputs the file was run on; 0 where it was not run, since it is not the file of the sidecar.
        bit_equal: of them, how many have bit-equal logits.
        same_top1: of them, how many have the same top-1.
        max_difference: largest difference of a logit, None where not run; infinite where only one of them is finite.
        exported: processor and runtime where the logits of the sidecar were computed.
        here: the same of this machine.
    """

    verdict: Verdict
    reason: str = ""
    inputs: int = 0
    bit_equal: int = 0
    same_top1: int = 0
    max_difference: float | None = None
    exported: Mapping[str, Any]
    here: Mapping[str, Any]

    @property
    def line(self) -> str:
        """The result in one line."""
        if not self.inputs:
            return f"{self.verdict}: {self.reason}"
        counts = f"logits bit-equal on {self.bit_equal} and top-1 equal on {self.same_top1} of {self.inputs} inputs"
        return f"{self.verdict}: {counts}" + (f"; {self.reason}" if self.reason else "")

    def as_dict(self) -> dict[str, Any]:
        """Return the result as the JSON object `inspect --json --verify` prints; an infinite difference is null."""
        finite = self.max_difference is not None and np.isfinite(self.max_difference)
        return {**dataclasses.asdict(self), "max_difference": self.max_difference if finite else None}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Expected:
    """What a sidecar says: SHA-256 of the file, inputs [N, ...], logits [N, C], how and where they were computed."""

    sha256: str
    inputs: NDArray[Any]
    logits: NDArray[np.float32]
    deployment: Deployment
    machine: Mapping[str, Any]

    @classmethod
    def read(cls, path: pathlib.Path) -> Self:
        """Read a sidecar.

        Raises:
            InputError: if it is missing, broken, or has no logits.
        """
        if not path.is_file():
            raise ModelError(f"there is no sidecar {path}: --verify needs it beside the model, copy it along")
        sidecar = read_json(path)
        if isinstance(sidecar, dict) and "model" in sidecar and "verification" not in sidecar:
            raise ModelError(f"the sidecar {path} holds no logits to verify against: export the model anew")
        try:
            return cls._parse(sidecar["model"]["sha256"], sidecar["verification"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(
                f"the sidecar {path} is damaged ({type(error).__name__}: {error}): copy it anew"
            ) from error

    @classmethod
    def _parse(cls, sha256: str, entry: Mapping[str, Any]) -> Self:
        shape = [int(size) for size in entry["shape"]]
        if len(shape) < 2 or min(shape) < 1 or np.prod(shape, dtype=np.float64) > _MAX_VALUES:
            raise ValueError(f"its inputs cannot have the shape {shape}")
        inputs = synthetic_inputs(shape, DTYPES[entry["dtype"]], seed=int(entry["seed"]))
        logits = np.array([[float(value) for value in row] for row in entry["logits"]], dtype=np.float32)
        if logits.ndim != 2 or len(logits) != len(inputs):
            raise ValueError(f"its logits are no table of {len(inputs)} rows")
        if inputs_digest(inputs) != entry["inputs_sha256"]:
            raise ValueError("its inputs cannot be made again: their digest is another")
        machine = {key: str(entry["machine"][key]) for key in ("onnxruntime", "machine")}
        return cls(
            sha256=str(sha256),
            inputs=inputs,
            logits=logits,
            deployment=_deployment(entry["deployment"]),
            machine={**machine, "cpu_flags": list(map(str, entry["machine"]["cpu_flags"]))},
        )


def _deployment(entry: Mapping[str, Any]) -> Deployment:
    batch, threads, optimization = int(entry["batch"]), int(entry["threads"]), entry["optimization"]
    if batch < 1 or threads < 0 or optimization not in OPTIMIZATIONS:
        raise ValueError(f"no session runs at optimisation {optimization!r}, batch {batch}, {threads} threads")
    return Deployment(providers=tuple(entry["providers"]), optimization=optimization, batch=batch, threads=threads)


def sidecar_of(model: pathlib.Path) -> pathlib.Path:
    """Return where the sidecar of a file lies: beside it, as `.json`."""
    return model.with_suffix(".json")


def source_checkpoint(model: DeployedModel) -> str | None:
    """Return the SHA-256 of the checkpoint a file was exported from; None where no sidecar of this very file says."""
    path = sidecar_of(model.path)
    try:
        sidecar: Any = read_json(path) if path.is_file() else None
    except RunFolderError:
        return None
    try:
        found = sidecar["checkpoint"] if sidecar["model"]["sha256"] == model.digest else None
    except (KeyError, TypeError):  # an older sidecar, or some other JSON file
        return None
    return found if isinstance(found, str) else None


def verify(model: DeployedModel) -> Verification:
    """Run a file on the synthetic inputs of its sidecar, and hold its logits against those kept there.

    Args:
        model: the file; its sidecar lies beside it.

    Raises:
        InputError: if the sidecar is missing, damaged or without logits, or onnxruntime refuses the file.
    """
    expected = _Expected.read(sidecar_of(model.path))
    here = this_machine()
    data = model.path.read_bytes()
    if hashlib.sha256(data).hexdigest() != expected.sha256:
        return Verification(
            verdict=Verdict.DIFFERS,
            reason=f"{model.path.name} is not the file its sidecar belongs to, or was changed: its SHA-256 is another",
            exported=expected.machine,
            here=here,
        )
    session = Session(data, expected.deployment)
    try:
        logits = session.run(session.input.prepare(expected.inputs))
    except RUNTIME_ERRORS as error:
        raise ModelError(f"{model.path}: onnxruntime cannot run it: {first_line(error)}") from error
    return _compare(expected.logits, logits, expected.machine, here)


def _compare(
    expected: NDArray[np.float32], found: NDArray[np.float32], exported: Mapping[str, Any], here: Mapping[str, Any]
) -> Verification:
    if expected.shape != found.shape:
        raise ModelError(f"the sidecar keeps {expected.shape[1]} logits an input, the file gives {found.shape[1]}")
    alike = (expected.view(np.uint32) == found.view(np.uint32)) | (np.isnan(expected) & np.isnan(found))
    with np.errstate(invalid="ignore"):  # between two infinities
        gaps = np.where(alike, 0.0, np.abs(expected.astype(np.float64) - found))
    largest = float(np.where(np.isnan(gaps), np.inf, gaps).max())
    bit_equal, same = int(alike.all(axis=1).sum()), int((top1(expected) == top1(found)).sum())
    if bit_equal == len(expected):
        verdict, reason = Verdict.IDENTICAL, ""
    else:
        verdict = Verdict.SAME_CLASSES if same == len(expected) else Verdict.DIFFERS
        reason = f"logits differ by up to {largest:.3g}, {_cause(exported, here)}"
    return Verification(
        verdict=verdict,
        reason=reason,
        inputs=len(expected),
        bit_equal=bit_equal,
        same_top1=same,
        max_difference=largest,
        exported=exported,
        here=here,
    )


def _cause(exported: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return what may make the difference, as far as it is known."""
    before, now = set(exported["cpu_flags"]), set(here["cpu_flags"])
    if {exported["machine"], here["machine"]} <= _X86 and bool(before & _VNNI) != bool(now & _VNNI):
        lacking = "this CPU" if before & _VNNI else "the CPU it was exported on"
        return f"since {lacking} has no VNNI and may saturate in 16 bits: export with --reduce-range to be safe"
    changes = [
        f"{key} {exported[key]} there and {here[key]} here"
        for key in ("onnxruntime", "machine")
        if exported[key] != here[key]
    ]
    if before != now:
        changes.append(f"CPU features {', '.join(sorted(before ^ now))} on one of the two machines only")
    return "with " + "; ".join(changes) if changes else "though processor and runtime are the same"
