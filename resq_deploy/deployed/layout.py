"""Where the tensors that a file stores lie in it and in its external data, with their roles and layers."""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import onnx

from resq_deploy.deployed import external
from resq_deploy.deployed.digests import Held, make_digests
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.nesting import node_label
from resq_deploy.deployed.stored import Stored, stored_values
from resq_deploy.deployed.surfaces import Surface, find_surfaces
from resq_deploy.deployed.wire import locate


def digests_of(data: bytes, name: str) -> dict[str, Any]:
    """Return the digests of a serialised model that holds all of its data.

    Args:
        data: the model.
        name: of its file.
    """
    model = onnx.ModelProto.FromString(data)
    return make_digests([(name, data)], _tensors(data, model, find_surfaces(model), model, {}))


def record_of(path: pathlib.Path) -> dict[str, Any]:
    """Return a record of the digests of a file of any origin, with its external data, as JSON values.

    Raises:
        ModelError: if it is no usable ONNX model.
    """
    deployed = DeployedModel.load(path)
    data = path.read_bytes()
    model = onnx.ModelProto.FromString(data)
    parts = external.parts_of(stored_values(model.graph), path.parent)
    names = sorted({part.location for part in parts.values()})
    files = [(path.name, data), *((name, (path.parent / name).read_bytes()) for name in names)]
    away = {
        place: (1 + names.index(part.location), part.offset, part.offset + part.size) for place, part in parts.items()
    }
    held = _tensors(data, model, deployed.surfaces, deployed.proto, away)
    return {
        "schema": 1,
        "command": "inspect",
        "model": {"file": path.name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)},
        "digests": make_digests(files, held),
    }


def _tensors(
    data: bytes,
    model: onnx.ModelProto,
    surfaces: Sequence[Surface],
    opened: onnx.ModelProto,
    away: dict[str, tuple[int, int, int]],
) -> list[Held]:
    """Return where each stored tensor lies, in the order of the file.

    Args:
        data: the file.
        model: the same, parsed.
        surfaces: those of the file as it is opened.
        opened: that: functions written out, so that a place may be another one's.
        away: external tensors: by place their file, first byte, and one past the last.
    """
    spans = dict(locate(data))
    roles = {site.place: surface for surface in surfaces for site in surface.sites}
    there = {stored.place: stored for stored in stored_values(opened.graph)}
    found = []
    for stored in stored_values(model.graph):
        if stored.place in away:
            file, begin, end = away[stored.place]
        elif stored.place in spans and isinstance(span := spans[stored.place].raw, slice):
            file, begin, end = 0, span.start, span.stop
        else:  # numbers of an attribute, one by one between their keys: they count to what lies outside
            continue
        surface = roles.get(stored.place) if _same(stored, there.get(stored.place)) else None
        name = surface.tensor if surface else stored.value or _label(stored)
        role, layer = (str(surface.role), surface.layer) if surface else ("", "")
        found.append(Held(tensor=name, role=role, layer=layer, file=file, begin=begin, end=end))
    return found


def _same(stored: Stored, other: Stored | None) -> bool:
    """Return whether what is stored at a place is the same after a file was opened."""
    return other is not None and (stored.value, stored.attribute) == (other.value, other.attribute)


def _label(stored: Stored) -> str:
    return f"{node_label(stored.node)}.{stored.attribute}" if stored.node else stored.place
