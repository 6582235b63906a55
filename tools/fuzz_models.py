"""Throw mutated model files at resq-deploy: each must be used or refused in one line.

Each file is loaded, run and injected with a few faults in a process of its own kind, with a limit on memory and time.
Anything but a clean answer (a traceback, a crash, a hang, more than 1 GB of memory) is listed, its file kept, and the
exit status is 1. Needs Linux or macOS.

Example:
  python tools/fuzz_models.py --count 2000 --seed 1 --keep fuzz-findings
"""

import argparse
import collections
import contextlib
import json
import math
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

import numpy as np
import onnx
from fuzz_sources import CLASSES, EXTERNAL, SOUND
from google.protobuf.message import Message
from onnx import TensorProto

MEMORY = 1 << 30  # resident bytes a file may take
ADDRESS_SPACE = 4 << 30  # onnxruntime reserves far more than it uses
SECONDS = 10


# --------------------------------------------------------------------------------------------------------- mutators
def _on_graph(change: Callable[[random.Random, onnx.ModelProto], None]) -> Callable[[random.Random, bytes], bytes]:
    def mutate(rng: random.Random, data: bytes) -> bytes:
        model = onnx.ModelProto.FromString(data)
        change(rng, model)
        return bytes(model.SerializeToString())

    return mutate


def truncated(rng: random.Random, data: bytes) -> bytes:
    """Cut the file off."""
    return data[: rng.randrange(len(data))]


