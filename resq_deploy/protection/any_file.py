"""Any int8 file protected as it is, without training data: narrowed where a code needs room, coded, voted."""

import dataclasses
import pathlib
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from resq_deploy.codes.code import Code
from resq_deploy.codes.known import KNOWN, known_code
from resq_deploy.deployed.coded import DOMAIN
from resq_deploy.deployed.surfaces import Role, find_surfaces
from resq_deploy.deployed.votes import find_votes
from resq_deploy.errors import ModelError, OptionError
from resq_deploy.protection.apply import apply
from resq_deploy.protection.decoder import LEAST_OPSET
from resq_deploy.protection.gather import gathered, opset_of
from resq_deploy.protection.narrow import Narrowed, narrow
from resq_deploy.protection.plain import unvoted
from resq_deploy.protection.plan import CODED_MODES, DEFAULT_BUDGET, Plan, check_options, plan
from resq_deploy.protection.rates import GuardRates

_CODED_TYPES = ("int8", "uint8")
_HEALTHY = ("weights", "all")
_STORED_BITS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProtectOptions:
    """How to protect a file.

    Attributes:
        guard: what is protected: `parameters`, `weights`, `all` or `auto`, as `plan` has them.
        weight_code: `secded` or `dected`; None for `secded`, and for `dected` where weights have 6 bits.
        weight_bits: bits of a weight under the code, 7 or 6; None for 7.
        guard_budget: bytes that `auto` may add, as a share of the file; 0.05 if None.
        guard_rates: what a campaign measured, for `auto` to plan by; None for built-in figures.
        health: whether the file counts, as one more output, the words it corrected and those it could not.
    """

    guard: str = "all"
    weight_code: str | None = None
    weight_bits: int | None = None
    guard_budget: float | None = None
    guard_rates: GuardRates | None = None
    health: bool = False

    def __post_init__(self) -> None:
        check_options(self.guard, self.budget)
        if self.health and self.guard not in _HEALTHY:
            raise OptionError(
                f"--health counts words of a code, and --guard {self.guard} may have none: ask for weights or all"
            )
        for_auto = {"--guard-budget": self.guard_budget, "--guard-campaign": self.guard_rates}
        for option in [option for option, value in for_auto.items() if value is not None]:
            if self.guard != "auto":
                raise OptionError(f"{option} is for --guard auto, not {self.guard}: leave it out, or ask for auto")
        if self.guard not in CODED_MODES:
            given = [
                ("--weight-code", self.weight_code),
                ("--weight-bits", self.weight_bits),
                ("--health", self.health),
            ]
            for option, value in given:
                if value:
                    raise OptionError(f"{option} is about weights, which --guard {self.guard} leaves alone: give all")
        elif self._named not in KNOWN:
            known = "; ".join(f"--weight-code {name} --weight-bits {bits}" for name, bits in KNOWN)
            name, bits = self._named
            raise OptionError(f"--weight-code {name} --weight-bits {bits}: there is no such code; give one of {known}")

    @property
    def budget(self) -> float:
        """Bytes that `auto` may add, as a share of the file."""
        return DEFAULT_BUDGET if self.guard_budget is None else self.guard_budget

    @property
    def code(self) -> Code | None:
        """The code of weights; None where they are let alone."""
        return known_code(*self._named) if self.guard in CODED_MODES else None

    @property
    def _named(self) -> tuple[str, int]:
        bits = self.weight_bits or KNOWN[0][1]
        return self.weight_code or next((name for name, width in KNOWN if width == bits), KNOWN[0][0]), bits


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ProtectedFile:
    """A file that was protected.

    Attributes:
        model: the file, protected.
        plain: the same without protection: with its weights as narrow as they are in `model`.
        plan: what protects which tensor.
        narrowed: what became of each weight that a code was to take, in the order of the file.
        votes_before: how many votes there were, which are replaced.
    """

    model: onnx.ModelProto
    plain: onnx.ModelProto
    plan: Plan
    narrowed: tuple[Narrowed, ...]
    votes_before: int

    @property
    def coded(self) -> tuple[Narrowed, ...]:
        """What became of the weights that are under a code."""
        return tuple(each for each in self.narrowed if each.weight in self.plan.coded)

    @property
    def left_out(self) -> dict[str, str]:
        """What the mode would have protected and is not, by name, each with the reason."""
        reasons = {each.weight: each.reason for each in self.narrowed if each.reason}
        return {
            name: f"{reasons[name]}; {reason}" if name in reasons else reason
            for name, reason in self.plan.left_out.items()
        }


