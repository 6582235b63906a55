"""What a campaign is asked to do, checked as a whole before anything runs."""

import dataclasses
import enum
import math
import pathlib
from typing import Any, Literal

from resq_deploy.cores import usable_cores
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import InputError, OptionError
from resq_deploy.faults.cells import Direction, TrueCells
from resq_deploy.faults.upsets import Pattern
from resq_deploy.records import sha256_file

DEFAULT_MARGIN = 0.01
PART = 20
"""Images of a part where `auto` decides how many parts a fault is judged on, and of its pilots' faults."""

DEFAULT_FAILING_SHARE = 0.01
DEFAULT_LIFETIME = 87_600.0
"""Hours: ten years."""
DEFAULT_MEMORY = 2 * 10**9
LEAST_MEMORY = 2**28
_AUDIT = {"replay": 0.01, "reload": 0.0}
DEFAULT_BER = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


class FaultModel(enum.StrEnum):
    """The fault models of a campaign."""

    SINGLE = "single"
    BER = "ber"
    BURST = "burst"
    STUCK_AT_0 = "stuck-at-0"
    STUCK_AT_1 = "stuck-at-1"
    WORD = "word"
    CLUSTER = "cluster"
    STUCK_ROW_0 = "stuck-row-0"
    STUCK_ROW_1 = "stuck-row-1"
    STUCK_COLUMN_0 = "stuck-column-0"
    STUCK_COLUMN_1 = "stuck-column-1"
    LIST = "list"


LINES = frozenset(model for model in FaultModel if model.startswith(("stuck-row", "stuck-column")))
"""Models whose faults are whole lines of a memory: few, and all of them are run."""

WHOLE = LINES | {FaultModel.LIST}
"""Models of which every fault there is is run."""


class Draw(enum.StrEnum):
    """What is drawn evenly: every stored bit alike, or first the layer, whatever its size, and then a bit of it."""

    BITS = "bits"
    LAYERS = "layers"


ADJACENT = "file"
"""The layout of words one behind the other, as the file stores them."""
INTERLEAVED = "interleaved:"
"""Followed by how many words are interleaved, bit by bit."""
FOLDED = "rows:"
"""Followed by how many bytes a row holds, of words one behind the other."""
_LARGEST_PATTERN = 16

DIRECTED = ("single", "ber", "burst", "cluster")
"""Models whose flips may be one-directional."""

