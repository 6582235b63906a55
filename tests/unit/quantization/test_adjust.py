"""The written file holds the ranges that were chosen, and the sidecar says so."""

import hashlib

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

from resq_deploy.data import load_dataset
from resq_deploy.data.dataset import Split
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session
from resq_deploy.errors import ModelError
from resq_deploy.grid import quantize, weight_scale
from resq_deploy.quantization import weight_ranges
from resq_deploy.quantization.adjust import write_adjusted
from resq_deploy.quantization.calibrate import StreamedImages
from resq_deploy.quantization.export import ExportOptions, export_int8
from resq_deploy.quantization.float_model import prepare_float_model
from resq_deploy.quantization.ranges import best_clip
from resq_deploy.quantization.readback import written_scales
from resq_deploy.quantization.scheme import Scheme
from resq_deploy.quantization.weights import weight_tensors

MODES = [(ranges, granularity) for ranges in ("minmax", "mse", "fault-aware") for granularity in ("channel", "tensor")]
BER = {"minmax": None, "mse": 0.0, "fault-aware": 1e-3}
INPUT = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6, 6])


@pytest.fixture(scope="module")
def export(digits_float, tmp_path_factory):
    """Export the digits classifier in a mode: path of the file, and its sidecar."""
    folder = tmp_path_factory.mktemp("exports")

    def run(ranges, granularity, name="net", **options):
        path = folder / f"{ranges}-{granularity}-{name}.onnx"
        options = ExportOptions(
            ranges=ranges,
            granularity=granularity,
            reconstruct=False,
            calibration_images=50,
            test_images=50,
            **options,
        )
        made = export_int8(digits_float, load_dataset("digits"), options, described="test")
        path.write_bytes(made.int8_file)
        return path, made.sidecar

    return run


def stored(int8):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(int8).graph.initializer}


def float_weights(path):
    """Weights of a file by name, with the axis of their channels."""
    chosen, _ = weight_tensors(prepare_float_model(path), "channel")
    return {weight.name: (weight.values, weight.axis) for weight in chosen}


@pytest.mark.parametrize(("ranges", "granularity"), MODES)
def test_scales_and_codes_are_those_of_the_grid(export, digits_float, ranges, granularity):
    path, _ = export(ranges, granularity)
    written = stored(path.read_bytes())
    weights = float_weights(digits_float)
    assert weights.keys() == {"conv.weight", "fc.weight"}
    for name, (values, channels) in weights.items():
        axis = channels if granularity == "channel" else None
        scale = weight_scale(values, axis=axis)
        if BER[ranges] is not None:
            scale = (best_clip(values, axis=axis, ber=BER[ranges]) / np.float32(127)).astype(np.float32)
        assert written[f"{name}_scale"].tobytes() == scale.tobytes()
        np.testing.assert_array_equal(written[f"{name}_quantized"], quantize(values, scale, axis=axis))
        assert written[f"{name}_quantized"].min() >= -127


@pytest.mark.parametrize(("ranges", "granularity"), MODES)
def test_equal_inputs_give_equal_bytes(export, ranges, granularity):
    first, second = (export(ranges, granularity, name)[0].read_bytes() for name in ("first", "second"))
    assert hashlib.sha256(first).hexdigest() == hashlib.sha256(second).hexdigest()


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_minmax_ranges_are_the_quantizers_own(digits_float, tmp_path, form, granularity):
    """Calibrated once, whatever is written from it: the file is that of `quantize_static` on the same images."""
    model = prepare_float_model(digits_float)
    spec = Session(model.SerializeToString(), Deployment(threads=1)).input
    calibration = load_dataset("digits").calibration(120, 0)
    ours, _ = write_adjusted(model, calibration, spec, Scheme(format=form, granularity=granularity))
    quantize_static(
        model,
        str(tmp_path / "plain.onnx"),
        StreamedImages(calibration.images, spec),
        quant_format=QuantFormat.QDQ if form == "qdq" else QuantFormat.QOperator,
        per_channel=granularity == "channel",
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )
    plain = onnx.load(tmp_path / "plain.onnx")
    del plain.metadata_props[:]
    plain.producer_name, plain.producer_version, plain.doc_string = "resq-deploy", "", ""
    assert ours == plain.SerializeToString(deterministic=True)


