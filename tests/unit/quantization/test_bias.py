"""Corrected biases leave no mean error in any layer of the quantized model."""

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.data import load_dataset
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session
from resq_deploy.quantization import bias
from resq_deploy.quantization.bias import biased_layers, correct_biases, named
from resq_deploy.quantization.calibrate import activation_ranges
from resq_deploy.quantization.float_model import prepare_float_model
from resq_deploy.quantization.scheme import Scheme
from resq_deploy.quantization.weight_ranges import with_chosen_ranges, write_clipped, write_with_ranges

RNG = np.random.default_rng(8)
IMAGES = RNG.uniform(size=(40, 4, 8, 8)).astype(np.float32)
COARSE = Scheme(ranges="fault-aware", design_ber=0.01, granularity="tensor")
"""Narrow weight ranges: large errors, whose mean is not zero."""


def build(nodes, tensors, shape=("N", 4, 8, 8)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def node(operator, inputs, output, **attributes):
    return helper.make_node(operator, inputs, [output], **attributes)


def normal(*shape):
    return RNG.normal(size=shape)


def branches():
    """Two convolutions, one without bias, added up; then rows, a MatMul with a bias and a Gemm without."""
    nodes = [
        node("Conv", ["x", "w", "b"], "a", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], "r"),
        node("Conv", ["r", "v"], "c", pads=[1, 1, 1, 1], group=2),
        node("Add", ["c", "r"], "s"),
        node("Relu", ["s"], "t"),
        node("GlobalAveragePool", ["t"], "p"),
        node("Flatten", ["p"], "f"),
        node("MatMul", ["f", "m"], "n"),
        node("Add", ["d", "n"], "o"),
        node("Sigmoid", ["o"], "i"),
        node("Gemm", ["i", "k"], "y", transB=1),
    ]
    weights = {"w": normal(6, 4, 3, 3), "b": normal(6), "v": normal(6, 3, 3, 3), "m": normal(6, 7), "d": normal(1, 7)}
    return build(nodes, weights | {"k": normal(5, 7)})


def sequence():
    """Rows of vectors: the channels are the last axis."""
    nodes = [
        node("MatMul", ["x", "m"], "n"),
        node("Add", ["n", "d"], "o"),
        node("Tanh", ["o"], "i"),
        node("MatMul", ["i", "k"], "j"),
        node("Add", ["j", "e"], "y"),
    ]
    return build(nodes, {"m": normal(8, 7), "d": normal(7), "k": normal(7, 5), "e": normal(5)})


MODELS = {"branches": branches(), "sequence": sequence()}


@pytest.fixture
def prepared(tmp_path):
    """Return a function that prepares a model, quantizes it coarsely and gives all that a correction takes."""

    def prepare(model, scheme=COARSE, images=IMAGES):
        onnx.save(model, tmp_path / "float.onnx")
        ready = prepare_float_model(tmp_path / "float.onnx")
        spec = Session(ready.SerializeToString(), Deployment()).input
        ranges = activation_ranges(with_chosen_ranges(ready, scheme), images, spec)
        return ready, quantized(ready, ranges, scheme), spec, ranges

    return prepare


def quantized(model, ranges, scheme=COARSE):
    clips = write_with_ranges(model, ranges, scheme).clips
    return onnx.ModelProto.FromString(
        write_clipped(named(model), ranges, dataclasses.replace(scheme, format="qdq"), clips)
    )


def layer_means(model, names, images, channels_last):
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact sums on any CPU, onnxruntime's own way
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = session.run(None, {"x": images})
    return [
        np.moveaxis(value, -1 if last else 1, -1).reshape(-1, value.shape[-1 if last else 1]).mean(axis=0, dtype=float)
        for value, last in zip(values, channels_last, strict=True)
    ]


def mean_errors(model, int8, images=IMAGES):
    """The largest mean error of a channel in each layer of a quantized model, against the float model."""
    layers = biased_layers(model)
    made = {node.name: node.output[0] for node in int8.graph.node}
    last = [layer.axis == -1 for layer in layers]
    exact = layer_means(model, [layer.output for layer in layers], images, last)
    found = layer_means(int8, [made[f"node {layer.node}"] for layer in layers], images, last)
    return np.asarray([np.abs(left - right).max() for left, right in zip(exact, found, strict=True)])


@pytest.mark.parametrize("name", MODELS)
def test_no_layer_keeps_a_mean_error(prepared, name):
    model, int8, spec, ranges = prepared(MODELS[name])
    corrected, said = correct_biases(model, int8, IMAGES, spec)
    before = mean_errors(model, int8)
    again = quantized(corrected, ranges)
    places = {layer.output: layer for layer in biased_layers(model)}
    assert len(said["layers"]) == len(places) == len(before)
    assert said["images"] == len(IMAGES)
    after = mean_errors(model, again)
    # What is left is the rounding of the biases: to int32, or, of an Add, to the steps of its own uint8 range.
    assert np.all(after < 0.1 * before + 2e-3), (before, after)