ONE_BIT = frozenset({FaultModel.SINGLE, FaultModel.STUCK_AT_0, FaultModel.STUCK_AT_1})
"""The models whose faults hit one stored bit each, which exposure and failures in time add up."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refinement:
    """Further faults for a campaign that is done, where roles and layers have the widest intervals; one of the two.

    Attributes:
        margin: half-width wanted of SDC-1 of every role and of every layer with strata of its own, a fraction.
        samples: how many faults more.
    """

    margin: float | None = None
    samples: int | None = None

    def __post_init__(self) -> None:
        if (self.margin is None) == (self.samples is None):
            raise OptionError("--refine takes --margin, wanted of every role and layer, or --samples, faults more")
        if self.margin is not None and not 0.0 < self.margin < 0.5:
            raise OptionError(f"--margin {self.margin}: give a fraction between 0 and 0.5, such as 0.01 for one point")
        if self.samples is not None and self.samples < 1:
            raise OptionError(f"--samples {self.samples}: give a whole number from 1 up")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CampaignOptions:
    """Options of a campaign.

    All but `workers`, `engine`, `memory`, `scheduler`, `audit`, `failing_share`, `scrub_hours` and `lifetime_hours`
    decide what is found; the last three ask other questions of the same faults.

    Attributes:
        faults: the fault model.
        images: how many test images to judge by.
        judge: what counts as wrong, as `faults.judges.registry.parse` reads it; None to guess it from the outputs.
        outputs: which outputs are judged; empty for those that the judge reads.
        images_per_fault: how many of them each fault is judged on, drawn by seed and fault; `auto` for what is
            cheapest, `all` for all. None for `auto` where bits are drawn until a margin is reached, else all.
        roles: roles to hit; empty for all.
        layers: shell pattern that the layer's name must match.
        bits: bit positions to hit; empty for all.
        ber: bit error rates, ascending, in (0, 0.5]: of the masks of `ber`, and of the exposure of other models.
        chips: simulated chips per bit error rate, where no margin is asked for.
        burst: adjacent bits that a burst flips.
        draw: what is drawn evenly. Figures of `layers` are means over the layers of the mean over each layer's faults;
            a chip of `ber` has as many draws as bits times rate, each a layer and then one of its bits.
        flip_direction: which way bits may flip; a strike on a cell that holds the value already changes nothing, and is
            one of the faults all the same. Where it goes either way with some probability, each bit has a way of its
            own, by the seed; that of a chip of `ber` by the chip.
        true_cells: which cells flip that way, the others the other way; None for all, or as a table has it.
        cluster_shares: the patterns of cells that upsets have, and how often each occurs; shares sum to 1.
        memory_layout: where stored bits lie next to each other, for upsets, lines and rows of true cells: `file`,
            `interleaved:N`, `rows:BYTES`, or the path of a table.
        fault_list: file whose faults are evaluated, for the model `list`.
        samples: faults to draw evenly from the population, or from each layer; None where the margin decides.
        margin: half-width wanted of the interval of SDC-1, a fraction; faults are drawn in strata until it is reached,
            of `ber` chips until it is reached at every rate.
        exhaustive: take every fault of the population.
        refines: what is drawn once the margin is reached, one after the other.
        confidence: coverage of the intervals.
        ecc: `secded` corrects one and detects two flips in every 64-bit word of a tensor; `none` leaves them.
        audit: share of the replayed faults that is evaluated a second time, by reload-and-run, and compared bit by bit;
            None for 1 % with the engine `replay`, and none with `reload`, which is the truth itself.
        fit_per_mbit: raw failure rate of the memory, failures in 10^9 hours and 10^6 bits; None where unknown.
        scrub_hours: hours after which the stored file is made sound again - healed in place, or written anew - which
            bounds how many flips gather in one word of a code; None where that is not asked.
        lifetime_hours: hours that flips gather where the file is never made sound again.
        failing_share: share of the answers above which the exposure counts a fault as failing, beside those that change
            any.
        time_limit: seconds a run over all images may take before the fault counts as `due`; None for no limit.
        seed: of all drawing but the chips'.
        workers: shards of faults evaluated at the same time; None for all cores.
        engine: `replay` runs what a fault changes, `reload` the whole file; both give the same records.
        memory: bytes of memory that the process should stay within; bounds the golden activations held.
        scheduler: address of a Dask scheduler, or `local` for Dask on this machine; None for threads.
        deployment: how the file is run.
    """

    faults: FaultModel = FaultModel.SINGLE
    images: int = 1000
    judge: str | None = None
    outputs: tuple[str, ...] = ()
    images_per_fault: int | Literal["auto", "all"] | None = None
    roles: tuple[Role, ...] = ()
    layers: str = "*"
    bits: tuple[int, ...] = ()
    ber: tuple[float, ...] = DEFAULT_BER
    chips: int = 20
    burst: int = 2
    draw: Draw = Draw.BITS
    flip_direction: Direction = Direction.BOTH
    true_cells: TrueCells | None = None
    cluster_shares: tuple[Pattern, ...] = (Pattern(1, 2, 1.0),)
    memory_layout: str = ADJACENT
    fault_list: pathlib.Path | None = None
    samples: int | None = None
    margin: float | None = None
    exhaustive: bool = False
    refines: tuple[Refinement, ...] = ()
    confidence: float = 0.95
    ecc: Literal["none", "secded"] = "none"
    audit: float | None = None
    fit_per_mbit: float | None = None
    scrub_hours: float | None = None
    lifetime_hours: float = DEFAULT_LIFETIME
    failing_share: float = DEFAULT_FAILING_SHARE
    time_limit: float | None = None
    seed: int = 0
    workers: int | None = None
    engine: Literal["replay", "reload"] = "replay"
    memory: int = DEFAULT_MEMORY
    scheduler: str | None = None
    deployment: Deployment = dataclasses.field(default_factory=Deployment)

    def __post_init__(self) -> None:
        self._check_numbers()
        if sum((self.samples is not None, self.margin is not None, self.exhaustive)) > 1:
            raise OptionError("--samples, --margin and --exhaustive exclude each other: give one")
        if (self.fault_list is not None) != (self.faults is FaultModel.LIST):
            raise OptionError("--fault-list names the faults itself: leave --faults out")
        self._check_images_per_fault()
        if self.refines and not self.stratified:
            raise OptionError("--refine goes on with faults that were drawn in strata until a margin was reached")
        if self.faults is FaultModel.BER:
            self._check_ber()
        if self.faults is FaultModel.LIST:
            self._check_list()
        if self.faults in LINES:
            self._check_lines()
        self._check_physics()

    def _check_lines(self) -> None:
        if self.samples is not None or self.margin is not None or self.exhaustive or self.bits:
            raise OptionError(
                f"--faults {self.faults} runs every row or column: leave out --samples, --margin, --exhaustive and "
                "--bits"
            )
        if self.draw is Draw.LAYERS:
            raise OptionError(f"--faults {self.faults} draws nothing: leave --draw out")
        if self.memory_layout == ADJACENT or self.memory_layout.startswith(INTERLEAVED):
            raise OptionError(
                f"--faults {self.faults}: the layout {self.memory_layout} has one row; give --memory-layout "
                "rows:BYTES, or a CSV file"
            )

    def _check_physics(self) -> None:
        if self.flip_direction.falling is not None and self.faults not in DIRECTED:
            raise OptionError(
                f"--flip-direction {self.flip_direction} does not apply to {self.faults}, which says itself what bits "
                f"become: leave it out, or run one of --faults {', '.join(DIRECTED)}"
            )
        self._check_cells()
        if self.faults is not FaultModel.CLUSTER and self.cluster_shares != (Pattern(1, 2, 1.0),):
            raise OptionError("--cluster-shares is about upsets of several cells: add --faults cluster")
        if not self.placed and self.memory_layout != ADJACENT:
            raise OptionError(
                "--memory-layout is about upsets of several cells, rows and columns: add --faults cluster, or one of "
                f"{', '.join(sorted(LINES))}; with --flip-direction, --true-cells rows:N or a table takes it, too"
            )
        sides = [side for pattern in self.cluster_shares for side in (pattern.rows, pattern.columns)]
        if not sides or min(sides) < 1 or max(sides) > _LARGEST_PATTERN:
            raise OptionError(f"--cluster-shares: give patterns of 1 to {_LARGEST_PATTERN} rows and columns")
        shares = [pattern.share for pattern in self.cluster_shares]
        if not all(0.0 < share <= 1.0 for share in shares) or abs(math.fsum(shares) - 1.0) > 1e-9:
            raise OptionError("--cluster-shares: give shares above 0 that sum to 1, such as 2=0.6,3=0.25,4=0.15")

    def _check_cells(self) -> None:
        asked, layout = self.true_cells, self.memory_layout
        if not 0.0 <= (self.flip_direction.falling or 0.0) <= 1.0:
            raise OptionError(f"--flip-direction {self.flip_direction}: give a share from 0 to 1, such as 1to0:0.8")
        if asked is None:
            return
        if self.flip_direction.falling is None:
            raise OptionError(
                f"--true-cells {asked}: says in which cells --flip-direction goes the other way: give it as well, 1to0 "
                "for cells that lose their charge"
            )
        if asked.share is not None and not 0.0 <= asked.share <= 1.0:
            raise OptionError(f"--true-cells {asked}: give a share from 0 to 1, or rows:N")
        if asked.rows is not None and asked.rows < 1:
            raise OptionError(f"--true-cells {asked}: give one row or more, such as rows:512")
        if asked.rows is not None and (layout == ADJACENT or layout.startswith(INTERLEAVED)):
            raise OptionError(
                f"--true-cells {asked}: the layout {layout} has one row; give --memory-layout rows:BYTES, or a CSV file"
            )

    def _check_numbers(self) -> None:
        for name, value in (("images", self.images), ("chips", self.chips), ("samples", self.samples)):
            if value is not None and value < 1:
                raise OptionError(f"--{name} {value}: give a whole number from 1 up")
        if self.margin is not None and not 0.0 < self.margin < 0.5:
            raise OptionError(f"--margin {self.margin}: give a fraction between 0 and 0.5, such as 0.01 for one point")
        if not 0.5 <= self.confidence < 1.0:
            raise OptionError(f"--confidence {self.confidence}: give a fraction from 0.5 to below 1, such as 0.95")
        if self.time_limit is not None and not 0.0 < self.time_limit < math.inf:
            raise OptionError(f"--time-limit {self.time_limit}: give seconds above 0")
        if self.audit is not None and not 0.0 <= self.audit <= 1.0:
            raise OptionError(f"--audit {self.audit}: give a fraction from 0 to 1, such as 0.01")
        if self.fit_per_mbit is not None and not 0.0 <= self.fit_per_mbit < math.inf:
            raise OptionError(f"--fit-per-mbit {self.fit_per_mbit}: give a rate from 0 up")
        if self.fit_per_mbit is not None and self.faults not in ONE_BIT:
            raise OptionError(
                f"--fit-per-mbit adds up faults of one bit each, and those of {self.faults} are others: leave it out, "
                f"or run one of --faults {', '.join(sorted(ONE_BIT))}"
            )
        if self.fit_per_mbit is not None and self.draw is Draw.LAYERS:
            raise OptionError(
                "--fit-per-mbit adds up faults of bits that fail alike, and --draw layers weighs those of small layers "
                "more: leave one of them out"
            )
        self._check_scrubbing()
        if not 0.0 <= self.failing_share < 1.0:
            raise OptionError(f"--failing-share {self.failing_share}: give a fraction from 0 to below 1, such as 0.01")
        if self.workers is not None and self.workers < 1:
            raise OptionError(f"--workers {self.workers}: give a whole number from 1 up")
        if self.memory < LEAST_MEMORY:
            raise OptionError(f"--memory {self.memory}: give bytes, {LEAST_MEMORY:,} or more")
        if not self.ber or any(not 0.0 < rate <= 0.5 for rate in self.ber):
            raise OptionError("--ber: give bit error rates above 0 and up to 0.5, such as 1e-4,1e-3")
        if not 2 <= self.burst <= 64:
            raise OptionError(f"--burst {self.burst}: give a length from 2 to 64 bits")

    def _check_scrubbing(self) -> None:
        if not 0.0 < self.lifetime_hours < math.inf:
            raise OptionError(f"--lifetime-hours {self.lifetime_hours}: give hours above 0")
        if self.scrub_hours is None:
            return
        if not 0.0 < self.scrub_hours <= self.lifetime_hours:
            raise OptionError(
                f"--scrub-hours {self.scrub_hours:g}: give hours above 0 and up to --lifetime-hours "
                f"{self.lifetime_hours:g}"
            )
        if self.fit_per_mbit is None:
            raise OptionError("--scrub-hours needs the rate at which bits flip: give --fit-per-mbit, too")
        if self.ecc != "none":
            raise OptionError("--scrub-hours counts flips that no memory corrects: leave --ecc out")

    def _check_images_per_fault(self) -> None:
        asked = self.images_per_fault
        if isinstance(asked, int) and asked < 1:
            raise OptionError(f"--images-per-fault {asked}: give a whole number from 1 up, auto or all")
        if asked in (None, "all"):
            return
        if self.faults is FaultModel.BER:
            raise OptionError("--images-per-fault does not apply to ber: every chip is judged on all images")
        if self.draw is Draw.LAYERS and self.stratified:
            raise OptionError(
                "--images-per-fault: with --draw layers and --margin small layers are taken whole, and what they do on "
                "other images no further fault can tell: give all, or --samples"
            )
        if asked == "auto" and not self.stratified:
            raise OptionError(
                "--images-per-fault auto learns from the pilot of a campaign with --margin: give a number, or all"
            )

    def _check_ber(self) -> None:
        if self.samples is not None or self.exhaustive:
            raise OptionError("--samples and --exhaustive do not apply to ber: its sample is --chips, or --margin")

    def _check_list(self) -> None:
        sampled = self.samples is not None or self.margin is not None or self.exhaustive
        if sampled or self.roles or self.bits or self.layers != "*":
            raise OptionError("--fault-list is run as it is: leave out --samples, --margin, --exhaustive and filters")
        if self.draw is Draw.LAYERS:
            raise OptionError("--draw says how faults are drawn, and those of --fault-list are given: leave it out")

    @property
    def placed(self) -> bool:
        """Whether it matters where in the memory a bit lies."""
        if self.faults is FaultModel.CLUSTER or self.faults in LINES:
            return True
        if self.flip_direction.falling is None:
            return False
        tabled = self.memory_layout != ADJACENT and not self.memory_layout.startswith((INTERLEAVED, FOLDED))
        return tabled if self.true_cells is None else self.true_cells.rows is not None

    @property
    def stratified(self) -> bool:
        """Whether faults are drawn in strata until a margin is reached."""
        return self.samples is None and not self.exhaustive and self.faults not in WHOLE | {FaultModel.BER}

    @property
    def worker_count(self) -> int:
        """How many workers: what was asked for, else every core this process may run on."""
        return self.workers if self.workers is not None else len(usable_cores())

    @property
    def audit_share(self) -> float:
        """The share of the faults that is audited."""
        return _AUDIT[self.engine] if self.audit is None else self.audit

    def identity(self) -> dict[str, Any]:
        """Return what decides the figures, as JSON values, for the manifest and for resuming."""
        values = dataclasses.asdict(self)
        asked = ("failing_share", "scrub_hours", "lifetime_hours", "judge", "outputs")  # the judge itself is recorded
        for how in ("workers", "audit", "engine", "memory", "scheduler", *asked):
            del values[how]
        del values["fault_list"]  # its digest counts, not its path
        if not self.refines:
            del values["refines"]
        del values["flip_direction"], values["true_cells"], values["cluster_shares"], values["memory_layout"]
        if self.flip_direction.falling is not None:
            values["flip_direction"] = str(self.flip_direction)
        if self.true_cells is not None:
            values["true_cells"] = str(self.true_cells)
        if self.faults is FaultModel.CLUSTER:
            patterns = self.cluster_shares
            values["cluster_shares"] = [[pattern.rows, pattern.columns, pattern.share] for pattern in patterns]
        if self.placed:
            values["memory_layout"] = _identity_of(self.memory_layout)
        if self.draw is Draw.BITS:  # as campaigns drew before they could draw otherwise
            del values["draw"]
        values["deployment"] = self.deployment.identity()
        values["faults"] = str(self.faults)
        values["roles"] = [str(role) for role in self.roles]
        return values


def _identity_of(layout: str) -> str:
    """Return what decides upsets of a layout: of a table what is in it, and not where it lies."""
    if layout == ADJACENT or layout.startswith((INTERLEAVED, FOLDED)):
        return layout
    try:
        return sha256_file(pathlib.Path(layout))
    except OSError as error:
        raise InputError(f"cannot read memory layout {layout}: {error}") from error
