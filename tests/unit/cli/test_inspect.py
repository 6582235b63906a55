"""`inspect` names what it leaves out, with bits and reason, as text and as JSON."""

import json
import sys

import onnx
import pytest

from resq_deploy import cli

VARINT = "varint-coded attribute: a flip changes the file's framing"


@pytest.fixture
def inspect_file(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["resq-deploy", "inspect", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def inspect(case_file, inspect_file):
    return lambda name, *options: inspect_file(case_file(name), *options)


def test_what_is_left_out_is_listed_as_json(inspect):
    report = json.loads(inspect("constant_of_shape", "--json"))
    assert report["left_out"] == [{"tensor": "shape", "bits": 256, "reason": "shape"}]
    assert [surface["tensor"] for surface in report["surfaces"]] == ["W", "fc", "k.value"]
    assert set(report["surfaces"][0]) == {"tensor", "role", "layer", "dtype", "shape", "bits", "protection"}


def test_what_is_left_out_is_listed_as_text(inspect):
    text = inspect("ml_attributes")
    assert "Left out" in text
    assert VARINT in text
    assert "y.targets" in text
    assert "1 stored values of 8 bits are left out" in text
    assert "constant" in text


def test_nothing_left_out_is_said_as_well(inspect):
    assert json.loads(inspect("bool_mask", "--json"))["left_out"] == []
    text = inspect("bool_mask")
    assert "Left out" not in text
    assert "0 stored values of 0 bits are left out" in text


def test_a_function_called_twice_stores_its_weight_once(inspect):
    surfaces = json.loads(inspect("counted_twice", "--json"))["surfaces"]
    assert [surface["bits"] for surface in surfaces if surface["shape"] == [3, 3, 3, 3]] == [2592]


def test_a_line_end_in_a_name_keeps_the_table_in_shape(stored_cases, tmp_path, inspect_file):
    proto = stored_cases.bool_mask()
    proto.graph.node[0].name = "block 3\n* first"
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    assert "block 3\\n* first" in inspect_file(path)


def test_a_provider_that_is_not_here_is_refused_for_a_file_without_guards_too(case_file, monkeypatch, capsys):
    file = str(case_file("ml_attributes"))
    monkeypatch.setattr(sys, "argv", ["resq-deploy", "inspect", file, "--provider", "NoSuch"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "no provider 'NoSuch' here" in capsys.readouterr().err


def test_what_a_file_takes_and_gives_is_told_with_types_and_shapes(kinds, tmp_path, inspect_file):
    path = tmp_path / "boxes.onnx"
    path.write_bytes(kinds.scaled_boxes().SerializeToString())
    report = json.loads(inspect_file(path, "--json"))
    assert report["inputs"] == [
        {"name": "image", "type": "float32", "shape": ["N", 3, "H", "W"]},
        {"name": "size", "type": "int64", "shape": ["N", 2]},
    ]
    assert [port["name"] for port in report["outputs"]] == ["boxes", "scores"]
    assert "takes 'image' float32 [N, 3, H, W], 'size' int64 [N, 2]\n" in inspect_file(path)


def test_what_the_file_stores_a_value_for_is_no_input(model_file, inspect_file):
    path = model_file("overridable")
    assert len(onnx.load(path).graph.input) > 1
    report = json.loads(inspect_file(path, "--json"))
    assert report["inputs"] == [{"name": "x", "type": "float32", "shape": ["N", 3, 8, 8]}]
