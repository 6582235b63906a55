import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resq_deploy.data import load_dataset
from resq_deploy.data.folder import decode
from resq_deploy.errors import DataError

LAYOUT = {"train": {"cat": 12, "dog": 12}, "test": {"cat": 3, "dog": 2}}


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def png_of_size(width: int, height: int) -> bytes:
    """A PNG header that declares a size, with next to no pixels behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


class TestTree:
    def test_images_come_in_the_order_of_class_and_file_names(self, write_tree):
        dataset = load_dataset(str(write_tree(LAYOUT)))
        assert dataset.name == "signs"
        assert dataset.classes == ("cat", "dog")
        assert dataset.augmentation == "crop"
        assert dataset.test.labels.tolist() == [0, 0, 0, 1, 1]
        assert dataset.test.images[:, 0, 0, 0].tolist() == [25, 26, 27, 28, 29]
        assert dataset.test.images.shape == (5, 8, 8, 3)
        assert dataset.test.images.dtype == np.uint8
        assert len(dataset.train) == 22
        assert len(dataset.validation) == 2

    @pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg", ".jpeg", ".webp"])
    def test_every_format_is_read(self, write_tree, suffix):
        dataset = load_dataset(str(write_tree({"test": {"cat": 2}}, suffix=suffix)))
        assert dataset.test.images.shape == (2, 8, 8, 3)

    def test_many_images_keep_their_order(self, write_tree):
        root = write_tree({"test": {"cat": 200, "dog": 55}}, size=1)
        folders = [
            root / "test" / label / f"{index:03d}.png" for label, n in (("cat", 200), ("dog", 55)) for index in range(n)
        ]
        assert decode(folders * 3)[:, 0, 0, 0].tolist() == list(range(1, 256)) * 3

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
    def test_other_modes_become_rgb(self, tmp_path, mode):
        path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
        Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode).save(path)
        assert decode([path]).tolist() == np.full((1, 4, 4, 3), 255).tolist()

    def test_a_palette_with_transparency_raises_no_warning(self, tmp_path):
        path = tmp_path / "image.png"
        image = Image.new("P", (4, 4), 1)
        image.putpalette([0, 0, 0, 10, 20, 30])
        image.save(path, transparency=bytes([0, 128]))
        assert decode([path])[0, 0, 0].tolist() == [10, 20, 30]

    def test_files_of_other_kinds_and_hidden_ones_are_passed_over(self, write_tree):
        root = write_tree(LAYOUT)
        (root / "test" / "cat" / "notes.txt").write_text("no image")
        (root / "test" / "cat" / ".hidden.png").write_bytes(b"")
        (root / "test" / ".cache").mkdir()
        (root / "test" / "index.csv").write_text("")
        assert len(load_dataset(str(root)).test) == 5

    def test_evaluation_needs_no_training_images(self, write_tree):
        dataset = load_dataset(str(write_tree({"test": {"cat": 3}})))
        assert len(dataset.evaluation(2)) == 2
        with pytest.raises(DataError, match="holds no train/ folder") as error:
            dataset.train  # noqa: B018
        assert "train/CLASS" in one_line(error)
        with pytest.raises(DataError, match="holds no train/ folder"):
            dataset.calibration(5, 0)

    def test_training_needs_no_test_images(self, write_tree):
        dataset = load_dataset(str(write_tree({"train": {"cat": 3}})))
        assert len(dataset.train) == 2
        with pytest.raises(DataError, match="holds no test/ folder"):
            dataset.test  # noqa: B018

    def test_a_class_may_lack_test_images(self, write_tree):
        dataset = load_dataset(str(write_tree({"train": {"cat": 2, "dog": 2}, "test": {"dog": 1}})))
        assert dataset.classes == ("cat", "dog")
        assert dataset.test.labels.tolist() == [1]

    def test_a_test_class_unknown_to_training_is_refused(self, write_tree):
        root = write_tree({"train": {"cat": 2}, "test": {"cat": 1, "owl": 1}})
        with pytest.raises(DataError, match="'owl'") as error:
            load_dataset(str(root))
        one_line(error)

    @pytest.mark.parametrize(
        ("folders", "message"),
        [
            pytest.param([], "neither train/ nor test/", id="empty tree"),
            pytest.param(["test"], "no class folders", id="empty split"),
            pytest.param(["test/cat"], "holds no image", id="empty class"),
        ],
    )
    def test_an_empty_tree_is_refused(self, tmp_path, folders, message):
        for folder in folders:
            (tmp_path / folder).mkdir(parents=True)
        with pytest.raises(DataError, match=message) as error:
            load_dataset(str(tmp_path)).test  # noqa: B018
        one_line(error)


class TestBrokenImages:
    @pytest.fixture
    def broken(self, write_tree) -> Path:
        """The second of three images, to be replaced by a test."""
        return write_tree({"test": {"cat": 3}}) / "test" / "cat" / "001.png"

    def fail(self, broken: Path) -> str:
        with pytest.raises(DataError) as error:
            load_dataset(str(broken.parents[2])).test  # noqa: B018
        message = one_line(error)
        assert str(broken) in message
        return message

    def test_of_another_size(self, broken):
        Image.new("RGB", (8, 9)).save(broken)
        assert "8x9, the images before it 8x8" in self.fail(broken)

    @pytest.mark.parametrize("length", [0, 4, 20, 33, 50])
    def test_truncated(self, broken, length):
        broken.write_bytes(broken.read_bytes()[:length])
        assert "mend or remove" in self.fail(broken)

    @pytest.mark.parametrize("position", range(8, 60, 3))
    def test_with_a_wrong_byte_there_is_one_line_or_an_image(self, broken, position):
        content = bytearray(broken.read_bytes())
        content[position] ^= 0xFF
        broken.write_bytes(content)
        message = str(broken)
        try:
            assert len(load_dataset(str(broken.parents[2])).test) == 3
        except DataError as error:
            message = str(error)
        assert str(broken) in message
        assert "\n" not in message

    def test_no_image_at_all(self, broken):
        broken.write_text("not an image")
        assert "cannot identify" in self.fail(broken)

    @pytest.mark.parametrize("side", [10_000, 20_000], ids=["warned of by Pillow", "refused by Pillow"])
    def test_decompression_bomb(self, broken, side):
        broken.write_bytes(png_of_size(side, side))
        assert "decompression bomb" in self.fail(broken)

    def test_sixteen_bits_a_channel(self, broken):
        Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(broken)
        assert "8-bit" in self.fail(broken)

    def test_a_folder_named_like_an_image_is_no_image(self, broken):
        broken.unlink()
        broken.mkdir()
        assert len(load_dataset(str(broken.parents[2])).test) == 2


class TestSplits:
    def test_validation_images_of_the_tree_choose_epochs(self, write_tree):
        dataset = load_dataset(str(write_tree({**LAYOUT, "val": {"cat": 1, "dog": 3}})))
        assert len(dataset.train) == 24
        assert dataset.validation.labels.tolist() == [0, 1, 1, 1]

    @pytest.mark.parametrize("name", ["val", "validation", "valid"])
    def test_it_may_be_called_otherwise(self, write_tree, name):
        assert len(load_dataset(str(write_tree({**LAYOUT, name: {"cat": 1}}))).validation) == 1

    def test_a_class_that_validation_alone_has_is_named(self, write_tree):
        with pytest.raises(DataError, match=r"val has the class 'owl', which .*train lacks") as error:
            load_dataset(str(write_tree({**LAYOUT, "val": {"owl": 1}})))
        one_line(error)

    def test_a_tree_of_classes_alone_keeps_a_fixed_fifth_of_each_to_test_on(self, write_tree):
        root = write_tree({"cat": {"": 20}, "dog": {"": 10}})
        first, again = load_dataset(str(root)), load_dataset(str(root))
        assert first.classes == ("cat", "dog")
        assert first.test.labels.tolist() == [0] * 4 + [1] * 2
        assert first.digest("test") == again.digest("test")
        assert len(first.train) + len(first.validation) == 24
        held = {image.tobytes() for image in first.test.images}
        assert not held & {image.tobytes() for image in (*first.train.images, *first.validation.images)}
        assert "a fixed fifth of each class, 6 of 30 images, is the test set" in first.notes[0]

    def test_files_beside_the_classes_and_empty_folders_do_not_matter(self, write_tree):
        root = write_tree({"cat": {"": 5}, "dog": {"": 5}})
        (root / "notes.txt").write_text("x")
        (root / "empty").mkdir()
        assert load_dataset(str(root)).classes == ("cat", "dog")

    def test_one_image_a_class_cannot_be_divided(self, write_tree):
        with pytest.raises(DataError, match="give at least two of each") as error:
            load_dataset(str(write_tree({"cat": {"": 1}, "dog": {"": 1}})))
        one_line(error)

    def test_bitmaps_are_read(self, write_tree):
        assert load_dataset(str(write_tree({"test": {"cat": 2}}, suffix=".bmp"))).test.images.shape == (2, 8, 8, 3)
