import pytest
import torch
from torch import nn

from resq_deploy.hardening.folding import FoldedNetwork, find_pairs, fold_batchnorm, fold_factors


class Untraceable(nn.Module):
    """Control flow on values, which torch.fx refuses."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        if x.sum() < 0:
            return self.body(-x)
        return self.body(x)


class TwoReaders(nn.Module):
    """The convolution's output is read beside the batch-norm, too: folding would change it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.bn.running_mean.fill_(0.7)

    def forward(self, x):
        y = self.conv(x)
        return (self.bn(y) + y).mean((2, 3))


def test_pairs_are_found_in_a_traced_network(tiny, images, pairs):
    assert find_pairs(tiny, images) == pairs


def test_pairs_are_found_in_a_network_that_cannot_be_traced(tiny, images, pairs):
    network = Untraceable(tiny)
    expected = {f"body.{conv}": f"body.{norm}" for conv, norm in pairs.items()}
    assert find_pairs(network, images) == expected
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("wrap", [lambda network: network, Untraceable], ids=["traced", "untraceable"])
def test_a_convolution_with_a_second_reader_is_no_pair(images, wrap):
    assert find_pairs(wrap(TwoReaders().eval()), images) == {}


def test_folding_preserves_the_outputs_and_the_original(tiny, images, pairs):
    expected = tiny(images)
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    folded = fold_batchnorm(tiny, pairs)
    torch.testing.assert_close(folded(images), expected, rtol=1e-5, atol=1e-6)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())


def test_factors_keep_the_sign_of_the_gain(tiny):
    factors = fold_factors(tiny.bn1)
    expected = tiny.bn1.weight / (tiny.bn1.running_var + tiny.bn1.eps).sqrt()
    torch.testing.assert_close(factors, expected.detach())
    assert factors[0] < 0 < factors[1]


def test_batchnorm_without_gain_and_shift_folds_too(images):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)).eval()
    network[1].running_var.fill_(3.0)
    network[1].running_mean.fill_(-1.0)
    folded = fold_batchnorm(network, find_pairs(network, images))
    torch.testing.assert_close(folded(images), network(images), rtol=1e-5, atol=1e-6)


@pytest.fixture
def folded(tiny, pairs):
    return FoldedNetwork(tiny, pairs)


def test_a_folded_network_follows_the_weights_it_was_made_of(folded, tiny, images):
    with torch.no_grad():
        for tensor in (*tiny.parameters(), tiny.bn1.running_mean, tiny.bn2.running_var):
            tensor.mul_(1.3)
    found = folded.classifier()(images)
    torch.testing.assert_close(found, tiny(images), rtol=1e-5, atol=1e-5)
    assert not found.requires_grad
    assert all(parameter.device.type == "meta" for parameter in folded.module.parameters())


def test_gradients_of_a_folded_network_are_those_of_the_network(folded, tiny, images):
    parameters = list(tiny.parameters())
    expected = torch.autograd.grad(tiny(images).square().sum(), parameters)
    found = torch.autograd.grad(folded.run(images, folded.tensors()).square().sum(), parameters)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_folded_network_takes_other_weights_before_folding(folded, tiny, images):
    weights = {"conv1.weight": 2 * tiny.conv1.weight.detach()}
    found = folded.run(images, folded.tensors(weights))
    with torch.no_grad():
        tiny.conv1.weight.mul_(2)
    torch.testing.assert_close(found, tiny(images), rtol=1e-5, atol=1e-5)


def test_a_batchnorm_that_cannot_be_folded_stays_and_runs_on_its_statistics(images):
    network = TwoReaders().eval()
    folded = FoldedNetwork(network, find_pairs(network, images))
    network.train()
    found = folded.classifier()(images)
    torch.testing.assert_close(found, network.eval()(images))
