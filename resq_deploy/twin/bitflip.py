"""The bit-flip attack: a progressive bit search on a deployed file (Rakin, He and Fan, ICCV 2019).

A step asks the twin for the gradient of the attacker's objective with respect to what the file stores, takes from each
tensor the bits with the largest first-order gains, and tries each tensor's on the real thing: the file with those bits
flipped, in a session of onnxruntime. The flip that raises the objective most is kept. The twin only proposes; what is
kept, and by how much it raised the objective, the session says.

A tensor that is voted from three stored copies cannot be changed through one of them, whatever the gradient that runs
through the vote: its bits are flipped in two copies at once, and count as two flips. A weight that is stored under a
code is changed by the cheapest flips of the words that its code cannot correct (`coded_flips`), each of which counts.

A template limits the attacker to bits that were found to flip, as hammering rows finds them (Kim et al., ISCA 2014;
Yao, Rakin and Fan, DeepHammer, USENIX Security 2020). Of a voted tensor any two of the three copies then do, and of a
code word as many of its bits as it does not correct, check bits among them.
"""

import concurrent.futures
import dataclasses
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from resq_deploy.cores import usable_cores
from resq_deploy.deployed.decoding import Group
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.runtime_errors import RUNTIME_ERRORS
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import Role, Surface
from resq_deploy.errors import ModelError, OptionError
from resq_deploy.faults.bits import Bytes
from resq_deploy.faults.fault import Edit, Fault
from resq_deploy.twin.coded_flips import CodedFlips, breakable
from resq_deploy.twin.flip_gains import Flip, best_flips
from resq_deploy.twin.flip_objective import Aim, AttackBatch, Harm, Objective
from resq_deploy.twin.twin import Twin

Scores = NDArray[np.float32]
Template = NDArray[np.bool_]

_REFUSED: tuple[type[Exception], ...] = (ModelError, *RUNTIME_ERRORS)
_MOST_BITS = 10  # flipped at once in one tensor before the search gives up: each more is a trial of all tensors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prey:
    """A stored tensor as the network reads it.

    Attributes:
        surface: the tensor; of a voted one its first copy; of one that is stored under a code, the decoded weight.
        flipped: the stored tensors in which a bit must be flipped to be read flipped: itself, or two of three copies;
            or those that hold code words.
        read: the tensors of the twin whose slopes add up to that of the value read: itself, or all three copies.
        coded: whether it is stored under a code.
        template: which bits can be flipped at all in each tensor of `read`, or in each that holds code words, shape
            [elements, bits]; None for all.
    """

    surface: Surface
    flipped: tuple[str, ...]
    read: tuple[str, ...]
    coded: bool = False
    template: Mapping[str, Template] | None = None

    @property
    def allowed(self) -> Template | None:
        """Which bits can be flipped as it is read, shape [elements, bits]; None for all."""
        if self.template is None:
            return None
        pairs: list[Template] = [np.all(self._templates(pair), axis=0) for pair in self._pairs]
        found: Template = np.any(pairs, axis=0)
        return found

    def places(self, index: int, bit: int) -> tuple[str, ...]:
        """Return the stored tensors in which a bit is to be flipped: of a voted one the first two that can be."""
        if self.template is None:
            return self.flipped
        return next(pair for pair in self._pairs if all(one[index, bit] for one in self._templates(pair)))

    @property
    def _pairs(self) -> list[tuple[str, ...]]:
        return list(itertools.combinations(self.read, 2)) if self.voted else [self.read]

    def _templates(self, tensors: Sequence[str]) -> list[Template]:
        return [(self.template or {})[name] for name in tensors]

    @property
    def voted(self) -> bool:
        """Whether it is stored in three copies."""
        return len(self.read) > 1


def find_prey(
    model: DeployedModel, twin: Twin, roles: Collection[Role], flippable: Iterable[Fault] | None = None
) -> tuple[Prey, ...]:
    """Return every tensor that the attack may change, in the order of the file.

    Left out are tensors that the twin does not read as numbers, and those of elements below a byte.

    Args:
        model: the file.
        twin: its twin.
        roles: roles to attack; empty for all.
        flippable: the only bits that can be flipped; None for all.

    Raises:
        OptionError: if there is none.
    """
    copies = {name: vote.copies for vote in model.votes() for name in vote.copies}
    codes = model.codes()
    first_words = {next(iter(group.stored)): _coded_prey(group, model) for group in codes.groups}
    found = []
    for surface in model.surfaces:
        name = surface.tensor
        three = copies.get(name, (name,))
        if name != three[0] or (roles and surface.role not in roles):
            continue
        if name in twin.stored and surface.width % 8 == 0 and _dtype(surface).kind in "iuf":
            found.append(Prey(surface=surface, flipped=three[:2], read=three))
        elif name in first_words:
            found += first_words[name]
    if not found:
        wanted = ", ".join(roles) or "any role"
        present = ", ".join(sorted({str(surface.role) for surface in model.surfaces}))
        raise OptionError(f"bit-flip: the model stores nothing to attack in {wanted}; it stores {present}")
    return tuple(found) if flippable is None else _templated(found, flippable, model)


