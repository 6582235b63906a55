"""Twins of small files, beside the session they must agree with."""

import pathlib

import pytest
import torch

from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.twin import read_twin


@pytest.fixture
def pair(models, tmp_path):
    """Return a function that reads a model, given as a proto or a path, into a twin and opens its session."""

    def open_pair(model, **options):
        path = model if isinstance(model, pathlib.Path) else models.save(model, tmp_path / "model.onnx")
        deployed = DeployedModel.load(path)
        return read_twin(deployed, **options), Session(deployed.proto.SerializeToString(), Deployment(batch=8))

    return open_pair


@pytest.fixture
def logits():
    """Return a function that runs a twin on a numpy array, without gradients."""

    def run(twin, images, stored=None):
        with torch.no_grad():
            return twin(torch.from_numpy(images), stored=stored).numpy()

    return run
