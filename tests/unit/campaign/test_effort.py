"""Work that is counted, from real files: the same whatever machine and moment."""

import pathlib

import numpy as np
import pytest
from onnx import TensorProto, helper

from resq_deploy.campaign.effort import Effort
from resq_deploy.deployed.deployment import Deployment

MODELS = pathlib.Path(__file__).parents[3] / "models"


@pytest.mark.parametrize(
    ("name", "images", "layers", "macs"),
    [
        ("resnet8-digits-baseline", (2, 3, 32, 32), 10, 12_501_632),
        ("resnet20-cifar10-baseline", (1, 3, 32, 32), 22, 40_813_184),
    ],
)
def test_layers_and_products_are_counted(name, images, layers, macs):
    model = (MODELS / f"{name}.int8.onnx").read_bytes()
    found = Effort.count(model, Deployment(), np.zeros(images, dtype=np.float32))
    assert (found.layers, found.macs, found.stored) == (layers, macs, len(model))


def test_a_file_without_products_has_some_work():
    node = helper.make_node("Relu", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("x", "y")]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = Effort.count(model.SerializeToString(), Deployment(), np.zeros((1, 3), dtype=np.float32))
    assert (found.layers, found.macs) == (1, 0)
    assert Effort.count(b"no model", Deployment(), np.zeros((1, 3), dtype=np.float32)).stored == 8
