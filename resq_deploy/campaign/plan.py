"""Which faults a campaign evaluates: the population it draws from, the sample, and each fault by its number.

A plan is a pure function of the surfaces, the options and, where strata are sampled, the results so far. It can be
made anew at any time, so that a resumed campaign goes on with the very same faults.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.effort import Effort
from resq_deploy.campaign.fault_list import read_fault_list
from resq_deploy.campaign.masks import mask
from resq_deploy.campaign.options import DEFAULT_MARGIN, LINES, PART, CampaignOptions, Draw, FaultModel
from resq_deploy.campaign.physical import Lines
from resq_deploy.campaign.population import Population
from resq_deploy.campaign.strata import TRUST, Strata
from resq_deploy.deployed.surfaces import Surface
from resq_deploy.errors import OptionError
from resq_deploy.faults import draws
from resq_deploy.faults.allocation import further_units, next_images
from resq_deploy.faults.bit_errors import FIRST_CHIP
from resq_deploy.faults.fault import Edit, Fault, Share
from resq_deploy.faults.partition import Partition
from resq_deploy.faults.statistics import planned_sample
from resq_deploy.faults.stratified import Sample

_MOST_OF_A_PART = 100  # what onnxruntime runs at a time, where the file leaves that open

MOST_CHIPS = 10_000
"""More chips are not drawn at a rate, whatever the margin."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """The faults of a campaign, in the order they are numbered.

    Attributes:
        options: what was asked for.
        surfaces: the chosen surfaces.
        stored: all that the file stores; empty where no fault can reach beyond the chosen surfaces.
        population: the faults that are drawn from; None for a fault list.
        positions: population number of each fault, shape [n]; empty for random bit errors and lists.
        masks: (bit error rate, chip) of each fault; empty for other models.
        listed: the faults of a list, or a memory's lines; empty for other models.
        labels: what they are called.
        list_digest: SHA-256 of the list.
        strata: where faults are drawn in strata; None otherwise.
        sample: stratum and phase of each fault so far; None without strata.
        partition: of the images; None where every fault is judged on all of them, whatever they are.
        counts: parts of a fault's share, by phase; the last number holds for later phases, too.
        effort: what faults and image runs cost, in counted work.
        refined: how many of the refinements asked for are done.
    """

    options: CampaignOptions
    surfaces: tuple[Surface, ...]
    stored: tuple[Surface, ...] = ()
    population: Population | None = None
    positions: NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.empty(0, dtype=np.int64))
    masks: tuple[tuple[float, int], ...] = ()
    listed: Sequence[Fault] = ()
    labels: tuple[str, ...] = ()
    list_digest: str | None = None
    strata: Strata | None = None
    sample: Sample | None = None
    partition: Partition | None = None
    counts: tuple[int, ...] = (1,)
    effort: Effort = dataclasses.field(default_factory=Effort)
    refined: int = 0

    def __len__(self) -> int:
        return len(self.masks) or len(self.listed) or len(self.positions)

    @property
    def model(self) -> FaultModel:
        """The fault model."""
        return self.options.faults

    @property
    def size(self) -> float:
        """How many different faults there are: infinity for random bit errors."""
        if self.model is FaultModel.BER:
            return math.inf
        return len(self.listed) if self.population is None else self.population.size

    @property
    def bits(self) -> int:
        """How many stored bits the faults are about."""
        return sum(s.bits for s in self.surfaces) if self.population is None else self.population.bits

    def fault(self, number: int) -> Fault:
        """Return a fault by its number, 0 ... len - 1."""
        if self.population is None:
            listed = self.listed[number]
            return dataclasses.replace(listed, share=self._share(listed.edits, number))
        if self.masks:
            rate, chip = self.masks[number]
            flips = mask(self.surfaces, self.options, self.population.strikes, rate, chip)
            return Fault(number, flips, ber=rate, chip=chip)
        edits = self.population.edits(int(self.positions[number]))
        return Fault(number, edits, share=self._share(edits, number))

    def _share(self, edits: Sequence[Edit], number: int) -> Share | None:
        """Return the images that a fault is judged on; None for all."""
        if self.partition is None or self.partition.parts == 1:
            return None
        phase = 0 if self.sample is None else int(self.sample.phase[number])
        return self.partition.draw(edits, self.options.seed, self.counts[min(phase, len(self.counts) - 1)])

    @property
    def sizes_shares(self) -> bool:
        """Whether the pilots decide on how many images the faults after them are judged."""
        return self.in_phases and self.options.draw is Draw.BITS and self.options.images_per_fault in (None, "auto")

    @property
    def in_phases(self) -> bool:
        """Whether faults are drawn phase by phase, beginning with a pilot, until a margin is reached."""
        return self.sample is not None and self.sample.pilots > 0

    def judged_on(self, partition: Partition, effort: Effort | None = None) -> "Plan":
        """Return the plan with the images that its faults are judged on.

        Args:
            partition: of the campaign's images, as the golden run has cut them for `part_size`.
            effort: what faults and image runs cost; None for that of a small network.
        """
        asked, size, count = self._asked_images, self.part_size, partition.parts
        if asked is not None and size is not None:
            # Parts are smaller than asked for where they are alike, and larger where the file takes more at a time.
            count = min(-(-asked // max(size, partition.size)), partition.parts)
        plan = dataclasses.replace(self, partition=partition, counts=(count,), effort=effort or self.effort)
        return dataclasses.replace(plan, sample=plan._with_images(self.sample))

    def _with_images(self, sample: Sample | None) -> Sample | None:
        """Return the sample with how many images its faults are judged on."""
        if sample is None or self.partition is None:
            return sample
        images = tuple(self.least_images(phase) or 0 for phase in range(sample.phases))
        return dataclasses.replace(sample, images=images, of=self.partition.images)

    @property
    def part_size(self) -> int | None:
        """How many images a part had better have: as few parts a fault as are run well; None for all in one."""
        asked = self._asked_images
        return None if asked is None else -(-asked // -(-asked // _MOST_OF_A_PART))

    @property
    def _asked_images(self) -> int | None:
        """How many images a fault is to be judged on at first; None for all, as where every fault there is is taken."""
        asked = self.options.images_per_fault
        if isinstance(asked, int):
            return asked
        return PART if self.sizes_shares else None

    def least_images(self, phase: int = 0) -> int | None:
        """Return on how many images each fault of a phase is judged at least; None where not known to be fewer."""
        if self.partition is None:
            return None
        count = self.counts[min(phase, len(self.counts) - 1)]
        whole = count >= self.partition.parts
        return self.partition.images if whole else int(self.partition.sizes(count).min())

    @property
    def share(self) -> float:
        """The least part of all images that any fault is judged on, in (0, 1]."""
        if self.partition is None:
            return 1.0
        return min((self.least_images(phase) or 0) for phase in range(len(self.counts))) / self.partition.images

    @property
    def images_per_fault(self) -> int | None:
        """How many images the faults of the last phase are judged on, to the next full part; None for all."""
        if self.partition is None or self.counts[-1] >= self.partition.parts:
            return None
        return self.counts[-1] * self.partition.size

    def tensors(self, number: int) -> tuple[str, ...]:
        """Return the tensors a fault touches; for random bit errors none, as that takes a whole mask to know."""
        if self.masks:
            return ()
        if self.population is None:
            return self.listed[number].tensors
        return self.population.tensors(int(self.positions[number]))

    def label(self, number: int) -> str:
        """Return what a fault is called in the table of faults."""
        return self.labels[number] if self.labels else str(number)

    def group(self, number: int, key: str) -> str:
        """Return the role, layer or bit of a fault (`key`: role, layer or bit); `mixed` where it has several."""
        if self.population is not None:
            return self.population.cell_of(int(self.positions[number])).group(key)
        edits = self.fault(number).edits
        if key == "bit":
            found = {str(bit) for edit in edits for bit in edit.bit}
        else:
            found = {str(getattr(self.surface(edit.tensor), key)) for edit in edits}
        return found.pop() if len(found) == 1 else "mixed"

    def group_size(self, key: str, name: str) -> int:
        """Return how many faults of the population belong to a role, layer or bit."""
        if self.population is None:
            return sum(self.group(number, key) == name for number in range(len(self)))
        return sum(cell.surface.elements for cell in self.population.cells if cell.group(key) == name)

    def part(self, key: str, name: str) -> NDArray[np.int64] | None:
        """Return how many faults of each stratum belong to a role, layer or bit; None without strata."""
        return None if self.strata is None else self.strata.inside(key, name)

    def surface(self, tensor: str) -> Surface:
        """Return the surface of a tensor that the plan may hit, or an upset that begins in another."""
        return next(surface for surface in self.stored or self.surfaces if surface.tensor == tensor)

    def continued(self, rates: NDArray[np.float64]) -> "Plan | None":
        """Return the plan with its next phase of faults, or None when nothing is left to do.

        Args:
            rates: SDC-1 of each fault so far, in order, shape [len]; a `due` fault counts as 0.
        """
        if self.model is FaultModel.BER and self.options.margin is not None:
            return self._with_more_chips(rates, self.options.margin)
        if self.strata is None or self.sample is None or not self.in_phases:
            return None
        count = self._next_count(rates)
        images = None if self.partition is None else min(count * self.partition.size, self.partition.images)
        if not self.sample.kept:
            phase = self.strata.following(rates, self.sample, _margin(self.options), self.options.confidence, images)
            if phase is not None:
                return self._with_phase(self.sample, count, *phase)
        kept = dataclasses.replace(self.sample, kept=self.sample.kept or self.sample.phases)
        for done, step in enumerate(self.options.refines[self.refined :], self.refined):
            further = self.strata.refining(rates, self.positions, kept, step, self.options.confidence, images)
            if further is not None:
                plan = self._with_phase(kept, count, *further, self.sample.pilots)
                return dataclasses.replace(plan, refined=done + (step.samples is not None))
        return None

    def expected(self, rates: NDArray[np.float64]) -> tuple[int, "Plan"]:
        """Return how many faults there will be in the end, as those so far show, and the plan with the next ones.

        Args:
            rates: as for `continued`.
        """
        following = self.continued(rates)
        if following is None:
            return len(self), self
        more, sample = len(following) - len(self), following.sample
        if sample is not None and self.in_phases and sample.phases <= sample.pilots:
            more += TRUST * more  # another pilot, that plans so many times its own
        return int(min(len(self) + more, self.size)), following

    def _with_phase(
        self, sample: Sample, count: int, positions: NDArray[np.int64], stratum: NDArray[np.int64], pilots: int
    ) -> "Plan":
        """Return the plan with a phase more, and its faults judged on so many parts."""
        sample = dataclasses.replace(
            sample,
            stratum=np.concatenate([sample.stratum, stratum]),
            phase=np.concatenate([sample.phase, np.full(len(stratum), sample.phases)]),
            pilots=pilots,
        )
        before = (self.counts[min(phase, len(self.counts) - 1)] for phase in range(sample.phases - 1))
        plan = dataclasses.replace(self, positions=np.concatenate([self.positions, positions]), counts=(*before, count))
        return dataclasses.replace(plan, sample=plan._with_images(sample))

    def _next_count(self, rates: NDArray[np.float64]) -> int:
        """Return how many parts the faults of the next phase are judged on.

        The pilots decide, each for the phase after it, where `auto` was asked for; from the main phase on it stays.
        """
        sample = self.sample
        if sample is None or self.strata is None or self.partition is None or not self.sizes_shares:
            return self.counts[-1]
        if sample.phases > sample.pilots or self.partition.parts == 1:
            return self.counts[-1]
        images = next_images(rates, sample, self.strata.work(self.effort), self.partition.size)
        return min(self.partition.parts, -(-images // self.partition.size))

    def _with_more_chips(self, rates: NDArray[np.float64], margin: float) -> "Plan | None":
        """Return the plan with as many chips more as bring the margin at every rate, or None where all have it."""
        of_mask = np.array([rate for rate, _ in self.masks])
        at_rate = [rates[of_mask == rate] for rate in self.options.ber]
        have = len(at_rate[0])
        more = min(further_units(at_rate, margin, self.options.confidence), MOST_CHIPS - have)
        return dataclasses.replace(self, masks=self.masks + _masks(self.options, have, more)) if more else None


def make_plan(surfaces: Sequence[Surface], options: CampaignOptions) -> Plan:
    """Choose the surfaces and draw the first faults of a campaign.

    Raises:
        InputError: if nothing is left to hit, more faults are asked for than there are, or a list is malformed.
    """
    chosen = tuple(select(surfaces, options))
    if options.fault_list is not None:
        labels, faults, digest = read_fault_list(options.fault_list, chosen)
        return Plan(options=options, surfaces=chosen, listed=tuple(faults), labels=tuple(labels), list_digest=digest)
    if options.faults in LINES:
        lines = Lines(surfaces, chosen, options)
        return Plan(options=options, surfaces=chosen, stored=tuple(surfaces), listed=lines, labels=lines.labels)
    population = Population(chosen, options, surfaces)
    plan = Plan(options=options, surfaces=chosen, stored=tuple(surfaces), population=population)
    if options.faults is FaultModel.BER:
        return dataclasses.replace(plan, masks=_masks(options, 0, _first_chips(options)))
    if not options.stratified or eq7_sample(population.size, options) >= population.size:
        count = population.size if options.samples is None else options.samples
        if count > population.size:
            raise OptionError(
                f"--samples {count}: only {population.size} faults exist; give --exhaustive to take them all"
            )
        if options.draw is Draw.LAYERS:
            return _sampled(plan, Strata.layers(population, options.seed), count)
        positions = draws.sample(draws.stream("sample", options.seed), population.size, count)
        return dataclasses.replace(plan, positions=positions)
    strata = Strata.parts(population, options.seed, options.draw)
    return _sampled(plan, strata)


def _sampled(plan: Plan, strata: Strata, count: int | None = None) -> Plan:
    """Return the plan with the first phase of a sample: a pilot, or as many faults as are drawn in all.

    Raises:
        OptionError: if they are too few to give every stratum one.
    """
    if count is not None and count < len(strata.sizes):
        raise OptionError(
            f"--samples {count}: with --draw layers each of the {len(strata.sizes):,} layers takes one fault or more"
        )
    positions, stratum = strata.pilot() if count is None else strata.alike(count)
    sample = Sample(
        stratum,
        np.zeros(len(stratum), dtype=np.int64),
        strata.sizes,
        strata.groups,
        pilots=int(count is None),
        mass=strata.mass,
    )
    return dataclasses.replace(plan, positions=positions, strata=strata, sample=sample)


def _first_chips(options: CampaignOptions) -> int:
    """Return how many chips to begin with: those asked for, or the fewest that may bring the margin.

    Raises:
        OptionError: if even those are too many.
    """
    if options.margin is None:
        return options.chips
    fewest = further_units([np.empty(0)], options.margin, options.confidence)
    if fewest > MOST_CHIPS:
        raise OptionError(
            f"--margin {options.margin:g}: takes {fewest:,} chips at each rate or more, and {MOST_CHIPS:,} are drawn "
            "at most: give a wider one, or --chips"
        )
    return fewest


def _masks(options: CampaignOptions, have: int, more: int) -> tuple[tuple[float, int], ...]:
    chips = range(FIRST_CHIP + have, FIRST_CHIP + have + more)
    return tuple((rate, chip) for rate in options.ber for chip in chips)


def eq7_sample(population: float, options: CampaignOptions) -> int:
    """Return how many faults equation (7) asks for, drawn without strata; at most the population."""
    return min(int(population), math.ceil(planned_sample(int(population), _margin(options), options.confidence)))


def _margin(options: CampaignOptions) -> float:
    return DEFAULT_MARGIN if options.margin is None else options.margin


def select(surfaces: Sequence[Surface], options: CampaignOptions) -> list[Surface]:
    """Return the surfaces that the filters of the options leave.

    Raises:
        OptionError: if they leave none; the message says what the model does have.
    """
    if not surfaces:
        raise OptionError("the model stores no parameters that bits could flip in")
    by_role = [surface for surface in surfaces if not options.roles or surface.role in options.roles]
    if not by_role:
        wanted = ", ".join(options.roles)
        present = ", ".join(sorted({str(surface.role) for surface in surfaces}))
        raise OptionError(f"--roles {wanted}: the model stores nothing in that role; it stores {present}")
    chosen = [surface for surface in by_role if fnmatch.fnmatchcase(surface.layer, options.layers)]
    if not chosen:
        example = ", ".join(list(dict.fromkeys(surface.layer for surface in by_role))[:3])
        raise OptionError(f"--layers {options.layers!r} matches no layer; layers are named like {example}")
    return chosen