@pytest.mark.parametrize(("ranges", "granularity"), MODES)
def test_the_sidecar_says_what_was_changed_and_gained(export, ranges, granularity):
    _, sidecar = export(ranges, granularity)
    assert sidecar["quantization"]["ranges"] == ranges
    assert sidecar["quantization"]["granularity"] == granularity
    said = sidecar["adjustments"]["ranges"]
    assert (said["mode"], said["granularity"]) == (ranges, granularity)
    assert said["design_ber"] == (1e-3 if ranges == "fault-aware" else None)
    assert said["not_adjusted"] == []
    assert [entry["tensor"] for entry in said["tensors"]] == ["conv.weight", "fc.weight"]
    for entry in said["tensors"]:
        assert entry["scales"]["intended"] == entry["scales"]["written"]
        assert entry["scales"]["differ"] == []
        assert entry["clip"]["max"] / 127 == pytest.approx(entry["scales"]["written"]["max"])
        error = entry["expected_error"]
        if ranges == "minmax":
            assert entry["clipped_share"] == 0
            assert error["chosen"] == error["minmax"]
        else:
            assert 0 < entry["clipped_share"] < 0.1
            assert error["chosen"] < error["minmax"]
            assert entry["clip"]["max"] < entry["max_abs"]


def test_another_design_rate_gives_other_ranges(export):
    clips = [
        export("fault-aware", "channel", f"p{ber}", design_ber=ber)[1]["adjustments"]["ranges"]["tensors"][1]["clip"]
        for ber in (0.0, 1e-4, 1e-2)
    ]
    assert clips[0]["median"] > clips[1]["median"] > clips[2]["median"]
    assert clips[0] == export("mse", "channel")[1]["adjustments"]["ranges"]["tensors"][1]["clip"]


def build(nodes, tensors, inputs=(INPUT,)):
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def written_from(model, tmp_path, **scheme):
    """Prepare and write a model: the int8 file, the record of its ranges, the prepared model, and inputs for it."""
    onnx.save(model, tmp_path / "float.onnx")
    prepared = prepare_float_model(tmp_path / "float.onnx")
    spec = Session(prepared.SerializeToString(), Deployment(threads=1)).input
    images = np.random.default_rng(5).uniform(size=(20, 4, 6, 6)).astype(np.float32)
    calibration = Split(images=images, labels=np.zeros(20, np.int64))
    int8, said = write_adjusted(prepared, calibration, spec, Scheme(reconstruct=False, **scheme))
    assert said.keys() == {"ranges"}
    return int8, said["ranges"], prepared, images


