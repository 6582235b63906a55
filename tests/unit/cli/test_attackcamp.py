"""`resq-deploy attackcamp` as a user meets it."""

import functools
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

QUICK = ("--dataset", "digits", "--images", "60", "--steps", "5", "--queries", "30", "--workers", "1")


@pytest.fixture
def resq(resq):
    """Run `resq-deploy attackcamp`."""
    return functools.partial(resq, "attackcamp")


def test_a_campaign_prints_what_it_did(resq, digits_int8, tmp_path):
    out = tmp_path / "run"
    status, printed, err = resq(digits_int8, *QUICK, "--epsilon", "4,12", "--out", out)
    assert status == 0, err
    assert "square, twin-pgd: linf 4, 12/255, 60 images, 30 queries, 5 steps, seed 0" in printed
    assert "clean accuracy" in printed
    assert "Robust accuracy by epsilon, linf, 1/255" in printed
    assert "worst case" in printed
    assert "check black_box: passed" in printed
    assert "check transfer: not run (no transfer attack was asked for" in printed
    assert "trustworthy: no check failed" in printed
    assert {path.name for path in out.iterdir()} >= {"manifest.json", "summary.json", "adversarial"}
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["status"] == "done"
    assert manifest["options"]["epsilon"] == ["4", "12"]


def test_black_box_only_is_said_to_be_an_upper_bound(resq, digits_int8, tmp_path):
    arguments = (*QUICK, "--attacks", "square", "--norm", "l2", "--epsilon", "2", "--out", tmp_path / "run")
    gates, junit = ("--fail-below", "robust@2=0.01", "--fail-below", "clean=0.9"), tmp_path / "gates.xml"
    status, printed, err = resq(digits_int8, *arguments, *gates, "--junit", junit)
    assert status == 1
    assert re.search(r"^gate robust@2=0.01: passed \(.*; an upper bound: no attack had the grad", printed, re.MULTILINE)
    assert re.fullmatch(r"resq-deploy: --fail-below clean=0.9: .*, bound 90 %; the lower end is below the bound\n", err)
    robust, clean = json.loads((tmp_path / "run" / "summary.json").read_text())["gates"]
    assert (robust["passed"], clean["passed"]) == (True, False)
    assert [case.find("failure") is None for case in ElementTree.parse(junit).getroot()[0]] == [True, False]
    assert "Robust accuracy by epsilon, l2, pixels" in " ".join(printed.split())
    assert "robust accuracy is an upper bound" in printed


def test_corruptions_stand_by_themselves(resq, digits_int8, tmp_path):
    arguments = ("--dataset", "digits", "--images", "40", "--workers", "1", "--attacks", "corruptions", "--norm", "l2")
    gates = ("--fail-below", "corruptions@5=0.9", "--fail-below", "corruptions=0.1")
    faults = ("--with-faults", "1e-3", "--fault-chips", "2")
    status, printed, err = resq(digits_int8, *arguments, *gates, *faults, "--out", tmp_path / "run")
    assert status == 1
    assert "corruptions: five severities, 40 images, seed 0" in printed
    assert "Accuracy by severity, CIFAR-10-C" in printed
    assert "mean corruption accuracy" in printed
    assert "Robust accuracy" not in printed
    assert "severity 5" in printed  # a row of the matrix
    assert re.search(r"^gate corruptions=0.1: passed \(", printed, re.MULTILINE)
    assert "note: --norm: corruptions have severities from 1 to 5 and no radius" in err
    assert re.search(r"--fail-below corruptions@5=0.9: .*bound 90 %; the lower end is below the bound", err)


