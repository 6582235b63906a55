"""What is wrong is told before what takes time: torch, the images of a data set, the file run on them.

Not by a clock, which tells more of the machine than of the work, but by its order: all commands are run in one process
in which importing torch, decoding an image and starting a campaign are noted.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

FILE = pathlib.Path(__file__).parents[2] / "models" / "resnet8-digits-baseline.int8.onnx"

NOTED = """
import builtins, contextlib, io, json, pathlib, sys
from resq_deploy.cli import main

touched = []
plain = builtins.__import__

def importing(name, *rest, **named):
    if name.split(".")[0] in ("torch", "torchvision"):
        touched.append(name)
    return plain(name, *rest, **named)

builtins.__import__ = importing

def watch(module, *names):
    held = __import__(module, fromlist=["_"])
    for name in names:
        def noted(*values, kept=getattr(held, name), name=f"{module}.{name}", **named):
            touched.append(name)
            return kept(*values, **named)
        setattr(held, name, noted)

watch("resq_deploy.data.folder", "decode")
watch("resq_deploy.data.sources", "_digits")
watch("resq_deploy.campaign.run", "golden_run")
watch("resq_deploy.pipeline.attack", "classifier_run")

results = []
for arguments in json.loads(sys.stdin.read()):
    sys.argv[1:], said, status = arguments, io.StringIO(), None
    before = sorted(path.name for path in pathlib.Path().iterdir())
    touched.clear()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            main()
    except SystemExit as ended:
        status = ended.code
    left = sorted({path.name for path in pathlib.Path().iterdir()} - {*before, "__pycache__"})
    results.append({"status": status, "said": said.getvalue(), "touched": list(touched), "left": left})
