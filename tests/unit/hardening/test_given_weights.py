import dataclasses
import json
import pathlib
import pickle
import re

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from click.testing import CliRunner

from resq_deploy.cli import train as train_command
from resq_deploy.data import load_dataset
from resq_deploy.errors import CheckpointError, ModelError, OptionError
from resq_deploy.hardening.checkpoint import load_checkpoint
from resq_deploy.hardening.given_weights import GIVEN, given_start, imagenet_weights, read_weights
from resq_deploy.hardening.options import TrainOptions
from resq_deploy.hardening.start_check import check_start
from resq_deploy.hardening.workbench import Workbench

SHORT = [
    *("--network", "resnet8", "--dataset", "digits", "--epochs-attack", "1", "--epochs-fault", "1"),
    *("--epochs-baseline", "1", "--train-images", "64", "--batch-size", "32", "--criticality-batches", "1"),
    *("--validation-images", "8", "--robust-test-images", "4", "--test-images", "8", "--precision", "float32"),
]


def run(out, *arguments):
    return CliRunner().invoke(
        train_command.command, [*SHORT, "--out", str(out), *arguments], catch_exceptions=False, standalone_mode=False
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a ResNet-8 that knows digits, as a run folder's checkpoint."""
    out = tmp_path_factory.mktemp("trained") / "run"
    arguments = ["--network", "resnet8", "--dataset", "digits", "--stages", "baseline", "--epochs-baseline", "3"]
    more = ["--criticality-batches", "1", "--validation-images", "4", "--robust-test-images", "4", "--test-images", "8"]
    CliRunner().invoke(
        train_command.command, [*arguments, *more, "--out", str(out)], catch_exceptions=False, standalone_mode=False
    )
    return load_checkpoint(out / "baseline.pt")


@pytest.fixture
def weights(trained, tmp_path):
    path = tmp_path / "mine.pth"
    torch.save(trained.build().body.state_dict(), path)
    return path


def test_stages_1_and_2_start_from_the_users_weights(trained, weights, tmp_path):
    result = run(tmp_path / "run", "--weights", str(weights))
    before = re.search(r"accuracy before the first epoch: ([\d.]+) % of 64 validation images", result.stderr)
    assert before, result.stderr
    assert float(before[1]) > 60
    assert "warning" not in result.stderr
    assert "images are normalised by the mean" in result.stderr
    assert not (tmp_path / "run/baseline.pt").exists()
    checkpoint = load_checkpoint(tmp_path / "run/fault.pt")
    assert checkpoint.lineage == ("attack", "fault")
    assert checkpoint.mean == pytest.approx(trained.mean)
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["sha256"]["init"] is not None


def test_a_normalisation_that_does_not_suit_is_warned_about_and_the_better_one_named(weights, tmp_path):
    result = run(tmp_path / "run", "--weights", str(weights), "--preprocess", "none", "--stages", "attack")
    assert re.search(r"warning: \d\d\.\d % with --mean 0\.308.*\(the data set's own\)", result.stderr), result.stderr
    assert load_checkpoint(tmp_path / "run/attack.pt").mean == (0.0, 0.0, 0.0)


def test_weights_that_know_nothing_are_warned_about(weights, tmp_path):
    torch.save({name: torch.zeros_like(tensor) for name, tensor in torch.load(weights).items()}, weights)
    result = run(tmp_path / "run", "--weights", str(weights), "--stages", "attack")
    assert "near chance" in result.stderr


def test_a_new_head_is_trained_first(weights, tmp_path):
    state = torch.load(weights)
    state["fc.weight"], state["fc.bias"] = torch.zeros(3, 64), torch.zeros(3)
    torch.save(state, weights)
    result = run(tmp_path / "run", "--weights", str(weights))
    assert "the head is a new one, for 10 classes" in result.stderr
    assert "accuracy before" not in result.stderr
    assert (tmp_path / "run/baseline.pt").exists()


def test_a_resumed_run_says_nothing_of_its_start(weights, tmp_path):
    run(tmp_path / "run", "--weights", str(weights), "--stages", "attack")
    again = run(tmp_path / "run", "--weights", str(weights), "--stages", "attack", "--resume")
    assert "accuracy before" not in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "a.pth", "--init", "b.pt"], "--init and --weights both say what to start from"),
        (["--weights", "a.pth", "--pretrained"], "--weights and --pretrained both"),
        (["--mean", "0.5"], "--mean and --std go together"),
        (["--mean", "0.5", "--std", "0"], "cannot read --std '0'"),
        (["--mean", "a,b", "--std", "1"], "cannot read --mean 'a,b'"),
        (["--mean", "0.5", "--std", "1", "--preprocess", "none"], "--preprocess stands in place"),
        (["--mean", "0.5,0.5", "--std", "1,1"], "images of digits have 3 channels, the normalisation is for 2"),
    ],
    ids=["two files", "file and download", "mean alone", "std 0", "no numbers", "both ways", "channels"],
)
def test_options_that_contradict_each_other_are_one_line(arguments, message, tmp_path):
    with pytest.raises(OptionError, match=re.escape(message)):
        run(tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()


def test_images_of_ones_own_are_not_mirrored_and_that_is_said(weights, tmp_path):
    data = load_dataset("digits")
    np.savez(
        tmp_path / "photos.npz",
        images=data.test.images[:60],
        labels=data.test.labels[:60],
        images_train=data.train.images[:80],
        labels_train=data.train.labels[:80],
    )
    quick = ("--dataset", str(tmp_path / "photos.npz"), "--weights", str(weights), "--stages", "attack")
    assert "does not mirror them" in run(tmp_path / "run", *quick).stderr
    assert "mirror" not in run(tmp_path / "chosen", *quick, "--augment", "crop-flip").stderr
    assert "mirror" not in run(tmp_path / "digits", "--stages", "baseline").stderr


def test_one_number_stands_for_all_channels(tmp_path):
    run(tmp_path / "run", "--mean", "0.5", "--std", "0.25", "--stages", "baseline")
    checkpoint = load_checkpoint(tmp_path / "run/baseline.pt")
    assert checkpoint.mean == (0.5, 0.5, 0.5)
    assert checkpoint.std == (0.25, 0.25, 0.25)


def test_validation_images_that_were_trained_on_are_warned_about(trained, tmp_path):
    data = load_dataset("digits")
    options = TrainOptions(network="resnet8", dataset="digits", stages=("attack",), precision="float32")
    bench = Workbench(options, data, tmp_path, lambda _: None, init=trained)
    given = dataclasses.replace(trained, stage=GIVEN)
    assert not [line for line in check_start(bench, given, new_head=False) if "trained on the validation" in line]
    bench.test = bench.train.head(300)
    bench.test = dataclasses.replace(bench.test, labels=(bench.test.labels + torch.arange(300) % 2) % 10)  # half wrong
    (warning,) = [line for line in check_start(bench, given, new_head=False) if "trained on the validation" in line]
    assert "300 test images" in warning
    assert "--keep last" in warning


class TestFiles:
    def test_safetensors_are_read(self, tmp_path):
        safetensors.torch.save_file({"a": torch.ones(3)}, tmp_path / "w.safetensors")
        assert torch.equal(read_weights(tmp_path / "w.safetensors")["a"], torch.ones(3))

    def test_code_in_a_file_is_not_run(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return pathlib.Path(tmp_path / "sprung").touch, ()

        (tmp_path / "w.pth").write_bytes(pickle.dumps(Trap()))
        torch.save({"a": Trap()}, tmp_path / "v.pth")
        for name in ("w.pth", "v.pth"):
            with pytest.raises(CheckpointError, match="code in such files is never run"):
                read_weights(tmp_path / name)
        assert not (tmp_path / "sprung").exists()

    def test_a_checkpoint_of_ours_belongs_to_init(self, trained, tmp_path):
        trained.save(tmp_path / "baseline.pt")
        with pytest.raises(CheckpointError, match="give it as --init"):
            read_weights(tmp_path / "baseline.pt")

    @pytest.mark.parametrize(
        ("content", "name", "message"),
        [
            (None, "w.pth", "cannot read weights"),
            (b"junk", "w.pth", "holds no plain weights"),
            (b"junk", "w.safetensors", "no readable safetensors file"),
        ],
        ids=["missing", "junk", "junk safetensors"],
    )
    def test_what_cannot_be_read_is_one_line(self, content, name, message, tmp_path):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            read_weights(tmp_path / name)

    def test_a_whole_pickled_module_says_what_to_save(self, tmp_path):
        torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match="state_dict"):
            read_weights(tmp_path / "w.pth")


class TestImageNet:
    def test_what_was_downloaded_is_checked_and_fitted(self, monkeypatch):
        torch.manual_seed(0)
        state = torchvision.models.resnet18().state_dict()
        asked = {}

        def download(url, **options):
            asked.update(options, url=url)
            return state

        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
        data = load_dataset("digits")
        start, fitted = given_start(
            imagenet_weights("resnet18"), "resnet18", data, normalisation=None, origin="ImageNet", seed=0
        )
        assert asked["check_hash"] is True
        assert asked["url"].startswith("https://download.pytorch.org/")
        assert fitted.new_head
        assert torch.equal(start.state["body.layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])

    def test_where_the_download_fails_one_line_says_what_to_do(self, monkeypatch):
        def fail(*_, **__):
            raise OSError("no route to host")

        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
        with pytest.raises(ModelError, match=r"no route to host.*fetch it elsewhere.*--weights resnet18"):
            imagenet_weights("resnet18")

    def test_networks_without_such_weights_are_refused_before_any_download(self):
        with pytest.raises(ModelError, match=r"no ImageNet weights of resnet20: --pretrained takes resnet18"):
            imagenet_weights("resnet20")
