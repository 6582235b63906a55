#!/usr/bin/env python3
"""Take one measurement of an int8 export in this process: a child of bench_export.py.

A measurement has a process of its own, since its peak memory is that of the process. The job is a JSON object as
`plan_jobs` of bench_export.py makes it; so is the result, on one line.

Example:
  python tools/measure_export.py '{"measure": "plain", "prepared": "float.onnx", "out": "plain.int8.onnx",
      "calibration": "images.npz", "batch": 50}'
"""

import argparse
import contextlib
import ctypes
import dataclasses
import gc
import json
import logging
import pathlib
import re
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from resq_deploy.cores import usable_cores
from resq_deploy.data import load_dataset
from resq_deploy.data.dataset import Dataset, Split
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.inputs import InputSpec
from resq_deploy.deployed.integer_share import integer_share
from resq_deploy.deployed.session import Session
from resq_deploy.errors import ModelError, OptionError, ResqError
from resq_deploy.faults.outcomes import top1
from resq_deploy.faults.statistics import share
from resq_deploy.quantization.adjust import write_adjusted
from resq_deploy.quantization.float_model import prepare_float_model
from resq_deploy.quantization.scheme import Scheme
from resq_deploy.records import sha256_file

_TEST_BATCH = 1000

Job = dict[str, Any]
Result = dict[str, Any]


def prepare(job: Job) -> Result:
    """Bring a network, checkpoint or float ONNX file, to what both quantizers start from; try out all that is given."""
    scheme_of(job["scheme"])
    source = pathlib.Path(job["source"])
    with tempfile.TemporaryDirectory() as folder:
        if source.suffix == ".pt":
            from resq_deploy.hardening.checkpoint import load_checkpoint
            from resq_deploy.hardening.trace import export_float_onnx

            checkpoint, source = load_checkpoint(source), pathlib.Path(folder) / "float.onnx"
            export_float_onnx(checkpoint, source)
        onnx.save(prepare_float_model(source), job["prepared"])
    calibration = _dataset(job).calibration(job["calibration_images"], job["seed"])
    session = Session(pathlib.Path(job["prepared"]).read_bytes(), Deployment())
    session.run(session.input.prepare(calibration.images[:1]))
    np.savez(job["calibration"], images=calibration.images, labels=calibration.labels)
    return {
        "file": pathlib.Path(job["source"]).name,
        "sha256": sha256_file(pathlib.Path(job["prepared"])),
        "bytes": pathlib.Path(job["prepared"]).stat().st_size,
        "calibration_images": len(calibration),
    }


def measure_ours(job: Job) -> Result:
    """Calibrate and quantize as resq-deploy export-int8 does, with the options of the job."""
    scheme = scheme_of(job["scheme"])
    model, spec, calibration = _loaded(job)
    with _measured(job) as result:
        int8, _ = write_adjusted(model, calibration, spec, scheme)
        pathlib.Path(job["out"]).write_bytes(int8)
    return result


