"""Float weights that are deployed as integers: the file, or onnxruntime by itself, quantizes them when it is loaded."""

from collections.abc import Sequence

import onnx

from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.nesting import graphs, node_label
from resq_deploy.deployed.runtime_graph import optimise
from resq_deploy.deployed.surfaces import Surface
from resq_deploy.errors import ModelError


def about_load(model: DeployedModel, weights: Sequence[Surface]) -> list[str]:
    """Return a line on the weights that the file quantizes when it is loaded, and one on those onnxruntime does.

    Args:
        model: the file.
        weights: its weights.
    """
    quantizers = {
        node.input[0]
        for graph in graphs(model.proto.graph)
        for node in graph.node
        if node.op_type == "QuantizeLinear" and node.input
    }
    if not quantizers:
        return []
    layers = _integer_layers(model)
    floats = [surface for surface in weights if surface.dtype == "float" and surface.layer in layers]
    by_file = sum(surface.tensor in quantizers for surface in floats)
    by_runtime = len(floats) - by_file
    lines = []
    if by_file:
        lines.append(
            f"{by_file} of {len(weights)} weight tensors are stored as floats that the file rounds to 8 bits when it "
            "is loaded: a flip that makes a value huge ends at the largest code"
        )
    if by_runtime:
        lines.append(
            f"{by_runtime} of {len(weights)} weight tensors are stored as floats that onnxruntime rounds to 8 bits "
            "when it loads the file, by a scale it takes from them: a flip that makes one value huge leaves the other "
            "values of its tensor hardly any codes"
        )
    return lines


def _integer_layers(model: DeployedModel) -> set[str]:
    """Return the labels of the layers that read stored integers once onnxruntime has loaded the file."""
    try:
        graph = optimise(model.proto.SerializeToString(), Deployment(optimization="basic")).graph
    except ModelError:
        return set()
    integers = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) and tensor.dims
    }
    dequantized = {
        node.output[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in integers
    }
    return {node_label(node) for node in graph.node if not dequantized.isdisjoint(node.input)}
