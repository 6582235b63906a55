"""Old files, and files asked for in another opset, are exported with the computation they had."""

import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session
from resq_deploy.errors import ModelError, OptionError
from resq_deploy.quantization import opset as opset_module
from resq_deploy.quantization.float_model import prepare_float_model
from resq_deploy.quantization.opset import check_opset, convert_opset, newest_opset

RNG = np.random.default_rng(3)
IMAGES = RNG.random((5, 3, 16, 16)).astype(np.float32)
OLD = (9, 10, 11, 12)


def parameters():
    """Weights of a convolution, a batch normalisation, and a linear layer over 8 channels."""
    rng = np.random.default_rng(4)
    return {
        "w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "gain": rng.uniform(0.5, 2, 8).astype(np.float32),
        "shift": rng.normal(size=8).astype(np.float32),
        "mean": rng.normal(size=8).astype(np.float32),
        "var": rng.uniform(0.5, 2, 8).astype(np.float32),
        "v": rng.normal(size=(8, 10)).astype(np.float32),
        "b": rng.normal(size=10).astype(np.float32),
    }


def classifier(opset, *, ir=None, batch="N", extra=(), storage="initializers", dtype=np.float32):
    """Conv, batch-norm, Relu, pooling, Gemm, and what `extra` puts at the end, as third parties store it."""
    tensors = {name: value.astype(dtype) for name, value in parameters().items()}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "gain", "shift", "mean", "var"], ["n"], "norm"),
        helper.make_node("Relu", ["n"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "v", "b"], ["g"], "fc"),
        *(extra or [helper.make_node("Identity", ["g"], ["y"])]),
    ]
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    stored = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    inputs = [helper.make_tensor_value_info("x", element, [batch, 3, 16, 16])]
    if storage == "inputs":  # before IR version 4, every stored tensor had to be an input as well
        inputs += [helper.make_tensor_value_info(name, element, value.shape) for name, value in tensors.items()]
    if storage == "constants":
        nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in stored] + nodes
        stored = []
    outputs = [helper.make_tensor_value_info("y", element, [batch, "classes"])]
    graph = helper.make_graph(nodes, "old", inputs, outputs, stored)
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir or helper.find_min_ir_version_for(imports))


