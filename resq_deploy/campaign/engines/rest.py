"""The rest of the network behind a fault: golden nodes, run only for the images whose values the fault changed.

Changed images of many batches and faults are collected into full batches. That is exact where an image's outputs do
not depend on which images share its batch, and on its place in it. Integer kernels have that property, float kernels
often; whether this rest has it is tried out with golden values before it is relied on. Where it has not, a batch in
which any image changed is run as the whole file would run it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.engines.activations import Activations, Values
from resq_deploy.campaign.engines.cuts import Cut
from resq_deploy.campaign.golden import Golden
from resq_deploy.deployed.runtime_graph import Part, RuntimeGraph
from resq_deploy.deployed.session import RUNTIME_ERRORS, Deployment
from resq_deploy.errors import ModelError
from resq_deploy.faults.judges.outputs import same, take

_BATCH_WIDE = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
"""Operators that look at all images of a batch at once."""

_TRIALS = 2

_FAILURES: tuple[type[Exception], ...] = (*RUNTIME_ERRORS, ModelError, ValueError)

_MOST_CHANGED = 0.9
"""Share of changed images from which on a batch is run as it is: copying rows costs more than it saves."""

Rows = NDArray[np.int64]
Blocks = Mapping[str, NDArray[Any] | None]
Overlay = Callable[[Values, Rows], None]


def split(value: NDArray[Any], images: int) -> NDArray[Any] | None:
    """Return a value as one block an image, shape [images, ...]; None if it cannot be read so."""
    if not value.ndim or not images or not value.size or len(value) % images:
        return None
    return value.reshape(images, -1, *value.shape[1:])


def joined(blocks: NDArray[Any]) -> NDArray[Any]:
    """Return blocks of images as the value they were split from."""
    return blocks.reshape(-1, *blocks.shape[2:])


def differing(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.bool_]:
    """Return in which blocks two values differ in any bit. [images, ...] each -> [images]."""
    if left.dtype.kind == "f":  # by bits: a NaN equals itself, and -0 is not 0
        left, right = (np.ascontiguousarray(value).view(f"u{value.dtype.itemsize}") for value in (left, right))
    different: NDArray[np.bool_] = (left != right).reshape(len(left), -1).any(axis=1)
    return different


class Rest:
    """The rest behind one cut.

    Args:
        graph: the golden graph.
        cut: where the rest begins.
        activations: golden values.
        golden: the fault-free run.
        deployment: how the file is run.
        pooled: whether images may be collected, as tried out earlier; None to try.

    Attributes:
        dirty: values the faulty head gives it.
        clean: golden values it reads beside them.
        outputs: those of the graph that it makes.
        pooled: whether images may be collected into batches of their own.
    """

    def __init__(
        self,
        graph: RuntimeGraph,
        cut: Cut,
        activations: Activations,
        golden: Golden,
        deployment: Deployment,
        pooled: bool | None = None,
    ) -> None:
        self.dirty, self.clean = cut.dirty, cut.clean
        self.outputs = [output for output in graph.outputs if graph.makers[output] in cut.rest]
        model, inputs = graph.part(cut.rest, self.outputs)
        self._part = Part(model, inputs, self.outputs, deployment)
        self._golden = golden
        self._activations = activations
        self._varying = graph.varying
        self.size = activations.rows(0)
        batch_wide = any(graph.nodes[place].op_type in _BATCH_WIDE for place in cut.rest)
        self.pooled = not batch_wide and (self._independent() if pooled is None else pooled)

    @property
    def names(self) -> list[str]:
        """The golden values needed to run it: those of the head's outputs and the clean ones."""
        return list(dict.fromkeys((*self.dirty, *self.clean)))

    def run(self, values: Values) -> Values:
        """Return the graph's outputs for one batch of values."""
        return self._part.run_named(values)

    def by_sample(self, outputs: Values) -> Values:
        """Return outputs for a full batch as arrays whose first axis is that of the images."""
        return by_sample(self._golden, outputs, self.size)

    def _independent(self) -> bool:
        """Try whether golden images, mixed and moved, keep their golden outputs bit by bit."""
        counts = self._activations.counts
        tried = sorted({0, min(1, len(counts) - 1), len(counts) - 1})
        source = np.random.default_rng(0)  # any mixture will do; a fixed one keeps runs alike
        values = {batch: self._activations.get(batch, self.names) for batch in tried}
        blocks = {batch: self.blocks(values[batch], batch) for batch in tried}
        if any(blocks[0][name] is None for name in self.dirty):
            return False
        for _ in range(_TRIALS):
            batch = source.choice(tried, self.size)
            image = np.array([source.integers(counts[at]) for at in batch])
            pool = Pool(self)
            answers = []
            try:
                for at in tried:
                    answers += pool.add(blocks[at], image[batch == at], 0, self._activations.images(at).start)
                answers += pool.flush()
                known = {name: self._golden.outputs[name] for name in self.outputs}
                if not all(same(take(known, one.place), one.outputs).all() for one in answers):
                    return False
            except _FAILURES:  # shapes that do not fit: the values are no rows of images
                return False
        return True

    def blocks(self, values: Values, batch: int) -> Blocks:
        """Return those of its values as blocks of images, where they can be read so.

        Values that are the same whatever the images (positions, parameters) belong to the batch as a whole.
        """
        rows = self._activations.rows(batch)
        given = [name for name in self.names if name in values]
        return {name: split(values[name], rows) if name in self._varying else None for name in given}

    def of_full_batch(self, name: str) -> NDArray[Any]:
        """Return a golden value that is the same whatever the images, as it is for a batch that is full."""
        return self._activations.get(0, [name])[name]


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """Outputs for images of faults.

    Attributes:
        owner: which fault each row belongs to, shape [n].
        place: which of that fault's images, shape [n].
        outputs: those behind the cut, by name, [n, ...] each.
    """

    owner: Rows
    place: Rows
    outputs: Values


