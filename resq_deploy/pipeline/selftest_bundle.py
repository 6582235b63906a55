"""The bundle of a known-answer self-test: an .npz of inputs and golden outputs that carries the program to check them.

What runs on a device is `deployed.known_answers`, of which the bundle holds a copy: Python runs the archive, and
imports from it. The toolkit checks by the same code, in a session of its own arithmetic.
"""

import dataclasses
import io
import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto

from resq_deploy.campaign.golden import Golden
from resq_deploy.deployed import kernels, known_answers
from resq_deploy.deployed.arithmetic import Arithmetic, Form
from resq_deploy.deployed.deployment import OPTIMIZATIONS, Deployment, create
from resq_deploy.deployed.graph import open_model
from resq_deploy.deployed.inputs import Batch, Inputs
from resq_deploy.deployed.known_answers import ANY, HEADER, INT32, SATURATING, SCHEMA, Bundle, BundleError, differences
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.saturation import saturating_layers
from resq_deploy.errors import ModelError, OptionError
from resq_deploy.records import provenance

_MODULE = "known_answers.py"
_MAIN = "import sys\n\nimport known_answers\n\nsys.exit(known_answers.main(sys.argv))\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checked:
    """What came of a check.

    Attributes:
        differences: a line for every answer that is another one; empty where all are as known.
        runs: how many runs were made.
        arithmetic: in which the file was run.
        same_file: whether the file is, byte by byte, the one that the bundle was made from.
    """

    differences: tuple[str, ...]
    runs: int
    arithmetic: str
    same_file: bool

    @property
    def passed(self) -> bool:
        """Whether all answers are the known ones."""
        return not self.differences

    @property
    def line(self) -> str:
        """The same in one line."""
        file = "the file is the bundle's" if self.same_file else "the file is another than the bundle's (SHA-256)"
        if self.passed:
            return f"the known answers in {self.runs} runs, in {self.arithmetic} arithmetic; {file}"
        more = f" and {len(self.differences) - 1} more" if len(self.differences) > 1 else ""
        return f"other answers in {self.arithmetic} arithmetic: {self.differences[0]}{more}; {file}"

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"passed": self.passed, **dataclasses.asdict(self), "differences": list(self.differences)}


def bundle(
    model: DeployedModel,
    file: bytes,
    golden: Golden,
    chosen: list[int],
    tolerance: float,
    report: Mapping[str, Any],
) -> bytes:
    """Return a bundle.

    Args:
        model: the file under test.
        file: the same serialised, as it is run.
        golden: its fault-free run.
        chosen: which of the samples the bundle holds; they are run one by one, unless the file takes several at a time.
        tolerance: of each output, as a share of its largest golden magnitude.
        report: what is known of the choice.
    """
    deployment = dataclasses.replace(golden.deployment, batch=1)
    session = create(file, deployment)
    arrays, runs = dict[str, NDArray[Any]](), list[dict[str, Any]]()
    inputs = golden.inputs[np.array(chosen)]
    for number, batch in enumerate(inputs.batches(1)):
        runs.append(_add_run(arrays, number, batch, inputs, session, list(golden.outputs)))
    sums, trials = _sums(file, deployment)
    names = [f"trial{number}" for number in range(len(trials))]
    for name, (layer, fed, expected) in zip(names, trials, strict=True):
        arrays |= {f"{name}.model": np.frombuffer(layer, np.uint8), f"{name}.in": fed, f"{name}.out": expected}
    header = {
        "schema": SCHEMA,
        "model": {"name": model.path.name, "sha256": model.digest},
        "optimization": deployment.optimization,
        "providers": list(deployment.providers),
        "sums": sums,
        "trials": names,
        "outputs": [{"name": name, "tolerance": tolerance * golden.scales[name]} for name in golden.outputs],
        "states": [{"input": state.input, "output": state.output} for state in inputs.states],
        "runs": runs,
        "made_with": provenance(),
        "self_test": dict(report),
    }
    return packed(header, arrays)


