"""How tests share a machine; the command line; a small but real classifier, made without torch."""

import contextlib
import os
import pathlib
import subprocess
import sys

import hypothesis
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy import cli
from resq_deploy.cores import usable_cores
from resq_deploy.data import load_dataset, to_model_input
from resq_deploy.quantization.export import ExportOptions, export_int8

MOST_WORKERS = 8  # each holds PyTorch and onnxruntime: more of them want memory rather than cores

# No test is judged by the time it takes: this machine may be slow, or busy with something else.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One for each core this process may use; pytest-xdist's own count knows neither affinity nor hyperthreads."""
    return min(len(usable_cores()), MOST_WORKERS)


def pytest_xdist_setupnodes(config: pytest.Config, specs: list) -> None:
    """Give every worker, and what it starts, its share of the cores for PyTorch and BLAS."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(usable_cores()) // len(specs))))


@pytest.fixture
def resq(monkeypatch, capsys):
    """Run `resq-deploy` in this process; return exit status, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["resq-deploy", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


HALTING = """
import importlib, os, signal, sys
from resq_deploy.cli import main


def halt(module, place, calls):
    *path, name = place.split(".")
    owner = importlib.import_module(module)
    for part in path:
        owner = getattr(owner, part)
    original, left = getattr(owner, name), iter(range(calls - 1, -1, -1))

    def halting(*arguments, **keywords):
        result = original(*arguments, **keywords)
        if next(left, None) == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        return result

    setattr(owner, name, halting)


if __name__ == "__main__":  # and not in workers that this process spawns
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background ignores
    halt(sys.argv.pop(1), sys.argv.pop(1), int(sys.argv.pop(1)))
    main()
"""


@pytest.fixture(scope="session")
def halting(tmp_path_factory: pytest.TempPathFactory):
    """Return a function that gives a script and its arguments: `resq-deploy` that stops after calls of a function.

    It then is in the middle of its work, however fast the machine may be; SIGCONT alone makes it go on.
    """
    script = tmp_path_factory.mktemp("halting") / "halting.py"
    script.write_text(HALTING)

    def words(function, calls, *arguments):
        return [str(script), *function.split(":"), str(calls), *map(str, arguments)]

    return words


@pytest.fixture
def halted(halting):
    """Return a function that starts such a script and gives the process once it has stopped."""
    running = contextlib.ExitStack()

    def start(function, calls, *arguments, **settings):
        call = [sys.executable, *halting(function, calls, *arguments)]
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        process = running.enter_context(subprocess.Popen(call, text=True, **streams, **settings))
        running.callback(process.kill)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            pytest.fail(f"it ended before {function} was called {calls} times: {process.stderr.read()}")
        return process

    with running:
        yield start


def convolutional_classifier(readout: np.ndarray, offset: np.ndarray) -> onnx.ModelProto:
    """Fixed random 3x3 features at stride 4, then a linear read-out: images [N, 3, 32, 32] to logits [N, 10]."""
    rng = np.random.default_rng(7)
    kernels = rng.normal(size=(12, 3, 3, 3)).astype(np.float32)
    parameters = {
        "conv.weight": kernels - kernels.mean(axis=(1, 2, 3), keepdims=True),
        "conv.bias": np.full(12, 0.1, np.float32),
        "fc.weight": readout.astype(np.float32),
        "fc.bias": offset.astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["input", "conv.weight", "conv.bias"], ["c"], "conv", strides=[4, 4]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Flatten", ["r"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["logits"], "fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", readout.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in parameters.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture(scope="session")
def digits_float(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A float file that reads digits, its read-out fitted by ridge regression."""
    train = load_dataset("digits").train
    images = to_model_input(train.images)
    probe = convolutional_classifier(np.zeros((12 * 64, 10)), np.zeros(10))
    probe.graph.output.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, ["batch", 12 * 64]))
    session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    features = session.run(["f"], {"input": images})[0].astype(np.float64)
    centred = features - features.mean(axis=0)
    targets = np.eye(10)[train.labels] - 0.1
    readout = np.linalg.solve(centred.T @ centred + 10.0 * np.eye(features.shape[1]), centred.T @ targets)
    path = tmp_path_factory.mktemp("models") / "digits.onnx"
    onnx.save(convolutional_classifier(8 * readout, -8 * features.mean(axis=0) @ readout), path)
    return path


@pytest.fixture(scope="session")
def digits_int8(digits_float: pathlib.Path) -> pathlib.Path:
    """The same file, exported by us: QDQ, int8 weights per channel, uint8 activations."""
    path = digits_float.with_name("digits.int8.onnx")
    options = ExportOptions(calibration_images=100)
    path.write_bytes(export_int8(digits_float, load_dataset("digits"), options, described="test").int8_file)
    return path