def random_bytes(rng: random.Random, data: bytes) -> bytes:
    """Overwrite a few bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 2, 5, 20])):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def shifted(rng: random.Random, data: bytes) -> bytes:
    """Remove, insert or double a stretch of bytes."""
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.choice([1, 4, 50]))
    return data[:start] + rng.choice([b"", rng.randbytes(4), data[start:stop] * 2]) + data[stop:]


def _tensor(rng: random.Random, model: onnx.ModelProto) -> onnx.TensorProto:
    tensor: onnx.TensorProto = rng.choice(model.graph.initializer)
    return tensor


def swapped_type(rng: random.Random, model: onnx.ModelProto) -> None:
    """Give a tensor another element type."""
    _tensor(rng, model).data_type = rng.randrange(30)


def _dims(rng: random.Random, model: onnx.ModelProto, sizes: list[int]) -> None:
    tensor = _tensor(rng, model)
    if tensor.dims and rng.random() < 0.7:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(sizes)
    else:
        tensor.dims.append(rng.choice(sizes))
    if rng.random() < 0.3:
        tensor.ClearField("raw_data")


def huge_dims(rng: random.Random, model: onnx.ModelProto) -> None:
    """Claim a huge dimension."""
    _dims(rng, model, [1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1])


def negative_dims(rng: random.Random, model: onnx.ModelProto) -> None:
    """Claim a negative or empty dimension."""
    _dims(rng, model, [-1, -(1 << 62), 0])


def cyclic(rng: random.Random, model: onnx.ModelProto) -> None:
    """Let a node read what a node makes, itself included."""
    reader, maker = rng.choice(model.graph.node), rng.choice(model.graph.node)
    if reader.input:
        reader.input[rng.randrange(len(reader.input))] = maker.output[0]


def rewired(rng: random.Random, model: onnx.ModelProto) -> None:
    """Let a node read any value, make any value, or read nothing."""
    values = [name for node in model.graph.node for name in (*node.input, *node.output)] + ["", "nobody"]
    node = rng.choice(model.graph.node)
    names = node.output if rng.random() < 0.3 or not node.input else node.input
    names[rng.randrange(len(names))] = rng.choice(values)


def other_operator(rng: random.Random, model: onnx.ModelProto) -> None:
    """Swap an operator, drop a node, or repeat one."""
    place = rng.randrange(len(model.graph.node))
    kind = rng.randrange(3)
    if kind == 0:
        names = [
            "Conv",
            "Gemm",
            "Add",
            "Where",
            "DequantizeLinear",
            "QLinearConv",
            "QLinearAdd",
            "Nonsense",
            "",
            "Resize",
        ]
        model.graph.node[place].op_type = rng.choice(names)
    elif kind == 1:
        del model.graph.node[place]
    else:
        model.graph.node.append(model.graph.node[place])


def bad_attribute(rng: random.Random, model: onnx.ModelProto) -> None:
    """Change a number in an attribute."""
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    if attributes:
        attribute = rng.choice(attributes)
        value = rng.choice([-1, 0, 7, 1 << 10, 1 << 40, -(1 << 63)])
        if attribute.ints:
            attribute.ints[rng.randrange(len(attribute.ints))] = value
        else:
            attribute.i = value


def bad_values(rng: random.Random, model: onnx.ModelProto) -> None:
    """Fill a tensor with NaN, extremes or random bytes: shapes, indices and scales among them."""
    tensor = _tensor(rng, model)
    size = len(tensor.raw_data)
    tensor.raw_data = rng.choice([b"\xff" * size, b"\x7f" * size, bytes(size), rng.randbytes(size)])


def bad_input(rng: random.Random, model: onnx.ModelProto) -> None:
    """Change what the model says it takes."""
    taken = model.graph.input[0].type.tensor_type
    if rng.random() < 0.3:
        taken.elem_type = rng.randrange(25)
    taken.shape.dim[rng.randrange(4)].dim_value = rng.choice([-1, 0, 1, 7, 1 << 20, 1 << 40])


def bad_external(rng: random.Random, model: onnx.ModelProto) -> None:
    """Point external data elsewhere."""
    tensor = _tensor(rng, model)
    tensor.data_location = TensorProto.EXTERNAL
    if not tensor.external_data:
        tensor.external_data.add(key="location", value=EXTERNAL)
    entry = rng.choice(tensor.external_data)
    paths = ["../x", "/etc/passwd", "/dev/zero", "", ".", "no", "a\0b", "x" * 5000, EXTERNAL]
    numbers = ["-1", "99999999999999999999", "1", "x", "", "1e3"]
    entry.value = rng.choice(paths if entry.key == "location" else numbers)


MUTATORS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "truncated": truncated,
    "random_bytes": random_bytes,
    "shifted": shifted,
    **{
        change.__name__: _on_graph(change)
        for change in (
            swapped_type,
            huge_dims,
            negative_dims,
            cyclic,
            rewired,
            other_operator,
            bad_attribute,
            bad_values,
            bad_input,
            bad_external,
        )
    },
}


def write_mutants(folder: pathlib.Path, count: int, seed: int) -> list[pathlib.Path]:
    """Write mutated files, a third of them mutated twice, and the external data they may read."""
    (folder / EXTERNAL).write_bytes(bytes(192 * CLASSES * 4))
    rng = random.Random(seed)
    sound = [make().SerializeToString() for make in SOUND]
    paths = []
    for number in range(count):
        name = list(MUTATORS)[number % len(MUTATORS)]
        data = rng.choice(sound)
        if rng.random() < 0.33:
            data = MUTATORS[rng.choice(list(MUTATORS)[3:])](rng, data)
        paths.append(folder / f"{number:05d}-{name}.onnx")
        paths[-1].write_bytes(MUTATORS[name](rng, data))
    return paths


# ------------------------------------------------------------------------------------------------------------ judging
def _use(path: pathlib.Path) -> str:
    """Load a file, run it and inject a few faults; return `used` or why it is refused."""
    from resq_deploy.deployed.advice import warnings_for
    from resq_deploy.deployed.deployment import Deployment
    from resq_deploy.deployed.model import DeployedModel
    from resq_deploy.deployed.runtime_errors import first_line
    from resq_deploy.deployed.session import Session
    from resq_deploy.errors import InputError
    from resq_deploy.faults.fault import Edit, Fault

    images = np.random.default_rng(0).random((3, 3, 8, 8), dtype=np.float32)
    try:
        model = DeployedModel.load(path)
        warnings_for(model)
        patcher = model.patcher()
        session = Session(patcher.golden, Deployment())
        inputs = session.input.prepare(images)
    except InputError as error:
        return f"refused: {error}" if "\n" not in str(error) else f"more than one line: {error}"
    try:
        session.run(inputs)
    except Exception as error:  # onnxruntime's exceptions have no common base
        return f"refused in the run: {first_line(error)}"
    found = sum(surface.bits for surface in model.surfaces) + sum(left.bits for left in model.left_out)
    shared = any(len(surface.sites) > 1 for surface in model.surfaces)  # two tensors on one range of external bytes
    if found > _stored_bits(model.proto) or (found < _stored_bits(model.proto) and not shared):
        return f"{found} bits accounted for, {_stored_bits(model.proto)} stored"
    for number, surface in enumerate(model.surfaces[:4]):
        fault = Fault(number, (Edit.of(surface.tensor, [surface.elements - 1], [surface.width - 1]),))
        faulty = patcher.apply(patcher.masks(fault))
        patcher.prove(fault, faulty)
        with contextlib.suppress(Exception):  # what a faulty file does, it may do
            Session(faulty, Deployment()).run(inputs)
    return "used"


def _stored_bits(message: Message) -> int:
    """Return how many bits the tensors and the floats in attributes of a model take."""
    from resq_deploy.deployed.tensors import WIDTHS

    if isinstance(message, TensorProto):
        width = WIDTHS.get(message.data_type)
        other = 8 * (len(message.raw_data) + sum(map(len, message.string_data)))
        return other if width is None else width * math.prod(message.dims)
    bits = 0
    if isinstance(message, onnx.AttributeProto):
        bits = 32 * (message.HasField("f") + len(message.floats))
    for field, value in message.ListFields():
        if field.message_type is not None:
            bits += sum(map(_stored_bits, value if field.is_repeated else [value]))
    return bits


def _peak_bytes() -> int:
    """Return the largest resident size since this program began; `ru_maxrss` would count its parent's, too."""
    status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def check(paths: list[pathlib.Path]) -> None:
    """Judge files one after the other in this process, a JSON line each; what kills the process is the parent's."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    for path in paths:
        signal.alarm(SECONDS)
        try:
            verdict = _use(path)
        except Exception as error:
            verdict = f"traceback: {type(error).__name__}: {error}"
        signal.alarm(0)
        peak = _peak_bytes()
        print(json.dumps({"file": path.name, "verdict": verdict, "peak": peak}), flush=True)


def judge(paths: list[pathlib.Path]) -> Iterator[dict[str, str | int]]:
    """Judge files in child processes, a new one after each that dies."""
    waiting = list(paths)
    while waiting:
        command = [sys.executable, __file__, "--check", *map(str, waiting)]
        child = subprocess.run(command, capture_output=True, text=True, errors="replace")
        results = [json.loads(line) for line in child.stdout.splitlines() if line.startswith('{"file"')]
        yield from results
        waiting = waiting[len(results) :]
        if waiting:
            died = "hang" if child.returncode == -signal.SIGALRM else f"died with {child.returncode}"
            last = child.stderr.strip().splitlines()[-1:] or [""]
            yield {"file": waiting.pop(0).name, "verdict": f"{died}: {last[0]}", "peak": 0}


def is_clean(result: dict[str, str | int]) -> bool:
    """Return whether a file was used, or refused in one line, within the memory allowed."""
    return str(result["verdict"]).startswith(("used", "refused")) and int(result["peak"]) <= MEMORY


def main() -> int:
    """Fuzz, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="how many mutated files (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument("--keep", type=pathlib.Path, help="folder to keep the files in that went wrong")
    parser.add_argument("--check", nargs="+", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.check:
        check(options.check)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        results = list(judge(write_mutants(folder, options.count, options.seed)))
        findings = [result for result in results if not is_clean(result)]
        for result in findings:
            print(f"{result['file']}: {result['verdict']} (peak {int(result['peak']) >> 20} MB)")
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / str(result["file"]), options.keep)
    verdicts = collections.Counter(str(result["verdict"]).split(":")[0] for result in results)
    peak = max((int(result["peak"]) for result in results), default=0)
    print(f"{len(results)} files: {dict(verdicts)}; peak memory {peak >> 20} MB; {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
