"""The grid of training is the grid of the file: the same weights, through the exporter, to the bit."""

import numpy as np
import onnx
import pytest
import torch

from resq_deploy.data import load_dataset
from resq_deploy.hardening.fake_quant import WeightGrid
from resq_deploy.hardening.folding import find_pairs
from resq_deploy.hardening.trace import export_float_onnx
from resq_deploy.networks.registry import build_network
from resq_deploy.quantization.export import ExportOptions, export_int8


@pytest.fixture(scope="module")
def network():
    """A network whose statistics are those of images, with gains of both signs."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = build_network("resnet8", num_classes=10, mean=(0.3,) * 3, std=(0.3,) * 3, image_size=32).train()
        pixels = torch.from_numpy(load_dataset("digits").train.images[:64]).permute(0, 3, 1, 2).float() / 255
        for norm in (part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)):
            torch.nn.init.uniform_(norm.weight, -1.5, 1.5)
            torch.nn.init.uniform_(norm.bias, -0.5, 0.5)
        for _ in range(20):
            network(pixels)
    return network.eval()


def test_codes_of_training_are_those_of_the_file(network, tmp_path):
    path = tmp_path / "float.onnx"
    export_float_onnx(network, path)
    exported = export_int8(path, load_dataset("digits"), ExportOptions(calibration_images=50), described="test")
    model = onnx.load_from_string(exported.int8_file)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    grid = WeightGrid(network, find_pairs(network, torch.rand(2, 3, 32, 32)))
    assert len(grid.layers) == 10
    for name in grid.layers:
        codes = grid.codes(name)[0].numpy().astype(np.int8)
        deployed = stored[f"{name}.weight_quantized"]
        np.testing.assert_array_equal(codes, deployed if deployed.shape == codes.shape else deployed.T)
