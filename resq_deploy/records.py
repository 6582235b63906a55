"""Run folders: one manifest, atomic writes, provenance, and the rules of resuming.

A run folder belongs to one run. Its `manifest.json` names everything that decides the figures (`options`, and the
`sha256` of model and data) and, apart from that, what does not (`settings`: workers, device) and where it ran.
Resuming compares options and digests, entry by entry, and names the first that differs.
"""

import contextlib
import datetime
import fcntl
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import stat
import tempfile
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import IO, Any, Self

from resq_deploy.errors import InputError, RunFolderError
from resq_deploy.version import __version__

SCHEMA = 1
_MANIFEST = "manifest.json"
_LOCK = ".lock"
_PART = ".part"
_DEEPEST = 64
"""Levels of nesting in a JSON file; none of ours has more than ten."""
_RECORDED_PACKAGES = ("numpy", "scipy", "pillow", "onnx", "onnxruntime", "torch", "torchvision")


def sha256_file(path: pathlib.Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits, reading it in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomic(path: pathlib.Path, data: bytes | str) -> None:
    """Write a file so that a reader, or a kill at any moment, sees the old content or the new, never a part.

    A symbolic link stays, and what it points to is written. A device or a named pipe is written through: it holds no
    content that could be replaced.

    Raises:
        RunFolderError: if the disk is full or the folder cannot be written.
        BrokenPipeError: if the reader of a pipe has gone.
    """
    # A name that is not UTF-8 may stand in a text, as Python's lone surrogates: it is written so that it can be told.
    payload = data.encode(errors="backslashreplace") if isinstance(data, str) else data
    try:
        if _is_special(path):
            with path.open("wb", buffering=0) as stream:
                _write_all(stream, payload)
        else:
            _replace(pathlib.Path(os.path.realpath(path)), payload)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}") from error


def _is_special(path: pathlib.Path) -> bool:
    """Return whether a path leads to something that is neither missing nor a regular file."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False


def _write_all(stream: IO[bytes], payload: bytes) -> None:
    rest = memoryview(payload)
    while rest:  # a pipe takes as much as fits
        rest = rest[stream.write(rest) :]


def _replace(path: pathlib.Path, payload: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PART)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        pathlib.Path(name).chmod(0o644)
        pathlib.Path(name).replace(path)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise


def write_json(path: pathlib.Path, value: object) -> None:
    """Write `value` atomically as JSON with sorted keys kept in the order given; NaN is refused by the format."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: pathlib.Path) -> Any:
    """Read a JSON file.

    Raises:
        RunFolderError: if the file is missing, is not JSON, or holds a number that is not finite.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_whole)
        _check_depth(value)
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} is not valid JSON ({error}): the file is broken or half-written") from error
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no finite number")
    return number


def _whole(text: str) -> int:
    _finite(text)  # a whole number beyond all floats breaks arithmetic later
    return int(text)


def _check_depth(value: object) -> None:
    """Refuse nesting that neither a schema nor a writer could follow."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [inner for outer in level for inner in _members(outer)]
        if not level:
            return
    raise ValueError(f"nested more than {_DEEPEST} deep")


def _members(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def provenance() -> dict[str, Any]:
    """Return what a reader needs to repeat a figure: package versions, Python, platform and CPU features."""
    versions = {"resq-deploy": __version__, "python": platform.python_version()}
    for package in _RECORDED_PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cpu_flags": cpu_features(),
    }


