"""What a reliability engineer should know about a file before trusting figures about it."""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.graph import stored_tensors
from resq_deploy.deployed.load_time import about_load
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.saturation import saturating_layers
from resq_deploy.deployed.surfaces import Role, Surface
from resq_deploy.errors import ModelError
from resq_deploy.grid import UINT8_ZERO_POINT

_EIGHT_BITS = ("int8", "uint8", "int4", "uint4", "int16", "uint16")
_TINY_SCALE = 1e-12


def warnings_for(model: DeployedModel) -> list[str]:
    """Return one line for each property of a file that matters for its faults or its figures."""
    values = {name: tensor for tensor, name in stored_tensors(model.proto.graph)}
    tensors = [surface for surface in model.surfaces if surface.tensor in values]
    weights = [surface for surface in tensors if surface.role is Role.WEIGHT]
    quantized = [surface for surface in weights if surface.dtype in _EIGHT_BITS]
    warnings = []
    if not model.surfaces:
        warnings.append("the file stores no parameters: there is nothing bits could flip in")
    elif not quantized:
        warnings += about_load(model, weights) or [
            "no quantized weights: this is a float model, and flips of exponent bits will dominate"
        ]
    warnings += _saturation(model)
    return warnings + _scale_warnings(tensors, values)


def notes_for(model: DeployedModel) -> list[str]:
    """Return one line for each property of a file that is as it should be, and worth knowing."""
    values = {name: tensor for tensor, name in stored_tensors(model.proto.graph)}
    weights = [each for each in model.surfaces if each.tensor in values and each.role is Role.WEIGHT]
    quantized = [surface for surface in weights if surface.dtype in _EIGHT_BITS]
    notes = []
    symmetric = {-128: [surface for surface in quantized if surface.dtype == "int8"]}
    symmetric[0] = _about_the_middle(model, quantized, values)
    for lowest, surfaces in symmetric.items():
        unused = [surface for surface in surfaces if not _uses(lowest, surface, values)]
        if unused:
            notes.append(
                f"{len(unused)} of {len(quantized)} quantized weight tensors never use the code {lowest}: that is as "
                "it should be, their ranges are symmetric; where a copy of the file holds it, a bit has flipped"
            )
    return notes


def _about_the_middle(
    model: DeployedModel, weights: list[Surface], values: dict[str, onnx.TensorProto]
) -> list[Surface]:
    """Return the uint8 weights with the zero point 128, whose grids are symmetric as those of int8 are."""
    centred = {
        surface.layer
        for surface in model.surfaces
        if surface.tensor in values
        and surface.role is Role.WEIGHT_ZERO_POINT
        and surface.dtype == "uint8"
        and (numpy_helper.to_array(values[surface.tensor]) == UINT8_ZERO_POINT).all()
    }
    return [surface for surface in weights if surface.dtype == "uint8" and surface.layer in centred]


def _uses(code: int, surface: Surface, values: dict[str, onnx.TensorProto]) -> bool:
    return bool((numpy_helper.to_array(values[surface.tensor]) == code).any())


def _saturation(model: DeployedModel) -> list[str]:
    """Return a line if sums of a layer could saturate on a CPU without VNNI; none for a file that cannot be run."""
    deployment = Deployment()
    try:
        layers = saturating_layers(model.proto.SerializeToString(), deployment)
    except ModelError:
        return []
    if not layers:
        return []
    here = "as this one" if deployment.saturates else "unlike this one"
    return [
        f"{len(layers)} layers, the first is {layers[0].layer!r}, could saturate sums of products in 16 bits on CPUs "
        f"without VNNI, {here}: figures are in exact arithmetic unless native is asked for; for devices like that "
        "export with --weight-type uint8"
    ]


def _scale_warnings(surfaces: Sequence[Surface], values: dict[str, onnx.TensorProto]) -> list[str]:
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
