import io
import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy

from resq_deploy.data import load_dataset
from resq_deploy.errors import DataError


def load_all(path):
    dataset = load_dataset(str(path))
    return dataset, dataset.test, dataset.train, dataset.calibration(5, 0)


def npy_bytes(values: np.ndarray, *, shape: tuple[int, ...] | None = None) -> bytes:
    """An .npy file, whose header may declare a shape other than that of its values."""
    stream = io.BytesIO()
    header = {"shape": shape or values.shape, "fortran_order": False, "descr": npy.dtype_to_descr(values.dtype)}
    npy.write_array_header_1_0(stream, header)
    return stream.getvalue() + values.tobytes()


class TestSound:
    def test_all_arrays(self, arrays, write_npz):
        dataset = load_dataset(str(write_npz(arrays)))
        assert dataset.name == "pets"
        assert dataset.classes == ("cat", "dog", "owl")
        assert dataset.augmentation == "crop"
        assert dataset.notes == ()
        assert np.array_equal(dataset.test.images, arrays["images"])
        assert np.array_equal(dataset.test.labels, arrays["labels"])
        assert len(dataset.train) + len(dataset.validation) == 30

    def test_the_images_can_be_written_to(self, arrays, write_npz):
        # torch.from_numpy warns of memory that it must not write to
        assert load_dataset(str(write_npz(arrays))).test.images.flags.writeable

    def test_fortran_order(self, arrays, write_npz):
        turned = arrays | {"images": np.asfortranarray(arrays["images"])}
        images = load_dataset(str(write_npz(turned))).test.images
        assert np.array_equal(images, arrays["images"])
        assert images.flags.c_contiguous

    def test_without_training_images_evaluation_leaves_out_what_calibration_takes(self, arrays, write_npz):
        dataset = load_dataset(str(write_npz({name: arrays[name] for name in ("images", "labels", "classes")})))
        evaluated = {image.tobytes() for image in dataset.evaluation().images}
        calibrated = {image.tobytes() for image in dataset.calibration(99, 0).images}
        assert (len(evaluated), len(calibrated)) == (16, 4)
        assert evaluated | calibrated == {image.tobytes() for image in arrays["images"]}
        assert dataset.notes == (
            "pets.npz has no images_train: 4 of its 20 images are kept for calibration and left out of the evaluation",
        )
        with pytest.raises(DataError, match="'images_train' is missing, and training needs it"):
            dataset.train  # noqa: B018

    def test_without_class_names_the_largest_label_counts(self, arrays, write_npz):
        dataset = load_dataset(str(write_npz({name: arrays[name] for name in arrays if name != "classes"})))
        assert dataset.classes == ("0", "1", "2")
        assert "names no classes" in dataset.notes[0]

    def test_float_images_keep_their_layout(self, arrays, write_npz):
        images = np.random.default_rng(0).random((20, 7), dtype=np.float32)
        dataset = load_dataset(str(write_npz({"images": images, "labels": arrays["labels"]})))
        assert dataset.augmentation == "none"
        assert dataset.test.images.shape == (16, 7)
        assert dataset.test.images.dtype == np.float32

    def test_labels_of_any_integer_type(self, arrays, write_npz):
        dataset = load_dataset(str(write_npz(arrays | {"labels": arrays["labels"].astype(np.uint64)})))
        assert dataset.test.labels.dtype == np.int64


