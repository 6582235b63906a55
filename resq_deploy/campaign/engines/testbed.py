"""What a worker needs to evaluate faults, on this machine or on another: model, golden run, options, engines."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.engines.group import Group
from resq_deploy.campaign.engines.injection import Injector
from resq_deploy.campaign.engines.reload import ReloadEngine
from resq_deploy.campaign.engines.replay import NotReplayableError, ReplayEngine
from resq_deploy.campaign.engines.sweep import GoldenGraph
from resq_deploy.campaign.golden import Golden
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.plan import Plan
from resq_deploy.campaign.record import WHOLE, Record, Way
from resq_deploy.deployed.patch import Patcher
from resq_deploy.deployed.surfaces import Surface
from resq_deploy.faults.fault import Fault, Share

_MOST_MORE = 16
"""How many times as many faults a portion holds at most where each is judged on few images."""

_SOME, _LEAST, _EACH = 4.0, 0.25, 4
"""How many portions of faults on all images one of such faults takes as long as at most, and at least; and how many
portions each worker has in between, so that none waits for another and a bar moves."""


class Engine(Protocol):
    """Evaluates faults; thread-safe."""

    @property
    def name(self) -> str:
        """What the engine is called."""

    def group(self, tensors: Sequence[str]) -> Group | None:
        """Return which faults those in these tensors are best evaluated with; None if with no others."""

    def way(self, fault: Fault) -> Way:
        """Return how a fault is evaluated, unless that turns out to fail and it is left to reload-and-run."""

    def widest(self, tensors: Sequence[str], elements: int, /) -> NDArray[np.int64]:
        """Return which elements of tensors that are alike one fault may hit and still go the way of a single flip."""

    def evaluate(self, faults: Sequence[Fault]) -> list[Record]:
        """Return the record of each fault."""

    def inert(self, fault: Fault, /) -> bool:
        """Return whether a faulty file is seen, by itself, to be run as the golden one."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Kit:
    """The values a testbed is built from; they can be sent to another process.

    Attributes:
        patcher: the file's stored bytes.
        surfaces: the tensors that may be hit, by name.
        golden: the fault-free run.
        options: what the campaign was asked to do.
    """

    patcher: Patcher
    surfaces: Mapping[str, Surface]
    golden: Golden
    options: CampaignOptions


class Testbed:
    """The engines of a campaign.

    Args:
        kit: what to build them from.
        graph: the graph that the golden run was made with, and its values; None where it was made otherwise.

    Attributes:
        truth: reload-and-run.
        engine: what evaluates the faults; the truth itself where replay was not wanted or cannot be exact.
        fallback: why it cannot; empty otherwise.
        images: how many there are.
    """

    __test__ = False  # no test, whatever pytest makes of the name

    def __init__(self, kit: Kit, graph: GoldenGraph | None = None) -> None:
        injector = Injector(kit.patcher, kit.surfaces, kit.options.ecc)
        self.images, self._workers = len(kit.golden), kit.options.worker_count
        self.truth = ReloadEngine(injector, kit.golden, kit.options)
        self.engine: Engine = self.truth
        self.fallback = ""
        if kit.options.engine == "replay":
            try:
                self.engine = ReplayEngine(injector, kit.golden, kit.options, self.truth, graph)
            except NotReplayableError as reason:
                self.fallback = str(reason)

    def evaluate(self, plan: Plan, numbers: Iterable[int], *, truth: bool = False) -> list[Record]:
        """Return the records of faults of a plan, by number, with the engine or the truth."""
        return (self.truth if truth else self.engine).evaluate([plan.fault(number) for number in numbers])

    def shards(self, plan: Plan, numbers: Iterable[int], workers: int | None = None) -> list[list[int]]:
        """Return numbers in portions that are best evaluated together, in the best order.

        Args:
            plan: the plan.
            numbers: of its faults.
            workers: how many portions are evaluated at a time; None for as many as the options say.
        """
        grouped: dict[Group, list[int]] = {}
        alone = []
        for number in numbers:
            group = self.engine.group(plan.tensors(number))
            if group is None:
                alone.append([number])
            else:
                grouped.setdefault(group, []).append(number)
        if plan.images_per_fault is not None:
            return self._by_images(plan, grouped, workers or self._workers) + alone
        return [
            members[start : start + group.portion]
            for group, members in sorted(grouped.items())
            for start in range(0, len(members), group.portion)
        ] + alone

    def _by_images(self, plan: Plan, grouped: Mapping[Group, Sequence[int]], workers: int) -> list[list[int]]:
        """Return faults in portions of those on the same images, whatever layers they hit.

        Golden values of an image are computed once for all of them. Portions take about as long as those of faults on
        all images do, some times over, as what they leave unfinished of a batch is run for few images.
        """
        more = max(1, min(_MOST_MORE, self.images // (plan.images_per_fault or 1)))
        loads: dict[int, list[tuple[Share, int, float]]] = {}
        for group, members in grouped.items():
            for number in members:
                share = plan.fault(number).share or WHOLE
                loads.setdefault(group.stretch, []).append((share, number, 1.0 / (group.portion * more)))
        whole = sum(load for ones in loads.values() for *_, load in ones)
        most = min(_SOME, max(_LEAST, whole / (workers * _EACH)))
        portions: list[list[int]] = []
        for _, ones in sorted(loads.items()):
            filled, last = math.inf, None
            for share, number, load in sorted(ones):
                if filled >= (most if share != last else 2 * most):
                    portions.append([])
                    filled = 0.0
                portions[-1].append(number)
                filled, last = filled + load, share
        return portions
