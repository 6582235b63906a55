"""A recurrent network of torch's own, exported, quantized by onnxruntime, and run over sequences with its state."""

import contextlib
import io

import numpy as np
import pytest
import torch
from onnxruntime.quantization import quantize_dynamic
from torch import nn

from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.run import Campaign
from resq_deploy.deployed.deployment import Deployment, create
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.pipeline.campaign_data import data_for


class Step(nn.Module):
    """One step of speech detection: a frame and a state to a score and the next state."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 16)
        self.cell = nn.GRU(16, 16, batch_first=True)
        self.last = nn.Linear(16, 1)

    def forward(self, frame: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scores [N, 1] and the state [1, N, 16]."""
        found, state = self.cell(self.first(frame).relu()[:, None], state)
        return self.last(found[:, 0]).sigmoid(), state


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's exporter
def test_a_recurrent_network_of_torch_is_campaigned_over_sequences(tmp_path):
    torch.manual_seed(0)
    batch = {0: torch.export.Dim("batch", min=1, max=1000)}
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(
            Step().eval(),
            (torch.zeros(2, 12), torch.zeros(1, 2, 16)),
            tmp_path / "float.onnx",
            input_names=["frame", "state"],
            output_names=["score", "next"],
            dynamic_shapes={"frame": batch, "state": {1: batch[0]}},
            dynamo=True,
            external_data=False,
        )
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "int8.onnx")
    frames = np.random.default_rng(0).standard_normal((9, 5, 12)).astype(np.float32)
    np.savez(tmp_path / "own.npz", frame=frames, labels=np.zeros(9, np.int64))

    model = DeployedModel.load(tmp_path / "int8.onnx")
    data = data_for(model, str(tmp_path / "own.npz"), Deployment(), states={"state": "next"})
    campaign = Campaign(model, data, CampaignOptions(samples=30, workers=1, deployment=Deployment(batch=4)))
    golden = campaign.golden
    assert golden.outputs["score"].shape == (9, 5, 1)
    plain = create((tmp_path / "int8.onnx").read_bytes(), Deployment())
    place = 2
    state = np.zeros((1, 4, 16), np.float32)
    for step in range(5):
        score, state = plain.run(None, {"frame": golden.inputs.arrays["frame"][:4, step], "state": state})
        assert score[place].tobytes() == golden.outputs["score"][place, step].tobytes()
    summary = campaign.run(tmp_path / "run")
    assert summary["faults"]["evaluated"] == 30
    assert summary["data"]["states"] == [{"input": "state", "output": "next"}]
    assert summary["rates"]["masked"]["value"] < 1
