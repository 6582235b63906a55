"""Whether images may be run in other company: beside other images, in other places, in batches of another size.

Integer kernels give an image the same values whatever shares its batch, float kernels often. That is tried out once for
a golden graph, with golden images, and all values that are known of it are compared bit by bit: the parts of the graph
that run behind faults are made of the same nodes.

Batches of large images are run in smaller ones, whose values stay in the cache of the CPU. How floating-point products
are summed up may depend on how many rows there are, so that a graph with any keeps the batches of its file.
"""

import threading
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.engines.activations import Activations, Values
from resq_deploy.campaign.engines.cuts import COSTLY
from resq_deploy.campaign.engines.rows import Rows, alike, joined, split
from resq_deploy.deployed.runtime_errors import RUNTIME_ERRORS
from resq_deploy.deployed.runtime_graph import RuntimeGraph
from resq_deploy.errors import ModelError

_IN_CACHE = 2**21
"""Bytes that the widest value of a batch may take, so that a run finds in the cache what it has just written."""

_ALONE = 4
"""Images of a batch that are tried by themselves: kernels go by shapes, which are the same for all of them."""

_INTEGER_SUMS = frozenset({"ConvInteger", "MatMulInteger", "QGemm", "QLinearConv", "QLinearMatMul"})
"""Costly operators that compute the very same sums in any order."""

_FAILURES: tuple[type[Exception], ...] = (*RUNTIME_ERRORS, ModelError, ValueError)


class Company:
    """Images in batches of one size; thread-safe.

    Args:
        graph: the golden graph.
        activations: its values.
        size: images a batch.
    """

    def __init__(self, graph: RuntimeGraph, activations: Activations, size: int) -> None:
        self.size = size
        self._graph, self._activations = graph, activations
        self._lock = threading.Lock()
        self._seen: set[str] | None = None
        self._astray: set[str] = set()

    def holds(self, names: Collection[str]) -> bool:
        """Return whether golden images in such batches keep these values bit by bit.

        Of a value that was not seen by itself, all that were seen must.
        """
        with self._lock:
            if self._seen is None:
                self._seen = self._tried()
        unseen = any(name not in self._seen for name in names)
        return self._astray.isdisjoint(names) and not (unseen and self._astray)

    def _tried(self) -> set[str]:
        """Run golden images in such batches, and return which values were seen."""
        last = len(self._activations) - 1
        source = np.random.default_rng(0)  # any images will do; fixed ones keep runs alike
        seen = set(self._graph.inputs)
        tried = sorted({0, min(1, last), last})
        # Alone an image is where it is; among others it may be anywhere, and a single batch is tried twice.
        for batch in tried if self.size == 1 or last else [0, 0]:
            seen.update(self._tried_on(batch, source))
        return seen

    def _tried_on(self, batch: int, source: np.random.Generator) -> set[str]:
        """Run images of a batch, each alone or some drawn, by segments; note which values are others than in it."""
        activations, seen = self._activations, set[str]()
        count, runs = activations.counts[batch], -(-activations.rows(0) // self.size)
        if self.size == 1:
            drawn = list(source.permutation(count)[:_ALONE].reshape(-1, 1))
        else:
            drawn = [source.integers(count, size=self.size) for _ in range(runs)]
        known = [self._of(batch, activations.feeds(batch), chosen) for chosen in drawn]
        for border, names, part in activations.stages():
            seen.update(names)
            golden = activations.get(batch, names)
            for chosen, values in zip(drawn, known, strict=True):
                expected = self._of(batch, golden, chosen)
                try:
                    made = part.run_named(values)
                except _FAILURES:  # shapes that do not fit: the values are no rows of images
                    self._astray.update(names)
                else:
                    self._astray.update(name for name in names if not alike(made[name], expected[name]))
                values.update((name, expected[name]) for name in border)
        return seen

    def _of(self, batch: int, golden: Values, chosen: Rows) -> Values:
        """Return golden values of some images of a batch; whole what is the same whatever the images, or no rows."""
        rows, found = self._activations.rows(batch), dict[str, NDArray[Any]]()
        for name, value in golden.items():
            blocks = split(value, rows) if name in self._graph.varying else None
            found[name] = value if blocks is None else joined(blocks[chosen])
            if blocks is None and name in self._graph.varying:
                self._astray.add(name)
        return found


def companies(graph: RuntimeGraph, activations: Activations) -> Iterator[Company]:
    """Yield the batches that images may be run in, the best first."""
    rows = activations.rows(0)
    if all(node.op_type in _INTEGER_SUMS for node in graph.nodes if node.op_type in COSTLY):
        widest = _widest(graph, activations)
        size = rows if widest is None else max(1, _IN_CACHE // max(widest, 1))
        if size < rows:
            yield Company(graph, activations, size)
    yield Company(graph, activations, rows)


def _widest(graph: RuntimeGraph, activations: Activations) -> int | None:
    """Return the bytes of the widest value for one image, run by itself; None where none can be."""
    rows, values, widest = activations.rows(0), dict[str, NDArray[Any]](), 0
    for name, value in activations.feeds(0).items():
        blocks = split(value, rows) if name in graph.varying else None
        values[name] = value if blocks is None else joined(blocks[:1])
    for _, _, part in activations.stages():
        try:
            made = part.run_named(values)
        except _FAILURES:
            return None
        values |= made
        widest = max(widest, *(value.nbytes for value in made.values()))
    return widest
