"""Bounds that accuracy under attack must keep above: what they say, whether they can pass, and whether they hold."""

import pytest

from resq_deploy.errors import OptionError
from resq_deploy.pipeline.attack_gates import AttackGate, check_reachable, held, parse_gate
from resq_deploy.pipeline.attack_options import AttackOptions


def estimate(value, low):
    return {"value": value, "low": low, "high": 1.0, "n": 100, "confidence": 0.95}


def summary(trustworthy=True, missing=(), upper_bound=False, **checks):
    return {
        "clean": estimate(0.9, 0.85),
        "worst_case": {"4": estimate(0.5, 0.4), "8": estimate(0.2, 0.1)},
        "checks": {name: {"passed": passed} for name, passed in checks.items()},
        "trustworthy": trustworthy,
        "trustworthy_missing": list(missing),
        "upper_bound": upper_bound,
    }


def judged(text, **values):
    return [(one["epsilon"], one["passed"], one["reason"]) for one in held([parse_gate(text)], summary(**values))]


def test_gates_are_read():
    assert parse_gate("robust@4=0.4") == AttackGate(metric="robust", bound=0.4, epsilon="4")
    assert parse_gate("robust@4.0=0.4").epsilon == "4"  # as the campaign names it
    assert parse_gate("trustworthy") == AttackGate(metric="trustworthy")
    assert [str(parse_gate(text)) for text in ("robust@0.5=0.25", "clean=1", "trustworthy")] == [
        "robust@0.5=0.25",
        "clean=1",
        "trustworthy",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sdc1=0.4", "metrics are robust, clean, trustworthy"),
        ("robust@4", "give METRIC=BOUND or robust@EPSILON=BOUND"),
        ("robust@strong=0.4", "give METRIC=BOUND or robust@EPSILON=BOUND"),
        ("robust@4=40", "give a bound from 0 to 1"),
        ("robust@4=nan", "give a bound from 0 to 1"),
        ("clean@4=0.4", "only robust takes a radius, and corruptions a severity; leave out @4"),
        ("corruptions@6=0.4", "severities are 1 to 5"),
        ("corruptions@=0.4", "severities are 1 to 5"),
        ("corruptions@3", "give METRIC=BOUND"),
        ("trustworthy=1", "it is or is not; leave out =1"),
    ],
)
def test_what_is_no_gate_is_refused(text, message):
    with pytest.raises(OptionError, match=message):
        parse_gate(text)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("robust@3=0.1", {}, "the radii of this campaign are 2, 4, 8; add it to --epsilon"),
        ("robust=0.1", {"attacks": ("bit-flip",)}, "takes an attack on images"),
        ("trustworthy", {"attacks": ("bit-flip",)}, "takes an attack on images"),
        ("trustworthy", {"attacks": ("square",)}, "add twin-pgd or twin-apgd"),
        ("trustworthy", {"attacks": ("twin-pgd",)}, "add square"),
        ("trustworthy", {"epsilon": (4.0,)}, "give more than one --epsilon"),
        ("robust@4=0.99", {}, "cannot pass with 100 images"),
        ("clean=0.99", {"attacks": ("bit-flip",)}, "cannot pass with 100 images"),
        ("corruptions=0.1", {"attacks": ("square",)}, "takes corruptions: add them to --attacks"),
        ("corruptions@3=0.97", {"attacks": ("corruptions",)}, "cannot pass with 100 images"),
        ("robust=0.1", {"attacks": ("corruptions",)}, "takes an attack on images"),
    ],
)
def test_gates_that_cannot_pass_are_refused(text, options, message):
    with pytest.raises(OptionError, match=message):
        check_reachable([parse_gate(text)], AttackOptions(**options), 100)


def test_gates_that_can_pass_are_not():
    gates = [parse_gate(text) for text in ("robust@4=0.9", "robust=0.9", "clean=0.9", "trustworthy")]
    check_reachable(gates, AttackOptions(), 100)


def test_corruptions_are_held_against_their_means_whatever_became_of_attacks():
    found = {"mean": estimate(0.7, 0.6), "by_severity": {"1": estimate(0.8, 0.75), "3": estimate(0.5, 0.4)}}
    figures = summary(trustworthy=False, chance=False) | {"corruptions": found}
    gates = [parse_gate(text) for text in ("corruptions=0.6", "corruptions@3=0.41", "corruptions@1=0.7")]
    assert [str(gate) for gate in gates] == ["corruptions=0.6", "corruptions@3=0.41", "corruptions@1=0.7"]
    check_reachable(gates, AttackOptions(attacks=("corruptions",)), 100)
    results = held(gates, figures)
    assert [(one["severity"], one["epsilon"], one["passed"]) for one in results] == [
        (None, None, True),
        (3, None, False),
        (1, None, True),
    ]
    assert [one["estimate"]["value"] for one in results] == [0.7, 0.5, 0.8]


def test_the_lower_end_decides():
    assert judged("robust@4=0.4") == [("4", True, "")]
    assert judged("robust@4=0.45") == [("4", False, "the lower end is below the bound")]  # though the value is 0.5
    assert [passed for _, passed, _ in judged("robust=0.2")] == [True, False]
    assert judged("clean=0.85") == [(None, True, "")]
    assert judged("clean=0.9") == [(None, False, "the lower end is below the bound")]


def test_a_figure_of_unsound_attacks_shows_nothing():
    failed = {"trustworthy": False, "chance": False, "black_box": True}
    assert judged("robust@4=0", **failed) == [("4", False, "not trustworthy: check chance failed")]
    assert judged("trustworthy", **failed) == [(None, False, "check chance failed")]
    assert judged("clean=0.1", **failed) == [(None, True, "")]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"upper_bound": True, "missing": ["chance"]}, "an upper bound: no attack had the gradients of the file"),
        (
            {"missing": ["black_box or transfer"]},
            "of the checks for masked gradients black_box or transfer did not run",
        ),
    ],
)
def test_a_figure_nobody_checked_passes_with_its_reservation_and_is_not_trustworthy(values, reason):
    assert judged("robust@4=0.4", trustworthy=None, **values) == [("4", True, reason)]
    assert judged("trustworthy", trustworthy=None, **values) == [(None, False, reason)]
    assert judged("trustworthy") == [(None, True, "")]
