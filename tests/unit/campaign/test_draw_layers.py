"""Layers drawn evenly: plans and masks, whole campaigns on a real file, and what is refused."""

import math

import numpy as np
import pytest

from resq_deploy.campaign.gates import parse_gate
from resq_deploy.campaign.option_text import parse_draw
from resq_deploy.campaign.options import CampaignOptions, Draw, FaultModel, Refinement
from resq_deploy.campaign.plan import make_plan
from resq_deploy.campaign.refine import Base
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.surfaces import Role, Surface
from resq_deploy.errors import OptionError
from resq_deploy.faults.partition import Partition
from resq_deploy.faults.stratified import estimate

IMAGES = 40
SMALL = {"roles": (Role.WEIGHT,), "bits": (7,)}


def surface(tensor, role, layer, shape, width=8):
    dtype = {8: "int8", 32: "int32"}[width]
    return Surface(tensor=tensor, role=role, layer=layer, dtype=dtype, shape=shape, width=width)


SURFACES = (
    surface("w1", Role.WEIGHT, "conv1", (4, 3)),
    surface("b1", Role.BIAS, "conv1", (4,), 32),
    surface("w2", Role.WEIGHT, "fc", (200, 50)),
)


def planned(**values):
    return make_plan(SURFACES, CampaignOptions(draw=Draw.LAYERS, **values))


def edits(fault):
    return {(e.tensor, i, b) for e in fault.edits for i, b in zip(e.index.tolist(), e.bit.tolist(), strict=True)}


def test_layers_have_the_same_number_of_faults_and_the_same_mass():
    plan = planned(samples=101)
    layers = [plan.group(number, "layer") for number in range(101)]
    assert sorted(layers.count(name) for name in ("conv1", "fc")) == [50, 51]
    assert plan.strata.sizes @ plan.strata.mass == pytest.approx(plan.size)
    assert (plan.strata.sizes * plan.strata.mass).tolist() == pytest.approx([plan.size / 2] * 2)
    assert set(planned(samples=40).positions) < set(plan.positions)
    assert set(planned(samples=101, seed=1).positions) != set(plan.positions)
    assert plan.continued(np.zeros(101)) is None


def test_all_faults_are_taken_once():
    plan = planned(exhaustive=True)
    assert sorted(plan.positions.tolist()) == list(range(int(plan.size)))


def test_a_margin_draws_in_strata_within_layers():
    plan = planned(margin=0.05)
    layer_of = [{plan.group(n, "layer") for n in np.flatnonzero(plan.sample.stratum == h)} for h in range(3)]
    assert all(len(found) == 1 for found in layer_of)
    assert len(plan.strata.sizes) == 9 + 1  # weights and biases of conv1 are too few for strata of each bit
    more = plan.continued(np.zeros(len(plan)))
    assert more.sample.phases == 2
    assert more.judged_on(Partition.of(1000, plan.part_size or 1000)).images_per_fault is None  # all: see the next


def test_a_layer_taken_whole_on_some_images_is_never_known():
    """Its faults cannot be drawn again: 420,000 others were, for a margin that none of them could bring."""
    with pytest.raises(OptionError, match="give all, or --samples"):
        planned(margin=0.1, images_per_fault=20)


def test_a_margin_is_planned_from_what_is_known_of_small_layers():
    """Where a layer whose faults are all known does most of the harm, the mean is not that of the faults left.

    Taken for it, a mean was to be ruled out that is the right one, and 150,000 faults were drawn.
    """
    tiny = tuple(surface(f"s{n}", Role.ACTIVATION_SCALE, f"quantize{n}", (1,), 32) for n in range(4))
    options = CampaignOptions(draw=Draw.LAYERS, margin=0.02)
    plan = make_plan((*tiny, surface("w", Role.WEIGHT, "conv", (50_000,))), options)

    def rates(plan):
        return np.array([0.5 * (plan.group(number, "layer") != "conv") for number in range(len(plan))])

    while (more := plan.continued(rates(plan))) is not None:
        plan = more
    assert len(plan) < 1000
    found = estimate(rates(plan), plan.sample, 0.95)
    assert found.half_width <= 0.02
    assert found.low <= 0.4 <= found.high


