"""Going on with a finished campaign: its faults are kept as they are, and further ones drawn where it tells least."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from resq_deploy.campaign.options import CampaignOptions, Refinement
from resq_deploy.campaign.plan import Plan
from resq_deploy.campaign.record import Record
from resq_deploy.campaign.store import FILE, read_records
from resq_deploy.campaign.table import faults_csv
from resq_deploy.errors import OptionError, RunFolderError
from resq_deploy.faults.judges.registry import from_identity
from resq_deploy.records import read_manifest, sha256_file

_TABLE = "faults.csv"


@dataclasses.dataclass(frozen=True)
class Base:
    """A finished campaign to go on with. Nothing in its folder is changed.

    Attributes:
        path: its run folder.
        options: what decided its figures.
        sha256: digests of what it read.
        records: of all its faults, in the order of its plan.
    """

    path: pathlib.Path
    options: Mapping[str, Any]
    sha256: Mapping[str, str | None]
    records: list[Record]

    @classmethod
    def read(cls, path: pathlib.Path) -> "Base":
        """Read a campaign to go on with.

        Raises:
            RunFolderError: if the folder holds none, or none that is finished, or is damaged.
            OptionError: if its faults were not drawn in strata.
        """
        manifest = read_manifest(path)
        if manifest.get("command") != "faultcamp" or manifest.get("status") != "done":
            found = f"{manifest.get('command')}, {manifest.get('status')}"
            raise RunFolderError(
                f"--refine {path}: give the run folder of a faultcamp that is done, and not of {found}"
            )
        options = manifest["options"]
        if options.get("samples") is not None or options.get("exhaustive") or options.get("faults") in ("ber", "list"):
            raise OptionError(
                f"--refine {path}: its faults were not drawn in strata until a margin was reached: refine a campaign "
                "that was run with --margin"
            )
        return cls(path, options, manifest["sha256"], read_records(path / FILE))

    def refined(self, options: CampaignOptions) -> CampaignOptions:
        """Return the options of the campaign that goes on: what was asked there, and then `--margin` or `--samples`.

        Args:
            options: as given now, with the margin or the samples of the refinement.
        """
        before = tuple(Refinement(**step) for step in self.options.get("refines", ()))
        step = Refinement(margin=options.margin, samples=options.samples)
        return dataclasses.replace(options, margin=self.options["margin"], samples=None, refines=(*before, step))

    def check(self, identity: Mapping[str, Any], sha256: Mapping[str, str | None]) -> None:
        """Check that the campaign that goes on asks the same questions of the same file.

        Args:
            identity: what decides its figures, the refinements included.
            sha256: digests of what it reads.

        Raises:
            OptionError: naming the first thing that differs.
        """
        now = {**json.loads(json.dumps(dict(identity))), "refines": self.options.get("refines")}
        then = {**self.options, "refines": self.options.get("refines")}
        for name in sorted(now.keys() | then.keys()):
            if now.get(name) != then.get(name):
                raise OptionError(
                    f"--refine {self.path}: {name.replace('_', '-')} was {_told(then.get(name))} there and is "
                    f"{_told(now.get(name))} here: a campaign goes on as it began"
                )
        for name in _FILES:
            if sha256.get(name) != self.sha256.get(name):
                raise OptionError(f"--refine {self.path}: it was run on another {_FILES[name]} (SHA-256 differs)")

    def check_plan(self, plan: Plan) -> None:
        """Check that a plan draws the faults of this campaign first.

        Args:
            plan: the first phase of the campaign that goes on.

        Raises:
            RunFolderError: if its faults are not those of this plan.
        """
        rates = np.array([record.sdc1 for record in self.records])
        while len(plan) < len(self.records) and (more := plan.continued(rates[: len(plan)])) is not None:
            plan = more
        table = (self.path / _TABLE).read_text(encoding="utf-8")
        if len(plan) != len(self.records) or faults_csv(plan, self.records, self._figure) != table:
            raise RunFolderError(
                f"--refine {self.path}: its faults are not those that this version of resq-deploy draws: run it again"
            )

    @property
    def _figure(self) -> str:
        """The name of its judge's figure."""
        return from_identity(self.options["judge"]).figure

    @property
    def digest(self) -> str:
        """SHA-256 of its table of faults."""
        return sha256_file(self.path / _TABLE)


_FILES = {"model": "file", "data": "test set", "judge_code": "version of the judge's own code"}


def _told(value: object) -> str:
    return "not given" if value in (None, (), []) else json.dumps(value)
