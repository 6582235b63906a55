import json
import re

import pytest
from click.testing import CliRunner

from resq_deploy.api import training
from resq_deploy.cli import train as train_command
from resq_deploy.errors import CheckpointError, MissingExtraError, OptionError, RunFolderError

SHORT = [
    *("--network", "resnet8", "--dataset", "digits", "--stages", "baseline", "--epochs-baseline", "1"),
    *("--train-images", "32", "--batch-size", "16", "--criticality-batches", "1"),
    *("--validation-images", "4", "--robust-test-images", "4", "--precision", "float32"),
]


def invoke(*arguments):
    return CliRunner().invoke(
        train_command.command, [*SHORT, *arguments], catch_exceptions=False, standalone_mode=False
    )


def test_a_run_prints_a_table_and_reports_progress_on_standard_error(tmp_path):
    result = invoke("--out", str(tmp_path / "run"), "--epsilon", "8")
    assert "baseline" in result.stdout
    assert "PGD-10 at 8/255" in result.stdout
    assert "baseline 1/1  loss" in result.stderr
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["status"] == "done"
    assert manifest["options"]["epsilon"] == pytest.approx(8 / 255)
    assert {"train", "test"} <= manifest["sha256"].keys()
    with pytest.raises(RunFolderError, match="not empty"):
        invoke("--out", str(tmp_path / "run"), "--epsilon", "8")
    with pytest.raises(RunFolderError, match="epsilon was"):
        invoke("--out", str(tmp_path / "run"), "--epsilon", "4", "--resume")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--stages", "attack,baseline"], OptionError, "give --stages baseline,attack"),
        (["--epsilon", "400"], OptionError, "epsilon"),
        (["--init", "none.pt"], CheckpointError, "cannot read checkpoint none.pt"),
    ],
    ids=["stages", "epsilon", "init"],
)
def test_wrong_input_is_one_line_and_leaves_no_folder(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        invoke("--out", str(tmp_path / "run"), *arguments)
    assert not (tmp_path / "run").exists()


def test_without_torch_the_install_command_is_named(tmp_path, monkeypatch):
    def missing(what, extra, *modules):
        assert "torch" in modules
        raise MissingExtraError(what, extra)

    monkeypatch.setattr(training, "need_extra", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'resq-deploy\[train\]'"):
        invoke("--out", str(tmp_path / "run"))


def test_the_help_shows_examples_and_defaults():
    text = CliRunner().invoke(train_command.command, ["--help"]).output
    assert "resq-deploy train --network resnet8 --dataset digits --out run\n" in text
    assert re.search(r"--epsilon FLOAT +Radius of the perturbations, in 1/255\.\s+\[default:\s+4\]", text)
