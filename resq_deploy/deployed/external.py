"""Taking external data into the model: only from the model's folder, and only as much as the shapes say."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable

import onnx

from resq_deploy.deployed.stored import Source, Stored
from resq_deploy.deployed.tensors import stored_bytes
from resq_deploy.errors import ModelError


@dataclasses.dataclass(frozen=True)
class Part:
    """Where an external tensor lies: from byte `offset` of the file at `location` on, `size` bytes."""

    location: str
    offset: int
    size: int


def parts_of(stored: Iterable[Stored], folder: pathlib.Path) -> dict[str, Part]:
    """Return where external tensors lie, by their places in the model.

    Args:
        stored: every stored value of the model; others are let alone.
        folder: the model's folder, which no location may lead out of.

    Raises:
        ModelError: if a location leads out of the folder, or a file is missing or too short.
    """
    found = {}
    for each in stored:
        tensor = each.holder
        if isinstance(tensor, onnx.TensorProto) and tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            location = entries.get("location", "")
            try:
                size = inside(folder.resolve(), location).stat().st_size
                found[each.place] = Part(location, *_extent(tensor, entries, size))
            except (OSError, ValueError) as error:
                raise _unread(tensor, location, error) from error
    return found


def take_in(
    holders: Iterable[onnx.TensorProto | onnx.AttributeProto], folder: pathlib.Path, limit: int
) -> tuple[list[str], list[Source | None]]:
    """Load external tensors into the model.

    Args:
        holders: every tensor of the model, and other things that hold values, which are let alone.
        folder: the model's folder, which no location may lead out of.
        limit: bytes that all of them together may take.

    Returns:
        The SHA-256 of each file they come from; and for each holder where its bytes lie outside the model, None where
        they do not. Two names of one file are one file.

    Raises:
        ModelError: if a location leads out of the folder, or a file is missing or too short.
    """
    digests: dict[str, str] = {}
    sources: list[Source | None] = []
    total = 0
    for tensor in holders:
        sources.append(None)
        if not isinstance(tensor, onnx.TensorProto) or tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        try:
            target = inside(folder.resolve(), location)
            if location not in digests:
                with target.open("rb") as stream:
                    digests[location] = hashlib.file_digest(stream, "sha256").hexdigest()
            status = target.stat()
            offset, size = _extent(tensor, entries, status.st_size)
            sources[-1] = Source((status.st_dev, status.st_ino), offset)
            total += size
            if total > limit:
                raise ValueError("it is larger than 2 GiB, the limit of a model held in memory; split it")
            with target.open("rb") as stream:
                stream.seek(offset)
                tensor.raw_data = stream.read(size)
        except (OSError, ValueError) as error:
            raise _unread(tensor, location, error) from error
        tensor.ClearField("data_location")
        del tensor.external_data[:]
    return [digests[location] for location in sorted(digests)], sources


def _unread(tensor: onnx.TensorProto, location: str, error: Exception) -> ModelError:
    reason = getattr(error, "strerror", None) or error
    return ModelError(f"external data of {tensor.name!r} in {location!r} cannot be read: {reason}")


def inside(folder: pathlib.Path, location: str) -> pathlib.Path:
    """Return the file a location means, links followed.

    Raises:
        ValueError: if it leads out of the folder, which is resolved, or is no regular file.
    """
    if not isinstance(location, str) or not location:
        raise ValueError("no file is named")
    target = (folder / location).resolve()
    if not target.is_relative_to(folder):
        raise ValueError("it leads out of the model's folder; put the file beside the model")
    if target.exists() and not target.is_file():
        raise ValueError("it is no regular file")
    return target


def _extent(tensor: onnx.TensorProto, entries: dict[str, str], available: int) -> tuple[int, int]:
    """Return offset and size of a tensor's bytes in its file."""
    expected = stored_bytes(tensor)
    if expected is None:
        raise ValueError("its type cannot be stored outside the model")
    offset, length = int(entries.get("offset", 0)), int(entries.get("length", expected))
    if length != expected:
        raise ValueError(f"shape {list(tensor.dims)} takes {expected} bytes, the model says {length}")
    if not 0 <= offset <= available - length:
        raise ValueError(f"it holds {available} bytes, {offset + length} are needed; copy it anew")
    return offset, length
