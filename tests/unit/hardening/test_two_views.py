"""Two views of one batch lose the same units and the same blocks; anything else is as it was."""

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from resq_deploy.hardening.stage1_desensitize import feature_distance
from resq_deploy.hardening.two_views import TwoViews
from resq_deploy.networks.registry import build_network

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def efficientnet():
    torch.manual_seed(0)
    return build_network("efficientnet_b0-stride2", num_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3, image_size=32)


def farthest(network, images):
    with torch.no_grad():
        logits, features = network.forward_with_taps(images)
    halves = [value.chunk(2) for value in (logits, *features.values())]
    return max(float(feature_distance(first, second)) for first, second in halves)


def test_an_image_is_not_told_from_itself_by_what_is_dropped(efficientnet):
    """Stage 1 took what it drops for the perturbation's work. How products are summed up differs from half to half."""
    efficientnet.train()
    twice = torch.cat([IMAGES, IMAGES])
    assert farthest(efficientnet, twice) > 0.1
    with TwoViews(efficientnet).drawn_alike():
        assert farthest(efficientnet, twice) < 1e-4
    assert farthest(efficientnet, twice) > 0.1  # and no longer


@pytest.mark.parametrize(
    "module",
    [nn.Dropout(0.5), nn.Dropout(0.5, inplace=True), nn.Dropout2d(0.5), StochasticDepth(0.5, "row")],
    ids=["dropout", "in place", "channels", "blocks"],
)
def test_half_is_dropped_of_each_view_and_the_rest_made_up_for(module):
    module.train()
    torch.manual_seed(0)
    values = torch.rand(512, 8, 3, 3) + 1
    with TwoViews(nn.Sequential(module)).drawn_alike():
        found = module(values.clone())
    kept = found != 0
    assert kept[:256].equal(kept[256:])
    assert kept.float().mean() == pytest.approx(0.5, abs=0.1)
    assert found[kept].allclose(2 * values[kept])
    assert kept[:256].flatten(1).float().mean(1).std() > 0  # each image draws for itself


def test_one_view_and_evaluation_are_left_alone():
    module = nn.Sequential(nn.Dropout(0.5))
    values = torch.rand(3, 4)
    with TwoViews(module).drawn_alike():
        module.train()
        torch.manual_seed(1)
        found = module(values)
        module.eval()
        assert module(torch.cat([values, values])).equal(torch.cat([values, values]))
    torch.manual_seed(1)
    assert module.train()(values).equal(found)
    assert "forward" not in vars(module[0])