def check_source(path: pathlib.Path) -> None:
    """Refuse a file that carries a code already.

    Raises:
        ModelError: if it does, cannot be read, or is no ONNX model.
    """
    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX model: it does not parse as one") from error
    if any(function.domain == DOMAIN for function in model.functions):
        raise ModelError(
            f"{path} carries a code already, and no file is protected twice: protect the one it was made of, or what "
            "`resq-deploy scrub --bake` makes of it"
        )


def starting_point(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return a file ready to be protected, without votes and with equal scales stored once, and its 8-bit weights.

    Args:
        model: as `open_model` gives it; not changed.

    Raises:
        ModelError: if its opset is too old, or all its weights are floats.
    """
    opset = opset_of(model)
    if opset < LEAST_OPSET:
        raise ModelError(
            f"the file has opset {opset}, votes and codes need {LEAST_OPSET}: give --opset {LEAST_OPSET} to raise it"
        )
    start = gathered(unvoted(model))
    weights = [surface for surface in find_surfaces(start) if surface.role is Role.WEIGHT]
    if all(surface.width > _STORED_BITS for surface in weights):
        raise ModelError(
            "the file stores no weights of 8 bits: it is a float model; make an int8 file of it, protected, with "
            "`resq-deploy export-int8 --guard all`"
        )
    return start, tuple(surface.tensor for surface in weights if surface.dtype in _CODED_TYPES)


def protect_file(
    model: onnx.ModelProto, start: onnx.ModelProto, weights: tuple[str, ...], options: ProtectOptions
) -> ProtectedFile:
    """Protect a file.

    Only weights that end up under the code are narrowed: small ones, for which a vote takes fewer bytes, keep their 8
    bits, as do those that cannot be narrowed, and all where `auto` finds no use for a code.

    Args:
        model: the file, as `open_model` gives it.
        start: the same, as `starting_point` gives it.
        weights: its 8-bit weights, from there too.
        options: what to do.

    Raises:
        OptionError: if the rates are of another file.
        ModelError: if nothing can be protected, or onnxruntime does not make of the protected file what it makes of
            the plain one.
    """
    code, plain, narrowed = options.code, start, tuple[Narrowed, ...]()
    chosen = weights if code else ()
    while True:
        if code:
            plain, found = narrow(start, chosen, code.weight_bits)
            # What was tried and is not coded keeps its reason.
            narrowed = found if not narrowed else tuple(_latest(narrowed, found))
        planned = plan(
            plain,
            mode=options.guard,
            code=code,
            budget=options.budget,
            rates=options.guard_rates,
            health=options.health,
        )
        coded = tuple(name for name in chosen if name in planned.coded)
        if coded == chosen or not code:
            break
        chosen = coded
    if not planned.coded and not planned.voted:
        reason = next(iter(planned.left_out.values()), "there is nothing in it that the mode is about")
        raise ModelError(f"nothing in the file can be protected: {reason}")
    health = options.health and bool(planned.coded)
    return ProtectedFile(
        model=apply(plain, planned, planned.code, health),
        plain=plain,
        plan=planned,
        narrowed=narrowed,
        votes_before=len(find_votes(model)),
    )


def _latest(before: tuple[Narrowed, ...], now: tuple[Narrowed, ...]) -> list[Narrowed]:
    found = {each.weight: each for each in now}
    return [found.get(each.weight, each) for each in before]


def facts(protected: ProtectedFile) -> dict[str, Any]:
    """Return what was done to weights, as JSON values: those under a code, and those that could not be narrowed."""
    return {
        "weights": [each.as_dict() for each in protected.coded],
        "not_narrowed": {each.weight: each.reason for each in protected.narrowed if each.reason},
    }
