"""What a protected file stores under a code, read back from its nodes."""

import dataclasses
import itertools
import math

import onnx
from onnx import numpy_helper

from resq_deploy.codes.code import Code
from resq_deploy.codes.known import KNOWN, known_code
from resq_deploy.errors import ModelError

DOMAIN = "resq.codes"
"""The domain of the functions that decode; `protection.decoder` writes them."""


def function_name(code: Code) -> str:
    """Return the name of the function that decodes a code; it is how one knows by which a file is protected."""
    return f"decode_{code.name}".replace("-", "_")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coded:
    """Where a file stores a weight.

    Attributes:
        weight: name of the weight.
        code: the code.
        stored: initializers that hold the code words, whole blocks each; their bytes, one behind the other, also
            store the weights that share them.
        start: the byte of these that stores the first value of the weight.
        count: values of the weight, a byte each.
    """

    weight: str
    code: Code
    stored: tuple[str, ...]
    start: int
    count: int


def coded_weights(model: onnx.ModelProto) -> tuple[Coded, ...]:
    """Return what a file stores under a code, in the order of its nodes; nothing where `protect` did not make it.

    Raises:
        ModelError: if the file has a code that is not known here.
    """
    codes = {function_name(code): code for code in itertools.starmap(known_code, KNOWN)}
    tables = {tensor.name: tensor for tensor in model.graph.initializer}
    places: dict[str, tuple[Code, tuple[str, ...], int]] = {}  # of values on the way from the decoder to the weights
    found = []
    for node in model.graph.node:
        if node.domain == DOMAIN:
            if node.op_type not in codes:
                raise ModelError(f"weights are decoded by {node.op_type!r}, which this version does not know: update")
            places[node.output[0]] = codes[node.op_type], (node.input[0],), 0
        elif not node.input or node.input[0] not in places:
            continue
        elif node.op_type == "Concat":
            code = places[node.input[0]][0]
            places[node.output[0]] = code, tuple(name for value in node.input for name in places[value][1]), 0
        elif node.op_type == "Split":
            code, stored, _ = places[node.input[0]]
            starts = itertools.accumulate(numpy_helper.to_array(tables[node.input[1]]).tolist(), initial=0)
            places.update((part, (code, stored, start)) for part, start in zip(node.output, starts, strict=False))
        elif node.op_type == "Reshape":
            code, stored, start = places[node.input[0]]
            shape = numpy_helper.to_array(tables[node.input[1]]).tolist()
            if shape == [-1]:
                places[node.output[0]] = places[node.input[0]]
            else:
                count = math.prod(shape)
                found.append(Coded(weight=node.output[0], code=code, stored=stored, start=start, count=count))
    return tuple(found)
