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
from collections.abc import Mapping, Sequence
from typing import Any

from resq_deploy.cores import usable_cores
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.records import provenance, write_json

_BESIDE = ("dask", "distributed", "pytorchfi", "adversarial-robustness-toolbox")
"""Packages that some benchmark measures or measures against."""


def begin(
    tool: str, parser: argparse.ArgumentParser, argv: Sequence[str] | None, schema: int
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Parse a benchmark's command line and write the head of its report to `--out`.

    A place that cannot be written is found before anything is measured.

    Args:
        tool: the benchmark's file name.
        parser: of the benchmark; knows `--out`.
        argv: what was given; None: as the process was called.
        schema: version of the report.

    Returns:
        What was given, and the head.

    Raises:
        ResqError: if the report cannot be written.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    given = parser.parse_args(words)
    bare = [re.sub(r"[^=,]*/", "", word) for word in words]  # folders differ from machine to machine
    command = shlex.join(["python", f"tools/{tool}", *bare])
    report = {"schema": schema, "command": command, "machine": _machine()}
    write_json(given.out, {**report, "complete": False})
    return given, report


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
