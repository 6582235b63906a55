"""The rest of the network behind a fault: golden nodes, run only for the images whose values the fault changed.

Changed images of many batches and faults are collected into full batches. That is exact where an image's outputs do
not depend on which images share its batch, and on its place in it. Integer kernels have that property, float kernels
often; whether this rest has it is tried out with golden values before it is relied on. Where it has not, a batch in
which any image changed is run as the whole file would run it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.engines.activations import Activations, Values
from resq_deploy.campaign.engines.cuts import Cut
from resq_deploy.deployed.runtime_graph import Part, RuntimeGraph
from resq_deploy.deployed.session import Deployment, as_scores

_BATCH_WIDE = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
"""Operators that look at all images of a batch at once."""

_TRIALS = 3

Rows = NDArray[np.int64]


def split(value: NDArray[Any], images: int) -> NDArray[Any] | None:
    """Return a value as one block an image, shape [images, ...]; None if it cannot be read so."""
    if not value.ndim or not images or not value.size or len(value) % images:
        return None
    return value.reshape(images, -1, *value.shape[1:])


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
        logits: golden outputs, shape [N, C].
        deployment: how the file is run.

    Attributes:
        dirty: values the faulty head gives it.
        clean: golden values it reads beside them.
        pooled: whether images may be collected into batches of their own.
    """

    def __init__(
        self,
        graph: RuntimeGraph,
        cut: Cut,
        activations: Activations,
        logits: NDArray[np.float32],
        deployment: Deployment,
    ) -> None:
        self.dirty, self.clean = cut.dirty, cut.clean
        model, inputs = graph.part(cut.rest, [graph.output])
        self._part = Part(model, inputs, [graph.output], deployment)
        self._activations = activations
        self.size = activations.rows(0)
        batch_wide = any(graph.nodes[place].op_type in _BATCH_WIDE for place in cut.rest)
        self.pooled = not batch_wide and self._independent(logits)

    @property
    def names(self) -> list[str]:
        """The golden values needed to run it: those of the head's outputs and the clean ones."""
        return list(dict.fromkeys((*self.dirty, *self.clean)))

    def run(self, values: Mapping[str, NDArray[Any]], rows: int) -> NDArray[np.float32]:
        """Return the outputs for one batch of values, shape [rows, C]."""
        return as_scores(self._part.run(values)[0], rows)

    def _independent(self, logits: NDArray[np.float32]) -> bool:
        """Try whether golden images, mixed and moved, keep their golden outputs bit by bit."""
        counts = self._activations.counts
        tried = sorted({0, min(1, len(counts) - 1), len(counts) - 1})
        source = np.random.default_rng(0)  # any mixture will do; a fixed one keeps runs alike
        values = {batch: self._activations.get(batch, self.names) for batch in tried}
        for _ in range(_TRIALS):
            batch = source.choice(tried, self.size)
            image = np.array([source.integers(counts[at]) for at in batch])
            pool = Pool(self)
            for at in tried:
                chosen = np.flatnonzero(batch == at)
                blocks = {name: split(values[at][name], self._activations.rows(at)) for name in self.names}
                if any(blocks[name] is None for name in self.dirty):
                    return False
                taken = {name: block[image[chosen]] for name, block in blocks.items() if block is not None}
                pool.add(taken, values[at], self._activations.images(at).start + image[chosen], 0)
            try:
                answers = pool.flush()
            except Exception:  # shapes that do not fit: the values are no rows of images
                return False
            for answer in answers:
                if differing(answer.logits, logits[answer.image]).any():
                    return False
        return True


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """Outputs for images of faults.

    Attributes:
        owner: which fault each row belongs to, shape [n].
        image: which image, shape [n].
        logits: shape [n, C].
    """

    owner: Rows
    image: Rows
    logits: NDArray[np.float32]


