"""What a campaign says beforehand that it will take, beside what it then takes."""

import pytest

from resq_deploy.campaign.forecast import Cost
from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.plan import make_plan
from resq_deploy.campaign.refine import Base
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset
from resq_deploy.deployed.model import DeployedModel


@pytest.fixture
def campaign(digits_int8):
    def make(base=None, **values):
        options = CampaignOptions(**{"images": 40, "workers": 1, **values})
        options = options if base is None else base.refined(options)
        return Campaign(DeployedModel.load(digits_int8), load_dataset("digits"), options, base=base)

    return make


def test_a_pilot_tells_how_many_faults_a_margin_will_take(campaign, tmp_path):
    told = campaign(margin=0.03).estimate()
    summary = campaign(margin=0.03).run(tmp_path / "run")
    assert told["planned"] < told["expected"] <= told["at_most"]
    assert 0.5 < told["expected"] / summary["faults"]["evaluated"] < 2.0
    assert told["seconds"] < told["seconds_expected"]
    again = campaign(Base.read(tmp_path / "run"), samples=30).estimate()
    assert (again["planned"], again["expected"]) == (30, 30)


def test_what_is_planned_as_a_whole_is_not_extrapolated(campaign):
    told = campaign(samples=60).estimate()
    assert (told["planned"], told["at_most"]) == (60, 60)
    assert told["expected"] in (None, 60)  # what was timed may be all
    assert told["seconds"] > 60 * told["seconds_per_fault"]
    told = campaign(faults=FaultModel.BER, ber=(1e-3,), chips=3).estimate()
    assert (told["planned"], told["at_most"]) == (3, 3)


def test_faults_that_are_run_again_count_and_later_ones_cost_what_their_images_do(digits_int8):
    plan = make_plan(DeployedModel.load(digits_int8).surfaces, CampaignOptions(samples=100, audit=0.1))
    cost = Cost(once=7.0, fault=2.0, again=10.0, groups=3)
    assert cost.of(plan, 100) == 7.0 + 200.0 + 10.0 * (20 + 3)
    assert cost.of(plan, 400, dearer=1.5) == 7.0 + 200.0 + 3.0 * 300 + 10.0 * (40 + 3)
    assert Cost(once=7.0, fault=2.0, again=0.0, groups=3).of(plan, 10) == 27.0
