"""Layers drawn evenly: masks of chips, samples of faults, and figures without bias whose bounds hold."""

import itertools
import math

import numpy as np
import pytest

from resq_deploy.faults.allocation import alike, next_phase
from resq_deploy.faults.bit_errors import drawn_by_layer
from resq_deploy.faults.stratified import Sample, estimate

SIZES = {"stem": 40, "body": 60_000, "head": 900}
OF = 50


def flips(found):
    return {(layer, bit) for layer, bits in found.items() for bit in bits.tolist()}


def test_every_layer_has_as_many_flips_until_it_is_full():
    rate = 0.01  # 609.4 draws of which each layer has a third, the stem no more than it has bits
    count = {name: np.array([len(drawn_by_layer(SIZES, rate, chip)[name]) for chip in range(300)]) for name in SIZES}
    drawn = rate * sum(SIZES.values())
    assert (count["stem"] == 40).all()
    for name in ("body", "head"):
        assert abs(count[name].mean() - drawn / 3) <= 3 * math.sqrt(drawn * 2 / 9 / 300)


def test_draws_are_rate_times_bits_on_average_though_they_are_whole():
    rate = 0.3 / sum(SIZES.values())
    hit = [len(flips(drawn_by_layer(SIZES, rate, chip))) for chip in range(2000)]
    assert set(hit) == {0, 1}
    assert abs(np.mean(hit) - 0.3) <= 3 * math.sqrt(0.21 / 2000)


def test_bits_of_a_layer_are_hit_alike():
    chips = [drawn_by_layer({"a": 8, "b": 8}, 0.25, chip) for chip in range(100, 900)]
    found = np.concatenate([chip["a"] for chip in chips if "a" in chip])
    counts = np.bincount(found, minlength=8)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 20.3  # chi square, 7 degrees of freedom, 0.5 %


def test_masks_are_nested_and_no_matter_of_order():
    order = dict(reversed(SIZES.items()))
    masks = [flips(drawn_by_layer(SIZES, rate, 100)) for rate in (0.0, 1e-5, 1e-4, 1e-3, 0.02)]
    assert not masks[0]
    assert all(low <= high for low, high in itertools.pairwise(masks))
    assert masks[3] == flips(drawn_by_layer(order, 1e-3, 100)) != flips(drawn_by_layer(SIZES, 1e-3, 101))
    with pytest.raises(ValueError, match="not in"):
        drawn_by_layer(SIZES, 1.5, 100)


def test_faults_are_shared_out_alike_and_a_larger_sample_holds_a_smaller_one():
    sizes, order = np.array([3, 50, 8]), np.array([2, 0, 1])
    found = np.array([alike(count, sizes, order) for count in range(62)])
    assert (found.sum(axis=1) == np.arange(62)).all()
    assert (np.diff(found, axis=0) >= 0).all()
    assert found[1].tolist() == [0, 0, 1]
    assert found[20].tolist() == [3, 9, 8]
    assert found[61].tolist() == sizes.tolist()


def layered(sizes, takes, images=(), phases=None, pilots=1):
    """A sample of layers of these sizes, phase by phase, each layer with the same mass."""
    stratum = np.concatenate([np.repeat(np.arange(len(sizes)), take) for take in takes])
    phase = np.repeat(np.arange(len(takes)), [sum(take) for take in takes])
    mass = sum(sizes) / len(sizes) / np.array(sizes)
    groups = np.arange(len(sizes))
    return Sample(stratum, phase, np.array(sizes), groups, pilots, images, OF if images else 1, mass=mass)


def drawn(layers, sample, rng):
    """Return what a random sample of these layers shows."""
    values = np.empty(len(sample.stratum))
    for h, rates in enumerate(layers):
        places = np.flatnonzero(sample.stratum == h)
        values[places] = rates[rng.choice(len(rates), len(places), replace=False)]
    for phase, images in enumerate(sample.images):
        chosen = sample.phase == phase
        bad = np.rint(values[chosen] * OF).astype(int)
        values[chosen] = rng.hypergeometric(bad, OF - bad, images) / images
    return values


DESIGNS = [
    pytest.param(layered((40, 600, 9000), [(10, 10, 10)], pilots=0), id="alike"),
    pytest.param(layered((40, 600, 9000), [(40, 120, 120)], pilots=0), id="the_smallest_whole"),
    pytest.param(layered((40, 600, 9000), [(8, 8, 8), (32, 50, 60)]), id="a_main_phase"),
    pytest.param(layered((40, 600, 9000), [(20, 8, 8), (20, 50, 60)], (5, 10)), id="some_images_each"),
    pytest.param(layered((40, 30), [(40, 30)], (10,), pilots=0), id="all_faults_on_some_images"),
]


@pytest.mark.parametrize("sample", DESIGNS)
def test_figures_are_unbiased_and_bounds_hold(sample):
    rng = np.random.default_rng(7)
    harm = (0.5, 0.1, 0.02)
    layers = [
        np.where(rng.random(size) < share, rng.integers(0, OF + 1, size) / OF, 0.0)
        for size, share in zip(sample.sizes, harm, strict=False)
    ]
    truth = np.mean([rates.mean() for rates in layers])
    found = [estimate(drawn(layers, sample, rng), sample, 0.95) for _ in range(250)]
    values = np.array([one.value for one in found])
    assert abs(values.mean() - truth) <= 3 * max(values.std(ddof=1), 1e-9) / math.sqrt(len(values)) + 1e-12
    assert np.mean([one.low > truth for one in found]) <= 0.03
    assert np.mean([one.high < truth for one in found]) <= 0.03


def test_all_faults_leave_no_interval_and_layers_count_alike():
    sample = layered((2, 8), [(2, 8)], pilots=0)
    found = estimate(np.array([1.0, 0.0] + [0.25] * 8), sample, 0.95)
    assert found.value == pytest.approx(0.375)
    assert found.low == pytest.approx(found.value) == found.high


def test_a_layer_taken_whole_does_not_widen_the_bounds():
    """Its faults weigh 250 times as much as others: bet on, they left an upper end of 2.8 %."""
    sample = layered((40, 10**6, 10**6, 10**6), [(40, 500, 500, 500)], pilots=0)
    found = estimate(np.zeros(len(sample.stratum)), sample, 0.95)
    assert found.high < 0.0035


def test_a_domain_is_the_mean_under_the_same_drawing():
    sample = layered((4, 8), [(4, 8)], pilots=0)
    own = np.array([1, 1, 0, 0] + [1] * 2 + [0] * 6, dtype=bool)
    values = np.where(own, np.arange(12) / 12, 9.0)
    within = sample.inside(own, np.array([2, 2]))
    heavy, light = values[:2].mean(), values[4:6].mean()
    assert estimate(values[own], within, 0.95).value == pytest.approx((2 * heavy + light) / 3)


def test_a_phase_goes_by_mass_and_not_by_size():
    sample = layered((5000, 500_000), [(40, 40)])
    counts = next_phase(np.zeros(80), sample, 0.01, 0.95)
    assert counts[0] == pytest.approx(counts[1], rel=0.01)  # of the small one 1 % is known
