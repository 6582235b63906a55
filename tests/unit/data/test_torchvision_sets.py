import hashlib
import pickle
import sys
import urllib.error

import numpy as np
import pytest
import torchvision
from PIL import Image

from resq_deploy.data import load_dataset
from resq_deploy.errors import DataError, MissingExtraError


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """Four images a file in the format of CIFAR-10, with torchvision's checksums set to those of the files."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    source = torchvision.datasets.CIFAR10

    def write(name: str, content: dict[str, object]) -> str:
        payload = pickle.dumps(content)
        (folder / name).write_bytes(payload)
        return hashlib.md5(payload).hexdigest()

    def write_batch(name: str) -> list[str]:
        data = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        return [name, write(name, {"data": data, "labels": [0, 1, 2, 3]})]

    monkeypatch.setattr(source, "train_list", [write_batch(name) for name, _ in source.train_list])
    monkeypatch.setattr(source, "test_list", [write_batch(name) for name, _ in source.test_list])
    names = ["airplane", "automobile", "bird", "cat"]
    checksum = write("batches.meta", {"label_names": names})
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": checksum})
    return folder


@pytest.fixture
def gtsrb(tmp_path):
    """Signs of several sizes in torchvision's layout of GTSRB."""
    root = tmp_path / "gtsrb"
    for label in range(43):
        folder = root / "GTSRB" / "Training" / f"{label:05d}"
        folder.mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (15 + label, 20 + index), (label, 0, 0)).save(folder / f"00000_{index:05d}.ppm")
    images = root / "GTSRB" / "Final_Test" / "Images"
    images.mkdir(parents=True)
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for index, label in enumerate((16, 1, 42)):
        Image.new("RGB", (30, 40), (label, 0, 0)).save(images / f"{index:05d}.ppm")
        lines.append(f"{index:05d}.ppm;30;40;5;5;25;35;{label}")
    (root / "GT-final_test.csv").write_text("\n".join(lines))
    return root


def fail(action) -> str:
    with pytest.raises(DataError) as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)


class TestCifar:
    def test_images(self, cifar10):
        dataset = load_dataset("cifar10", cifar10.parent)
        with (cifar10 / "test_batch").open("rb") as stream:
            pixels = pickle.load(stream)["data"]
        assert dataset.classes == ("airplane", "automobile", "bird", "cat")
        assert np.array_equal(dataset.test.images, pixels.reshape(4, 3, 32, 32).transpose(0, 2, 3, 1))
        assert dataset.test.labels.tolist() == [0, 1, 2, 3]
        assert len(dataset.train) + len(dataset.validation) == 20

    @pytest.mark.parametrize("name", ["test_batch", "data_batch_3", "batches.meta"])
    @pytest.mark.parametrize("damage", ["missing", "corrupt"])
    def test_a_damaged_file_is_one_line(self, cifar10, name, damage):
        (cifar10 / name).unlink()
        if damage == "corrupt":
            (cifar10 / name).write_bytes(b"cos\nsystem\n")
        message = fail(lambda: load_dataset("cifar10", cifar10.parent).train)
        assert "incomplete or corrupt" in message
        assert str(cifar10) in message

    def test_without_torchvision_its_files_cannot_be_read(self, cifar10, monkeypatch):
        monkeypatch.setitem(sys.modules, "torchvision", None)
        with pytest.raises(MissingExtraError, match=r"pip install 'resq-deploy\[train\]'"):
            load_dataset("cifar10", cifar10.parent)


