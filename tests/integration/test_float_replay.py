"""A float file's 32-bit weight faults, counted by the campaign and by plain PyTorch (tools/check_float_replay.py)."""

import check_float_replay
import torch

from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.data import load_dataset
from resq_deploy.deployed.surfaces import Role
from resq_deploy.hardening.checkpoint import Checkpoint
from resq_deploy.networks import build_network


def test_campaign_and_torch_count_the_same_sdc():
    digits = load_dataset("digits")
    mean, std = digits.mean_std()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = build_network("resnet8", num_classes=10, mean=mean, std=std)
    fields = {"network": "resnet8", "classes": digits.classes, "mean": mean, "std": std, "image_size": 32}
    lineage = {"dataset": "digits", "stage": "baseline", "lineage": ("baseline",), "epoch": 1, "metrics": {}}
    checkpoint = Checkpoint(**fields, **lineage, state=network.state_dict())
    bits = tuple(range(20, 32))  # most of the exponent, where flips do great damage
    options = CampaignOptions(samples=40, images=100, seed=1, roles=(Role.WEIGHT,), bits=bits)
    results = check_float_replay.compare(checkpoint, digits, options)
    assert len(results) == 40
    assert max(abs(result["campaign"] - result["torch"]) for result in results) <= 1
    assert any(result["torch"] > 20 for result in results)
    assert any(result["torch"] == 0 for result in results)
