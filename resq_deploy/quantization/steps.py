"""Steps that an export has whatever the task: quantize and plan the protection, protect, and say what was written."""

import dataclasses
from collections.abc import Callable
from typing import Any

import onnx

from resq_deploy.data.dataset import Split
from resq_deploy.deployed.inputs import InputSpec
from resq_deploy.deployed.surfaces import find_surfaces
from resq_deploy.protection.apply import apply
from resq_deploy.protection.plan import DEFAULT_BUDGET, Plan, plan
from resq_deploy.quantization.adjust import Adjusted, write_adjusted
from resq_deploy.quantization.answers import Labelled
from resq_deploy.quantization.options import ExportOptions
from resq_deploy.quantization.ranges import STORED_BITS
from resq_deploy.quantization.scheme import Scheme


def planned(
    quantize: Callable[[ExportOptions], Adjusted], options: ExportOptions
) -> tuple[Adjusted, Plan | None, ExportOptions]:
    """Return the int8 file, the plan of its protection, and the options it was made with.

    Those are other ones where `auto` finds no use for a code: then weights keep all their bits, unless fewer were asked
    for.
    """
    made = quantize(options)
    if options.guard == "none":
        return made, None, options
    chosen = plan(
        onnx.ModelProto.FromString(made.int8),
        mode=options.guard,
        code=options.code,
        budget=DEFAULT_BUDGET if options.guard_budget is None else options.guard_budget,
        rates=options.guard_rates,
        health=options.health,
    )
    if options.code and not chosen.coded and options.weight_bits is None and options.guard == "auto":
        return planned(quantize, dataclasses.replace(options, weight_bits=STORED_BITS, weight_code=None))
    return made, chosen, options


def protected(int8_file: bytes, chosen: Plan | None, options: ExportOptions, report: Callable[[str], None]) -> bytes:
    """Return a file protected as planned."""
    if chosen is None:
        return int8_file
    report("protecting")
    guarded = apply(onnx.ModelProto.FromString(int8_file), chosen, chosen.code, options.health)
    return bytes(guarded.SerializeToString(deterministic=True))


def guards(chosen: Plan | None, plain: bytes, guarded: bytes, options: ExportOptions) -> dict[str, Any] | None:
    """Return what the sidecar says of protection: the plan, and what it came to; None where there is none."""
    if chosen is None:
        return None
    added = len(guarded) - len(plain)
    measured = {"bytes_added": added, "share_of_file": added / len(plain), "health": options.health}
    return chosen.as_dict() | measured


def unprotected(options: ExportOptions) -> ExportOptions:
    """Return the same options for a file with weights of 8 bits and without protection."""
    return dataclasses.replace(
        options,
        guard="none",
        weight_bits=STORED_BITS,
        weight_code=None,
        guard_budget=None,
        guard_rates=None,
        health=False,
    )


def minmax(
    model: onnx.ModelProto, calibration: Split | Labelled, spec: InputSpec | None, options: ExportOptions
) -> Callable[[], bytes]:
    """Return a function that makes the plain export of the same weights in the same form, without protection."""
    plain = Scheme(
        granularity=options.granularity,
        format=options.format,
        reduce_range=options.reduce_range,
        weight_type=options.weight_type,
        weight_bits=STORED_BITS if options.code else options.bits,
        float_nodes=options.float_nodes,
    )
    return lambda: write_adjusted(model, calibration, spec, plain)[0]


def form(int8_file: bytes, options: ExportOptions) -> dict[str, Any]:
    """Return what the sidecar says of the form of a file."""
    opsets = onnx.ModelProto.FromString(int8_file).opset_import
    return {
        "format": options.format,
        "opset": next(entry.version for entry in opsets if entry.domain in ("", "ai.onnx")),
        "ranges": options.ranges,
        "granularity": options.granularity,
        "activation_percentile": options.activation_percentile or 100.0,
        "bias_correction": options.bias_correction,
        "equalize": options.equalize,
        "reconstruct": options.reconstructs,
        "weights": _weight_type(options),
        "weight_bits": options.bits,
        "activations": "uint8",
        "in_float": list(options.float_nodes),
    }


def stored_bits(file: bytes) -> dict[str, int]:
    """Return how many bits a file stores, by role."""
    bits: dict[str, int] = {}
    for surface in find_surfaces(onnx.ModelProto.FromString(file)):
        bits[str(surface.role)] = bits.get(str(surface.role), 0) + surface.bits
    return bits


def _weight_type(options: ExportOptions) -> str:
    if options.bits == STORED_BITS and not options.reduce_range:
        return options.weight_type
    bits = options.bits if options.bits < STORED_BITS else STORED_BITS - 1
    return f"{options.weight_type.replace('8', str(bits))} in {options.weight_type}"