print(json.dumps(results))
"""

DIGITS = ("--dataset", "digits", "--out", "out")
PHOTOS = ("--dataset", "photos", "--out", "out")
ONNX = ("--dataset", "photos", "--out", "out.onnx")
EARLY = {
    "faultcamp": [
        (("none.onnx", *DIGITS), "none.onnx"),
        (("net.onnx", "--dataset", "digit", "--out", "out"), "did you mean digits"),
        (("net.onnx", *DIGITS, "--judge", "foo"), "no judge 'foo'"),
        (("net.onnx", *DIGITS, "--judge", "map:part=1"), "cannot read 'part=1'"),
        (("net.onnx", *DIGITS, "--judge", "nowhere:judge"), "cannot import 'nowhere'"),
        (("net.onnx", *DIGITS, "--roles", "weights"), "unknown role"),
        (("net.onnx", *DIGITS, "--bits", "x"), "--bits 'x'"),
        (("net.onnx", *DIGITS, "--ber", "x"), "--ber 'x'"),
        (("net.onnx", *DIGITS, "--margin", "2"), "--margin 2.0"),
        (("net.onnx", *DIGITS, "--samples", "0"), "--samples 0"),
        (("net.onnx", *DIGITS, "--images", "0"), "--images 0"),
        (("net.onnx", *DIGITS, "--layers", "nothing*"), "nothing*"),
        (("net.onnx", *DIGITS, "--fault-list", "none.csv"), "cannot read fault list"),
        (("net.onnx", *DIGITS, "--refine", "none"), "none"),
        (("net.onnx", *DIGITS, "--fail-above", "sdc3=1"), "metrics are"),
        (("net.onnx", *DIGITS, "--samples", "9", "--fail-above", "sdc1=0.01"), "cannot pass"),
        (("net.onnx", *DIGITS, "--mean", "0.5"), "--mean and --std go together"),
        (("net.onnx", *DIGITS, "--provider", "None"), "no provider 'None'"),
        (("net.onnx", *DIGITS, "--scheduler", "nowhere"), "--scheduler"),
        (("net.onnx", "--dataset", "photos", "--out", "photos"), "not empty"),
        (("net.onnx", *DIGITS, "--resum"), "No such option"),
    ],
    "attackcamp": [
        (("none.onnx", *DIGITS), "none.onnx"),
        (("net.onnx", "--dataset", "nowhere", "--out", "out"), "nowhere"),
        (("net.onnx", *DIGITS, "--attacks", "pgd"), "unknown attack 'pgd'"),
        (("net.onnx", *DIGITS, "--epsilon", "x"), "--epsilon 'x'"),
        (("net.onnx", *DIGITS, "--with-faults", "none.csv", "--attacks", "square"), "cannot read fault list"),
        (("net.onnx", *DIGITS, "--with-faults", "2", "--attacks", "square"), "bit error rate"),
        (("net.onnx", *DIGITS, "--attacks", "bit-flip", "--bit-flip-target", "ten"), "has no such class"),
        (("net.onnx", *DIGITS, "--attacks", "bit-flip", "--bit-flip-roles", "x"), "--bit-flip-roles"),
        (("net.onnx", *DIGITS, "--surrogate", "none.pt"), "none.pt"),
        (("net.onnx", *DIGITS, "--weights", "w.pth"), "say with --network"),
        (("net.onnx", *DIGITS, "--fail-below", "robust@3=0.4"), "robust@3"),
        (("net.onnx", *DIGITS, "--junit", "gates.xml"), "give --fail-below"),
        (("net.onnx", "--dataset", "photos", "--out", "photos"), "not empty"),
    ],
    "export-int8": [
        (("none.onnx", *ONNX), "none.onnx"),
        (("net.onnx", "--dataset", "photos", "--out", "out"), "must end in .onnx"),
        (("none.pt", *ONNX), "none.pt"),
        (("net.onnx", "--dataset", "nowhere", "--out", "out.onnx"), "nowhere"),
        (("--weights", "w.pth", *ONNX), "say with --network"),
        (("net.onnx", *ONNX, "--judge", "foo"), "no judge 'foo'"),
        (("net.onnx", *ONNX, "--gate", "clean=x"), "--gate 'clean=x'"),
        (("net.onnx", *ONNX, "--health"), "--health"),
        (("net.onnx", *ONNX, "--activation-percentile", "x"), "--activation-percentile"),
        (("photos", *ONNX), "holds none of"),
    ],
    "protect": [
        (("none.onnx", "--out", "out.onnx"), "none.onnx"),
        (("net.onnx", "--out", "net.onnx"), "is MODEL itself"),
        (("net.onnx", "--out", "out.onnx", "--gate", "clean=1"), "give --dataset, too"),
        (("net.onnx", *ONNX, "--gate", "square=1"), "--gate 'square=1'"),
        (("net.onnx", *ONNX, "--guard-budget", "0.1"), "--guard-budget"),
        (("net.onnx", *ONNX, "--guard", "auto", "--guard-campaign", "none"), "none"),
    ],
    "train": [
        (("--network", "resnet9", *PHOTOS), "did you mean"),
        (("--network", "resnet8", "--dataset", "nowhere", "--out", "out"), "nowhere"),
        (("--network", "resnet8", *PHOTOS, "--weights", "none.pth"), "cannot read weights"),
        (("--network", "resnet8", *PHOTOS, "--init", "none.pt"), "cannot read checkpoint"),
        (("--network", "resnet8", *PHOTOS, "--stages", "all"), "all"),
        (("--network", "resnet8", *PHOTOS, "--epsilon", "-1"), "epsilon"),
        (("--network", "resnet8", *PHOTOS, "--stem", "cifar"), "--stem cifar"),
        (("--network", "resnet8", *PHOTOS, "--mean", "0.5"), "--mean and --std go together"),
        (("--network", "resnet8", "--dataset", "photos", "--out", "photos"), "not empty"),
    ],
    "demo": [
        (("--network", "resnet9", *PHOTOS), "did you mean"),
        (("--network", "resnet8", "--dataset", "nowhere", "--out", "out"), "nowhere"),
        (("--network", "resnet8", *PHOTOS, "--weights", "none.pth"), "there is no such file"),
        (("--network", "resnet8", *PHOTOS, "--images", "0"), "--images 0"),
        ((*PHOTOS,), "give --network, too"),
    ],
    "inspect": [
        (("none.onnx",), "none.onnx"),
        (("net.onnx", "--dataset", "photos"), "--dataset goes with --verify"),
    ],
    "scrub": [
        (("none.onnx",), "none.onnx"),
        (("net.onnx",), "neither codes nor votes"),
        (("net.onnx", "--bake", "net.onnx"), "that is the protected file itself"),
    ],
    "selftest": [
        (("none.onnx", "--dataset", "digits", "--campaign", "none", "--out", "b.npz"), "none.onnx"),
        (("net.onnx", "--dataset", "digits", "--campaign", "none", "--out", "b.npz"), "none is not a run folder"),
        (("net.onnx", "--dataset", "digits", "--campaign", "none", "--out", "net.onnx"), "must end in .npz"),
        (("net.onnx", "--dataset", "digits", "--campaign", "none", "--out", "b.npz", "--images", "0"), "--images 0"),
        (("net.onnx", "--dataset", "digits"), "--campaign is missing"),
        (("net.onnx", "--check", "none.npz"), "none.npz cannot be read"),
        (("none.onnx", "--check", "none.npz"), "none.npz cannot be read"),
    ],
    "report": [
        (("none", "--out", "out.html"), "none"),
        (("photos", "--out", "photos"), "is a folder"),
    ],
    "study": [
        (("none", "--out", "out"), "none"),
        (("demo", "--profile", "none", "--out", "out"), "no profile 'none'"),
        (("demo", "--cells", "none", "--out", "out"), "no cell matches"),
        (("demo", "--jobs", "999", "--out", "out"), "--jobs"),
    ],
    "guide": [(("figure",), "did you mean figures")],
}
CASES = [(command, arguments, words) for command, given in EARLY.items() for arguments, words in given]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an int8 file, and images of ten classes."""
    folder = tmp_path_factory.mktemp("refused")
    (folder / "net.onnx").write_bytes(FILE.read_bytes())
    for label in range(10):
        (folder / "photos" / f"class{label}").mkdir(parents=True)
        for number in range(5):
            pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / f"class{label}" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def refused(place):
    """What came of each case, all run in one process."""
    lines = json.dumps([[command, *arguments] for command, arguments, _ in CASES])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", NOTED], input=lines, capture_output=True, text=True, cwd=place
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[" ".join((name, *given)) for name, given, _ in CASES])
def test_a_slip_is_told_before_anything_that_takes_time(refused, number):
    found, words = refused[number], CASES[number][2]
    assert found["status"] == 2, found
    assert words in found["said"]
    assert found["said"].count("\n") == 1
    assert found["touched"] == []
    assert found["left"] == []


def test_every_command_is_tried():
    from resq_deploy.cli import _COMMANDS

    assert {*_COMMANDS} <= {*EARLY}