class Pool:
    """Collects changed images until they fill a batch.

    Args:
        rest: what to run them through.
    """

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self._blocks: dict[str, list[NDArray[Any]]] = {}
        self._shared: Values = {}
        self._owner: list[Rows] = []
        self._image: list[Rows] = []
        self._waiting = 0

    def add(self, blocks: Mapping[str, NDArray[Any]], golden: Values, image: Rows, owner: int) -> None:
        """Take blocks of images, shape [n, ...] each, and the golden values of those that are the same for all."""
        for name in self._rest.names:
            if name in blocks:
                self._blocks.setdefault(name, []).append(blocks[name])
            else:
                self._shared.setdefault(name, golden[name])
        self._image.append(image)
        self._owner.append(np.full(len(image), owner))
        self._waiting += len(image)

    def full(self) -> list[Answer]:
        """Run the batches that are full."""
        return self._run(self._waiting // self._rest.size) if self._waiting >= self._rest.size else []

    def flush(self) -> list[Answer]:
        """Run everything; the last batch is filled up with copies."""
        return self._run(-(-self._waiting // self._rest.size)) if self._waiting else []

    def _run(self, batches: int) -> list[Answer]:
        size = self._rest.size
        blocks = {name: np.concatenate(parts) for name, parts in self._blocks.items()}
        owner, image = np.concatenate(self._owner), np.concatenate(self._image)
        answers = []
        for start in range(0, batches * size, size):
            rows = np.arange(start, min(start + size, len(image)))
            filled = np.concatenate([rows, np.full(size - len(rows), rows[-1])])
            values = {name: block[filled].reshape(-1, *block.shape[2:]) for name, block in blocks.items()}
            logits = self._rest.run({**self._shared, **values}, size)[: len(rows)]
            answers.append(Answer(owner[rows], image[rows], logits))
        left = slice(batches * size, None)
        self._blocks = {name: [block[left]] for name, block in blocks.items()}
        self._owner, self._image = [owner[left]], [image[left]]
        self._waiting = len(self._image[0])
        return answers


class Outputs:
    """Outputs of the faults behind one cut, in the making: golden until a fault is seen to change them.

    Args:
        rest: what is behind the cut; None if the cut is behind the last node.
        activations: golden values.
        golden: golden outputs, shape [N, C].
        faults: how many faults.
    """

    def __init__(self, rest: Rest | None, activations: Activations, golden: NDArray[np.float32], faults: int) -> None:
        self._rest = rest
        self._activations = activations
        self._logits = [golden.copy() for _ in range(faults)]
        self._pool = Pool(rest) if rest and rest.pooled else None

    def add(self, owner: int, batch: int, golden: Values, dirty: Values) -> None:
        """Take the values that a fault makes of one batch, all of them, and run what changed or keep it for later.

        Raises:
            Exception: whatever onnxruntime raises.
            ValueError: if the outputs are not of the golden shape.
        """
        rows, images = self._activations.rows(batch), self._activations.images(batch)
        count = self._activations.counts[batch]
        if self._rest is None:
            (output,) = dirty.values()
            self._logits[owner][images] = as_scores(output, rows)[:count]
            return
        blocks = {name: split(value, rows) for name, value in dirty.items()}
        known = {name: split(golden[name], rows) for name in self._rest.names}
        changed = self._changed(blocks, known, count)
        if self._pool is None or changed is None:
            if changed is None or len(changed):
                logits = self._rest.run({**golden, **dirty}, rows)
                self._logits[owner][images] = logits[:count]
        elif len(changed):
            taken = {name: block[changed] for name, block in {**known, **blocks}.items() if block is not None}
            self._pool.add(taken, golden, images.start + changed, owner)
            self._put(self._pool.full())

    def done(self) -> list[NDArray[np.float32]]:
        """Return the outputs of each fault, shape [N, C] each."""
        if self._pool:
            self._put(self._pool.flush())
        return self._logits

    def _put(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            for owner in np.unique(answer.owner):
                mine = answer.owner == owner
                self._logits[owner][answer.image[mine]] = answer.logits[mine]

    def _changed(
        self,
        blocks: Mapping[str, NDArray[Any] | None],
        golden: Mapping[str, NDArray[Any] | None],
        count: int,
    ) -> Rows | None:
        """Return which images differ in any value; None if that cannot be told by image."""
        changed = np.zeros(count, dtype=bool)
        for name, block in blocks.items():
            known = golden[name]
            if block is None or known is None or block.shape != known.shape or block.dtype != known.dtype:
                return None
            changed |= differing(block, known)[:count]
        return np.flatnonzero(changed)
