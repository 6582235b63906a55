"""Whether the kernels of this CPU compute integer products exactly: tried out, not looked up.

Every operator that multiplies 8-bit integers is run as a tiny layer of its own, with the largest operands there are and
with random ones, for one row and for many (other kernels), once as it is and once with both operands as uint8. Where
the two differ, the form saturates on this CPU. That the uint8 products are right is checked against sums in int64.
"""

import functools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented  # noqa: A004 - its name there

from resq_deploy.deployed.arithmetic import PRODUCTS, Form, made_exact
from resq_deploy.errors import ModelError

FORCE = "RESQ_DEPLOY_REENCODE"
"""Environment variable: `1` has every mixed product computed from uint8 operands, whatever this CPU does. For tests."""

_SIGNED, _UNSIGNED = int(TensorProto.INT8), int(TensorProto.UINT8)
_INNER, _OUTER, _ROWS = 32, 16, (1, 37)
_CONVOLUTIONS = frozenset({"ConvInteger", "QLinearConv"})
_QUANTIZING = frozenset({"DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
_BOTH_MIXTURES = frozenset({"ConvInteger", "MatMulInteger"})
"""Operators that also take an int8 operand on the left and a uint8 one on the right."""

FORMS: tuple[Form, ...] = tuple(
    (operator, *types)
    for operator in PRODUCTS
    for types in ((_UNSIGNED, _SIGNED), (_SIGNED, _UNSIGNED))
    if types[0] == _UNSIGNED or operator in _BOTH_MIXTURES
)
"""Every mixed form that onnxruntime, as of 1.32, has a kernel for; earlier versions lack some."""

Values = dict[str, NDArray[np.generic]]


def saturating(providers: tuple[str, ...]) -> frozenset[Form]:
    """Return the forms that need both operands as uint8 here; every form if the environment asks for it.

    Args:
        providers: onnxruntime execution providers, in order of preference.

    Raises:
        ModelError: if products of uint8 operands are not exact either.
    """
    return frozenset(FORMS) if os.environ.get(FORCE) == "1" else measured(providers)


@functools.cache
def measured(providers: tuple[str, ...]) -> frozenset[Form]:
    """Return the forms whose sums are not those of int32 on this CPU, tried out once a process."""
    return frozenset(form for form in FORMS if any(_differs(form, rows, providers) for rows in _ROWS))


def trials(form: Form, providers: tuple[str, ...]) -> Iterator[tuple[bytes, NDArray[np.generic], NDArray[np.generic]]]:
    """Yield small models of a form, what each is fed, and what exact sums give: others tell that kernels saturate.

    Args:
        form: of a product.
        providers: onnxruntime execution providers, in order of preference.
    """
    for rows in _ROWS:
        model, feeds = _layer(form, rows, True)
        exact = made_exact(model, {form}, lambda _: {})
        if exact is not None:
            yield model.SerializeToString(), feeds["left"], _run(exact, feeds, providers)


def _differs(form: Form, rows: int, providers: tuple[str, ...]) -> bool:
    for extreme in (True, False):
        model, feeds = _layer(form, rows, extreme)
        exact = made_exact(model, {form}, lambda _: {})
        if exact is None:
            raise ModelError(f"the trial of {form[0]} has no product")
        try:
            plain = _run(model, feeds, providers)
        except NotImplemented:
            return False  # this onnxruntime has no such kernel: no file that it runs can saturate there
        right = _run(exact, feeds, providers)
        if form[0] == "MatMulInteger":
            stored = numpy_helper.to_array(model.graph.initializer[0])
            if not np.array_equal(right, feeds["left"].astype(np.int64) @ stored.astype(np.int64)):
                raise ModelError(
                    "onnxruntime's products of uint8 operands are not exact on this CPU: --arithmetic native runs "
                    "files as it does"
                )
        if plain.tobytes() != right.tobytes():
            return True
    return False


def _run(model: onnx.ModelProto, feeds: Values, providers: tuple[str, ...]) -> NDArray[np.generic]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=list(providers))
    return np.asarray(session.run(None, feeds)[0])


def _layer(form: Form, rows: int, extreme: bool) -> tuple[onnx.ModelProto, Values]:
    """Return a model of one layer of a form, with its right operand first among the stored tensors, and its inputs."""
    operator, left, right = form
    source = np.random.default_rng(rows)
    data = _codes(source, _left_shape(operator, rows), left, extreme)
    if operator in _QUANTIZING:  # from 0 to 255, so that each float is its own code
        data = data.astype(np.float32)
        data.reshape(-1)[:2] = (0, 255)
    feeds: Values = {"left": data}
    stored = {"right": _codes(source, _right_shape(operator), right, extreme)}
    stored |= dict(_companions(operator, left, right))
    attributes: dict[str, Any] = {"QAttention": {"num_heads": 2}, "DynamicQuantizeLSTM": {"hidden_size": _OUTER // 4}}
    inputs = {
        "ConvInteger": "left right left_zero right_zero",
        "MatMulInteger": "left right left_zero right_zero",
        "MatMulIntegerToFloat": "left right one one left_zero right_zero",
        "QLinearConv": "left one left_zero right one right_zero coarse left_zero",
        "QLinearMatMul": "left one left_zero right one right_zero coarse left_zero",
        "QGemm": "left one left_zero right one right_zero - coarse left_zero",
        "QAttention": "left right bias fine fine - left_zero right_zero",
        "DynamicQuantizeMatMul": "left right one right_zero",
        "DynamicQuantizeLSTM": "left right again bias - - - - fine right_zero fine right_zero",
    }[operator]
    names = ["" if name == "-" else name for name in inputs.split()]
    domain = "" if operator in ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul") else "com.microsoft"
    node = onnx.helper.make_node(operator, names, ["out"], domain=domain, **attributes.get(operator, {}))
    given = onnx.helper.make_tensor_value_info("left", TensorProto.FLOAT if operator in _QUANTIZING else left, None)
    graph = onnx.helper.make_graph(
        [node],
        "layer",
        [given],
        [onnx.ValueInfoProto(name="out")],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    versions = [onnx.helper.make_opsetid("", 13), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=versions, ir_version=8), feeds


def _left_shape(operator: str, rows: int) -> tuple[int, ...]:
    if operator in _CONVOLUTIONS:
        return (1, _INNER, 1, rows)
    if operator == "QAttention":
        return (1, rows, _INNER)
    return (rows, 1, _INNER) if operator == "DynamicQuantizeLSTM" else (rows, _INNER)


def _right_shape(operator: str) -> tuple[int, ...]:
    if operator in _CONVOLUTIONS:
        return (_OUTER, _INNER, 1, 1)
    if operator == "QAttention":
        return (_INNER, 3 * _INNER)
    return (1, _INNER, _OUTER) if operator == "DynamicQuantizeLSTM" else (_INNER, _OUTER)


def _companions(operator: str, left: int, right: int) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Yield scales, zero points and biases: those that keep sums apart in what the operator makes of them."""
    yield "left_zero", np.zeros((), _dtype(left))
    yield "right_zero", np.zeros((1,) if operator == "DynamicQuantizeLSTM" else (), _dtype(right))
    if operator == "DynamicQuantizeLSTM":
        yield "again", np.zeros((1, _OUTER // 4, _OUTER), _dtype(right))
        yield "bias", np.zeros((1, 2 * _OUTER), np.float32)
        yield "fine", np.full((1,), 1e-5, np.float32)
    elif operator == "QAttention":
        yield "bias", np.zeros(3 * _INNER, np.float32)
        yield "fine", np.array(1e-3, np.float32)
    else:
        yield "one", np.array(1, np.float32)
        yield "coarse", np.array(2.0**13, np.float32)


def _codes(source: np.random.Generator, shape: tuple[int, ...], kind: int, extreme: bool) -> NDArray[np.generic]:
    dtype = _dtype(kind)
    limits = np.iinfo(dtype)
    if extreme:
        return np.full(shape, limits.max, dtype)
    return source.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)


def _dtype(kind: int) -> type[np.int8] | type[np.uint8]:
    return np.int8 if kind == _SIGNED else np.uint8
