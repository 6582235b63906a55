import math

import numpy as np
import pytest

from resq_deploy.campaign.option_text import parse_bits, parse_layout, parse_patterns, parse_rates, parse_roles
from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.plan import make_plan
from resq_deploy.campaign.population import Population
from resq_deploy.campaign.strata import PILOT
from resq_deploy.deployed.surfaces import Role, Surface
from resq_deploy.errors import OptionError
from resq_deploy.faults.cells import Direction
from resq_deploy.faults.statistics import cluster
from resq_deploy.faults.upsets import Pattern


def surface(tensor, role, layer, shape, width=8):
    dtype = {8: "int8", 32: "int32"}[width]
    return Surface(tensor=tensor, role=role, layer=layer, dtype=dtype, shape=shape, width=width)


SURFACES = (
    surface("w1", Role.WEIGHT, "conv1", (4, 3)),
    surface("b1", Role.BIAS, "conv1", (4,), 32),
    surface("w2", Role.WEIGHT, "fc", (2, 5)),
)
TOTAL = 12 * 8 + 4 * 32 + 10 * 8


def options(**values):
    return CampaignOptions(**values)


def positions(population):
    """Every fault of a population as (tensor, op, ((index, bit), ...))."""
    edits = [edit for number in range(population.size) for edit in population.edits(number)]
    return [(e.tensor, str(e.op), tuple(zip(e.index.tolist(), e.bit.tolist(), strict=True))) for e in edits]


def test_population_numbers_every_bit_once():
    population = Population(SURFACES, options())
    found = positions(population)
    assert population.size == population.bits == len(set(found)) == TOTAL
    assert {place for tensor, _, (place,) in found if tensor == "b1"} == {
        (i, bit) for i in range(4) for bit in range(32)
    }


def test_population_keeps_to_the_chosen_bits():
    population = Population(SURFACES, options(bits=(7, 31)))
    assert population.size == population.bits == 12 + 4 * 2 + 10
    assert {place[1] for _, _, (place,) in positions(population)} == {7, 31}


def test_a_burst_stays_within_its_word():
    population = Population(SURFACES, options(faults=FaultModel.BURST, burst=3))
    found = positions(population)
    assert population.size == len(set(found)) == 12 * 6 + 4 * 30 + 10 * 6
    for _, op, places in found:
        (index, first), *rest = places
        assert op == "flip"
        assert rest == [(index, first + 1), (index, first + 2)]
        assert first + 2 < 32


@pytest.mark.parametrize(("model", "op"), [(FaultModel.STUCK_AT_0, "set0"), (FaultModel.STUCK_AT_1, "set1")])
def test_stuck_at_covers_every_bit(model, op):
    found = positions(Population(SURFACES, options(faults=model)))
    assert len(set(found)) == TOTAL
    assert {kind for _, kind, _ in found} == {op}


def test_a_word_is_replaced_whole_by_a_value_of_its_own():
    population = Population(SURFACES, options(faults=FaultModel.WORD))
    edits = [edit for number in range(population.size) for edit in population.edits(number)]
    assert [(e.tensor, int(e.index[0])) for e in edits] == [
        *(("w1", i) for i in range(12)),
        *(("b1", i) for i in range(4)),
        *(("w2", i) for i in range(10)),
    ]
    assert all(int(e.value[0]) < 1 << (32 if e.tensor == "b1" else 8) for e in edits)
    assert len({int(e.value[0]) for e in edits}) > 20
    (again,) = Population(SURFACES, options(faults=FaultModel.WORD)).edits(5)
    assert int(again.value[0]) == int(edits[5].value[0])


def test_a_sample_holds_every_fault_once_and_exhaustive_holds_them_all():
    plan = make_plan(SURFACES, options(samples=100))
    assert len(plan) == len(set(plan.positions.tolist())) == 100
    whole = make_plan(SURFACES, options(exhaustive=True))
    assert sorted(whole.positions.tolist()) == list(range(TOTAL))


