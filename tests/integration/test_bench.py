"""The short version of tools/bench_faultcamp.py: the figures are there, the records agree; times are never judged."""

import json
import pathlib

import bench_faultcamp
import bench_half_width
import bench_tables
import measure_half_width
import numpy as np
import pytest

from resq_deploy.data import load_dataset
from resq_deploy.errors import FailedError

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


@pytest.fixture
def widths(digits_int8, images, tmp_path):
    """Measure seconds to a half-width; return the exit status, and the report as it then is."""

    def run(*more):
        words = [f"digits={digits_int8}", f"--dataset={images}", "--images=40", "--repeats=1", "--sample-seconds=0.01"]
        status = bench_faultcamp.main([*words, f"--out={tmp_path / 'width.json'}", *more])
        return status, json.loads((tmp_path / "width.json").read_text())

    return run


def test_seconds_to_a_half_width_are_measured(widths, capsys):
    status, report = widths("--half-widths=0.12")
    assert status == 0
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


def test_measurements_that_were_kept_are_not_taken_again(widths, monkeypatch, capsys):
    """One ends with an error, as whatever kills a long run; then the rest is measured, and at last nothing."""
    measured, taken = bench_half_width._run, []

    def run(job, network):
        taken.append((job["workers"], job["seed"]))
        if len(taken) == 2:
            raise FailedError("killed")
        return measured(job, network)

    monkeypatch.setattr(bench_half_width, "_run", run)
    status, before = widths("--half-widths=0.12")
    assert (status, before["complete"]) == (1, False)
    assert widths("--half-widths=0.12")[0] == 2  # nothing is lost by leaving --resume out
    assert "unfinished: give --resume" in capsys.readouterr().err
    assert widths("--half-widths=0.12", "--resume", "--sample-seconds=0.02")[0] == 2
    assert "measured with seconds 0.01, now 0.02" in capsys.readouterr().err
    status, after = widths("--half-widths=0.12", "--resume")
    assert (status, after["complete"]) == (0, True)
    first = before["networks"]["digits"]["0.12"]["1"]
    assert after["networks"]["digits"]["0.12"]["1"] == first
    again = widths("--half-widths=0.12", "--resume")[1]
    assert again["networks"] == after["networks"]
    assert widths("--half-widths=0.12", "--resume", "--repeats=2", "--workers=1")[0] == 0
    assert taken == [(1, 0), (2, 0), (2, 0), (1, 1)]


def test_another_report_is_not_gone_on_with(widths, capsys, tmp_path):
    (tmp_path / "width.json").write_text("[]")
    assert widths("--half-widths=0.12", "--resume")[0] == 2
    assert "is no report of this benchmark" in capsys.readouterr().err
    assert widths("--resume") == (2, [])
    assert "--resume goes with --half-widths alone" in capsys.readouterr().err


def test_the_error_of_seconds_a_fault_is_that_of_a_ratio():
    def spent(*seconds):
        return [measure_half_width.Clock(0.0, each) for each in seconds]

    assert measure_half_width.error([1, 2, 3], spent(2.0, 4.0, 6.0)) == pytest.approx(0.0, abs=1e-12)
    # Apart from 2 a fault: -1, 1; root(2 / 1 * 2) over a sum of 8.
    assert measure_half_width.error([2, 2], spent(3.0, 5.0)) == pytest.approx(0.25)
    assert measure_half_width.error([2], spent(3.0)) == 0.0


def test_what_is_made_once_counts_once_a_group():
    clock = measure_half_width.Clock
    sampled = measure_half_width.Sampled(
        faults=[4, 4], spent=[clock(1.0, 2.0), clock(3.0, 2.0)], once=clock(0.5, 1.0), portions=8, groups=3.0
    )
    found = sampled.of(100, clock(10.0, 20.0), clock(1.0, 1.0))
    assert (found["wall"], found["cpu"]) == (11.0 + 1.5 + 50.0, 21.0 + 3.0 + 50.0)
    assert (found["measured"], found["cpu_a_fault"], found["relative_error"]) == (8, 0.5, 0.0)
