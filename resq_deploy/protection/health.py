"""The output by which a protected file tells its own health, folded as all else that serves protection."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.deployed.coded import HEALTH
from resq_deploy.deployed.graph import stored_tensors
from resq_deploy.deployed.majority import find_majorities
from resq_deploy.deployed.votes import find_votes
from resq_deploy.protection.graph_parts import Parts, Pool


class Health:
    """What is counted: words of codes, and values that are voted.

    Args:
        pool: the tables of the file; what is read here is added.
    """

    def __init__(self, pool: Pool) -> None:
        self._flat, self._pairs, self._zero = (pool.table(np.array(values)) for values in (-1, [-1, 2], 0))

    def add(self, model: onnx.ModelProto, counts: Sequence[str], parts: Parts) -> None:
        """Add the output, behind all others: words corrected and words that cannot be, int64 [2].

        A voted value whose copies are not all alike is a word corrected. (A vote on a tensor with a NaN is not counted:
        it equals nothing.)

        Args:
            model: the file with all its codes and votes; changed.
            counts: names of the counts of its decoders, int64 [2] each.
            parts: where to write down the nodes.
        """
        words = parts.node("Reshape", self._joined(counts, parts), self._pairs)
        words = parts.node("ReduceSum", words, self._zero, keepdims=0)
        differing = parts.node("Concat", self._differing(model, parts), self._zero, axis=0)
        parts.node("Add", words, differing, output=HEALTH)
        model.graph.node.extend(parts.nodes)
        model.graph.output.append(helper.make_tensor_value_info(HEALTH, TensorProto.INT64, [2]))

    def _differing(self, model: onnx.ModelProto, parts: Parts) -> str:
        """Write down how many voted values have copies that are not all alike, int64 [1]."""
        stored = {name: tensor for tensor, name in stored_tensors(model.graph)}
        alike: dict[tuple[int, int], list[list[str]]] = {
            (TensorProto.UINT8, len(found.copies)): [] for found in find_majorities(model.graph)
        }
        for found in find_majorities(model.graph):
            alike[TensorProto.UINT8, len(found.copies)].append(list(found.copies))
        for vote in find_votes(model):
            tensor = stored[vote.copies[0]]
            if not _holds_nan(tensor):
                flat: tuple[str, ...] = vote.copies
                if len(tensor.dims) != 1:
                    flat = tuple(parts.node("Reshape", name, self._flat) for name in vote.copies)
                alike.setdefault((tensor.data_type, len(flat)), []).append(list(flat))
        numbers = []
        for votes in alike.values():
            first, *others = (self._joined(copies, parts) for copies in zip(*votes, strict=True))
            same, *further = (parts.node("Equal", first, other) for other in others)
            for each in further:
                same = parts.node("And", same, each)
            numbers.append(parts.cast(parts.node("Not", same), TensorProto.INT64))
        return parts.node("ReduceSum", self._joined(numbers, parts), self._zero)

    @staticmethod
    def _joined(values: Sequence[str], parts: Parts) -> str:
        return values[0] if len(values) == 1 else parts.node("Concat", *values, axis=0)


def _holds_nan(tensor: onnx.TensorProto) -> bool:
    values = numpy_helper.to_array(tensor)
    return values.dtype.kind == "f" and bool(np.isnan(values).any())
