"""Check that an ONNX file, or a session over it, gives known answers: numpy and onnxruntime alone.

    python BUNDLE.npz MODEL.onnx        a bundle carries a copy of this module and runs it

In a program that holds a session already, at start-up or from time to time:

    sys.path.insert(0, "BUNDLE.npz")    # a bundle is an archive that Python imports from
    import known_answers
    bundle = known_answers.Bundle("BUNDLE.npz")
    for difference in known_answers.differences(bundle, session):
        ...                             # a line each; none: all answers are as known

Exit status: 0 all answers are the known ones; 1 some are not, or the file cannot be loaded or run; 2 it cannot be told
here, as the bundle or the file is missing, or this CPU sums 8-bit products otherwise than the answers want.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Iterator  # noqa: UP035 - as Python 3.8 has it

import numpy as np
import onnxruntime as ort

SCHEMA = 1
SAME, DIFFERENT, UNKNOWN = 0, 1, 2  # exit statuses
HEADER = "bundle.json"
_OURS = ("run", "trial")  # what arrays are called; further members of the archive are no arrays
INT32, SATURATING, ANY = "int32", "saturating", "any"  # sums of 8-bit products that the answers want
_LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


class BundleError(ValueError):
    """A bundle that cannot be used, or not on this CPU, in one line."""


class Bundle:
    """Known answers, read from a path or an open file.

    `header` says what there is; `arrays` holds inputs, answers and trials of the CPU, by name.
    """

    def __init__(self, path: Any) -> None:
        try:
            with np.load(path, allow_pickle=False) as archive:
                self.header: dict[str, Any] = json.loads(archive[HEADER])
                if self.header["schema"] != SCHEMA:
                    raise BundleError(f"{path} has schema version {self.header['schema']}, this check reads {SCHEMA}")
                self.arrays = {name: archive[name] for name in archive.files if name.startswith(_OURS)}
        except BundleError:
            raise
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error
        except Exception as error:  # whatever a broken archive leads to
            raise BundleError(f"{path} is no bundle of known answers ({type(error).__name__}: {error})") from error


def session_of(bundle: Bundle, model: str | bytes, optimization: str | None = None) -> ort.InferenceSession:
    """Return a session with this CPU's own kernels, as the bundle says that the file is run."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = _LEVELS[optimization or bundle.header["optimization"]]
    return ort.InferenceSession(model, options, providers=bundle.header["providers"])


def saturates(bundle: Bundle) -> bool:
    """Return whether kernels that the file is run with saturate sums of 8-bit products here; tried out."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    for trial in bundle.header["trials"]:
        model = bundle.arrays[f"{trial}.model"].tobytes()
        session = ort.InferenceSession(model, options, providers=bundle.header["providers"])
        (found,) = session.run(None, {session.get_inputs()[0].name: bundle.arrays[f"{trial}.in"]})
        if found.tobytes() != bundle.arrays[f"{trial}.out"].tobytes():
            return True
    return False


def unfit(bundle: Bundle) -> str | None:
    """Return why this CPU's own kernels cannot give the known answers; None where they can."""
    wanted = bundle.header["sums"]
    if wanted == ANY or (wanted == SATURATING) == saturates(bundle):
        return None
    if wanted == INT32:
        return (
            "the known answers are those of exact sums, and this CPU (x86 without VNNI) saturates sums of 8-bit "
            "products: run the file by resq-deploy with --arithmetic exact, or make the bundle on such a CPU from a "
            "campaign with --arithmetic native"
        )
    return "the known answers are those of a CPU that saturates sums of 8-bit products, and this one does not"


def differences(bundle: Bundle, session: Any) -> Iterator[str]:
    """Yield a line for every output of a run that is not the known one, within its tolerance.

    `session` is anything with the `run` of onnxruntime's sessions. A run that fails is a difference, too.
    """
    outputs, states = bundle.header["outputs"], bundle.header["states"]
    names = list(dict.fromkeys([output["name"] for output in outputs] + [state["output"] for state in states]))
    for number, run in enumerate(bundle.header["runs"]):
        carried = {state["input"]: bundle.arrays[f"run{number}.start{at}"] for at, state in enumerate(states)}
        for step in range(run["steps"]):
            place = f"run {number}" if run["steps"] == 1 else f"run {number}, step {step}"
            feeds = {name: bundle.arrays[f"run{number}.{step}.in{at}"] for at, name in enumerate(run["inputs"])}
            try:
                made = dict(zip(names, session.run(names, {**feeds, **carried})))  # noqa: B905 - Python 3.8
            except Exception as error:  # onnxruntime's exceptions have no common base
                yield f"{place}: the file does not run: {_first_line(error)}"
                return
            carried = {state["input"]: made[state["output"]] for state in states}
            for at, output in enumerate(outputs):
                apart = _apart(bundle.arrays[f"run{number}.{step}.out{at}"], made[output["name"]], output["tolerance"])
                if apart:
                    yield f"{place}: output {output['name']!r} {apart}"


def _apart(known: Any, found: Any, tolerance: float) -> str | None:
    """Return how an output differs from the known one; None where it does not."""
    found = np.asarray(found)
    if known.dtype.kind == "U":
        return None if found.shape == known.shape and (found.astype(str) == known).all() else "is another text"
    if found.shape != known.shape or found.dtype != known.dtype:
        return f"is {found.dtype} {list(found.shape)}, not {known.dtype} {list(known.shape)}"
    with np.errstate(all="ignore"):
        gaps = np.abs(found.astype(np.float64) - known.astype(np.float64))
    if (gaps <= tolerance).all():  # NaN is not
        return None
    return f"differs by up to {gaps.max():.3g}, tolerance {tolerance:.3g}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


def main(arguments: list[str]) -> int:
    """Check a file as the command line says; return the exit status."""
    if len(arguments) != 2:
        print("usage: python BUNDLE.npz MODEL.onnx", file=sys.stderr)  # noqa: T201 - it is the command line
        return UNKNOWN
    path, model = arguments
    try:
        bundle = Bundle(path)
        reason = unfit(bundle) if os.path.isfile(model) else f"there is no file {model}"  # noqa: PTH113
    except BundleError as error:
        reason = str(error)
    if reason:
        print(f"cannot be told: {reason}", file=sys.stderr)  # noqa: T201
        return UNKNOWN
    try:
        found = list(differences(bundle, session_of(bundle, model)))
    except Exception as error:  # as above
        found = [f"the file cannot be loaded: {_first_line(error)}"]
    for line in found:
        print(line)  # noqa: T201
    runs = len(bundle.header["runs"])
    print(f"{model}: {'other' if found else 'the known'} answers in {runs} runs")  # noqa: T201
    return DIFFERENT if found else SAME