class Pool:
    """Collects changed images until they fill a batch.

    Args:
        rest: what to run them through.
    """

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self._buffers: dict[str, NDArray[Any]] = {}
        self._shared: Values = {}
        self._owner = np.zeros(rest.size, dtype=np.int64)
        self._place = np.zeros(rest.size, dtype=np.int64)
        self._filled = 0

    def add(self, blocks: Blocks, rows: Rows, owner: int, first: int, overlay: Overlay | None = None) -> list[Answer]:
        """Take rows of a batch, and run whenever a batch of them is complete.

        Args:
            blocks: the batch's values in blocks of images, faulty or golden.
            rows: which rows of it.
            owner: the fault they belong to.
            first: where the outputs of the batch's first row belong.
            overlay: puts what is faulty into rows that were copied from golden blocks.
        """
        answers = []
        while len(rows):
            begin, end = self._filled, min(self._rest.size, self._filled + len(rows))
            chosen, rows = rows[: end - begin], rows[end - begin :]
            for name in self._rest.names:
                block = blocks.get(name)
                if block is None:
                    if name not in self._shared:
                        self._shared[name] = self._rest.of_full_batch(name)
                    continue
                if name not in self._buffers:
                    self._buffers[name] = np.zeros((self._rest.size, *block.shape[1:]), block.dtype)
                np.take(block, chosen, axis=0, out=self._buffers[name][begin:end], mode="clip")
            if overlay:
                overlay({name: joined(buffer[begin:end]) for name, buffer in self._buffers.items()}, chosen)
            self._owner[begin:end] = owner
            self._place[begin:end] = first + chosen
            self._filled = end
            if end == self._rest.size:
                answers += self.flush()
        return answers

    def flush(self) -> list[Answer]:
        """Run the rows that are there; what a batch lacks is filled with rows whose outputs are ignored."""
        count, self._filled = self._filled, 0
        if not count:
            return []
        values = {name: joined(buffer) for name, buffer in self._buffers.items()}
        outputs = self._rest.by_sample(self._rest.run({**self._shared, **values}))
        outputs = {name: value[:count] for name, value in outputs.items()}
        return [Answer(self._owner[:count].copy(), self._place[:count].copy(), outputs)]


