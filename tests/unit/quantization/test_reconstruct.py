"""Reconstruction: the weights lie inside narrower ranges, and the network answers as before."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.data.dataset import Split
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session
from resq_deploy.quantization import reconstruct as module
from resq_deploy.quantization.adjust import write_adjusted
from resq_deploy.quantization.float_model import prepare_float_model
from resq_deploy.quantization.ranges import best_clip
from resq_deploy.quantization.reconstruct import reconstruct
from resq_deploy.quantization.scheme import Scheme
from resq_deploy.quantization.weights import weight_tensors

RNG = np.random.default_rng(11)
DESIGN = Scheme(ranges="fault-aware", design_ber=1e-2)
WEIGHTS = {
    "w1": RNG.standard_t(3, size=(8, 3, 3, 3)),
    "w2": RNG.standard_t(3, size=(8, 1, 3, 3)),
    "w3": RNG.standard_t(3, size=(8, 8, 1, 1)),
    "w4": RNG.standard_t(3, size=(8, 6)),
    "w5": RNG.standard_t(3, size=(6, 4)),
}


def residual():
    """Convolutions (depthwise without a bias, a shortcut around them), MatMul with an added bias, Gemm with alpha."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "depthwise", pads=[1, 1, 1, 1], group=8),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["c3"], "pointwise"),
        helper.make_node("Add", ["c3", "r1"], ["sum"]),
        helper.make_node("GlobalAveragePool", ["sum"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w4"], ["m4"], "product"),
        helper.make_node("Add", ["m4", "b4"], ["a4"]),
        helper.make_node("Gemm", ["a4", "w5", "b5"], ["y"], "head", alpha=0.5),
    ]
    biases = {"b1": (8,), "b3": (8,), "b4": (6,), "b5": (4,)}
    return build(nodes, WEIGHTS | {name: RNG.normal(size=shape) for name, shape in biases.items()})


def build(nodes, tensors):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def images(count, seed=0):
    """Smooth images, whose neighbouring pixels are nearly equal, as in photographs."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(size=(count, 3, 2, 2)).repeat(4, axis=2).repeat(4, axis=3)
    return (0.9 * coarse + 0.1 * rng.uniform(size=(count, 3, 8, 8))).astype(np.float32)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    def make(model):
        path = tmp_path_factory.mktemp("float") / "float.onnx"
        onnx.save(model, path)
        return prepare_float_model(path)

    return make


@pytest.fixture(scope="module")
def network(prepared):
    return prepared(residual())


def spec_of(model):
    return Session(model.SerializeToString(), Deployment(threads=1)).input


def weights_of(model, granularity="channel"):
    return {weight.name: weight for weight in weight_tensors(model, granularity)[0]}


def error(model, other, seed=5):
    """Mean squared difference of outputs on images nobody was fitted on."""
    answers = [
        Session(each.SerializeToString(), Deployment(threads=1)).run(images(200, seed)) for each in (model, other)
    ]
    return float(np.square(answers[0] - answers[1]).mean())


def only_clipped(model, scheme):
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    for weight in weight_tensors(copy, scheme.granularity)[0]:
        tensor = next(each for each in copy.graph.initializer if each.name == weight.name)
        clip = best_clip(weight.values, axis=weight.axis, ber=scheme.expected_ber)
        tensor.CopyFrom(numpy_helper.from_array(weight.clipped(clip), weight.name))
    return copy


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_every_layer_is_fitted_and_the_network_answers_much_more_nearly(network, granularity):
    scheme = Scheme(ranges="fault-aware", design_ber=1e-2, granularity=granularity)
    given = network.SerializeToString(deterministic=True)
    fitted, record = reconstruct(network, images(300), spec_of(network), scheme)
    assert network.SerializeToString(deterministic=True) == given
    json.dumps(record)
    assert record["images"] == module.IMAGES
    assert record["not_fitted"] == []
    assert [entry["layer"] for entry in record["layers"]] == [
        "first",
        "depthwise",
        "pointwise",
        "product/MatMulAddFusion",
        "head",
    ]
    for entry in record["layers"]:
        assert 0 < entry["range_left"] < 1
        expected = entry["expected_error"]
        assert 0 <= expected["without_faults"] < expected["fitted"] < expected["clipped"] < expected["minmax"]
    assert error(network, fitted) < 0.2 * error(network, only_clipped(network, scheme))
    onnx.checker.check_model(fitted)


def test_ranges_are_narrower_where_more_bits_are_expected_to_flip(network):
    ranges = []
    for ber in (0.0, 1e-4, 1e-2, 0.1):
        scheme = Scheme(ranges="fault-aware", design_ber=ber)
        fitted, _ = reconstruct(network, images(100), spec_of(network), scheme)
        ranges.append(np.concatenate([weight.largest for weight in weights_of(fitted).values()]).sum())
    assert ranges == sorted(ranges, reverse=True)
    assert ranges[-1] < 0.6 * ranges[0]


def test_the_mean_output_of_every_layer_stays(network):
    """What a layer's weights cannot make up for in the mean, its bias does; the depthwise one gets a bias."""
    data = images(100)
    fitted, _ = reconstruct(network, data, spec_of(network), DESIGN)
    names = ["c1", "c2", "c3", "a4", "y"]
    means = []
    for model in (network, fitted):
        probe = onnx.ModelProto.FromString(model.SerializeToString())
        probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name != "y")
        session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
        outputs = session.run(names, {"x": data})
        means.append([value.mean(axis=tuple(i for i in range(value.ndim) if i != 1)) for value in outputs])
    for given, got in zip(*means, strict=True):
        np.testing.assert_allclose(got, given, atol=1e-4 * np.abs(given).max())


