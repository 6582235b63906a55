"""Failures in time of what codes and votes protect, where the storage is scrubbed every so many hours, or never."""

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import onnx

from resq_deploy.codes.code import WORDS
from resq_deploy.deployed.coded import coded_weights
from resq_deploy.deployed.votes import find_votes
from resq_deploy.faults.accumulation import HOURS, vote_fails, word_fails

VOTES = "votes"
_MBIT = 1e6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Units:
    """What fails as one: words of a code, or values that are stored three times.

    Attributes:
        protection: name of the code, or `VOTES`.
        count: how many there are.
        bits: bits of one that matter: of a word those that its code reads, of a value those of one copy.
        corrects: flips of a word that are corrected; of a value 1, the copies that may be hit.
    """

    protection: str
    count: int
    bits: int
    corrects: int

    def fit(self, rate: float, hours: float) -> float:
        """Return how many of them fail in 10^9 hours, if all are made sound every so many hours.

        Args:
            rate: flips of a bit an hour.
            hours: from one scrub to the next.
        """
        if self.protection == VOTES:
            fails = vote_fails(self.bits, rate, hours)
        else:
            fails = word_fails(self.bits, self.corrects, rate, hours)
        return self.count * fails / hours * HOURS


def units_of(model: onnx.ModelProto, tensors: Collection[str]) -> list[Units]:
    """Return what fails as one in a protected file; nothing where it has neither codes nor votes.

    Args:
        model: the file, its functions not written out.
        tensors: the stored tensors that count; words and values are taken whole.
    """
    sizes = {tensor.name: len(tensor.raw_data) for tensor in model.graph.initializer}
    return [*_words(model, sizes, tensors), *_values(model, sizes, tensors)]


def _words(model: onnx.ModelProto, sizes: dict[str, int], tensors: Collection[str]) -> Iterator[Units]:
    codes = {name: coded.code for coded in coded_weights(model) for name in coded.stored if name in tensors}
    for code in {code.name: code for code in codes.values()}.values():
        blocks = sum(sizes[name] // code.block for name, own in codes.items() if own.name == code.name)
        bits = code.block - len(code.idle)
        yield Units(protection=code.name, count=WORDS * blocks, bits=bits, corrects=code.corrects)


def _values(model: onnx.ModelProto, sizes: dict[str, int], tensors: Collection[str]) -> Iterator[Units]:
    values: Counter[int] = Counter()
    for vote in find_votes(model):
        if set(tensors).issuperset(vote.copies) and vote.copies[0] in sizes:
            values[8 * vote.dtype.itemsize] += sizes[vote.copies[0]] // vote.dtype.itemsize
    for bits, count in sorted(values.items()):
        yield Units(protection=VOTES, count=count, bits=bits, corrects=1)


def scrubbing(units: Sequence[Units], fit_per_mbit: float, hours: float, lifetime: float) -> dict[str, Any]:
    """Return failures in time by what protects, with scrubs and without, as JSON values.

    Every word with more flips than its code corrects counts as a failure, and every value of which two copies were
    hit: an upper bound, as many of them would change no answer.

    Args:
        units: what is protected.
        fit_per_mbit: raw rate of the memory, failures in 10^9 hours and 10^6 bits.
        hours: from one scrub to the next.
        lifetime: hours that a file serves.

    Returns:
        `hours`, `lifetime_hours`, `fit` (failures in 10^9 hours with scrubs), `fit_never` (without, over the lifetime),
        and the same of each of `parts`.
    """
    rate = fit_per_mbit / _MBIT / HOURS
    parts = [
        {**dataclasses.asdict(each), "fit": each.fit(rate, hours), "fit_never": each.fit(rate, lifetime)}
        for each in units
    ]
    return {
        "hours": hours,
        "lifetime_hours": lifetime,
        "fit": sum(part["fit"] for part in parts),
        "fit_never": sum(part["fit_never"] for part in parts),
        "parts": parts,
    }
