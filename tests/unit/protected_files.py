"""Files whose weights are stored under a code, all else in three copies, made from files with weights of 8 bits."""

import numpy as np
import onnx
from onnx import numpy_helper

from resq_deploy.codes.known import known_code
from resq_deploy.deployed.graph import read_model
from resq_deploy.deployed.surfaces import Role, find_surfaces
from resq_deploy.protection.guards import guard
from resq_deploy.protection.protect import protect

SCALED = (Role.WEIGHT_SCALE, Role.BIAS_SCALE)


def narrowed(path, code, *, rescaled=False):
    """A file whose integer weights are cut to the bits that a code leaves, and the names of these weights.

    Scales are widened where that is wanted, and biases cut as well, so that it stays about the same network.
    """
    proto, _ = read_model(path)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    spare, names = 8 - code.weight_bits, []
    for surface in find_surfaces(proto):
        tensor = tensors.get(surface.tensor)
        if tensor is None:
            continue
        values = numpy_helper.to_array(tensor)
        if surface.role is Role.WEIGHT and surface.dtype in ("int8", "uint8"):
            names.append(surface.tensor)
            values = values >> spare
        elif surface.role is Role.WEIGHT_ZERO_POINT and values.dtype != np.int32:
            values = values >> spare
        elif rescaled and surface.role in SCALED:
            values = (values * 2.0**spare).astype(values.dtype)
        elif rescaled and surface.role is Role.BIAS and values.dtype == np.int32:
            values = values >> spare
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    assert names
    return proto, names


def protected(path, kind=("secded", 7), *, votes=True, health=True, rescaled=False):
    """A protected file, and the same without any protection."""
    code = known_code(*kind)
    plain, names = narrowed(path, code, rescaled=rescaled)
    guarded = onnx.ModelProto()
    guarded.CopyFrom(plain)
    if votes:
        stored = {tensor.name for tensor in plain.graph.initializer} - set(names)
        others = [surface.tensor for surface in find_surfaces(plain) if surface.tensor in stored]
        guarded = onnx.ModelProto.FromString(guard(plain.SerializeToString(), others))
    return protect(guarded, names, code, health=health), plain