class TestGtsrb:
    def test_signs_of_all_sizes_become_32x32(self, gtsrb):
        dataset = load_dataset("gtsrb", gtsrb.parent)
        assert dataset.classes[:2] == ("00", "01")
        assert len(dataset.classes) == 43
        assert dataset.augmentation == "translate"
        assert dataset.test.images.shape == (3, 32, 32, 3)
        assert dataset.test.labels.tolist() == [16, 1, 42]
        assert dataset.test.images[:, 0, 0, 0].tolist() == [16, 1, 42]
        assert (len(dataset.train), len(dataset.validation)) == (86, 0)  # two frames of one sign in each class

    def test_its_files_are_read_without_torchvision(self, gtsrb, monkeypatch):
        monkeypatch.setitem(sys.modules, "torchvision", None)
        assert len(load_dataset("gtsrb", gtsrb.parent).test) == 3

    @pytest.mark.parametrize(
        "table",
        [
            pytest.param(None, id="no table"),
            pytest.param("", id="an empty table"),
            pytest.param("Filename;ClassId\n", id="a table of no rows"),
            pytest.param("Filename;ClassId\n../../GT-final_test.csv;3\n", id="a path out of the folder"),
            pytest.param("Filename;ClassId\n00000.ppm;43\n", id="a class too many"),
            pytest.param("Filename;ClassId\n00000.ppm;stop\n", id="a class that is no number"),
            pytest.param("Filename;ClassId\n00000.ppm\n", id="a short row"),
            pytest.param("Name;Label\n00000.ppm;3\n", id="other columns"),
        ],
    )
    def test_a_wrong_table_is_one_line(self, gtsrb, table):
        (gtsrb / "GT-final_test.csv").unlink()
        if table is not None:
            (gtsrb / "GT-final_test.csv").write_text(table)
        assert "GT-final_test.csv" in fail(lambda: load_dataset("gtsrb", gtsrb.parent).test)

    def test_an_unreadable_image(self, gtsrb):
        (gtsrb / "GTSRB/Training/00007/00000_00001.ppm").write_bytes(b"P6 4 4 255 ")
        assert "00007/00000_00001.ppm" in fail(lambda: load_dataset("gtsrb", gtsrb.parent).train)

    def test_missing_training_images(self, gtsrb):
        for path in (gtsrb / "GTSRB/Training").rglob("*.ppm"):
            path.unlink()
        assert "holds no .ppm image" in fail(lambda: load_dataset("gtsrb", gtsrb.parent).train)
        (gtsrb / "GTSRB/Training").rename(gtsrb / "elsewhere")
        assert "cannot read the folder" in fail(lambda: load_dataset("gtsrb", gtsrb.parent).train)


class TestDownload:
    @pytest.mark.parametrize("name", ["cifar10", "cifar100", "gtsrb"])
    def test_without_torchvision_it_names_the_extra(self, tmp_path, monkeypatch, name):
        monkeypatch.setitem(sys.modules, "torchvision", None)
        with pytest.raises(MissingExtraError, match=f"downloading {name} needs the extra 'train'"):
            load_dataset(name, tmp_path)

    @pytest.mark.parametrize("name", ["cifar10", "cifar100", "gtsrb"])
    @pytest.mark.parametrize(
        "error", [urllib.error.URLError("no route to host"), RuntimeError("File not found or corrupted.")], ids=repr
    )
    def test_a_failed_download_names_what_was_looked_for(self, tmp_path, monkeypatch, name, error):
        def refuse(*_args, **_options):
            raise error

        for module in ("cifar", "gtsrb"):
            monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", refuse)
        message = fail(lambda: load_dataset(name, tmp_path / "new"))
        assert "download failed" in message
        assert str(tmp_path / "new" / name) in message
        assert "{train,test}/CLASS" in message
        assert "--data-dir" in message

    def test_a_download_is_read_at_once(self, gtsrb, tmp_path, monkeypatch):
        def place(_url, download_root, **_options):
            if not (tmp_path / "new" / "gtsrb").exists():
                gtsrb.rename(tmp_path / "new" / "gtsrb")

        monkeypatch.setattr("torchvision.datasets.gtsrb.download_and_extract_archive", place)
        assert len(load_dataset("gtsrb", tmp_path / "new").test) == 3
