"""Failure modes, effects and diagnostic analysis (FMEDA) of stored bits, measured by injection.

A fault of one bit is *dangerous* as far as it gives wrong answers: by the share x of image runs that it gives another
answer (the probability of a wrong answer on demand), or, if so wished, by whether it does so on any image. A fault that
leaves a file which no longer loads or runs gives no answer at all: it is dangerous as well (x = 0, lost = 1), and
detected. h is whether the file reports the fault by its health output. Of one bit each, over the bits of an element
with the raw rate lambda (FIT, failures in 10^9 hours), the expectations

    D = lambda E[x + lost]         dangerous with the mechanism at work,
    U = lambda E[x (1 - h)]        dangerous and undetected: single-point faults (SPF) of an element that no mechanism
                                   protects, residual faults (RF) of one that has one,
    Q = lambda E[(1 - h) (1 - x - lost)]    neither harm nor report,
    G = lambda E[x + lost] of the same values *without* the mechanism,

split lambda without rest (strikes that change no bit, as on a cell that holds the value it would turn to, are no
faults: lambda and Q leave them out, and D and G, which they are no part of, cannot be more than what is left):

    lambda = safe + detected + U + controlled,    detected = D - U,    controlled = max(0, G - D),

with controlled = 0 where there is no mechanism. Multiple-point faults are the controlled ones; those that nothing
reports are latent, L = min(controlled, Q): the most that can be, and exact where an element's faults are reported all
or none. Where a mechanism's own bits have no counterpart without it, all that do no harm count as controlled.

    SPFM = 1 - sum(SPF + RF) / sum(lambda),    LFM = 1 - sum(L) / sum(lambda - SPF - RF)

are the single-point and the latent fault metric (ISO 26262-5:2018, 8.4.5, 8.4.6 and annex C), and the diagnostic
coverage of a mechanism is the share of what would be dangerous without it that is not with it, 1 - D / G over the
elements that it protects (annex D). Bounds: each sum over elements is one mean over a campaign's faults, each times the
rate of its memory, with the interval of that drawing (`betting`, `stratified`, Clopper and Pearson); no normality. For
sums of the two non-linear terms, element by element and so for the sums,

    G - D - lambda E[h (1 - x - lost)]  <=  L  <=  min(G, Q),

of which the upper end is taken mechanism by mechanism: one reports all its faults, another none. Figures made of
several estimates share the error that may be made among them (Bonferroni).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults.coverage import coverage
from resq_deploy.faults.drawn import Drawn
from resq_deploy.faults.ends import at_most, bounded, exact, higher_of, lower_of, shared, with_value
from resq_deploy.faults.hardware_metrics import latent_metric, single_point_metric
from resq_deploy.faults.statistics import Estimate

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

CLASSES = ("safe", "detected", "undetected", "controlled_detected", "latent")
"""What a fault can be; the rates of an element in these add up to its raw rate."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Injected:
    """What a campaign's faults do.

    Attributes:
        drawn: where they fall.
        wrong: how dangerous each is, x, in [0, 1]; 0 where it is lost; shape [n].
        lost: which leave a file that no longer loads or runs, shape [n].
        reported: which of them the file reports, shape [n].
    """

    drawn: Drawn
    wrong: Floats
    lost: Flags
    reported: Flags

    @property
    def dangerous(self) -> Floats:
        """How dangerous each is: x + lost, shape [n]."""
        return self.wrong + self.lost

    @property
    def undetected(self) -> Floats:
        """How dangerous and undetected each is: x (1 - h), shape [n]."""
        return self.wrong * ~self.reported

    @property
    def quiet(self) -> Floats:
        """How far each does neither harm nor is reported: (1 - h) (1 - x - lost), shape [n]."""
        return (1.0 - self.dangerous) * ~self.reported

    @property
    def told(self) -> Floats:
        """1 less what is quiet: the part of a fault that does harm or is reported, shape [n]."""
        return 1.0 - self.quiet


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Memory:
    """What is stored, tensor by tensor.

    Attributes:
        rate: raw rate of a bit of each tensor, FIT, shape [tensors].
        element: the element that each tensor is of, shape [tensors]; tensors of one element have the same mechanism.
        mechanism: by what each tensor is protected, shape [tensors]; empty text where by nothing.
        plain: for each tensor the places of those that hold its values in the campaign without mechanisms, none where
            that has no such.
        idle: how many of each tensor's faults change no bit, shape [tensors]; None where all do.
    """

    rate: Floats
    element: Integers
    mechanism: Sequence[str]
    plain: Sequence[Sequence[int]]
    idle: Integers | None = None

    @property
    def guarded(self) -> Flags:
        """Which tensors have a mechanism, shape [tensors]."""
        return np.array([bool(name) for name in self.mechanism], dtype=bool)

    @property
    def known(self) -> Flags:
        """Which tensors have a counterpart without mechanisms, shape [tensors]."""
        return np.array([len(places) > 0 for places in self.plain], dtype=bool)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One element; rates in FIT.

    Attributes:
        bits: how many bits it stores.
        raw: its raw rate.
        safe, detected, undetected, controlled_detected, latent: its parts, which add up to `raw`. Each interval holds
            by itself.
    """

    bits: int
    raw: float
    safe: Estimate
    detected: Estimate
    undetected: Estimate
    controlled_detected: Estimate
    latent: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fmeda:
    """An analysis; rates in FIT.

    Attributes:
        rows: of the elements, in their order.
        raw: the raw rate of all.
        undetected: the rate of single-point and residual faults.
        latent: the rate of latent faults; None where it is not known what mechanisms control.
        spfm: single-point fault metric.
        lfm: latent fault metric; None likewise.
        coverage: diagnostic coverage of each mechanism; None where nothing would be dangerous without it, or where that
            is not known.
        health: share of wrong answers under which the file reports the fault; None where it reports nothing, or
            nothing is wrong.
        widest: the row whose interval leaves most of the single-point fault metric open.
        widest_latent: that which leaves most of the latent fault metric open; None where that is not known, or exact.
    """

    rows: Sequence[Row]
    raw: float
    undetected: Estimate
    latent: Estimate | None
    spfm: Estimate
    lfm: Estimate | None
    coverage: dict[str, Estimate | None]
    health: Estimate | None
    widest: int
    widest_latent: int | None


def fmeda(present: Injected, memory: Memory, without: Injected | None, confidence: float) -> Fmeda:
    """Analyse a file by the faults injected into it and, where mechanisms protect it, into the one without them.

    Args:
        present: of the file as it is deployed.
        memory: what that stores.
        without: of the file without mechanisms; None where there is no such campaign.
        confidence: coverage of each interval.
    """
    analysis = _Analysis(present, memory, without, confidence)
    rows = [analysis.row(number) for number in range(int(memory.element.max()) + 1)]
    raw = sum((row.raw for row in rows), 0.0)
    undetected = analysis.undetected(sum(row.undetected.value for row in rows))
    latent, lfm = analysis.latent(rows, raw) if analysis.controls_known else (None, None)
    names = dict.fromkeys(name for name in memory.mechanism if name)
    return Fmeda(
        rows=rows,
        raw=raw,
        undetected=undetected,
        latent=latent,
        spfm=_less(undetected, raw),
        lfm=lfm,
        coverage={name: analysis.coverage(name) for name in names},
        health=_of_reports(present, memory.rate, confidence),
        widest=int(np.argmax(_widths([row.undetected for row in rows]))),
        widest_latent=_widest([row.latent for row in rows]),
    )


def _widths(estimates: Sequence[Estimate]) -> list[float]:
    return [one.high - one.low for one in estimates]


def _widest(estimates: Sequence[Estimate]) -> int | None:
    """Return the place of the widest interval; None where all are exact."""
    widths = _widths(estimates)
    return int(np.argmax(widths)) if max(widths) > 0.0 else None


class _Analysis:
    def __init__(self, present: Injected, memory: Memory, without: Injected | None, confidence: float) -> None:
        self._present, self._memory, self._without = present, memory, without
        self._confidence = confidence
        self._bits = present.drawn.sizes
        self._changed = self._bits if memory.idle is None else self._bits - memory.idle
        self.controls_known = without is not None or not memory.guarded.any()

    def row(self, number: int) -> Row:
        """Return the rates of an element."""
        memory, present = self._memory, self._present
        inside = memory.element == number
        weight = np.where(inside, memory.rate, 0.0)
        raw = float(self._changed @ weight)
        guarded = bool((inside & memory.guarded).any()) and self.controls_known
        confidence = shared(self._confidence, 3) if guarded else self._confidence
        dangerous = self._total(present.dangerous, weight, confidence)
        undetected = self._total(present.undetected, weight, self._confidence)
        detected = self._total(present.dangerous - present.undetected, weight, self._confidence)
        detected = with_value(detected, dangerous.value - undetected.value)
        if guarded:
            bare = self._bare(inside, confidence)
            quiet = self._quiet(weight, confidence)
        else:
            bare = quiet = exact(0.0, confidence)
        controlled = _controlled(bare, dangerous)
        latent = lower_of(controlled, quiet)
        reported = bounded(
            controlled.value - latent.value,
            max(0.0, controlled.low - quiet.high),
            max(0.0, controlled.high - min(controlled.high, quiet.low)),
            latent,
        )
        harm = higher_of(dangerous, bare)
        safe = bounded(raw - harm.value, raw - harm.high, raw - harm.low, harm)
        return Row(
            bits=int(self._bits[inside].sum()),
            raw=raw,
            safe=safe,
            detected=detected,
            undetected=undetected,
            controlled_detected=reported,
            latent=latent,
        )

    def _total(self, values: Floats, weight: Floats, confidence: float) -> Estimate:
        """Estimate a sum over faults; no more than all that change a bit."""
        return at_most(self._present.drawn.total(values, weight, confidence), float(self._changed @ weight))

    def _quiet(self, weight: Floats, confidence: float) -> Estimate:
        """Estimate Q of some tensors: of faults that change no bit, all are quiet."""
        found = self._present.drawn.total(self._present.quiet, weight, confidence)
        idle = float((self._bits - self._changed) @ weight)
        value, low, high = (max(0.0, end - idle) for end in (found.value, found.low, found.high))
        return dataclasses.replace(found, value=value, low=low, high=high)

    def _bare(self, inside: Flags, confidence: float) -> Estimate:
        """Estimate G of some tensors: what would be dangerous of their rate without mechanisms."""
        memory = self._memory
        unknown = inside & ~memory.known
        alone = exact(float(self._changed[unknown] @ memory.rate[unknown]), confidence)
        if self._without is None:
            return alone
        known = inside & memory.known
        found = self._without.drawn.total(self._without.dangerous, self._spread(known), confidence)
        found = at_most(found, float(self._changed[known] @ memory.rate[known]))
        return bounded(found.value + alone.value, found.low + alone.value, found.high + alone.value, found)

    def _spread(self, chosen: Flags) -> Floats:
        """Return the rate of these tensors shared out over the bits of their counterparts, shape [tensors without]."""
        assert self._without is not None
        sizes = self._without.drawn.sizes
        weight = np.zeros(len(sizes))
        for place in np.flatnonzero(chosen).tolist():
            counterparts = list(self._memory.plain[place])
            weight[counterparts] += self._bits[place] * self._memory.rate[place] / sizes[counterparts].sum()
        return weight

    def undetected(self, value: float) -> Estimate:
        """Return the rate of single-point and residual faults, which the rows add up to."""
        return with_value(self._total(self._present.undetected, self._memory.rate, self._confidence), value)

    def latent(self, rows: Sequence[Row], raw: float) -> tuple[Estimate, Estimate]:
        """Return the rate of all latent faults, and the latent fault metric."""
        memory, present = self._memory, self._present
        value = sum(row.latent.value for row in rows)
        lost = sum(row.undetected.value for row in rows)
        compared, alone = memory.guarded & memory.known, memory.guarded & ~memory.known
        names = {name for name, known in zip(memory.mechanism, compared, strict=True) if known}
        # Of each mechanism Q and G; Q of what has no counterpart; of all the two sums of the lower end; and U.
        confidence = shared(self._confidence, 2 * len(names) + 4)

        def total(values: Floats, chosen: Flags) -> Estimate:
            return self._total(values, np.where(chosen, memory.rate, 0.0), confidence)

        own = self._quiet(np.where(alone, memory.rate, 0.0), confidence)
        low = own.low + max(0.0, self._bare(compared, confidence).low - total(present.told, compared).high)
        high = own.high
        for name in names:
            inside = compared & self._of(name)
            quiet = self._quiet(np.where(inside, memory.rate, 0.0), confidence)
            high += min(quiet.high, self._bare(inside, confidence).high)
        single = total(present.undetected, np.ones(len(memory.rate), dtype=bool))
        like = dataclasses.replace(own, n=len(present.wrong), confidence=self._confidence)
        least, most = latent_metric(high, single.high, raw), latent_metric(low, single.low, raw)
        return bounded(value, low, high, like), bounded(latent_metric(value, lost, raw), least, most, like)

    def _of(self, mechanism: str) -> Flags:
        """Return which tensors a mechanism protects, shape [tensors]."""
        return np.array([name == mechanism for name in self._memory.mechanism], dtype=bool)

    def coverage(self, mechanism: str) -> Estimate | None:
        """Return the diagnostic coverage of a mechanism, 1 - D / G."""
        memory = self._memory
        chosen = self._of(mechanism) & memory.known
        if self._without is None or not chosen.any():
            return None
        confidence = shared(self._confidence, 2)
        bare = self._bare(chosen, confidence)
        if not bare.value:
            return None
        dangerous = self._total(self._present.dangerous, np.where(chosen, memory.rate, 0.0), confidence)
        ends = ((dangerous.value, bare.value), (dangerous.high, bare.low), (dangerous.low, bare.high))
        value, low, high = (_share_kept(*pair) for pair in ends)
        found = bounded(value, low, high, dangerous)
        return dataclasses.replace(found, n=min(dangerous.n, bare.n), confidence=self._confidence)


def _share_kept(dangerous: float, bare: float) -> float:
    """Return the share of what would be dangerous that is not, in [0, 1]; 0 where nothing surely would."""
    return max(0.0, 1.0 - dangerous / bare) if bare > 0.0 else 0.0


def _of_reports(present: Injected, rate: Floats, confidence: float) -> Estimate | None:
    """Return the share of wrong answers, by their rates, under which the file reports the fault."""
    weight = rate[present.drawn.tensor]
    if not present.reported.any() or not (present.wrong * weight).any():
        return None
    everything = np.ones(len(rate), dtype=bool)
    weight = weight / rate.max()

    def mean(values: Floats) -> Estimate:
        found = present.drawn.mean(values, everything, confidence)
        assert found is not None
        return found

    found = coverage(present.wrong * present.reported * weight, present.wrong * weight, mean)
    return dataclasses.replace(found, n=int((present.wrong > 0.0).sum()))


def _less(undetected: Estimate, raw: float) -> Estimate:
    value, low, high = (single_point_metric(end, raw) for end in (undetected.value, undetected.high, undetected.low))
    return dataclasses.replace(undetected, value=value, low=low, high=high)


def _controlled(bare: Estimate, dangerous: Estimate) -> Estimate:
    """Return max(0, G - D), its ends being the furthest that both intervals allow."""
    ends = ((bare.value, dangerous.value), (bare.low, dangerous.high), (bare.high, dangerous.low))
    value, low, high = (max(0.0, g - d) for g, d in ends)
    return dataclasses.replace(dangerous, value=value, low=low, high=high)
