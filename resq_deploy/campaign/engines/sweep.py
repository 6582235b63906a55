"""The golden run of a campaign that replays: one pass, which leaves behind the golden values that faults ask for.

onnxruntime runs a file as its optimiser leaves it. Replay runs parts of that very graph, and so can the golden run: its
outputs are those of the file's own session, bit for bit, and what is computed on the way need not be computed again.
That is not taken on trust: some batches, the first and the last among them, are run by the file's own session as well,
and if a single bit differs, all are. Every audited fault then holds golden outputs against reload-and-run: those of the
images that it leaves alone are part of its record.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.engines.activations import Activations
from resq_deploy.campaign.engines.channels import MOST
from resq_deploy.campaign.engines.cuts import COSTLY
from resq_deploy.campaign.engines.room import Room
from resq_deploy.campaign.engines.rows import alike
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.inputs import Batch, Given
from resq_deploy.deployed.outputs import Form
from resq_deploy.deployed.runtime_errors import RUNTIME_ERRORS
from resq_deploy.deployed.runtime_graph import RuntimeGraph, optimise
from resq_deploy.deployed.session import Session
from resq_deploy.errors import ModelError

_LEAST = 8
"""Batches of a run; with fewer, trying some a second time costs as much as is saved."""

_TRIED = 64
"""Of so many batches one is run by the file's own session, too."""

_FAILURES: tuple[type[Exception], ...] = (*RUNTIME_ERRORS, ModelError, ValueError, KeyError, MemoryError)


class GoldenGraph(NamedTuple):
    """The graph that onnxruntime runs of the fault-free file, with its values.

    Attributes:
        graph: reduced to what the judged outputs depend on.
        activations: its values for the images of the golden run.
        room: what may be held.
    """

    graph: RuntimeGraph
    activations: Activations
    room: Room

    @classmethod
    def of(
        cls,
        model: bytes,
        outputs: Sequence[str],
        batches: Sequence[Batch],
        alike: Collection[str],
        deployment: Deployment,
        options: CampaignOptions,
        given: int,
    ) -> "GoldenGraph":
        """Optimise a file.

        Args:
            model: the serialised file.
            outputs: those that are judged.
            batches: what is run.
            alike: inputs that are fed the same whatever the samples.
            deployment: how the file is run.
            options: memory and workers.
            given: bytes of the judged outputs of all images.

        Raises:
            ModelError: if onnxruntime refuses the file.
            KeyError: if no node makes an output.
        """
        graph = RuntimeGraph(optimise(model, deployment), outputs, alike)
        graph.learn_types(deployment)
        costly = sum(node.op_type in COSTLY for node in graph.nodes)
        stored = sum(len(tensor.raw_data) for tensor in graph.parameters.values())
        # There is a rest behind each layer, and none stores more than all; each worker holds outputs of a portion.
        room = Room.of(options.memory, costly * stored, options.worker_count * MOST * given)
        return cls(graph, Activations(graph, batches, deployment, room.values, options.worker_count + 32), room)


class Sweep:
    """Makes golden runs; given to `golden_run` in the place of the file's own session.

    Args:
        model: the serialised file.
        options: memory and workers.

    Attributes:
        found: what the last run left behind; None where it was the session's.
    """

    def __init__(self, model: bytes, options: CampaignOptions) -> None:
        self._model, self._options = model, options
        self.found: GoldenGraph | None = None

    def __call__(
        self, session: Session, pieces: Sequence[Given], names: Sequence[str]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Form]]:
        """Return what `Session.first_answers` does.

        Raises:
            ModelError: as that does.
            Exception: whatever onnxruntime raises.
        """
        self.found = None
        steady = session.given(pieces[0]).alike

        def run(
            batches: Sequence[Batch], outputs: Sequence[str], own: Callable[[Batch], Sequence[Any]]
        ) -> Sequence[Sequence[Any]]:
            swept = None
            if len(batches) >= _LEAST and not batches[0].steps and session.deployment.on_cpu:
                swept = self._swept(batches, outputs, steady, session.deployment, own)
            return [own(batch) for batch in batches] if swept is None else swept

        return session.first_answers(pieces, names, run)

    def _swept(
        self,
        batches: Sequence[Batch],
        outputs: Sequence[str],
        steady: Collection[str],
        deployment: Deployment,
        own: Callable[[Batch], Sequence[Any]],
    ) -> Sequence[Sequence[Any]] | None:
        """Return the outputs of batches, run by the parts of the graph; None if they are not those of the session."""
        try:
            first = own(batches[0])
            given = len(batches) * sum(np.asarray(value).nbytes for value in first)
            found = GoldenGraph.of(self._model, outputs, batches, steady, deployment, self._options, given)
            runs = [[values[name] for name in outputs] for values in found.activations.sweep()]
        except _FAILURES:  # whatever is wrong, the session will say so
            return None
        tried = np.unique(np.linspace(0, len(batches) - 1, max(2, len(batches) // _TRIED), dtype=int)).tolist()
        for number in tried:
            pairs = zip(own(batches[number]) if number else first, runs[number], strict=True)
            if not all(alike(np.asarray(one), other) for one, other in pairs):
                return None
        self.found = found
        return runs