def _templated(prey: Sequence[Prey], flippable: Iterable[Fault], model: DeployedModel) -> tuple[Prey, ...]:
    """Return those tensors of which bits can be flipped, with these bits.

    Raises:
        OptionError: if there is none.
    """
    surfaces = {surface.tensor: surface for surface in model.surfaces}
    groups = {weight.weight: group for group in model.codes().groups for weight in group.weights}
    named: dict[str, list[Edit]] = {}
    for edit in (edit for fault in flippable for edit in fault.edits):
        named.setdefault(edit.tensor, []).append(edit)
    found = []
    for one in prey:
        template = {
            name: np.zeros((surfaces[name].elements, surfaces[name].width), dtype=bool)
            for name in (one.flipped if one.coded else one.read)
        }
        for name, bits in template.items():
            for edit in named.get(name, ()):
                bits[edit.index, edit.bit] = True
        limited = dataclasses.replace(one, template=template)
        if one.coded:
            usable = breakable(groups[one.surface.tensor], template)
        else:
            usable = limited.allowed is not None and bool(limited.allowed.any())
        if usable:
            found.append(limited)
    if not found:
        raise OptionError(
            "--flippable names no bit that the attack could use: name bits of --bit-flip-roles, of voted tensors in "
            "two copies, of a code's words more than it corrects"
        )
    return tuple(found)