def test_chips_draw_among_the_chosen_bits_and_share_them_between_rates():
    plan = planned(faults=FaultModel.BER, ber=(0.0005, 0.01), chips=2, bits=(6, 7, 31))
    for chip in range(2):
        low, high = edits(plan.fault(chip)), edits(plan.fault(chip + 2))
        assert low < high
        assert {bit for _, _, bit in high} <= {6, 7, 31}
    drawn = 0.01 * (12 * 2 + 4 * 3 + 10_000 * 2)
    in_fc = [sum(tensor == "w2" for tensor, _, _ in edits(plan.fault(number))) for number in (2, 3)]
    assert all(abs(count - drawn / 2) < 5 * math.sqrt(drawn) for count in in_fc)
    assert {bit for tensor, _, bit in edits(plan.fault(2)) if tensor == "b1"} == {6, 7, 31}  # all that conv1 has


def test_masks_are_no_matter_of_the_order_of_surfaces():
    options = CampaignOptions(draw=Draw.LAYERS, faults=FaultModel.BER, ber=(0.01,), chips=1)
    assert edits(make_plan(SURFACES, options).fault(0)) == edits(make_plan(SURFACES[::-1], options).fault(0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"fit_per_mbit": 5.0}, "weighs those of small layers", id="failures_in_time"),
        pytest.param({"faults": FaultModel.LIST, "fault_list": "f.csv"}, "are given: leave it out", id="list"),
        pytest.param({"samples": 1}, "each of the 2 layers takes one fault or more", id="too_few"),
    ],
)
def test_refused(values, message):
    with pytest.raises(OptionError, match=message):
        planned(**values)


def test_the_drawing_is_read_from_text():
    assert [parse_draw(text) for text in ("bits", "layers")] == [Draw.BITS, Draw.LAYERS]
    with pytest.raises(OptionError, match="--draw 'words': give bits or layers"):
        parse_draw("words")


@pytest.fixture
def prepare(digits_int8):
    def campaign(**values):
        gates = values.pop("gates", ())
        base = values.pop("base", None)
        options = CampaignOptions(**{"images": IMAGES, "draw": Draw.LAYERS, **values})
        options = options if base is None else base.refined(options)
        return Campaign(DeployedModel.load(digits_int8), load_dataset("digits"), options, gates=gates, base=base)

    return campaign


def test_gates_are_refused(prepare):
    with pytest.raises(OptionError, match=r"--fail-above sdc1=0.1: .* leave it out, or draw bits"):
        prepare(gates=[parse_gate("sdc1=0.1")])


def test_a_sample_says_how_it_was_drawn_and_is_the_mean_of_its_layers(prepare, tmp_path):
    summary = prepare(samples=60, **SMALL).run(tmp_path / "run")
    assert (summary["draw"], summary["exposure"]) == ("layers", None)
    assert "layers drawn evenly" in summary["exposure_reason"]
    of_layers = [found["sdc1"]["value"] for found in summary["by_layer"].values()]
    assert summary["rates"]["sdc1"]["value"] == pytest.approx(np.mean(of_layers))
    assert len(of_layers) == len(summary["population"]["layers"])
    assert prepare(samples=60, draw=Draw.BITS, **SMALL).run(tmp_path / "bits")["draw"] == "bits"


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"samples": 40, "images_per_fault": 10}, id="some_images"),
        pytest.param({"faults": FaultModel.BER, "ber": (1e-4, 1e-3), "chips": 4}, id="ber"),
        pytest.param({"margin": 0.15}, id="margin"),
    ],
)
def test_a_killed_campaign_goes_on_with_the_same_faults(prepare, tmp_path, values):
    whole = prepare(**values, **SMALL).run(tmp_path / "whole")

    def stop(progress):
        if progress.done >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(**values, **SMALL).run(tmp_path / "broken", report=stop)
    resumed = prepare(**values, **SMALL).run(tmp_path / "broken", resume=True)
    assert {**resumed, "throughput": 0} == {**whole, "throughput": 0}
    assert (tmp_path / "broken" / "faults.csv").read_text() == (tmp_path / "whole" / "faults.csv").read_text()


def test_a_margin_is_refined_and_another_drawing_is_not(prepare, tmp_path):
    prepare(margin=0.3, **SMALL).run(tmp_path / "run")
    base = Base.read(tmp_path / "run")
    finer = prepare(samples=30, base=base, **SMALL).run(tmp_path / "finer")
    assert finer["refined"] == {"kept": len(base.records), "added": 30}
    assert finer["rates"]["sdc1"]["low"] <= finer["rates"]["sdc1"]["value"] <= finer["rates"]["sdc1"]["high"]
    assert base.refined(CampaignOptions(samples=30)).refines == (Refinement(samples=30),)
    with pytest.raises(OptionError, match=r'draw was "layers" there and is not given here'):
        prepare(samples=30, base=base, draw=Draw.BITS, **SMALL)
