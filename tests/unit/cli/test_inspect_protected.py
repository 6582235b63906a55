"""What `inspect` says of a file with codes and votes: what covers each tensor, its price, and flips it holds."""

import hashlib
import json

import onnx
import pytest
from onnx import numpy_helper

from resq_deploy.codes.known import known_code
from resq_deploy.data import load_dataset
from resq_deploy.deployed.coded import coded_weights
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.graph import read_model
from resq_deploy.deployed.reference import reference
from resq_deploy.deployed.surfaces import Role, find_surfaces
from resq_deploy.protection.bake import bake
from resq_deploy.protection.guards import guard
from resq_deploy.protection.protect import protect


@pytest.fixture(scope="module")
def made(digits_int8):
    """The digits file with narrower weights; it with votes on biases; and with a code on the weights, too."""
    proto, _ = read_model(digits_int8)
    surfaces = find_surfaces(proto)
    weights = [found.tensor for found in surfaces if found.role is Role.WEIGHT]
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) >> 1, tensor.name))
    biases = [found.tensor for found in surfaces if found.role is Role.BIAS]
    guarded = onnx.ModelProto.FromString(guard(proto.SerializeToString(), biases))
    protected = protect(guarded, weights, known_code("secded"))
    health = protect(guarded, weights, known_code("secded"), health=True)
    return {"plain": proto, "votes": guarded, "codes": protected, "health": health}, weights, biases


@pytest.fixture
def file(made, tmp_path):
    def write(name):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(made[0][name].SerializeToString())
        return path

    return write


def test_what_covers_each_tensor(resq, made, file):
    models, weights, _ = made
    path = file("codes")
    report = json.loads(resq("inspect", path, "--json")[1])
    covered = {each["tensor"]: each["protection"] for each in report["surfaces"]}
    coded = coded_weights(models["codes"])
    assert {covered[name] for each in coded for name in each.stored} == {"secded"}
    copies = {name for vote in report["guards"] for name in vote["copies"]}
    assert {covered[name] for name in copies} == {"votes"}
    assert set(covered.values()) == {"secded", "votes", None}
    protection = report["protection"]
    (code,) = protection["codes"]
    assert {key: code[key] for key in ("name", "weight_bits", "word_bits", "check_bits", "corrects", "detects")} == {
        "name": "secded", "weight_bits": 7, "word_bits": 64, "check_bits": 8, "corrects": 1, "detects": 2,
    }  # fmt: skip
    assert (code["weights"], code["values"]) == (len(weights), sum(each.count for each in coded))
    assert (protection["least_onnxruntime"], protection["health"]) == ("1.22", False)
    assert protection["bytes_added"] == path.stat().st_size - len(bake(models["codes"]).SerializeToString())
    assert {each["optimization"]: each["folded"] for each in protection["folding"]} == {
        "all": True, "extended": True, "basic": True, "none": False,
    }  # fmt: skip
    assert (protection["verdict"], protection["reason"]) == ("sound", None)


def test_a_file_of_votes_alone_and_one_of_nothing(resq, file):
    report = json.loads(resq("inspect", file("votes"), "--json")[1])
    assert {each["protection"] for each in report["surfaces"]} == {"votes", None}
    assert (report["protection"]["codes"], report["protection"]["folding"]) == ([], [])
    report = json.loads(resq("inspect", file("plain"), "--json")[1])
    assert {each["protection"] for each in report["surfaces"]} == {None}
    assert report["protection"] is None


def test_the_table(resq, file):
    printed = " ".join(resq("inspect", file("codes"))[1].split())
    assert "Stored bits by what protects them" in printed
    assert "7 bits; words of 64 bits, 8 of them checks; corrects 1 and detects 2 flips of a word" in printed
    assert "decoder at optimisation all, extended, basic: folded when the file is loaded" in printed
    assert "needs onnxruntime 1.22 or later" in printed
    assert "Stored bits by what protects them" not in resq("inspect", file("plain"))[1]


@pytest.mark.parametrize(
    ("flips", "words"), [((0,), "flipped bits: 1 code words"), ((0, 8), "DAMAGED: 1 code words")], ids=["1", "2"]
)
def test_flips_are_warned_of(resq, made, file, flips, words):
    model = onnx.ModelProto()
    model.CopyFrom(made[0]["codes"])
    name = coded_weights(model)[0].stored[0]
    tensor = next(each for each in model.graph.initializer if each.name == name)
    raw = bytearray(tensor.raw_data)
    for byte in flips:
        raw[byte] ^= 4
    tensor.raw_data = bytes(raw)
    path = file("codes")
    path.write_bytes(model.SerializeToString())
    report = json.loads(resq("inspect", path, "--json")[1])
    assert any(warning.startswith(words) for warning in report["warnings"])
    assert report["protection"]["verdict"] == ("healable" if len(flips) == 1 else "damaged")
    assert f"warning: {words}" in resq("inspect", path)[1]


def test_a_code_of_another_version_is_warned_of(resq, file):
    path = file("codes")
    path.write_bytes(path.read_bytes().replace(b"decode_secded", b"decode_golay2"))
    status, printed, complaints = resq("inspect", path)
    told = [line for line in (printed + complaints).splitlines() if "'decode_golay2'" in line]
    assert len(told) == 1
    assert (status, told[0].startswith("warning: ")) in ((0, True), (2, False))


@pytest.mark.parametrize("name", ["codes", "health"])
def test_a_protected_file_verifies(resq, file, name):
    path = file(name)
    images = load_dataset("digits").evaluation(20).images
    data = path.read_bytes()
    kept = {
        "model": {"sha256": hashlib.sha256(data).hexdigest()},
        "verification": reference(data, images, Deployment(), count=10),
    }
    path.with_suffix(".json").write_text(json.dumps(kept))
    status, printed, _ = resq("inspect", path, "--verify")
    assert status == 0
    assert "verification: identical in exact arithmetic" in printed
