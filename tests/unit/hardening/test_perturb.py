import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resq_deploy.hardening.perturb import evaluation_mode, input_gradient, n_fgsm, pgd

EPSILON = 8 / 255


def seeded():
    return torch.Generator().manual_seed(11)


def test_n_fgsm_is_equation_1(tiny, images, labels):
    found = n_fgsm(tiny, images, labels, epsilon=EPSILON, step=EPSILON, noise=2, generator=seeded())
    eta = torch.empty_like(images).uniform_(-2 * EPSILON, 2 * EPSILON, generator=seeded())
    start = (images + eta).requires_grad_()
    F.cross_entropy(tiny(start), labels).backward()
    expected = (images + eta + EPSILON * start.grad.sign()).clamp(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_n_fgsm_stays_in_the_image_and_moves_at_most_noise_plus_step(tiny, labels, generator):
    images = torch.randint(2, (6, 3, 8, 8), generator=generator).float()
    found = n_fgsm(tiny, images, labels, epsilon=0.4, step=0.2, noise=0.5, generator=generator)
    assert found.min() == 0
    assert found.max() == 1
    moved = (found - images).abs().max()
    assert 0.3 < moved <= 0.4 + 1e-6


def test_pgd_stays_in_ball_and_image_and_raises_the_loss(tiny, images, labels, generator):
    found = pgd(tiny, images, labels, epsilon=EPSILON, steps=5, step_size=EPSILON / 2, generator=generator)
    assert (found - images).abs().max() <= EPSILON + 1e-7
    assert found.min() >= 0
    assert found.max() <= 1
    before, after = (F.cross_entropy(tiny(x), labels) for x in (images, found))
    assert after > before


def test_pgd_finds_the_corner_of_the_ball_on_a_linear_network(generator):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2))
    images = torch.full((2, 3, 4, 4), 0.5)
    found = pgd(network, images, torch.tensor([0, 1]), epsilon=0.1, steps=4, step_size=0.1, generator=generator)
    direction = (network[1].weight[1] - network[1].weight[0]).sign().reshape(3, 4, 4)
    torch.testing.assert_close(found[0], 0.5 + 0.1 * direction)
    torch.testing.assert_close(found[1], 0.5 - 0.1 * direction)


@pytest.mark.parametrize("attack", ["n-fgsm", "pgd"])
def test_crafting_leaves_no_trace_on_the_network(tiny, images, labels, generator, attack):
    tiny.train()
    tiny.bn2.eval()
    statistics = tiny.bn1.running_mean.clone()
    if attack == "pgd":
        found = pgd(tiny, images, labels, epsilon=EPSILON, steps=2, step_size=EPSILON, generator=generator)
    else:
        found = n_fgsm(tiny, images, labels, epsilon=EPSILON, step=EPSILON, noise=2, generator=generator)
    assert not found.requires_grad
    assert all(parameter.grad is None for parameter in tiny.parameters())
    assert torch.equal(tiny.bn1.running_mean, statistics)
    assert tiny.bn1.training
    assert not tiny.bn2.training


def test_modes_come_back_after_an_error(tiny):
    tiny.train()
    with pytest.raises(RuntimeError, match="shape"), evaluation_mode(tiny):
        tiny.fc(torch.zeros(1, 99))
    assert tiny.bn1.training


def test_the_gradient_of_an_image_does_not_depend_on_the_rest_of_the_batch(tiny, images, labels):
    alone = input_gradient(tiny, images[:1], labels[:1])
    torch.testing.assert_close(input_gradient(tiny, images, labels)[:1], alone)
