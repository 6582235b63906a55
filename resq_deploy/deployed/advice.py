"""What a reliability engineer should know about a file before trusting figures about it."""

import platform

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from resq_deploy.deployed.graph import stored_tensors
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.surfaces import Role, Surface
from resq_deploy.grid import REDUCED_CODE_MAX
from resq_deploy.records import cpu_features

_EIGHT_BITS = ("int8", "uint8", "int4", "uint4", "int16", "uint16")
_TINY_SCALE = 1e-12


def warnings_for(model: DeployedModel) -> list[str]:
    """Return one line for each property of a file that matters for its faults or its figures."""
    values = {name: tensor for tensor, name in stored_tensors(model.proto.graph)}
    weights = [surface for surface in model.surfaces if surface.role is Role.WEIGHT]
    quantized = [surface for surface in weights if surface.dtype in _EIGHT_BITS]
    warnings = []
    if not model.surfaces:
        warnings.append("the file stores no parameters: there is nothing bits could flip in")
    elif not quantized:
        warnings.append("no quantized weights: this is a float model, and flips of exponent bits will dominate")
    unused = [surface for surface in quantized if surface.dtype == "int8" and not _uses_lowest(surface, values)]
    if unused:
        warnings.append(
            f"{len(unused)} of {len(quantized)} quantized weight tensors never use the code -128: "
            "a reader of the file that sees it has found a fault"
        )
    if _saturates(model, quantized, values):
        warnings.append(
            "uint8 activations times int8 weights on this CPU without VNNI may saturate in 16 bits: figures can "
            "differ from a CPU with it; export with --reduce-range to be safe"
        )
    return warnings + _scale_warnings(model.surfaces, values)


def _uses_lowest(surface: Surface, values: dict[str, onnx.TensorProto]) -> bool:
    return bool((numpy_helper.to_array(values[surface.tensor]) == -128).any())


def _largest(surface: Surface, values: dict[str, onnx.TensorProto]) -> int:
    """Return the largest magnitude of a tensor of int8 codes."""
    return int(np.abs(numpy_helper.to_array(values[surface.tensor]).astype(np.int16)).max(initial=0))


def _saturates(model: DeployedModel, quantized: list[Surface], values: dict[str, onnx.TensorProto]) -> bool:
    """Return whether onnxruntime's u8s8 kernels may saturate here (x86 without VNNI, and codes of more than 7 bits)."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    if not any(surface.dtype == "int8" and _largest(surface, values) > REDUCED_CODE_MAX for surface in quantized):
        return False
    features = cpu_features()
    if "avx512_vnni" in features or "avx_vnni" in features:
        return False
    zero_points = [surface for surface in model.surfaces if surface.role is Role.ACTIVATION_ZERO_POINT]
    return any(surface.dtype == "uint8" for surface in zero_points)


def _scale_warnings(surfaces: tuple[Surface, ...], values: dict[str, onnx.TensorProto]) -> list[str]:
    """Return a line for scales that are not positive and finite, and one for scales close to zero."""
    broken, tiny = [], []
    for surface in surfaces:
        if surface.role not in (Role.WEIGHT_SCALE, Role.BIAS_SCALE, Role.ACTIVATION_SCALE):
            continue
        scales: NDArray[np.float64] = np.asarray(numpy_helper.to_array(values[surface.tensor]), dtype=np.float64)
        if not (np.isfinite(scales) & (scales > 0)).all():
            broken.append(surface.tensor)
        elif scales.min() < _TINY_SCALE:
            tiny.append(surface.tensor)
    lines = []
    if broken:
        lines.append(f"{len(broken)} scales are not positive and finite, the first is {broken[0]!r}")
    if tiny:
        lines.append(f"{len(tiny)} scales lie below {_TINY_SCALE:g}, the first is {tiny[0]!r}: a dead channel?")
    return lines
