"""Faults that are run together, batch by batch: golden values of a batch serve all faults that are run on it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.engines.activations import Activations, Values
from resq_deploy.campaign.engines.channels import MOST, ChannelLayer, Channels
from resq_deploy.campaign.engines.cuts import Cut
from resq_deploy.campaign.engines.stage import Stage
from resq_deploy.deployed.runtime_errors import RUNTIME_ERRORS
from resq_deploy.deployed.runtime_graph import Part
from resq_deploy.errors import ModelError

FAILURES: tuple[type[Exception], ...] = (*RUNTIME_ERRORS, ModelError, ValueError)
"""What running parts of a graph may end in."""


class Run(Protocol):
    """Some faults that are run together.

    Attributes:
        names: golden values that it takes.
    """

    names: list[str]

    @property
    def batches(self) -> Sequence[Sequence[int]]:
        """For each fault the batches that it is run on."""

    def add(self, batch: int, owners: Sequence[int], golden: Values) -> None:
        """Run some of the faults on a batch.

        Raises:
            Exception: whatever onnxruntime raises.
        """

    def done(self) -> list[Sequence[Values]]:
        """Return the outputs of each fault for the images of its batches, [n, ...] each, some after the other."""


class InLayer(NamedTuple):
    """A fault in the integers of one layer: the channels that it touches, and what the layer then stores for them."""

    channels: Channels
    stored: list[NDArray[np.generic]]


class LayerRun:
    """Faults in the integers of one layer; `Run`.

    Args:
        stage: what they share.
        place: the layer's node.
        faults: what they are.
        batches: for each fault the batches that it is run on.

    Raises:
        ValueError: if the layer cannot be computed by channels.
        Exception: whatever onnxruntime raises.
    """

    def __init__(self, stage: Stage, place: int, faults: Sequence[InLayer], batches: Sequence[Sequence[int]]) -> None:
        layer = stage.layer(place)
        if layer is None:
            raise ValueError("the layer cannot be computed by channels")
        self._layer: ChannelLayer = layer
        self._activations, self._faults, self.batches = stage.activations, faults, batches
        where, self._link = stage.behind_layer(place)
        rest = stage.rest(where)
        self._outputs = stage.outputs(where, rest, batches)
        link = self._link.inputs if self._link else ()
        self.names = list(dict.fromkeys((layer.data, layer.output, *link, *(rest.names if rest else ()))))

    def add(self, batch: int, owners: Sequence[int], golden: Values) -> None:
        """Compute the channels of some faults on a batch, and what the images that changed make of them."""
        layer = self._layer
        faults = [self._faults[owner] for owner in owners]
        parts = layer.run(golden[layer.data], [one.channels for one in faults], [one.stored for one in faults])
        rows, count = self._activations.rows(batch), self._activations.counts[batch]
        for owner, fault, part in zip(owners, faults, parts, strict=True):
            changed = layer.differing(part, golden[layer.output], fault.channels, rows)
            changed, overlay = changed[changed < count], layer.overlay(part, fault.channels, rows)
            if self._link and len(changed):
                whole = {**golden, **layer.faulty_output(golden, overlay, rows)}
                self._outputs.add(owner, batch, golden, self._link.run_named(whole))
            elif len(changed):
                self._outputs.add_rows(owner, batch, golden, changed, overlay)

    def done(self) -> list[Sequence[Values]]:
        """Return the outputs of each fault."""
        return self._outputs.done()


class ValueRun:
    """Faults in one other stored tensor that the optimiser hands on; `Run`.

    Args:
        stage: what they share.
        tensor: one of the graph's parameters.
        faults: its new stored bytes.
        batches: for each fault the batches that it is run on.

    Raises:
        Exception: whatever onnxruntime raises.
    """

    def __init__(self, stage: Stage, tensor: str, faults: Sequence[bytes], batches: Sequence[Sequence[int]]) -> None:
        self._fed = stage.fed(tensor, faults[0], batches[0][0])
        self._faults, self.batches = faults, batches
        rest = stage.rest(self._fed.where)
        self._outputs = stage.outputs(self._fed.where, rest, batches)
        self.names = list(dict.fromkeys((*self._fed.inputs, *(rest.names if rest else ()))))

    def add(self, batch: int, owners: Sequence[int], golden: Values) -> None:
        """Run what reads the tensor on a batch, and what the images that changed make of it."""
        for owner in owners:
            self._outputs.add(owner, batch, golden, self._fed.run(self._faults[owner], golden))

    def done(self) -> list[Sequence[Values]]:
        """Return the outputs of each fault."""
        return self._outputs.done()


class GraphRun:
    """One fault of which the faulty graph is known, from the first node that differs; `Run`.

    Args:
        stage: what is shared.
        where: where the faulty graph differs.
        head: its nodes that differ, ready to run.
        batches: that the fault is run on.

    Raises:
        Exception: whatever onnxruntime raises.
    """

    def __init__(self, stage: Stage, where: Cut, head: Part, batches: Sequence[int]) -> None:
        self._head, self.batches = head, [batches]
        rest = stage.rest(where)
        self._outputs = stage.outputs(where, rest, self.batches)
        self.names = list(dict.fromkeys((*head.inputs, *(rest.names if rest else ()))))

    def add(self, batch: int, owners: Sequence[int], golden: Values) -> None:
        """Run the nodes that differ on a batch, and what the images that changed make of it."""
        for owner in owners:
            self._outputs.add(owner, batch, golden, self._head.run_named(golden))

    def done(self) -> list[Sequence[Values]]:
        """Return the outputs of the fault."""
        return self._outputs.done()


def run_together(runs: Sequence[Run], activations: Activations) -> list[list[Sequence[Values]] | None]:
    """Run faults batch by batch.

    Args:
        runs: the faults.
        activations: golden values.

    Returns:
        For each run the outputs of its faults; None where it failed.
    """
    visits: dict[int, list[tuple[int, list[int]]]] = {}
    for number, run in enumerate(runs):
        for batch, owners in _by_batch(run.batches):
            visits.setdefault(batch, []).append((number, owners))
    failed = set[int]()
    for batch, visitors in sorted(visits.items()):
        here = {number for number, _ in visitors} - failed
        try:
            golden = activations.get(
                batch, dict.fromkeys(name for number in sorted(here) for name in runs[number].names)
            )
        except FAILURES:
            failed |= here
            continue
        for number, owners in visitors:
            try:
                if number not in failed:
                    runs[number].add(batch, owners, golden)
            except FAILURES:
                failed.add(number)
    found: list[list[Sequence[Values]] | None] = []
    for number, run in enumerate(runs):
        try:
            found.append(None if number in failed else run.done())
        except FAILURES:
            found.append(None)
    return found


def _by_batch(batches: Sequence[Sequence[int]]) -> Iterator[tuple[int, list[int]]]:
    """Yield each batch, and which faults are run on it, `MOST` at a time; given the batches of each fault."""
    found: dict[int, list[int]] = {}
    for owner, of in enumerate(batches):
        for batch in of:
            found.setdefault(batch, []).append(owner)
    for batch, owners in found.items():
        for start in range(0, len(owners), MOST):
            yield batch, owners[start : start + MOST]
