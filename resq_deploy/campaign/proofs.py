"""Proofs that a campaign measures what it says: the canary, and the audit against reload-and-run."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.engines.testbed import Engine
from resq_deploy.campaign.executors import Executor
from resq_deploy.campaign.options import WHOLE, CampaignOptions, FaultModel
from resq_deploy.campaign.plan import Plan
from resq_deploy.campaign.record import Record, Way
from resq_deploy.campaign.store import Audited
from resq_deploy.deployed.decoding import Codes
from resq_deploy.deployed.votes import Vote
from resq_deploy.errors import FailedError
from resq_deploy.faults import draws
from resq_deploy.faults.fault import Edit, Fault
from resq_deploy.faults.outcomes import Outcome

LEAST_AUDITED = 20
"""Faults that an audit runs again at least, if there are so many."""

_CANDIDATES = 5
_OF_ROLE = 2
_TOP = 3  # bits flipped of each element: enough in a word for the memory's code to let them pass
_ELEMENTS = 2**18  # of a tensor, hit at most
_HARMLESS = (Way.CODES, Way.GOLDEN)  # faults of which one shows as much as many


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Target:
    """Stored tensors that are hit together: one, or the copies that are voted.

    Attributes:
        tensors: their names.
        elements: of each.
        width: bits of an element.
    """

    tensors: tuple[str, ...]
    elements: int
    width: int

    def hit(self, index: Sequence[int] | NDArray[np.int64], tensors: Sequence[str] = ()) -> Fault:
        """Return the fault that flips the top bits of some elements, in all of the tensors or those named."""
        chosen = np.asarray(index)[:: max(1, len(index) // _ELEMENTS)]
        bits = np.arange(self.width)[-_TOP:]
        places, bit = np.repeat(chosen, len(bits)).tolist(), np.tile(bits, len(chosen)).tolist()
        return Fault(0, tuple(Edit.of(tensor, places, bit) for tensor in tensors or self.tensors))

    def flips(self) -> list[Fault]:
        """Return faults of one bit: of the first element the last but one, and one in the middle."""
        bits = dict.fromkeys((self.width - 2, self.width // 2 + 1)) if self.width > _TOP else ()
        return [Fault(0, tuple(Edit.of(tensor, [0], [bit]) for tensor in self.tensors)) for bit in bits]


def canary(
    plan: Plan, engine: Engine, executor: Executor, votes: Sequence[Vote] = (), codes: Codes | None = None
) -> dict[str, Any]:
    """Check that faults nobody could miss are seen, by every way in which the campaign's own will be evaluated.

    The top bits are flipped of as much of a large tensor as a way allows; the campaign's workers and reload-and-run
    must see it, and alike. Of a tensor that is voted from stored copies all are hit, since damage to one is outvoted.
    That it is, whichever copy it hits, is looked at as well, and so is a fault that is optimised away: the canaries
    that need not change anything. Code words are hit by one flip more than they correct, and bytes of them, which are
    corrected.

    Args:
        plan: the campaign's; what it may hit is hit.
        engine: knows how faults will be evaluated.
        executor: evaluates them, as it will the campaign's.
        votes: of the file.
        codes: what the file stores under codes.

    Returns:
        What was seen, by way: `{tensor, flips, outcome}`; `masked` where nothing that goes this way does any harm in
        this file, by reload-and-run neither.

    Raises:
        FailedError: if the engine differs from reload-and-run, or no canary was seen by any way; the figures could
            then not be trusted.
    """
    seen: dict[Way, dict[str, Any]] = {}
    for way, faults in _canaries(plan, engine, votes, codes).items():
        for fault in faults:
            (record,) = _evaluated(plan, fault, executor)
            tensor = fault.tensors[0]
            if engine.name != Way.RELOAD and not same(_evaluated(plan, fault, executor, truth=True)[0], record):
                raise FailedError(f"canary: {engine.name} ({record.way}) differs from reload-and-run on {tensor!r}")
            masked = record.outcome is Outcome.MASKED
            if not masked or record.way not in seen:
                seen[record.way] = {"tensor": tensor, "flips": record.changed, "outcome": str(record.outcome)}
            if record.way is way and not masked:
                break
    if all(found["outcome"] == Outcome.MASKED for found in seen.values()):
        names = ", ".join(repr(found["tensor"]) for found in seen.values())
        raise FailedError(f"canary: flipping the top bits of {names} changed no output: faults do not arrive")
    return {str(way): seen[way] for way in Way if way in seen}


def _canaries(plan: Plan, engine: Engine, votes: Sequence[Vote], codes: Codes | None) -> Mapping[Way, Sequence[Fault]]:
    """Return faults that nobody could miss, a few for each way that faults of a plan can be evaluated in."""
    found: dict[Way, list[Fault]] = defaultdict(list)
    for fault in _broken_words(plan, engine, codes) if codes else ():
        way = engine.way(fault)
        if len(found[way]) < _CANDIDATES:
            found[way].append(fault)
    targets = _targets(plan, votes)
    for target in targets:
        if len(target.tensors) > 1 and Way.VOTES not in found:
            found[Way.VOTES] = [target.hit(range(target.elements), [copy]) for copy in target.tensors]
        way = engine.way(target.hit([0]))
        if way in _HARMLESS:
            found.setdefault(way, [target.hit([0])])
            continue
        if len(found[way]) < _CANDIDATES:
            found[way].append(target.hit(engine.widest(target.tensors, target.elements)))
    known = {*found, Way.UNCHANGED, Way.VOTES}
    for flip in _single(plan, targets):  # there are ways for single flips alone
        way = engine.way(flip)
        if way not in known and len(found[way]) < (1 if way in _HARMLESS else _CANDIDATES):
            found[way].append(flip)
    if plan.model in WHOLE | {FaultModel.BER}:  # one fault in many tensors
        whole = [target.hit(range(target.elements)).edits for target in targets[:_CANDIDATES]]
        fault = Fault(0, tuple(edit for edits in whole for edit in edits))
        found[engine.way(fault)].insert(0, fault)
    return found


def _broken_words(plan: Plan, engine: Engine, codes: Codes) -> Iterator[Fault]:
    """Yield faults that code words cannot correct, in as much of a decoded weight as goes the way of a single flip."""
    hit = {surface.tensor for surface in plan.surfaces}
    for name, weight in sorted(codes.weights.items(), key=lambda entry: -entry[1].count):
        group = codes.group_of(name)
        if hit.issuperset(group.stored):
            index = np.asarray(engine.widest((name,), weight.count))[:_ELEMENTS]
            bits = group.broken(weight.start + index)
            if bits.size:
                yield Fault(0, group.as_edits(bits))


def _single(plan: Plan, targets: Sequence[_Target]) -> Iterator[Fault]:
    """Yield single flips in the largest tensors of each role."""
    by_role: dict[str, list[_Target]] = defaultdict(list)
    for target in targets:
        by_role[str(plan.surface(target.tensors[0]).role)].append(target)
    for alike in by_role.values():
        for target in alike[:_OF_ROLE]:
            yield from target.flips()


def _targets(plan: Plan, votes: Sequence[Vote]) -> list[_Target]:
    """Return what a plan may hit, the largest first; copies that are voted belong together."""
    copies = {copy: vote.copies for vote in votes for copy in vote.copies}
    targets = {
        tensors: _Target(tensors=tensors, elements=surface.elements, width=surface.width)
        for surface in plan.surfaces
        for tensors in [copies.get(surface.tensor, (surface.tensor,))]
    }
    return sorted(targets.values(), key=lambda target: -target.elements * target.width)


def _evaluated(plan: Plan, fault: Fault, executor: Executor, *, truth: bool = False) -> list[Record]:
    """Return the record of one fault that is none of the plan's, evaluated as those are."""
    listed = dataclasses.replace(plan, population=None, masks=(), listed=(fault,), sample=None)
    return [record for records in executor.run(listed, [[0]], truth=truth) for record in records]


