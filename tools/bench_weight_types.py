#!/usr/bin/env python3
r"""Measure what exact weights cost on this CPU: int8, 7-bit int8 and uint8 files, run as onnxruntime's users run them.

The files of a network are written by our export, in one form each: int8 weights; 7-bit ones (--reduce-range); uint8
ones (--weight-type uint8); and the int8 file once more with onnxruntime's own switch, which turns its weights into
uint8 when it is loaded. They are run by onnxruntime itself, in one process, taking turns within each repeat, so that a
busy machine slows all of them; only ratios of times are told. Whether the kernels of this CPU saturate is tried out,
not read off a list of features.

To compare two kinds of CPU, give both the same --files: what lies there is not exported again, and calibration in
floats differs in the last bits from CPU to CPU.

Example:
  python tools/bench_weight_types.py resnet20=resnet20/fault.pt --dataset cifar10 --data-dir data --files files \
      --scheme ranges=fault-aware --out weight-types.json
"""

import argparse
import dataclasses
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import measure_export
import numpy as np
import onnx
import onnxruntime as ort
from bench_export import read_network, read_scheme
from bench_report import begin, told
from command_line import with_one_line_errors
from numpy.typing import NDArray

from resq_deploy.cores import usable_cores
from resq_deploy.data import load_dataset
from resq_deploy.data.dataset import Dataset
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.integer_share import integer_share
from resq_deploy.deployed.session import Session
from resq_deploy.errors import InputError, OptionError
from resq_deploy.faults.outcomes import top1
from resq_deploy.faults.statistics import share
from resq_deploy.progress import progress_bar
from resq_deploy.quantization.adjust import write_adjusted
from resq_deploy.records import read_json, sha256_file, write_json

SCHEMA = 1
SWITCH = "session.x64quantprecision"


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way to store and run the weights: its title, its file, the options of that file's export and of its session."""

    title: str
    file: str
    scheme: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    entries: Mapping[str, str] = dataclasses.field(default_factory=dict)


VARIANTS = {
    "int8": Variant("int8", "int8.onnx"),
    "reduced": Variant("int8, --reduce-range", "reduced.onnx", {"reduce_range": True}),
    "uint8": Variant("--weight-type uint8", "uint8.onnx", {"weight_type": "uint8"}),
    "switched": Variant(f"int8, {SWITCH}", "int8.onnx", entries={SWITCH: "1"}),
}
NUMBERS = (  # option, least value, default, meaning
    ("calibration-images", 1, 500, "training images for calibration"),
    ("test-images", 1, 10_000, "test images the accuracies are measured on"),
    ("timed-images", 1, 200, "of them, how many each variant is timed on at a time"),
    ("batch", 1, 50, "images in a batch, where the model leaves it open"),
    ("threads", 0, 0, "threads of a session; 0: as many as there are cores"),
    ("repeats", 1, 15, "how often each variant is timed"),
    ("seed", 0, 0, "seed of the calibration images"),
)
_MADE = "made.json"

Result = dict[str, Any]


