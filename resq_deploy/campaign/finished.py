"""A finished campaign read again: its options, its plan and its golden run made anew, beside the records it kept."""

import dataclasses
import enum
import json
import pathlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resq_deploy.campaign.effort import Effort
from resq_deploy.campaign.golden import Golden, golden_of
from resq_deploy.campaign.option_text import parse_direction, parse_true_cells
from resq_deploy.campaign.options import ADJACENT, FOLDED, INTERLEAVED, CampaignOptions, FaultModel, Refinement
from resq_deploy.campaign.plan import Plan, make_plan
from resq_deploy.campaign.record import Record
from resq_deploy.campaign.store import FILE, read_records
from resq_deploy.campaign.table import faults_csv
from resq_deploy.data.preprocessing import AS_IS, Preprocessing
from resq_deploy.data.samples import Data, as_samples
from resq_deploy.deployed.arithmetic import Arithmetic
from resq_deploy.deployed.binding import bound
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.judging import Chosen
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import OptionError, RunFolderError
from resq_deploy.faults.judges.registry import from_identity
from resq_deploy.faults.outcomes import Outcome
from resq_deploy.faults.upsets import Pattern
from resq_deploy.records import read_json, read_manifest

_TABLE = "faults.csv"
_BESIDE = frozenset({"dataset", "onnxruntime", "judge", "outputs", "digest"})
"""What a manifest's options hold that is none of `CampaignOptions`, or that the judge says."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished campaign. Nothing in its folder is changed.

    Attributes:
        path: its run folder.
        options: what it was asked to do, as far as that decided its figures.
        judge: what told its judge, as its manifest has it.
        sha256: digests of what it read.
        images: how many samples its fault-free file was run on.
        records: of all its faults, in the order of its plan.
    """

    path: pathlib.Path
    options: CampaignOptions
    judge: Mapping[str, Any]
    sha256: Mapping[str, str | None]
    images: int
    records: Sequence[Record]

    @classmethod
    def read(cls, path: pathlib.Path) -> "Finished":
        """Read a campaign.

        Raises:
            RunFolderError: if the folder holds none, none that is finished, or a damaged one.
        """
        manifest = read_manifest(path)
        if manifest.get("command") != "faultcamp" or manifest.get("status") != "done":
            found = f"{manifest.get('command')}, {manifest.get('status')}"
            raise RunFolderError(f"{path}: give the run folder of a faultcamp that is done, and not of {found}")
        try:
            options = _options(manifest["options"], path)
            judge = manifest["options"]["judge"]
            images = int(read_json(path / "summary.json")["golden"]["images"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunFolderError(
                f"{path} tells of options or figures that this resq-deploy does not read "
                f"({type(error).__name__}: {error}): run the campaign anew"
            ) from error
        return cls(
            path=path,
            options=options,
            judge=judge,
            sha256=manifest["sha256"],
            images=images,
            records=read_records(path / FILE),
        )

    @property
    def some_images(self) -> bool:
        """Whether faults were judged on a part of the samples each."""
        return any(record.images < self.images for record in self.records if record.outcome is not Outcome.DUE)

    def check_model(self, model: DeployedModel) -> None:
        """Check that a file is the one of the campaign.

        Raises:
            OptionError: if it is another.
        """
        if self.sha256.get("model") != model.digest:
            raise OptionError(f"{self.path}: that campaign was run on another file (SHA-256 differs)")

    def check_data(self, data: Data) -> None:
        """Check that samples are those of the campaign.

        Raises:
            OptionError: if they are others.
        """
        if self.sha256.get("data") != as_samples(data).digest:
            raise OptionError(f"{self.path}: that campaign was run on other data (SHA-256 differs)")

    def golden(self, model: DeployedModel, data: Data) -> Golden:
        """Run the fault-free file once more, over the campaign's samples.

        Raises:
            InputError: if it cannot be run.
        """
        samples = as_samples(data).evaluation(self.options.images)
        session = Session(model.patcher().golden, self.options.deployment)
        names = [*(output.name for output in session.outputs), *session.others]
        inputs = bound(samples, session.inputs, names)
        chosen = Chosen(from_identity(self.judge), "as in the campaign")
        part = make_plan(model.surfaces, self.options).part_size
        return golden_of(session, inputs, samples.labels, chosen, part, self.options.deployment)

    def plan(self, model: DeployedModel, golden: Golden) -> Plan:
        """Draw the campaign's faults once more.

        Raises:
            RunFolderError: if they are not those of its table.
        """
        plan = make_plan(model.surfaces, self.options)
        counted = None
        if plan.sizes_shares:
            counted = Effort.count(model.patcher().golden, self.options.deployment, golden.inputs)
        plan = plan.judged_on(golden.parts, counted)
        rates = np.array([record.sdc1 for record in self.records])
        while len(plan) < len(self.records) and (more := plan.continued(rates[: len(plan)])) is not None:
            plan = more
        table = (self.path / _TABLE).read_text(encoding="utf-8")
        if len(plan) != len(self.records) or faults_csv(plan, self.records, golden.judge.figure) != table:
            raise RunFolderError(
                f"{self.path}: its faults are not those that this version of resq-deploy draws: run it again"
            )
        return plan


def _options(kept: Mapping[str, Any], path: pathlib.Path) -> CampaignOptions:
    """Return the options that a manifest tells of; the faults of a list are those of the campaign's own table."""
    kinds = typing.get_type_hints(CampaignOptions)
    values = {name: _value(kinds[name], value) for name, value in kept.items() if name not in _BESIDE}
    values["deployment"] = _deployment(kept["deployment"])
    values["roles"] = tuple(Role(role) for role in kept["roles"])
    values["refines"] = tuple(Refinement(**step) for step in kept.get("refines", ()))
    if values["faults"] is FaultModel.LIST:
        values["fault_list"] = path / _TABLE
    if values["faults"] is FaultModel.CLUSTER:
        values["cluster_shares"] = tuple(Pattern(*pattern) for pattern in kept["cluster_shares"])
    for name, read in (("flip_direction", parse_direction), ("true_cells", parse_true_cells)):
        if name in kept:
            values[name] = read(kept[name])
    layout = values.get("memory_layout", ADJACENT)
    if layout != ADJACENT and not layout.startswith((INTERLEAVED, FOLDED)):
        raise OptionError(
            f"{path}: its memory layout was a table, of which only the digest is kept: run its faults.csv by "
            "--fault-list, and give that run"
        )
    return CampaignOptions(**values)


def _value(kind: Any, value: Any) -> Any:
    """Return a value of JSON as a field of some type has it."""
    if isinstance(value, list):
        return tuple(value)
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    found = next((one for one in kinds if isinstance(one, enum.EnumMeta)), None)
    return value if found is None or value is None else found(value)


def _deployment(kept: Mapping[str, Any]) -> Deployment:
    """Return how a file was run.

    Raises:
        OptionError: if that was in this arithmetic on another kind of CPU.
    """
    given = json.loads(json.dumps(kept))
    saturated = given.pop("cpu_saturates", None)
    given["providers"] = tuple(given["providers"])
    given["arithmetic"] = Arithmetic(given["arithmetic"])
    given["preprocessing"] = Preprocessing.from_dict(given["preprocessing"]) if "preprocessing" in given else AS_IS
    found = Deployment(**given)
    if saturated is not None and saturated != found.saturates:
        here, there = ("saturates", "does not") if found.saturates else ("does not saturate", "does")
        raise OptionError(
            f"the campaign was run with --arithmetic native on a CPU that {there}, and this one {here}: what the file "
            "answers here is not what was judged there"
        )
    return found
