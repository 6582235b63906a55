"""`inspect --check`: damage is found and named, told what mends it, and gone once it was mended."""

import json

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import convert_model_to_external_data

import resq_deploy as rd


@pytest.fixture(scope="module")
def protected(digits_int8, tmp_path_factory):
    path = tmp_path_factory.mktemp("protected") / "net.onnx"
    rd.protect(digits_int8, path)
    return path


@pytest.fixture
def copied(protected, tmp_path):
    """A protected file with its sidecar, to be damaged."""
    path = tmp_path / "net.onnx"
    path.write_bytes(protected.read_bytes())
    path.with_suffix(".json").write_bytes(protected.with_suffix(".json").read_bytes())
    return path


def hit(path, byte, mask=1):
    data = bytearray(path.read_bytes())
    data[byte] ^= mask
    path.write_bytes(data)


def tensors(path):
    return json.loads(path.with_suffix(".json").read_text())["digests"]["tensors"]


def test_a_file_as_it_was_written_is_sound(resq, copied):
    status, printed, err = resq("inspect", copied, "--check")
    assert (status, err) == (0, "")
    assert printed.startswith(f"checked {copied} against {copied.with_suffix('.json')}: sound: ")


def test_flips_are_named_scrubbed_and_gone(resq, copied):
    held = max(tensors(copied), key=lambda each: each["end"] - each["begin"])
    hit(copied, held["begin"] + 100)
    status, printed, err = resq("inspect", copied, "--check")
    assert status == 1
    assert held["tensor"] in printed
    assert held["role"] in printed
    assert len(err.splitlines()) == 1
    assert f"1 of {len(tensors(copied))} tensors damaged; first {held['tensor']!r}" in err
    assert f"its codes and votes can undo all of it: resq-deploy scrub {copied} --repair {copied}" in err
    assert resq("scrub", copied, "--repair", copied)[0] == 3
    assert resq("inspect", copied, "--check")[0] == 0


def test_what_codes_cannot_undo_is_said_to_be(resq, copied):
    held = max(tensors(copied), key=lambda each: each["end"] - each["begin"])
    for byte in range(8):
        hit(copied, held["begin"] + 64 + byte, 0xFF)
    status, _, err = resq("inspect", copied, "--check")
    assert status == 1
    assert "take the file anew" in err


def test_a_file_that_does_not_parse_any_more_is_checked_all_the_same(resq, copied):
    hit(copied, 0, 0xFF)
    status, printed, err = resq("inspect", copied, "--check", "--json")
    found = json.loads(printed)
    assert status == 1
    assert found["sound"] is False
    assert [each["tensor"] for each in found["damaged"]] == [""]
    assert found["damaged"][0]["ranges"] == [[0, 4096]]
    assert "what lies outside of tensors was changed. scrub cannot repair it" in err


def test_files_of_others_are_given_digests(resq, digits_int8, tmp_path):
    proto = onnx.load(digits_int8)
    convert_model_to_external_data(proto, all_tensors_to_one_file=True, location="w.bin", size_threshold=64)
    path, out = tmp_path / "other.onnx", tmp_path / "other.digests.json"
    onnx.save(proto, path)
    status, printed, err = resq("inspect", path, "--check")
    assert (status, printed, len(err.splitlines())) == (2, "", 1)
    assert f"make them: resq-deploy inspect {path} --digests {out}" in err
    assert resq("inspect", path, "--digests", out)[0] == 0
    assert resq("inspect", path, "--check")[0] == 0
    hit(tmp_path / "w.bin", 700)
    status, printed, err = resq("inspect", path, "--check", "--against", out)
    assert status == 1
    assert "1 of " in err
    assert "it carries neither codes nor votes" in err
    (tmp_path / "w.bin").unlink()
    status, _, err = resq("inspect", path, "--check")
    assert status == 1
    assert "w.bin is missing" in err


def test_damaged_digests_accuse_no_tensor(resq, copied):
    sidecar = json.loads(copied.with_suffix(".json").read_text())
    sidecar["digests"]["tensors"][0]["digest"] = "00000000"
    copied.with_suffix(".json").write_text(json.dumps(sidecar))
    status, _, err = resq("inspect", copied, "--check")
    assert status == 1
    assert f"the digests in {copied.with_suffix('.json')} are damaged themselves" in err
    assert "tensors damaged" not in err
    assert "take the file anew" not in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--against", "a.json"), "--against goes with --check"),
        (("--check", "--verify"), "ask one at a time"),
        (("--check", "--digests", "d.json"), "ask one at a time"),
        (("--digests", "d.json", "--json"), "ask one at a time"),
        (("--check", "--against", "none.json"), "cannot read none.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_questions(resq, copied, arguments, words):
    status, printed, err = resq("inspect", copied, *arguments)
    assert (status, printed, len(err.splitlines())) == (2, "", 1)
    assert words in err


def test_what_holds_no_digests_is_told(resq, copied, tmp_path):
    (tmp_path / "no.json").write_text("{}")
    (tmp_path / "odd.json").write_text(json.dumps({"digests": {"algorithm": "crc32"}}))
    assert "it holds no digests" in resq("inspect", copied, "--check", "--against", tmp_path / "no.json")[2]
    assert "the digests cannot be read" in resq("inspect", copied, "--check", "--against", tmp_path / "odd.json")[2]
    assert "cannot read" in resq("inspect", tmp_path / "gone.onnx", "--check")[2]


def test_digests_lead_to_no_other_folder(resq, copied, tmp_path):
    sidecar = json.loads(copied.with_suffix(".json").read_text())
    other = sidecar["digests"]["files"][0] | {"file": "../../secret"}
    sidecar["digests"]["files"].append(other)
    copied.with_suffix(".json").write_text(json.dumps(sidecar))
    status, _, err = resq("inspect", copied, "--check")
    assert status == 2
    assert "leads out of the model's folder" in err


def test_digests_take_the_place_of_no_other_file(resq, copied):
    before = copied.read_bytes()
    for target in (copied, copied.with_suffix(".json")):
        status, _, err = resq("inspect", copied, "--digests", target)
        assert status == 2
        assert "would be lost" in err
    assert copied.read_bytes() == before


def test_the_api_gives_the_same(copied):
    found = rd.check_digests(copied)
    assert found.sound
    found.check()
    held = tensors(copied)[0]
    hit(copied, held["begin"])
    found = rd.check_digests(copied)
    assert [each.tensor for each in found.damaged] == [held["tensor"]]
    assert found.as_dict()["repair"] == found.repair
    assert np.all([each.ranges for each in found.damaged])