def test_a_failed_check_is_said_aloud(resq, digits_int8, tmp_path):
    model = onnx.load(digits_int8)
    add = [
        helper.make_node("QuantizeLinear", [model.graph.output[0].name, "narrow", "middle"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "narrow", "middle"], ["level"]),
        helper.make_node("Mul", ["level", "factor"], ["hidden"]),
    ]
    model.graph.node.extend(add)
    numbers = {"narrow": np.float32(0.5 / 127), "middle": np.int8(0), "factor": np.float32(200)}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(value), key) for key, value in numbers.items())
    model.graph.output[0].name = "hidden"
    onnx.save(model, tmp_path / "masked.onnx")
    arguments = (*QUICK, "--epsilon", "12", "--out", tmp_path / "run", "--fail-below", "robust=0")
    status, printed, err = resq(tmp_path / "masked.onnx", *arguments)
    assert status == 1  # though no share is below 0
    assert "bound 0 %; not trustworthy: check" in err
    assert re.search(r"^check \w+: FAILED \(.+\)$", printed, re.MULTILINE)
    assert "NOT TRUSTWORTHY" in printed


@pytest.fixture
def refused(resq):
    """Run a command that must be refused: status 2, one line on standard error, nothing on standard output."""

    def run(*arguments):
        status, out, err = resq(*arguments)
        assert status == 2, err
        assert out == ""
        assert len(err.splitlines()) == 1, err
        return err

    return run


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--attacks", "pgd"), "unknown attack 'pgd'; attacks are square, hopskipjump, transfer-pgd"),
        (("--epsilon", "0"), "--epsilon 0: give radii above 0"),
        (("--epsilon", "2;4"), "--epsilon '2;4': give numbers, such as 2,4,8"),
        (("--norm", "l1"), "'l1' is not one of"),
        (("--queries", "1"), "--queries 1: give a whole number from 3 up"),
        (("--images", "0"), "--images 0: give a whole number from 1 up"),
        (("--attacks", "transfer-pgd"), "give --surrogate CHECKPOINT"),
        (("--fail-below", "robust@3=0.4"), "the radii of this campaign are 2, 4, 8"),
        (("--junit", "gates.xml"), "give --fail-below"),
        (("--surrogate", "nowhere.pt"), "no such file or folder: nowhere.pt"),
        (("--weights", "w.pth"), "say with --network what they are of"),
        (("--weights", "w.pth", "--surrogate", "a.pt"), "both say what the float network is"),
        (("--mean", "0.5"), "--mean and --std go together"),
        (("--std", "0", "--mean", "0"), "--std above 0"),
    ],
    ids=" ".join,
)
def test_wrong_options(refused, digits_int8, tmp_path, given, words):
    assert words in refused(digits_int8, "--dataset", "digits", "--out", tmp_path / "run", *given)
    assert not (tmp_path / "run").exists()


def test_no_file(refused, tmp_path):
    assert "cannot read" in refused("nowhere.onnx", "--dataset", "digits", "--out", tmp_path / "run")


def test_a_folder_of_something_else(refused, digits_int8, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    assert "not empty" in refused(digits_int8, *QUICK, "--out", tmp_path / "run")
    assert "no manifest.json" in refused(digits_int8, *QUICK, "--out", tmp_path / "run", "--resume")


def test_other_classes(refused, digits_int8, tmp_path):
    np.savez(
        tmp_path / "set.npz", images=np.zeros((9, 32, 32, 3), np.uint8), labels=np.arange(9), classes=list("abcdefghi")
    )
    assert "the model has 10 classes" in refused(
        digits_int8, "--dataset", tmp_path / "set.npz", "--out", tmp_path / "run"
    )


BARE = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ("art", "torch") else super().find_spec(name, path, target)

sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
from resq_deploy.cli import main
main()
"""


@pytest.mark.parametrize(
    ("attacks", "words"),
    [
        ((), "the attack twin-pgd (--attacks square does without) needs the extra 'train': pip install"),
        (("--attacks", "hopskipjump"), "needs the extra 'attacks': pip install 'resq-deploy[attacks]'"),
        (("--attacks", "square"), ""),
        (("--attacks", "corruptions"), ""),
    ],
)
def test_a_core_install(digits_int8, tmp_path, attacks, words):
    call = [sys.executable, "-c", BARE, "attackcamp", digits_int8, *QUICK, *attacks, "--out", tmp_path / "run"]
    done = subprocess.run(list(map(str, call)), capture_output=True, text=True)
    if words:
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert words in done.stderr
    else:
        assert done.returncode == 0, done.stderr
