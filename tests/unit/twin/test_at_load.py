"""Weights that onnxruntime makes int8 when it loads a file: the twin takes them in, and follows what is stored."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.faults.fault import Edit, Fault
from resq_deploy.twin import read_twin


def load_time_int8(models, *, biased=True):
    """Conv and Gemm between (de)quantized activations, their weights float."""
    rng = np.random.default_rng(5)
    tensors = {
        "w": rng.normal(size=(4, 3, 3, 3)) / 3,
        "v": rng.normal(size=(6, 4, 3, 3)) / 4,
        "fc": rng.normal(size=(models.CLASSES, 6)),
        **({"b": rng.normal(size=4), "fc_b": rng.normal(size=models.CLASSES)} if biased else {}),
    }
    nodes = []

    def coded(name, high):
        tensors.update({f"{name}_s": np.float32(high / 255)})
        nodes.append(helper.make_node("QuantizeLinear", [name, f"{name}_s", "zero"], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s", "zero"], [f"{name}_dq"]))
        return f"{name}_dq"

    def bias(name):
        return [name] if name in tensors else []

    image = coded("x", 1.0)
    nodes.append(helper.make_node("Conv", [image, "w", *bias("b")], ["c"], name="first"))
    nodes.append(helper.make_node("Relu", ["c"], ["r"]))
    nodes.append(helper.make_node("Conv", [coded("r", 3.0), "v"], ["d"], name="second"))
    nodes.append(helper.make_node("GlobalAveragePool", [coded("d", 2.0)], ["p"]))
    nodes.append(helper.make_node("Flatten", [coded("p", 1.5)], ["f"]))
    nodes.append(helper.make_node("Gemm", [coded("f", 1.5), "fc", *bias("fc_b")], ["z"], transB=1, name="last"))
    tensors["z_s"] = np.float32(0.05)
    nodes.append(helper.make_node("QuantizeLinear", ["z", "z_s", "middle"], ["z_q"]))
    nodes.append(helper.make_node("DequantizeLinear", ["z_q", "z_s", "middle"], ["y"]))
    stored = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in tensors.items()]
    stored += [models.constant("zero", 0, np.uint8), models.constant("middle", 128, np.uint8)]
    return models.model(nodes, stored)


def float_session(proto):
    """The same file with its weights left in float."""
    return Session(proto.SerializeToString(), Deployment(batch=8, optimization="none"))


@pytest.mark.parametrize("biased", [True, False], ids=["biases", "no biases"])
def test_the_twin_takes_in_what_is_quantized_at_load(models, pair, logits, biased):
    proto = load_time_int8(models, biased=biased)
    twin, session = pair(proto)
    images = models.images(64)
    theirs = session.run(images)
    assert not np.array_equal(float_session(proto).run(images), theirs)  # else nothing is quantized at load
    np.testing.assert_array_equal(logits(twin, images), theirs)


def test_a_replaced_weight_is_quantized_anew(models, tmp_path, logits):
    model = DeployedModel.load(models.save(load_time_int8(models), tmp_path / "model.onnx"))
    twin, patcher, images = read_twin(model), model.patcher(), models.images(16)
    for tensor, bits in {"w": (20, 22, 24, 31), "v": (22, 25), "fc": (23, 31), "b": (22, 31), "fc_b": (24,)}.items():
        for bit in bits:
            flipped = patcher.apply(patcher.masks(Fault(0, (Edit.of(tensor, [1], [bit]),))))
            values = next(t for t in onnx.ModelProto.FromString(flipped).graph.initializer if t.name == tensor)
            ours = logits(twin, images, {tensor: torch.from_numpy(numpy_helper.to_array(values).copy())})
            theirs = Session(flipped, Deployment(batch=8)).run(images)
            np.testing.assert_array_equal(ours, theirs, err_msg=f"{tensor} bit {bit}")


def test_gradients_reach_the_stored_floats(models, pair):
    twin, _ = pair(load_time_int8(models))
    stored = {name: twin.stored[name].clone().requires_grad_() for name in ("w", "v", "fc", "b")}
    twin(torch.from_numpy(models.images(4)), stored=stored).square().sum().backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in stored.values())


def test_what_is_not_quantized_at_load_stays_float(models, tmp_path, logits):
    path = models.save(load_time_int8(models), tmp_path / "model.onnx")
    deployment = dataclasses.replace(Deployment(batch=8), optimization="none")
    model = DeployedModel.load(path)
    images = models.images(8)
    ours = logits(read_twin(model, deployment=deployment), images)
    np.testing.assert_allclose(ours, float_session(model.proto).run(images), atol=0.051)  # a code at a tie may move
