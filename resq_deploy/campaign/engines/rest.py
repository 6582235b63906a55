"""The rest of the network behind a fault: golden nodes, run only for the images whose values the fault changed.

Changed images of many batches and faults are collected into batches of their own. That is exact where an image's
outputs do not depend on which images share its batch, which is tried out before it is relied on (`company`). Where they
do, a batch in which any image changed is run as the whole file would run it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.engines.activations import Activations, Values
from resq_deploy.campaign.engines.company import Company
from resq_deploy.campaign.engines.cuts import Cut
from resq_deploy.campaign.engines.rows import Overlay, Rows, differing, joined, split
from resq_deploy.campaign.golden import Golden
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.runtime_graph import Part, RuntimeGraph
from resq_deploy.faults.judges.outputs import large, take

_BATCH_WIDE = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
"""Operators that look at all images of a batch at once."""

_MOST_CHANGED = 0.9
"""Share of changed images from which on a batch is run as it is: copying rows costs more than it saves."""

Blocks = Mapping[str, NDArray[Any] | None]


class Rest:
    """The rest behind one cut.

    Args:
        graph: the golden graph.
        cut: where the rest begins.
        activations: golden values.
        golden: the fault-free run.
        deployment: how the file is run.
        tried: the batches that images may be collected into, where they keep their values, the best first.

    Attributes:
        dirty: values the faulty head gives it.
        clean: golden values it reads beside them.
        outputs: those of the graph that it makes.
        pooled: whether images may be collected into batches of their own.
        size: images of such a batch.
        whole: whether it runs a batch of the file faster than its images by themselves.
    """

    def __init__(
        self,
        graph: RuntimeGraph,
        cut: Cut,
        activations: Activations,
        golden: Golden,
        deployment: Deployment,
        tried: Sequence[Company],
    ) -> None:
        self.dirty, self.clean = cut.dirty, cut.clean
        self.outputs = [output for output in graph.outputs if graph.makers[output] in cut.rest]
        model, inputs = graph.part(cut.rest, self.outputs)
        self._part = Part(model, inputs, self.outputs, deployment)
        self._golden = golden
        self._activations = activations
        self._varying = graph.varying
        of_images = not any(graph.nodes[place].op_type in _BATCH_WIDE for place in cut.rest)
        read = (*self.names, *self.outputs)
        company = next((one for one in tried if one.holds(read)), None) if of_images else None
        self.pooled = company is not None
        self.size = company.size if company else activations.rows(0)
        self.whole = self.size == activations.rows(0)

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

    def blocks(self, values: Values, batch: int) -> Blocks:
        """Return those of its values as blocks of images, where they can be read so.

        Values that are the same whatever the images (positions, parameters) belong to the batch as a whole.
        """
        rows = self._activations.rows(batch)
        given = [name for name in self.names if name in values]
        return {name: split(values[name], rows) if name in self._varying else None for name in given}

    def of_full_batch(self, name: str) -> NDArray[Any]:
        """Return a golden value that is the same whatever the images, as it is for a batch that is full.

        For smaller batches, too, or images could not be collected into them.
        """
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
            if end - begin == self._rest.size and chosen[-1] - chosen[0] == end - 1:
                answers.append(self._at_once(blocks, chosen, owner, first, overlay))
                continue
            for name in self._rest.names:
                block = self._block(blocks, name)
                if block is None:
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

    def _at_once(self, blocks: Blocks, chosen: Rows, owner: int, first: int, overlay: Overlay | None) -> Answer:
        """Run rows that fill a batch and follow one another where they are; what is faulty goes into copies."""
        values: Values = {}
        for name in self._rest.names:
            block = self._block(blocks, name)
            if block is not None:
                part = joined(block[chosen[0] : chosen[0] + len(chosen)])
                values[name] = part.copy() if overlay and name in self._rest.dirty else part
        if overlay:
            overlay({name: values[name] for name in self._rest.dirty if name in values}, chosen)
        outputs = self._rest.by_sample(self._rest.run({**self._shared, **values}))
        return Answer(np.full(len(chosen), owner), first + chosen, outputs)

    def _block(self, blocks: Blocks, name: str) -> NDArray[Any] | None:
        """Return the blocks of a value; None if it is the same whatever the images, and kept as that."""
        block = blocks.get(name)
        if block is None and name not in self._shared:
            self._shared[name] = self._rest.of_full_batch(name)
        return block

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
    """Outputs of the faults behind one cut, in the making: golden where no fault is seen to change them.

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
        self._images = [np.concatenate([_all(activations.images(batch)) for batch in of]) for of in batches]
        self._found: list[list[tuple[Rows | slice, Values]]] = [[] for _ in batches]
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

    def done(self) -> list[Sequence[Values]]:
        """Return the outputs of each fault for the images of its batches, [n, ...] each, some after the other."""
        if self._pool:
            self._put(self._pool.flush())
        return [self._in_order(images, found) for images, found in zip(self._images, self._found, strict=True)]

    def _is_whole(self, batch: int, changed: Rows) -> bool:
        """Return whether to run a batch as it is: where images cannot be collected, or hardly any would be left out."""
        if self._pool is None or self._rest is None:
            return len(changed) > 0
        return self._rest.whole and len(changed) >= _MOST_CHANGED * self._activations.rows(batch)

    def _put_whole(self, owner: int, batch: int, outputs: Values) -> None:
        rows, count, first = self._activations.rows(batch), self._activations.counts[batch], self._first[owner][batch]
        found = {name: value[:count] for name, value in by_sample(self._golden, outputs, rows).items()}
        self._keep(owner, slice(first, first + count), found)

    def _put(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            for owner in np.unique(answer.owner):
                mine = answer.owner == owner
                if mine.all():
                    self._keep(owner, answer.place, answer.outputs)
                else:
                    self._keep(owner, answer.place[mine], {name: value[mine] for name, value in answer.outputs.items()})

    def _keep(self, owner: int, places: Rows | slice, outputs: Values) -> None:
        """Keep what a fault makes of some images.

        Raises:
            ValueError: if it is not of the golden type or shape: numpy would convert or repeat it.
        """
        for name, value in outputs.items():
            known = self._golden.outputs[name]
            if value.dtype != known.dtype or value.shape[1:] != known.shape[1:]:
                raise ValueError(f"an output of {value.dtype.name} {list(value.shape)}")
        if outputs:
            self._found[owner].append((places, outputs))

    def _in_order(self, images: Rows, found: Sequence[tuple[Rows | slice, Values]]) -> Sequence[Values]:
        """Return the outputs of a fault for all its images, each for itself where they are large: they are not copied.

        Args:
            images: which images they are.
            found: places among these, and what the fault makes of them.
        """
        known = take(self._golden.outputs, images)
        if not found:
            return [known]
        if not large(known):
            whole = {name: value.copy() for name, value in known.items()}
            for places, outputs in found:
                for name, value in outputs.items():
                    whole[name][places] = value
            return [whole]
        apart = [{name: value[place : place + 1] for name, value in known.items()} for place in range(len(images))]
        for places, outputs in found:
            for row, place in enumerate(np.arange(len(images))[places]):
                apart[place].update((name, value[row : row + 1]) for name, value in outputs.items())
        return apart


def _all(images: slice) -> Rows:
    return np.arange(images.start, images.stop)


def by_sample(golden: Golden, outputs: Values, rows: int) -> Values:
    """Return outputs for a batch of so many rows as arrays whose first axis is that of the images.

    Raises:
        ModelError: if they cannot be read so.
    """
    return {name: golden.forms[name].by_sample(name, value, rows) for name, value in outputs.items()}


def _changed(blocks: Blocks, golden: Blocks, count: int) -> Rows | None:
    """Return which of the first images differ in any value; None if that cannot be told by image."""
    changed = np.zeros(count, dtype=bool)
    for name, block in blocks.items():
        known = golden[name]
        if block is None or known is None or block.shape != known.shape or block.dtype != known.dtype:
            return None
        changed |= differing(block, known)[:count]
    return np.flatnonzero(changed)
