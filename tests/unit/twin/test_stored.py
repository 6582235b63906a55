"""Replacing what a file stores equals flipping its bits: bit for bit, whatever role the tensor has."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.graph import stored_tensors
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import Role
from resq_deploy.faults.fault import Edit, Fault
from resq_deploy.twin import read_twin

KINDS = ("cnn-qdq-channel-s8", "cnn-qdq-tensor-u8", "cnn-qoperator-channel-s8", "attention-qdq-tensor-u8")
MOST = 8  # flips a role and file


def flips(model, role):
    """Flips of evenly spread bits of every tensor of a role."""
    found = []
    for surface in (surface for surface in model.surfaces if surface.role is role):
        for element in sorted({0, surface.elements // 2}):
            found += [Edit.of(surface.tensor, [element], [bit]) for bit in range(surface.width)]
    return found[:: max(1, len(found) // MOST)]


def values_of(data, tensor):
    graph = onnx.ModelProto.FromString(data).graph
    return next(numpy_helper.to_array(stored) for stored, name in stored_tensors(graph) if name == tensor)


def as_replacement(values):
    return torch.from_numpy(values.astype(np.float64 if values.dtype == np.int32 else np.float32))


@pytest.mark.parametrize("role", [role for role in Role if role not in (Role.FLOAT, Role.CODE)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_replacement_equals_the_flipped_file(kind, role, model_file, models, logits):
    model = DeployedModel.load(model_file(kind))
    twin, patcher, images = read_twin(model), model.patcher(), models.images(4)
    golden, compared, changed = logits(twin, images), 0, 0
    for edit in flips(model, role):
        flipped = patcher.apply(patcher.masks(Fault(0, (edit,))))
        try:
            theirs = Session(flipped, Deployment(batch=8)).run(images)
        except Exception:  # onnxruntime may refuse a faulty file, with types of its own
            continue
        ours = logits(twin, images, {edit.tensor: as_replacement(values_of(flipped, edit.tensor))})
        np.testing.assert_array_equal(ours, theirs, err_msg=f"{edit.tensor}[{edit.index}] bit {edit.bit}")
        compared += 1
        changed += not np.array_equal(ours, golden)
    has_none = "qoperator" in kind and role in (Role.BIAS_SCALE, Role.BIAS_ZERO_POINT)  # the form stores no such values
    has_none |= "cnn" in kind and role is Role.CONSTANT
    assert (compared > 0) is not has_none
    if role in (Role.WEIGHT, Role.BIAS, Role.ACTIVATION_SCALE, Role.ACTIVATION_ZERO_POINT):
        assert changed > 0
