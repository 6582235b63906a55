"""What an attack campaign is asked to do, checked as a whole before anything runs."""

import dataclasses
import math
import pathlib
from typing import Any

from resq_deploy.attacks.ball import Norm
from resq_deploy.attacks.square import LEAST_QUERIES
from resq_deploy.cores import usable_cores
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.errors import OptionError
from resq_deploy.pipeline.bit_flip_options import BitFlipOptions

KNOWLEDGE = {
    "square": "scores of the deployed file",
    "hopskipjump": "labels of the deployed file",
    "transfer-pgd": "gradients of the float network",
    "twin-pgd": "gradients of the deployed file, by its twin",
    "twin-apgd": "gradients of the deployed file, by its twin",
    "bit-flip": "gradients with respect to the stored bits, which the attacker may flip",
    "corruptions": "nothing: what sensors do, not attackers",
}
"""The attacks there are, and what each attacker knows."""

TWIN = ("twin-pgd", "twin-apgd")
UNMASKED = {name: f"{name}-unmasked" for name in TWIN}
"""The same attacks with gradients that pass through saturated roundings; a campaign takes them where they fool more."""
SURROGATE = ("transfer-pgd",)
CORRUPTIONS = "corruptions"
ON_IMAGES = ("square", "hopskipjump", *SURROGATE, *TWIN)
DEFAULT_EPSILON = {Norm.LINF: (2.0, 4.0, 8.0), Norm.L2: (0.25, 0.5, 1.0)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackOptions:
    """Options of an attack campaign; all but `workers` decide its figures.

    Attributes:
        attacks: names from `KNOWLEDGE`; empty for `square` and `twin-pgd`, and `transfer-pgd` where there is a
            surrogate.
        epsilon: radii, ascending: in 1/255 for Linf, in units of [0, 1] pixels for L2; empty for `DEFAULT_EPSILON`.
        norm: what the radius is measured in.
        queries: budget an image of the black-box attacks.
        steps: gradient steps of the others.
        images: how many test images to attack.
        check_images: how many of them the runs that only serve a check take.
        surrogate: checkpoint or train folder of the float network, or weights of a network that is named.
        network: what the user says that is of; one of the user's own networks must be named, as its code is run.
        bit_flip: what the bit-flip attack is asked to do.
        with_faults: a fault list (CSV) or a bit error rate for the matrix of faults and attacks; None for no matrix.
        fault_chips: simulated chips at that rate.
        seed: of all drawing but the chips'.
        workers: processes; None for all cores.
        deployment: how the file is run.
    """

    attacks: tuple[str, ...] = ()
    epsilon: tuple[float, ...] = ()
    norm: Norm = Norm.LINF
    queries: int = 1000
    steps: int = 20
    images: int = 1000
    check_images: int = 200
    surrogate: pathlib.Path | None = None
    network: str | None = None
    bit_flip: BitFlipOptions = dataclasses.field(default_factory=BitFlipOptions)
    with_faults: str | None = None
    fault_chips: int = 20
    seed: int = 0
    workers: int | None = None
    deployment: Deployment = dataclasses.field(default_factory=Deployment)

    def __post_init__(self) -> None:
        unknown = next((name for name in self.attacks if name not in KNOWLEDGE), None)
        if unknown is not None:
            raise OptionError(f"--attacks: unknown attack {unknown!r}; attacks are {', '.join(KNOWLEDGE)}")
        least = {"images": 1, "queries": LEAST_QUERIES, "steps": 1, "check_images": 1}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise OptionError(f"--{name} {getattr(self, name)}: give a whole number from {lowest} up")
        if self.workers is not None and self.workers < 1:
            raise OptionError(f"--workers {self.workers}: give a whole number from 1 up")
        wrong = next((value for value in self.epsilon if not 0.0 < value < math.inf), None)
        if wrong is not None:
            raise OptionError(f"--epsilon {wrong:g}: give radii above 0, such as {self._epsilon_example()}")
        if self.norm is Norm.LINF and max(self.epsilon, default=0.0) > 255:
            raise OptionError(f"--epsilon {max(self.epsilon):g}: give 1/255ths, up to 255")
        if "transfer-pgd" in self.attacks and self.surrogate is None:
            raise OptionError("transfer-pgd takes its gradients from the float network: give --surrogate CHECKPOINT")
        if self.surrogate is not None and self.attacks and "transfer-pgd" not in self.attacks:
            raise OptionError("--surrogate is for transfer-pgd: add that to --attacks, or leave it out")
        if self.network is not None and self.surrogate is None:
            raise OptionError(f"--network {self.network} says what a surrogate is of: give --surrogate CHECKPOINT")
        if self.with_faults is not None and not set(self.chosen) & {*ON_IMAGES, CORRUPTIONS}:
            raise OptionError("--with-faults crosses faults with attacks on images: name one in --attacks")

    def check_files(self) -> None:
        """Check, before anything is loaded, that the fault list is there, where one is named.

        Raises:
            OptionError: if it is not, or what is named is neither a file nor a bit error rate.
        """
        if self.with_faults is None:
            return
        try:
            float(self.with_faults)
        except ValueError as error:
            if not pathlib.Path(self.with_faults).is_file():
                raise OptionError(
                    f"--with-faults {self.with_faults}: cannot read fault list {self.with_faults}, as there is no such "
                    "file, and it is no bit error rate either"
                ) from error

    def _epsilon_example(self) -> str:
        return ",".join(f"{value:g}" for value in DEFAULT_EPSILON[self.norm])

    @property
    def chosen(self) -> tuple[str, ...]:
        """The attacks that are run, without repeats, in the order of `KNOWLEDGE`."""
        default = ("square", "twin-pgd", *(SURROGATE if self.surrogate else ()))
        return tuple(name for name in KNOWLEDGE if name in (self.attacks or default))

    @property
    def radii(self) -> dict[str, float]:
        """The radii in units of [0, 1] pixels, ascending, by the name each has in files: the number given."""
        unit = 1 / 255 if self.norm is Norm.LINF else 1.0
        return {f"{value:g}": value * unit for value in sorted(set(self.epsilon or DEFAULT_EPSILON[self.norm]))}

    @property
    def worker_count(self) -> int:
        """How many workers: what was asked for, else every core this process may run on."""
        return self.workers if self.workers is not None else len(usable_cores())

    def identity(self) -> dict[str, Any]:
        """Return what decides the figures, as JSON values, for the manifest and for resuming."""
        values = dataclasses.asdict(self)
        for how in ("workers", "surrogate", "network"):  # of the surrogate its digest counts, not its path
            del values[how]
        values |= {"deployment": self.deployment.identity(), "bit_flip": self.bit_flip.identity()}
        return {**values, "attacks": list(self.chosen), "epsilon": list(self.radii), "norm": str(self.norm)}
