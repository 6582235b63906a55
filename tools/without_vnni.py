#!/usr/bin/env python
"""Run a command as on an x86 CPU without VNNI and AVX-512, whatever this one has. Linux, with a C compiler.

onnxruntime, numpy and PyTorch then take the kernels of a CPU that has AVX2 alone: those that saturate sums of uint8 x
int8 products. Exit status 3 says that it cannot be done here (another processor or system, a virtual machine that does
not pass CPUID faults on, no compiler), anything else is the command's own.

Examples:
  python tools/without_vnni.py python -m pytest tests/unit/deployed
  python tools/without_vnni.py resq-deploy inspect models/resnet8-digits-resq.int8.onnx --verify --arithmetic native
"""

import argparse
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(__file__).with_name("hide_vnni.c")
CANNOT = 3


def run(command: list[str]) -> int:
    """Run a command with VNNI hidden; return its exit status."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if platform.system() != "Linux" or platform.machine() != "x86_64" or compiler is None:
        print("this needs Linux on x86-64 and a C compiler", file=sys.stderr)
        return CANNOT
    with tempfile.TemporaryDirectory(prefix="without-vnni-") as folder:
        library = pathlib.Path(folder) / "hide_vnni.so"
        build = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
        if subprocess.run(build, check=False).returncode:
            return CANNOT
        before = os.environ.get("LD_PRELOAD")
        preload = f"{library}:{before}" if before else str(library)
        return subprocess.run(command, check=False, env={**os.environ, "LD_PRELOAD": preload}).returncode


def main() -> int:
    """Parse the command line and run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run, with its arguments")
    command = parser.parse_args().command
    if not command:
        parser.error("give a command")
    return run(command)


if __name__ == "__main__":
    sys.exit(main())