WRONG = {
    "no images": ({"images": None}, "'images' is missing"),
    "no labels": ({"labels": None}, "'labels' is missing"),
    "training labels without images": ({"images_train": None}, "'images_train' is missing"),
    "training images without labels": ({"labels_train": None}, "'labels_train' is missing"),
    "fewer labels than images": ({"labels": np.zeros(19, dtype=int)}, "20 images and 'labels' 19 labels"),
    "a label too large": ({"labels": np.full(20, 3)}, r"'labels'\[0\] is 3: labels must lie in 0 ... 2"),
    "a label below zero": ({"labels": -np.eye(20, dtype=int)[4]}, r"'labels'\[4\] is -1"),
    "a training label too large": ({"labels_train": np.full(30, 9)}, r"'labels_train'\[0\] is 9"),
    "labels of floats": ({"labels": np.zeros(20)}, "labels must be integers"),
    "labels one-hot": ({"labels": np.eye(20, dtype=int)}, "labels must be integers"),
    "labels as objects": ({"labels": np.array([None] * 20)}, "Python objects"),
    "images as objects": ({"images": np.array([None] * 20)}, "Python objects"),
    "images in float64": ({"images": np.zeros((20, 8, 8, 3))}, "must be uint8"),
    "images of bytes planes": ({"images": np.zeros((20, 3, 8, 8), np.uint8)}, "1 or 3 channels"),
    "images without channels": ({"images": np.zeros((20, 8, 8), np.uint8)}, "1 or 3 channels"),
    "a scalar for images": ({"images": np.uint8(1)}, "1 or 3 channels"),
    "no image in images": ({"images": np.zeros((0, 8, 8, 3), np.uint8), "labels": np.zeros(0, int)}, "is empty"),
    "training images of another size": ({"images_train": np.zeros((30, 9, 9, 3), np.uint8)}, "one type and size"),
    "training images of another type": ({"images_train": np.zeros((30, 8, 8, 3), np.float32)}, "one type and size"),
    "NaN": (
        {"images": np.full((20, 2), np.nan, np.float32), "images_train": np.zeros((30, 2), np.float32)},
        "'images' holds NaN or infinite values",
    ),
    "infinity in training": (
        {"images": np.zeros((20, 2), np.float32), "images_train": np.full((30, 2), np.inf, np.float32)},
        "'images_train' holds NaN or infinite values",
    ),
    "class names as numbers": ({"classes": np.arange(3)}, "must be a list of strings"),
    "class names as objects": ({"classes": np.array(["cat", None, "owl"])}, "Python objects"),
    "no class names in classes": ({"classes": np.array([], dtype=str)}, "must be a list of strings"),
    "a class twice": ({"classes": np.array(["cat", "dog", "cat"])}, "names a class twice"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_wrong_content_is_one_line_that_names_the_file(arrays, write_npz, changes, message):
    contents = {name: value for name, value in (arrays | changes).items() if value is not None}
    path = write_npz(contents)
    with pytest.raises(DataError, match=message) as error:
        load_all(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_single_image_cannot_be_spared_for_calibration(arrays, write_npz):
    dataset = load_dataset(str(write_npz({"images": arrays["images"][:1], "labels": arrays["labels"][:1]})))
    assert len(dataset.evaluation()) == 1
    with pytest.raises(DataError, match="add images_train"):
        dataset.calibration(1, 0)


class TestBroken:
    @pytest.fixture
    def write_members(self, tmp_path):
        def write(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED):
            path = tmp_path / "broken.npz"
            with zipfile.ZipFile(path, "w", compression) as archive:
                for name, content in members.items():
                    archive.writestr(name, content)
            return path

        return write

    def fail(self, path) -> str:
        with pytest.raises(DataError) as error:
            load_all(path)
        message = str(error.value)
        assert str(path) in message
        assert "\n" not in message
        return message

    @pytest.mark.parametrize(
        "content", [b"", b"PK", b"plain text", npy_bytes(np.zeros(3))], ids=["empty", "magic", "text", "npy"]
    )
    def test_no_archive(self, tmp_path, content):
        path = tmp_path / "broken.npz"
        path.write_bytes(content)
        assert "numpy.savez" in self.fail(path)

    def test_truncated_archive(self, arrays, write_npz):
        path = write_npz(arrays)
        path.write_bytes(path.read_bytes()[:-30])
        assert "numpy.savez" in self.fail(path)

    @pytest.mark.parametrize("position", range(60, 3000, 211))
    def test_with_a_wrong_byte_there_is_one_line_or_a_data_set(self, arrays, write_npz, position):
        path = write_npz(arrays)
        content = bytearray(path.read_bytes())
        content[position] ^= 0xFF
        path.write_bytes(content)
        message = ""
        try:
            load_all(path)
        except DataError as error:
            message = str(error)
        assert "\n" not in message

    def test_a_wrong_pixel_is_found_by_its_checksum(self, arrays, tmp_path):
        path = tmp_path / "stored.npz"
        np.savez(path, **arrays)
        content = bytearray(path.read_bytes())
        content[content.index(arrays["images"].tobytes()) + 1000] ^= 1
        path.write_bytes(content)
        assert "CRC" in self.fail(path)

    def test_a_member_that_is_no_array(self, write_members):
        assert "numpy.savez" in self.fail(write_members({"images.npy": b"text", "labels.npy": b"text"}))

    def test_an_unknown_version_of_the_format(self, write_members):
        assert "version (3, 0)" in self.fail(write_members({"images.npy": npy.magic(3, 0) + b"\0" * 20}))

    @pytest.mark.parametrize(
        "shape",
        [(1 << 20, 1 << 10, 1 << 10, 3), (1 << 40, 1 << 40, 1 << 40, 3), (21, 8, 8, 3), (19, 8, 8, 3)],
        ids=["petabytes", "beyond 64 bits", "one image too many", "one image too few"],
    )
    def test_a_header_that_lies_is_found_before_memory_is_taken(self, write_members, arrays, shape):
        path = write_members({"images.npy": npy_bytes(arrays["images"], shape=shape)})
        assert "the file is broken" in self.fail(path)

    def test_an_archive_that_explodes_is_refused(self, write_members, monkeypatch):
        monkeypatch.setattr("resq_deploy.data.npz._FREE_BYTES", 1 << 20)
        zeros = np.zeros((1000, 32, 32, 3), np.uint8)
        path = write_members({"images.npy": npy_bytes(zeros), "labels.npy": npy_bytes(np.zeros(1000, np.int64))})
        assert "would expand" in self.fail(path)

    def test_an_encrypted_member(self, arrays, write_npz):
        path = write_npz(arrays)
        content = bytearray(path.read_bytes())
        for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            content[content.index(signature) + flags] |= 1
        path.write_bytes(content)
        assert "encrypted" in self.fail(path)
