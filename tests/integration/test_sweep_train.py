"""tools/sweep_train.py on digits: a cell each, resumed, and a table."""

import json

import pytest
import sweep_train

from resq_deploy.data import load_dataset
from resq_deploy.errors import InputError
from resq_deploy.hardening.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

COMMON = [
    *("--network", "resnet8", "--stages", "baseline", "--epochs-baseline", "1"),
    *("--train-images", "64", "--batch-size", "16", "--criticality-batches", "1", "--validation-images", "4"),
    *("--robust-test-images", "4", "--test-images", "40", "--precision", "float32"),
]
WORDS = ["--dataset", "digits", "--set", "weight-decay=0,5e-4", "--ber", "1e-3,0.4", "--chips", "2", "--images", "40"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep")
    assert sweep_train.main([*WORDS, "--out", str(out), "--", *COMMON]) == 0
    return out


def test_cells_are_all_combinations():
    assert sweep_train.cells(["epsilon=2,4", "ema=0,0.9"]) == [
        {"epsilon": "2", "ema": "0"},
        {"epsilon": "2", "ema": "0.9"},
        {"epsilon": "4", "ema": "0"},
        {"epsilon": "4", "ema": "0.9"},
    ]
    assert sweep_train.cells([]) == [{}]


def test_every_cell_has_a_run_of_its_own_and_a_row(swept):
    report = json.loads((swept / "sweep.json").read_text())["cells"]
    assert set(report) == {"weight-decay-0", "weight-decay-5e-4"}
    for name, found in report.items():
        options = json.loads((swept / name / "manifest.json").read_text())["options"]
        assert options["weight_decay"] == float(found["options"]["weight-decay"])
        assert found["clean"]["n"] == 40
        assert found["faulty"]["0.001"]["n"] == 2
        assert found["faulty"]["0.4"]["value"] < 0.5, "two bits in five leave nothing"
    rows = [line for line in (swept / "sweep.md").read_text().splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert len({row.count("|") for row in rows}) == 1


def test_a_sweep_goes_on_without_training_again(swept):
    before = (swept / "weight-decay-0/baseline.pt").stat().st_mtime_ns
    report = (swept / "sweep.json").read_text()
    assert sweep_train.main([*WORDS, "--out", str(swept), "--", *COMMON]) == 0
    assert (swept / "weight-decay-0/baseline.pt").stat().st_mtime_ns == before
    assert (swept / "sweep.json").read_text() == report


def test_few_flips_leave_the_accuracy_of_the_checkpoint(swept):
    digits = load_dataset("digits")
    checkpoint = load_checkpoint(swept / "weight-decay-0/baseline.pt")
    (found,) = sweep_train.accuracies_under_flips(checkpoint, digits, rate=1e-9, chips=1, images=40)
    test = json.loads((swept / "weight-decay-0/summary.json").read_text())["stages"]["baseline"]["test"]
    assert found == pytest.approx(test["clean"]["value"], abs=0.06)


@pytest.mark.parametrize("setting", ["epsilon", "epsilon=", "epsilon=2,,4", "Epsilon=2", "../x=1"])
def test_a_setting_that_cannot_be_read_is_one_line(tmp_path, capsys, setting):
    assert sweep_train.main(["--dataset", "digits", "--set", setting, "--out", str(tmp_path)]) == 2
    assert "give OPTION=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--ber", "0"], ["--ber", "1e-3,2"], ["--chips", "0"]], ids=" ".join)
def test_figures_that_make_no_sense_are_one_line(tmp_path, capsys, words):
    assert sweep_train.main([*words, "--dataset", "digits", "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sweep_train: --")


def test_an_option_given_twice_is_refused():
    with pytest.raises(InputError, match="each option once"):
        sweep_train.cells(["ema=0", "ema=0.9"])


def test_what_train_refuses_ends_the_sweep(tmp_path, capfd):
    assert sweep_train.main(["--dataset", "digits", "--set", "epsilon=999", "--out", str(tmp_path), "--", *COMMON]) == 2
    assert "epsilon-999 ended with status 2" in capfd.readouterr().err
