"""Votes: tensors that a file stores three times, of which the copies that agree win.

They are recognised by structure, never by name, so that files of any origin read alike:

    Equal(a, b) -> same;  Where(same, a, c) -> voted

onnxruntime takes such a vote once, when it creates the session. Faults in storage, before the file is loaded, are
voted out; faults in memory, after it was loaded, are not, since the copies are gone by then.
"""

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from resq_deploy.deployed.coded import HEALTH
from resq_deploy.deployed.graph import in_order, stored_tensors
from resq_deploy.deployed.majority import find_majorities
from resq_deploy.deployed.nesting import captured, graphs
from resq_deploy.deployed.tensors import WIDTHS
from resq_deploy.deployed.wiring import Wiring

_DOMAINS = ("", "ai.onnx")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vote:
    """A tensor that is voted from three stored copies.

    Attributes:
        output: name of the voted tensor.
        copies: names of the copies (a, b, c): the vote is a where a equals b, and c elsewhere.
        dtype: type of one element.
        bytes_added: what the file is longer by than one that stores the tensor once: two more copies, names, nodes.
    """

    output: str
    copies: tuple[str, str, str]
    dtype: np.dtype[Any]
    bytes_added: int

    def outcome(self, values: Mapping[str, bytes]) -> bytes:
        """Return the voted bytes for stored bytes of the three copies, little-endian.

        Elements are compared as ONNX compares them: a NaN equals nothing, and +0 equals -0.
        """
        a, b, c = (np.frombuffer(values[name], dtype=self.dtype) for name in self.copies)
        return np.where(a == b, a, c).tobytes()


def find_votes(model: onnx.ModelProto) -> tuple[Vote, ...]:
    """Return every vote of a model, in the order of its nodes.

    The copies are stored tensors of one type and shape that nothing but the vote reads, and what counts votes for the
    file's health; values of less than a byte are left out, as no kernel of onnxruntime compares them.

    Raises:
        ModelError: if the graph has a cycle.
    """
    wiring = Wiring(model.graph)
    stored = {name: tensor for tensor, name in stored_tensors(model.graph)}
    twice = {name for name, count in Counter(name for _, name in stored_tensors(model.graph)).items() if count > 1}
    given = {value.name for part in graphs(model.graph) for value in part.output}
    counting = _counting(model.graph)
    found = []
    for node in wiring.nodes:
        equal = _equal_of(node, wiring)
        if equal is None:
            continue
        same, first, third = node.input
        second = equal.input[1] if equal.input[0] == first else equal.input[0]
        copies = (first, second, third)
        if not _private(wiring, same, copies, given | twice, counting) or not stored.keys() >= set(copies):
            continue
        tensors = [stored[name] for name in copies]
        dtype = _element_type(tensors)
        if dtype is not None:
            added = added_bytes(tensors, (equal, node), node.output[0])
            found.append(Vote(output=node.output[0], copies=copies, dtype=dtype, bytes_added=added))
    return tuple(found)


def repeated(model: onnx.ModelProto) -> set[str]:
    """Return the names of all that a model stores several times: copies of votes, and of bitwise majorities.

    Raises:
        ModelError: if the graph has a cycle.
    """
    names = {copy for vote in find_votes(model) for copy in vote.copies}
    return names.union(*(found.copies for found in find_majorities(model.graph)))


def holds_negative_zero(values: NDArray[Any]) -> bool:
    """Return whether there is a -0 among stored values.

    onnxruntime's Where keeps its sign in the third input and not in the second (it overlays the two, zeros being
    what is not chosen), so that a vote on it has another outcome than ONNX says.
    """
    return values.dtype.kind == "f" and bool((np.signbit(values) & (values == 0)).any())


def added_bytes(copies: Sequence[onnx.TensorProto], nodes: Sequence[onnx.NodeProto], output: str) -> int:
    """Return by how many bytes a file grows that stores three copies and their vote in place of one tensor.

    Args:
        copies: the stored copies, names included.
        nodes: the nodes of the vote.
        output: the name of the one tensor.
    """
    single = copies[0].ByteSize() - _field_bytes(len(copies[0].name.encode())) + _field_bytes(len(output.encode()))
    sizes = [copy.ByteSize() for copy in copies] + [node.ByteSize() for node in nodes]
    return sum(map(_field_bytes, sizes)) - _field_bytes(single)


def _field_bytes(length: int) -> int:
    """Return what a field of some bytes takes in its message: a tag of one byte, its length in groups of 7 bits, it."""
    return 1 + max(1, (length.bit_length() + 6) // 7) + length


def _equal_of(node: onnx.NodeProto, wiring: Wiring) -> onnx.NodeProto | None:
    """Return the comparison in front of a choice that takes one of the two compared values where they are equal."""
    if node.op_type != "Where" or node.domain not in _DOMAINS or len(node.input) != 3:
        return None
    equal = wiring.maker(node.input[0])
    if equal is None or equal.op_type != "Equal" or equal.domain not in _DOMAINS or len(equal.input) != 2:
        return None
    return equal if node.input[1] in equal.input else None


def _counting(graph: onnx.GraphProto) -> set[str]:
    """Return the values of a graph that only the output for its health needs."""
    if all(value.name != HEALTH for value in graph.output):
        return set()
    needed = {value.name for value in graph.output} - {HEALTH}
    made = set()
    for node in reversed(in_order(graph)):
        if needed.isdisjoint(node.output):
            made.update(node.output)
        else:
            needed.update((*node.input, *captured(node)))
    return made


def _private(
    wiring: Wiring,
    same: str,
    copies: tuple[str, str, str],
    elsewhere: Collection[str],
    counting: Collection[str],
) -> bool:
    """Return whether copies and comparison serve the vote alone: each read so often, and by nothing else that counts.

    Args:
        wiring: of the graph.
        same: the comparison.
        copies: the copies.
        elsewhere: values that are read in other ways.
        counting: values of no use but to tell the file's health: who makes them may read.
    """
    first, second, third = copies
    reads = {first: 2, second: 1, third: 1, same: 1}
    readers = {name: [node for node, _ in wiring.readers(name) if node.output[0] not in counting] for name in reads}
    alone = all(len(readers[name]) == times for name, times in reads.items())
    return alone and len(reads) == 4 and not reads.keys() & elsewhere


def _element_type(tensors: Sequence[onnx.TensorProto]) -> np.dtype[Any] | None:
    """Return the one type of stored tensors; None where types or shapes differ, or elements are no whole bytes."""
    kinds = {(tensor.data_type, tuple(tensor.dims)) for tensor in tensors}
    if len(kinds) != 1 or WIDTHS.get(tensors[0].data_type, 1) % 8:
        return None
    dtype: np.dtype[Any] = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensors[0].data_type))
    return dtype.newbyteorder("<") if dtype.kind in "iuf" else dtype
