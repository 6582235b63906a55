"""Networks that cannot be hardened are told before the first epoch; those that can are left as they are."""

import threading

import pytest
import torch
from torch import nn

from resq_deploy.errors import ModelError
from resq_deploy.hardening.rehearsal import rehearse


def frozen(network):
    network.requires_grad_(False)


def shared(network):
    network.conv2 = nn.Conv2d(4, 4, 3, padding=1)
    network.bn2 = nn.Conv2d(4, 4, 3, padding=1)
    network.bn2.weight = network.conv2.weight
    network.fc = nn.Linear(4, 3)


def computed(network):
    nn.utils.parametrizations.weight_norm(network.conv2)


def computed_the_old_way(network):
    nn.utils.spectral_norm(network.conv2)


def without_statistics(network):
    network.bn2 = nn.BatchNorm2d(5, track_running_stats=False)


def locked(network):
    network.lock = threading.Lock()


def deaf(network):
    network.conv1.register_forward_hook(lambda _m, _i, out: out.detach())


def picky(network):
    def refuse(_module, args):
        if len(args[0]) != 2:
            raise AssertionError("two\nat a time")

    network.register_forward_pre_hook(refuse)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (frozen, "has no weight that learns"),
        (shared, "conv2 and bn2 share one weight"),
        (computed, "the weight of conv2 is computed from others"),
        (computed_the_old_way, "the weight of conv2 is computed from others"),
        (without_statistics, "batch-norm bn2 keeps no running statistics"),
        (locked, "cannot be copied"),
        (deaf, "passes no gradient on to its images"),
        (picky, r"cannot learn from a batch of training images \[6, 3, 8, 8\]: AssertionError: two at a time"),
    ],
)
def test_what_cannot_be_hardened_is_one_line(tiny, images, labels, spoil, message):
    spoil(tiny)
    with pytest.raises(ModelError, match=f"^mine:net.*{message}") as caught:
        rehearse("mine:net", tiny, images, labels)
    assert "\n" not in str(caught.value)


def test_a_layer_that_is_frozen_or_never_reached_is_no_hindrance_and_nothing_changes(tiny, images, labels):
    tiny.conv1.requires_grad_(False)
    tiny.spare = nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.5))
    tiny.train()
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    random = torch.random.get_rng_state()
    rehearse("mine:net", tiny, images, labels)
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())
    assert all(weight.grad is None for weight in tiny.parameters())
    assert torch.equal(random, torch.random.get_rng_state())
