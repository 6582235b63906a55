"""Bounds on figures: what they say, whether they can pass at all, and whether they hold."""

import math

import numpy as np
import pytest

from resq_deploy.campaign.gates import Gate, check_reachable, held, needs, parse_gate
from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.plan import make_plan
from resq_deploy.deployed.surfaces import Role, Surface
from resq_deploy.errors import OptionError
from resq_deploy.faults.statistics import cluster

SURFACE = Surface(tensor="w", role=Role.WEIGHT, layer="l", dtype="int8", shape=(1000,), width=8)


def plan(**values):
    return make_plan([SURFACE], CampaignOptions(**values))


def ber(rates=(1e-3, 1e-2), chips=20):
    return plan(faults=FaultModel.BER, ber=rates, chips=chips)


def point(rate, high, due=0.0):
    estimate = {"value": high / 2, "low": 0.0, "high": high, "n": 20, "confidence": 0.95}
    return {"ber": rate, "rates": {"sdc1": estimate}, "due": {**estimate, "high": due}}


def test_gates_are_read():
    assert parse_gate("sdc1=0.01") == Gate(metric="sdc1", bound=0.01)
    assert parse_gate("due@1e-3=0") == Gate(metric="due", bound=0.0, ber=1e-3)
    assert str(parse_gate("sdc1@1e-3=0.25")) == "sdc1@0.001=0.25"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sdc1=nan", "give a bound from 0 to 1"),
        ("sdc1=-0.1", "give a bound from 0 to 1"),
        ("sdc1=1.01", "give a bound from 0 to 1"),
        ("sdc1=inf", "give a bound from 0 to 1"),
        ("sdc1", "give METRIC=BOUND"),
        ("sdc1@often=0.1", "give METRIC=BOUND or METRIC@BER=BOUND"),
        ("sdc1@=0.1", "give METRIC=BOUND or METRIC@BER=BOUND"),
        ("sdc2=0.1", "metrics are masked"),
        ("=0.1", "metrics are masked"),
    ],
)
def test_what_is_no_gate_is_refused(text, message):
    with pytest.raises(OptionError, match=message):
        parse_gate(text)


@pytest.mark.parametrize(
    ("text", "made", "message"),
    [
        ("sdc1@1e-3=0.5", lambda: plan(samples=100), "only --faults ber has bit error rates; leave out @0.001"),
        ("sdc1@3e-3=0.5", ber, "the bit error rates of this campaign are 0.001, 0.01; add it to --ber"),
        ("sdc1@nan=0.5", ber, "the bit error rates of this campaign are"),
        (
            "sdc1=0.1",
            ber,
            r"sdc1@0.001=0.1: needs \d+ chips or more, .* 20 are planned, so that it cannot pass: give --chips",
        ),
        ("sdc1=0", ber, "no number of chips shows that a rate is that low: give a bound above 0"),
        ("due=0.01", lambda: plan(samples=100), r"needs \d+ faults or more, .* 100 are planned.*give --samples"),
    ],
    ids=["rate of another model", "rate not in the grid", "no rate", "too few chips", "bound 0", "too few faults"],
)
def test_a_gate_that_no_result_can_pass_is_refused(text, made, message):
    with pytest.raises(OptionError, match=message):
        check_reachable([parse_gate(text)], made())


@pytest.mark.parametrize("bound", [0.3, 0.1, 0.01, 1e-3])
@pytest.mark.parametrize("population", [math.inf, 8000])
def test_what_a_gate_needs_is_the_least_that_passes_without_an_event(bound, population):
    made = ber() if math.isinf(population) else plan(samples=1)
    (need, *_) = needs([Gate(metric="sdc1", bound=bound)], made)
    ends = [cluster(np.zeros(n), population, 0.95).high for n in (need.fewest - 1, need.fewest)]
    assert ends[1] <= bound < ends[0]
    enough = ber(chips=need.fewest) if math.isinf(population) else plan(samples=need.fewest)
    check_reachable([Gate(metric="sdc1", bound=bound)], enough)


def test_tiny_bounds_are_told_without_counting_up_to_them():
    (need,) = needs([Gate(metric="sdc1", bound=1e-12)], ber(rates=(1e-3,)))
    assert need.fewest == pytest.approx(-math.log(0.025) * 1e12, rel=1e-6)
    assert not need.reachable


def test_all_faults_there_are_can_pass_any_gate():
    check_reachable([Gate(metric="sdc1", bound=0.0)], plan(exhaustive=True))


def test_where_a_margin_decides_a_gate_is_told_and_not_refused():
    (need,) = needs([Gate(metric="sdc1", bound=0.001)], plan(margin=0.05))
    assert need.reachable
    assert str(need).endswith("drawn evenly; they are drawn until a margin of 0.05 is reached")


def test_a_gate_without_a_rate_is_asked_of_every_rate():
    summary = {"curve": [point(1e-3, 0.02), point(1e-2, 0.6)]}
    results = held([parse_gate("sdc1=0.25")], summary)
    assert [(result["ber"], result["passed"]) for result in results] == [(1e-3, True), (1e-2, False)]


def test_a_gate_of_a_rate_is_asked_of_that_alone():
    summary = {"curve": [point(1e-3, 0.02), point(1e-2, 0.6, due=0.1)]}
    assert [result["passed"] for result in held([parse_gate("sdc1@1e-3=0.25")], summary)] == [True]
    assert [result["passed"] for result in held([parse_gate("due@1e-2=0.05")], summary)] == [False]


def test_the_upper_end_decides_and_a_figure_that_is_missing_fails():
    summary = {"rates": {"sdc1": point(0, 0.02)["rates"]["sdc1"], "sdc5": None}, "due": point(0, 0)["due"]}
    results = held([parse_gate(text) for text in ("sdc1=0.02", "sdc1=0.0199", "sdc5=1")], summary)
    assert [result["passed"] for result in results] == [True, False, False]
    assert all(result["ber"] is None for result in results)
