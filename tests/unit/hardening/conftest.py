import numpy as np
import pytest
import torch
from torch import nn

from resq_deploy.data import Dataset, Split
from resq_deploy.hardening.options import TrainOptions
from resq_deploy.hardening.workbench import Workbench

CLASSES = ("red", "green", "blue")


def coloured(count, seed, size=8):
    """Images whose class is the channel that stands out."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    images = rng.integers(0, 140, (count, size, size, 3))
    images[np.arange(count), :, :, labels] += 90
    return Split(images=images.astype(np.uint8), labels=labels.astype(np.int64))


@pytest.fixture(scope="package")
def dataset():
    return Dataset(
        name="colours",
        classes=CLASSES,
        augmentation="crop-flip",
        load_training=lambda: coloured(78, 0),
        load_test=lambda: coloured(30, 1),
    )


@pytest.fixture(scope="package")
def options():
    """A run of three stages in a few seconds."""
    return TrainOptions(
        network="resnet8",
        dataset="colours",
        epochs_baseline=2,
        epochs_attack=2,
        epochs_fault=2,
        batch_size=16,
        criticality_batches=3,
        validation_images=6,
        robust_test_images=10,
        fault_masks=1,
        curriculum=10,
        ema=0.8,
        precision="float32",
        epsilon=8 / 255,
    )


@pytest.fixture
def bench(options, dataset, tmp_path):
    return Workbench(options, dataset, tmp_path, lambda _: None)


class Tiny(nn.Module):
    """Conv-BN-ReLU twice, then a linear layer; with odd statistics and a channel of negative gain."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 5, 3, bias=True)
        self.bn2 = nn.BatchNorm2d(5)
        self.fc = nn.Linear(5, 3)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


PAIRS = {"conv1": "bn1", "conv2": "bn2"}


@pytest.fixture
def tiny():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = Tiny()
        for norm in (network.bn1, network.bn2):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.uniform_(norm.bias, -1, 1)
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)
            with torch.no_grad():
                norm.weight[0] = -1.3
    return network.eval()


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(5)


@pytest.fixture
def images(generator):
    return torch.rand(6, 3, 8, 8, generator=generator)


@pytest.fixture
def labels():
    return torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.fixture
def pairs():
    return dict(PAIRS)
