import numpy as np
import pytest

from resq_deploy.data import Dataset, Split, to_model_input
from resq_deploy.errors import DataError


def make_split(count: int, *, classes: int = 4, seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    return Split(images=rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8), labels=np.arange(count) % classes)


def make_dataset(training: Split | None = None, test: Split | None = None) -> Dataset:
    return Dataset(
        name="made",
        classes=["a", "b", "c", "d"],
        augmentation="none",
        load_training=lambda: training or make_split(80),
        load_test=lambda: test or make_split(40, seed=1),
    )


def rows(split: Split) -> set[bytes]:
    return {image.tobytes() for image in split.images}


class TestSplit:
    def test_take_keeps_images_and_labels_together(self):
        split = make_split(10)
        part = split.take([7, 2])
        assert part.labels.tolist() == [3, 2]
        assert np.array_equal(part.images, split.images[[7, 2]])

    @pytest.mark.parametrize(("count", "length"), [(3, 3), (10, 10), (99, 10), (None, 10)])
    def test_head(self, count, length):
        assert len(make_split(10).head(count)) == length


class TestDataset:
    def test_validation_is_a_tenth_of_every_class_and_apart_from_train(self):
        dataset = make_dataset()
        assert np.bincount(dataset.validation.labels).tolist() == [2, 2, 2, 2]
        assert len(dataset.train) == 72
        assert not rows(dataset.train) & rows(dataset.validation)

    def test_a_split_is_loaded_once_and_only_when_it_is_used(self):
        loads = []
        dataset = Dataset(
            name="counted",
            classes=["a", "b", "c", "d"],
            augmentation="none",
            load_training=lambda: loads.append("training") or make_split(80),
            load_test=lambda: loads.append("test") or make_split(40),
        )
        dataset.evaluation(5)
        dataset.digest("test")
        assert loads == ["test"]
        assert len(dataset.train) + len(dataset.validation) == 80
        assert loads == ["test", "training"]

    @pytest.mark.parametrize("count", [40, 41, None])
    def test_evaluation_is_the_whole_test_set_where_nothing_smaller_is_asked_for(self, count):
        dataset = make_dataset()
        assert rows(dataset.evaluation(count)) == rows(dataset.test)

    def test_a_smaller_evaluation_begins_a_larger_one(self):
        dataset = make_dataset()
        assert np.array_equal(dataset.evaluation(5).images, dataset.evaluation(20).images[:5])

    def test_calibration_is_seeded_and_takes_training_images_only(self):
        dataset = make_dataset()
        first, again, other = (dataset.calibration(20, seed).images for seed in (0, 0, 1))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)
        assert rows(dataset.calibration(999, 0)) == rows(dataset.train)

    @pytest.mark.parametrize("count", [0, -1])
    @pytest.mark.parametrize("choose", [lambda d, n: d.evaluation(n), lambda d, n: d.calibration(n, 0)])
    def test_a_count_below_one_is_refused(self, choose, count):
        with pytest.raises(DataError, match="at least 1"):
            choose(make_dataset(), count)

    def test_digest_sees_pixels_labels_classes_and_shape(self):
        split = make_split(40, seed=1)
        pixel = split.images.copy()
        pixel[3, 2, 1, 0] ^= 1
        variants = [
            split,
            Split(images=pixel, labels=split.labels),
            Split(images=split.images, labels=split.labels[::-1]),
            Split(images=split.images.reshape(40, 2, 8, 3), labels=split.labels),
        ]
        digests = [make_dataset(test=variant).digest("test") for variant in variants]
        renamed = make_dataset(test=split)
        renamed.classes = ("a", "b", "c", "e")
        assert len({*digests, renamed.digest("test")}) == 5
        assert make_dataset(test=split).digest("test") == digests[0]
        assert all(len(digest) == 64 for digest in digests)

    def test_moments_of_uint8_images_are_those_of_the_float_images(self):
        dataset = make_dataset()
        mean, std = dataset.mean_std()
        pixels = dataset.train.images / 255
        assert mean == pytest.approx(pixels.mean(axis=(0, 1, 2)), rel=1e-12)
        assert std == pytest.approx(pixels.std(axis=(0, 1, 2)), rel=1e-12)

    def test_moments_of_float_images_are_over_the_second_axis(self):
        images = np.random.default_rng(0).random((20, 3, 4, 5), dtype=np.float32)
        dataset = make_dataset(Split(images=images, labels=np.zeros(20, dtype=np.int64)))
        mean, std = dataset.mean_std()
        pixels = dataset.train.images.astype(np.float64)
        assert mean == pytest.approx(pixels.mean(axis=(0, 2, 3)), rel=1e-9)
        assert std == pytest.approx(pixels.std(axis=(0, 2, 3)), rel=1e-9)

    def test_a_constant_channel_can_still_be_normalised(self):
        black = Split(images=np.zeros((8, 2, 2, 3), dtype=np.uint8), labels=np.arange(8) % 4)
        assert make_dataset(black).mean_std() == ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))

    def test_moments_need_channels(self):
        flat = Split(images=np.zeros((8, 5), dtype=np.float32), labels=np.arange(8) % 4)
        with pytest.raises(DataError, match=r"made have the shape"):
            make_dataset(flat).mean_std()


class TestToModelInput:
    def test_uint8_becomes_planes_in_zero_to_one(self):
        images = make_split(3).images
        planes = to_model_input(images)
        assert planes.dtype == np.float32
        assert planes.flags.c_contiguous
        assert np.array_equal(planes, (images.transpose(0, 3, 1, 2) / 255).astype(np.float32))

    def test_float32_is_fed_as_it_is(self):
        images = np.asfortranarray(np.random.default_rng(0).random((3, 5, 2), dtype=np.float32))
        fed = to_model_input(images)
        assert np.array_equal(fed, images)
        assert fed.flags.c_contiguous

    @pytest.mark.parametrize(
        "images",
        [
            pytest.param(np.zeros((2, 4, 4, 3)), id="float64"),
            pytest.param(np.zeros((4, 4, 3), dtype=np.uint8), id="one image without a batch"),
        ],
    )
    def test_anything_else_is_refused(self, images):
        with pytest.raises(DataError, match="must be uint8"):
            to_model_input(images)
