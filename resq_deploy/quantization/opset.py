"""Bringing a float model to an operator set, before it is quantized.

The quantizer writes a scale per channel from opset 13 on, so older files are brought there; a newer or older set can be
asked for, since an int8 file has to run on the onnxruntime of its device. Upward onnx converts. Downward it has rules
for few operators (none for Sub), though most of what changed is the types they take besides float32: there the nodes
are kept as they are, without the attributes that an older set does not know yet and that say nothing new. Whatever
was done, the logits are held against those of the original.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, version_converter

from resq_deploy.deployed.deployment import Deployment, create
from resq_deploy.deployed.graph import graphs, stored_tensors
from resq_deploy.deployed.runtime_errors import RUNTIME_ERRORS, first_line
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.synthetic import synthetic_inputs
from resq_deploy.errors import ModelError, OptionError

LOWEST = 13
"""The first opset whose QuantizeLinear and DequantizeLinear know channels."""

DECODER = 18
"""From which on decoders of codes are smaller, and made ready faster."""

_DOMAINS = ("", "ai.onnx")
_LEAST_IR = 4  # from here on stored tensors need not be graph inputs
_TRIAL_SIZES = (64, 224, 32)  # for what the model leaves open
_TRIAL_IMAGES = 2
_REFUSALS: tuple[type[Exception], ...] = (ModelError, *RUNTIME_ERRORS)
_TOLERANCE = 1e-3
"""Largest difference of a logit after conversion, as a share of the largest logit."""


@functools.cache
def newest_opset() -> int:
    """Return the newest opset that onnx knows and onnxruntime runs quantized models of, by trying."""
    for opset in range(onnx.defs.onnx_opset_version(), LOWEST, -1):
        try:
            create(_trial(opset), Deployment())
        except ModelError:
            continue
        return opset
    return LOWEST


def check_opset(opset: int | None) -> None:
    """Check what `--opset` says.

    Raises:
        OptionError: if onnxruntime has no such opset, or the quantizer cannot write it.
    """
    if opset is not None and not LOWEST <= opset <= newest_opset():
        raise OptionError(f"--opset {opset}: give one from {LOWEST} to {newest_opset()}, which onnxruntime runs here")


def convert_opset(model: onnx.ModelProto, opset: int | None, least: int = LOWEST) -> onnx.ModelProto:
    """Return a model in another opset; the model itself where it is in that one.

    Args:
        model: a float model without sparse tensors, functions or external data; not changed.
        opset: the opset, one that `check_opset` lets pass; None keeps that of the model, but for those before `least`.
        least: the least opset to choose.

    Raises:
        OptionError: if the opset cannot be written.
        ModelError: if onnx cannot convert the model, or changes what it computes.
    """
    check_opset(opset)
    current = _opset_of(model)
    target = max(current, least) if opset is None else opset
    if target == current:
        return model
    _check_operators(model, target)
    converted = _lowered(model, current, target) if target < current else _raised(model, target)
    least = helper.find_min_ir_version_for(list(converted.opset_import), ignore_unknown=True)
    converted.ir_version = max(least, _LEAST_IR)
    _check_same(model, converted, target)
    return converted


def _trial(opset: int) -> bytes:
    """Return a model that quantizes and dequantizes its input."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "trial",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 1])],
        [
            helper.make_tensor("scale", onnx.TensorProto.FLOAT, [], [1.0]),
            helper.make_tensor("zero", onnx.TensorProto.UINT8, [], [0]),
        ],
    )
    imports = [helper.make_opsetid("", opset)]
    least = helper.find_min_ir_version_for(imports, ignore_unknown=True)
    serialised: bytes = helper.make_model(graph, opset_imports=imports, ir_version=least).SerializeToString()
    return serialised


def _opset_of(model: onnx.ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in _DOMAINS]
    if not versions:
        raise ModelError("the model names no ONNX opset: export it anew")
    return int(versions[0])


def _own_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes of ONNX's own operators."""
    return [node for graph in graphs(model.graph) for node in graph.node if node.domain in _DOMAINS]


def _since(node: onnx.NodeProto, opset: int) -> int | None:
    """Return since when an operator has been what it is in an opset; None if it is not in it."""
    try:
        return int(onnx.defs.get_schema(node.op_type, opset, "").since_version)
    except onnx.defs.SchemaError:
        return None


