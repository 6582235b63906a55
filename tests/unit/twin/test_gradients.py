"""Gradients are those of the dequantized reading: checked by finite differences with rounding switched off."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.surfaces import Role
from resq_deploy.twin import lookups, rounding

KINDS = ("cnn-qdq-channel-s8", "cnn-qoperator-tensor-u8", "attention-qdq-tensor-u8")
SHIFTED = ("cnn-qdq-channel-s8", "cnn-qoperator-channel-s8", "attention-qoperator-tensor-s8-pre")
STEPS = {  # relative to the tensor's spread (scales), in codes, or in thousands of them (biases)
    Role.WEIGHT: 0.05,
    Role.BIAS: 0.002,
    Role.WEIGHT_SCALE: 1e-3,
    Role.ACTIVATION_SCALE: 1e-3,
    Role.ACTIVATION_ZERO_POINT: 0.02,
}


@pytest.fixture
def unrounded(monkeypatch):
    """Switch rounding off."""
    monkeypatch.setattr(rounding, "round_half_even", lambda values: values)
    monkeypatch.setattr(lookups, "replaced", lambda _, smooth: smooth)


def derivative(function, at, direction, step):
    with torch.no_grad():
        return float((function(at + step * direction) - function(at - step * direction)) / (2 * step))


@pytest.mark.parametrize("kind", KINDS)
def test_with_respect_to_images(kind, unrounded, models, model_file, pair):
    twin, _ = pair(model_file(kind), clip_gradient=True)
    images = torch.from_numpy(models.images(4)) * 0.8 + 0.1
    reading = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((twin(leaf) * reading).sum(), leaf)
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    measured = derivative(lambda at: (twin(at) * reading).sum().double(), images, direction, 2e-4)
    assert float((gradient * direction).sum()) == pytest.approx(measured, rel=0.03, abs=2e-3)
    assert gradient.abs().mean() > 0


@pytest.mark.parametrize("role", STEPS)
@pytest.mark.parametrize("kind", KINDS)
def test_with_respect_to_what_is_stored(kind, role, unrounded, models, model_file, pair):
    twin, _ = pair(model_file(kind))
    images = torch.from_numpy(models.images(4)) * 0.8 + 0.1
    reading = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    wanted = [s.tensor for s in surfaces(model_file(kind)) if s.role is role][:4]
    checked = 0
    for name in wanted:
        golden = twin.stored[name]
        leaf = golden.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((twin(images, stored={name: leaf}) * reading).sum(), leaf, allow_unused=True)
        if gradient is None:  # a kernel reads another copy of it
            continue
        spread = torch.rand(golden.shape, generator=torch.Generator().manual_seed(2), dtype=golden.dtype) - 0.3
        direction = torch.ones_like(golden) if golden.numel() == 1 else spread
        direction = direction * golden if "scale" in role else direction * (1000 if role is Role.BIAS else 1)
        measured = derivative(
            lambda at, name=name: (twin(images, stored={name: at}) * reading).sum().double(),
            golden,
            direction,
            STEPS[role],
        )
        assert float((gradient * direction).sum()) == pytest.approx(measured, rel=0.05, abs=3e-3), name
        checked += abs(measured) > 1e-4
    assert checked > 0


@pytest.mark.parametrize("kind", SHIFTED)
def test_uint8_codes_have_the_gradients_of_the_int8_ones(kind, models, model_file, pair):
    found = []
    for name in (kind, f"{kind}-shifted"):
        twin, _ = pair(model_file(name))
        wanted = [s.tensor for s in surfaces(model_file(name)) if s.role in (Role.WEIGHT, Role.WEIGHT_ZERO_POINT)]
        leaves = {tensor: twin.stored[tensor].clone().requires_grad_() for tensor in wanted}
        images = torch.from_numpy(models.images(4)).requires_grad_()
        answers = twin(images, stored=leaves)
        reading = torch.randn(answers.shape, generator=torch.Generator().manual_seed(0))
        asked = [images, *leaves.values()]
        slopes = torch.autograd.grad((answers * reading).sum(), asked, allow_unused=True)
        found.append((answers, *(slope for slope in slopes if slope is not None)))
    assert len(found[0]) == len(found[1]) > 3
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.abs().sum() > 0


def surfaces(path):
    return DeployedModel.load(path).surfaces


def saturating(models):
    """An input quantizer whose range ends at 0.02: almost every pixel saturates."""
    nodes = [
        models.node("QuantizeLinear", "x s z", "q"),
        models.node("DequantizeLinear", "q s z", "d"),
        models.node("GlobalAveragePool", "d", "mean"),
        models.node("Flatten", "mean", "flat"),
        models.node("Gemm", "flat w", "y", transB=1),
    ]
    scale, zero = models.constant("s", 0.02 / 255), models.constant("z", 0, np.uint8)
    return models.model(nodes, [scale, zero, models.stored("w", models.CLASSES, 3)])


@pytest.mark.parametrize(("clip_gradient", "masked"), [(True, True), (False, False)])
def test_saturation_masks_gradients_unless_asked_not_to(clip_gradient, masked, models, pair):
    twin, _ = pair(saturating(models), clip_gradient=clip_gradient)
    images = (torch.from_numpy(models.images(3)) * 0.5 + 0.5).requires_grad_()
    F.cross_entropy(twin(images), torch.tensor([0, 1, 2])).backward()
    assert bool((images.grad == 0).all()) is masked


def test_a_guarded_tensor_passes_its_gradient_to_one_copy(models, model_file, pair):
    twin, _ = pair(model_file("guarded"))
    images = torch.from_numpy(models.images(3))
    copies = {name: twin.stored[name].clone().requires_grad_() for name in ("w1", "w2", "w3")}
    twin(images, stored=copies).sum().backward()
    assert copies["w1"].grad.abs().sum() > 0
    assert copies["w2"].grad is None
    assert copies["w3"].grad.abs().sum() == 0
    one_wrong = {"w1": twin.stored["w1"] + 50}
    torch.testing.assert_close(twin(images, stored=one_wrong), twin(images), rtol=0, atol=0)


def test_nothing_stored_needs_a_gradient(model_file, pair):
    twin, _ = pair(model_file("cnn-qdq-channel-s8"))
    assert not any(tensor.requires_grad for tensor in twin.stored.values())
    assert not list(twin.parameters())
