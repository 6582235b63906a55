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

import functools
import itertools
import resource
import sys
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.engines.activations import Activations
from resq_deploy.campaign.engines.channels import INTEGERS, MOST, ChannelLayer, integer_operands
from resq_deploy.campaign.engines.cuts import COSTLY, Cut, changed_nodes, cut, with_cheap_readers
from resq_deploy.campaign.engines.fed import Fed
from resq_deploy.campaign.engines.group import Group
from resq_deploy.campaign.engines.handed_on import HandedOn
from resq_deploy.campaign.engines.health import health_of
from resq_deploy.campaign.engines.injection import Injection, Injector
from resq_deploy.campaign.engines.protection import Leaving, Protection
from resq_deploy.campaign.engines.recent import Recent
from resq_deploy.campaign.engines.reload import ReloadEngine, without_run
from resq_deploy.campaign.engines.rest import Outputs, Rest, differing
from resq_deploy.campaign.golden import Golden, run_in_pieces
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.record import Record, Way
from resq_deploy.deployed.health import Health
from resq_deploy.deployed.runtime_graph import Part, RuntimeGraph, optimise
from resq_deploy.deployed.session import RUNTIME_ERRORS, Session, as_scores, first_line
from resq_deploy.errors import ModelError
from resq_deploy.faults.bits import Bytes
from resq_deploy.faults.fault import Fault

_LEAST, _LAYERS = 2, 64  # of a portion: faults at least; layers to run for all of them together, about
_FEW = 32  # images, for which a session takes longer to make than to run: what is only saved at runs is not worth it
_OUTVOTED = 64  # faults of a portion that need no run
_SHARE = 0.25
_LEAST_ROOM = 2**25

_FAILURES: tuple[type[Exception], ...] = (*RUNTIME_ERRORS, ModelError, ValueError)

Logits = NDArray[np.float32]


class NotReplayableError(Exception):
    """This model or this fault cannot be replayed exactly; the reason is for people to read."""


