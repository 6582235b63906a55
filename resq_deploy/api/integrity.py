"""Whether a file is, byte for byte, what it was when its digests were made; if not, which tensors were damaged."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

from resq_deploy.api.given import PathLike, as_path
from resq_deploy.errors import FailedError, ModelError, OptionError, RunFolderError
from resq_deploy.records import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from resq_deploy.deployed.digests import Comparison, Damaged

_SUFFIX = ".digests.json"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Integrity:
    """What the digests of a file say of it.

    Attributes:
        path: the file.
        against: where its digests stand.
        found: block by block and tensor by tensor.
        repair: what `scrub` can do about the damage, in a sentence; empty where the file is sound.
    """

    path: pathlib.Path
    against: pathlib.Path
    found: "Comparison"
    repair: str

    @property
    def sound(self) -> bool:
        """Whether every byte is as it was."""
        return self.found.sound

    @property
    def damaged(self) -> "Sequence[Damaged]":
        """The tensors that are damaged; one without a name is what lies outside of all tensors."""
        return self.found.damaged

    @property
    def line(self) -> str:
        """What was found, in a line."""
        if self.sound:
            return f"sound: {self.found.blocks:,} blocks and {self.found.tensors:,} tensors are as they were"
        tensors = [each for each in self.damaged if each.tensor]
        parts = [f"{len(tensors):,} of {self.found.tensors:,} tensors damaged"] if tensors else []
        parts += [f"first {tensors[0].tensor!r}"] if tensors else []
        parts += ["what lies outside of tensors was changed"] if len(tensors) < len(self.damaged) else []
        record = (
            f"the digests in {self.against} are damaged themselves: {self.found.record}" if self.found.record else ""
        )
        return "; ".join([*parts, *self.found.sizes, *filter(None, [record])])

    def check(self) -> None:
        """Fail where the file is not what it was.

        Raises:
            FailedError: naming the first tensor.
        """
        if not self.sound:
            raise FailedError(f"{self.path}: {self.line}{f'. {self.repair}' if self.repair else ''}")

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "file": str(self.path),
            "against": str(self.against),
            "sound": self.sound,
            "blocks": self.found.blocks,
            "tensors": self.found.tensors,
            "damaged_blocks": self.found.damaged_blocks,
            "damaged": [each.as_dict() for each in self.damaged],
            "sizes": list(self.found.sizes),
            "record": self.found.record or None,
            "repair": self.repair or None,
        }


def check_digests(model: PathLike, *, against: PathLike | None = None) -> Integrity:
    """Compare the bytes of a file with its digests; it need not be one that still loads.

    Args:
        model: the file.
        against: where its digests stand; None for its sidecar, or FILE.digests.json beside it.

    Returns:
        What was found: `.sound`, `.damaged`, `.repair`.

    Raises:
        ModelError: if the file cannot be read.
        OptionError: if there are no digests of it.
        RunFolderError: if these cannot be read.
    """
    from resq_deploy.deployed.digests import compare, files_named

    path = as_path(model)
    data = _read(path)
    source, digests = _digests(path, None if against is None else as_path(against))
    try:
        names = files_named(digests)
    except RunFolderError as error:
        raise RunFolderError(f"{source}: {error}") from error
    others = [_external(path.parent, name, source) for name in names[1:]]
    found = compare(digests, [data, *others])
    harmed = bool(found.damaged or found.sizes)
    repair = _repair(path, data, lambda healed: compare(digests, [healed, *others]).sound) if harmed else ""
    return Integrity(path=path, against=source, found=found, repair=repair)


def write_digests(model: PathLike, out: PathLike) -> None:
    """Write the digests of a file of any origin, with its external data, so that `check_digests` can tell the damage.

    Args:
        model: the file, while it is known to be sound.
        out: the JSON file to write; beside the model as FILE.digests.json it is found by itself.

    Raises:
        ModelError: if it is no usable ONNX model.
        OptionError: if another file would be lost.
    """
    from resq_deploy.deployed.layout import record_of
    from resq_deploy.deployed.sidecar import sidecar_of

    path, target = as_path(model), as_path(out)
    if target.resolve() in (path.resolve(), sidecar_of(path).resolve()):
        raise OptionError(
            f"--digests {target}: that is the file itself or its sidecar, which would be lost: name another"
        )
    write_json(target, record_of(path))


def _digests(path: pathlib.Path, against: pathlib.Path | None) -> tuple[pathlib.Path, Any]:
    """Return where the digests of a file stand, and what they are."""
    from resq_deploy.deployed.sidecar import sidecar_of

    beside = (sidecar_of(path), path.with_suffix(_SUFFIX))
    for source in beside if against is None else (against,):
        if against is not None or source.is_file():
            found = read_json(source)
            if isinstance(found, dict) and found.get("digests") is not None:
                return source, found["digests"]
    if against is not None:
        raise OptionError(f"--against {against}: it holds no digests: give a file that --digests wrote, or a sidecar")
    raise OptionError(
        f"{path}: no digests of it: {beside[0].name} holds none, and there is no {beside[1].name}. While the file is "
        f"known to be sound, make them: resq-deploy inspect {path} --digests {beside[1]}"
    )


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _external(folder: pathlib.Path, name: str, source: pathlib.Path) -> bytes | None:
    """Return what an external file holds; None where it is missing."""
    from resq_deploy.deployed.external import inside

    try:
        target = inside(folder.resolve(), name)
        return target.read_bytes() if target.exists() else None
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"{source}: {name!r} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error


def _repair(path: pathlib.Path, data: bytes, is_sound: "Callable[[bytes], bool]") -> str:
    """Say what a file's own codes and votes can do: they are tried, and the digests say whether that is all."""
    from resq_deploy.protection.scrub import Scrub

    anew = "take the file anew"
    try:
        healed = Scrub.of(data).healed
    except ModelError as error:
        return f"scrub cannot repair it ({error}): {anew}"
    if is_sound(healed):
        return f"its codes and votes can undo all of it: resq-deploy scrub {path} --repair {path}"
    return f"its codes and votes cannot undo all of it: {anew}"