def audit(plan: Plan, records: Sequence[Record], executor: Executor, engine: Engine) -> Generator[list[Audited]]:
    """Evaluate some of the faults once more by reload-and-run, and yield whether their records are the same.

    A share of the faults is drawn evenly, `LEAST_AUDITED` at least; and one more from each group of way, role and
    layer that this misses. With the engine `replay`, faults that were evaluated by reload-and-run in the first place
    are left out, and so are those that need no evaluation. Of a fault that is known to leave all images as they are,
    and is judged on some, this very file must be optimised to the golden graph as well.
    """
    evenly, others = to_audit(plan, records)
    for portion in executor.run(plan, [[number] for number in (*evenly, *others)], truth=True):
        yield [
            Audited(
                number=again.number,
                evenly=again.number in evenly,
                differs=not same(again, records[again.number]) or _claims(plan, records[again.number], engine),
            )
            for again in portion
        ]


def _claims(plan: Plan, record: Record, engine: Engine) -> bool:
    """Return whether a record claims of images that were not run what the faulty file by itself does not show."""
    return record.inert and plan.share < 1.0 and not engine.inert(plan.fault(record.number))


def audit_figures(plan: Plan, records: Sequence[Record], audited: Sequence[Audited]) -> dict[str, Any]:
    """Return what audits found, as in `summary.json`.

    `rules_out` is the share of wrong records at and above which none among those drawn evenly would be too unlikely:
    1 - (1 - confidence)^(1/n). It is None where there was a wrong one, or nothing was drawn.

    Args:
        plan: the campaign's.
        records: all of its faults.
        audited: what every audit of the campaign found, earlier sessions' included.
    """
    differing = [one.number for one in audited if one.differs]
    evenly = sum(one.evenly for one in audited)
    whole = {record.number for record in _auditable(plan, records)} <= {one.number for one in audited}
    rules_out = 0.0 if whole else 1.0 - (1.0 - plan.options.confidence) ** (1.0 / evenly) if evenly else None
    return {
        "checked": len(audited),
        "mismatches": len(differing),
        "first": plan.label(differing[0]) if differing else None,
        "evenly": evenly,
        "groups": len({_group(plan, records[one.number]) for one in audited}),
        "rules_out": None if differing or not audited else rules_out,
    }