class ReplayEngine:
    """Evaluates faults by replay, with the very records of reload-and-run.

    Args:
        injector: makes and proves the injections.
        golden: the fault-free run.
        options: deployment, memory and time limit.
        truth: evaluates what cannot be replayed.

    Raises:
        NotReplayableError: if the optimised graph cannot be run in parts, or its parts do not give the golden outputs.
    """

    name = "replay"

    def __init__(self, injector: Injector, golden: Golden, options: CampaignOptions, truth: ReloadEngine) -> None:
        self._injector = injector
        self._golden = golden
        self._options = options
        self._truth = truth
        self._deployment = options.deployment
        if self._deployment.providers != ("CPUExecutionProvider",):
            raise NotReplayableError("only onnxruntime's CPU provider can be replayed")
        session = Session(injector.patcher.golden, self._deployment)
        if options.time_limit is not None:
            self._check_time(session, options.time_limit)
        try:
            self._graph = RuntimeGraph(
                optimise(injector.patcher.golden, self._deployment), session.output, session.given(golden.inputs).alike
            )
            self._graph.learn_types(self._deployment)
            parts = [list(session.batches(golden.inputs[piece])) for piece in golden.pieces(None)]
            ends = np.cumsum([0, *map(len, parts)]).tolist()
            self._of_part = [range(start, end) for start, end in itertools.pairwise(ends)]
            batches = list(itertools.chain.from_iterable(parts))
            self._activations = Activations(
                self._graph, batches, self._deployment, _room(options.memory), options.worker_count + 32
            )
            self._check_golden()
        except (ModelError, ValueError, KeyError) as error:
            raise NotReplayableError(f"onnxruntime's optimised graph cannot be run ({first_line(error)})") from error
        golden_nodes = self._graph.signatures()
        self._signatures = frozenset(golden_nodes)
        if golden.health is not None and health_of(self._graph) != golden.health:
            raise NotReplayableError("onnxruntime does not fold what the file reports of its code words")
        self._protection = Protection(injector, self._graph, golden_nodes, golden.health, self._optimised_or_none)
        self._kept = self._find_kept()
        self._handed_on = HandedOn(
            injector, self._protection.involved, self._graph, golden_nodes, self._optimised_or_none
        )
        self._portions: dict[int, int] = {}
        sessions = options.worker_count + 1  # a layer each, and the one that comes next
        self._layers: Recent[ChannelLayer | None] = Recent(sessions)
        self._links: Recent[tuple[Cut, Part | None]] = Recent(sessions)
        self._rests: Recent[Rest] = Recent(sessions)
        self._fed: Recent[Fed] = Recent(sessions)
        self._pooled: dict[Hashable, bool] = {}  # what was tried out outlives the sessions
        self._agreeing: dict[int, bool] = {}

    def _check_time(self, session: Session, limit: float) -> None:
        """Check that a fault which leaves the work as it is cannot pass the time limit."""
        begin = time.perf_counter()
        run_in_pieces(session, self._golden.inputs, self._golden.pieces(None))
        seconds = time.perf_counter() - begin
        if 2 * seconds > limit:
            raise NotReplayableError(f"the golden run takes {seconds:.2g} s, too near to the time limit of {limit} s")

    def _check_golden(self) -> None:
        """Check that the optimised graph gives the golden outputs, on the first batch and on the last."""
        for batch in {0, len(self._activations) - 1}:
            whole = self._activations.get(batch, [self._graph.output])[self._graph.output]
            logits = as_scores(whole, self._activations.rows(batch))[: self._activations.counts[batch]]
            if differing(logits, self._golden.logits[self._activations.images(batch)]).any():
                raise NotReplayableError("the optimised graph does not give the outputs of the file")

    def group(self, tensors: Sequence[str]) -> Group | None:
        """Return which faults those in these tensors are best evaluated with; None if with no others."""
        exposed = self._protection.exposed(tensors)
        if tensors and not exposed:
            return Group(len(self._graph.nodes), "", _OUTVOTED)
        if len(exposed) != 1:
            return None
        readers = self._graph.readers(exposed[0])
        if not readers:
            return Group(len(self._graph.nodes), exposed[0], 1)
        return Group(readers[0], "", self._portion(readers[0]))

    def _portion(self, place: int) -> int:
        """Return how many faults at a node make a portion; 64 layers to run for all of them together, or so."""
        if place in self._portions:
            return self._portions[place]
        layers = sum(self._graph.nodes[behind].op_type in COSTLY for behind in self._graph.descendants([place]))
        return self._portions.setdefault(place, max(_LEAST, min(MOST, _LAYERS // max(layers, 1))))

    def way(self, fault: Fault) -> Way:
        """Return how a fault is evaluated, unless that turns out to fail and it is left to reload-and-run."""
        injection = self._injector.inject(fault)
        if without_run(injection, self._golden):
            return Way.UNCHANGED
        left = self._protection.left(injection)
        if not left.values and left.known:
            return self._protection.way(injection)
        if self._layer_of(left) is not None:
            return Way.CHANNELS
        if self._options.time_limit is not None:
            return Way.RELOAD
        if not left.known or not self._handed_on.holds(injection):
            few = self._few(fault) and not self._protection.without_code(injection, left)
            return Way.RELOAD if few else Way.REBUILD
        return Way.CHANNELS if self._layer_of(left, proven=True) is not None else Way.VALUES

    def widest(self, tensors: Sequence[str], elements: int) -> NDArray[np.int64]:
        """Return which elements of tensors that are alike one fault may hit and still go the way of a single flip."""
        exposed = self._protection.exposed(tensors)
        places = self._graph.readers(exposed[0]) if len(exposed) == 1 and exposed[0] in self._kept else []
        layer = self._layer(places[0]) if len(places) == 1 else None
        if layer is None or exposed[0] not in layer.tensors:
            return np.arange(elements)
        return layer.elements(exposed[0], _most_touched(layer))

    def evaluate(self, faults: Sequence[Fault]) -> list[Record]:
        """Return what each fault does; thread-safe.

        Raises:
            InjectionError: if stored bytes are not exactly what a fault asks for.
            FailedError: what reload-and-run raises of the faults that are left to it.
        """
        records = []
        by_layer: dict[int, list[tuple[Injection, Leaving]]] = {}
        by_tensor: dict[str, list[tuple[Injection, Leaving]]] = {}
        for fault in faults:
            injection = self._injector.inject(fault)
            settled = without_run(injection, self._golden)
            if settled:
                records.append(settled)
                continue
            left = self._protection.left(injection)
            if not left.values and left.known:  # every change was outvoted or corrected
                logits = self._golden.logits_on(fault.share)
                records.append(self._record(injection, logits, self._protection.way(injection), left.health))
            elif (place := self._layer_of(left)) is not None:
                by_layer.setdefault(place, []).append((injection, left))
            elif self._options.time_limit is not None:
                records.append(self._truth.run(injection))  # how long the whole file runs is not known from a part
            elif not left.known or not self._handed_on.holds(injection):
                few = self._few(fault) and not self._protection.without_code(injection, left)
                records.append(self._truth.run(injection) if few else self._rebuild(injection, left))
            elif (place := self._layer_of(left, proven=True)) is not None:
                by_layer.setdefault(place, []).append((injection, left))
            else:
                by_tensor.setdefault(next(iter(left.values)), []).append((injection, left))
        for place, injections in by_layer.items():
            records += self._together(functools.partial(self._channels, place), injections)
        for tensor, injections in by_tensor.items():
            records += self._together(functools.partial(self._values, tensor), injections)
        return records

    def _few(self, fault: Fault) -> bool:
        """Return whether a fault is judged on so few images that reload-and-run is as fast as optimising anew."""
        return sum(int(piece.stop - piece.start) for piece in self._golden.pieces(fault.share)) <= _FEW

    def _together(
        self,
        run: Callable[[Sequence[tuple[Injection, Leaving]]], list[Record]],
        injections: Sequence[tuple[Injection, Leaving]],
    ) -> list[Record]:
        """Evaluate faults at once, or where that fails each by itself; the truth decides what a failure means."""
        try:
            return run(injections)
        except _FAILURES:
            if len(injections) == 1:
                return [self._truth.run(injections[0][0])]
            return [record for one in injections for record in self._together(run, [one])]

    # A fault in the integers of one layer.

    def _layer_of(self, left: Leaving, *, proven: bool = False) -> int | None:
        """Return the layer whose channels can be computed by themselves for what a fault leaves, if there is one.

        Args:
            left: what it leaves.
            proven: whether it is known that the new bytes are what the layer then reads.
        """
        values = left.values
        places = {place for tensor in values for place in self._graph.readers(tensor)}
        if len(places) != 1 or not left.known:
            return None
        place = places.pop()
        if not proven and not self._kept.issuperset(values):
            return None
        layer = self._layer(place)
        if layer is None or not set(values) <= set(layer.tensors):
            return None
        return place if len(layer.touched(values)) <= _most_touched(layer) else None

    def _layer(self, place: int) -> ChannelLayer | None:
        """Return a layer that can be computed by channels, tried out; None if it cannot."""

        def make() -> ChannelLayer | None:
            try:
                layer = ChannelLayer(self._graph, place, self._deployment)
            except (ValueError, ModelError):
                return None
            if place not in self._agreeing:
                golden = self._activations.get(0, [layer.data, layer.output])
                self._agreeing[place] = layer.agrees(golden[layer.data], golden[layer.output])
            return layer if self._agreeing[place] else None

        return self._layers.get(place, make)

    def _find_kept(self) -> frozenset[str]:
        """Return the integers of layers that the optimiser hands on unread, so that they can be replaced behind it.

        Tried out with one file in which all of them are faulty: it must be optimised to the golden graph with just
        these bytes in it.
        """
        patcher = self._injector.patcher
        masks: dict[str, Bytes] = {}
        codes, changes = self._protection.decoding.codes, dict[str, Bytes]()
        decoded = codes.weights if self._protection.decoding.words else {}
        for place, node in enumerate(self._graph.nodes):
            for name in integer_operands(node):
                parameter = self._graph.parameters.get(name)
                if name in decoded:
                    stored = codes.value(name).tobytes()
                    alone = self._graph.readers(name) == [place]
                    if alone and parameter is not None and parameter.raw_data == stored and len(stored) > 1:
                        changes[name] = np.zeros(len(stored), dtype=np.uint8)
                        changes[name][-1] = 1
                    continue
                copies = self._protection.voting.copies(name)
                known = all(self._injector.knows(copy) and not patcher.shared(copy) for copy in copies)
                if parameter is None or not known or self._graph.readers(name) != [place]:
                    continue
                stored = self._protection.voting.stored(name)
                if parameter.data_type in INTEGERS and parameter.raw_data == stored and len(stored) > 1:
                    mask: Bytes = np.zeros(len(stored), dtype=np.uint8)
                    mask[-1] = 0x40
                    masks.update(dict.fromkeys(copies, mask))
        values = {
            **self._protection.voting.outcome(patcher.values(masks)),
            **self._protection.decoding.values(codes.left(codes.masks(changes))),
        }
        try:
            faulty = self._optimised(patcher.apply({**masks, **codes.masks(changes)}))
        except NotReplayableError:
            return frozenset()
        changed = changed_nodes(faulty.signatures(self._graph), self._signatures)
        alike = changed == {place for name in values for place in self._graph.readers(name)} and [
            node.output[0] for node in faulty.nodes
        ] == [node.output[0] for node in self._graph.nodes]
        kept = (
            name for name in values if name in faulty.parameters and faulty.parameters[name].raw_data == values[name]
        )
        return frozenset(kept if alike else ())

    def _channels(self, place: int, injections: Sequence[tuple[Injection, Leaving]]) -> list[Record]:
        """Evaluate faults in the integers of one layer, all at once; each with what it leaves there."""
        layer = self._layer(place)
        if layer is None:
            raise NotReplayableError("the layer cannot be computed by channels")
        where, link = self._behind_layer(place)
        rest = self._rest(where)
        channels = [layer.touched(left.values) for _, left in injections]
        stored = [layer.faulty(left.values, at) for (_, left), at in zip(injections, channels, strict=True)]
        batches = [self._batches(injection) for injection, _ in injections]
        outputs = Outputs(where.dirty, rest, self._activations, self._golden.logits, batches)
        names = dict.fromkeys((layer.data, layer.output, *(link.inputs if link else ()), *(rest.names if rest else ())))
        for batch, owners in _by_batch(batches):
            golden = self._activations.get(batch, names)
            parts = layer.run(
                golden[layer.data], [channels[owner] for owner in owners], [stored[owner] for owner in owners]
            )
            rows, count = self._activations.rows(batch), self._activations.counts[batch]
            for owner, part in zip(owners, parts, strict=True):
                at = channels[owner]
                changed = layer.differing(part, golden[layer.output], at, rows)
                changed, overlay = changed[changed < count], layer.overlay(part, at, rows)
                if link and len(changed):
                    whole = {**golden, **layer.faulty_output(golden, overlay, rows)}
                    outputs.add(owner, batch, golden, link.run_named(whole))
                elif len(changed):
                    outputs.add_rows(owner, batch, golden, changed, overlay)
        return [
            self._record(injection, logits, Way.CHANNELS, left.health)
            for (injection, left), logits in zip(injections, outputs.done(), strict=True)
        ]

    def _behind_layer(self, place: int) -> tuple[Cut, Part | None]:
        """Return where to cut behind a layer, and the cheap nodes between the layer and that cut, ready to run."""

        def make() -> tuple[Cut, Part | None]:
            head = with_cheap_readers(self._graph, {place})
            where = cut(self._graph, head, self._graph)
            if head == {place}:
                return where, None
            model, inputs = self._graph.part(head - {place}, where.dirty)
            return where, Part(model, inputs, where.dirty, self._deployment)

        return self._links.get(place, make)

    # A fault in another stored value that the optimiser hands on.

    def _values(self, tensor: str, injections: Sequence[tuple[Injection, Leaving]]) -> list[Record]:
        """Evaluate faults in one tensor that are proven to leave the golden graph with their new bytes in it."""
        if tensor not in self._graph.parameters:  # what it holds is not used
            return [
                self._record(one, self._golden.logits_on(one.fault.share), Way.VALUES, left.health)
                for one, left in injections
            ]
        batches = [self._batches(injection) for injection, _ in injections]
        trial = injections[0][1].values[tensor]
        fed = self._fed.get(
            tensor, lambda: Fed(self._graph, tensor, self._activations, self._deployment, trial, batches[0][0])
        )
        rest = self._rest(fed.where)
        outputs = Outputs(fed.where.dirty, rest, self._activations, self._golden.logits, batches)
        names = dict.fromkeys((*fed.inputs, *(rest.names if rest else ())))
        for batch, owners in _by_batch(batches):
            golden = self._activations.get(batch, names)
            for owner in owners:
                outputs.add(owner, batch, golden, fed.run(injections[owner][1].values[tensor], golden))
        done = zip(injections, outputs.done(), strict=True)
        return [self._record(injection, logits, Way.VALUES, left.health) for (injection, left), logits in done]

    # Any other fault.

    def _rebuild(self, injection: Injection, left: Leaving) -> Record:
        """Evaluate a fault by optimising the faulty file anew and running what differs from the golden graph.

        Where the fault hits none of what decodes weights, the file without code is optimised in its place.
        """
        try:
            faulty, health = self._protection.optimised(injection, left, self._optimised)
            changed = changed_nodes(faulty.signatures(self._graph), self._signatures)
            if changed:
                logits = self._behind(faulty, changed, self._batches(injection))
            else:
                logits = self._golden.logits_on(injection.fault.share)
        except (NotReplayableError, ModelError):
            return self._truth.run(injection)
        return self._record(injection, logits, Way.REBUILD, health)

    def _optimised_or_none(self, model: bytes) -> RuntimeGraph | None:
        try:
            return self._optimised(model)
        except NotReplayableError:
            return None

    def _optimised(self, model: bytes) -> RuntimeGraph:
        try:
            return RuntimeGraph(optimise(model, self._deployment), self._graph.output)
        except (ModelError, KeyError) as error:
            raise NotReplayableError("the faulty file cannot be optimised") from error

    def _behind(self, faulty: RuntimeGraph, changed: Collection[int], batches: Sequence[int]) -> Logits:
        """Return the outputs of a faulty graph for the images of some batches, shape [n, C]."""
        where = cut(faulty, with_cheap_readers(faulty, changed), self._graph)
        try:
            rest = self._rest(where)
            faulty.take_types(self._graph)
            model, inputs = faulty.part(where.head, where.dirty)
            head = Part(model, inputs, where.dirty, self._deployment)
            outputs = Outputs(where.dirty, rest, self._activations, self._golden.logits, [batches])
            names = dict.fromkeys((*inputs, *(rest.names if rest else ())))
            for batch in batches:
                golden = self._activations.get(batch, names)
                outputs.add(0, batch, golden, head.run_named(golden))
            return outputs.done()[0]
        except _FAILURES as error:  # the truth decides what it means
            raise NotReplayableError(first_line(error)) from error

    def _rest(self, where: Cut) -> Rest | None:
        """Return the rest behind a cut; the few used last are kept."""
        if not where.rest:
            return None
        key = where.dirty, where.rest

        def make() -> Rest:
            logits, tried = self._golden.logits, self._pooled.get(key)
            rest = Rest(self._graph, where, self._activations, logits, self._deployment, tried)
            self._pooled[key] = rest.pooled
            return rest

        return self._rests.get(key, make)

    def _record(self, injection: Injection, logits: Logits, way: Way, health: Health | None) -> Record:
        number, share = injection.fault.number, injection.fault.share
        judgement, detected = self._golden.judge_on(share)(logits), health != self._golden.health
        return Record.of(
            number, judgement, injection.changed, logits, way=way, share=share, health=health, detected=detected
        )

    def _batches(self, injection: Injection) -> list[int]:
        """Return the batches of the images that a fault is judged on."""
        parts = self._golden.parts
        numbers = parts.numbers(injection.fault.share or parts.whole())
        return [batch for number in numbers for batch in self._of_part[number]]


def _by_batch(batches: Sequence[Sequence[int]]) -> Iterator[tuple[int, list[int]]]:
    """Yield each batch, and which faults are run on it, `MOST` at a time; given the batches of each fault."""
    found: dict[int, list[int]] = {}
    for owner, of in enumerate(batches):
        for batch in of:
            found.setdefault(batch, []).append(owner)
    for batch, owners in sorted(found.items()):
        for start in range(0, len(owners), MOST):
            yield batch, owners[start : start + MOST]


def _most_touched(layer: ChannelLayer) -> int:
    """Return how many channels a fault may touch for them to be computed by themselves; beyond, the layer is run."""
    return max(1, int(layer.channels) // 2)


def _room(memory: int) -> int:
    """Return how many bytes of golden activations may be held, so that the process stays within its memory.

    Of what the process does not use yet, the rest is for sessions and for batches on their way.
    """
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return max(int(_SHARE * (memory - used)), _LEAST_ROOM)
