"""Reading an ONNX file into a twin.

The nodes are those of the file, so that every stored tensor keeps its place and its name; where onnxruntime's
optimiser puts an integer kernel in the place of float operators between (de)quantizations, the twin does as well. So
its integers are those that the file is deployed on, whichever patterns a version of onnxruntime fuses.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from resq_deploy.deployed.decoding import bake
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.graph import in_order, node_label, stored_tensors
from resq_deploy.deployed.inputs import InputSpec
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.operators import Slots, slots
from resq_deploy.deployed.runtime_graph import RuntimeGraph, optimise
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import ModelError
from resq_deploy.twin.at_load import quantized_at_load
from resq_deploy.twin.node import Node, as_tensor
from resq_deploy.twin.operators import DOMAINS, KERNELS, OPERATORS
from resq_deploy.twin.twin import Listing, Source, Twin

_LINEAR = ("QuantizeLinear", "DequantizeLinear")
_OPERANDS = (Role.WEIGHT, Role.BIAS)
_SIGN = 128  # between int8 codes and the uint8 ones that onnxruntime may turn them into


def read_twin(model: DeployedModel, *, deployment: Deployment | None = None, clip_gradient: bool = True) -> Twin:
    """Read a file into a twin, in evaluation mode and on the CPU.

    Args:
        model: the file.
        deployment: how it is run; the optimisation level decides where integer kernels compute.
        clip_gradient: give what saturates a zero gradient (BPDA, Athalye et al. 2018); False passes it on: an
            attacker's way round gradients that saturation masks.

    Weights that are stored under a code are read as they are decoded, under their own names; what decodes them is no
    part of the twin.

    The integers are those of processors that add up 8-bit products exactly: x86 with VNNI, ARM. Older x86 processors
    saturate sums of two of them at 16 bits, unless the weights are uint8 or have 7 bits; there `agreement` tells how
    far the file is from its twin.

    Raises:
        ModelError: if onnxruntime refuses the file, it is no classifier with one image input, or it has an operator
            that the twin does not know; the message names operator and node.
    """
    deployment = deployment or Deployment()
    session = Session(model.proto.SerializeToString(), deployment)
    codes = model.codes()
    baked = bake(model.proto, codes, model.surfaces) if codes.words else None
    proto, surfaces = (baked.model, baked.surfaces) if baked else (model.proto, model.surfaces)
    reader = _Reader(session.input, session.output, deployment, clip_gradient)
    sparse = {tensor.values.name for tensor in proto.graph.sparse_initializer}  # in the nodes they are dense
    arrays = {name: numpy_helper.to_array(tensor) for tensor, name in stored_tensors(proto.graph) if name not in sparse}
    # A tensor that several places of the graph hold has several names here, and cannot be changed under one.
    alone = [surface for surface in surfaces if surface.tensor in arrays and len(surface.sites) == 1]
    steering = {surface.tensor for surface in surfaces if surface.role not in _OPERANDS}
    listing = reader.list_nodes(proto)
    source = Source(
        listing=listing,
        relist=lambda replaced: reader.list_nodes(_with_values(proto, replaced)),
        stored={s.tensor: as_tensor(arrays[s.tensor]) for s in alone},
        steering=frozenset((steering | listing.quantized) & arrays.keys()),
        input=session.input,
        output=session.output,
        clip_gradient=clip_gradient,
    )
    return Twin(source).eval()


def _with_values(model: onnx.ModelProto, replaced: Mapping[str, Tensor]) -> onnx.ModelProto:
    """Return a copy of a model that stores other values."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor, name in stored_tensors(changed.graph):
        if name in replaced:
            values = replaced[name].cpu().numpy().astype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return changed


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Lists the nodes of a model.

    Attributes:
        input: what the model takes.
        output: name of the output that is judged.
        deployment: how the model is run.
        clip_gradient: whether what saturates gets a zero gradient.
    """

    input: InputSpec
    output: str
    deployment: Deployment
    clip_gradient: bool

    def list_nodes(self, model: onnx.ModelProto) -> Listing:
        """Return what a twin of a model runs.

        Raises:
            ModelError: if onnxruntime refuses the model, or the twin does not know one of its operators.
        """
        data = model.SerializeToString()
        plain = dataclasses.replace(self.deployment, optimization="none")
        fused = self.deployment
        if fused.optimization == "all":  # the same kernels, without those for one processor's memory layout
            fused = dataclasses.replace(fused, optimization="extended")
        graph = RuntimeGraph(optimise(data, plain), [self.output])
        graph.learn_types(plain)
        values = _Values(graph, self.input)
        loaded = quantized_at_load(graph.nodes, graph.parameters, self._at_load(data))
        values.added.update(loaded.added)
        protos = _needed([*loaded.nodes, *_kernels(optimise(data, fused), values)], self.output)
        opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
        constants = {name: numpy_helper.to_array(tensor) for name, tensor in graph.parameters.items()}
        return Listing(
            nodes=[_node(proto, values, opset, self.clip_gradient) for proto in protos],
            constants={name: as_tensor(array) for name, array in {**constants, **values.added}.items()},
            quantized=loaded.quantized,
        )

    def _at_load(self, data: bytes) -> onnx.GraphProto:
        """Return the graph as onnxruntime has it before it fuses kernels; an empty one where it changes nothing."""
        if self.deployment.optimization == "none":
            return onnx.GraphProto()
        return optimise(data, dataclasses.replace(self.deployment, optimization="basic")).graph


class _Values:
    """The values of a file: names, element types, and the zero points of those that hold codes.

    Args:
        graph: the file's graph, its types learnt.
        image: what the file takes.

    Attributes:
        zero_points: name of the zero point of a value in codes, as the (de)quantizations around it give it.
        added: constants that onnxruntime adds to the file's own, by name.
    """

    def __init__(self, graph: RuntimeGraph, image: InputSpec) -> None:
        self._graph = graph
        self._image = image
        self.zero_points: dict[str, str] = {}
        self.added: dict[str, NDArray[Any]] = {}
        for node in graph.nodes:
            if node.op_type in _LINEAR and len(node.input) > 2 and node.input[2]:
                codes = node.input[0] if node.op_type == "DequantizeLinear" else node.output[0]
                self.zero_points[codes] = node.input[2]

    def __contains__(self, name: str) -> bool:
        return name in self._graph.inputs or name in self._graph.parameters or name in self._graph.makers

    def type_of(self, name: str) -> np.dtype[Any] | None:
        """Return the element type of a value; None where onnxruntime has no name for it."""
        if name in self._graph.inputs:
            return np.dtype(self._image.dtype)
        if name in self.added:
            return self.added[name].dtype
        try:
            stored = self._graph.parameters.get(name)
            number = self._graph.element_type(name) if stored is None else stored.data_type
        except ModelError:
            return None
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(number))


def _kernels(runtime: onnx.ModelProto, values: _Values) -> Iterator[onnx.NodeProto]:
    """Yield the integer kernels of the graph onnxruntime runs that compute a value of the file from values of it."""
    parameters = {tensor.name: tensor for tensor in runtime.graph.initializer}
    for node in runtime.graph.node:
        if node.op_type not in KERNELS or node.output[0] not in values:
            continue
        known = slots(node.op_type, len(node.input)) or Slots()
        kernel = onnx.NodeProto()
        kernel.CopyFrom(node)
        codes = {zero: node.input[operand] for operand, _, zero in known.quantized if zero is not None}
        codes.update({zero: node.output[0] for _, zero in known.outputs})
        for slot, operand in codes.items():
            if slot < len(node.input) and node.input[slot] and node.input[slot] not in values:
                kernel.input[slot] = _zero_point(parameters.get(node.input[slot]), operand, values)
        if all(name in values or name in values.added for name in kernel.input if name):
            yield kernel


def _zero_point(tensor: onnx.TensorProto | None, operand: str, values: _Values) -> str:
    """Return the file's name for a zero point of a kernel that the file does not have under the kernel's name.

    Where a file leaves a zero point out, onnxruntime adds one; and where it turns int8 codes into uint8 ones, it
    replaces them, which changes nothing but the type: the twin stays with the file's own.
    """
    if operand in values.zero_points:
        return values.zero_points[operand]
    if tensor is None:
        return ""
    array, wanted = numpy_helper.to_array(tensor), values.type_of(operand)
    if wanted is not None and wanted != array.dtype:
        array = (array.astype(np.int16) - _SIGN).astype(wanted)
    values.added[tensor.name] = array
    return str(tensor.name)


def _needed(protos: Sequence[onnx.NodeProto], output: str) -> list[onnx.NodeProto]:
    """Return the nodes an output depends on, in order; of two that compute the same value, the later one."""
    makers = {name: proto for proto in protos for name in proto.output if name}
    graph = onnx.GraphProto()
    waiting, found = [output], set()
    while waiting:
        maker = makers.get(waiting.pop())
        if maker is not None and id(maker) not in found:
            found.add(id(maker))
            graph.node.append(maker)
            waiting += maker.input
    return in_order(graph)


def _node(proto: onnx.NodeProto, values: _Values, opset: int, clip_gradient: bool) -> Node:
    """Return a node of the file as a node of the twin.

    Raises:
        ModelError: if the twin does not know the operator.
    """
    if proto.op_type not in OPERATORS or proto.domain not in DOMAINS:
        domain = f"{proto.domain}." if proto.domain else ""
        raise ModelError(
            f"the twin has no operator {domain}{proto.op_type} (node {node_label(proto)!r}): "
            "export the network without it, or attack the file with attacks that need no gradients"
        )
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in proto.attribute}
    return Node(
        op=proto.op_type,
        label=node_label(proto),
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        attributes={name: value.decode() if isinstance(value, bytes) else value for name, value in attributes.items()},
        operand_types=tuple(values.type_of(name) for name in proto.input),
        types=tuple(values.type_of(name) for name in proto.output),
        opset=opset,
        clip_gradient=clip_gradient,
    )