def cpu_name() -> str:
    """Return what the CPU calls itself; empty where the system does not say."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name")), "")


def cpu_features() -> list[str]:
    """Return the CPU features that decide how int8 products are computed, as the kernel names them."""
    telling = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    words = next((line.split() for line in lines if line.lower().startswith(("flags", "features"))), [])
    return [feature for feature in telling if feature in words]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


_OCCUPIED = "output folder {} is not empty: give another --out, or --resume to continue it"


def check_free(path: pathlib.Path, *, resume: bool) -> None:
    """Check, before anything is read, that a run may be written to a folder; `RunFolder.open` looks again.

    Raises:
        RunFolderError: if there is something in it, and no run is to be gone on with.
    """
    try:
        occupied = path.is_dir() and any(entry.name != _LOCK and not _is_part(entry) for entry in path.iterdir())
    except OSError:
        return  # told by who opens it
    if occupied and not resume:
        raise RunFolderError(_OCCUPIED.format(path))


class RunFolder:
    """A folder that holds one run, locked against a second process while it is open.

    Use it as a context manager: leaving it records the status `done`, `interrupted` (Ctrl-C) or `failed`.

    Attributes:
        path: the folder.
        resumed: whether an earlier run is being continued.
        manifest: what `manifest.json` holds.
    """

    def __init__(
        self, path: pathlib.Path, *, manifest: dict[str, Any], resumed: bool, lock: IO[bytes], made: bool = False
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.resumed = resumed
        self._lock = lock
        self._made = made

    @classmethod
    def open(
        cls,
        path: pathlib.Path,
        *,
        command: str,
        options: Mapping[str, Any],
        sha256: Mapping[str, str | None] | None = None,
        settings: Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> Self:
        """Create a run folder, or take up an earlier one.

        Args:
            path: the folder; created with its parents where it is missing.
            command: the command's name; a folder of another command is refused.
            options: every option that decides the figures (JSON values), `seed` among them.
            sha256: digests of what the run reads: model, data, lists, checkpoints.
            settings: what is worth recording but may change from one session to the next.
            resume: continue an earlier run; an empty or missing folder starts a new one.

        Raises:
            RunFolderError: if the folder is not empty and `resume` is off, is in use, broken, or was made by
                another command, with other options or from other inputs.
        """
        identity = {"options": dict(options), "sha256": dict(sha256 or {})}
        normal = json.loads(json.dumps(identity, allow_nan=False))
        made = not path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
            occupied = any(entry.name != _LOCK and not _is_part(entry) for entry in path.iterdir())
        except OSError as error:
            raise RunFolderError(f"cannot use {path} as output folder: {error.strerror or error}") from error
        if occupied and not resume:
            raise RunFolderError(_OCCUPIED.format(path))
        lock = _acquire_lock(path)
        try:
            for part in filter(_is_part, path.iterdir()):  # a kill left it
                part.unlink(missing_ok=True)
            manifest = _begun(command, normal, options.get("seed"), dict(settings or {}))
            if occupied:
                earlier = read_manifest(path)
                _check_same(path, earlier, command, normal)
                manifest["started"] = earlier.get("started", manifest["started"])
                manifest["resumed"] = [*earlier.get("resumed", []), _now()]
            folder = cls(path, manifest=manifest, resumed=occupied, lock=lock, made=made)
            folder.save_manifest()
        except BaseException:
            lock.close()
            raise
        return folder

    def save_manifest(self, **entries: Any) -> None:
        """Add entries to the manifest and write it."""
        self.manifest.update(entries)
        write_json(self.path / _MANIFEST, self.manifest)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, InputError) and self._is_untouched():
            (self.path / _MANIFEST).unlink(missing_ok=True)  # what was refused at once must not hold the folder
            if self._made:  # nor leave an empty one
                with contextlib.suppress(OSError):
                    (self.path / _LOCK).unlink()
                    self.path.rmdir()
            self._lock.close()
            return
        status = "done" if kind is None else "interrupted" if kind is KeyboardInterrupt else "failed"
        try:
            self.save_manifest(status=status, finished=_now())
        except RunFolderError:
            if kind is None:  # a full disk must not hide the error that is already under way
                raise
        finally:
            self._lock.close()

    def _is_untouched(self) -> bool:
        """Return whether a run began here and wrote nothing yet."""
        return not self.resumed and all(entry.name in (_MANIFEST, _LOCK) for entry in self.path.iterdir())


def _begun(command: str, identity: Mapping[str, Any], seed: object, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest of a run that begins now."""
    return {
        "schema": SCHEMA,
        "command": command,
        "status": "running",
        **identity,
        "seed": seed,
        "settings": settings,
        **provenance(),
        "started": _now(),
    }


def _is_part(path: pathlib.Path) -> bool:
    """Return whether a file is one that `write_atomic` had not finished."""
    return path.name.startswith(".") and path.name.endswith(_PART)


def read_manifest(path: pathlib.Path) -> dict[str, Any]:
    """Read the manifest of a run folder.

    Raises:
        RunFolderError: if the folder holds no manifest, a broken one, or one of another schema version.
    """
    if not (path / _MANIFEST).is_file():
        raise RunFolderError(f"{path} is not a run folder of resq-deploy: it holds no {_MANIFEST}")
    manifest = read_json(path / _MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else None
        raise RunFolderError(
            f"{path / _MANIFEST} has schema version {found!r}, this resq-deploy reads {SCHEMA}: "
            "use the version that wrote it, or run again"
        )
    return manifest


def _check_same(path: pathlib.Path, earlier: Mapping[str, Any], command: str, identity: Mapping[str, Any]) -> None:
    if earlier.get("command") != command:
        raise RunFolderError(f"{path} is a run of '{earlier.get('command')}', not of '{command}': give another --out")
    for part, now in identity.items():
        before = earlier.get(part, {})
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                raise RunFolderError(
                    f"cannot resume {path}: {key} was {before.get(key)!r} and is now {now.get(key)!r}; "
                    "give the same value, or another --out"
                )


def _acquire_lock(path: pathlib.Path) -> IO[bytes]:
    try:
        stream = (path / _LOCK).open("ab")
    except OSError as error:
        raise RunFolderError(f"cannot write in {path}: {error.strerror or error}") from error
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        stream.close()
        raise RunFolderError(f"{path} is in use by another run: wait for it, or give another --out") from error
    return stream
