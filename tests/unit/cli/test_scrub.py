"""`resq-deploy scrub`: exit statuses, what is written and what is not."""

import hashlib
import json
import pathlib
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from resq_deploy.codes.known import known_code
from resq_deploy.deployed.coded import DOMAIN
from resq_deploy.deployed.graph import read_model
from resq_deploy.deployed.surfaces import Role, find_surfaces
from resq_deploy.protection import check
from resq_deploy.protection.guards import guard
from resq_deploy.protection.protect import protect


@pytest.fixture(scope="module")
def data(digits_int8):
    """The digits file with codes on narrower weights and votes on its biases."""
    proto, _ = read_model(digits_int8)
    surfaces = find_surfaces(proto)
    names = [found.tensor for found in surfaces if found.role is Role.WEIGHT]
    for tensor in proto.graph.initializer:
        if tensor.name in names:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) >> 1, tensor.name))
    biases = [found.tensor for found in surfaces if found.role is Role.BIAS]
    guarded = onnx.ModelProto.FromString(guard(proto.SerializeToString(), biases))
    return protect(guarded, names, known_code("secded"), health=True).SerializeToString()


@pytest.fixture
def file(data, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(data)
    return path


def with_flips(data, *bits):
    """The file with bits of its first code words flipped, counted from the first byte of these."""
    coded = next(each for each in check.examine(data) if each.code)
    faulty, start = bytearray(data), data.index(coded.stored[coded.name].tobytes())
    for bit in bits:
        faulty[start + bit // 8] ^= 1 << bit % 8
    return bytes(faulty)


HEALABLE, HOPELESS = (9, 1000), (0, 64, 1000)


def test_a_sound_file(resq, file):
    status, printed, complaints = resq("scrub", file)
    assert (status, complaints) == (0, "")
    assert "verdict: sound" in printed
    assert "Flipped bits" not in printed


def test_flips_that_can_be_corrected(resq, file, data, tmp_path):
    file.write_bytes(with_flips(data, *HEALABLE))
    status, printed, complaints = resq("scrub", file)
    assert (status, complaints) == (3, "")
    assert "2 corrected, 0 not correctable" in printed
    assert file.read_bytes() == with_flips(data, *HEALABLE)
    healed = tmp_path / "healed.onnx"
    status, printed, _ = resq("scrub", file, "--repair", healed)
    assert (status, healed.read_bytes()) == (3, data)
    assert f"written: {healed}, healed" in " ".join(printed.split())


def test_a_file_is_healed_in_place(resq, file, data):
    file.write_bytes(with_flips(data, *HEALABLE))
    assert resq("scrub", file, "--repair", file)[0] == 3
    assert file.read_bytes() == data
    assert resq("scrub", file, "--repair", file)[0] == 0
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def test_flips_that_cannot_be_corrected(resq, file, data):
    file.write_bytes(with_flips(data, *HOPELESS))
    status, printed, complaints = resq("scrub", file, "--repair", file)
    assert (status, complaints.count("\n")) == (1, 1)
    assert "1 words and 0 values cannot be corrected, the first in" in complaints
    assert "verdict: damaged" in printed
    assert file.read_bytes() == with_flips(data, *HOPELESS[:2])


def test_json(resq, file, data):
    file.write_bytes(with_flips(data, *HEALABLE))
    status, printed, _ = resq("scrub", file, "--json")
    report = json.loads(printed)
    assert status == 3
    assert report["model"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (report["verdict"], report["decoder_flaw"], report["as_written"]) == ("healable", None, None)
    assert report["totals"]["corrected"] == 2
    assert report["totals"]["words"] % 8 == 0
    assert report["totals"]["values"] > 0
    assert {each["protection"] for each in report["tensors"]} == {"secded", "votes"}
    touched = [each for each in report["tensors"] if each["corrected"]]
    assert sum(each["corrected"] for each in touched) == 2
    assert set(touched[0]) == {"tensor", "protection", "units", "corrected", "uncorrectable", "idle_bits"}


def test_the_plain_file(resq, file, tmp_path):
    plain = tmp_path / "plain.onnx"
    assert resq("scrub", file, "--bake", plain)[0] == 0
    baked = onnx.load(plain)
    assert not baked.functions
    assert DOMAIN not in {node.domain for node in baked.graph.node}
    assert "Where" not in {node.op_type for node in baked.graph.node}
    status, _, complaints = resq("scrub", plain)
    assert (status, complaints.count("\n")) == (2, 1)
    assert "carries neither codes nor votes: there is nothing to check" in complaints


def test_outputs_that_would_be_lost_are_refused(resq, file, data, tmp_path):
    link = tmp_path / "link.onnx"
    link.symlink_to(file)
    for arguments in (("--bake", file), ("--bake", link), ("--bake", "a.onnx", "--repair", "a.onnx")):
        status, _, complaints = resq("scrub", file, *arguments)
        assert (status, complaints.count("\n")) == (2, 1)
    assert file.read_bytes() == data


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--write-checker", "check.py", "--json")], ids=str)
def test_a_model_is_needed(resq, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, complaints = resq("scrub", *arguments)
    assert status == 2
    assert "needs a MODEL" in complaints


def test_the_sidecar_tells_whether_all_is_as_it_was_written(resq, file, data):
    sidecar = file.with_suffix(".json")
    sidecar.write_text(json.dumps({"model": {"sha256": hashlib.sha256(data).hexdigest()}}))
    file.write_bytes(with_flips(data, *HEALABLE))
    status, printed, complaints = resq("scrub", file, "--json")
    assert (status, json.loads(printed)["as_written"], complaints) == (3, True, "")
    file.write_bytes(data.replace(b"resq-deploy", b"resq-deplox"))  # in the framing, which nothing covers
    status, printed, complaints = resq("scrub", file, "--json")
    assert (status, json.loads(printed)["as_written"]) == (0, False)
    assert "is not the file its sidecar names" in complaints
    sidecar.write_text("[]")
    assert json.loads(resq("scrub", file, "--json")[1])["as_written"] is None


def test_a_damaged_decoder(resq, file, data, tmp_path):
    model = onnx.ModelProto.FromString(data)
    model.functions[0].node[-1].op_type = "Identity"
    del model.functions[0].node[-1].input[1:]
    file.write_bytes(model.SerializeToString())
    status, _, complaints = resq("scrub", file, "--bake", tmp_path / "plain.onnx")
    assert (status, complaints.count("\n")) == (1, 1)
    assert "decode" in complaints
    assert not (tmp_path / "plain.onnx").exists()


@pytest.mark.parametrize("content", [b"", b"no model", None], ids=["empty", "text", "missing"])
def test_files_that_are_none(resq, tmp_path, content):
    path = tmp_path / "none.onnx"
    if content is not None:
        path.write_bytes(content)
    status, _, complaints = resq("scrub", path)
    assert (status, complaints.count("\n")) == (2, 1)


def test_the_checker_is_handed_out(resq, file, data, tmp_path):
    target = tmp_path / "device" / "check.py"
    status, printed, _ = resq("scrub", "--write-checker", target)
    assert status == 0
    assert str(target) in printed.replace("\n", "")
    assert target.read_bytes() == pathlib.Path(check.__file__).read_bytes()
    file.write_bytes(with_flips(data, *HEALABLE))
    done = subprocess.run([sys.executable, "-I", target, file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "")


def test_random_flips_never_pass_as_sound(resq, file, data):
    random = np.random.default_rng(0)
    for count in (1, 2, 5):
        bits = random.choice(8 * 1024, count, replace=False)
        file.write_bytes(with_flips(data, *bits.tolist()))
        assert resq("scrub", file)[0] in (1, 3)
