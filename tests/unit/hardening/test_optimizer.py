"""What turns gradients into steps."""

import dataclasses

import pytest
import torch

from resq_deploy.hardening.optimizer import learning_rate, make_optimizer


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate(share, peak=0.1, warmup=0.25) for share in (0, 0.125, 0.25, 0.625, 1)]
    assert rates == pytest.approx([0.004, 0.052, 0.1, 0.05, 0])
    assert learning_rate(0, peak=0.1, warmup=0) == pytest.approx(0.1)
    assert learning_rate(0.5, peak=0.1, warmup=1) == pytest.approx(0.052)


class Mixed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)
        self.norm = torch.nn.LayerNorm(2)
        self.relative_position_bias_table = torch.nn.Parameter(torch.ones(3, 2))


@pytest.mark.parametrize(
    ("optimizer", "shrinks"),
    [
        ("sgd", {"linear.weight", "linear.bias", "norm.weight", "norm.bias", "relative_position_bias_table"}),
        ("adamw", {"linear.weight"}),
    ],
)
def test_a_step_without_gradients_shrinks_what_decays(options, optimizer, shrinks):
    network = Mixed()
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(1.0)
            weight.grad = torch.zeros_like(weight)
    options = dataclasses.replace(options, optimizer=optimizer, momentum=0.0, weight_decay=0.5)
    make_optimizer(network, options, rate=0.1).step()
    after = {name: weight.unique().item() for name, weight in network.named_parameters()}
    assert {name for name, value in after.items() if value == pytest.approx(0.95)} == shrinks
    assert {name for name, value in after.items() if value == 1} == after.keys() - shrinks
