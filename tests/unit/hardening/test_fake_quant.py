import numpy as np
import pytest
import torch
from torch.func import functional_call

from resq_deploy import grid
from resq_deploy.hardening.fake_quant import ActivationGrid, WeightGrid, flip_codes, quantize_activation
from resq_deploy.hardening.folding import fold_batchnorm


@pytest.fixture
def weight_grid(tiny, pairs):
    return WeightGrid(tiny, pairs)


def deployed_codes(tiny, pairs):
    """What the exporter stores: the grid's integers of the folded network's weights."""
    folded = fold_batchnorm(tiny, pairs)
    weights = {name: folded.get_submodule(name).weight.detach().numpy() for name in ("conv1", "conv2", "fc")}
    return {name: grid.quantize(value, grid.weight_scale(value)) for name, value in weights.items()}


def test_codes_equal_the_exporters_integers_on_the_folded_weights(weight_grid, tiny, pairs):
    expected = deployed_codes(tiny, pairs)
    assert list(weight_grid.layers) == list(expected)
    for name, codes in expected.items():
        np.testing.assert_array_equal(weight_grid.codes(name)[0].numpy(), codes)


def test_a_negative_gain_turns_the_codes_around(weight_grid, tiny):
    codes, step = weight_grid.codes("conv1")
    assert step[0] < 0 < step[1]
    assert torch.equal(codes[0].sign()[codes[0] != 0], -tiny.conv1.weight[0].sign()[codes[0] != 0])


@pytest.mark.parametrize("flipped", [False, True], ids=["fault-free", "faulty"])
def test_the_substituted_network_computes_what_the_deployed_weights_do(weight_grid, tiny, pairs, images, flipped):
    flips = weight_grid.draw_flips(list(weight_grid.layers), 0.02, torch.Generator().manual_seed(1)) if flipped else {}
    folded = fold_batchnorm(tiny, pairs)
    for name, codes in deployed_codes(tiny, pairs).items():
        layer = folded.get_submodule(name)
        scale = grid.weight_scale(layer.weight.detach().numpy())
        if flipped:
            codes = (codes.view(np.uint8) ^ flips[name].numpy()).view(np.int8)
        layer.weight.data = torch.from_numpy(grid.dequantize(codes, scale))
    found = functional_call(tiny, weight_grid.weights(weight_grid.stored(), flips), (images,))
    torch.testing.assert_close(found, folded(images), rtol=1e-4, atol=1e-4)


def test_gradients_pass_straight_through(weight_grid, tiny):
    substitutes = weight_grid.weights(weight_grid.stored())
    direction = torch.rand_like(tiny.conv2.weight)
    found = torch.autograd.grad((substitutes["conv2.weight"] * direction).sum(), tiny.conv2.weight)[0]
    torch.testing.assert_close(found, direction, rtol=0, atol=0)


def test_a_channel_of_zero_gain_keeps_its_weights(tiny, pairs):
    with torch.no_grad():
        tiny.bn1.weight[2] = 0
    weight_grid = WeightGrid(tiny, pairs)
    stored = weight_grid.weights(weight_grid.stored())["conv1.weight"]
    assert torch.equal(stored[2], tiny.conv1.weight[2])
    assert stored.isfinite().all()


def test_flips_hit_exactly_the_bits_drawn():
    codes = torch.arange(-127, 128).float()
    for bit in range(8):
        flipped = flip_codes(codes, torch.full(codes.shape, 1 << bit, dtype=torch.uint8))
        before, after = (values.numpy().astype(np.int8).view(np.uint8) for values in (codes, flipped))
        assert np.all(before ^ after == 1 << bit)
    assert flip_codes(torch.zeros(1), torch.tensor([128], dtype=torch.uint8)).item() == -128


def test_flips_touch_only_the_layers_named(weight_grid, tiny):
    flips = weight_grid.draw_flips(["conv2"], 0.1, torch.Generator().manual_seed(0))
    assert list(flips) == ["conv2"]
    stored = weight_grid.stored()
    clean, faulty = weight_grid.weights(stored), weight_grid.weights(stored, flips)
    assert torch.equal(clean["conv1.weight"], faulty["conv1.weight"])
    assert torch.equal(clean["conv2.weight"] != faulty["conv2.weight"], flips["conv2"] != 0)