def test_one_by_one_is_what_a_single_layer_at_a_time_gives(prepared):
    """The correction of each layer is the mean error that is left once the layers before it are corrected."""
    model, int8, spec, ranges = prepared(branches())
    corrected, _ = correct_biases(model, int8, IMAGES, spec)
    layers = biased_layers(model)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in corrected.graph.initializer}
    partly = onnx.ModelProto()
    partly.CopyFrom(model)
    for tensor in partly.graph.initializer:
        if tensor.name == layers[0].bias:
            tensor.CopyFrom(numpy_helper.from_array(stored[tensor.name], tensor.name))
    made = {node.name: node.output[0] for node in int8.graph.node}
    exact = layer_means(model, [layers[1].output], IMAGES, [False])[0]
    found = layer_means(quantized(partly, ranges), [made[f"node {layers[1].node}"]], IMAGES, [False])[0]
    np.testing.assert_allclose(stored["c_bias"], exact - found, atol=2e-3)
    assert np.abs(stored["c_bias"]).max() > 0.02


def test_equal_inputs_give_equal_biases(prepared):
    model, int8, spec, _ = prepared(branches())
    given = model.SerializeToString(deterministic=True)
    first, second = (correct_biases(model, int8, IMAGES, spec)[0].SerializeToString(deterministic=True) for _ in "12")
    assert first == second != given
    assert model.SerializeToString(deterministic=True) == given


def test_a_gemm_with_beta_gets_its_bias_as_it_is(prepared):
    nodes = [node("Flatten", ["x"], "f"), node("Gemm", ["f", "k"], "y", beta=3.0, alpha=0.5)]
    model, int8, spec, ranges = prepared(build(nodes, {"k": normal(256, 5)}))
    corrected, _ = correct_biases(model, int8, IMAGES, spec)
    before, after = mean_errors(model, int8), mean_errors(model, quantized(corrected, ranges))
    assert after < 0.05 * before


def test_fixed_batches_and_partial_ones(prepared):
    fixed = build(branches().graph.node, stored_of(branches()), shape=(16, 4, 8, 8))
    model, int8, spec, _ = prepared(fixed)
    corrected, said = correct_biases(model, int8, IMAGES, spec)
    assert said["images"] == len(IMAGES)
    assert len(corrected.graph.initializer) == len(model.graph.initializer) + 2


def stored_of(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_few_images_where_the_layers_are_large(prepared, monkeypatch):
    monkeypatch.setattr(bias, "_HELD", 1)
    model, int8, spec, _ = prepared(branches())
    assert correct_biases(model, int8, IMAGES, spec)[1]["images"] == 16


LEFT = {
    "shared bias": build(
        [
            node("Conv", ["x", "w", "b"], "a"),
            node("Add", ["b", "b"], "z"),
            node("ReduceSum", ["z"], "k"),
            node("Add", ["a", "k"], "y"),
        ],
        {"w": normal(6, 4, 3, 3), "b": normal(6)},
    ),
    "one value for all channels": build(
        [node("Flatten", ["x"], "f"), node("Gemm", ["f", "k", "b"], "y")], {"k": normal(256, 5), "b": normal(1)}
    ),
    "a value a row": build(
        [node("MatMul", ["x", "m"], "n"), node("Add", ["n", "b"], "y")], {"m": normal(8, 7), "b": normal(8, 1)}
    ),
    "no addition": build([node("MatMul", ["x", "m"], "y")], {"m": normal(8, 7)}),
    "added after another reader": build(
        [node("MatMul", ["x", "m"], "n"), node("Add", ["n", "b"], "o"), node("Mul", ["n", "o"], "y")],
        {"m": normal(8, 7), "b": normal(7)},
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_has_no_bias_of_its_own_is_left_alone(name):
    assert biased_layers(LEFT[name]) == []


def test_a_model_without_layers_stays(prepared):
    model = build([node("Relu", ["x"], "y")], {})
    assert correct_biases(model, model, IMAGES, None) == (model, {"images": 0, "layers": []})


def test_the_digits_classifier(digits_float):
    model = prepare_float_model(digits_float)
    spec = Session(model.SerializeToString(), Deployment()).input
    images = load_dataset("digits").calibration(100, 0).images
    ranges = activation_ranges(with_chosen_ranges(model, COARSE), images, spec)
    corrected, said = correct_biases(model, quantized(model, ranges), images, spec)
    assert [entry["layer"] for entry in said["layers"]] == ["conv", "fc"]
    assert all(entry["largest"] > 0 for entry in said["layers"])
    assert [value.name for value in corrected.graph.initializer] == [value.name for value in model.graph.initializer]
