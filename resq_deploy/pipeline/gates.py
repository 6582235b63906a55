"""The gates of an export: what the int8 file may lose, in points, against the float network or plain ranges.

Both sides of a gate are judged on the same images, or by the same chips, so that what counts is their paired
difference. The figure decides, as it was measured; its interval stands beside it and says how far it reaches.

A file that is kept because it did well on some images and chips does a little better there than elsewhere. So gates
take validation images, where the data set has as many as they ask for, and chips that no campaign draws; `apart` says
of each gate whether it is so, or whether the figures that are reported share its images.
"""

import dataclasses
import functools
import math
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from resq_deploy.attacks.ball import Norm
from resq_deploy.attacks.square import LEAST_QUERIES, Square
from resq_deploy.attacks.target import Target, check_pixels
from resq_deploy.attacks.units import evaluate
from resq_deploy.campaign.engines.testbed import Kit, Testbed
from resq_deploy.campaign.executors import Threads
from resq_deploy.campaign.golden import classifier_run
from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.plan import make_plan
from resq_deploy.cores import usable_cores
from resq_deploy.data.dataset import Dataset, Split
from resq_deploy.data.preprocessing import AS_IS, Preprocessing
from resq_deploy.deployed.arithmetic import Arithmetic
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import DataError, GateError, OptionError
from resq_deploy.faults.statistics import cluster, matched, paired_difference, share

if TYPE_CHECKING:
    import torch

Flags = NDArray[np.bool_]
Gate = dict[str, Any]

_TEST: Gate = {"images_from": "test", "apart": False}
_VALIDATION: Gate = {"images_from": "validation", "apart": True}

_CONFIDENCE = 0.95
_LEAST = {"pgd_images": 1, "steps": 1, "square_images": 1, "queries": LEAST_QUERIES, "chips": 50, "fault_images": 1}
FIRST_CHIP = 1_000_000
"""Of the chips of gates: far from those of campaigns, so that no figure is of chips that the file was chosen by."""

_ROLES = (Role.WEIGHT, Role.CODE)
"""What the gate of faults hits: all that stores weights, check bits and copies included, and what decodes them."""

