"""What protects which stored tensor, a code or a vote: by the bytes it adds, and by the risk it takes away.

The expected SDC-1 of a file is, to first order in the bit error rate b, the sum over its tensors that `rates` gives. A
protected tensor drops out of it; what it keeps is of second order. A vote on elements of `w` bits,
`Where(Equal(x, y), x, z)`, fails when z and another copy are hit (w * w pairs of bits, twice), or x and y alike (w
pairs):

    b^2 * bits * (2 w + 1) * SDC-1                                                                        (1)

A word of n decoded bits under a code that corrects one flip keeps that flip when any other of its bits is flipped too;
of a byte, the bits count that hold the weight:

    b^2 * (weight bits) * (n - 1) * SDC-1                                                                 (2)

and nothing is left of second order where the code corrects two. Like every figure of a file's stored bits, this is
about faults in storage before the file is loaded.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from resq_deploy.codes.code import Code
from resq_deploy.deployed.coded import coded_weights
from resq_deploy.deployed.operators import TRAINING
from resq_deploy.deployed.steering import UNREAD
from resq_deploy.deployed.surfaces import Role, Surface, survey
from resq_deploy.deployed.tensors import WIDTHS
from resq_deploy.deployed.votes import repeated
from resq_deploy.errors import ModelError, OptionError
from resq_deploy.protection import guards
from resq_deploy.protection import protect as codes
from resq_deploy.protection.choice import Choice, Item, safest, smallest
from resq_deploy.protection.code_bytes import code_bytes
from resq_deploy.protection.gather import gathered, opset_of
from resq_deploy.protection.rates import BUILT_IN_SOURCE, GuardRates, expected_sdc1

MODES = ("parameters", "weights", "all", "auto")
CODED_MODES = ("weights", "all", "auto")
"""The modes that store weights under a code."""

DEFAULT_BUDGET = 0.05
"""Bytes that `auto` may add, as a share of the unprotected file, unless told otherwise."""

VOTE = "vote"
"""What protects a tensor that is stored three times, beside the names of codes."""

STEERING = "steering"
"""What shapes, axes and switches are called, which have no role to compute with."""

_NOT_READ = frozenset({UNREAD, TRAINING})
_NEEDED = "onnxruntime does not make the same optimised graph with its vote as without"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protected:
    """A stored tensor and what is to protect it.

    Attributes:
        tensor: its name.
        role: what it is for, as `Role` calls it; `steering` for shapes, axes and switches.
        bits: bits of its values, as the file stores them without protection.
        by: name of a code, or `vote`.
    """

    tensor: str
    role: str
    bits: int
    by: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What protects which tensor, what it costs and what it is expected to gain.

    Attributes:
        mode: one of `MODES`.
        budget: share of the unprotected file that protection may add; None but for `auto`.
        code: the code of `coded`; None where nothing is coded.
        protected: what protects each tensor, in the order of the file.
        bytes_added: bytes that the file is expected to grow by: of votes exactly, of codes nearly so.
        file_bytes: size of the unprotected file.
        before: expected SDC-1 over bit error rate, first order, by role, of the file as it is.
        after: the same once it is protected.
        second_order: expected SDC-1 over the square of the bit error rate that protected tensors keep, equations (1)
            and (2).
        rates: where the SDC-1 of single flips comes from.
        left_out: what the mode would have protected and cannot, by name, each with the reason.
    """

    mode: str
    budget: float | None
    code: Code | None
    protected: tuple[Protected, ...]
    bytes_added: int
    file_bytes: int
    before: Mapping[str, float]
    after: Mapping[str, float]
    second_order: float
    rates: str
    left_out: Mapping[str, str]

    @property
    def coded(self) -> tuple[str, ...]:
        """Tensors to store under the code."""
        return tuple(entry.tensor for entry in self.protected if entry.by != VOTE)

    @property
    def voted(self) -> tuple[str, ...]:
        """Tensors to store three times."""
        return tuple(entry.tensor for entry in self.protected if entry.by == VOTE)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as the JSON object of the sidecar."""
        return {
            "mode": self.mode,
            "budget": self.budget,
            "code": _described(self.code) if self.code else None,
            "tensors": [dataclasses.asdict(entry) for entry in self.protected],
            "bytes_added": self.bytes_added,
            "share_of_file": self.bytes_added / self.file_bytes,
            "expected_sdc1_over_ber": {
                name: {"total": sum(by_role.values()), "by_role": dict(by_role)}
                for name, by_role in (("before", self.before), ("after", self.after))
            },
            "protected_sdc1_over_ber_squared": self.second_order,
            "rates": self.rates,
            "left_out": dict(self.left_out),
            "note": "first order in the bit error rate of storage before the file is loaded; of a protected tensor "
            "remain two copies hit at the same element, and more flips in a word than its code corrects; faults in "
            "memory after loading are not mended, nor are those in attributes and in the file's framing",
        }


def check_options(mode: str, budget: float = DEFAULT_BUDGET) -> None:
    """Check the options of a plan.

    Raises:
        OptionError: if the mode is unknown or the budget is not a positive number.
    """
    if mode not in MODES:
        raise OptionError(f"--guard {mode}: give one of none, {', '.join(MODES)}")
    if not (budget > 0 and math.isfinite(budget)):
        raise OptionError(f"--guard-budget {budget}: give the share of the file that guards may add, such as 0.05")


def plan(
    model: onnx.ModelProto,
    *,
    mode: str,
    code: Code | None = None,
    budget: float = DEFAULT_BUDGET,
    rates: GuardRates | None = None,
    health: bool = False,
) -> Plan:
    """Choose what protects which stored tensor of a file; `apply` writes it.

    `parameters` votes on every tensor but weights. `weights` stores weights under the code, and votes on small ones
    where that takes fewer bytes. `all` protects all that is stored and read, shapes and axes too: weights as `weights`
    does, or by a vote where they cannot be coded or the decoder is dearer, and the rest by votes. `auto` takes what
    lowers the expected SDC-1 most for each byte, as long as it fits into the budget.

    Args:
        model: a self-contained file, of any origin; what is protected in it already counts as such.
        mode: one of `MODES`.
        code: the code for weights, which `weights` and `all` need; None has `auto` choose among votes alone.
        budget: bytes that `auto` may add, as a share of the file's.
        rates: what a campaign on the unprotected file measured; None for built-in figures.
        health: whether the file is to report its health, for which a decoder takes more bytes.

    Raises:
        OptionError: if the mode is unknown or lacks its code, the budget is not a positive number, or the rates are of
            another file.
        ModelError: if the file cannot be read.
    """
    check_options(mode, budget)
    if mode in ("weights", "all") and code is None:
        raise OptionError(f"--guard {mode}: weights are stored under a code: give secded or dected")
    given = gathered(model) if mode == "all" else model
    surfaces, gains = _unprotected(given, rates)
    uncoded = _uncoded(given, surfaces, code)
    codable = [one for one in surfaces if one.role is Role.WEIGHT and one.tensor not in uncoded]
    added = code_bytes(code, opset_of(given), codable, health=health) if code and codable else None
    items, left_out = _items(given, surfaces, gains, mode, uncoded, added.tensor if added else 0)
    fixed = added.decoder if added else 0
    file_bytes = model.ByteSize()
    asked = health or mode == "weights"  # counting words takes words
    choice = safest(items, fixed, budget * file_bytes) if mode == "auto" else smallest(items, fixed, coded=asked)
    protected = choice.coded | choice.voted
    kept = [0.0 if surface.tensor in protected else gain for surface, gain in zip(surfaces, gains, strict=True)]
    before = _by_role(*_unprotected(model, rates)) if given is not model else _by_role(surfaces, gains)
    return Plan(
        mode=mode,
        budget=budget if mode == "auto" else None,
        code=code if choice.coded else None,
        protected=tuple(_entry(item, choice, code) for item in items if item.tensor in protected),
        bytes_added=choice.bytes_added + given.ByteSize() - file_bytes,
        file_bytes=file_bytes,
        before=before,
        after=dict.fromkeys(before, 0.0) | _by_role(surfaces, kept),
        second_order=sum(
            gain * _square(surface, code if surface.tensor in choice.coded else None)
            for surface, gain in zip(surfaces, gains, strict=True)
            if surface.tensor in protected
        ),
        rates=rates.source if rates else BUILT_IN_SOURCE,
        left_out=left_out,
    )


def _entry(item: Item, choice: Choice, code: Code | None) -> Protected:
    by = code.name if code and item.tensor in choice.coded else VOTE
    return Protected(tensor=item.tensor, role=item.role, bits=item.bits, by=by)


def _unprotected(model: onnx.ModelProto, rates: GuardRates | None) -> tuple[tuple[Surface, ...], list[float]]:
    """Return what a file stores to compute with, and what each adds to the expected SDC-1 over bit error rate.

    What is protected already adds nothing, and is left out.
    """
    mended = repeated(model)
    mended |= {name for coded in coded_weights(model) for name in coded.stored}
    surfaces = survey(model).surfaces
    gains = expected_sdc1(surfaces, rates)
    kept = [place for place, surface in enumerate(surfaces) if surface.tensor not in mended]
    return tuple(surfaces[place] for place in kept), [float(gains[place]) for place in kept]


def _uncoded(model: onnx.ModelProto, surfaces: Sequence[Surface], code: Code | None) -> dict[str, str]:
    """Return the weights that cannot be coded, each with the reason."""
    weights = [surface.tensor for surface in surfaces if surface.role is Role.WEIGHT]
    return dict.fromkeys(weights, "there is no code") if code is None else codes.obstacles(model, weights, code)


def _items(
    model: onnx.ModelProto,
    surfaces: Sequence[Surface],
    gains: Sequence[float],
    mode: str,
    uncoded: Mapping[str, str],
    coded_bytes: int,
) -> tuple[list[Item], dict[str, str]]:
    """Return what a mode can protect in a file, and what it cannot, with the reasons."""
    unvoted = guards.obstacles(model, [surface.tensor for surface in surfaces])
    items, left_out = [], dict[str, str]()
    for surface, gain in zip(surfaces, gains, strict=True):
        name, is_weight = surface.tensor, surface.role is Role.WEIGHT
        if is_weight != (mode == "weights") and mode in ("parameters", "weights"):
            continue
        coded = is_weight and mode != "parameters" and name not in uncoded
        if (mode == "weights" and not coded) or (not coded and name in unvoted):
            reasons = (uncoded.get(name) if is_weight else None, unvoted.get(name) if mode != "weights" else None)
            left_out[name] = "; ".join(filter(None, reasons))
            continue
        items.append(
            Item(
                tensor=name,
                role=str(surface.role),
                bits=surface.bits,
                gain=gain,
                vote=None if name in unvoted else guards.added_bytes(surface),
                code=coded_bytes if coded else None,
            )
        )
    if mode == "all":
        steering, not_voted = _steering(model)
        items, left_out = items + steering, left_out | not_voted
    return items, left_out


def _steering(model: onnx.ModelProto) -> tuple[list[Item], dict[str, str]]:
    """Return the shapes, axes and switches that a file stores and that can be voted, and those that cannot.

    Which of them onnxruntime needs before it folds anything only it can tell, so that votes on them are tried.
    """
    mended = repeated(model)
    read = [
        left.tensor for left in survey(model).left_out if left.reason not in _NOT_READ and left.tensor not in mended
    ]
    reasons = guards.obstacles(model, read)
    free = [name for name in read if name not in reasons]
    if not _folds(model, free):
        reasons |= {name: _NEEDED for name in free if not _folds(model, [name])}
        free = [name for name in free if name not in reasons]
    stored = [_as_surface(tensor) for tensor in model.graph.initializer if tensor.name in free]
    return [
        Item(tensor=each.tensor, role=STEERING, bits=each.bits, vote=guards.added_bytes(each)) for each in stored
    ], reasons


def _folds(model: onnx.ModelProto, names: Sequence[str]) -> bool:
    """Return whether onnxruntime folds votes on some tensors, and does all it does without them."""
    try:
        guards.guard(model.SerializeToString(), names)
    except ModelError:
        return False
    return True


def _as_surface(tensor: onnx.TensorProto) -> Surface:
    dtype = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
    width = WIDTHS[tensor.data_type]
    return Surface(tensor=tensor.name, role=Role.CONSTANT, layer="", dtype=dtype, shape=tuple(tensor.dims), width=width)


def _square(surface: Surface, code: Code | None) -> float:
    """Return the factor by which a protected tensor keeps its risk in second order: equation (1) or (2)."""
    if code is None:
        return 2.0 * surface.width + 1.0
    if code.corrects > 1:
        return 0.0
    return code.weight_bits / 8 * (int(np.count_nonzero(code.columns)) - 1)


def _by_role(surfaces: Sequence[Surface], risks: Sequence[float]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for surface, risk in zip(surfaces, risks, strict=True):
        totals[str(surface.role)] = totals.get(str(surface.role), 0.0) + risk
    return totals


def _described(code: Code) -> dict[str, Any]:
    """Return a code as the JSON object of the sidecar."""
    return {
        "name": code.name,
        "weight_bits": code.weight_bits,
        "word_bits": code.block,
        "check_bits": code.check_bits,
        "corrects": code.corrects,
        "detects": code.corrects + 1,
    }
