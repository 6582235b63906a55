"""The canary on files whose tensors are stored three times: all copies of one are hit."""

from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.quantization.guards import guard


def test_the_canary_is_seen_where_only_guarded_tensors_are_hit(digits_int8, tmp_path):
    names = [surface.tensor for surface in DeployedModel.load(digits_int8).surfaces]
    path = tmp_path / "guarded.onnx"
    path.write_bytes(guard(digits_int8.read_bytes(), names))
    options = CampaignOptions(images=50, samples=20)
    summary = Campaign(DeployedModel.load(path), load_dataset("digits"), options).run(tmp_path / "run")
    assert summary["canary"]["outcome"] == "sdc1"
    assert summary["rates"]["masked"]["value"] == 1.0
    assert summary["audit"]["mismatches"] == 0
