"""tools/check_coverage.py: the short form of its check, on made-up populations and on faults that were measured."""

import json
import pathlib

import check_coverage
import numpy as np
import pytest

from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.faults.statistics import Estimate

MODEL = pathlib.Path(__file__).parents[2] / "models" / "resnet8-digits-baseline.int8.onnx"
MEASURED = pathlib.Path(__file__).parents[1] / "unit" / "faults" / "measured_rates.json"


@pytest.fixture(scope="module")
def measured():
    """SDC-1 of 6,000 single flips in the digits baseline, as `faultcamp` counted it on 100 images."""
    table = json.loads(MEASURED.read_text())
    return np.repeat([int(sdc1) / table["images"] for sdc1 in table["faults"]], list(table["faults"].values()))


@pytest.mark.parametrize("n", [200, 1000])
def test_neither_side_misses_more_often_than_it_may(measured, n):
    """Intervals made of the spread missed 72 % at n = 200 here, and up to 93 % of the made-up ones."""
    rng = np.random.default_rng(n)
    for name, rates in [*check_coverage.made_up(10**5, 0), ("measured", measured)]:
        found = check_coverage.simple(rates, n, 300, rng)
        assert max(found.below, found.above) <= 0.027, name
        assert abs(found.bias) < 4 * found.error


@pytest.mark.parametrize(("n", "width"), [(1000, 0.010), (5000, 0.0045)])
def test_the_intervals_are_as_narrow_as_promised(measured, n, width):
    assert len(measured) == 6000
    assert check_coverage.simple(measured, n, 40, np.random.default_rng(0)).width <= width


def test_misses_are_told_by_their_side():
    figures = [
        Estimate(value=0.5, low=low, high=high, n=9, confidence=0.95) for low, high in ((0, 1), (0.6, 1), (0, 0.1))
    ]
    found = check_coverage.judged([*figures, figures[0]], 0.5)
    assert (found.below, found.above, found.bias, found.units) == (0.25, 0.25, 0.0, 9)


def test_an_enumerated_run_is_drawn_in_strata(tmp_path, capsys):
    options = CampaignOptions(exhaustive=True, layers="normalise*", images=4, audit=0.0)
    Campaign(DeployedModel.load(MODEL), load_dataset("digits"), options).run(tmp_path / "whole")
    asked = ["--run", str(tmp_path / "whole"), "--model", str(MODEL), "--sizes", "100", "--replications", "30"]
    assert check_coverage.main([*asked, "--campaigns", "12", "--margin", "0.05"]) == 0
    said = capsys.readouterr().out
    assert said.count("below the truth 0.00 %, above 0.00 %") == 6
    assert "--margin 0.05" in said
    assert check_coverage.main([*asked, "--campaigns", "3", "--margin", "0.05", "--allowed", "-1"]) == 1
    assert check_coverage.main([*asked, "--campaigns", "12", "--margin", "0.05", "--images-per-fault", "1"]) == 0
    assert capsys.readouterr().out.count("above 0.00 %") == 12
