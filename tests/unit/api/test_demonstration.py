"""The demo on a network of one's own: values from Python become the commands that one would type."""

import pytest

from resq_deploy.api.demonstration import _own_options
from resq_deploy.errors import OptionError


def test_numbers_are_typed_as_they_are():
    given = {"dataset": "photos", "epochs_baseline": 1, "mean": (0.485, 0.4914009, 0.1), "std": "0.2,0.2,0.2"}
    own = _own_options("my_module:build", given, 100, 0, "exact")
    assert own.training == ("--epochs-baseline", "1")
    assert own.presented == ("--mean", "0.485,0.4914009,0.1", "--std", "0.2,0.2,0.2")


@pytest.mark.parametrize(
    ("network", "given", "message"),
    [
        (None, {"dataset": "photos"}, "--dataset is about a network of yours: give --network, too"),
        ("my_module:build", {}, "say with --dataset what images it is for"),
        ("my_module:build", {"dataset": "photos", "epochs": 3}, "no option 'epochs'; there are dataset,"),
    ],
)
def test_what_makes_no_sense_is_one_line(network, given, message):
    with pytest.raises(OptionError, match=message):
        _own_options(network, given, 100, 0, "exact")
