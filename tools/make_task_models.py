#!/usr/bin/env python3
"""Make a small network of another task than classification, with its data: something to try all commands on.

`detector` finds handwritten digits on a canvas, `segmenter` says which digit each pixel belongs to, `tagger` which part
of speech each word of a sentence is, from int64 tokens. Into the folder go

  NAME.float.onnx   the trained network
  NAME.npz          its data: an array called as the network's input, and labels; the same with _train at the end
  tagger.int8.onnx  of the tagger, what onnxruntime's own dynamic quantizer makes of it

The detector and the segmenter become int8 by `resq-deploy export-int8`. A network takes less than half a minute of one
core. The same seed gives the same network and data.

Examples:
  python tools/make_task_models.py detector --work tasks
  python tools/make_task_models.py tagger --work tasks
"""

import argparse
import logging
import pathlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from command_line import with_one_line_errors
from onnxruntime.quantization import QuantType, quantize_dynamic
from tasks.training import TASKS, Part, Task, make_parts, train, write_float


def make(name: str, work: pathlib.Path, *, training: int, test: int, epochs: int | None, seed: int) -> pathlib.Path:
    """Write a network and its data.

    Args:
        name: one of `TASKS`.
        work: folder; made if it is not there.
        training: samples to train on.
        test: samples to test on.
        epochs: of training; None for the task's own.
        seed: of everything.

    Returns:
        The float file.
    """
    task = TASKS[name]
    work.mkdir(parents=True, exist_ok=True)
    seen, unseen = make_parts(task, training, test, seed)
    network = train(task, seen, epochs=task.epochs if epochs is None else epochs, seed=seed)
    path = work / f"{name}.float.onnx"
    write_float(task, network, seen[0][:2], path)
    _write_data(task, seen, unseen, work / f"{name}.npz")
    if name == "tagger":
        with _quiet():
            quantize_dynamic(path, work / f"{name}.int8.onnx", weight_type=QuantType.QInt8)
    return path


def _write_data(task: Task, seen: Part, unseen: Part, path: pathlib.Path) -> None:
    arrays: dict[str, Any] = {task.input: unseen[0], "labels": unseen[1]}
    arrays |= {f"{task.input}_train": seen[0], "labels_train": seen[1]}
    np.savez_compressed(path, **arrays)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's advice, which comes on the root logger, off the terminal."""
    before = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(before)


@with_one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=TASKS)
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder to write into")
    parser.add_argument("--training", type=int, default=2000, help="samples to train on [default: 2000]")
    parser.add_argument("--test", type=int, default=500, help="samples to test on [default: 500]")
    parser.add_argument("--epochs", type=int, help="passes over them [default: 12, 8, 4]")
    parser.add_argument("--seed", type=int, default=0, help="[default: 0]")
    given = parser.parse_args(argv)
    for option in ("training", "test", "epochs"):
        value = getattr(given, option)
        if value is not None and value < 1:
            parser.error(f"--{option} {value}: give a whole number from 1 up")
    path = make(given.name, given.work, training=given.training, test=given.test, epochs=given.epochs, seed=given.seed)
    print(f"{path}: {path.stat().st_size:,} bytes; data beside it in {given.name}.npz")
    return 0


if __name__ == "__main__":
    sys.exit(main())
