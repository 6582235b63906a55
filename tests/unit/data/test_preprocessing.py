"""What stands between pixels and a network that does not normalise by itself."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from resq_deploy.data import Dataset, Split
from resq_deploy.data.preprocessing import AS_IS, IMAGENET, Preprocessing, Wish, in_channels
from resq_deploy.errors import OptionError

RNG = np.random.default_rng(5)
LEVELS = RNG.integers(0, 256, (3, 6, 7, 3), dtype=np.uint8)
PIXELS = (LEVELS / np.float32(255)).transpose(0, 3, 1, 2).astype(np.float32)


def test_normalisation_is_that_of_torchvision_bit_for_bit():
    torch = pytest.importorskip("torch")
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    mean, std = IMAGENET
    expected = transforms.normalize(torch.from_numpy(PIXELS), list(mean), list(std)).numpy()
    assert np.array_equal(Preprocessing(mean=mean, std=std).fed(PIXELS, "nchw"), expected)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_levels_with_a_mean_of_each_channel_in_either_layout(layout):
    caffe = Preprocessing(scale=255.0, mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 2.0))
    pixels = PIXELS if layout == "nchw" else PIXELS.transpose(0, 2, 3, 1)
    expected = (LEVELS - np.array([104, 117, 123])) / np.array([1, 1, 2])
    found = caffe.fed(pixels, layout)
    assert found.dtype == np.float32
    assert np.allclose(found if layout == "nhwc" else found.transpose(0, 2, 3, 1), expected, atol=1e-4)


@pytest.mark.parametrize(
    "given", [{"mean": (0.5,), "std": (0.5,)}, {"scale": 255.0}, {"mean": IMAGENET[0], "std": IMAGENET[1]}]
)
def test_pixels_come_back_and_stay_in_their_range(given):
    preprocessing = Preprocessing(**given)
    back = preprocessing.pixels(preprocessing.fed(PIXELS, "nchw"), "nchw")
    assert back.min() >= 0
    assert back.max() <= 1
    assert np.allclose(back, PIXELS, atol=1e-6)
    assert Preprocessing(mean=(0.5,), std=(0.5,)).pixels(np.float32([[[[3.0]]]]), "nchw").item() == 2.0  # no pixel


def test_tensors_are_normalised_with_gradients_through():
    torch = pytest.importorskip("torch")
    images = torch.from_numpy(PIXELS).requires_grad_()
    fed = Preprocessing(mean=(0.5,), std=(0.25,)).fed(images, "nchw")
    fed.sum().backward()
    assert torch.equal(images.grad, torch.full_like(images, 4.0))


def test_nothing_said_changes_nothing():
    assert AS_IS.fed(PIXELS, "nchw") is PIXELS


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mean": (0.5,)}, "go together"),
        ({"mean": (0.5,), "std": (0.0,)}, "above 0"),
        ({"mean": (float("nan"),), "std": (1.0,)}, "finite"),
        ({"scale": 0.0}, "what white is"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(given, words):
    with pytest.raises(OptionError, match=words):
        Preprocessing(**given)


def test_as_many_numbers_as_channels_are_asked_for():
    with pytest.raises(OptionError, match="takes 3 channels, --mean and --std have 2 and 2"):
        Preprocessing(mean=(0.5, 0.5), std=(1.0, 1.0)).fed(PIXELS, "nchw")


def test_it_goes_through_json():
    whole = Preprocessing(channels="bgr", layout="nhwc", scale=255.0, mean=(1.0, 2.0, 3.0), std=(1.0,))
    assert Preprocessing.from_dict(json.loads(json.dumps(whole.as_dict()))) == whole
    with pytest.raises(ValueError, match="unknown channels"):
        Preprocessing.from_dict({**whole.as_dict(), "channels": "cmyk"})


def test_a_wish_takes_the_place_of_what_it_names_alone():
    known = Preprocessing(channels="bgr", mean=(0.5,), std=(0.5,))
    assert Wish(mean=(), std=()).over(known) == Preprocessing(channels="bgr")
    assert Wish(channels="rgb").over(known) == dataclasses.replace(known, channels="rgb")


def test_grey_is_that_of_pillow():
    for image, grey in zip(LEVELS, in_channels(LEVELS, "rgb", "gray"), strict=True):
        assert np.array_equal(grey[..., 0], np.asarray(Image.fromarray(image).convert("L")))
    assert np.array_equal(in_channels(LEVELS[..., ::-1], "bgr", "gray"), in_channels(LEVELS, "rgb", "gray"))


def test_channels_turn_round_and_back():
    assert np.array_equal(in_channels(in_channels(LEVELS, "rgb", "bgr"), "bgr", "rgb"), LEVELS)
    assert in_channels(LEVELS[..., :1], "gray", "rgb").shape == LEVELS.shape


def dataset(images=LEVELS, **more):
    split = Split(images=np.repeat(images, 10, axis=0), labels=np.arange(30) % 2)
    return Dataset(
        name="made",
        classes=["a", "b"],
        augmentation="none",
        load_training=lambda: split,
        load_test=lambda: split,
        **more,
    )


def test_a_data_set_in_other_channels_has_the_same_splits_and_digests():
    plain = dataset()
    turned = plain.in_channels("bgr")
    for name in ("train", "validation", "test"):
        one, other = getattr(plain, name), getattr(turned, name)
        assert np.array_equal(one.images[..., ::-1], other.images)
        assert np.array_equal(one.labels, other.labels)
        assert plain.digest(name) == turned.digest(name)
    assert turned.mean_std()[0] == pytest.approx(plain.mean_std()[0][::-1])
    assert np.array_equal(turned.in_channels("rgb").test.images, plain.test.images)
    assert plain.in_channels(None) is plain


def test_images_that_are_so_already_stay():
    assert np.array_equal(dataset(channels="bgr").in_channels("bgr").test.images, dataset().test.images)
    grey = dataset(LEVELS[..., :1])
    assert np.array_equal(grey.in_channels("gray").test.images, grey.test.images)
    floats = dataset(PIXELS)
    assert floats.in_channels("bgr").test.images is floats.test.images
