"""Units that all behaved alike: no spread, and yet no certainty."""

import pytest

from resq_deploy.faults.statistics import (
    as_estimate,
    cluster,
    paired_difference,
    paired_p,
    student,
    widened,
    zero_event_bound,
)


@pytest.mark.parametrize("value", [0.0, 0.98, 1.0])
def test_shares_that_agree_get_the_bound_for_events_not_seen(value):
    found = widened(student([value] * 7, 0.95))
    expected = cluster([value] * 7, float("inf"), 0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.high - found.low > 0.3


def test_differences_that_agree_may_be_otherwise_in_further_units():
    unseen = zero_event_bound(4, float("inf"), 0.95)
    found = widened(paired_difference([0.02] * 4, 0.95), lowest=-1.0)
    assert found.low == pytest.approx(0.02 * (1 - unseen) - unseen)
    assert found.high == pytest.approx(0.02 * (1 - unseen) + unseen)
    assert found.low < 0.0  # four chips prove nothing
    none = widened(paired_difference([0.0] * 9, 0.95), lowest=-1.0)
    assert none.low == pytest.approx(-none.high)


def test_an_interval_with_spread_stays():
    found = student([0.1, 0.2], 0.9)
    assert widened(found) is found
    assert as_estimate(found.as_dict()) == found


def test_units_that_agree_are_tested_by_their_signs():
    assert paired_p([0.02] * 4) == pytest.approx(0.125)
    assert paired_p([-0.3 - 1e-15] * 3 + [-0.3]) == pytest.approx(0.125)
    assert paired_p([0.0] * 100) == 1.0
