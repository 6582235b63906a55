"""Networks that cannot be hardened are told before the first epoch; those that can are left as they are."""

import threading

import pytest
import torch
import torch.nn.functional as F
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


class Functional(nn.Module):
    """Multiplies by a parameter of its own, the way it is told."""

    def __init__(self, weight, product):
        super().__init__()
        self.w = nn.Parameter(weight)
        self.product = product

    def forward(self, x):
        return self.product(x, self.w)


def functional(network):
    network.conv1 = Functional(torch.randn(4, 3, 3, 3) / 5, lambda x, w: F.conv2d(x, w, padding=1))


def matrix(network):
    network.fc = Functional(torch.randn(5, 3), lambda x, w: x @ w)


def transposed_matrix(network):
    network.fc = Functional(torch.randn(3, 5), lambda x, w: torch.einsum("ni,ij->nj", x, w.t()))


def attentive(network):
    network.bn2 = nn.Sequential(network.bn2, Tokens())


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(5, 1, batch_first=True)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens)[0].transpose(1, 2).reshape(x.shape)


class Standardised(nn.Conv2d):
    """The stored weight is not the one that convolves."""

    def forward(self, x):
        return F.conv2d(
            x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias, self.stride, self.padding
        )


def standardised(network):
    network.conv1 = Standardised(3, 4, 3, padding=1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (functional, "conv1.w is multiplied by its values and is no weight of a Conv2d or Linear layer"),
        (matrix, "fc.w is multiplied by its values and is no weight of a Conv2d or Linear layer"),
        (transposed_matrix, "its values are multiplied by what is computed from fc.w"),
        (attentive, "attention.in_proj_weight is multiplied by its values"),
        (standardised, "its values are multiplied by what is computed from conv1.weight"),
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


class Gated(nn.Module):
    """Multiplies activations with each other, one of them cut off from its gradient, and with a fixed filter."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.register_buffer("blur", torch.full((4, 1, 3, 3), 1 / 9))

    def forward(self, x):
        y = F.conv2d(self.layer(x), self.blur, padding=1, groups=4)
        return y @ torch.softmax(self.layer(x.detach()), dim=-1)


def test_products_of_activations_are_no_weights(tiny, images, labels):
    tiny.conv1 = Gated(tiny.conv1)
    rehearse("mine:net", tiny, images, labels)
