"""The short version of tools/bench_train.py: the figures are there; times are never judged."""

import json
import shutil

import bench_train
import pytest

pytestmark = pytest.mark.slow

EAGER = {"plain", "attack", "fault", "fault_views"}
TINY = "--network resnet8 --dataset digits --batch-size 16 --steps 1 --repeats 2"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Run the tool once; return what it wrote."""
    path = tmp_path_factory.mktemp("bench")
    words = [*TINY.split(), f"--out={path / 'b.json'}", f"--markdown={path / 'b.md'}"]
    assert bench_train.main(words) == 0
    return json.loads((path / "b.json").read_text()), (path / "b.md").read_text()


def test_every_kind_of_step_is_measured_beside_the_plain_one(report):
    found = report[0]
    assert found["options"]["batch_size"] == 16
    assert "/" not in found["command"].replace("tools/bench_train.py", "")
    assert set(found["variants"]) == EAGER
    for figures in found["variants"].values():
        for clock in bench_train.CLOCKS:
            assert len(figures[clock]["raw"]) == 2
            assert 0 < figures[clock]["low"] <= figures[clock]["median"] <= figures[clock]["high"]
    assert found["variants"]["plain"]["cpu_ratio"]["raw"] == [1.0, 1.0]


def test_the_table_has_a_row_a_kind_of_step(report):
    rows = [line for line in report[1].splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(EAGER)
    assert len({row.count("|") for row in rows}) == 1


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's own, while it compiles
def test_compiled_steps_are_measured_on_demand(tmp_path):
    assert bench_train.main([*TINY.split(), "--compile", f"--out={tmp_path / 'b.json'}"]) == 0
    found = json.loads((tmp_path / "b.json").read_text())
    assert set(found["variants"]) == {*EAGER, "plain_compiled", "attack_compiled"}


def test_ratios_are_those_of_the_same_repeat():
    values = {"plain": [1.0, 2.0, 4.0], "attack": [3.0, 6.4, 16.0], "fault": [1.0] * 3, "fault_views": [1.0] * 3}
    found = bench_train.assess({"wall": values, "cpu": values})["attack"]
    assert found["cpu_ratio"]["raw"] == [3.0, 3.2, 4.0]
    assert (found["cpu_ratio"]["median"], found["bound"], found["within"]) == (3.2, 3.2, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--repeats 0", "--repeats 0: give a whole number from 1 up"),
        ("--network none", "none"),
        ("--dataset nowhere", "nowhere"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, options, message):
    assert bench_train.main([*options.split(), f"--out={tmp_path / 'b.json'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bench_train: ")
    assert message in line