def opset_of(model):
    (version,) = (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return version


def answers(model, images=IMAGES):
    return Session(model.SerializeToString(), Deployment()).run(images)


def prepared(model, tmp_path, opset=None, **how):
    onnx.save(model, tmp_path / "float.onnx", **how)
    return prepare_float_model(tmp_path / "float.onnx", opset)


@pytest.mark.parametrize("storage", ["initializers", "inputs", "constants"])
@pytest.mark.parametrize("opset", OLD)
def test_old_files_come_to_opset_13(tmp_path, opset, storage):
    model = classifier(opset, ir={9: 3}.get(opset, 4) if storage == "inputs" else 4, storage=storage)
    ready = prepared(model, tmp_path)
    assert opset_of(ready) == 13
    assert ready.ir_version >= 4
    assert [value.name for value in ready.graph.input] == ["x"]
    assert "BatchNormalization" not in {node.op_type for node in ready.graph.node}
    np.testing.assert_allclose(answers(ready), answers(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("opset", [13, 16, 18])
def test_files_from_13_up_stay_in_their_opset(opset):
    model = classifier(opset)
    assert convert_opset(model, None) is model
    assert convert_opset(model, opset) is model


@pytest.mark.parametrize("target", [13, 15, 18, 21])
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_any_opset_that_was_asked_for(opset, target):
    model = classifier(opset)
    before = model.SerializeToString()
    converted = convert_opset(model, target)
    assert opset_of(converted) == target
    onnx.checker.check_model(converted, full_check=True)
    np.testing.assert_allclose(answers(converted), answers(model), rtol=1e-4, atol=1e-4)
    assert model.SerializeToString() == before


def test_going_down_lowers_the_ir_version():
    model = classifier(18)
    model.ir_version = 10
    assert convert_opset(model, 13).ir_version == helper.find_min_ir_version_for([helper.make_opsetid("", 13)])


def test_the_newest_opset_runs_and_the_next_is_refused():
    assert 18 <= newest_opset() <= onnx.defs.onnx_opset_version()
    assert opset_of(convert_opset(classifier(18), newest_opset())) == newest_opset()
    for opset in (12, 0, -1, newest_opset() + 1):
        with pytest.raises(OptionError, match=rf"--opset {opset}: give one from 13 to {newest_opset()}"):
            check_opset(opset)
    check_opset(None)


def softmax(**attributes):
    return [helper.make_node("Softmax", ["g"], ["y"], **attributes)]


OLD_MEANINGS = {  # operators whose form or meaning changed in opset 10 to 13
    "softmax over all axes from 1": [
        helper.make_node("Softmax", ["r"], ["s"]),
        helper.make_node("Flatten", ["s"], ["y"]),
    ],
    "clip with attributes": [helper.make_node("Clip", ["g"], ["y"], min=-1.0, max=1.0)],
    "squeeze with attributes": [
        helper.make_node("Unsqueeze", ["g"], ["u"], axes=[2]),
        helper.make_node("Squeeze", ["u"], ["y"], axes=[2]),
    ],
    "sum with attributes": [helper.make_node("ReduceSum", ["r"], ["y"], axes=[2, 3], keepdims=0)],
    "pad with attributes": [
        helper.make_node("Pad", ["r"], ["q"], pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5),
        helper.make_node("ReduceMean", ["q"], ["y"], axes=[2, 3], keepdims=0),
    ],
    "dropout": [helper.make_node("Dropout", ["g"], ["y"], ratio=0.3)],
}


@pytest.mark.parametrize("target", [13, 18])
@pytest.mark.parametrize("meaning", OLD_MEANINGS)
def test_operators_keep_their_old_meaning(meaning, target):
    model = classifier(10 if "clip" in meaning or "pad" in meaning else 11, extra=OLD_MEANINGS[meaning])
    np.testing.assert_allclose(answers(convert_opset(model, target)), answers(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", [13, 18, newest_opset()])
@pytest.mark.parametrize(
    "kind", ["cnn", "functions", "passed_on", "typed_storage", "overridable", "nhwc_uint8", "indices"]
)
def test_files_of_others_compute_the_same(model_file, models, kind, target):
    """These do not say what shape their outputs have, which onnx's checker asks for and onnxruntime does not."""
    ready = prepare_float_model(model_file(kind), target)
    assert opset_of(ready) == target
    images = models.images(4, kind)
    np.testing.assert_allclose(
        answers(ready, images), answers(onnx.load(model_file(kind)), images), rtol=1e-5, atol=1e-6
    )


def test_an_operator_newer_than_the_opset_is_named():
    extra = [helper.make_node("Gelu", ["g"], ["y"])]
    with pytest.raises(ModelError, match=r"opset 13, which has no operator Gelu: give --opset 20 or higher"):
        convert_opset(classifier(20, extra=extra), 13)


def test_what_onnx_has_no_rule_for_is_named(monkeypatch):
    def refuse(*_):
        raise RuntimeError(
            "adapter_lookup: Assertion `false` failed: No Adapter From Version $17 for GroupNormalization"
        )

    monkeypatch.setattr(opset_module.version_converter, "convert_version", refuse)
    with pytest.raises(ModelError, match=r"to opset 21 \(onnx .* has no rule for GroupNormalization\): export it anew"):
        convert_opset(classifier(18), 21)


def test_a_conversion_that_changes_the_logits_is_refused(monkeypatch):
    original = opset_module.version_converter.convert_version

    def wrong(model, target):
        converted = original(model, target)
        (bias,) = (tensor for tensor in converted.graph.initializer if tensor.name == "b")
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1), "b"))
        return converted

    monkeypatch.setattr(opset_module.version_converter, "convert_version", wrong)
    with pytest.raises(ModelError, match="cannot be converted to opset 18, which changes the logits by up to"):
        convert_opset(classifier(11), 18)


def shaped(name, *values):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(values, np.int64), name))


NEW_FORMS = {  # what newer opsets added: opset, nodes, the nodes' attributes in opset 13
    "axes of a mean as an input": (
        18,
        [
            shaped("axes", 2, 3),
            helper.make_node("ReduceMean", ["r", "axes"], ["y"], keepdims=0, noop_with_empty_axes=0),
        ],
        {"axes": [2, 3], "keepdims": 0},
    ),
    "a shape without zeros": (
        18,
        [shaped("shape", -1, 10), helper.make_node("Reshape", ["g", "shape"], ["y"], allowzero=1)],
        {},
    ),
    "a reshape of what is there": (
        14,
        [shaped("shape", 0, -1), helper.make_node("Reshape", ["g", "shape"], ["y"], allowzero=0)],
        {},
    ),
    "a cast": (19, [helper.make_node("Cast", ["g"], ["y"], to=TensorProto.FLOAT, saturate=1)], {"to": 1}),
}


