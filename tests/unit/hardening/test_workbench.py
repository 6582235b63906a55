"""What the workbench decides by itself."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from resq_deploy.data import Dataset, Split
from resq_deploy.errors import CheckpointError, DataError, ModelError
from resq_deploy.hardening.checkpoint import load_checkpoint
from resq_deploy.hardening.loop import train
from resq_deploy.hardening.workbench import Workbench, _wants_bf16

CPU = torch.device("cpu")
DEPTHWISE = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4))


@pytest.mark.parametrize("features", [{"avx512_bf16"}, {"amx_bf16"}])
def test_bf16_where_the_processor_gains_by_it(monkeypatch, features):
    monkeypatch.setattr("resq_deploy.hardening.workbench.cpu_features", lambda: features)
    assert _wants_bf16("auto", CPU, nn.Conv2d(4, 4, 3))
    assert not _wants_bf16("auto", CPU, DEPTHWISE)


def test_what_is_asked_for_goes_before(monkeypatch):
    monkeypatch.setattr("resq_deploy.hardening.workbench.cpu_features", set)
    assert _wants_bf16("bf16", CPU, DEPTHWISE)
    assert not _wants_bf16("float32", CPU, nn.Conv2d(4, 4, 3))
    assert not _wants_bf16("auto", CPU, nn.Conv2d(4, 4, 3))


def pictures(height=8, width=8, channels=3, *, test=None):
    """Images of two classes; `test` takes the place of the test images."""
    labels = np.arange(40) % 2
    images = np.zeros((40, height, width, channels), np.uint8)
    plain = Split(images=images, labels=labels)
    judged = plain if test is None else Split(images=test, labels=labels)
    return Dataset(
        name="pictures",
        classes=("a", "b"),
        augmentation="none",
        load_training=lambda: plain,
        load_test=lambda: judged,
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pictures(8, 12), "images of 8x12 pixels: training takes square ones"),
        (pictures(test=np.zeros((40, 6, 6, 3), np.uint8)), "training images of 8x8 pixels .* images of 6x6 and 3"),
        (pictures(test=np.full((40, 3, 8, 8), 2, np.float32)), r"float test images must lie in \[0, 1\]"),
    ],
)
def test_images_that_cannot_be_used_are_told_before_training(options, tmp_path, data, message):
    with pytest.raises(DataError, match=message):
        Workbench(options, data, tmp_path, lambda _: None)


def test_a_checkpoint_of_other_images_or_another_order_of_classes_is_refused(options, tmp_path):
    short = dataclasses.replace(options, stages=("baseline",), epochs_baseline=1)
    train(short, pictures(), tmp_path, lambda _: None)
    checkpoint = load_checkpoint(tmp_path / "baseline.pt")
    attack = dataclasses.replace(options, stages=("attack",))
    with pytest.raises(CheckpointError, match=r"images with 3 channels, those of pictures have 1"):
        train(attack, pictures(channels=1), tmp_path / "grey", lambda _: None, init=checkpoint)
    turned = dataclasses.replace(checkpoint, classes=("b", "a"))
    with pytest.raises(CheckpointError, match="the classes of pictures in another order"):
        train(attack, pictures(), tmp_path / "turned", lambda _: None, init=turned)


def test_a_network_of_ones_own_is_tried_before_training(options, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def build(num_classes):\n"
        "    conv = nn.Conv2d(3, num_classes, 8)\n"
        "    return nn.Sequential(conv.requires_grad_(False), nn.Flatten())\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="mine:build has no weight that learns"):
        Workbench(dataclasses.replace(options, network="mine:build"), pictures(), tmp_path, lambda _: None)


def test_augmentation_is_the_data_sets_unless_another_is_asked_for(options, dataset, tmp_path):
    assert Workbench(options, dataset, tmp_path, lambda _: None).augmentation == "crop-flip"
    plain = Workbench(dataclasses.replace(options, augment="none"), dataset, tmp_path, lambda _: None)
    batch = next(plain.batches("x", epochs=1, epoch=0))
    known = {image.tobytes() for image in plain.model_input(plain.train.pixels).numpy()}
    assert all(image.tobytes() in known for image in batch.images.numpy())
