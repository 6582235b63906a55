"""What the reports of all benchmarks begin with: how they were called, and on which machine."""

import argparse
import contextlib
import importlib.metadata
import os
import pathlib
import platform
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from resq_deploy.cores import usable_cores
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.errors import InputError, RunFolderError
from resq_deploy.records import provenance, read_json, write_json

_BESIDE = ("dask", "distributed", "pytorchfi", "adversarial-robustness-toolbox")
"""Packages that some benchmark measures or measures against."""


def begin(
    tool: str,
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    schema: int,
    resumes: Callable[[argparse.Namespace], bool] = lambda _: False,
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Parse a benchmark's command line and write the head of its report to `--out`.

    A place that cannot be written is found before anything is measured. Of a benchmark that can be resumed, the
    `networks` of an unfinished report stay in the file, and are in the head: a kill at any moment loses none.

    Args:
        tool: the benchmark's file name.
        parser: of the benchmark; knows `--out`.
        argv: what was given; None: as the process was called.
        schema: version of the report.
        resumes: whether what was given can be resumed, and so has `--resume`.

    Returns:
        What was given, and the head.

    Raises:
        ResqError: if the report cannot be written, or cannot be resumed.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    given = parser.parse_args(words)
    bare = [re.sub(r"[^=,]*/", "", word) for word in words]  # folders differ from machine to machine
    command = shlex.join(["python", f"tools/{tool}", *bare])
    report = {"schema": schema, "command": command, "machine": _machine()}
    if resumes(given) and given.out.is_file():
        report["networks"] = _earlier(given.out, report, resume=given.resume)
    write_json(given.out, {**report, "complete": False})
    return given, report


def _earlier(path: pathlib.Path, now: Mapping[str, Any], *, resume: bool) -> dict[str, Any]:
    """Return what a report in the place of a new one holds of networks, if that is gone on with.

    Raises:
        InputError: if it is none to go on with, or would be lost.
    """
    if not resume:
        with contextlib.suppress(RunFolderError, KeyError, TypeError):  # whatever else lies there
            earlier = read_json(path)
            if not earlier["complete"] and earlier["networks"]:
                raise InputError(f"{path} is a report with measurements, unfinished: give --resume, or another --out")
        return {}
    earlier = read_json(path)
    if not isinstance(earlier, dict) or earlier.get("schema") != now["schema"] or "machine" not in earlier:
        raise InputError(f"{path} is no report of this benchmark that --resume can go on with: give another --out")
    for name in ("cpu", "cores", "saturates", "versions"):
        if earlier["machine"].get(name) != now["machine"][name]:
            raise InputError(f"{path}: {name} of this machine is not what it was; give another --out")
    return dict(earlier.get("networks", {}))


def told(machine: Mapping[str, Any]) -> str:
    """Name a machine in one phrase: processor, cores, whether its own kernels saturate, and onnxruntime."""
    kind = "saturates" if machine["saturates"] else "does not saturate"
    runtime = machine["versions"]["onnxruntime"]
    return f"{machine['cpu']}, {machine['cores']} cores, which {kind} sums of uint8 x int8; onnxruntime {runtime}"


def _machine() -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    info = pathlib.Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text(encoding="utf-8") if info.exists() else "")
    about = provenance()
    for package in _BESIDE:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            about["versions"][package] = importlib.metadata.version(package)
    return {
        "cpu": next(iter(names), platform.processor()),
        "cores": len(usable_cores()),
        "saturates": Deployment().saturates,
        "load": os.getloadavg()[0],
        **about,
    }
