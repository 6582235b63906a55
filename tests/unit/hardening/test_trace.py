import logging

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from resq_deploy.errors import ModelError
from resq_deploy.hardening.folding import find_pairs, fold_batchnorm
from resq_deploy.hardening.trace import export_float_onnx
from resq_deploy.networks.registry import build_network


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network("resnet8", num_classes=4, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3), image_size=12)
        network.train()(torch.rand(16, 3, 12, 12))
    return network.eval()


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "float.onnx"
    export_float_onnx(network, path, image_size=12)
    return path


@pytest.fixture(scope="module")
def model(exported):
    return onnx.load(exported)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_logits_equal_torch_at_any_batch(network, exported, batch):
    images = torch.rand(batch, 3, 12, 12)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    found = session.run(["logits"], {"input": images.numpy()})[0]
    np.testing.assert_allclose(found, network(images).detach().numpy(), rtol=0, atol=1e-4)


def test_the_interface_is_the_contract(model):
    def described(value):
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]

    assert [described(value) for value in model.graph.input] == [
        ("input", onnx.TensorProto.FLOAT, ["batch", 3, 12, 12])
    ]
    assert [described(value) for value in model.graph.output] == [("logits", onnx.TensorProto.FLOAT, ["batch", 4])]
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    onnx.checker.check_model(model, full_check=True)


def test_batchnorm_is_folded_and_names_are_module_paths(network, model):
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
    layers = {node.name: node for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    expected = {
        name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    }
    assert layers.keys() == expected
    for name, node in layers.items():
        assert list(node.input[1:]) == [f"{name}.weight", f"{name}.bias"]
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)


def test_weights_are_those_of_the_folded_network(network, model):
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for name, value in fold_batchnorm(network, find_pairs(network, torch.rand(2, 3, 12, 12))).named_parameters():
        np.testing.assert_array_equal(stored[name], value.detach().numpy())


def test_nothing_of_the_machine_remains(model):
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for tensor in bare.graph.initializer:
        tensor.ClearField("raw_data")
    content = bare.SerializeToString()
    for trace in (b".py", b"File ", b"/", b"site-packages", b"torch", b"aten"):
        assert trace not in content, trace


def test_equal_weights_give_equal_bytes(network, exported, tmp_path):
    export_float_onnx(network, tmp_path / "again.onnx", image_size=12)
    assert (tmp_path / "again.onnx").read_bytes() == exported.read_bytes()


def test_the_export_is_silent(network, tmp_path, capfd, caplog, recwarn):
    caplog.set_level(logging.WARNING)
    export_float_onnx(network, tmp_path / "silent.onnx", image_size=12)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert not recwarn.list


class Unexportable(torch.nn.Module):
    def forward(self, x):
        return x.new_tensor([[float(value) for value in x.mean((2, 3)).flatten().tolist()]])


def test_a_network_that_cannot_be_exported_is_one_line(tmp_path, capfd):
    with pytest.raises(ModelError, match="cannot export the network") as caught:
        export_float_onnx(Unexportable(), tmp_path / "none.onnx", image_size=12)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "none.onnx").exists()
    assert capfd.readouterr().out == ""


def test_grey_images_need_no_three_channels(tmp_path):
    grey = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(72, 2)).eval()
    path = tmp_path / "grey.onnx"
    export_float_onnx(grey, path, image_size=8, channels=1)
    (images,) = onnx.load(path).graph.input
    assert [size.dim_value for size in images.type.tensor_type.shape.dim[1:]] == [1, 8, 8]
