"""The fast engine: run only what a fault can change, and only for the images it does change.

A fault is placed in the optimised graph that onnxruntime runs. What comes before it has its golden values, which are
cached; what comes behind it is golden again and is run for the images whose values really differ. Two ways lead to
the faulty part: a flip in the integers of a layer needs no session of its own (`channels`), nor does one in a scale or
zero point that the optimiser is proven to hand on (`handed_on`, `fed`); for every other fault the faulty file is
optimised anew and compared, node by node, with the golden graph (`cuts`). Of a fault in stored copies
that are voted on, only what the votes let through counts (`voting`), and of one in code words what decoding leaves
(`decoding`).

Whatever is not proven to be exact that way is left to reload-and-run.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.answers import run_in_pieces
from resq_deploy.campaign.engines.activations import Values
from resq_deploy.campaign.engines.channels import MOST, ChannelLayer, Channels
from resq_deploy.campaign.engines.cuts import COSTLY, changed_nodes, cut, with_cheap_readers
from resq_deploy.campaign.engines.group import Group
from resq_deploy.campaign.engines.handed_on import HandedOn
from resq_deploy.campaign.engines.injection import Injection, Injector
from resq_deploy.campaign.engines.kept import find_kept
from resq_deploy.campaign.engines.protection import Leaving, Protection
from resq_deploy.campaign.engines.reload import ReloadEngine, without_run
from resq_deploy.campaign.engines.rest import by_sample
from resq_deploy.campaign.engines.stage import Stage
from resq_deploy.campaign.engines.sweep import GoldenGraph
from resq_deploy.campaign.engines.together import (
    FAILURES,
    GraphRun,
    InLayer,
    LayerRun,
    Run,
    ValueRun,
    run_together,
)
from resq_deploy.campaign.golden import Golden
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.record import Record, Way
from resq_deploy.deployed.health import Health
from resq_deploy.deployed.runtime_errors import first_line
from resq_deploy.deployed.runtime_graph import Part, RuntimeGraph, optimise
from resq_deploy.deployed.session import Session
from resq_deploy.errors import ModelError
from resq_deploy.faults.fault import Fault
from resq_deploy.faults.judges.outputs import same

_LEAST, _LAYERS = 2, 64  # of a portion: faults at least; layers to run for all of them together, about
_FEW = 32  # pictures of CIFAR's size; for no more a session takes longer to make than to run, and nothing is saved
_OF_CIFAR = 3 * 32 * 32  # numbers of such a picture
_OUTVOTED = 64  # faults of a portion that need no run

_Where = tuple[Way, int | str]
"""What faults that are run together have in common: a layer's node, or a tensor."""


class _Path(NamedTuple):
    """How a fault is evaluated; of one in the integers of a layer its node, and the channels that it touches."""

    way: Way
    place: int = -1
    channels: Channels | None = None


class _Waiting(NamedTuple):
    """A fault that is to be run with others: what of it the record needs, and what is run (`InLayer`, or new bytes)."""

    fault: Fault
    changed: int
    health: Health | None
    content: Any


class NotReplayableError(Exception):
    """This model or this fault cannot be replayed exactly; the reason is for people to read."""


