"""The validity checks on answers made up for the purpose: each passes where it should, and fails where it should."""

import numpy as np
import pytest

from resq_deploy.attacks import checks
from resq_deploy.attacks.checks import Check
from resq_deploy.attacks.summary import verdict
from resq_deploy.faults.statistics import share

N = 400


def survivors(count, images=N):
    """The first `count` images survive: attacks that do so are nested."""
    return np.arange(images) < count


def test_the_worst_case_is_taken_image_by_image():
    first, second = np.array([True, True, False, False]), np.array([True, False, True, False])
    np.testing.assert_array_equal(checks.worst_case([first, second]), [True, False, False, False])


@pytest.mark.parametrize(
    ("agreeing", "images", "passed"), [(10_000, 10_000, True), (9_991, 10_000, True), (9_980, 10_000, False)]
)
def test_the_twin_must_agree(agreeing, images, passed):
    check = checks.twin_agrees(share(agreeing, images), 0.25)
    assert check.passed is passed
    assert check.figures["max_logit_difference"] == 0.25
    assert bool(check.reason) is not passed


@pytest.mark.parametrize(("zero", "passed"), [(0, True), (3, True), (20, False), (N, False)])
def test_gradients_of_zero_are_found(zero, passed):
    check = checks.gradients_present(survivors(zero))
    assert check.passed is passed
    assert check.figures["zero"]["n"] == N


def test_without_right_answers_there_are_no_gradients_to_judge():
    assert checks.gradients_present(np.zeros(0, bool)).passed is None


@pytest.mark.parametrize(
    ("farthest", "valid", "words"),
    [
        ({"square": {"4": 4 / 255}}, True, ""),
        ({"square": {"4": 4 / 255 + 1e-7}}, True, ""),
        ({"square": {"4": 4.1 / 255}}, True, "square at 4"),
        ({"square": {"4": float("nan")}}, True, "square at 4"),
        ({"square": {"4": 0.0}}, False, r"\[0, 1\]"),
    ],
)
def test_images_outside_the_ball_are_found(farthest, valid, words):
    check = checks.within_ball(farthest, valid, {"4": 4 / 255})
    assert check.passed is not bool(words)
    if words:
        assert words.replace("\\", "") in check.reason


@pytest.mark.parametrize(
    ("weak", "passed"),
    [(survivors(300), True), (survivors(200), True), (survivors(198), True), (survivors(150), False)],
    ids=["weaker", "the same", "by chance", "stronger"],
)
def test_an_attack_that_should_be_weaker_is_not_stronger(weak, passed):
    check = checks.not_stronger({"4": survivors(200), "8": survivors(0)}, {"square": {"4": weak, "8": survivors(0)}})
    assert check.passed is passed
    figures = check.figures["square"]["4"]
    assert figures["difference"]["value"] == (200 - weak.sum()) / N
    assert figures["only_this"] - figures["only_the_reference"] == 200 - weak.sum()
    assert (figures["p"] < 0.05) is (abs(200 - int(weak.sum())) > 20)
    assert ("square at 4 (by 12.5 points)" in check.reason) is not passed


def test_the_comparison_is_paired():
    """Fifty images of two hundred fooled by either alone are no difference, twenty by one alone are."""
    strong = survivors(200)
    apart = np.roll(strong, 50)
    assert checks.not_stronger({"4": strong}, {"square": {"4": apart}}).passed
    nested = survivors(180)
    assert not checks.not_stronger({"4": strong}, {"square": {"4": nested}}).passed


@pytest.mark.parametrize(("more", "passed"), [(200, True), (196, True), (180, False)])
def test_more_steps_may_change_little(more, passed):
    check = checks.converged({"4": survivors(200)}, {"4": survivors(more)})
    assert check.passed is passed
    assert ("--steps" in check.reason) is not passed


@pytest.mark.parametrize(("last", "passed"), [(50, True), (100, True), (103, True), (150, False)])
def test_robust_accuracy_falls_with_epsilon(last, passed):
    curve = {"2": survivors(200), "4": survivors(100), "8": survivors(last)}
    check = checks.falls({"square": curve, "twin-pgd": {"2": survivors(9), "4": survivors(9), "8": survivors(0)}})
    assert check.passed is passed
    assert ("square from 4 to 8" in check.reason) is not passed
    assert list(check.figures["square"]) == ["2 to 4", "4 to 8"]


def test_one_radius_cannot_fall():
    assert checks.falls({"square": {"4": survivors(3)}}).passed is None


@pytest.mark.parametrize(("right", "passed"), [(0, True), (40, True), (48, True), (80, False)])
def test_a_large_radius_leaves_chance(right, passed):
    check = checks.reaches_chance(survivors(right), 10)
    assert check.passed is passed
    assert check.figures["chance"] == 0.1


LOOKED_FOR = {"chance": True, "falls_with_epsilon": True, "black_box": True}


@pytest.mark.parametrize(
    ("passed", "white_box", "trustworthy", "upper_bound", "missing"),
    [
        pytest.param(LOOKED_FOR | {"transfer": None}, True, True, False, [], id="black-box"),
        pytest.param(LOOKED_FOR | {"black_box": None, "transfer": True}, True, True, False, [], id="transfer"),
        pytest.param(LOOKED_FOR | {"more_steps": False}, True, False, True, [], id="another-failed"),
        pytest.param(LOOKED_FOR | {"black_box": None}, True, None, False, ["black_box or transfer"], id="neither"),
        pytest.param(
            LOOKED_FOR | {"falls_with_epsilon": None}, True, None, False, ["falls_with_epsilon"], id="one-radius"
        ),
        pytest.param(
            {"falls_with_epsilon": True, "chance": None, "black_box": None},
            False, None, True, ["chance", "black_box or transfer"], id="no-gradients",
        ),
        pytest.param({}, False, None, True, ["chance", "falls_with_epsilon", "black_box or transfer"], id="no-checks"),
        pytest.param(
            LOOKED_FOR | {"black_box": False}, True, False, True, ["black_box or transfer"], id="black-box-failed"
        ),
    ],
)  # fmt: skip
def test_the_verdict(passed, white_box, trustworthy, upper_bound, missing):
    found = verdict({name: Check(passed=how) for name, how in passed.items()}, white_box)
    assert found["trustworthy"] is trustworthy
    assert found["trustworthy_missing"] == missing
    assert found["upper_bound"] is upper_bound
    assert {name: check["passed"] for name, check in found["checks"].items()} == passed
    assert all(check.keys() >= {"passed", "figures"} for check in found["checks"].values())


@pytest.mark.parametrize(("more", "told"), [(0, False), (1, False), (12, True)])
def test_gradients_past_saturation_that_fool_more_are_told_of(more, told):
    check = checks.unmasked({"4": survivors(100)}, {"4": survivors(100 - more)})
    assert check.passed is True
    assert ("points at 4" in check.reason) is told
    assert check.figures["4"]["only_this"] == more
