"""Which tensors to guard: every bias, scale and zero point, or those that lower the risk most for their bytes.

To first order, while the bit error rate b is low, the expected SDC-1 of a file is the sum over its tensors of
b * bits * SDC-1 of a single flip there. A guard takes a tensor out of that sum. What is left of it is second order,
two copies hit at the same element: with `w` bits an element, the vote `Where(Equal(x, y), x, z)` fails when z and
another copy are hit (w * w pairs of bits, twice), or x and y alike (w pairs):

    b^2 * bits * (2 w + 1) * SDC-1                                                                        (1)

Like every figure of a file's stored bits, this is about faults in storage before the file is loaded.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.deployed.surfaces import Role, Surface
from resq_deploy.errors import OptionError, RunFolderError
from resq_deploy.protection.guards import added_bytes, obstacle_of_type
from resq_deploy.records import read_json, read_manifest, sha256_file

MODES = ("parameters", "auto")
DEFAULT_BUDGET = 0.05
"""Bytes that guards may add, as a share of the unguarded file, unless told otherwise."""

PARAMETERS = frozenset(Role) - {Role.WEIGHT}
"""The roles that mode `parameters` guards: all but weights, float parameters such as normalisation gains included."""

BUILT_IN: Mapping[Role, float] = {
    Role.WEIGHT: 0.0020,
    Role.BIAS: 0.162,
    Role.WEIGHT_SCALE: 0.028,
    Role.WEIGHT_ZERO_POINT: 0.123,
    Role.BIAS_SCALE: 0.041,
    Role.BIAS_ZERO_POINT: 0.020,
    Role.ACTIVATION_SCALE: 0.45,
    Role.ACTIVATION_ZERO_POINT: 0.17,
    Role.FLOAT: 0.028,
    Role.CONSTANT: 0.028,
    Role.CODE: 0.028,
}
"""SDC-1 of a single flip by role, where no campaign says better: an int8 ResNet-20 on CIFAR-10, 2,000 faults of all
roles on 1,000 images each, so that the small roles rest on 4 to 26 faults. That file's activation zero points were not
hit: 17 % is the published figure for zero points of a ResNet8. Float parameters, constants and
decoder tables, not measured, count as weight scales: float32 values that multiply a channel."""

_BUILT_IN_SOURCE = "built-in figures by role, measured on an int8 ResNet-20 for CIFAR-10"
_PRIOR_FAULTS = 20  # a layer's measured rate counts as much as that which its roles suggest, at so many faults
_ROUNDS = 100

Figures = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rate:
    """A measured SDC-1: mean share of image runs in [0, 1], over so many faults."""

    value: float
    faults: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuardRates:
    """SDC-1 of single flips in the unguarded file, as a campaign measured them.

    Attributes:
        by_role: by role, over the roles the campaign hit.
        by_layer: by layer, over those roles.
        source: what they come from, for the records.
    """

    by_role: Mapping[Role, Rate]
    by_layer: Mapping[str, Rate]
    source: str


def read_rates(path: pathlib.Path) -> GuardRates:
    """Read the rates from the `summary.json` of a fault campaign, or from the run folder that holds it.

    The manifest beside it must say that the campaign flipped single bits, at every position, without error-correcting
    memory: a plan weighs each stored bit by what its flip does, and no other figures say that.

    Raises:
        RunFolderError: if the file is missing, is not JSON, or is no summary of single faults by role and layer; if
            the campaign was another one, is not finished, or its manifest is missing.
    """
    file = path / "summary.json" if path.is_dir() else path
    summary = read_json(file)
    if not isinstance(summary, dict) or not {"by_role", "by_layer"} <= summary.keys():
        raise RunFolderError(
            f"{file} holds no SDC by role and layer: give the summary.json of `faultcamp --faults single`"
        )
    _check_campaign(file)
    roles, layers = (_rates(file, summary, key) for key in ("by_role", "by_layer"))
    known = {Role(name): rate for name, rate in roles.items() if name in set(Role)}
    if not known:
        raise RunFolderError(f"{file} holds no SDC of any role: give a campaign with faults that could be judged")
    return GuardRates(by_role=known, by_layer=layers, source=f"faultcamp, summary.json of SHA-256 {sha256_file(file)}")


def _check_campaign(file: pathlib.Path) -> None:
    """Refuse a campaign whose rates are not those of single flips anywhere in the file.

    Raises:
        RunFolderError: naming what is different.
    """
    manifest = read_manifest(file.parent)
    options = manifest.get("options")
    if manifest.get("command") != "faultcamp" or not isinstance(options, dict):
        raise RunFolderError(f"{file.parent} is no run of faultcamp: give one of `faultcamp --faults single`")
    other = []
    if options.get("faults") != "single":
        other.append(f"--faults {options.get('faults')}")
    if options.get("bits"):
        other.append(f"--bits {','.join(map(str, options['bits']))}")
    if options.get("ecc", "none") != "none":
        other.append(f"--ecc {options['ecc']}")
    if other:
        raise RunFolderError(
            f"{file.parent} was run with {' '.join(other)}: guards are planned by single flips at all bit positions "
            "without ECC; give a run of `faultcamp --faults single` without --bits and --ecc"
        )
    if manifest.get("status") != "done":
        raise RunFolderError(f"{file.parent} is not finished (status {manifest.get('status')!r}): --resume it first")


def _rates(file: pathlib.Path, summary: Mapping[str, Any], key: str) -> dict[str, Rate]:
    """Return the SDC-1 of each group of a summary; groups without a judged fault are left out."""
    try:
        found = {}
        for name, rates in summary[key].items():
            estimate = rates["sdc1"]
            if estimate is None:
                continue
            value, faults = float(estimate["value"]), int(estimate["n"])
            if not 0.0 <= value <= 1.0 or faults < 1:
                raise ValueError(f"a rate of {value} over {faults} faults")
            found[name] = Rate(value=value, faults=faults)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{file}: `{key}` is not as faultcamp writes it ({error}): run the campaign anew"
        ) from error
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuardPlan:
    """What to guard, what it costs and what it is expected to gain.

    Attributes:
        mode: `parameters` or `auto`.
        budget: share of the unguarded file that guards may add; None for `parameters`.
        tensors: the tensors to guard, in the order of the file.
        bytes_added: bytes the guards add to the file.
        file_bytes: size of the unguarded file.
        before: expected SDC-1 over bit error rate, first order, by role, without guards.
        after: the same with them.
        second_order: expected SDC-1 over the square of the bit error rate that guarded tensors keep, equation (1).
        rates: where the SDC-1 of single flips comes from.
        left_out: tensors that the mode would have guarded and that cannot be, each with the reason.
    """

    mode: str
    budget: float | None
    tensors: tuple[str, ...]
    bytes_added: int
    file_bytes: int
    before: Mapping[str, float]
    after: Mapping[str, float]
    second_order: float
    rates: str
    left_out: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as the JSON object of the sidecar."""
        return {
            "mode": self.mode,
            "budget": self.budget,
            "tensors": list(self.tensors),
            "bytes_added": self.bytes_added,
            "share_of_file": self.bytes_added / self.file_bytes,
            "expected_sdc1_over_ber": {
                name: {"total": sum(by_role.values()), "by_role": dict(by_role)}
                for name, by_role in (("before", self.before), ("after", self.after))
            },
            "guarded_sdc1_over_ber_squared": self.second_order,
            "rates": self.rates,
            "left_out": dict(self.left_out),
            "note": "first order in the bit error rate of storage before the file is loaded; of a guarded tensor, two "
            "copies hit at the same element remain; faults in memory after loading are not voted out",
        }


