"""What a flip in each stored tensor does: SDC-1 by role and layer, as a campaign measured it, or from built-in figures.

To first order, while the bit error rate b is low, the expected SDC-1 of a file is the sum over its tensors of
b * bits * SDC-1 of a single flip there; `plan` takes out of it what lowers it most.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.deployed.surfaces import Role, Surface
from resq_deploy.errors import OptionError, RunFolderError
from resq_deploy.records import read_json, read_manifest, sha256_file

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

BUILT_IN_SOURCE = "built-in figures by role, measured on an int8 ResNet-20 for CIFAR-10"
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
    memory, whatever they held: a plan weighs each stored bit by what its flip does, and no other figures say that.

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
    if "flip_direction" in options:
        other.append(f"--flip-direction {options['flip_direction']}")
    if other:
        raise RunFolderError(
            f"{file.parent} was run with {' '.join(other)}: guards are planned by single flips at all bit positions "
            "without ECC; give a run of `faultcamp --faults single` without --bits, --ecc and --flip-direction"
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