class Bench:
    """The variants of one network on a data set.

    Args:
        given: the command line.
        dataset: calibrates and judges.
        source: checkpoint or float file.
        folder: where the exported files lie, or are to.
    """

    def __init__(self, given: argparse.Namespace, dataset: Dataset, source: str, folder: pathlib.Path) -> None:
        self._given = given
        self._test = dataset.evaluation(given.test_images)
        self._dataset = dataset
        self._files = _export(given, dataset, source, folder)
        probe = Session(self._files["int8"].read_bytes(), Deployment())
        self._input = probe.input
        self._size = probe.input.shape[0] or given.batch
        self._sessions = {name: self._open(name) for name in VARIANTS}

    def _open(self, name: str) -> ort.InferenceSession:
        """Open a variant as onnxruntime's users do: its defaults but for the threads and the variant's own entries."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._given.threads or len(usable_cores())
        options.log_severity_level = 3
        for key, value in VARIANTS[name].entries.items():
            options.add_session_config_entry(key, value)
        return ort.InferenceSession(str(self._files[name]), options, providers=["CPUExecutionProvider"])

    def _batches(self, images: NDArray[Any]) -> list[NDArray[Any]]:
        """Return images as the model takes them, in batches; of a fixed batch, what fills none is left out."""
        used = len(images)
        if self._input.shape[0] is not None:
            used -= used % self._size
        if not used:
            raise InputError(f"{len(images)} images do not fill the model's batch of {self._size}: give more")
        prepared = self._input.prepare(images[:used])
        return [prepared[start : start + self._size] for start in range(0, used, self._size)]

    def answers(self) -> Result:
        """Return accuracy, integer share and the share of answers that are not the exact ones, of each variant."""
        batches = self._batches(self._test.images)
        labels = self._test.labels[: sum(map(len, batches))]
        logits = {
            name: np.concatenate([session.run(None, {self._input.name: batch})[0] for batch in batches])
            for name, session in self._sessions.items()
        }
        self._dataset.check_outputs(logits["int8"].shape[1])
        exact = logits["uint8"]
        return {
            name: {
                "sha256": sha256_file(self._files[name]),
                "bytes": self._files[name].stat().st_size,
                "accuracy": share(int((top1(found) == labels).sum()), len(labels)).as_dict(),
                "other_answers": None
                if name == "reduced"  # its weights are others
                else share(int((top1(found) != top1(exact)).sum()), len(labels)).as_dict(),
                "bit_equal_to_uint8": bool(found.tobytes() == exact.tobytes()),
                "macs": integer_share(self._files[name].read_bytes(), Deployment(), batches[0][:1]).as_dict(),
            }
            for name, found in logits.items()
        }

    def time(self) -> dict[str, float]:
        """Return the seconds each variant takes for the timed images, one after the other."""
        batches = self._batches(self._test.images[: max(self._given.timed_images, self._size)])
        seconds = {}
        for name, session in self._sessions.items():
            begin = time.perf_counter()
            for batch in batches:
                session.run(None, {self._input.name: batch})
            seconds[name] = time.perf_counter() - begin
        self._sessions = dict(reversed(self._sessions.items()))  # so that a drift favours none
        return seconds


def _export(given: argparse.Namespace, dataset: Dataset, source: str, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Write the file of each variant, if they are not there yet; return where they lie.

    Raises:
        InputError: if those there were made otherwise.
    """
    files = {name: folder / variant.file for name, variant in VARIANTS.items()}
    made = {"source": sha256_file(pathlib.Path(source)), "scheme": read_scheme(given.scheme), "seed": given.seed}
    made |= {"data": dataset.digest("train"), "calibration_images": given.calibration_images}
    if (folder / _MADE).is_file():
        if read_json(folder / _MADE) != made:
            raise InputError(f"{folder} holds files made from something else, or otherwise: give another --files")
        return files
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {files[name]: variant.scheme for name, variant in VARIANTS.items()}
    model, spec = _float_model(given, source)
    calibration = dataset.calibration(given.calibration_images, given.seed)
    for path, extra in wanted.items():
        scheme = measure_export.scheme_of({**read_scheme(given.scheme), **extra})
        path.write_bytes(write_adjusted(model, calibration, spec, scheme)[0])
    write_json(folder / _MADE, made)
    return files


def _float_model(given: argparse.Namespace, source: str) -> tuple[onnx.ModelProto, Any]:
    """Return the prepared float model of a network, and what it takes."""
    with tempfile.TemporaryDirectory(prefix="resq-bench-") as place:
        prepared = pathlib.Path(place) / "float.onnx"
        job: dict[str, Any] = {
            "source": source,
            "prepared": str(prepared),
            "calibration": str(pathlib.Path(place) / "images.npz"),
        }
        job |= {"dataset": given.dataset, "data_dir": given.data_dir, "scheme": {}}
        measure_export.prepare({**job, "calibration_images": 1, "seed": given.seed})
        return onnx.load(prepared), Session(prepared.read_bytes(), Deployment()).input


