"""What a protected file's codes and votes say of its stored bits, tensor by tensor, and the file with flips undone.

`check` is what finds and corrects; here it is told by the names of the weights, and the nodes that decode are tried:
tables are covered by votes at most, and nodes by nothing.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from resq_deploy.codes.code import WORDS
from resq_deploy.deployed.coded import Coded, coded_weights
from resq_deploy.deployed.runtime_errors import first_line
from resq_deploy.deployed.versions import why_refused
from resq_deploy.errors import ModelError
from resq_deploy.protection import check
from resq_deploy.protection.decoded import check_decoder, decoded_weights

VOTES = "votes"
VERDICTS = {check.SOUND: "sound", check.HEALABLE: "healable", check.DAMAGED: "damaged", check.UNUSABLE: "unreadable"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """What was found of one protected tensor.

    Attributes:
        tensor: its name.
        protection: name of its code, or `VOTES`.
        units: words that hold bits of it, or values that are voted.
        corrected: of these, how many hold flips that are corrected, or are outvoted.
        uncorrectable: of these, how many hold more flips than the code corrects, or have three different copies.
        idle_bits: bits beside its own that nothing reads, and that are set though stored as 0.
    """

    tensor: str
    protection: str
    units: int
    corrected: int
    uncorrectable: int
    idle_bits: int = 0

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not (self.corrected or self.uncorrectable or self.idle_bits)

    def as_dict(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, eq=False)
class Scrub:
    """A protected file and what its codes and votes say of it.

    Args:
        data: the file.

    Attributes:
        model: the file, parsed.
        tensors: what was found of each protected tensor, in the order of the file's nodes. A word that holds bits of
            two weights counts with both.
        totals: `words` and `values` that are protected, `corrected`, `uncorrectable`, `idle_bits`, `outvoted` and
            `undecided` of them; each counted once.
        status: one of the exit statuses of `check`.
        decoder_flaw: what is wrong with the nodes or tables that decode; empty where nothing is.
        untried: why these could not be tried with the onnxruntime that is installed; empty where they were.

    Raises:
        ModelError: if it is no ONNX file, not a protected one, or damaged where codes and votes do not reach.
    """

    data: bytes
    model: onnx.ModelProto
    tensors: tuple[Tensor, ...]
    totals: dict[str, int]
    status: int
    decoder_flaw: str
    untried: str
    _found: list[check.Found]

    @classmethod
    def of(cls, data: bytes) -> "Scrub":
        """Check a file; see the class."""
        try:
            found = check.examine(data)
        except check.CheckError as error:
            raise ModelError(str(error)) from error
        if check.verdict(found) == check.UNUSABLE:
            raise ModelError("it carries neither codes nor votes: there is nothing to check")
        model = onnx.ModelProto.FromString(data)
        coded, flaw = read_coded(model)
        untried = (coded and why_refused(data)) or ""
        by_name = {words.name: words for words in found if words.code}
        weights = [_of_weight(each, [by_name[name] for name in each.stored]) for each in coded]
        told = {name for each in coded for name in each.stored}
        others = [_of_tensor(each) for each in found if each.name not in told]
        return cls(
            data=data,
            model=model,
            tensors=(*weights, *others),
            totals=totals_of(found),
            status=check.verdict(found),
            decoder_flaw=flaw if flaw or untried else _decoder_flaw(model, coded),
            untried=untried,
            _found=found,
        )

    @property
    def verdict(self) -> str:
        """The status in a word."""
        return VERDICTS[self.status]

    @functools.cached_property
    def healed(self) -> bytes:
        """The file with everything corrected that can be; if that is everything, as it was written.

        Raises:
            ModelError: if a tensor to be corrected is not stored as raw bytes.
        """
        try:
            return check.heal(self.data, self._found)
        except check.CheckError as error:
            raise ModelError(str(error)) from error


def read_coded(model: onnx.ModelProto) -> tuple[tuple[Coded, ...], str]:
    """Return what a file stores under a code; none, and why, where its nodes are too damaged to tell.

    Raises:
        ModelError: if the file has a code that is not known here.
    """
    try:
        return coded_weights(model), ""
    except ModelError:
        raise
    except Exception as error:  # of damaged nodes anything can come, from onnx's own evaluation of shapes as well
        return (
            (),
            f"what decodes its weights cannot be read ({first_line(error)}): nodes are damaged, take the file anew",
        )


def _decoder_flaw(model: onnx.ModelProto, coded: Sequence[Coded]) -> str:
    """Return what is wrong with what decodes, in one line; empty where onnxruntime decodes as the code says."""
    try:
        decoded_weights(model, coded)
        check_decoder(model, coded)
    except ModelError as error:
        return str(error)
    return ""


def _of_tensor(found: check.Found) -> Tensor:
    """Return what was found of three copies, or of words of which nobody can tell whose they are."""
    return Tensor(
        tensor=found.name,
        protection=found.code.name if found.code else VOTES,
        units=found.status.size,
        **_tally(found.status),
        idle_bits=int(found.idle.sum()),
    )


def _of_weight(coded: Coded, found: list[check.Found]) -> Tensor:
    """Return what was found of a weight, given the tensors that store it and others."""
    first, last = coded.start // coded.code.block, -(-(coded.start + coded.count) // coded.code.block)
    status = np.concatenate([words.status for words in found])[first:last]
    idle = np.concatenate([words.idle for words in found])[first:last]
    return Tensor(
        tensor=coded.weight,
        protection=coded.code.name,
        units=WORDS * (last - first),
        **_tally(status),
        idle_bits=int(idle.sum()),
    )


def _tally(status: NDArray[np.uint8]) -> dict[str, int]:
    return {
        "corrected": int((status == check.CORRECTED).sum()),
        "uncorrectable": int((status == check.UNCORRECTABLE).sum()),
    }


def totals_of(found: Sequence[check.Found]) -> dict[str, int]:
    """Return how much is protected and what was found of it, as `Scrub.totals`."""
    totals = dict.fromkeys(("words", "corrected", "uncorrectable", "idle_bits", "values", "outvoted", "undecided"), 0)
    for each in found:
        tally = _tally(each.status)
        names = ("words", "corrected", "uncorrectable") if each.code else ("values", "outvoted", "undecided")
        for name, count in zip(names, (each.status.size, tally["corrected"], tally["uncorrectable"]), strict=True):
            totals[name] += count
        totals["idle_bits"] += int(each.idle.sum())
    return totals
