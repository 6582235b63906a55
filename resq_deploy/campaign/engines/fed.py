"""What reads a stored value, ready to be run with other values in its place: one session for all faults of a tensor.

Where the optimiser hands a faulty value on, the faulty graph is the golden one but for that value. The nodes that read
it are run with the value as an input. That kernels compute the same with a value that is fed is tried out, with the
golden value and with the first faulty one.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from resq_deploy.campaign.engines.activations import Activations, Values
from resq_deploy.campaign.engines.cuts import Cut, cut, with_cheap_readers
from resq_deploy.campaign.engines.rows import alike
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.runtime_errors import RUNTIME_ERRORS
from resq_deploy.deployed.runtime_graph import Part, RuntimeGraph
from resq_deploy.errors import ModelError

_FAILURES: tuple[type[Exception], ...] = (*RUNTIME_ERRORS, ModelError, ValueError)


class Fed:
    """The nodes of the golden graph that read a stored tensor, and the cheap ones behind them.

    Args:
        graph: the golden graph.
        tensor: the tensor; one of the graph's parameters.
        activations: golden values.
        deployment: how the file is run.
        trial: new stored bytes to try it with.
        batch: images to try it on.

    Attributes:
        where: where it ends.
        inputs: golden values that it reads.
    """

    def __init__(
        self,
        graph: RuntimeGraph,
        tensor: str,
        activations: Activations,
        deployment: Deployment,
        trial: bytes,
        batch: int,
    ) -> None:
        self._graph, self._tensor, self._deployment = graph, tensor, deployment
        self.where: Cut = cut(graph, with_cheap_readers(graph, graph.readers(tensor)), graph)
        self.inputs = list(self.where.inputs)
        self._head: Part | None = None
        golden = activations.get(batch, dict.fromkeys((*self.inputs, *self.where.dirty)))
        stored = graph.parameters[tensor].raw_data
        try:
            model, inputs = graph.part(self.where.head, self.where.dirty, fed=(tensor,))
            self._head = Part(model, inputs, self.where.dirty, deployment)
            alike = _same(self.run(stored, golden), golden)
            alike = alike and _same(self.run(trial, golden), self._stored(trial).run_named(golden))
        except _FAILURES:
            alike = False
        if not alike:
            self._head = None

    def run(self, value: bytes, golden: Values) -> Values:
        """Return what the nodes make of golden values of a batch, with new stored bytes in the place of the tensor's.

        Raises:
            Exception: whatever onnxruntime raises.
        """
        if self._head is None:
            return self._stored(value).run_named(golden)
        held = self._graph.parameters[self._tensor]
        given = onnx.numpy_helper.to_array(_filled(held, value))
        return self._head.run_named({**golden, self._tensor: given})

    def _stored(self, value: bytes) -> Part:
        """Return the nodes with new stored bytes, as the faulty file holds them."""
        replaced = {self._tensor: _filled(self._graph.parameters[self._tensor], value)}
        model, inputs = self._graph.part(self.where.head, self.where.dirty, replaced)
        return Part(model, inputs, self.where.dirty, self._deployment)


def _filled(tensor: onnx.TensorProto, value: bytes) -> onnx.TensorProto:
    return onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=value)


def _same(left: Mapping[str, NDArray[np.generic]], right: Mapping[str, NDArray[np.generic]]) -> bool:
    """Return whether values are the same in type, shape and every bit."""
    return all(alike(value, right[name]) for name, value in left.items())
