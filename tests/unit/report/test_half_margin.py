"""Where a study measures what hardening gains: at half of the plain baseline's margin, told by the baseline alone."""

import dataclasses

import pytest

from resq_deploy.faults.statistics import Estimate
from resq_deploy.report.half_margin import half_margin, half_margin_section
from resq_deploy.report.study_figures import Corner, Metric

CLEAN = Metric(kind="clean")


def estimate(value):
    return Estimate(value=value, low=value - 0.01, high=value + 0.01, n=1000, confidence=0.95)


def corner(variant, *, clean=0.9, attack=None, fault=None, layers=None, chance=0.1):
    figures = {CLEAN: estimate(clean)}
    for kind, draw, levels in (("attack", "", attack), ("fault", "", fault), ("fault", "layers", layers)):
        for level, value in (levels or {}).items():
            norm = "linf" if kind == "attack" else ""
            figures[Metric(kind=kind, campaign="c", level=level, norm=norm, draw=draw)] = estimate(value)
    return Corner(
        network="net",
        dataset="set",
        variant=variant,
        asked=1,
        seeds={0: figures},
        failed=0,
        seconds=1.0,
        untrusted=(),
        unchecked=(),
        chance=chance,
    )


def test_half_of_the_margin_is_counted_above_chance():
    found = half_margin(corner("baseline", fault={"1e-3": 0.9, "1e-2": 0.52, "2e-2": 0.4}), "fault")
    assert found.metric.level == "1e-2"  # (0.52 - 0.1) / 0.8 = 0.525; counted from zero it would be 2e-2, 0.444
    assert found.left == pytest.approx(0.525)
    assert not found.coarse


@pytest.mark.parametrize(("value", "coarse"), [(0.71, True), (0.69, False), (0.31, False), (0.29, True)])
def test_levels_that_are_too_far_apart_are_called_so(value, coarse):
    assert half_margin(corner("baseline", attack={"4": value}), "attack").coarse == coarse


def test_layers_drawn_evenly_are_not_what_random_flips_do():
    found = half_margin(corner("baseline", fault={"1e-2": 0.8}, layers={"1e-4": 0.5}), "fault")
    assert found.metric.level == "1e-2"


@pytest.mark.parametrize(
    "baseline",
    [
        corner("baseline", fault={"1e-2": 0.5}, chance=None),
        corner("baseline", clean=0.1, fault={"1e-2": 0.1}),
        corner("baseline", attack={"4": 0.5}),
        dataclasses.replace(corner("baseline", fault={"1e-2": 0.5}), seeds={}),
    ],
    ids=["chance is not known", "nothing above chance", "no faults", "not run"],
)
def test_nothing_is_said_where_there_is_no_half(baseline):
    assert half_margin(baseline, "fault") is None


def test_gains_are_told_against_both_baselines():
    corners = [
        corner("baseline", attack={"2": 0.5}, fault={"1e-2": 0.5}),
        corner("baseline+stage3", clean=0.895, attack={"2": 0.51}, fault={"1e-2": 0.6}),
        corner("resq", clean=0.89, attack={"2": 0.8}, fault={"1e-2": 0.75}),
        corner("protected", clean=0.885, attack={"2": 0.79}, fault={"1e-2": 0.88}),
    ]
    _, table = half_margin_section(corners, [("net", "set")]).blocks
    shifts = [[float(cell.split()[0]) for cell in row[3:]] for row in table.rows]
    assert shifts == [[-1.0, -0.5, -1.5], [30.0, 29.0, 29.0], [25.0, 15.0, 38.0]]
    assert [row[1] for row in table.rows] == [
        "without attack or fault",
        "2/255 Linf [50 % of the margin left]",
        "bit error rate 1e-2 [50 % of the margin left]",
    ]


def test_a_study_of_other_things_has_no_such_section():
    assert half_margin_section([corner("baseline")], [("net", "set")]) is None
    assert half_margin_section([corner("resq", fault={"1e-2": 0.5})], [("net", "set")]) is None