def check_options(mode: str, budget: float) -> None:
    """Check the options of a plan.

    Raises:
        OptionError: if the mode is unknown or the budget is not a positive number.
    """
    if mode not in MODES:
        raise OptionError(f"--guard {mode}: give one of none, {', '.join(MODES)}")
    if not (budget > 0 and math.isfinite(budget)):
        raise OptionError(f"--guard-budget {budget}: give the share of the file that guards may add, such as 0.05")


def plan_guards(
    surfaces: Sequence[Surface],
    *,
    file_bytes: int,
    mode: str,
    budget: float = DEFAULT_BUDGET,
    rates: GuardRates | None = None,
    obstacles: Mapping[str, str] | None = None,
) -> GuardPlan:
    """Choose the tensors to guard.

    `parameters` takes every tensor but weights. `auto` takes what lowers the expected SDC-1 most for each byte added,
    weights too, until nothing more fits into the budget. That greedy choice for the knapsack problem misses the best
    one by less than the gain of the one tensor that first did not fit (Dantzig, Operations Research 5, 1957); with
    hundreds of small tensors that is little.

    Args:
        surfaces: the stored tensors of the unguarded file.
        file_bytes: its size.
        mode: `parameters` or `auto`.
        budget: bytes that `auto` may add, as a share of `file_bytes`.
        rates: what a campaign on the unguarded file measured; None for `BUILT_IN`.
        obstacles: tensors that cannot be guarded, each with the reason, as `guards.obstacles` returns them.

    Raises:
        OptionError: if the mode is unknown, the budget is not a positive number, or the rates are of another file.
    """
    check_options(mode, budget)
    gains = expected_sdc1(surfaces, rates)
    wanted = [place for place, surface in enumerate(surfaces) if mode == "auto" or surface.role in PARAMETERS]
    left_out = {
        surfaces[place].tensor: reason
        for place in wanted
        if (reason := (obstacles or {}).get(surfaces[place].tensor) or obstacle_of_type(surfaces[place].dtype))
        is not None
    }
    costs = {place: added_bytes(surfaces[place]) for place in wanted if surfaces[place].tensor not in left_out}
    chosen = set(costs) if mode == "parameters" else _greedy(gains, costs, budget * file_bytes)
    return GuardPlan(
        mode=mode,
        budget=budget if mode == "auto" else None,
        tensors=tuple(surface.tensor for place, surface in enumerate(surfaces) if place in chosen),
        bytes_added=sum(costs[place] for place in chosen),
        file_bytes=file_bytes,
        before=_by_role(surfaces, gains),
        after=_by_role(surfaces, np.where(np.isin(np.arange(len(surfaces)), list(chosen)), 0.0, gains)),
        second_order=float(sum(gains[place] * (2 * surfaces[place].width + 1) for place in chosen)),
        rates=rates.source if rates else _BUILT_IN_SOURCE,
        left_out=left_out,
    )