def convolution(weights, bias, **attributes):
    return build([helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv", **attributes)], {"w": weights, "b": bias})


def tiny_channel():
    """Weights of a convolution whose second channel is too small for its bias."""
    weights = np.random.default_rng(6).normal(size=(3, 4, 3, 3)).astype(np.float32)
    weights[1] *= np.float32(1e-6)
    return convolution(weights, [0.5, 1000, -0.5])


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("ranges", ["mse", "fault-aware"])
def test_a_bias_that_would_overflow_widens_the_range_of_its_channel_alone(tmp_path, ranges, form):
    int8, said, _, _ = written_from(tiny_channel(), tmp_path, ranges=ranges, format=form)
    (entry,) = said["tensors"]
    assert [place["channel"] for place in entry["scales"]["differ"]] == [1]
    assert entry["scales"]["differ"][0]["written"] > 2 * entry["scales"]["differ"][0]["intended"]
    written = stored(int8)
    step = (written["x_scale"] * written["w_scale"]).astype(np.float64)
    assert np.all(np.abs(written["b_quantized"] * step - [0.5, 1000, -0.5]) <= 0.5001 * step)
    assert abs(int(written["b_quantized"][1])) < 2**31 - 1
    if form == "qdq":
        np.testing.assert_array_equal(written["b_quantized_scale"], step)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_a_bias_that_layers_share_is_scaled_for_each(tmp_path, form):
    """onnxruntime 1.32 alone quantizes it for one of them, in both forms."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["h", "v", "b"], ["y"]),
    ]
    weights = np.random.default_rng(10).normal(size=(2, 4, 4, 3, 3))
    model = build(nodes, {"w": weights[0], "v": 9 * weights[1], "b": [1, 2, 3, 4]})
    int8, said, _, _ = written_from(model, tmp_path, format=form)
    assert len(said["tensors"]) == 2
    biases = [value for name, value in stored(int8).items() if value.dtype == np.int32 and value.any()]
    assert len(biases) == 2
    assert biases[0].tolist() != biases[1].tolist()


@pytest.mark.parametrize(
    ("form", "tensor", "value", "message"),
    [
        ("qdq", "b_quantized_scale", 2, "the bias 'b' at another scale"),
        ("qdq", "b_quantized", 2, "the bias 'b' at another scale"),
        ("qoperator", "b_quantized", 2, "the bias 'b' at another scale"),
        ("qdq", "b_quantized", 2**31, "the bias 'b' overflows int32"),
        ("qdq", "w_scale", 2, "other codes of the weights 'w'"),
    ],
    ids=["bias scale", "bias", "bias of qoperator", "bias cut off", "weight scale"],
)
def test_a_file_that_is_not_what_was_meant_is_refused(tmp_path, form, tensor, value, message):
    int8, _, prepared, _ = written_from(convolution(RNG.normal(size=(3, 4, 3, 3)), [1, -2, 3]), tmp_path, format=form)
    weights, _ = weight_tensors(prepared, "channel")
    clips = {weight.name: weight.largest for weight in weights}
    assert written_scales(int8, prepared, weights, clips, Scheme()).keys() == {"w"}
    model = onnx.load_from_string(int8)
    (damaged,) = (stored for stored in model.graph.initializer if stored.name == tensor)
    values = numpy_helper.to_array(damaged)
    limits = np.iinfo(np.int32)
    wrong = np.clip(values * float(value), limits.min, limits.max).astype(values.dtype)
    damaged.CopyFrom(numpy_helper.from_array(wrong, tensor))
    with pytest.raises(ModelError, match=message):
        written_scales(model.SerializeToString(), prepared, weights, clips, Scheme())


def test_the_digits_classifier_in_qoperator_form(export):
    path, sidecar = export("fault-aware", "channel", "qoperator", format="qoperator")
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert {"QLinearConv", "QGemm"} <= {node.op_type for node in model.graph.node}
    assert sidecar["quantization"]["format"] == "qoperator"
    assert sidecar["accuracy"]["int8"]["value"] > sidecar["accuracy"]["float"]["value"] - 0.05
    qdq = export("fault-aware", "channel")[1]
    assert sidecar["adjustments"] == qdq["adjustments"]


def test_pooling_between_integer_operators(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("AveragePool", ["s"], ["y"], kernel_shape=[2, 2]),
    ]
    model = build(nodes, {"w": RNG.normal(size=(3, 4, 3, 3)), "b": np.ones(3)})
    int8, _, _, _ = written_from(model, tmp_path, ranges="mse", format="qoperator")
    assert "QLinearAveragePool" in {node.op_type for node in onnx.load_from_string(int8).graph.node}


def test_under_minmax_an_enlarged_scale_is_told(tmp_path):
    _, said, _, _ = written_from(tiny_channel(), tmp_path)
    (entry,) = said["tensors"]
    assert [place["channel"] for place in entry["scales"]["differ"]] == [1]
    assert entry["clipped_share"] == 0


def test_a_scale_that_stays_enlarged_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_ranges, "_ATTEMPTS", 1)
    with pytest.raises(ModelError, match=r"enlarges the scale of the weights 'w'.* --ranges minmax"):
        written_from(tiny_channel(), tmp_path, ranges="mse")


def test_codes_off_the_grid_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_ranges, "clip_weights", lambda model, *_: model)  # the quantizer then writes -128
    weights = np.random.default_rng(8).normal(size=(3, 4, 3, 3))
    weights[:, 0, 0, 0] = -9
    with pytest.raises(ModelError, match="other codes of the weights 'w'"):
        written_from(convolution(weights, [0, 0, 0]), tmp_path, ranges="fault-aware")


RNG = np.random.default_rng(9)
FLATTEN = helper.make_node("Flatten", ["x"], ["f"])


def dense(operator, shape, *, bias=False, **attributes):
    tensors = {"w": RNG.normal(size=shape), **({"b": np.ones(5)} if bias else {})}
    return build([FLATTEN, helper.make_node(operator, ["f", *tensors], ["y"], **attributes)], tensors)


def filters(*shape, **attributes):
    return convolution(RNG.normal(size=shape), np.ones(shape[0]), **attributes)


def dead_channel():
    weights = RNG.normal(size=(3, 4, 3, 3))
    weights[1] = 0
    return convolution(weights, np.ones(3))


def shared():
    """Two convolutions with the same weights."""
    first = helper.make_node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1])
    return build([first, helper.make_node("Conv", ["h", "w"], ["y"])], {"w": RNG.normal(size=(4, 4, 3, 3))})


def batched():
    return build([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": RNG.normal(size=(4, 6, 5))})


LAYERS = {
    "depthwise": (filters(4, 1, 3, 3, group=4), 0),
    "grouped": (filters(6, 2, 3, 3, group=2), 0),
    "pointwise": (filters(6, 4, 1, 1), 0),
    "dead channel": (dead_channel(), 0),
    "gemm": (dense("Gemm", (144, 5), bias=True), 1),
    "gemm transposed": (dense("Gemm", (5, 144), bias=True, transB=1), 0),
    "gemm without bias": (dense("Gemm", (144, 5)), 1),
    "matmul": (dense("MatMul", (144, 5)), 1),
    "matmul of a vector": (dense("MatMul", 144), None),
    "matmul of a batch": (batched(), 1),
    "shared": (shared(), 0),
}
NO_MATRIX = {"matmul of a vector", "matmul of a batch"}


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("layer", LAYERS)
def test_every_kind_of_layer_gets_its_ranges(tmp_path, layer, granularity, form):
    model, axis = LAYERS[layer]
    scheme = {"ranges": "fault-aware", "granularity": granularity, "format": form}
    if layer in NO_MATRIX and (form, granularity) == ("qoperator", "channel"):
        with pytest.raises(ModelError, match=r"'w' are no matrix.*--granularity tensor or --format qdq"):
            written_from(model, tmp_path, **scheme)
        return
    int8, said, prepared, images = written_from(model, tmp_path, **scheme)
    (entry,) = said["tensors"]
    axis = axis if granularity == "channel" else None
    assert entry["axis"] == axis
    assert entry["scales"]["differ"] == []
    (values,) = (weight.values for weight in weight_tensors(prepared, granularity)[0])
    clip = best_clip(values, axis=axis, ber=1e-3)
    scale = np.where(clip > 0, clip / np.float32(127), np.float32(1)).astype(np.float32)
    assert stored(int8)[f"{entry['tensor']}_scale"].tobytes() == scale.tobytes()
    onnxruntime.InferenceSession(int8, providers=["CPUExecutionProvider"]).run(None, {"x": images})


def test_weights_with_other_readers_keep_minmax_ranges(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Mul", ["w", "x"], ["m"]),
        helper.make_node("ReduceMean", ["m"], ["k"]),
        helper.make_node("Add", ["c", "k"], ["y"]),
    ]
    model = build(nodes, {"w": RNG.normal(size=(1, 4, 6, 6))})
    _, said, _, _ = written_from(model, tmp_path, ranges="fault-aware")
    assert said["tensors"] == []
    assert said["not_adjusted"] == ["w"]


def test_gemm_with_beta_keeps_its_bias(tmp_path):
    gemm = helper.make_node("Gemm", ["f", "w", "b"], ["y"], beta=2.0)
    model = build([FLATTEN, gemm], {"w": RNG.normal(size=(144, 5)), "b": [100, 200, 300, 400, 500]})
    int8, _, prepared, images = written_from(model, tmp_path)
    expected, got = (Session(data, Deployment(threads=1)).run(images) for data in (prepared.SerializeToString(), int8))
    np.testing.assert_allclose(got, expected, atol=10)  # the bias left at half would be off by 100 and more


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path):
    with pytest.raises(ModelError, match="the weights 'w' are empty or not finite"):
        written_from(convolution(np.full((3, 4, 3, 3), np.nan), np.ones(3)), tmp_path)


def test_a_model_without_chains_or_layers_is_written_as_it_is(tmp_path):
    model = build([helper.make_node("Relu", ["x"], ["y"])], {})
    onnx.save(model, tmp_path / "float.onnx")
    prepared = prepare_float_model(tmp_path / "float.onnx")
    spec = Session(prepared.SerializeToString(), Deployment(threads=1)).input
    calibration = Split(images=RNG.uniform(size=(4, 4, 6, 6)).astype(np.float32), labels=np.zeros(4, np.int64))
    scheme = Scheme(equalize=True, bias_correction=True)
    int8, said = write_adjusted(prepared, calibration, spec, scheme)
    assert int8 == write_adjusted(prepared, calibration, spec, Scheme())[0]
    assert said["equalization"]["pairs"] == said["bias_correction"]["layers"] == []
    assert said["bias_correction"]["before"] == said["bias_correction"]["after"]
