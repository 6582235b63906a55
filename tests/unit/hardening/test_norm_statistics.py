import pathlib
import types

import pytest
import torch
from torch import nn

from resq_deploy.errors import TrainingError
from resq_deploy.hardening.fake_quant import ActivationGrid, WeightGrid
from resq_deploy.hardening.norm_statistics import settle


def bench_of(network, pixels, batch_size=8):
    """As much of a workbench as the statistics need."""
    return types.SimpleNamespace(
        network=network,
        train=types.SimpleNamespace(pixels=pixels),
        batch_size=batch_size,
        autocast=lambda: torch.autocast("cpu", enabled=False),
        model_input=lambda part: part,
    )


def test_statistics_become_those_of_the_training_images():
    generator = torch.Generator().manual_seed(0)
    pixels = 5 + 3 * torch.randn(64, 2, 4, 4, generator=generator)
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.5))
    settle(bench_of(network, pixels))
    batches = pixels.split(8)
    mean = torch.stack([part.mean((0, 2, 3)) for part in batches]).mean(0)
    variance = torch.stack([part.transpose(0, 1).flatten(1).var(1) for part in batches]).mean(0)
    torch.testing.assert_close(network[0].running_mean, mean)
    torch.testing.assert_close(network[0].running_var, variance)
    assert network[0].momentum == 0.1
    assert not network[1].training


def test_values_that_are_not_finite_stop_the_training_with_a_clear_error():
    network = nn.Sequential(nn.Linear(3, 2))
    grid = ActivationGrid(WeightGrid(network, {}))
    with (
        pytest.raises(TrainingError, match="layer 0 reads values that are not finite"),
        grid.applied(network, learn=True),
    ):
        network(torch.full((1, 3), torch.nan))


@pytest.mark.slow
def test_a_short_run_of_a_deep_network_stays_finite(tmp_path: pathlib.Path):
    """EfficientNet-B0 after four steps: its outputs overflowed in evaluation mode, and stage 2 in NaN."""
    from resq_deploy.data import load_dataset
    from resq_deploy.hardening.checkpoint import load_checkpoint
    from resq_deploy.hardening.loop import train
    from resq_deploy.hardening.options import with_recipe
    from resq_deploy.records import RunFolder

    digits = load_dataset("digits")
    given = {
        "network": "efficientnet_b0", "epochs_baseline": 1, "train_images": 32, "batch_size": 16,
        "stages": ("baseline",), "test_images": 10, "robust_test_images": 2, "validation_images": 4,
    }  # fmt: skip
    options = with_recipe("digits", given)
    with RunFolder.open(tmp_path, command="train", options=options.identity()) as folder:
        train(options, digits, folder.path, lambda _: None)
    network = load_checkpoint(tmp_path / "baseline.pt").build()
    images = torch.from_numpy(digits.evaluation(16).images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        assert network(images).abs().max() < 1000