def expected_sdc1(surfaces: Sequence[Surface], rates: GuardRates | None = None) -> Figures:
    """Return the expected SDC-1 over bit error rate of each tensor: bits * SDC-1 of a single flip, shape [surfaces].

    Raises:
        OptionError: if the rates are of another file.
    """
    bits = np.array([surface.bits for surface in surfaces], dtype=np.float64)
    sdc1 = np.array([_built_in(surface) for surface in surfaces], dtype=np.float64)
    if rates is not None:
        measured = np.array([surface.role in rates.by_role for surface in surfaces], dtype=bool)
        hit = [surface for surface in surfaces if surface.role in rates.by_role]
        sdc1[measured] = _combined(hit, bits[measured], rates)
    return bits * sdc1


def _greedy(gains: Figures, costs: Mapping[int, int], room: float) -> set[int]:
    """Return places by falling gain for a byte, as long as they fit; equal ones in the order of the file."""
    chosen = set()
    for place in sorted(costs, key=lambda place: (-gains[place] / costs[place], place)):
        if gains[place] > 0 and costs[place] <= room:
            chosen.add(place)
            room -= costs[place]
    return chosen


def _by_role(surfaces: Sequence[Surface], risks: Figures) -> dict[str, float]:
    totals: dict[str, float] = {}
    for surface, risk in zip(surfaces, risks, strict=True):
        totals[str(surface.role)] = totals.get(str(surface.role), 0.0) + float(risk)
    return totals


def _built_in(surface: Surface) -> float:
    """Return the built-in figure; a weight left in float has a float's exponent, whatever its role."""
    role = Role.FLOAT if surface.role is Role.WEIGHT and surface.dtype == "float" else surface.role
    return BUILT_IN[role]


def _combined(surfaces: Sequence[Surface], bits: Figures, rates: GuardRates) -> Figures:
    """Return SDC-1 by tensor from that by role and that by layer, shape [surfaces].

    A tensor's rate is a factor of its role times a factor of its layer, fitted in turn to the sums over layers and
    over roles (iterative proportional fitting: Deming and Stephan, Annals of Mathematical Statistics 11, 1940), with
    no rate above 1. Sums over roles are kept exactly.

    Raises:
        OptionError: if the rates know none of the layers.
    """
    roles = np.array([str(surface.role) for surface in surfaces])
    layers = np.array([surface.layer for surface in surfaces])
    fitted = np.array([rates.by_role[surface.role].value for surface in surfaces], dtype=np.float64)
    by_role = {str(role): float(bits[roles == role] @ fitted[roles == role]) for role in np.unique(roles)}
    by_layer = _layer_sums(layers, bits, fitted, rates.by_layer)
    for _ in range(_ROUNDS):
        before = fitted.copy()
        for groups, sums in ((layers, by_layer), (roles, by_role)):
            for group, total in sums.items():
                inside = groups == group
                fitted[inside] = _scaled(fitted[inside], bits[inside], total)
        if np.allclose(before, fitted, rtol=1e-9, atol=0.0):
            break
    return fitted


def _layer_sums(
    layers: NDArray[np.str_], bits: Figures, suggested: Figures, measured: Mapping[str, Rate]
) -> dict[str, float]:
    """Return bits * SDC-1 summed over each layer; over all layers, what is suggested.

    A layer was often hit by a few faults only, one of which may have been in a scale: its measured rate is drawn
    towards the one that its roles alone suggest, the more the fewer the faults.
    """
    present = [str(layer) for layer in np.unique(layers)]
    if measured and not measured.keys() & set(present):
        raise OptionError(
            f"the guard rates are of another file: they know the layer {next(iter(measured))!r} and this file has "
            f"{', '.join(map(repr, present[:1])) or 'none'}; give a campaign on the unguarded export of this network"
        )
    sums = {}
    for layer in present:
        inside = layers == layer
        prior = float(bits[inside] @ suggested[inside])
        rate = measured.get(layer, Rate(value=0.0, faults=0))
        weight = rate.faults / (rate.faults + _PRIOR_FAULTS)
        sums[layer] = weight * rate.value * float(bits[inside].sum()) + (1.0 - weight) * prior
    factor = float(bits @ suggested) / (sum(sums.values()) or 1.0)
    return {layer: factor * total for layer, total in sums.items()}


def _scaled(values: Figures, bits: Figures, total: float) -> Figures:
    """Return rates multiplied so that they sum up, weighted by bits, to a total; those above 1 are cut to 1."""
    scaled, free = values.copy(), values > 0
    while free.any():
        rest = total - float(bits[~free] @ scaled[~free])
        scaled[free] = values[free] * max(rest, 0.0) / float(bits[free] @ values[free])
        over = free & (scaled > 1.0)
        if not over.any():
            break
        scaled[over] = 1.0
        free &= ~over
    return scaled
