"""The short version of tools/bench_faultcamp.py: the figures are there, the records agree; times are never judged."""

import json
import pathlib

import bench_faultcamp
import bench_tables
import numpy as np
import pytest

from resq_deploy.data import load_dataset

pytestmark = pytest.mark.slow

TINY = "--images 20 --faults 6 --reload-faults 2 --chips 1 --repeats 1 --pytorchfi-faults 0 --memory-images 0 --no-dask"


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> pathlib.Path:
    """Digits in a file of their own: each measurement is a process, which so need not import scikit-learn."""
    path = tmp_path_factory.mktemp("images") / "digits.npz"
    test = load_dataset("digits").test
    np.savez(path, images=test.images[:40], labels=test.labels[:40], classes=[str(digit) for digit in range(10)])
    return path


@pytest.fixture(scope="module")
def figures(digits_int8, images, tmp_path_factory):
    """Run the tool once; return the report it wrote."""
    path = tmp_path_factory.mktemp("bench") / "b.json"
    words = [f"digits={digits_int8}", f"--dataset={images}", *TINY.split(), f"--out={path}"]
    assert bench_faultcamp.main(words) == 0
    return path


def test_all_figures_are_written(figures):
    report = json.loads(figures.read_text())
    assert report["schema"] == bench_tables.SCHEMA
    assert report["complete"]
    assert report["machine"]["versions"]["onnxruntime"]
    assert str(figures.parent) not in report["command"]
    network = report["networks"]["digits"]
    assert set(network) == {"model", "golden_s", "populations", "pytorchfi", "memory"}
    assert network["pytorchfi"] == network["memory"] == {"skipped": bench_tables.NOT_ASKED}
    assert [figures["chips"]["masks"] for figures in network["populations"].values()] == [3, 3]
    assert set(network["populations"]) == set(bench_tables.POPULATIONS)
    for population in network["populations"].values():
        assert set(population["variants"]) == set(bench_faultcamp.VARIANTS)
        assert len(population["variants"]["replay_1"]["s_per_fault"]["raw"]) == 1
        assert population["variants"]["reload_n"]["raw"][0]["faults"] == 2
        missing = set(bench_faultcamp.RATIOS) - set(population["ratios"])
        assert missing == {"dask_n_vs_replay_n", "replay_n_vs_pytorchfi"}


def test_no_records_differ(figures):
    network = json.loads(figures.read_text())["networks"]["digits"]
    assert all(figures["chips"]["audit"]["mismatches"] == 0 for figures in network["populations"].values())
    for population in network["populations"].values():
        replayed = 6 - population["variants"]["replay_1"]["raw"][0]["reloaded"]
        assert population["audit"]["checked"] >= min(20, replayed)
        assert population["audit"]["mismatches"] == 0
        assert population["compared"] == {"faults": 6, "mismatches": 0}


def test_tables_have_a_row_a_network(figures, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{bench_tables.MARKERS[0]}\nold\n{bench_tables.MARKERS[1]}\nafter\n")
    assert bench_tables.main([str(figures), str(figures), f"--update-readme={readme}"]) == 0
    text = capsys.readouterr().out
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == 2 * len(bench_tables.POPULATIONS)
    for header, rule, *rows in tables:
        assert [row.split(" | ")[0] for row in rows] == ["| digits"]
        assert {header.count("|"), rule.count("|")} == {row.count("|") for row in rows}
    assert readme.read_text() == f"before\n{bench_tables.MARKERS[0]}\n{text}{bench_tables.MARKERS[1]}\nafter\n"


@pytest.mark.parametrize("content", [None, "{", "[]", '{"schema": 1, "complete": false}'])
def test_a_report_that_cannot_be_used_is_one_line(content, tmp_path, capsys):
    path = tmp_path / "b.json"
    if content is not None:
        path.write_text(content)
    assert bench_tables.main([str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line


def test_a_readme_without_its_markers_is_left_alone(figures, tmp_path, capsys):
    (tmp_path / "README.md").write_text("no markers\n")
    assert bench_tables.main([str(figures), f"--update-readme={tmp_path / 'README.md'}"]) == 2
    assert "lacks the lines" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == "no markers\n"


def test_ratios_are_of_medians_with_the_extremes_of_the_repeats():
    assert bench_faultcamp._ratio([4.0, 6.0, 90.0], [2.0, 1.0, 3.0]) == {"value": 3.0, "low": 2.0, "high": 30.0}


def test_records_that_differ_between_variants_are_counted():
    def run(*outputs):
        return [{"s_per_fault": 1.0, "audit": {"mismatches": 0}, "outputs": dict(enumerate(outputs))}]

    found = bench_faultcamp._population({"all.reload_1": run("a", "b"), "all.replay_1": run("a", "c", "d")}, "all")
    assert found["compared"] == {"faults": 2, "mismatches": 1}


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        ("digits", "", "give a network as NET=MODEL.onnx"),
        ("digits=none.onnx", "", "there is no file none.onnx"),
        ("digits={model}", "--images 20 --faults 10000000", "--faults 10000000: only"),
    ],
    ids=["no file named", "no such file", "too many faults"],
)
def test_bad_input_is_one_line(digits_int8, images, tmp_path, capsys, network, options, message):
    words = [network.format(model=digits_int8), f"--dataset={images}", f"--out={tmp_path / 'b.json'}"]
    assert bench_faultcamp.main([*words, *options.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bench_faultcamp: ")
    assert message in line


def test_seconds_to_a_half_width_are_measured(digits_int8, images, tmp_path, capsys):
    words = [f"digits={digits_int8}", f"--dataset={images}", "--images=40", "--repeats=1", "--sample-seconds=0.01"]
    assert bench_faultcamp.main([*words, "--half-widths=0.12", f"--out={tmp_path / 'width.json'}"]) == 0
    report = json.loads((tmp_path / "width.json").read_text())
    assert report["complete"]
    assert report["networks"]["digits"].keys() == {"0.12"}
    assert report["networks"]["digits"]["0.12"].keys() == {"1", "2"}
    found = report["networks"]["digits"]["0.12"]["1"]
    (raw,) = found["raw"]
    for way in ("two_stage", "replay", "reload"):
        assert raw[way]["cpu"] > 0.0
        assert raw[way]["faults"] >= raw[way]["measured"] > 0
    assert raw["two_stage"]["images"] < raw["replay"]["images"] == raw["reload"]["images"] == 40
    assert found["two_stage_vs_reload"]["value"] == pytest.approx(raw["reload"]["cpu"] / raw["two_stage"]["cpu"])
    said = capsys.readouterr().out
    assert "| digits | 12 points | 1 |" in said
    assert "extrapolated" in said
