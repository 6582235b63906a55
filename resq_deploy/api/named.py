"""Options by name, as a user gives them: numbers, text as on the command line, or the values themselves."""

import enum
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from resq_deploy.api.given import as_options, as_path
from resq_deploy.errors import OptionError

if TYPE_CHECKING:
    from resq_deploy.campaign.options import CampaignOptions
    from resq_deploy.pipeline.attack_options import AttackOptions

_OF_DEPLOYMENT = ("providers", "optimization", "arithmetic")
_BIT_FLIP = "bit_flip_"


def fault_options(options: "CampaignOptions | None" = None, **named: Any) -> "CampaignOptions":
    """Return the options of a fault campaign, checked as a whole.

    Example:
        >>> rd.fault_options(samples=200, roles="weight,bias", arithmetic="native")

    Args:
        options: what holds where nothing else is named; None for the defaults.
        named: fields of `CampaignOptions` by name, and of its deployment `providers`, `optimization` and `arithmetic`.
            Roles, bits, rates, outputs and shares of upsets may be text, as on the command line; a `fault_list` needs
            no `faults`; `decode` is the decoder of judge `boxes`. None says nothing.

    Raises:
        OptionError: if there is no such option, or one, or a combination of them, makes no sense.
    """
    from resq_deploy.campaign.option_text import (
        parse_bits,
        parse_direction,
        parse_draw,
        parse_images_per_fault,
        parse_layout,
        parse_patterns,
        parse_rates,
        parse_roles,
        parse_true_cells,
    )
    from resq_deploy.campaign.options import CampaignOptions, FaultModel
    from resq_deploy.faults.judges.registry import check_judge, with_decoder

    if (decode := named.pop("decode", None)) is not None:
        named["judge"] = with_decoder(named.get("judge", options and options.judge), decode)
    readers: dict[str, Callable[[str], Any]] = {
        "roles": parse_roles,
        "bits": parse_bits,
        "ber": parse_rates,
        "images_per_fault": parse_images_per_fault,
        "draw": parse_draw,
        "cluster_shares": parse_patterns,
        "memory_layout": parse_layout,
        "flip_direction": parse_direction,
        "true_cells": parse_true_cells,
        "outputs": _names,
    }
    values = _read({name: value for name, value in named.items() if value is not None}, readers)
    if isinstance(values.get("true_cells"), (int, float)):
        values["true_cells"] = parse_true_cells(repr(values["true_cells"]))
    if isinstance(values.get("memory_layout"), pathlib.Path):
        values["memory_layout"] = parse_layout(str(values["memory_layout"]))
    if isinstance(values.get("ber"), float):
        values["ber"] = (values["ber"],)
    for name in ("roles", "bits", "ber", "outputs"):
        if name in values:
            values[name] = tuple(values[name])
    if "fault_list" in values:
        if values.get("faults", FaultModel.LIST) != FaultModel.LIST:
            raise OptionError("--fault-list names the faults itself: leave --faults out")
        values |= {"fault_list": as_path(values["fault_list"]), "faults": FaultModel.LIST}
    elif "faults" in values:
        values["faults"] = _one_of(FaultModel, "--faults", values["faults"])
    if values.get("judge") is not None:
        check_judge(values["judge"])
    return as_options(CampaignOptions, options, _deployed(values, options))


def attack_options(options: "AttackOptions | None" = None, **named: Any) -> "AttackOptions":
    """Return the options of an attack campaign, checked as a whole.

    Args:
        options: what holds where nothing else is named; None for the defaults.
        named: fields of `AttackOptions` by name, those of its deployment as for `fault_options`, and those of its
            bit-flip attack with `bit_flip_` before them (but `flippable`). Attacks, radii and roles may be text, as on
            the command line.
            `weights` of a `network` stand in place of a `surrogate`. None says nothing.

    Raises:
        OptionError: if there is no such option, or one, or a combination of them, makes no sense.
    """
    from resq_deploy.attacks.ball import Norm
    from resq_deploy.pipeline.attack_options import AttackOptions

    values = _read(
        {name: value for name, value in named.items() if value is not None}, {"attacks": _every_name, "epsilon": _radii}
    )
    for name, convert in (("attacks", tuple), ("epsilon", tuple), ("surrogate", as_path)):
        if name in values:
            values[name] = convert(values[name])
    if "norm" in values:
        values["norm"] = _one_of(Norm, "--norm", values["norm"])
    if (weights := values.pop("weights", None)) is not None:
        if "surrogate" in values:
            raise OptionError("--surrogate and --weights both say what the float network is: give one")
        if "network" not in values:
            raise OptionError(f"--weights {weights} are tensors by name: say with --network what they are of")
        values["surrogate"] = as_path(weights)
    if (flippable := values.pop("flippable", None)) is not None:
        values["bit_flip_flippable"] = as_path(flippable)
    values = _with_bit_flip(values, options)
    return as_options(AttackOptions, options, _deployed(values, options))


def _with_bit_flip(values: Mapping[str, Any], options: "AttackOptions | None") -> dict[str, Any]:
    """Return options with those of the bit-flip attack as one."""
    from resq_deploy.campaign.option_text import parse_roles
    from resq_deploy.pipeline.bit_flip_options import BitFlipOptions

    of_attack = {name.removeprefix(_BIT_FLIP): value for name, value in values.items() if name.startswith(_BIT_FLIP)}
    rest = {name: value for name, value in values.items() if not name.startswith(_BIT_FLIP)}
    if not of_attack:
        return rest
    if isinstance(of_attack.get("roles"), str):
        try:
            of_attack["roles"] = parse_roles(of_attack["roles"])
        except OptionError as error:
            raise OptionError(f"--bit-flip-roles: {str(error).partition(': ')[2]}") from error
    known = None if options is None else options.bit_flip
    return {**rest, "bit_flip": as_options(BitFlipOptions, rest.get("bit_flip", known), of_attack)}


def _deployed(values: Mapping[str, Any], options: "CampaignOptions | AttackOptions | None") -> dict[str, Any]:
    """Return options with those of the deployment as one."""
    from resq_deploy.deployed.arithmetic import Arithmetic
    from resq_deploy.deployed.deployment import Deployment

    how = {name: values[name] for name in _OF_DEPLOYMENT if name in values}
    rest = {name: value for name, value in values.items() if name not in _OF_DEPLOYMENT}
    if not how:
        return rest
    if "arithmetic" in how:
        how["arithmetic"] = _one_of(Arithmetic, "--arithmetic", how["arithmetic"])
    if "providers" in how:
        how["providers"] = tuple(how["providers"])
    known = rest.get("deployment", None if options is None else options.deployment)
    return {**rest, "deployment": as_options(Deployment, known, how)}


def _read(named: Mapping[str, Any], readers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """Return options with what is text read by the reader of its name."""
    return {
        name: readers[name](value) if name in readers and isinstance(value, str) else value
        for name, value in named.items()
    }


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _every_name(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))  # an empty one is refused by name


def _radii(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise OptionError(f"--epsilon {text!r}: give numbers, such as 2,4,8") from error


def _one_of(kind: type[enum.StrEnum], flag: str, value: Any) -> Any:
    try:
        return kind(value)
    except ValueError as error:
        raise OptionError(f"{flag} {value!r}: give one of {', '.join(kind)}") from error