def measure(given: argparse.Namespace, report: Result) -> None:
    """Take all measurements, and write the report after each network."""
    networks = dict(map(read_network, given.networks))
    for word in ("weight_type", "reduce_range"):
        if word in read_scheme(given.scheme):
            raise OptionError(f"--scheme {word}: the variants say this, leave it out")
    measure_export.scheme_of(read_scheme(given.scheme))
    for name, least, *_ in NUMBERS:
        value = getattr(given, name.replace("-", "_"))
        if value < least:
            raise InputError(f"--{name} {value}: give a whole number from {least} up")
    dataset = load_dataset(given.dataset, pathlib.Path(given.data_dir) if given.data_dir else None)
    with progress_bar("rounds") as progress, tempfile.TemporaryDirectory(prefix="resq-bench-") as place:
        task = progress.add_task("timing", total=len(networks) * given.repeats)
        for network, source in networks.items():
            bench = Bench(given, dataset, source, (given.files or pathlib.Path(place)) / network)
            variants = bench.answers()
            rounds = []
            for _ in range(given.repeats):
                rounds.append(bench.time())
                progress.advance(task)
            for name, found in variants.items():
                ratios = [seconds[name] / seconds["int8"] for seconds in rounds]
                found["time_to_int8"] = {
                    "median": statistics.median(ratios),
                    "low": min(ratios),
                    "high": max(ratios),
                    "raw": ratios,
                }
            report["networks"][network] = {"source": pathlib.Path(source).name, "variants": variants}
            write_json(given.out, report)


def table(report: Result) -> str:
    """Return the report as a Markdown table, a row a variant, and on what kind of CPU it was made."""
    header = ["network", "weights", "accuracy, %", "other answers than exact, %", "run time to int8"]
    rows = [header, ["---", "---", "---:", "---:", "---:"]]
    for network, figures in report["networks"].items():
        for name, variant in VARIANTS.items():
            found = figures["variants"][name]
            value, low, high = (100 * found["accuracy"][key] for key in ("value", "low", "high"))
            other, ratio = found["other_answers"], found["time_to_int8"]
            cells = [f"{value:.2f} [{low:.2f}, {high:.2f}]", "-" if other is None else f"{100 * other['value']:.2f}"]
            cells.append(f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]")
            rows.append([network, variant.title, *cells])
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    host, options = report["machine"], report["options"]
    images = next(iter(report["networks"].values()))["variants"]["int8"]["accuracy"]["n"]
    return (
        f"{lines}\n\n{told(host)}. {images} test images in batches of {options['batch']}, medians of "
        f"{options['repeats']} ratios with their extremes, all variants in turn in one process.\n"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="NET=CHECKPOINT.pt|FLOAT.onnx", help="what to export")
    parser.add_argument("--dataset", required=True, help="as for resq-deploy export-int8")
    parser.add_argument("--data-dir", help="where named data sets lie")
    parser.add_argument("--files", type=pathlib.Path, help="folder of the exported files, kept; what is there is used")
    for name, _, default, meaning in NUMBERS:
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{meaning} (default: {default})")
    parser.add_argument(
        "--scheme",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of all exports, such as ranges=fault-aware (default: those of export-int8)",
    )
    parser.add_argument("--out", required=True, help="JSON file to write, anew after each network", type=pathlib.Path)
    return parser


@with_one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write; return 2 if something given cannot be used."""
    given, head = begin("bench_weight_types.py", _parser(), argv, SCHEMA)
    options = {name.replace("-", "_"): getattr(given, name.replace("-", "_")) for name, *_ in NUMBERS}
    report: Result = {**head, "options": {**options, "scheme": given.scheme}}
    report |= {"complete": False, "networks": {}}
    measure(given, report)
    report["complete"] = True
    write_json(given.out, report)
    print(table(report), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
