import pytest

from resq_deploy.api import words
from resq_deploy.report import text


def estimate(value, low, high):
    return {"value": value, "low": low, "high": high, "n": 9, "confidence": 0.95}


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (estimate(0.827, 0.802, 0.849), "82.7 % [80.2, 84.9]"),
        (estimate(0.0059, 0.0043, 0.0082), "0.59 % [0.43, 0.82]"),
        (estimate(0.00002, 0.00001, 0.00003), "0.0020 % [0.0010, 0.0030]"),
        (estimate(0.5, 0.5, 0.5), "50.00 % [50.00, 50.00]"),
        (None, "-"),
    ],
)
def test_percent_has_the_digits_its_interval_deserves(given, written):
    assert text.percent(given) == written


def test_points_carry_a_sign_and_never_minus_zero():
    assert text.points(estimate(-0.083, -0.104, -0.062)) == "-8.3 [-10.4, -6.2]"
    assert text.points(estimate(-1e-9, -0.01, 0.01)) == "+0.0 [-1.0, +1.0]"


@pytest.mark.parametrize(("rate", "written"), [(1e-3, "1e-3"), (2.5e-4, "2.5e-4"), (0.03, "3e-2"), (0.5, "5e-1")])
def test_rates(rate, written):
    assert text.rate(rate) == written


@pytest.mark.parametrize(("p", "written"), [(None, "-"), (0.0004, "< 0.001"), (0.0312, "0.031"), (1.0, "1.000")])
def test_probabilities(p, written):
    assert text.probability(p) == written


def test_figures_of_many_runs_are_told_by_their_ends():
    three = [("a", 0.2, "20 %"), ("b", 0.1, "10 %"), ("c", 0.3, "30 %")]
    assert text.side_by_side(three[:1]) == "20 %"
    assert text.side_by_side(three) == "20 % (a), 10 % (b) and 30 % (c)"
    assert text.side_by_side([*three, ("d", 0.15, "15 %")]) == "between 10 % (b) and 30 % (c)"


def test_a_quantity_may_have_no_upper_end():
    assert text.quantity({"value": 28.4, "low": 20, "high": None}) == "28.4 [20, no upper end]"


def test_an_interval_without_width_claims_no_digits():
    rounded = {"value": 0.98, "low": 0.98 - 2e-17, "high": 0.98 + 1e-16}
    assert text.percent(rounded) == "98.00 % [98.00, 98.00]"


@pytest.mark.parametrize(
    ("share", "high", "low"),
    [
        (0.0, "0 %", "0 %"),
        (0.02164, "2.2 %", "2.16 %"),
        (0.02, "2 %", "2 %"),
        (0.000914, "0.092 %", "0.0914 %"),
        (0.987, "99 %", "98.7 %"),
        (0.9921, "100 %", "99.2 %"),
        (0.9961, "100 %", "99.6 %"),
        (1.0, "100 %", "100 %"),
    ],
)
def test_bounds_are_rounded_outwards(share, high, low):
    assert (text.at_most(share), text.at_least(share)) == (high, low)
    assert float(text.at_least(share).split()[0]) <= 100 * share + 1e-9
    assert float(text.at_most(share).split()[0]) >= 100 * share - 1e-9


@pytest.mark.parametrize(
    ("low", "high", "shares", "figures"),
    [
        (0.01234, None, "at least 1.23 %", "at least 0.0123"),
        (0.01239, 0.04321, "1.23 to 4.4 %", "0.0123 to 0.044"),
        (0.0, 0.5, "0 to 50 %", "0 to 0.5"),
    ],
)
def test_where_no_value_is_known_ends_are_told_and_claim_no_more(low, high, shares, figures):
    found = estimate(None, low, high)
    assert text.percent(found) == shares
    assert text.quantity(found) == figures
    assert (
        words.percent(found)
        == {
            None: "at least 1.23 %",
            0.04321: "1.23 to 4.33 %",
            0.5: "0.00 to 50.00 %",
        }[high]
    )
