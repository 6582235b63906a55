"""What the workbench decides by itself."""

import pytest
import torch
from torch import nn

from resq_deploy.hardening.workbench import _wants_bf16

CPU = torch.device("cpu")
DEPTHWISE = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4))


@pytest.mark.parametrize("features", [{"avx512_bf16"}, {"amx_bf16"}])
def test_bf16_where_the_processor_gains_by_it(monkeypatch, features):
    monkeypatch.setattr("resq_deploy.hardening.workbench.cpu_features", lambda: features)
    assert _wants_bf16("auto", CPU, nn.Conv2d(4, 4, 3))
    assert not _wants_bf16("auto", CPU, DEPTHWISE)


def test_what_is_asked_for_goes_before(monkeypatch):
    monkeypatch.setattr("resq_deploy.hardening.workbench.cpu_features", set)
    assert _wants_bf16("bf16", CPU, DEPTHWISE)
    assert not _wants_bf16("float32", CPU, nn.Conv2d(4, 4, 3))
    assert not _wants_bf16("auto", CPU, nn.Conv2d(4, 4, 3))
