"""What a protected file's own codes and votes say of it, and the file healed or made plain."""

import dataclasses
import hashlib
import pathlib
from typing import TYPE_CHECKING, Any

from resq_deploy.api.given import PathLike, as_path
from resq_deploy.errors import FailedError, ModelError, OptionError, RunFolderError
from resq_deploy.records import read_json, write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from resq_deploy.protection.scrub import Scrub, Tensor


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scrubbed:
    """What was found in a protected file, and what was written.

    Attributes:
        path: the file.
        found: tensor by tensor, with the healed file.
        as_written: whether the healed file is the one that the sidecar beside it names; None without such a sidecar.
        repaired: where the healed file was written.
        baked: where the plain file was written.
    """

    path: pathlib.Path
    found: "Scrub"
    as_written: bool | None
    repaired: pathlib.Path | None
    baked: pathlib.Path | None

    @property
    def status(self) -> int:
        """The exit status of the command: 0 sound, 3 all flips can be corrected, 1 some cannot."""
        return self.found.status

    @property
    def verdict(self) -> str:
        """The status in a word."""
        return self.found.verdict

    @property
    def totals(self) -> "Mapping[str, int]":
        """Words and values that are protected, and what was found of them."""
        return self.found.totals

    @property
    def tensors(self) -> "Sequence[Tensor]":
        """What was found of each protected tensor."""
        return self.found.tensors

    def check(self) -> None:
        """Fail where something cannot be corrected.

        Raises:
            FailedError: naming the first tensor.
        """
        if self.found.decoder_flaw:
            raise FailedError(f"{self.path}: {self.found.decoder_flaw}")
        lost = [tensor for tensor in self.tensors if tensor.uncorrectable]
        if lost:
            raise FailedError(
                f"{self.path}: {self.totals['uncorrectable']:,} words and {self.totals['undecided']:,} values cannot "
                f"be corrected, the first in {lost[0].tensor!r}: take the file anew"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "model": hashlib.sha256(self.found.data).hexdigest(),
            "verdict": self.verdict,
            "totals": self.totals,
            "tensors": [tensor.as_dict() for tensor in self.tensors],
            "decoder_flaw": self.found.decoder_flaw or None,
            "decoder_untried": self.found.untried or None,
            "as_written": self.as_written,
            "repaired": str(self.repaired) if self.repaired else None,
            "baked": str(self.baked) if self.baked else None,
        }


def scrub(model: PathLike, *, repair: PathLike | None = None, bake: PathLike | None = None) -> Scrubbed:
    """Check a protected file for flipped bits, by its codes and votes; heal it, or bake it into a plain one.

    Args:
        model: the file.
        repair: where to write the healed file; may be `model` itself. None to look only.
        bake: where to write the plain file: decoded and voted tensors, no code, no votes. A file whose decoder is
            broken is not baked.

    Returns:
        What was found: `.verdict`, `.totals`, `.tensors`.

    Raises:
        ModelError: if it is no protected file, or damaged where codes and votes do not reach.
        OptionError: if a file that is written would take the place of another one.
    """
    path = as_path(model)
    healed_to, plain_to = (None if given is None else as_path(given) for given in (repair, bake))
    _check_targets(path, healed_to, plain_to)
    from resq_deploy.protection.bake import bake as baked_of
    from resq_deploy.protection.scrub import Scrub

    try:
        found = Scrub.of(_read(path))
        healed = found.healed
        if found.decoder_flaw:
            plain_to = None
        plain = baked_of(found.model).SerializeToString(deterministic=True) if plain_to else b""
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    if healed_to is not None and not (_same(healed_to, path) and healed == found.data):
        write_atomic(healed_to, healed)
    if plain_to is not None:
        write_atomic(plain_to, plain)
    return Scrubbed(path=path, found=found, as_written=_as_written(path, healed), repaired=healed_to, baked=plain_to)


def write_checker(target: PathLike) -> None:
    """Write the check as one Python file that needs numpy and onnx alone, for a device.

    Args:
        target: the file to write.
    """
    from resq_deploy.protection import check

    write_atomic(as_path(target), pathlib.Path(check.__file__).read_bytes())


def _check_targets(model: pathlib.Path, repair: pathlib.Path | None, bake: pathlib.Path | None) -> None:
    if bake is not None and _same(bake, model):
        raise OptionError(f"--bake {bake}: that is the protected file itself, which would be lost: name another")
    if bake is not None and repair is not None and _same(bake, repair):
        raise OptionError(f"--bake and --repair both name {bake}: give each a file of its own")


def _same(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Return whether two paths lead to one file, whether or not it is there."""
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def _read(model: pathlib.Path) -> bytes:
    try:
        if model.exists() and not model.is_file():
            raise ModelError("it is no regular file; name the .onnx file itself")
        return model.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ModelError(f"it cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _as_written(model: pathlib.Path, healed: bytes) -> bool | None:
    """Return whether the healed file is the one that the sidecar beside it names; None without such a sidecar."""
    from resq_deploy.deployed.sidecar import sidecar_of

    try:
        named = read_json(sidecar_of(model))["model"]["sha256"]
    except (RunFolderError, KeyError, TypeError):  # none, or some other JSON file
        return None
    return bool(named == hashlib.sha256(healed).hexdigest())