_UNDER = {
    "clean": "",
    "faults": " under bit errors, against MinMax ranges",
    "transfer-pgd": " under transfer PGD",
    "square": " under the Square attack",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateOptions:
    """Bounds and sizes of the gates.

    `DEFAULTS` holds the largest drop allowed by gate, in points, in the order they are run. `clean`: of the accuracy
    below the float file's. `faults`: of the mean accuracy under bit errors, below that of the MinMax export.
    `transfer-pgd`: of that under PGD on the float network, below the network's own. `square`: of that under the Square
    attack, each file attacked by itself. `OF_TASKS` holds those of other tasks than to classify (`task_gates`).
    `outputs`: the largest relative error of an output, in percent. `answers`: the share of samples with another answer
    than the float file's, in percent.

    The sizes keep the gates of a ResNet-20 within about a minute of one core. Fifty chips or more are asked for, since
    chips differ far more than images do, and the mean of ten may be off by what the gate is about. PGD has a small
    radius, at which a network that was never hardened keeps some accuracy to lose; and many images, as a drop of a
    point on few of them is mere chance. The Square attack gets little from so small a radius with so few queries, and
    has a larger one.

    Attributes:
        bounds: largest drop allowed by gate, in points; a gate that is not named has its default.
        enforce: whether a failed gate is an error; otherwise it is only recorded.
        gates: the gates to run; the others are recorded as not run.
        pgd_images: images that PGD is run on.
        pgd_epsilons: its Linf radii, in units of [0, 1] pixels; the largest drop among them is the figure.
        steps: its steps.
        square_images: images that the Square attack is run on.
        square_epsilons: its radii, likewise.
        queries: its budget, an image.
        ber: design bit error rate, of the weights.
        chips: simulated chips, 50 or more.
        fault_images: images each chip is judged by.
        seed: of the attacks; chips have numbers of their own.
        arithmetic: in which the int8 file is run.
        preprocessing: what stands between images and what the files are fed.
    """

    DEFAULTS: ClassVar[dict[str, float]] = {"clean": 1.0, "faults": 0.0, "transfer-pgd": 1.0, "square": 1.0}
    OF_TASKS: ClassVar[dict[str, float]] = {"outputs": 25.0, "answers": 50.0}

    bounds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    enforce: bool = True
    gates: tuple[str, ...] = (*DEFAULTS, *OF_TASKS)
    pgd_images: int = 1000
    pgd_epsilons: tuple[float, ...] = (1 / 255,)
    steps: int = 10
    square_images: int = 200
    square_epsilons: tuple[float, ...] = (4 / 255,)
    queries: int = 100
    ber: float = 1e-3
    chips: int = 50
    fault_images: int = 500
    seed: int = 0
    arithmetic: Arithmetic = Arithmetic.EXACT
    preprocessing: Preprocessing = AS_IS

    def __post_init__(self) -> None:
        known = self.DEFAULTS | self.OF_TASKS
        unknown = sorted({*self.bounds, *self.gates} - known.keys())
        if unknown:
            raise OptionError(f"--gate: unknown gate {unknown[0]!r}; gates are {', '.join(known)}")
        for name, bound in self.bounds.items():
            if math.isnan(bound):
                raise OptionError(f"--gate {name}={bound}: give a number of points, such as {name}=2")
        for field, least in _LEAST.items():
            if getattr(self, field) < least:
                raise OptionError(f"gates: {field} {getattr(self, field)}: give a whole number from {least} up")
        if any(not 0.0 < epsilon <= 1.0 for epsilon in (*self.pgd_epsilons, *self.square_epsilons)):
            raise OptionError("gates: give radii above 0 and up to 1, such as 4/255")
        if not (self.pgd_epsilons and self.square_epsilons):
            raise OptionError("gates: give each attack a radius, such as 4/255")

    def bound(self, gate: str) -> float:
        """Return the largest drop that a gate allows, in points."""
        return self.bounds.get(gate, (self.DEFAULTS | self.OF_TASKS)[gate])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A file that is to be exported, and what its gates hold it against.

    Attributes:
        int8_file: the file, serialised.
        float_file: the float model it was made of, serialised.
        int8_right: which test images the file answers right, shape [N].
        float_right: which of them the float model answers right, shape [N].
        network: the float network in torch, on the CPU and in evaluation mode; None where there is no checkpoint.
        minmax_file: makes the MinMax export of the same weights, unprotected, serialised; None where the file is that.
    """

    int8_file: bytes
    float_file: bytes
    int8_right: Flags
    float_right: Flags
    network: "Callable[[torch.Tensor], torch.Tensor] | None" = None
    minmax_file: Callable[[], bytes] | None = None


class NotRunError(Exception):
    """A gate cannot be run; the message says why."""


def run_gates(
    candidate: Candidate, dataset: Dataset, options: GateOptions, *, report: Callable[[str], None] = lambda _: None
) -> list[Gate]:
    """Measure each gate, in the order of `GateOptions.DEFAULTS`.

    Args:
        candidate: what is judged.
        dataset: its validation images where it has as many as a gate asks for, else its test images.
        options: bounds and sizes.
        report: told each gate as it begins.

    Returns:
        One JSON object a gate: `{gate, figure, bound, passed, enforced, images_from, apart, ...}`, figure and bound in
        points and all else in fractions, `apart` where no figure that is reported uses these images and chips; or
        `{gate, not_run}`, with the reason, where what it needs is missing.

    Raises:
        GateError: at the first gate that fails, if gates are enforced.
        InputError: if a file or the data cannot be used.
    """
    measures = {name: functools.partial(measure, candidate, dataset, options) for name, measure in _MEASURES.items()}
    return in_turn(measures, options, enforce, report)


def in_turn(
    measures: Mapping[str, Callable[[], tuple[float, Gate]]],
    options: GateOptions,
    enforced: Callable[[Sequence[Gate]], None],
    report: Callable[[str], None],
) -> list[Gate]:
    """Measure gates one after the other.

    Args:
        measures: for each gate what returns its figure, in the unit of its bound, and details; or raises `NotRunError`.
        options: bounds, which gates were asked for, and whether they are enforced.
        enforced: raises `GateError` if the last of some gates failed.
        report: told each gate as it begins.

    Raises:
        GateError: at the first gate that fails, if gates are enforced.
        InputError: if a file or the data cannot be used.
    """
    gates: list[Gate] = []
    for name, measure in measures.items():
        try:
            if name not in options.gates:
                raise NotRunError("it was not asked for")
            report(f"gate {name}")
            figure, details = measure()
        except NotRunError as reason:
            gates.append({"gate": name, "not_run": str(reason)})
            continue
        bound = options.bound(name)
        verdict = {"figure": figure, "bound": bound, "passed": figure <= bound, "enforced": options.enforce}
        gates.append({"gate": name, **verdict, **details})
        if options.enforce:
            enforced(gates)
    return gates


def enforce(gates: Sequence[Gate]) -> None:
    """Let the first failed gate be an error.

    Raises:
        GateError: naming the gate, the figure and the bound.
    """
    for gate in gates:
        if not gate.get("passed", True):
            name = gate["gate"]
            raise GateError(
                f"gate {name!r} failed: the int8 file loses {gate['figure']:.2f} points{_UNDER[name]}, the bound is "
                f"{gate['bound']:.2f}; raise it with --gate {name}=POINTS or export with --no-gate",
                gates,
            )


def _clean(candidate: Candidate, _dataset: Dataset, _options: GateOptions) -> tuple[float, Gate]:
    details = _paired(candidate.float_right, candidate.int8_right)
    return _points(details), _TEST | details


def _transfer_pgd(candidate: Candidate, dataset: Dataset, options: GateOptions) -> tuple[float, Gate]:
    if candidate.network is None:
        raise NotRunError("it takes gradients of the torch checkpoint, and the source is a float ONNX file")
    from resq_deploy.pipeline.transfer import transfer_pgd  # here, so that a float file is exported without torch

    test, origin = _attackable(dataset, options.pgd_images)
    session = Session(candidate.int8_file, every_core(options))
    radii = []
    for epsilon in options.pgd_epsilons:
        attack = transfer_pgd(candidate.network, session, test, epsilon=epsilon, steps=options.steps, seed=options.seed)
        radii.append({"epsilon": epsilon, **_paired(attack.float_right, attack.int8_right)})
    return max(map(_points, radii)), origin | {"steps": options.steps, "seed": options.seed, "radii": radii}


def _square(candidate: Candidate, dataset: Dataset, options: GateOptions) -> tuple[float, Gate]:
    """Attack each file by itself.

    An int8 file mostly survives a little better: its scores are rounded, which leaves the search without a direction.
    That is no robustness, and hides a drop of as much.
    """
    test, origin = _attackable(dataset, options.square_images)
    files = {"float": candidate.float_file, "int8": candidate.int8_file}
    targets = {name: Target(Session(file, every_core(options))) for name, file in files.items()}
    radii = []
    for epsilon in options.square_epsilons:
        results = {
            name: evaluate(
                target,
                Square(target=target, norm=Norm.LINF, queries=options.queries),
                target.prepared(test.images),
                test.labels,
                norm=Norm.LINF,
                radius=epsilon,
                seed=options.seed,
            )
            for name, target in targets.items()
        }
        spent = {name: float(result.queries.mean()) for name, result in results.items()}
        compared = _paired(results["float"].robust, results["int8"].robust)
        radii.append({"epsilon": epsilon, **compared, "queries": spent})
    return max(map(_points, radii)), origin | {"queries": options.queries, "seed": options.seed, "radii": radii}


def _faults(candidate: Candidate, dataset: Dataset, options: GateOptions) -> tuple[float, Gate]:
    """Hold the file against the MinMax export on the same chips: masks depend on chip and tensor name alone.

    The bits of weights are hit, as in published curves over the bit error rate; ranges change nothing else. Of a
    protected file they are those that it stores, code words or copies, and the tables of its decoder.
    """
    if candidate.minmax_file is None:
        raise NotRunError("the file is itself the MinMax export that it would be held against")
    split, origin = judged_images(dataset, options.fault_images)
    minmax, images = _right_by_chip(candidate.minmax_file(), dataset, split, options)
    int8, _ = _right_by_chip(candidate.int8_file, dataset, split, options)
    drops = minmax - int8
    details = {
        **origin,
        "ber": options.ber,
        "roles": [str(role) for role in _ROLES],
        "chips": options.chips,
        "images": images,
        "minmax": cluster(minmax / images, math.inf, _CONFIDENCE).as_dict(),
        "int8": cluster(int8 / images, math.inf, _CONFIDENCE).as_dict(),
        "drop": paired_difference(drops / images, _CONFIDENCE).as_dict(),
    }
    return 100.0 * int(drops.sum()) / (images * options.chips), details  # from counts: no drop is 0 exactly


def _right_by_chip(file: bytes, dataset: Dataset, split: Split, options: GateOptions) -> tuple[NDArray[np.int64], int]:
    """Return how many images a file answers right on each chip, shape [chips], and how many there are."""
    campaign = CampaignOptions(
        faults=FaultModel.BER,
        ber=(options.ber,),
        chips=options.chips,
        roles=_ROLES,
        images=len(split),
        engine="reload",  # a mask of the whole file leaves nothing to replay
        deployment=Deployment(arithmetic=options.arithmetic, preprocessing=options.preprocessing),
    )
    with tempfile.TemporaryDirectory(prefix="resq-deploy-") as folder:
        path = pathlib.Path(folder) / "candidate.onnx"
        path.write_bytes(file)
        model = DeployedModel.load(path)
    patcher = model.patcher()
    plan = make_plan(model.surfaces, campaign)
    chips = range(FIRST_CHIP, FIRST_CHIP + options.chips)
    plan = dataclasses.replace(plan, masks=tuple((options.ber, chip) for chip in chips))
    golden = classifier_run(patcher.golden, campaign.deployment, dataset, split)
    surfaces = {surface.tensor: surface for surface in model.surfaces}
    testbed = Testbed(Kit(patcher=patcher, surfaces=surfaces, golden=golden, options=campaign))
    with Threads(testbed, campaign.worker_count) as executor:
        runs = executor.run(plan, [[number] for number in range(len(plan))])
        records = sorted((record for run in runs for record in run), key=lambda record: record.number)
    images = len(golden)
    return np.array([round((record.quality or 0.0) * images) for record in records]), images


def judged_images(dataset: Dataset, images: int) -> tuple[Split, Gate]:
    """Return the images of a gate, and what the sidecar says of them: those of validation if there are so many."""
    try:
        validation = dataset.validation
    except DataError:  # there are no training images at all
        return dataset.evaluation(images), _TEST
    if len(validation) < images:
        return dataset.evaluation(images), _TEST
    return validation.head(images), _VALIDATION


def _attackable(dataset: Dataset, images: int) -> tuple[Split, Gate]:
    """Return the images that are attacked, and what the sidecar says of them."""
    split, origin = judged_images(dataset, images)
    try:
        check_pixels(split.images)
    except DataError as unfit:
        raise NotRunError(str(unfit)) from unfit
    return split, origin


def every_core(options: GateOptions) -> Deployment:
    """Return how the files are run that are judged on images: one session on every core."""
    return Deployment(threads=len(usable_cores()), arithmetic=options.arithmetic, preprocessing=options.preprocessing)


def _paired(float_right: Flags, int8_right: Flags) -> Gate:
    """Return accuracies on the same images, the drop between them, and the images that make it."""
    lost = int((float_right & ~int8_right).sum())
    gained = int((int8_right & ~float_right).sum())
    images = len(float_right)
    return {
        "images": images,
        "float": share(int(float_right.sum()), images, _CONFIDENCE).as_dict(),
        "int8": share(int(int8_right.sum()), images, _CONFIDENCE).as_dict(),
        "drop": matched(lost, gained, images, _CONFIDENCE).as_dict(),
        "lost": lost,
        "gained": gained,
    }


def _points(paired: Gate) -> float:
    """Return the drop of a paired comparison in points, from its counts: 1 in 100 is 1 exactly."""
    lost, gained, images = (int(paired[key]) for key in ("lost", "gained", "images"))
    return 100.0 * (lost - gained) / images


_MEASURES: dict[str, Callable[[Candidate, Dataset, GateOptions], tuple[float, Gate]]] = {
    "clean": _clean,
    "faults": _faults,
    "transfer-pgd": _transfer_pgd,
    "square": _square,
}
