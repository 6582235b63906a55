"""What protects a file, tensor by tensor, for whoever looks at it: codes and votes, what they cost, what they find."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from resq_deploy.codes.code import WORDS
from resq_deploy.deployed.coded import HEALTH, Coded
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.folding import LEVELS
from resq_deploy.deployed.nesting import graphs
from resq_deploy.deployed.runtime_errors import first_line
from resq_deploy.deployed.runtime_graph import optimise
from resq_deploy.deployed.versions import LEAST_ONNXRUNTIME, metadata
from resq_deploy.errors import ModelError
from resq_deploy.protection import check
from resq_deploy.protection.bake import plain_model
from resq_deploy.protection.scrub import VERDICTS, VOTES, read_coded, totals_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protection:
    """What protects a file.

    Attributes:
        by_tensor: for each stored tensor that is protected, the name of its code, or `VOTES`.
        codes: each code with its parameters, and what is stored under it.
        bytes_added: what the file is longer by than the plain one; None where that cannot be made.
        least_onnxruntime: the earliest version that runs the file, as the file says; None where it does not.
        health: whether the file has an output that tells its own health.
        folding: for each level of optimisation, whether onnxruntime decodes when it creates a session; None, with the
            reason, where that cannot be seen.
        totals: what codes and votes find flipped in it, as `Scrub.totals`.
        status: one of the exit statuses of `check`.
        reason: why codes and votes could not be read; empty where they could.
    """

    by_tensor: Mapping[str, str]
    codes: Sequence[Mapping[str, Any]] = ()
    bytes_added: int | None = None
    least_onnxruntime: str | None = None
    health: bool = False
    folding: Sequence[Mapping[str, Any]] = ()
    totals: Mapping[str, int] = dataclasses.field(default_factory=dict)
    status: int = check.UNUSABLE
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it as the JSON object of `inspect --json`."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del values["by_tensor"], values["status"]
        return {**values, "verdict": VERDICTS[self.status], "reason": self.reason or None}

    @property
    def warnings(self) -> list[str]:
        """What one should know before one relies on it."""
        if self.reason:
            return [f"its codes and votes cannot be read: {self.reason}"]
        found = self.totals
        if self.status == check.DAMAGED:
            return [
                f"DAMAGED: {found['uncorrectable']:,} code words hold more flips than their code corrects, and of "
                f"{found['undecided']:,} voted values all copies differ: take the file anew"
            ]
        if self.status == check.HEALABLE:
            return [
                f"flipped bits: {found['corrected']:,} code words, {found['outvoted']:,} voted values and "
                f"{found['idle_bits']:,} idle bits are not as they were written; all of them are corrected on loading: "
                "heal the file with `resq-deploy scrub FILE --repair FILE`"
            ]
        return []


def protection_of(data: bytes, providers: tuple[str, ...]) -> Protection | None:
    """Return what protects a file; None where nothing does.

    Args:
        data: the file.
        providers: onnxruntime's execution providers that folding is tried with.
    """
    model = onnx.ModelProto.FromString(data)
    try:
        found = check.examine(data)
        coded, reason = read_coded(model)
    except (check.CheckError, ModelError) as error:
        return Protection(by_tensor={}, reason=str(error))
    if not found:
        return None
    if reason:
        return Protection(by_tensor={}, reason=reason)
    try:
        added = len(data) - plain_model(model).ByteSize()
    except ModelError:
        added = None
    return Protection(
        by_tensor={name: each.code.name if each.code else VOTES for each in found for name in each.stored},
        codes=_codes(coded),
        bytes_added=added,
        least_onnxruntime=metadata(model).get(LEAST_ONNXRUNTIME),
        health=any(value.name == HEALTH for value in model.graph.output),
        folding=[_folding(data, coded, providers, level) for level in LEVELS] if coded else [],
        totals=totals_of(found),
        status=check.verdict(found),
    )


def _codes(coded: Sequence[Coded]) -> list[dict[str, Any]]:
    """Return each code with its parameters, and how much is stored under it."""
    found = []
    for code in {each.code.name: each.code for each in coded}.values():
        own = [each for each in coded if each.code.name == code.name]
        found.append(
            {
                "name": code.name,
                "weight_bits": code.weight_bits,
                "word_bits": code.block - len(code.idle),
                "check_bits": code.check_bits,
                "corrects": code.corrects,
                "detects": code.corrects + 1,
                "block_bytes": code.block,
                "words_of_a_block": WORDS,
                "weights": len(own),
                "values": sum(each.count for each in own),
            }
        )
    return found


def _folding(data: bytes, coded: Sequence[Coded], providers: tuple[str, ...], level: str) -> dict[str, Any]:
    """Return whether code words are still read at each inference, at a level of optimisation."""
    try:
        optimised = optimise(data, Deployment(providers=providers, optimization=level))
    except ModelError as error:
        return {"optimization": level, "folded": None, "reason": first_line(error)}
    read = {name for part in graphs(optimised.graph) for node in part.node for name in node.input}
    return {"optimization": level, "folded": read.isdisjoint(name for each in coded for name in each.stored)}