def test_weights_that_cannot_be_fitted_are_clipped_by_equation_6(prepared, monkeypatch):
    nodes = [
        helper.make_node("Conv", ["x", "shared"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c1", "shared"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Flatten", ["c2"], ["flat"]),
        helper.make_node("Gemm", ["flat", "large"], ["y"]),
    ]
    weights = {"shared": RNG.normal(size=(3, 3, 3, 3)), "large": RNG.normal(size=(192, 4))}
    model = prepared(build(nodes, weights))
    monkeypatch.setattr(module, "MOST_INPUTS", 191)
    fitted, record = reconstruct(model, images(20), spec_of(model), DESIGN)
    assert record["layers"] == []
    assert sorted(record["not_fitted"]) == ["large", "shared"]
    assert error(fitted, only_clipped(model, DESIGN)) == 0


def test_a_layer_whose_inputs_are_always_zero_keeps_its_place(prepared):
    nodes = [
        helper.make_node("Clip", ["x", "nought", "nought"], ["zero"]),
        helper.make_node("Conv", ["zero", "w", "b"], ["c"]),
        helper.make_node("Conv", ["x", "v", "b"], ["d"]),
        helper.make_node("Add", ["c", "d"], ["y"]),
    ]
    tensors = {"nought": 0, "w": RNG.normal(size=(4, 3, 8, 8)), "v": RNG.normal(size=(4, 3, 8, 8)), "b": np.ones(4)}
    model = prepared(build(nodes, tensors))
    fitted, record = reconstruct(model, images(50), spec_of(model), DESIGN)
    assert all(np.isfinite(weight.values).all() for weight in weights_of(fitted).values())
    assert [entry["expected_error"]["fitted"] > 0 for entry in record["layers"]] == [False, True]
    assert error(model, fitted) < 0.5 * error(model, only_clipped(model, DESIGN))


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_layer_whose_inputs_are_not_finite_is_only_clipped(prepared):
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["d"], "first"),
        helper.make_node("Log", ["d"], ["nan"]),  # of what is negative now and then
        helper.make_node("Conv", ["nan", "w"], ["y"], "second"),
    ]
    model = prepared(build(nodes, {"v": RNG.normal(size=(4, 3, 3, 3)), "w": RNG.normal(size=(4, 4, 3, 3))}))
    fitted, record = reconstruct(model, images(20), spec_of(model), DESIGN)
    assert [entry["layer"] for entry in record["layers"]] == ["first"]
    assert record["not_fitted"] == ["w"]
    clipped = weights_of(only_clipped(model, DESIGN))["w"]
    np.testing.assert_array_equal(weights_of(fitted)["w"].values, clipped.values)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_the_file_holds_the_fitted_weights_at_the_scale_of_their_range(network, form):
    data = images(200)
    calibration = Split(images=data, labels=np.zeros(len(data), np.int64))
    scheme = Scheme(ranges="fault-aware", design_ber=1e-2, format=form)
    int8, said = write_adjusted(network, calibration, spec_of(network), scheme)
    assert list(said) == ["ranges", "reconstruction"]
    entry = said["reconstruction"]
    assert entry["kept"]
    assert entry["after"]["squared_error"] < 0.5 * entry["before"]["squared_error"]
    fitted, record = reconstruct(network, data[:100], spec_of(network), scheme)  # the other half judges
    assert record["layers"] == entry["layers"]
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(int8).graph.initializer}
    for name, weight in weights_of(fitted).items():
        np.testing.assert_array_equal(stored[f"{name}_scale"], weight.largest / np.float32(127))
        assert np.abs(stored[f"{name}_quantized"]).max() == 127
    assert write_adjusted(network, calibration, spec_of(network), scheme) == (int8, said)


def test_a_fit_that_brings_nothing_is_undone(network):
    """Fitted to one image, the network answers others less nearly than it does with a few weights cut off."""
    calibration = Split(images=images(2), labels=np.zeros(2, np.int64))
    spec = spec_of(network)
    few = {"ranges": "fault-aware", "design_ber": 1e-4}
    int8, said = write_adjusted(network, calibration, spec, Scheme(**few))
    entry = said["reconstruction"]
    assert not entry["kept"]
    assert entry["after"]["squared_error"] > entry["before"]["squared_error"]
    assert int8 == write_adjusted(network, calibration, spec, Scheme(**few, reconstruct=False))[0]
