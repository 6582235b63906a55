"""What an ONNX file stores, takes and gives; what protects it, and what to beware of."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resq_deploy.deployed.folding import Folding
    from resq_deploy.deployed.interface import Port
    from resq_deploy.deployed.model import DeployedModel
    from resq_deploy.protection.inspection import Protection


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Inspection:
    """What is known of a file without test data.

    Attributes:
        deployed: the file: `.surfaces`, `.left_out`, `.digest`.
        inputs: what it takes.
        outputs: what it gives.
        judge: which judge a campaign would take: `name`, `outputs` and `reason`; no name where that cannot be told.
        guards: tensors that are voted from three copies: `tensor`, `copies`, `role`, `bytes_added`.
        folding: what becomes of the votes on this machine, at each level of optimisation.
        protection: what protects the file; None where nothing does.
        notes: what a user may want to know.
        warnings: what a user should beware of.
    """

    deployed: "DeployedModel"
    inputs: "Sequence[Port]"
    outputs: "Sequence[Port]"
    judge: Mapping[str, Any]
    guards: Sequence[Mapping[str, Any]]
    folding: "Sequence[Folding]"
    protection: "Protection | None"
    notes: Sequence[str]
    warnings: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values, as `inspect --json` prints it."""
        by_tensor = self.protection.by_tensor if self.protection else {}
        return {
            "model": self.deployed.digest,
            "inputs": [port.as_dict() for port in self.inputs],
            "outputs": [port.as_dict() for port in self.outputs],
            "judge": self.judge,
            "surfaces": [
                {**each.as_dict(), "protection": by_tensor.get(each.tensor)} for each in self.deployed.surfaces
            ],
            "left_out": [left.as_dict() for left in self.deployed.left_out],
            "protection": self.protection.as_dict() if self.protection else None,
            "guards": self.guards,
            "folding": [found.as_dict() for found in self.folding],
            "notes": self.notes,
            "warnings": self.warnings,
        }


def inspection_of(deployed: "DeployedModel", providers: tuple[str, ...]) -> Inspection:
    """Look a file over; guards are tried with these providers of onnxruntime."""
    from resq_deploy.deployed.advice import notes_for, warnings_for
    from resq_deploy.deployed.deployment import Deployment
    from resq_deploy.deployed.interface import inputs_of, outputs_of
    from resq_deploy.deployed.judging import guessed
    from resq_deploy.protection.inspection import protection_of

    tried_with = Deployment(providers=providers)
    protection = protection_of(deployed.path.read_bytes(), providers)
    warnings = [*warnings_for(deployed), *(protection.warnings if protection else ())]
    found = guessed(deployed, tried_with)
    judge: dict[str, Any] = (
        {"name": None, "outputs": [], "reason": found}
        if isinstance(found, str)
        else {"name": found.judge.name, "outputs": list(found.judge.outputs), "reason": found.reason}
    )
    return Inspection(
        deployed=deployed,
        inputs=inputs_of(deployed.proto),
        outputs=outputs_of(deployed.proto),
        judge=judge,
        guards=_guards(deployed),
        folding=_folding(deployed, providers),
        protection=protection,
        notes=notes_for(deployed),
        warnings=warnings,
    )


def _guards(deployed: "DeployedModel") -> list[dict[str, Any]]:
    """Return the tensors that are voted from three copies, with role and bytes added."""
    roles = {surface.tensor: str(surface.role) for surface in deployed.surfaces}
    return [
        {
            "tensor": vote.output,
            "copies": list(vote.copies),
            "role": roles[vote.copies[0]],
            "bytes_added": vote.bytes_added,
        }
        for vote in deployed.votes()
    ]


def _folding(deployed: "DeployedModel", providers: tuple[str, ...]) -> "list[Folding]":
    """Return what becomes of the file's votes on this machine, at each level of optimisation; nothing without votes."""
    from resq_deploy.deployed.folding import foldings
    from resq_deploy.deployed.votes import find_votes

    votes = find_votes(deployed.proto)
    return foldings(deployed.proto, votes, providers) if votes else []