def _check_operators(model: onnx.ModelProto, target: int) -> None:
    """Check that an opset has every operator of a model.

    Raises:
        ModelError: naming the operator that is the newest.
    """
    absent = {node.op_type for node in _own_nodes(model) if _since(node, target) is None}
    began = {
        schema.name: schema.since_version
        for schema in sorted(onnx.defs.get_all_schemas_with_history(), key=lambda schema: -schema.since_version)
        if schema.domain == "" and schema.name in absent
    }
    if absent:
        newest = max(sorted(absent), key=lambda name: began.get(name, 0))
        least = began.get(newest)
        mend = f"give --opset {least} or higher" if least and least > target else "export it anew"
        raise ModelError(f"cannot be converted to opset {target}, which has no operator {newest}: {mend}")


def _raised(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
    try:
        return version_converter.convert_version(model, target)
    except Exception as error:  # onnx raises its own C++ types here
        found = re.search(r"No [Aa]dapter.* for (\w+)", str(error))
        reason = f"onnx {onnx.__version__} has no rule for {found[1]}" if found else first_line(error)
        raise ModelError(f"cannot be converted to opset {target} ({reason}): export it anew in that opset") from error


def _lowered(model: onnx.ModelProto, current: int, target: int) -> onnx.ModelProto:
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    axes = {
        name: tensor for tensor, name in stored_tensors(lowered.graph) if tensor.data_type == onnx.TensorProto.INT64
    }
    for node in _own_nodes(lowered):
        if not _lower(node, current, target, axes):
            raise ModelError(
                f"cannot be converted to opset {target}, whose {node.op_type} is another than that of opset {current}: "
                f"give --opset {_since(node, current)} or higher"
            )
    next(entry for entry in lowered.opset_import if entry.domain in _DOMAINS).version = target
    read = {name for graph in graphs(lowered.graph) for node in graph.node for name in node.input}
    read.update(value.name for value in lowered.graph.output)
    for tensor in [tensor for tensor in lowered.graph.initializer if tensor.name not in read]:
        lowered.graph.initializer.remove(tensor)  # axes that have become an attribute
    return lowered


def _lower(node: onnx.NodeProto, current: int, target: int, stored: Mapping[str, onnx.TensorProto]) -> bool:
    """Bring a node to an older opset, and return whether it could be."""
    new, old = (onnx.defs.get_schema(node.op_type, opset, "") for opset in (current, target))
    for attribute in [attribute for attribute in node.attribute if attribute.name not in old.attributes]:
        default = helper.get_attribute_value(new.attributes[attribute.name].default_value)
        if helper.get_attribute_value(attribute) != default and not _idle(node, attribute, stored):
            return False
        node.attribute.remove(attribute)
    while node.input and not node.input[-1]:
        node.input.pop()
    if len(node.input) == 2 and old.max_input == 1 and "axes" in old.attributes and node.input[1] in stored:
        axes = numpy_helper.to_array(stored[node.input[1]])
        node.attribute.append(helper.make_attribute("axes", axes.reshape(-1).tolist()))
        node.input.pop()
    return bool(len(node.input) <= old.max_input and len(node.output) <= old.max_output)


def _idle(node: onnx.NodeProto, attribute: onnx.AttributeProto, stored: Mapping[str, onnx.TensorProto]) -> bool:
    """Return whether an attribute changes nothing: whether zeros in a shape are meant, where the shape has none."""
    shape = stored.get(node.input[1]) if attribute.name == "allowzero" else None
    return shape is not None and bool(numpy_helper.to_array(shape).all())


def _check_same(before: onnx.ModelProto, after: onnx.ModelProto, target: int) -> None:
    """Check that both models answer alike to synthetic inputs.

    Raises:
        ModelError: if they do not, or cannot be run.
    """
    deployment = Deployment(optimization="basic")
    session = Session(before.SerializeToString(), deployment)
    inputs, expected = _tried(session)
    try:
        found = Session(after.SerializeToString(), deployment).run(inputs)
    except _REFUSALS as error:
        raise ModelError(f"cannot be converted to opset {target}: {first_line(error)}") from error
    gap = np.abs(expected - found).max() if expected.shape == found.shape else np.inf
    if not gap <= _TOLERANCE * np.abs(expected).max() and not np.array_equal(expected, found, equal_nan=True):
        raise ModelError(
            f"cannot be converted to opset {target}, which changes the logits by up to {gap:.3g}: "
            "export it anew in that opset"
        )


def _tried(session: Session) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Return synthetic inputs of a size that a model runs on, and its logits.

    Raises:
        ModelError: if there is none.
    """
    for size in _TRIAL_SIZES:
        shape = [_TRIAL_IMAGES, *(length or size for length in session.input.shape[1:])]
        inputs = synthetic_inputs(shape, session.input.dtype)
        try:
            return inputs, session.run(inputs)
        except RUNTIME_ERRORS as error:
            reason = first_line(error)
    raise ModelError(f"cannot be converted, since it does not run on images made up to check that by: {reason}")
