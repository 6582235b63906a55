"""Whether the votes of a file are taken when it is loaded, or each time that it is run; proven on the machine at hand.

onnxruntime folds whatever follows from stored values alone, at every level of optimisation but none; other software
that runs ONNX files may not. Where votes are folded they cost nothing, and what is run is what the file without guards
would run. Where they are not they are taken at each inference: as right, but slower.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.graph import graphs
from resq_deploy.deployed.runtime_errors import first_line
from resq_deploy.deployed.runtime_graph import RuntimeGraph, optimise
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.synthetic import synthetic_inputs
from resq_deploy.deployed.votes import Vote
from resq_deploy.errors import ModelError

LEVELS = ("all", "extended", "basic", "none")
_INPUTS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folding:
    """What becomes of a file's votes in one deployment.

    Attributes:
        providers: onnxruntime's execution providers.
        optimization: its level of graph optimisation.
        votes: how many there are.
        left: how many are still there once the session is created, and run at each inference; None if not known.
        same_graph: whether the session runs what it would run of the file without guards; None if not known.
        same_outputs: whether it answers seeded inputs with the same bits; None where the graphs are the same, or the
            file cannot be run on such inputs.
        reason: why something is not known; empty otherwise.
    """

    providers: tuple[str, ...]
    optimization: str
    votes: int
    left: int | None
    same_graph: bool | None
    same_outputs: bool | None = None
    reason: str = ""

    @property
    def folded(self) -> bool:
        """Whether it is proven that votes cost nothing and change nothing."""
        return self.left == 0 and self.same_graph is True

    def as_dict(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {**dataclasses.asdict(self), "providers": list(self.providers), "folded": self.folded}


def foldings(model: onnx.ModelProto, votes: Sequence[Vote], providers: tuple[str, ...]) -> list[Folding]:
    """Return what becomes of a file's votes at each level of optimisation, the highest first.

    Args:
        model: the file; self-contained.
        votes: its votes, of `find_votes`.
        providers: onnxruntime's execution providers, in order of preference.
    """
    plain = _without(model, votes).SerializeToString()
    guarded = model.SerializeToString()
    return [_folding(guarded, plain, votes, Deployment(providers=providers, optimization=level)) for level in LEVELS]


def _folding(guarded: bytes, plain: bytes, votes: Sequence[Vote], deployment: Deployment) -> Folding:
    made = functools.partial(
        Folding, providers=deployment.providers, optimization=deployment.optimization, votes=len(votes)
    )
    try:
        optimised = optimise(guarded, deployment)
        same = _computation_of(optimised) == computation(plain, deployment)
    except ModelError as error:  # providers that compile a graph do not give it away
        return made(left=None, same_graph=None, reason=first_line(error))
    read = {name for part in graphs(optimised.graph) for node in part.node for name in node.input}
    left = sum(not read.isdisjoint(vote.copies) for vote in votes)
    if not left and same:
        return made(left=0, same_graph=True)
    return made(left=left, same_graph=same, same_outputs=_answer_alike(guarded, plain, deployment))


def _without(model: onnx.ModelProto, votes: Sequence[Vote]) -> onnx.ModelProto:
    """Return the file without guards: each voted tensor is the first of its copies."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    first = {vote.output: vote.copies[0] for vote in votes}
    for part in graphs(plain.graph):
        for node in part.node:
            if node.op_type == "Where" and node.output[0] in first:
                node.CopyFrom(onnx.NodeProto(op_type="Identity", input=[first[node.output[0]]], output=node.output))
    return plain


def _answer_alike(one: bytes, other: bytes, deployment: Deployment) -> bool | None:
    """Return whether two files give the same bits for seeded inputs; None if they cannot be run on such."""
    try:
        sessions = [Session(model, deployment) for model in (one, other)]
        shape = (_INPUTS, *(size or 1 for size in sessions[0].input.shape[1:]))
        inputs = synthetic_inputs(shape, sessions[0].input.dtype)
        first, second = (np.ascontiguousarray(session.run(inputs)).tobytes() for session in sessions)
    except Exception:  # onnxruntime's exceptions have no common base
        return None
    return first == second


def computation(model: bytes, deployment: Deployment) -> list[object]:
    """Return what onnxruntime runs for each output of a model, whatever it calls the values in between.

    Two models with equal computations are the same to whoever runs them.

    Raises:
        ModelError: if onnxruntime refuses the model, or does not say what it makes of it.
    """
    return _computation_of(optimise(model, deployment))


def _computation_of(optimised: onnx.ModelProto) -> list[object]:
    stored = {tensor.name: tensor for tensor in optimised.graph.initializer}
    return [
        _digest([stored[value.name].raw_data])
        if value.name in stored
        else _nodes_of(RuntimeGraph(optimised, [value.name]))
        for value in optimised.graph.output
    ]


def _nodes_of(graph: RuntimeGraph) -> tuple[str, list[bytes]]:
    """Return a graph's output name and the digests of its nodes, sorted.

    A node's digest is over operator, attributes and the digests of all it reads: parameters by type, shape and bytes,
    made values by the node that makes them.
    """
    known = {
        name: _digest([tensor.data_type, *tensor.dims, tensor.raw_data]) for name, tensor in graph.parameters.items()
    }
    made = []
    for place, node in enumerate(graph.nodes):
        attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
        inner = [name for name in graph.reads(place) if name not in node.input]
        reads = [known.get(name, name.encode()) for name in (*node.input, *inner)]
        digest = _digest([node.domain, node.op_type, *attributes, *reads])
        known.update((name, _digest([digest, slot])) for slot, name in enumerate(node.output) if name)
        made.append(digest)
    (output,) = graph.outputs
    return output, sorted([*made, known[output]])


def _digest(parts: list[object]) -> bytes:
    total = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode()
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.digest()
