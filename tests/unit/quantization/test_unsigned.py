"""uint8 weights: the codes of the int8 file plus 128, answering bit for bit as that does."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.data import load_dataset
from resq_deploy.data.dataset import Split
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.integer_share import integer_share
from resq_deploy.deployed.session import Session
from resq_deploy.errors import ModelError, OptionError
from resq_deploy.protection.guards import guard, obstacles
from resq_deploy.quantization.adjust import write_adjusted
from resq_deploy.quantization.export import ExportOptions, export_int8
from resq_deploy.quantization.float_model import prepare_float_model
from resq_deploy.quantization.readback import written_scales
from resq_deploy.quantization.scheme import GRANULARITIES, STATIC_FORMATS, Scheme
from resq_deploy.quantization.unsigned import store_as_uint8
from resq_deploy.quantization.weights import weight_tensors

FORMS = list(itertools.product(STATIC_FORMATS, GRANULARITIES))
LEVELS = ("all", "extended", "basic", "none")
TYPES = ("int8", "uint8")
ADJUSTMENTS = {
    "plain": {},
    "guarded": {"guard": "parameters"},
    "fault-aware": {"ranges": "fault-aware", "bias_correction": True, "activation_percentile": "auto"},
    "least squares, equalized": {"ranges": "mse", "equalize": True, "guard": "auto"},
}


def tensors(data):
    return {tensor.name: tensor for tensor in onnx.load_from_string(data).graph.initializer}


def logits(data, images, **deployment):
    session = Session(data, Deployment(**deployment))
    return session.run(session.input.prepare(images))


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.mark.parametrize(("form", "granularity"), FORMS)
@pytest.mark.parametrize("adjusted", ADJUSTMENTS)
def test_the_same_file_but_for_the_type(digits_float, digits, form, granularity, adjusted):
    made = {}
    for weight_type in TYPES:
        options = ExportOptions(
            format=form,
            granularity=granularity,
            weight_type=weight_type,
            calibration_images=60,
            test_images=60,
            **ADJUSTMENTS[adjusted],
        )
        made[weight_type] = export_int8(digits_float, digits, options, described="test")
    signed, unsigned = (tensors(made[weight_type].int8_file) for weight_type in TYPES)
    assert list(signed) == list(unsigned)
    changed = [name for name in signed if signed[name] != unsigned[name]]
    assert {signed[name].data_type for name in changed} == {TensorProto.INT8}
    assert not any(tensor.data_type == TensorProto.INT8 for tensor in unsigned.values())
    copies = 3 if "guard" in ADJUSTMENTS[adjusted] else 1
    assert 4 <= len(changed) <= 4 * copies  # two layers: codes and zero points
    for name in changed:
        before, after = numpy_helper.to_array(signed[name]), numpy_helper.to_array(unsigned[name])
        assert after.dtype == np.uint8
        np.testing.assert_array_equal(after.astype(np.int16), before.astype(np.int16) + 128)
        assert after.min() >= 1
    for level in LEVELS:
        ours, theirs = (
            logits(made[weight_type].int8_file, digits.test.images, optimization=level) for weight_type in TYPES
        )
        assert ours.tobytes() == theirs.tobytes(), level
        first = digits.test.images[:1].transpose(0, 3, 1, 2).astype(np.float32)
        ours, theirs = (
            integer_share(made[weight_type].int8_file, Deployment(optimization=level), first) for weight_type in TYPES
        )
        assert ours == theirs, level
    sidecars = [made[weight_type].sidecar for weight_type in TYPES]
    assert [sidecar["quantization"].pop("weights") for sidecar in sidecars] == list(TYPES)
    assert [bool(sidecar.pop("native")["layers"]) for sidecar in sidecars] == [True, False]  # what may saturate
    for sidecar in sidecars:  # the files have other digests, and the machine's clock goes on
        del sidecar["provenance"]
    assert sidecars[0] == sidecars[1]


def test_the_minmax_file_that_gates_hold_it_against_has_the_type_too(digits_float, digits):
    options = ExportOptions(ranges="mse", weight_type="uint8", calibration_images=20, test_images=20)
    file = export_int8(digits_float, digits, options, described="test").minmax_file()
    types = {tensor.data_type for name, tensor in tensors(file).items() if name.endswith("weight_quantized")}
    assert types == {TensorProto.UINT8}


def stored(name, *shape, seed=0):
    values = np.random.default_rng([seed, *shape]).normal(size=shape) * 0.4
    return numpy_helper.from_array(values.astype(np.float32), name)


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs.split(), [output], name=output, **attributes)


def motley():
    """Of what others export: transposed, grouped and depthwise convolutions, a weight two layers share, tables."""
    nodes = [
        node("ConvTranspose", "x wt bt", "up", strides=[2, 2]),
        node("Conv", "up wd", "deep", group=4, pads=[1, 1, 1, 1]),
        node("Conv", "deep wg bg", "grouped", group=2),
        node("Add", "grouped table", "placed"),
        node("Mul", "placed gains", "scaled"),
        node("LeakyRelu", "scaled", "active"),
        node("GlobalAveragePool", "active", "mean"),
        node("Flatten", "mean", "flat"),
        node("Gemm", "flat w1 b1", "h", transB=1),
        node("MatMul", "h w2", "first"),
        node("MatMul", "first w2", "second"),
        node("Gather", "words rows", "chosen", axis=0),
        node("MatMul", "second chosen", "third"),
        node("MatMul", "third left_t", "fourth"),
        node("Transpose", "left", "left_t", perm=[1, 0]),
        node("Gemm", "fourth w3 b3", "y", alpha=0.5, beta=2.0),
    ]
    shapes = {
        "wt": (3, 4, 2, 2), "bt": (4,), "wd": (4, 1, 3, 3), "wg": (6, 2, 3, 3), "bg": (6,), "table": (1, 6, 14, 14),
        "gains": (6, 1, 1), "w1": (5, 6), "b1": (5,), "w2": (5, 5), "words": (9, 5), "left": (5, 5), "w3": (5, 5),
        "b3": (5,),
    }  # fmt: skip
    rows = numpy_helper.from_array(np.array([3, 1, 4, 0, 5], np.int64), "rows")
    graph = helper.make_graph(
        nodes,
        "motley",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [*(stored(name, *shape) for name, shape in shapes.items()), rows],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("form", "granularity"), FORMS)
def test_files_that_others_export(tmp_path, form, granularity):
    onnx.save(motley(), tmp_path / "motley.onnx")
    model = prepare_float_model(tmp_path / "motley.onnx")
    rng = np.random.default_rng(1)
    images = rng.random((40, 3, 8, 8), dtype=np.float32) * rng.random((40, 3, 1, 1), dtype=np.float32)
    calibration = Split(images=images[:20], labels=np.zeros(20, np.int64))
    spec = Session(model.SerializeToString(), Deployment()).input
    schemes = [Scheme(format=form, granularity=granularity, weight_type=weight_type) for weight_type in TYPES]
    files = [write_adjusted(model, calibration, spec, scheme)[0] for scheme in schemes]
    assert not any(tensor.data_type == TensorProto.INT8 for tensor in tensors(files[1]).values())
    names = [name for name in tensors(files[0]) if not obstacles(onnx.load_from_string(files[0]), [name])]
    for pair in (files, [guard(file, names) for file in files]):
        for level in LEVELS:
            deployment = Deployment(optimization=level)
            ours, theirs = (logits(file, images, optimization=level) for file in pair)
            assert ours.tobytes() == theirs.tobytes(), level
            assert len(np.unique(ours, axis=0)) > 10
            ours, theirs = (integer_share(file, deployment, images[:1]) for file in pair)
            assert ours == theirs, level


@pytest.fixture
def written(tmp_path):
    """A Gemm, quantized: QDQ or QOperator, as a model to be changed, and the float model."""

    def write(form):
        weights = [stored("w", 5, 3, seed=2), stored("b", 5, seed=3)]
        nodes = [
            node("GlobalAveragePool", "x", "mean"),
            node("Flatten", "mean", "flat"),
            node("Gemm", "flat w b", "y", transB=1),
        ]
        graph = helper.make_graph(
            nodes,
            "gemm",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
            weights,
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "f")
        model = prepare_float_model(tmp_path / "f")
        images = np.random.default_rng(1).random((8, 3, 8, 8), dtype=np.float32)
        spec = Session(model.SerializeToString(), Deployment()).input
        calibration = Split(images=images, labels=np.zeros(8, np.int64))
        return onnx.load_from_string(write_adjusted(model, calibration, spec, Scheme(format=form))[0]), model

    return write


@pytest.mark.parametrize("form", STATIC_FORMATS)
def test_codes_that_are_read_otherwise_as_well_are_refused(written, form):
    model, _ = written(form)
    model.graph.node.append(helper.make_node("Cast", ["w_quantized"], ["other"], name="caster", to=TensorProto.FLOAT))
    with pytest.raises(ModelError, match=r"^the weights of node 'caster' cannot be stored as uint8 \(it reads 'w_q"):
        store_as_uint8(model)


@pytest.mark.parametrize("form", STATIC_FORMATS)
def test_a_zero_point_of_something_that_is_not_stored_is_refused(written, form):
    model, _ = written(form)
    model.graph.node.insert(0, helper.make_node("Identity", ["w_quantized"], ["passed"]))
    (reader,) = (node for node in model.graph.node if "w_zero_point" in node.input)
    reader.input[list(reader.input).index("w_quantized")] = "passed"
    with pytest.raises(ModelError, match=r"'passed' is int8, but not stored\): export with --weight-type int8"):
        store_as_uint8(model)


def test_other_int8_tensors_stay_as_they_are(written):
    model, _ = written("qdq")
    model.graph.initializer.append(numpy_helper.from_array(np.array([-3, 4], np.int8), "mine"))
    model.graph.node.append(helper.make_node("Cast", ["mine"], ["other"], to=TensorProto.FLOAT))
    store_as_uint8(model)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds["mine"] == TensorProto.INT8
    assert kinds["w_quantized"] == kinds["w_zero_point"] == TensorProto.UINT8


@pytest.mark.parametrize("form", STATIC_FORMATS)
@pytest.mark.parametrize("damage", ["none", "zero points", "codes", "type"])
def test_what_was_written_is_read_back(written, form, damage):
    model, source = written(form)
    if damage != "type":
        store_as_uint8(model)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if (damage, tensor.name) in (("zero points", "w_zero_point"), ("codes", "w_quantized")):
            values.reshape(-1)[-1] ^= 1
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    weights, _ = weight_tensors(source, "channel")
    clips = {weight.name: weight.largest for weight in weights}

    def read():
        return written_scales(model.SerializeToString(), source, weights, clips, Scheme(weight_type="uint8"))

    if damage == "none":
        assert read().keys() == {"w"}
    else:
        with pytest.raises(ModelError, match="other codes of the weights 'w' than their grid has"):
            read()


def test_seven_bits_are_for_int8_alone():
    with pytest.raises(
        OptionError, match=r"^--reduce-range is for int8 weights: uint8 ones saturate nowhere"
    ) as caught:
        Scheme(weight_type="uint8", reduce_range=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(OptionError, match="--weight-type int4: give one of int8, uint8"):
        Scheme(weight_type="int4")