class ReplayEngine:
    """Evaluates faults by replay, with the very records of reload-and-run.

    Args:
        injector: makes and proves the injections.
        golden: the fault-free run.
        options: deployment, memory and time limit.
        truth: evaluates what cannot be replayed.
        known: the graph that the golden run was made with, and its values, if it was.

    Raises:
        NotReplayableError: if the optimised graph cannot be run in parts, or its parts do not give the golden outputs.
    """

    name = "replay"

    def __init__(
        self,
        injector: Injector,
        golden: Golden,
        options: CampaignOptions,
        truth: ReloadEngine,
        known: GoldenGraph | None = None,
    ) -> None:
        self._injector = injector
        self._golden = golden
        self._options = options
        self._truth = truth
        self._deployment = options.deployment
        if not self._deployment.on_cpu:
            raise NotReplayableError("only onnxruntime's CPU provider can be replayed")
        if golden.inputs.states:
            raise NotReplayableError("samples are sequences, whose states go from step to step")
        if options.time_limit is not None:
            self._check_time(options.time_limit)
        try:
            if known is None or list(known.graph.outputs) != list(golden.outputs):
                known = self._golden_graph()
            self._graph, self._activations, room = known
            self._of_part = [self._activations.batches(piece) for piece in golden.pieces(None)]
            self._check_golden()
        except (ModelError, ValueError, KeyError) as error:
            raise NotReplayableError(f"onnxruntime's optimised graph cannot be run ({first_line(error)})") from error
        golden_nodes = self._graph.signatures()
        self._signatures = frozenset(golden_nodes)
        if golden.health is not None and self._graph.health() != golden.health:
            raise NotReplayableError("onnxruntime does not fold what the file reports of its code words")
        self._protection = Protection(injector, self._graph, golden_nodes, golden.health, self._optimised_or_none)
        self._kept = find_kept(injector, self._protection, self._graph, self._signatures, self._optimised_or_none)
        self._handed_on = HandedOn(
            injector, self._protection.involved, self._graph, golden_nodes, self._optimised_or_none
        )
        self._stage = Stage(
            self._graph, self._activations, golden, self._deployment, options.worker_count, room.sessions
        )
        self._portions: dict[int, int] = {}
        held = options.worker_count * sum(values.nbytes for values in golden.outputs.values())
        self._most = max(1, min(MOST, room.outputs // max(held, 1)))

    def _golden_graph(self) -> GoldenGraph:
        golden = self._golden
        pieces = [golden.inputs[piece] for piece in golden.pieces(None)]
        batches = [batch for piece in pieces for batch in piece.batches(self._deployment.batch)]
        model, outputs = self._injector.patcher.golden, list(golden.outputs)
        given = sum(values.nbytes for values in golden.outputs.values())
        return GoldenGraph.of(model, outputs, batches, golden.inputs.alike, self._deployment, self._options, given)

    def _check_time(self, limit: float) -> None:
        """Check that a fault which leaves the work as it is cannot pass the time limit."""
        session = Session(self._injector.patcher.golden, self._deployment)
        begin = time.perf_counter()
        run_in_pieces(session, self._golden.inputs, self._golden.pieces(None), self._golden.forms)
        seconds = time.perf_counter() - begin
        if 2 * seconds > limit:
            raise NotReplayableError(f"the golden run takes {seconds:.2g} s, too near to the time limit of {limit} s")

    def _check_golden(self) -> None:
        """Check that the optimised graph gives the golden outputs, on the first batch and on the last."""
        for batch in {0, len(self._activations) - 1}:
            whole = by_sample(
                self._golden, self._activations.get(batch, self._graph.outputs), self._activations.rows(batch)
            )
            found = {name: value[: self._activations.counts[batch]] for name, value in whole.items()}
            images = self._activations.images(batch)
            if not same({name: values[images] for name, values in self._golden.outputs.items()}, found).all():
                raise NotReplayableError("the optimised graph does not give the outputs of the file")

    def group(self, tensors: Sequence[str]) -> Group | None:
        """Return which faults those in these tensors are best evaluated with; None if with no others."""
        exposed = self._protection.exposed(tensors)
        place, nowhere = len(self._graph.nodes), self._stage.stretch(len(self._graph.nodes))
        if tensors and not exposed:
            return Group(nowhere, place, "", _OUTVOTED)
        if len(exposed) != 1:
            return None
        readers = self._graph.readers(exposed[0])
        if not readers:
            return Group(nowhere, place, exposed[0], 1)
        return Group(self._stage.stretch(readers[0]), readers[0], "", self._portion(readers[0]))

    def _portion(self, place: int) -> int:
        """Return how many faults at a node make a portion; 64 layers to run for all of them together, or so."""
        if place in self._portions:
            return self._portions[place]
        layers = sum(self._graph.nodes[behind].op_type in COSTLY for behind in self._graph.descendants([place]))
        return self._portions.setdefault(place, min(self._most, max(_LEAST, _LAYERS // max(layers, 1))))

    def way(self, fault: Fault) -> Way:
        """Return how a fault is evaluated, unless that turns out to fail and it is left to reload-and-run."""
        injection = self._injector.inject(fault)
        if without_run(injection, self._golden):
            return Way.UNCHANGED
        return self._path(injection, self._protection.left(injection)).way

    def widest(self, tensors: Sequence[str], elements: int) -> NDArray[np.int64]:
        """Return which elements of tensors that are alike one fault may hit and still go the way of a single flip."""
        exposed = self._protection.exposed(tensors)
        places = self._graph.readers(exposed[0]) if len(exposed) == 1 and exposed[0] in self._kept else []
        layer = self._stage.layer(places[0]) if len(places) == 1 else None
        if layer is None or exposed[0] not in layer.tensors:
            return np.arange(elements)
        return layer.elements(exposed[0], _most_touched(layer))

    def evaluate(self, faults: Sequence[Fault]) -> list[Record]:
        """Return what each fault does; thread-safe.

        Raises:
            InjectionError: if stored bytes are not exactly what a fault asks for.
            FailedError: what reload-and-run raises of the faults that are left to it.
        """
        records, rebuilt = [], []
        waiting: dict[_Where, list[_Waiting]] = {}
        for fault in faults:
            injection = self._injector.inject(fault)
            settled = without_run(injection, self._golden)
            if settled:
                records.append(settled)
                continue
            left = self._protection.left(injection)
            path = self._path(injection, left)
            tensor = next(iter(left.values), "")
            if path.way is Way.RELOAD:
                records.append(self._truth.run(injection))
            elif path.way is Way.REBUILD:
                rebuilt.append(fault)
            elif path.way is Way.CHANNELS:
                waiting.setdefault((path.way, path.place), []).append(self._in_layer(fault, injection, left, path))
            elif path.way is Way.VALUES:
                one = _Waiting(fault, injection.changed, left.health, left.values[tensor])
                waiting.setdefault((path.way, tensor), []).append(one)
            else:  # nothing is left of it, or nothing reads what is
                outputs = self._golden.outputs_on(fault.share)
                records.append(self._record(fault, injection.changed, outputs, path.way, left.health))
        records += self._together(waiting)
        for fault in rebuilt:  # one after the other: each graph of its own may be as large as the file
            injection = self._injector.inject(fault)
            records.append(self._rebuild(injection, self._protection.left(injection)))
        return records

    def _path(self, injection: Injection, left: Leaving) -> _Path:
        """Return how a fault that changes something is evaluated."""
        if not left.values and left.known:  # every change was outvoted or corrected
            return _Path(self._protection.way(injection))
        if self._kept.issuperset(left.values) and (path := self._layer_of(left)):
            return path
        if self._options.time_limit is not None:  # how long the whole file runs is not known from a part
            return _Path(Way.RELOAD)
        few = self._few(injection.fault) and not self._protection.without_code(injection, left)
        if not left.known or not self._handed_on.holds(injection, alone=not few):
            return _Path(Way.RELOAD if few else Way.REBUILD)
        if self._graph.parameters.keys().isdisjoint(left.values):
            return _Path(Way.GOLDEN)
        return self._layer_of(left) or _Path(Way.VALUES)

    def _few(self, fault: Fault) -> bool:
        """Return whether a fault is judged on so few images that reload-and-run is as fast as optimising anew."""
        images = sum(int(piece.stop - piece.start) for piece in self._golden.pieces(fault.share))
        numbers = sum(array[:1].size for array in self._golden.inputs.arrays.values())
        return images * max(1.0, numbers / _OF_CIFAR) <= _FEW

    def _layer_of(self, left: Leaving) -> _Path | None:
        """Return the layer whose channels can be computed by themselves for new bytes that it reads, if any."""
        values = left.values
        places = {place for tensor in values for place in self._graph.readers(tensor)}
        if len(places) != 1 or not left.known:
            return None
        place = places.pop()
        layer = self._stage.layer(place)
        if layer is None or not set(values) <= set(layer.tensors):
            return None
        channels = layer.touched(values)
        return _Path(Way.CHANNELS, place, channels) if len(channels) <= _most_touched(layer) else None

    # Faults that are run together.

    def _in_layer(self, fault: Fault, injection: Injection, left: Leaving, path: _Path) -> _Waiting:
        layer = self._stage.layer(path.place)
        if layer is None or path.channels is None:
            raise ValueError("the layer cannot be computed by channels")
        content = InLayer(path.channels, layer.faulty(left.values, path.channels))
        return _Waiting(fault, injection.changed, left.health, content)

    def _together(self, waiting: Mapping[_Where, Sequence[_Waiting]]) -> list[Record]:
        """Evaluate faults at once, or where that fails each by itself; the truth decides what a failure means."""
        runs: list[Run] = []
        of_run: list[tuple[_Where, Sequence[_Waiting]]] = []
        failed: list[tuple[_Where, Sequence[_Waiting]]] = []
        for key, faults in waiting.items():
            try:
                runs.append(self._run(key, faults))
                of_run.append((key, faults))
            except FAILURES:
                failed.append((key, faults))
        records = []
        for (key, faults), found in zip(of_run, run_together(runs, self._activations), strict=True):
            if found is None:
                failed.append((key, faults))
                continue
            for one, outputs in zip(faults, found, strict=True):
                records.append(self._record(one.fault, one.changed, outputs, key[0], one.health))
        for key, faults in failed:
            if len(faults) == 1:
                records.append(self._truth.run(self._injector.inject(faults[0].fault)))
            else:
                records += [record for one in faults for record in self._together({key: [one]})]
        return records

    def _run(self, key: _Where, faults: Sequence[_Waiting]) -> Run:
        """Return faults in one layer, or in one tensor, ready to be run."""
        _, where = key
        batches = [self._batches(one.fault) for one in faults]
        if isinstance(where, int):
            return LayerRun(self._stage, where, [one.content for one in faults], batches)
        return ValueRun(self._stage, where, [one.content for one in faults], batches)

    # Any other fault.

    def _rebuild(self, injection: Injection, left: Leaving) -> Record:
        """Evaluate a fault by optimising the faulty file anew and running what differs from the golden graph.

        Where the fault hits none of what decodes weights, the file without code is optimised in its place.
        """
        try:
            faulty, health = self._protection.optimised(injection, left, self._optimised)
            changed = changed_nodes(faulty.signatures(self._graph), self._signatures)
            outputs: Values | Sequence[Values]
            if changed:
                outputs = self._behind(faulty, changed, self._batches(injection.fault))
            else:
                outputs = self._golden.outputs_on(injection.fault.share)
        except (NotReplayableError, ModelError):
            return self._truth.run(injection)
        way = Way.REBUILD if changed else Way.GOLDEN
        return self._record(injection.fault, injection.changed, outputs, way, health)

    def inert(self, fault: Fault) -> bool:
        """Return whether onnxruntime, given the faulty file, is seen to run the golden graph, whatever was proven."""
        masks = self._injector.inject(fault).masks
        faulty = self._optimised_or_none(self._injector.patcher.apply(masks)) if masks else self._graph
        return faulty is not None and not changed_nodes(faulty.signatures(self._graph), self._signatures)

    def _optimised_or_none(self, model: bytes) -> RuntimeGraph | None:
        try:
            return self._optimised(model)
        except NotReplayableError:
            return None

    def _optimised(self, model: bytes) -> RuntimeGraph:
        try:
            return RuntimeGraph(optimise(model, self._deployment), self._graph.outputs)
        except (ModelError, KeyError) as error:
            raise NotReplayableError("the faulty file cannot be optimised") from error

    def _behind(self, faulty: RuntimeGraph, changed: Collection[int], batches: Sequence[int]) -> Sequence[Values]:
        """Return the outputs of a faulty graph for the images of some batches, [n, ...] each, some after the other."""
        where = cut(faulty, with_cheap_readers(faulty, changed), self._graph)
        try:
            faulty.take_types(self._graph)
            model, inputs = faulty.part(where.head, where.dirty)
            head = Part(model, inputs, where.dirty, self._deployment)
            (found,) = run_together([GraphRun(self._stage, where, head, batches)], self._activations)
        except FAILURES as error:
            raise NotReplayableError(first_line(error)) from error
        if found is None:  # the truth decides what it means
            raise NotReplayableError("the faulty graph cannot be run")
        return found[0]

    def _record(
        self, fault: Fault, changed: int, outputs: Values | Sequence[Values], way: Way, health: Health | None
    ) -> Record:
        if self._golden.differs(outputs, fault.share):
            return self._truth.run(self._injector.inject(fault))
        return self._golden.record(fault.number, outputs, changed, way=way, share=fault.share, health=health)

    def _batches(self, fault: Fault) -> list[int]:
        """Return the batches of the images that a fault is judged on."""
        parts = self._golden.parts
        return [batch for number in parts.numbers(fault.share or parts.whole()) for batch in self._of_part[number]]


def _most_touched(layer: ChannelLayer) -> int:
    """Return how many channels a fault may touch for them to be computed by themselves; beyond, the layer is run."""
    return max(1, int(layer.channels) // 2)