def _coded_prey(group: Group, model: DeployedModel) -> list[Prey]:
    """Return the weights of one group."""
    layer = next(surface.layer for surface in model.surfaces if surface.tensor in group.stored)
    return [
        Prey(
            surface=Surface(
                tensor=weight.weight,
                role=Role.WEIGHT,
                layer=layer,
                dtype="uint8" if weight.unsigned else "int8",
                shape=weight.shape,
                width=8,
            ),
            flipped=tuple(group.stored),
            read=(weight.weight,),
            coded=True,
        )
        for weight in group.weights
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the search.

    Attributes:
        flips: the bits flipped in it.
        loss: mean cross-entropy of the attack batch (towards the class wanted, if there is one) on the session of the
            file with these and all earlier flips.
        twin_loss: the same on the twin.
        trials: files that were tried.
    """

    flips: tuple[Flip, ...]
    loss: float
    twin_loss: float
    trials: int


class _Slopes(NamedTuple):
    loss: float
    stored: Mapping[str, NDArray[Any]]
    slopes: Mapping[str, NDArray[np.float64]]


class BitSearch:
    """A progressive bit search with one attack batch.

    Args:
        model: the file under attack.
        twin: its twin.
        prey: the tensors whose bits may be flipped.
        batch: the attacker's sample.
        deployment: how files are run.
        workers: files tried at the same time; None for every core.
    """

    def __init__(
        self,
        model: DeployedModel,
        twin: Twin,
        prey: Sequence[Prey],
        batch: AttackBatch,
        *,
        deployment: Deployment,
        workers: int | None = None,
    ) -> None:
        self._twin = twin
        self._prey = prey
        self._patcher = model.patcher()
        self._codes = model.codes(self._patcher)
        self._images = batch.images
        self._workers = workers or len(usable_cores())
        self._deployment = deployment
        self._objective = Objective(batch, Session(self._patcher.golden, deployment).run(batch.images))

    def file(self, flips: Sequence[Flip]) -> bytes:
        """Return the serialised model with bits flipped, proven to differ in exactly these.

        Raises:
            InjectionError: if it does not.
        """
        fault = _as_fault(flips)
        faulty = self._patcher.apply(self._patcher.masks(fault))
        self._patcher.prove(fault, faulty)
        return faulty

    def steps(self, flips: Sequence[Flip] = ()) -> Iterator[Step]:
        """Yield the steps of the search, without end but where no tensor is left with a flip that raises the objective.

        Args:
            flips: bits that are flipped already, by earlier steps of the same search; they are not flipped back.

        Raises:
            ModelError: if the file with the earlier flips cannot be run.
        """
        done = list(flips)
        scores = self._scores(done)
        if scores is None:
            raise ModelError("the file cannot be run with the flips made so far: begin anew, without --resume")
        slopes = self._slopes(done, scores)
        while (found := self._next(done, slopes, scores)) is not None:
            chosen, scores, trials = found
            done += chosen
            slopes = self._slopes(done, scores)
            loss = self._objective.loss(torch.from_numpy(scores))
            yield Step(flips=chosen, loss=loss, twin_loss=slopes.loss, trials=trials)

    def _next(
        self, done: Sequence[Flip], slopes: _Slopes, scores: Scores
    ) -> tuple[tuple[Flip, ...], Scores, int] | None:
        """Return the flips to make next, the scores they leave and how many files were tried; None if nothing helps."""
        aim = self._objective.aim(scores)
        worst, found = self._harm(scores, aim), None
        trials = 0
        earlier: list[tuple[Flip, ...]] = []
        coded = self._coded_flips(slopes, done)
        for count in range(1, _MOST_BITS + 1):
            wanted = [flips for prey in self._prey if (flips := _proposal(prey, slopes, done, count, coded))]
            wanted = [flips for flips in wanted if flips not in earlier]  # a tensor without further bits that gain
            earlier += wanted
            trials += len(wanted)
            with concurrent.futures.ThreadPoolExecutor(self._workers) as pool:
                tried = list(pool.map(lambda flips: self._scores([*done, *flips]), wanted))
            for flips, left in zip(wanted, tried, strict=True):
                if left is not None and (harm := self._harm(left, aim)) > worst:
                    worst, found = harm, (flips, left)
            if found is not None:
                return *found, trials
            if not wanted:
                break
        return None

    def _coded_flips(self, slopes: _Slopes, done: Sequence[Flip]) -> dict[str, CodedFlips]:
        """Return what can be flipped in code words, by the weights that they store."""
        wanted = {prey.read[0] for prey in self._prey if prey.coded}
        groups = [group for group in self._codes.groups if any(weight.weight in wanted for weight in group.weights)]
        templates = {prey.read[0]: prey.template for prey in self._prey if prey.coded}

        def flips(group: Group) -> CodedFlips:
            template = next(templates[weight.weight] for weight in group.weights if weight.weight in templates)
            return CodedFlips(group, slopes.slopes, done, template)

        found = {group: flips(group) for group in groups}
        return {weight.weight: flips for group, flips in found.items() for weight in group.weights}

    def _harm(self, scores: Scores, aim: Aim) -> Harm:
        return self._objective(torch.from_numpy(scores), aim)[0]

    def _scores(self, flips: Sequence[Flip]) -> Scores | None:
        """Return what a session of the file with these flips gives, [N, C]; None where it does not load or run."""
        faulty = self._patcher.apply(self._patcher.masks(_as_fault(flips)))
        try:
            return Session(faulty, self._deployment).run(self._images)
        except _REFUSED:
            return None

    def _slopes(self, flips: Sequence[Flip], scores: Scores) -> _Slopes:
        """Return the twin's reading of the file with these flips, and the slope of the objective in all it attacks.

        Args:
            flips: what is flipped.
            scores: what the session gives, which decides what the next flip is to do.
        """
        masks = self._patcher.masks(_as_fault(flips))
        changes = {**masks, **self._codes.left(masks).changes}
        surfaces = {name: prey.surface for prey in self._prey for name in prey.read}
        stored = {name: self._value(name, changes).view(_dtype(surface)) for name, surface in surfaces.items()}
        given = {name: self._leaf(name, codes) for name, codes in stored.items()}
        with torch.enable_grad():
            outputs = self._twin(torch.from_numpy(self._images), stored=given)
            _, objective = self._objective(outputs, self._objective.aim(scores))
            found = (
                torch.autograd.grad(objective, list(given.values()), allow_unused=True)
                if objective.requires_grad
                else [None] * len(given)
            )
        slopes = {
            name: np.zeros(len(stored[name])) if slope is None else slope.reshape(-1).double().numpy()
            for name, slope in zip(given, found, strict=True)
        }
        return _Slopes(self._objective.loss(outputs), stored, slopes)

    def _value(self, name: str, changes: Mapping[str, Bytes]) -> Bytes:
        """Return the bytes of a tensor as the twin reads it, with some bits changed."""
        golden = self._codes.value(name) if name in self._codes.weights else self._patcher.stored(name)
        return golden ^ changes[name] if name in changes else golden

    def _leaf(self, name: str, codes: NDArray[Any]) -> Tensor:
        like = self._twin.stored[name]
        return torch.from_numpy(codes.astype(np.float64)).to(like.dtype).reshape(like.shape).requires_grad_()


def _proposal(
    prey: Prey, slopes: _Slopes, done: Sequence[Flip], count: int, coded: Mapping[str, CodedFlips]
) -> tuple[Flip, ...]:
    """Return the flips that promise most in one tensor, in each stored copy that they must be made in."""
    if prey.coded:
        return coded[prey.read[0]].best(prey.read[0], count)
    name = prey.flipped[0]
    slope = np.sum([slopes.slopes[copy] for copy in prey.read], axis=0)
    taken = {(flip.index, flip.bit) for flip in done if flip.tensor in prey.read}
    best = best_flips(slopes.stored[name], slope, count, taken, prey.allowed)
    places = [prey.places(gain.index, gain.bit) for gain in best]
    return tuple(
        Flip(where[copy], gain.index, gain.bit)
        for copy in range(len(prey.flipped))
        for gain, where in zip(best, places, strict=True)
    )


def _as_fault(flips: Sequence[Flip]) -> Fault:
    by_tensor: dict[str, list[Flip]] = {}
    for flip in flips:
        by_tensor.setdefault(flip.tensor, []).append(flip)
    edits = (
        Edit.of(tensor, [flip.index for flip in members], [flip.bit for flip in members])
        for tensor, members in by_tensor.items()
    )
    return Fault(0, tuple(edits))


def _dtype(surface: Surface) -> np.dtype[Any]:
    """Return the type of a surface's elements, little-endian as stored."""
    number = onnx.TensorProto.DataType.Value(surface.dtype.upper())
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(number)).newbyteorder("<")
