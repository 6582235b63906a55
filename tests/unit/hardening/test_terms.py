"""Each loss term against hand computation and against finite differences on a tiny network in double precision."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from torch.func import functional_call

from resq_deploy.hardening.fake_quant import WeightGrid
from resq_deploy.hardening.folding import FoldedNetwork
from resq_deploy.hardening.stage1_desensitize import consistency, desensitization_terms, feature_distance


def test_feature_distance_by_hand():
    clean = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    perturbed = torch.tensor([[3.0, 5.0], [2.0, 2.0]])
    assert feature_distance(perturbed, clean).item() == pytest.approx((1 / 25 + 4 / 4) / 2)


def test_feature_distance_does_not_see_scale_shape_or_type():
    clean, perturbed = torch.rand(4, 2, 3, 3), torch.rand(4, 2, 3, 3)
    expected = feature_distance(perturbed, clean)
    torch.testing.assert_close(feature_distance(10 * perturbed.flatten(1), 10 * clean.flatten(1)), expected)
    assert feature_distance(perturbed.bfloat16(), clean.bfloat16()).dtype == torch.float32


def test_feature_distance_survives_a_dead_feature():
    assert feature_distance(torch.ones(2, 3), torch.zeros(2, 3)).item() == pytest.approx(3e6)


def test_consistency_by_hand():
    target = torch.tensor([[math.log(3), 0.0]])
    logits = torch.tensor([[0.0, 0.0]])
    assert consistency(target, logits).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_terms_are_weighted_as_in_equation_2():
    torch.manual_seed(0)
    logits = (torch.rand(4, 3), torch.rand(4, 3))
    features = {"early": (torch.rand(4, 5), torch.rand(4, 5)), "late": (torch.rand(4, 2), torch.rand(4, 2))}
    labels = torch.tensor([0, 1, 2, 0])
    terms = desensitization_terms(logits, features, labels, weights=(0.3, 2.0, 4.0))
    assert terms["clean"].item() == pytest.approx(0.7 * F.cross_entropy(logits[0], labels).item())
    assert terms["adversarial"].item() == pytest.approx(0.3 * F.cross_entropy(logits[1], labels).item())
    distances = [feature_distance(moved, still).item() for still, moved in features.values()]
    assert terms["feature"].item() == pytest.approx(2.0 * sum(distances) / 2)
    assert terms["consistency"].item() == pytest.approx(4.0 * consistency(*logits).item())


def test_no_gradient_flows_into_the_clean_side():
    clean, perturbed = torch.rand(4, 3, requires_grad=True), torch.rand(4, 3, requires_grad=True)
    for loss in (feature_distance(perturbed, clean), consistency(clean, perturbed)):
        gradients = torch.autograd.grad(loss, (clean, perturbed), allow_unused=True)
        assert gradients[0] is None
        assert gradients[1].abs().max() > 0


class TinyDouble:
    """Two dense layers as functions of their weights, for finite differences."""

    def __init__(self):
        generator = torch.Generator().manual_seed(2)
        self.x = torch.rand(4, 5, dtype=torch.float64, generator=generator)
        self.moved = self.x + 0.3 * torch.rand(4, 5, dtype=torch.float64, generator=generator)
        self.weights = tuple(
            torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in ((6, 5), (3, 6))
        )
        self.labels = torch.tensor([0, 1, 2, 0])
        with torch.no_grad():
            self.held_logits, self.held_features = self.run(self.x, *self.weights)

    @staticmethod
    def run(x, first, second):
        features = torch.tanh(x @ first.T)
        return features @ second.T, features

    def terms(self, first, second):
        """Terms whose stopped side is held at the first weights, as stop-gradient means."""
        logits, _ = self.run(self.x, first, second)
        moved_logits, moved_features = self.run(self.moved, first, second)
        return {
            "clean": F.cross_entropy(logits, self.labels),
            "adversarial": F.cross_entropy(moved_logits, self.labels),
            "feature": feature_distance(moved_features, self.held_features),
            "consistency": consistency(self.held_logits, moved_logits),
        }


@pytest.mark.parametrize("term", ["clean", "adversarial", "feature", "consistency"])
def test_gradient_of_each_term_equals_finite_differences(term):
    network = TinyDouble()
    assert gradcheck(lambda *weights: network.terms(*weights)[term], network.weights)


def test_gradient_of_the_whole_of_equation_2_equals_that_of_its_held_terms():
    network = TinyDouble()
    weights = (0.4, 1.5, 0.7)
    logits, features = network.run(network.x, *network.weights)
    moved_logits, moved_features = network.run(network.moved, *network.weights)
    pairs = {"tap": (features, moved_features)}
    terms = desensitization_terms((logits, moved_logits), pairs, network.labels, weights=weights)
    found = torch.autograd.grad(sum(terms.values()), network.weights)
    held = network.terms(*network.weights)
    factors = {"clean": 0.6, "adversarial": 0.4, "feature": 1.5, "consistency": 0.7}
    expected = torch.autograd.grad(sum(factors[name] * held[name] for name in held), network.weights)
    torch.testing.assert_close(found, expected)


@pytest.fixture
def quantized(tiny, pairs):
    """The tiny network in double precision, its stored codes and flips of two in a hundred bits."""
    tiny.double()
    grid = WeightGrid(tiny, pairs)
    return tiny, grid, grid.draw_flips(list(grid.layers), 0.02, torch.Generator().manual_seed(1))


def equation_5(term, logits, labels):
    if term == "distill":
        teacher = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]], dtype=logits.dtype).repeat(3, 1)
        return 0.7 * consistency(teacher, logits)
    return 0.5 * F.cross_entropy(logits, labels, label_smoothing=0.1)


@pytest.mark.parametrize("term", ["clean", "faulty", "distill"])
def test_gradient_of_each_term_of_equation_5_equals_finite_differences_at_the_stored_weights(
    quantized, pairs, images, labels, term
):
    """Straight through: the float weights get the gradient that the quantized (or faulty) weights have."""
    network, grid, flips = quantized
    images, folded = images.double(), FoldedNetwork(network, pairs)

    def loss_at(weights):
        if term == "faulty":
            logits = folded.run(images, folded.tensors(weights))
        else:  # the clean branch normalises by the batch
            logits = functional_call(network.train(), weights, (images,))
        return equation_5(term, logits, labels)

    weights = grid.weights(grid.stored(), flips if term == "faulty" else None)
    names = list(weights)
    found = torch.autograd.grad(loss_at(weights), [network.get_parameter(name) for name in names])
    for name, gradient in zip(names, found, strict=True):
        direction = torch.randn(gradient.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
        ends = [loss_at({**weights, name: weights[name].detach() + sign * 1e-6 * direction}).item() for sign in (1, -1)]
        assert (gradient * direction).sum().item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-7)
