import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resq_deploy.data import DATASETS, load_dataset
from resq_deploy.data.sources import _default_data_dir
from resq_deploy.errors import DataError


class TestDigits:
    def test_images(self):
        digits = load_dataset("digits")
        assert (len(digits.train), len(digits.validation), len(digits.test)) == (1078, 120, 599)
        assert digits.classes == tuple("0123456789")
        assert digits.augmentation == "crop"
        assert digits.test.images.shape == (599, 32, 32, 3)
        assert digits.test.images.dtype == np.uint8
        assert (digits.test.images.min(), digits.test.images.max()) == (0, 255)
        assert np.array_equal(digits.test.images[..., 0], digits.test.images[..., 2])

    def test_every_part_holds_all_digits_in_like_shares(self):
        digits = load_dataset("digits")
        for split in (digits.train, digits.validation, digits.test):
            shares = np.bincount(split.labels, minlength=10) / len(split)
            assert shares == pytest.approx(0.1, abs=0.012)

    def test_it_is_the_same_every_time(self):
        first, second = load_dataset("digits"), load_dataset("digits")
        assert [first.digest(name) for name in ("train", "validation", "test")] == [
            second.digest(name) for name in ("train", "validation", "test")
        ]


class TestDispatch:
    @pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits"])
    def test_a_named_set_is_looked_for_as_a_tree_below_the_data_folder(self, write_tree, name):
        root = write_tree({"test": {"00": 2, "01": 1}}, name=name)
        dataset = load_dataset(name, root.parent)
        assert dataset.name == name
        assert len(dataset.test) == 3

    def test_traffic_signs_are_never_mirrored(self, write_tree):
        root = write_tree({"test": {"00": 2}}, name="gtsrb")
        assert load_dataset("gtsrb", root.parent).augmentation == "translate"
        assert load_dataset(str(root)).augmentation == "translate"

    def test_a_name_wins_over_a_folder_of_that_name(self, write_tree, monkeypatch):
        monkeypatch.chdir(write_tree({"test": {"a": 1}}, name="digits").parent)
        assert len(load_dataset("digits").classes) == 10
        assert load_dataset("./digits").classes == ("a",)

    def test_the_current_folder_has_a_name(self, write_tree, monkeypatch):
        monkeypatch.chdir(write_tree({"test": {"a": 1}}, name="signs"))
        assert load_dataset(".").name == "signs"

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            pytest.param("cifar", "did you mean cifar10", id="nearly a name"),
            pytest.param("no/such/folder", "give one of digits, cifar10", id="no such path"),
            pytest.param("", "cannot|neither|give", id="nothing"),
            pytest.param("a\0b", "give one of digits", id="a null byte"),
            pytest.param("x" * 5000, "give one of digits", id="too long for a path"),
        ],
    )
    def test_an_unknown_set_is_one_line(self, spec, message, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(DataError, match=message) as error:
            load_dataset(spec)
        assert "\n" not in str(error.value)

    def test_a_file_of_another_kind(self, tmp_path):
        path = tmp_path / "images.csv"
        path.write_text("")
        with pytest.raises(DataError, match=r"neither a folder nor an \.npz"):
            load_dataset(str(path))


class TestDefaultFolder:
    @pytest.fixture(autouse=True)
    def home(self, monkeypatch, tmp_path):
        monkeypatch.setattr(Path, "home", lambda: tmp_path)
        return tmp_path

    @pytest.mark.parametrize("value", [None, "", "relative/cache"])
    def test_the_cache_of_the_user(self, monkeypatch, home, value):
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        if value is not None:
            monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert _default_data_dir() == home / ".cache" / "resq-deploy" / "data"

    def test_the_cache_that_the_environment_names(self, monkeypatch, write_tree):
        root = write_tree({"test": {"a": 1}}, name="resq-deploy/data/cifar10")
        monkeypatch.setenv("XDG_CACHE_HOME", str(root.parents[2]))
        assert len(load_dataset("cifar10").test) == 1


def test_nothing_of_torch_is_imported():
    code = (
        "import sys\n"
        "from resq_deploy.data import load_dataset, to_model_input\n"
        "print(to_model_input(load_dataset('digits').evaluation(3).images).shape)\n"
        "print({'torch', 'torchvision'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:2] == ["(3, 3, 32, 32)", "set()"], done.stderr