@pytest.mark.parametrize("form", NEW_FORMS)
def test_new_forms_are_written_the_old_way(form):
    opset, extra, attributes = NEW_FORMS[form]
    model = classifier(opset, extra=extra)
    lowered = convert_opset(model, 13)
    onnx.checker.check_model(lowered, full_check=True)
    last = lowered.graph.node[-1]
    assert {entry.name: helper.get_attribute_value(entry) for entry in last.attribute} == attributes
    np.testing.assert_allclose(answers(lowered), answers(model), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("opset", "extra", "least"),
    [
        (18, [shaped("shape", 0, 10), helper.make_node("Reshape", ["g", "shape"], ["y"], allowzero=1)], 14),
        (18, [helper.make_node("Split", ["g"], ["y", "z"], num_outputs=2)], 18),
        (18, [shaped("axes", 1), shaped("p", 1, 1), helper.make_node("Pad", ["g", "p", "", "axes"], ["y"])], 18),
    ],
    ids=["zeros that are meant", "a number of parts", "axes of a padding"],
)
def test_new_forms_without_an_old_way_are_named(opset, extra, least):
    model = classifier(opset, extra=extra)
    with pytest.raises(
        ModelError, match=rf"to opset 13, whose {extra[-1].op_type} is .*: give --opset {least} or high"
    ):
        convert_opset(model, 13)


def test_open_sizes_are_tried_out():
    model = classifier(11, batch="N")
    for place in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[place].dim_param = f"size{place}"
    assert opset_of(convert_opset(model, 13)) == 13


def test_a_model_that_cannot_be_tried_out_is_refused():
    extra = [shaped("shape", -1, 7), helper.make_node("Reshape", ["r", "shape"], ["y"])]
    with pytest.raises(ModelError, match="cannot be converted, since it does not run on images made up"):
        convert_opset(classifier(11, extra=extra), 13)


def test_a_fixed_batch_and_external_data(tmp_path):
    model = classifier(10, batch=2)
    ready = prepared(model, tmp_path, save_as_external_data=True, location="weights", size_threshold=0)
    assert (tmp_path / "weights").stat().st_size > 1000
    assert ready.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    np.testing.assert_allclose(answers(ready), answers(classifier(10, batch=2)), rtol=1e-4, atol=1e-4)


def test_operators_of_onnxruntime_pass(tmp_path):
    extra = [helper.make_node("Gelu", ["g"], ["y"], domain="com.microsoft")]
    model = classifier(12, extra=extra)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    ready = prepared(model, tmp_path)
    assert opset_of(ready) == 13
    np.testing.assert_allclose(answers(ready), answers(model), rtol=1e-4, atol=1e-5)


def half_inside():
    """Takes float32, computes in float16."""
    model = classifier(13, dtype=np.float16)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("in", TensorProto.FLOAT, ["N", 3, 16, 16]))
    model.graph.node.insert(0, helper.make_node("Cast", ["in"], ["x"], to=TensorProto.FLOAT16))
    return model


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (classifier(13, dtype=np.float16), "float16"),
        (classifier(12, dtype=np.float16, storage="constants"), "float16"),
        (half_inside(), "float16"),
        (classifier(13, dtype=np.float64), "double"),
    ],
    ids=["float16", "float16 in constants", "float16 inside", "float64"],
)
def test_models_that_are_not_float32_are_one_line(tmp_path, model, kind):
    with pytest.raises(ModelError, match=rf"float.onnx computes in {kind} .*: give the float32 model") as refused:
        prepared(model, tmp_path)
    assert "\n" not in str(refused.value)


class Calibration(CalibrationDataReader):
    def __init__(self):
        self._rest = iter([{"x": IMAGES}])

    def get_next(self):
        return next(self._rest, None)


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("opset", [13, 17, 21, newest_opset()])
def test_the_int8_file_has_the_opset_too(tmp_path, opset, form):
    logging.getLogger().setLevel(logging.ERROR)  # the quantizer is talkative
    ready = prepared(classifier(18), tmp_path, opset)
    expected = answers(ready)
    quantize_static(
        ready,
        str(tmp_path / "int8.onnx"),
        Calibration(),
        quant_format=QuantFormat[form],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    int8 = onnx.load(tmp_path / "int8.onnx")
    assert opset_of(int8) == opset
    onnx.checker.check_model(int8)
    assert np.abs(answers(int8) - expected).max() < 0.05 * np.abs(expected).max()


def test_unused_domains_are_not_carried_along(tmp_path):
    ready = prepared(classifier(13), tmp_path)
    assert [(entry.domain, entry.version) for entry in ready.opset_import] == [("", 13)]


def test_the_file_is_named_where_it_cannot_be_converted(tmp_path):
    extra = [helper.make_node("Gelu", ["g"], ["y"])]
    with pytest.raises(ModelError, match=r"float.onnx cannot be converted to opset 13, which has no operator Gelu"):
        prepared(classifier(20, extra=extra), tmp_path, 13)