def measure_plain(job: Job) -> Result:
    """Calibrate and quantize with onnxruntime alone, as its users do: QDQ, MinMax, int8 weights a channel, uint8."""
    model, spec, calibration = _loaded(job)
    logging.getLogger().setLevel(logging.ERROR)
    with _measured(job) as result:
        quantize_static(
            model,
            job["out"],
            Batches(calibration.images, spec, job["batch"]),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
    return result


class Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Gives calibration images so many at a time, as the readers of onnxruntime's tutorials do.

    Args:
        images: as the data set holds them, shape [N, ...].
        spec: what the model takes.
        batch: images at a time, where the model leaves it open.
    """

    def __init__(self, images: np.ndarray, spec: InputSpec, batch: int) -> None:
        self._parts = self._batches(images, spec, spec.shape[0] or batch)

    @staticmethod
    def _batches(images: np.ndarray, spec: InputSpec, batch: int) -> Iterator[Result]:
        for start in range(0, len(images) - len(images) % batch if spec.shape[0] else len(images), batch):
            yield {spec.name: spec.prepare(images[start : start + batch])}

    def get_next(self) -> Result | None:
        """Return the next batch by input name, or None after the last."""
        return next(self._parts, None)


def measure_quality(job: Job) -> Result:
    """Measure the accuracy of each file on test images, and how much of its arithmetic is integer."""
    dataset = _dataset(job)
    test = dataset.evaluation(job["test_images"])
    return {name: _quality(pathlib.Path(path).read_bytes(), dataset, test) for name, path in job["files"].items()}


def _quality(data: bytes, dataset: Dataset, test: Split) -> Result:
    session = Session(data, _every_core())
    logits = [
        session.run(session.input.prepare(test.images[start : start + _TEST_BATCH]))
        for start in range(0, len(test), _TEST_BATCH)
    ]
    dataset.check_outputs(logits[0].shape[1])
    right = top1(np.concatenate(logits)) == test.labels
    return {
        "bytes": len(data),
        "accuracy": share(int(right.sum()), len(test)).as_dict(),
        "macs": integer_share(data, Deployment(), session.input.prepare(test.images[:1])).as_dict(),
    }


def _every_core() -> Deployment:
    return Deployment(threads=len(usable_cores()))


def scheme_of(options: Mapping[str, Any]) -> Scheme:
    """Return the int8 form that options of `--scheme` ask for.

    Raises:
        OptionError: if there is no such option, or it makes no sense.
    """
    unknown = sorted(options.keys() - {field.name for field in dataclasses.fields(Scheme)})
    if unknown:
        raise OptionError(f"--scheme {unknown[0]}: export has no such option")
    return Scheme(**options)


def _dataset(job: Job) -> Dataset:
    return load_dataset(job["dataset"], pathlib.Path(job["data_dir"]) if job["data_dir"] else None)


def _loaded(job: Job) -> tuple[onnx.ModelProto, InputSpec, Split]:
    """Return the model, what it takes, and the calibration images: what is there before the work begins."""
    model = onnx.load(job["prepared"])
    spec = Session(model.SerializeToString(), Deployment()).input
    with np.load(job["calibration"]) as stored:
        return model, spec, Split(images=stored["images"], labels=stored["labels"])


@contextlib.contextmanager
def _measured(job: Job) -> Iterator[Result]:
    """Measure what is done inside: seconds, and peak memory above what was held before; then digest the file."""
    result: Result = {}
    before, begin, worked = _forget_peak(), time.perf_counter(), time.process_time()
    yield result
    result |= {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - worked}
    peak = _peak()
    result |= {"loaded_mb": before / 1e6, "peak_mb": peak / 1e6, "above_loaded_mb": (peak - before) / 1e6}
    result["sha256"] = sha256_file(pathlib.Path(job["out"]))


def _forget_peak() -> int:
    """Give back what loading left over, and return what this process holds, in bytes: from here on peaks count.

    Where the kernel cannot forget an earlier peak, it is that peak, behind which smaller ones hide.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps freed memory
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # see proc(5)
    return _peak()


def _peak() -> int:
    """Return the most memory this process has held since peaks count, in bytes."""
    status = pathlib.Path("/proc/self/status")
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text() if status.exists() else "", re.MULTILINE)
    if found:
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


MEASURES = {"prepare": prepare, "ours": measure_ours, "plain": measure_plain, "quality": measure_quality}


def answer(job: Job) -> Result:
    """Measure; an expected error becomes a result."""
    try:
        try:
            return MEASURES[job["measure"]](job)
        except OSError as error:
            raise ModelError(f"cannot read or write {error.filename}: {error.strerror}") from error
    except ResqError as error:
        return {"error": " ".join(str(error).split()), "status": error.exit_status}


def main() -> None:
    """Parse the command line, measure, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=json.loads, help="what to measure, as a JSON object")
    print(json.dumps(answer(parser.parse_args().job)))


if __name__ == "__main__":
    main()
