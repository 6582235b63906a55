"""Running a graph a stretch at a time, so that layers can be changed between what was run and what is still to run."""

from collections.abc import Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper

from resq_deploy.deployed.deployment import create
from resq_deploy.deployed.wiring import Wiring
from resq_deploy.quantization.fidelity import every_core, running

Values = dict[str, NDArray[Any]]
"""What a graph computed for a batch, by name."""


class Stretches:
    """The nodes of a graph that depend on its input, in order, to be run a stretch at a time.

    Stored tensors may be changed, and biases added, as long as no stretch that reads them has been run.

    Args:
        model: a model; not copied.

    Attributes:
        nodes: those nodes.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._wiring = Wiring(model.graph)
        self.nodes = [node for node in self._wiring.nodes if not self._wiring.parameters.issuperset(node.output)]

    def part(self, begin: int, end: int) -> "Part":
        """Return the nodes from one position up to, and without, another; not none."""
        return Part(self._model, self._wiring, self.nodes, begin, end)


class Part:
    """A stretch of the nodes that depend on the input, run on the values that those before it left.

    What follows from stored values alone, such as the weights in float, is computed by every part that reads it.

    Args:
        model: the whole graph.
        wiring: of it.
        nodes: all that depend on the input, in order.
        begin: the first of the stretch.
        end: the first after it.
    """

    def __init__(
        self, model: onnx.ModelProto, wiring: Wiring, nodes: Sequence[onnx.NodeProto], begin: int, end: int
    ) -> None:
        stretch = nodes[begin:end]
        self._later = {name for node in nodes[end:] for name in node.input} | {nodes[end - 1].output[0]}
        self._outputs = [name for node in stretch for name in node.output if name in self._later]
        read = {name for node in stretch for name in node.input}
        constant: list[onnx.NodeProto] = []
        for node in reversed(wiring.nodes):
            if wiring.parameters.issuperset(node.output) and not read.isdisjoint(node.output):
                constant.insert(0, node)
                read.update(node.input)
        self._nodes = [*constant, *stretch]
        self._inputs = read - {name for node in self._nodes for name in node.output}
        self._stored = [tensor for tensor in model.graph.initializer if tensor.name in read]
        self._model = model
        self._session: Any = None

    def run(self, values: Values) -> Values:
        """Return what later nodes read: of the values given, and of those made here."""
        feeds = {name: value for name, value in values.items() if name in self._inputs}
        if self._session is None:
            self._session = create(self._serialised(feeds), every_core())
        with running():
            made = zip(self._outputs, self._session.run(self._outputs, feeds), strict=True)
        return {name: value for name, value in values.items() if name in self._later} | dict(made)

    def _serialised(self, feeds: Values) -> bytes:
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
            for name, value in feeds.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in self._outputs]
        graph = helper.make_graph(self._nodes, "part", inputs, outputs, self._stored)
        part = helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)
        serialised: bytes = part.SerializeToString()
        return serialised