def test_flips_are_independent_bits_of_the_rate_asked_for(tiny, pairs):
    tiny.conv2.weight = torch.nn.Parameter(torch.rand(100, 100, 3, 3))
    weight_grid = WeightGrid(tiny, {})
    flips = weight_grid.draw_flips(["conv2"], 0.01, torch.Generator().manual_seed(4))["conv2"]
    bits = np.unpackbits(flips.numpy().reshape(-1, 1), axis=1, bitorder="little")
    n = bits.size
    assert abs(bits.sum() - 0.01 * n) < 4 * (0.0099 * n) ** 0.5
    by_position = bits.sum(0)
    assert np.all(abs(by_position - 0.01 * n / 8) < 4 * (0.0099 * n / 8) ** 0.5)
    halves = bits.reshape(2, -1).sum(1)
    assert abs(int(halves[0]) - int(halves[1])) < 4 * (0.0099 * n) ** 0.5


@pytest.mark.parametrize("rate", [1e-9, 0.5])
def test_flips_of_extreme_rates(weight_grid, rate):
    flips = weight_grid.draw_flips(["conv1"], rate, torch.Generator().manual_seed(4))["conv1"]
    flipped = int(np.unpackbits(flips.numpy()).sum())
    assert flipped == 0 if rate < 0.1 else 300 < flipped < 564


def test_the_same_generator_draws_the_same_flips(weight_grid):
    draws = [weight_grid.draw_flips(["fc"], 0.1, torch.Generator().manual_seed(9))["fc"] for _ in range(2)]
    assert torch.equal(*draws)
    assert draws[0].any()


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.7), (-0.9, 2.1), (-3.0, 0.0)])
def test_activations_equal_the_uint8_grid(low, high):
    values = torch.linspace(-4, 4, 999)
    step = (high - low) / 255
    zero_point = round(-low / step)
    codes = np.clip(np.rint(values.numpy() / np.float32(step)) + zero_point, 0, 255)
    expected = ((codes - zero_point) * step).astype(np.float32)
    np.testing.assert_allclose(quantize_activation(values, low, high).numpy(), expected, rtol=1e-6, atol=1e-7)


def test_the_gradient_of_activations_is_one_inside_the_range_and_zero_outside():
    values = torch.tensor([-1.0, 0.3, 0.9, 2.0], requires_grad=True)
    quantize_activation(values, 0.0, 1.0).sum().backward()
    assert values.grad.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("top", [2.0, 3.0, 3.1])  # inside the range, on its bound, outside
def test_known_extremes_change_neither_values_nor_gradients_behind_a_relu(dtype, top):
    values = torch.linspace(-1, top, 1001).to(dtype)
    found = []
    for known in (False, True):
        leaf = values.clone().requires_grad_()
        read = torch.relu(leaf)
        extremes = (0.0, read.max().item()) if known else None
        quantized = quantize_activation(read, 0.0, 3.0, extremes)
        assert (quantized.grad_fn.bounds is None) == (known and top < 3)  # which of the two ways was taken
        (quantized * values).sum().backward()
        found.append((quantized.detach(), leaf.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_ranges_follow_batches_only_while_learning(weight_grid, tiny):
    activations = ActivationGrid(weight_grid)
    with activations.applied(tiny, learn=True):
        tiny(torch.full((2, 3, 8, 8), 2.0))
        tiny(torch.full((2, 3, 8, 8), 4.0))
    assert activations.ranges["conv1"] == pytest.approx((0, 0.95 * 2 + 0.05 * 4))
    before = dict(activations.ranges)
    with activations.applied(tiny, learn=False):
        tiny(torch.full((2, 3, 8, 8), 100.0))
    assert activations.ranges == before
    assert set(before) == {"conv1", "conv2", "fc"}
    assert not any(layer._forward_pre_hooks for layer in weight_grid.layers.values())


def test_applied_activations_are_quantized(weight_grid, tiny, images):
    activations = ActivationGrid(weight_grid)
    plain = tiny(images)
    with activations.applied(tiny, learn=True):
        quantized = tiny(images)
    assert not torch.equal(plain, quantized)
    torch.testing.assert_close(plain, quantized, rtol=0.1, atol=0.1)
    activations.ranges = dict.fromkeys(activations.ranges, (0.0, 1e-6))
    with activations.applied(tiny, learn=False):
        assert (tiny(images) - tiny.fc.bias).abs().max() < 1e-4
