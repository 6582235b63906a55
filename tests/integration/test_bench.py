"""The short version of tools/bench_faultcamp.py: the figures are there, the records agree; times are never judged."""

import json
import pathlib

import numpy as np
import pytest

from resq_deploy.data import load_dataset

TINY = "--images 20 --faults 6 --reload-faults 2 --chips 1 --repeats 1 --pytorchfi-faults 0 --memory-images 0 --no-dask"


@pytest.fixture(scope="module")
def bench(load_tool):
    return load_tool("bench_faultcamp")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> pathlib.Path:
    """Digits in a file of their own: each measurement is a process, which so need not import scikit-learn."""
    path = tmp_path_factory.mktemp("images") / "digits.npz"
    test = load_dataset("digits").test
    np.savez(path, images=test.images[:40], labels=test.labels[:40], classes=[str(digit) for digit in range(10)])
    return path


@pytest.fixture(scope="module")
def figures(bench, digits_int8, images, tmp_path_factory):
    """Run the tool once; return the folder with what it wrote."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "README.md").write_text(f"before\n{bench.MARKERS[0]}\nold\n{bench.MARKERS[1]}\nafter\n")
    files = [f"--{name}={folder / file}" for name, file in (("out", "b.json"), ("markdown", "b.md"))]
    readme = f"--update-readme={folder / 'README.md'}"
    assert bench.main([f"digits={digits_int8}", f"--dataset={images}", *TINY.split(), *files, readme]) == 0
    return folder


def test_all_figures_are_written(bench, figures):
    report = json.loads((figures / "b.json").read_text())
    assert report["schema"] == bench.SCHEMA
    assert report["complete"]
    assert report["machine"]["versions"]["onnxruntime"]
    assert str(figures) not in report["command"]
    network = report["networks"]["digits"]
    assert set(network) == {"model", "golden_s", "populations", "pytorchfi", "memory"}
    assert network["pytorchfi"] == network["memory"] == {"skipped": bench.NOT_ASKED}
    assert [figures["chips"]["masks"] for figures in network["populations"].values()] == [3, 3]
    assert set(network["populations"]) == set(bench.POPULATIONS)
    for population in network["populations"].values():
        assert set(population["variants"]) == set(bench.VARIANTS)
        assert len(population["variants"]["replay_1"]["s_per_fault"]["raw"]) == 1
        assert population["variants"]["reload_n"]["raw"][0]["faults"] == 2
        assert set(population["ratios"]) == set(bench.RATIOS) - {"dask_n_vs_replay_n", "replay_n_vs_pytorchfi"}


def test_no_records_differ(figures):
    network = json.loads((figures / "b.json").read_text())["networks"]["digits"]
    assert all(figures["chips"]["audit"]["mismatches"] == 0 for figures in network["populations"].values())
    for population in network["populations"].values():
        replayed = 6 - population["variants"]["replay_1"]["raw"][0]["reloaded"]
        assert population["audit"]["checked"] >= min(5, replayed)
        assert population["audit"]["mismatches"] == 0
        assert population["compared"] == {"faults": 6, "mismatches": 0}


def test_tables_have_a_row_a_network(bench, figures):
    text = (figures / "b.md").read_text()
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == len(bench.POPULATIONS)
    for header, rule, *rows in tables:
        assert [row.split(" | ")[0] for row in rows] == ["| digits"]
        assert {header.count("|"), rule.count("|")} == {row.count("|") for row in rows}
    assert (figures / "README.md").read_text() == f"before\n{bench.MARKERS[0]}\n{text}{bench.MARKERS[1]}\nafter\n"


def test_ratios_are_of_medians_with_the_extremes_of_the_repeats(bench):
    assert bench._ratio([4.0, 6.0, 90.0], [2.0, 1.0, 3.0]) == {"value": 3.0, "low": 2.0, "high": 30.0}


def test_records_that_differ_between_variants_are_counted(bench):
    def run(*outputs):
        return [{"s_per_fault": 1.0, "audit": {"mismatches": 0}, "outputs": dict(enumerate(outputs))}]

    found = bench._population({"all.reload_1": run("a", "b"), "all.replay_1": run("a", "c", "d")}, "all")
    assert found["compared"] == {"faults": 2, "mismatches": 1}


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        ("digits", "", "give a network as NET=MODEL.onnx"),
        ("digits=none.onnx", "", "there is no file none.onnx"),
        ("digits={model}", "--update-readme none.md", "cannot read none.md"),
        ("digits={model}", "--images 20 --faults 10000000", "--faults 10000000: only"),
    ],
    ids=["no file named", "no such file", "no README", "too many faults"],
)
def test_bad_input_is_one_line(bench, digits_int8, images, tmp_path, capsys, network, options, message):
    words = [network.format(model=digits_int8), f"--dataset={images}", f"--out={tmp_path / 'b.json'}"]
    assert bench.main([*words, *options.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bench_faultcamp: ")
    assert message in line