def test_same_seed_same_faults_and_another_seed_others():
    first, again, other = (make_plan(SURFACES, options(samples=50, seed=seed)).positions.tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_margin_the_sample_of_eq_7_cannot_beat_takes_every_fault():
    plan = make_plan(SURFACES, options(margin=0.001))
    assert plan.strata is None
    assert len(plan) == TOTAL


def test_a_margin_begins_with_a_pilot_in_every_stratum():
    plan = make_plan(SURFACES, options(margin=0.1))
    drawn, sizes = np.bincount(plan.sample.stratum), plan.strata.sizes
    assert (plan.sample.phases, plan.sample.pilots) == (1, 1)
    assert (drawn >= np.minimum(sizes, PILOT // 2)).all()  # half of it goes to all strata alike, half by size
    assert (sizes / sizes.sum() * drawn.sum() / drawn <= 2.2).all()
    assert plan.strata.sizes.sum() == TOTAL
    assert len(set(plan.positions.tolist())) == len(plan)


@pytest.mark.parametrize(
    ("filters", "tensors"),
    [
        pytest.param({"roles": (Role.BIAS,)}, {"b1"}, id="role"),
        pytest.param({"layers": "conv*"}, {"w1", "b1"}, id="layer"),
        pytest.param({"layers": "fc", "roles": (Role.WEIGHT,)}, {"w2"}, id="both"),
    ],
)
def test_filters(filters, tensors):
    plan = make_plan(SURFACES, options(samples=20, **filters))
    assert {plan.fault(number).tensors[0] for number in range(20)} <= tensors
    assert {s.tensor for s in plan.surfaces} == tensors


def grown(plan, rates):
    """Go on with a plan until it asks for no more."""
    while (more := plan.continued(rates(plan))) is not None:
        plan = more
    return plan


def test_a_margin_of_bit_errors_draws_chips_until_every_rate_has_it():
    asked = options(faults=FaultModel.BER, ber=(0.05, 0.3), margin=0.05)
    calm = grown(make_plan(SURFACES, asked), lambda plan: np.zeros(len(plan)))
    assert len(calm) == len(make_plan(SURFACES, asked))  # no more than where nothing happens

    def harm(plan):
        return np.array([0.4 * (rate == 0.3) * (chip % 3 == 0) for rate, chip in plan.masks])

    plan = grown(make_plan(SURFACES, asked), harm)
    at_high = harm(plan)[[rate == 0.3 for rate, _ in plan.masks]]
    assert cluster(at_high, math.inf, 0.95, stopped=True).half_width <= 0.05
    chips = [sorted(chip for at, chip in plan.masks if at == rate) for rate in (0.05, 0.3)]
    assert chips[0] == chips[1] == list(range(100, 100 + len(plan) // 2))
    assert len(plan) > len(calm)
    assert make_plan(SURFACES, asked).masks == plan.masks[: len(calm)]  # a resumed campaign has the same chips


def test_a_margin_beyond_reason_is_refused_for_bit_errors():
    with pytest.raises(OptionError, match=r"--margin 0.0002: takes 2[0-9],[0-9]{3} chips at each rate or more"):
        make_plan(SURFACES, options(faults=FaultModel.BER, margin=0.0002))


def test_domains_know_their_part_of_every_stratum():
    plan = make_plan(SURFACES, options(margin=0.1))
    for key, names in (("role", ("weight", "bias")), ("layer", ("conv1", "fc")), ("bit", map(str, range(32)))):
        parts = [plan.part(key, name) for name in names]
        assert sum(parts).tolist() == plan.strata.sizes.tolist()
    assert plan.part("role", "bias").sum() == plan.group_size("role", "bias") == 128
    assert make_plan(SURFACES, options(samples=5)).part("role", "bias") is None


def test_bit_error_masks_are_shared_between_rates_and_restricted_to_the_bits():
    plan = make_plan(SURFACES, options(faults=FaultModel.BER, ber=(0.05, 0.3), chips=3, bits=(6, 7)))
    assert len(plan) == 6
    assert [plan.masks[n] for n in range(3)] == [(0.05, 100), (0.05, 101), (0.05, 102)]
    for chip in range(3):
        low, high = (
            {(e.tensor, int(i), int(b)) for e in plan.fault(n).edits for i, b in zip(e.index, e.bit, strict=True)}
            for n in (chip, chip + 3)
        )
        assert low < high
        assert {bit for _, _, bit in high} <= {6, 7}


def test_bit_error_masks_do_not_depend_on_the_seed_or_the_grid():
    one = make_plan(SURFACES, options(faults=FaultModel.BER, ber=(0.2,), chips=1, seed=1)).fault(0)
    two = make_plan(SURFACES, options(faults=FaultModel.BER, ber=(0.01, 0.2), chips=1, seed=9)).fault(1)
    assert [(e.tensor, e.index.tolist(), e.bit.tolist()) for e in one.edits] == [
        (e.tensor, e.index.tolist(), e.bit.tolist()) for e in two.edits
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"roles": (Role.WEIGHT_SCALE,)}, "stores nothing in that role"),
        ({"layers": "nothing"}, "matches no layer"),
        ({"bits": (40,)}, "no chosen tensor stores bits at 40"),
        ({"faults": FaultModel.BURST, "burst": 33}, "in bursts of 33"),
        ({"samples": 10**6}, "only 304 faults exist"),
    ],
)
def test_a_plan_that_cannot_be(values, message):
    with pytest.raises(OptionError, match=message):
        make_plan(SURFACES, options(**values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"images": 0}, "--images"),
        ({"samples": 0}, "--samples"),
        ({"margin": 0.0}, "--margin"),
        ({"confidence": 1.0}, "--confidence"),
        ({"samples": 3, "margin": 0.1}, "exclude each other"),
        ({"faults": FaultModel.BER, "ber": (0.7,)}, "--ber"),
        ({"faults": FaultModel.BER, "samples": 3}, "do not apply to ber"),
        ({"workers": 0}, "--workers"),
        ({"time_limit": 0.0}, "--time-limit"),
        ({"time_limit": math.nan}, "--time-limit"),
        ({"time_limit": math.inf}, "--time-limit"),
        ({"audit": 1.5}, "--audit"),
        ({"burst": 1}, "--burst"),
        ({"fit_per_mbit": -1.0}, "--fit-per-mbit"),
        ({"faults": FaultModel.BER, "fit_per_mbit": 100.0}, "those of ber are others"),
        ({"faults": FaultModel.BURST, "fit_per_mbit": 100.0}, "those of burst are others"),
        ({"faults": FaultModel.LIST}, "--fault-list"),
        ({"faults": FaultModel.WORD, "flip_direction": Direction.UP}, "--flip-direction 0to1 does not apply to word"),
        ({"cluster_shares": (Pattern(1, 3, 1.0),)}, "--cluster-shares is about upsets of several cells"),
        ({"memory_layout": "interleaved:4"}, "--memory-layout is about upsets of several cells, rows"),
        ({"faults": FaultModel.STUCK_ROW_0}, "the layout file has one row; give --memory-layout rows:BYTES"),
        ({"faults": FaultModel.STUCK_ROW_0, "memory_layout": "rows:8", "samples": 5}, "runs every row or column"),
        ({"faults": FaultModel.STUCK_COLUMN_1, "memory_layout": "interleaved:4"}, "has one row"),
        ({"faults": FaultModel.CLUSTER, "cluster_shares": ()}, "--cluster-shares: give patterns"),
        ({"faults": FaultModel.CLUSTER, "cluster_shares": (Pattern(17, 1, 1.0),)}, "1 to 16 rows and columns"),
        ({"faults": FaultModel.CLUSTER, "cluster_shares": (Pattern(1, 2, 0.9),)}, "shares above 0 that sum to 1"),
        ({"faults": FaultModel.CLUSTER, "fit_per_mbit": 100.0}, "those of cluster are others"),
    ],
)
def test_options_that_make_no_sense(values, message):
    with pytest.raises(OptionError, match=message):
        options(**values)