def _auditable(plan: Plan, records: Iterable[Record]) -> list[Record]:
    """Return the records that rest on more than reload-and-run."""
    trusted = {Way.UNCHANGED} if plan.options.engine == "reload" else {Way.UNCHANGED, Way.RELOAD}
    return [record for record in records if record.way not in trusted]


def evenly_audited(options: CampaignOptions, faults: int) -> int:
    """Return how many of so many faults that can be audited are drawn evenly; those are fewer where there are."""
    return min(faults, max(LEAST_AUDITED, math.ceil(options.audit_share * faults))) if options.audit_share else 0


def to_audit(plan: Plan, records: Sequence[Record]) -> tuple[list[int], list[int]]:
    """Return the numbers of the faults to audit: those drawn evenly, and those of the groups that this misses."""
    records = _auditable(plan, records)
    count = evenly_audited(plan.options, len(records))
    if not count:
        return [], []
    order = draws.sample(draws.stream("audit", plan.options.seed), len(records), len(records))
    shuffled = [records[place] for place in order.tolist()]
    visited = {_group(plan, record) for record in shuffled[:count]}
    others = []
    for record in shuffled[count:]:
        group = _group(plan, record)
        if group not in visited:
            visited.add(group)
            others.append(record.number)
    return sorted(record.number for record in shuffled[:count]), sorted(others)


def _group(plan: Plan, record: Record) -> tuple[str, ...]:
    """Return way, role and layer of a fault; for a mask of random bit errors its rate, since it is in all of them."""
    if plan.masks:
        return str(record.way), str(plan.masks[record.number][0])
    return str(record.way), plan.group(record.number, "role"), plan.group(record.number, "layer")


def same(truth: Record, other: Record) -> bool:
    """Return whether two records say the same: outcome, counts, right answers, every bit of the outputs, and health."""
    return _said(truth) == _said(other)


def _said(record: Record) -> tuple[object, ...]:
    seen = (record.outcome, record.counts, record.amounts, record.right, record.logits, record.share, record.parts)
    return *seen, record.health, record.detected