class Outputs:
    """Outputs of the faults behind one cut, in the making: golden until a fault is seen to change them.

    Args:
        dirty: the values in front of the cut that faults change.
        rest: what is behind it; None if that is nothing, and all dirty values are the graph's outputs.
        activations: golden values.
        golden: the fault-free run.
        batches: for each fault the batches it is run on.
    """

    def __init__(
        self,
        dirty: Sequence[str],
        rest: Rest | None,
        activations: Activations,
        golden: Golden,
        batches: Sequence[Sequence[int]],
    ) -> None:
        self._dirty = dirty
        self._golden = golden
        self._in_front = [name for name in dirty if name in golden.outputs]
        self._rest = rest
        self._activations = activations
        self._outputs = [
            {name: np.concatenate([values[activations.images(batch)] for batch in of]) for name, values in known}
            for known, of in ((golden.outputs.items(), of) for of in batches)
        ]
        self._first = [
            dict(zip(of, np.cumsum([0, *(activations.counts[batch] for batch in of)]).tolist(), strict=False))
            for of in batches
        ]
        self._pool = Pool(rest) if rest and rest.pooled else None

    def add(self, owner: int, batch: int, golden: Values, dirty: Values) -> None:
        """Take the values that a fault makes of one batch, and run what changed or keep it for later.

        Raises:
            Exception: whatever onnxruntime raises.
            ValueError: if the outputs are not of the golden shape.
        """
        self._put_whole(owner, batch, {name: dirty[name] for name in self._in_front})
        if self._rest is None:
            return
        blocks, known = self._rest.blocks(dirty, batch), self._rest.blocks(golden, batch)
        changed = _changed(blocks, known, self._activations.counts[batch])
        if changed is None or self._is_whole(batch, changed):
            self._put_whole(owner, batch, self._rest.run({**golden, **dirty}))
        elif self._pool and len(changed):
            self._put(self._pool.add({**known, **blocks}, changed, owner, self._first[owner][batch]))

    def add_rows(self, owner: int, batch: int, golden: Values, changed: Rows, overlay: Overlay) -> None:
        """Take a fault that changes some rows of one batch, put into copies of the golden values by `overlay`."""
        if self._rest is None or self._in_front or self._is_whole(batch, changed):
            whole = {name: golden[name].copy() for name in self._dirty}
            overlay(whole, np.arange(self._activations.rows(batch)))
            self.add(owner, batch, golden, whole)
        elif self._pool and len(changed):
            blocks = self._rest.blocks(golden, batch)
            self._put(self._pool.add(blocks, changed, owner, self._first[owner][batch], overlay))

    def done(self) -> list[Values]:
        """Return the outputs of each fault for the images of its batches, by name, [n, ...] each."""
        if self._pool:
            self._put(self._pool.flush())
        return self._outputs

    def _is_whole(self, batch: int, changed: Rows) -> bool:
        """Return whether to run a batch as it is: where images cannot be collected, or hardly any would be left out."""
        enough = 1 if self._pool is None else _MOST_CHANGED * self._activations.rows(batch)
        return len(changed) >= enough

    def _put_whole(self, owner: int, batch: int, outputs: Values) -> None:
        rows, count, first = self._activations.rows(batch), self._activations.counts[batch], self._first[owner][batch]
        for name, value in by_sample(self._golden, outputs, rows).items():
            _put_in(self._outputs[owner][name], slice(first, first + count), value[:count])

    def _put(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            for owner in np.unique(answer.owner):
                mine = answer.owner == owner
                for name, value in answer.outputs.items():
                    _put_in(self._outputs[owner][name], answer.place[mine], value[mine])


def by_sample(golden: Golden, outputs: Values, rows: int) -> Values:
    """Return outputs for a batch of so many rows as arrays whose first axis is that of the images.

    Raises:
        ModelError: if they cannot be read so.
    """
    return {name: golden.forms[name].by_sample(name, value, rows) for name, value in outputs.items()}


def _put_in(whole: NDArray[Any], places: Rows | slice, values: NDArray[Any]) -> None:
    """Put what a fault makes of some images into the outputs for all.

    Raises:
        ValueError: if it is not of the golden type or shape: numpy would convert or repeat it.
    """
    if values.dtype != whole.dtype or values.shape[1:] != whole.shape[1:]:
        raise ValueError(f"an output of {values.dtype.name} {list(values.shape)}")
    whole[places] = values


def _changed(blocks: Blocks, golden: Blocks, count: int) -> Rows | None:
    """Return which of the first images differ in any value; None if that cannot be told by image."""
    changed = np.zeros(count, dtype=bool)
    for name, block in blocks.items():
        known = golden[name]
        if block is None or known is None or block.shape != known.shape or block.dtype != known.dtype:
            return None
        changed |= differing(block, known)[:count]
    return np.flatnonzero(changed)