def packed(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return an archive that numpy reads and Python runs; the same for the same, byte by byte."""
    members = {
        "__main__.py": _MAIN.encode(),
        _MODULE: pathlib.Path(known_answers.__file__).read_bytes(),
        HEADER: json.dumps(header, indent=2, allow_nan=False).encode(),
    }
    for name, values in arrays.items():
        stream = io.BytesIO()
        np.lib.format.write_array(stream, np.ascontiguousarray(values), allow_pickle=False)
        members[f"{name}.npy"] = stream.getvalue()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def levels_passed(written: bytes, file: bytes, deployment: Deployment) -> list[str]:
    """Return the levels of optimisation at which the fault-free file gives the answers of a bundle."""
    known, passed = Bundle(io.BytesIO(written)), []
    for level in OPTIMIZATIONS:
        try:
            session = create(file, dataclasses.replace(deployment, optimization=level))
        except ModelError:
            continue
        if not any(differences(known, session)):
            passed.append(level)
    return passed


def check(path: pathlib.Path, model: pathlib.Path, arithmetic: Arithmetic | None = None) -> Checked:
    """Hold a file's answers against those of a bundle.

    Args:
        path: the bundle.
        model: the file, damaged or not.
        arithmetic: in which to run it; None for that of the bundle.

    Raises:
        InputError: if one of them is missing or the bundle is unusable, or its answers cannot be had here.
    """
    try:
        known = Bundle(path)
        usual = Arithmetic.NATIVE if known.header["sums"] == SATURATING else Arithmetic.EXACT
        arithmetic = arithmetic or usual
        reason = _unfit(known, arithmetic)
    except BundleError as error:
        raise ModelError(str(error)) from error
    if reason:
        raise OptionError(f"{path}: {reason}")
    if not model.is_file():
        raise ModelError(f"there is no file {model}")
    header, same_file = known.header, False
    try:
        opened = open_model(model)
        same_file = opened.digest == header["model"]["sha256"]
        deployment = Deployment(
            providers=tuple(header["providers"]), optimization=header["optimization"], arithmetic=arithmetic
        )
        found = tuple(differences(known, create(opened.model.SerializeToString(), deployment)))
    except ModelError as error:  # a fault may do that
        found = (f"the file cannot be loaded: {error}",)
    return Checked(differences=found, runs=len(header["runs"]), arithmetic=str(arithmetic), same_file=same_file)


def _unfit(known: Bundle, arithmetic: Arithmetic) -> str | None:
    if arithmetic == Arithmetic.NATIVE:
        return known_answers.unfit(known)
    if known.header["sums"] == SATURATING:
        return "its answers are those of a CPU that saturates sums of 8-bit products: leave --arithmetic exact out"
    return None


def _add_run(
    arrays: dict[str, NDArray[Any]],
    number: int,
    batch: Batch,
    inputs: Inputs,
    session: ort.InferenceSession,
    outputs: list[str],
) -> dict[str, Any]:
    """Run a batch, add what it takes and gives to the arrays, and return how it is run."""
    names = list(dict.fromkeys([*outputs, *(state.output for state in inputs.states)]))
    carried = dict(batch.start)
    for at, state in enumerate(inputs.states):
        arrays[f"run{number}.start{at}"] = batch.start[state.input]
    steps = batch.steps or (batch.feeds,)
    for step, feeds in enumerate(steps):
        made = dict(zip(names, session.run(names, {**feeds, **carried}), strict=True))
        carried = {state.input: made[state.output] for state in inputs.states}
        for kind, values in (("in", list(feeds.values())), ("out", [made[name] for name in outputs])):
            for at, value in enumerate(values):
                array = np.asarray(value)
                arrays[f"run{number}.{step}.{kind}{at}"] = array.astype(str) if array.dtype == object else array
    return {"steps": len(steps), "inputs": list(steps[0])}


def _sums(file: bytes, deployment: Deployment) -> tuple[str, list[Any]]:
    """Return which sums of 8-bit products the answers want, and trials that tell those of a CPU."""
    layers = saturating_layers(file, deployment)
    if not layers:
        return ANY, []
    signed, unsigned = int(TensorProto.INT8), int(TensorProto.UINT8)
    forms: list[Form] = [
        (name, signed, unsigned) if name == "ConvInteger" else (name, unsigned, signed)
        for name in dict.fromkeys(layer.operator for layer in layers)
    ]
    native = deployment.arithmetic == Arithmetic.NATIVE and deployment.saturates
    return SATURATING if native else INT32, [
        trial for form in forms for trial in kernels.trials(form, deployment.providers)
    ]
