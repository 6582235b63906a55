"""What a file says it takes and gives: names, types and shapes of its inputs and outputs, as they are written in it."""

import dataclasses
from typing import Any

import onnx


@dataclasses.dataclass(frozen=True, kw_only=True)
class Port:
    """An input or an output of a file.

    Attributes:
        name: what it is called.
        type: of its elements, such as `float32`; of what is no tensor its kind, such as `sequence`.
        shape: dimensions: numbers, the names of open ones, None for those without a name; None where the file gives no
            shape.
    """

    name: str
    type: str
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.name!r} {self.type}"
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name!r} {self.type} [{sizes}]"

    def as_dict(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {"name": self.name, "type": self.type, "shape": None if self.shape is None else list(self.shape)}


def inputs_of(model: onnx.ModelProto) -> tuple[Port, ...]:
    """Return what a file has to be fed: its inputs but for those that it stores a value for."""
    stored = {tensor.name for tensor in model.graph.initializer}
    stored |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    return tuple(_port(value) for value in model.graph.input if value.name not in stored)


def outputs_of(model: onnx.ModelProto) -> tuple[Port, ...]:
    """Return what a file gives."""
    return tuple(_port(value) for value in model.graph.output)


def _port(value: onnx.ValueInfoProto) -> Port:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return Port(name=value.name, type="unknown" if kind is None else kind.removesuffix("_type"), shape=None)
    tensor = value.type.tensor_type
    shape = tuple(map(_size, tensor.shape.dim)) if tensor.HasField("shape") else None
    return Port(name=value.name, type=_element(tensor.elem_type), shape=shape)


def _element(number: int) -> str:
    """Return the name of an element type, as numpy has it where it has one."""
    try:
        name = onnx.TensorProto.DataType.Name(number).lower()
    except ValueError:
        return "unknown"
    known: dict[str, str] = {"float": "float32", "double": "float64", "undefined": "unknown"}
    return known.get(name, str(name))


def _size(dimension: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dimension.HasField("dim_value") and dimension.dim_value > 0:
        return int(dimension.dim_value)
    return dimension.dim_param or None