def test_patterns_and_layouts_are_read(tmp_path):
    assert parse_patterns("2=0.6,3=0.4") == (Pattern(1, 2, 0.6), Pattern(1, 3, 0.4))
    assert parse_patterns("1x2=0.5,2x2=0.5") == (Pattern(1, 2, 0.5), Pattern(2, 2, 0.5))
    for text in ("2", "2=x", "x=1", "2=0.5,1x2=0.5", ""):
        with pytest.raises(OptionError, match="--cluster-shares"):
            parse_patterns(text)
    table = tmp_path / "layout.csv"
    table.write_text("tensor")
    for text in ("file", "interleaved:2", "rows:1", "rows:1048576", str(table)):
        assert parse_layout(text) == text
    for text in ("interleaved:1", "interleaved:", "interleaved:4096"):
        with pytest.raises(OptionError, match=f"--memory-layout '{text}': interleave from 2 to 1024 words"):
            parse_layout(text)
    for text in ("rows:", "rows:0", "rows:x", "rows:-1", "rows:1048577"):
        with pytest.raises(OptionError, match=f"--memory-layout '{text}': rows hold from 1 to 1048576 bytes"):
            parse_layout(text)
    with pytest.raises(OptionError, match=r"no such file; give file, interleaved:N, rows:BYTES, or a CSV file"):
        parse_layout("nowhere.csv")


def test_parsers():
    assert parse_bits("0-2,31") == (0, 1, 2, 31)
    assert parse_roles("bias,weight") == (Role.WEIGHT, Role.BIAS)
    assert parse_roles("all") == ()
    assert parse_rates("1e-3,1e-4,1e-3") == (1e-4, 1e-3)
    numbers = [
        (parse_bits, text) for text in ("", "a", "64", "5-3", f"1-{10**11}")
    ]  # the last, without counting up to it
    for parse, text in (*numbers, (parse_roles, "weights"), (parse_rates, "x")):
        with pytest.raises(OptionError):
            parse(text)
