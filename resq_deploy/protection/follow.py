"""Tried in onnxruntime: that all who read a weight follow its codes, however their nodes are fused.

The same weights are written twice: in even codes, and in half as many with scales of twice the size. Factors of two
round nothing in floats, and biases are made even first, so that both files must answer alike to the bit; where a reader
was overlooked, or is fused into something that takes a scale from elsewhere, they do not.
"""

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.inputs import Given
from resq_deploy.deployed.session import Session
from resq_deploy.errors import ModelError
from resq_deploy.protection.companions import Companions
from resq_deploy.protection.narrow import Codes, Integers, Narrowed, narrow

_BITS = 7


def check_followed(model: onnx.ModelProto, weights: Collection[str], inputs: Given, deployment: Deployment) -> None:
    """Check that a file's weights can be narrowed without changing what they mean to anyone.

    Args:
        model: the file, self-contained, without votes and codes.
        weights: names of the weights.
        inputs: samples to run it on, as it takes them.
        deployment: how.

    Raises:
        ModelError: if they cannot; the message names the first such weight.
    """
    if _alike(model, weights, inputs, deployment):
        return
    culprit = next((name for name in weights if not _alike(model, [name], inputs, deployment)), "")
    raise ModelError(
        f"weights cannot be narrowed in this file: onnxruntime reads {culprit!r} otherwise than its graph says; "
        "protect its other parameters with --guard parameters"
    )


def two_ways(
    model: onnx.ModelProto, weights: Collection[str]
) -> tuple[onnx.ModelProto, onnx.ModelProto, tuple[Narrowed, ...]]:
    """Return a model with its weights in even codes and in halved ones, and what became of each weight."""
    even = onnx.ModelProto()
    even.CopyFrom(model)
    for tensor in even.graph.initializer:
        if tensor.data_type == TensorProto.INT32:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(values // 2 * 2), tensor.name))
    wide, _ = narrow(even, weights, _BITS, _even)
    small, found = narrow(even, weights, _BITS, _halved)
    return wide, small, found


def _alike(model: onnx.ModelProto, weights: Collection[str], inputs: Given, deployment: Deployment) -> bool:
    wide, small, _ = two_ways(model, weights)
    first, second = (Session(each.SerializeToString(), deployment).as_given(inputs) for each in (wide, small))
    return all(
        np.array_equal(one, other, equal_nan=one.dtype.kind == "f") for one, other in zip(first, second, strict=True)
    )


def _halved(centred: Integers, companions: Companions, *_ends: int) -> Codes:
    zero, axis = companions.zero >> 1, companions.axis or 0
    towards_zero = (centred + (centred < 0)) >> 1  # so that no code leaves its type
    codes = np.moveaxis(np.moveaxis(towards_zero, axis, -1) + zero, -1, axis)
    return Codes(codes=codes, zero=zero, factor=np.full(zero.shape, 2.0))


def _even(centred: Integers, companions: Companions, *_ends: int) -> Codes:
    made = _halved(centred, companions)
    return Codes(codes=2 * made.codes, zero=2 * made.zero, factor=np.ones(made.zero.shape))
