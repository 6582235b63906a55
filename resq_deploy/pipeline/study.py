"""A study: the chains of train, export, campaigns and attacks over a grid, each step a command of its own.

Steps run as processes, so that one that dies takes nothing with it and a killed study goes on where it was: each
command resumes its own run folder. What is done is told by digests: of the arguments, of what was read, of what was
written.
"""

import dataclasses
import difflib
import fnmatch
import functools
import hashlib
import pathlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from resq_deploy.data import load_dataset
from resq_deploy.errors import FailedError, OptionError
from resq_deploy.pipeline.study_jobs import LOGS, Children, core_shares, execute, in_parallel
from resq_deploy.pipeline.study_layers import keep_layers
from resq_deploy.pipeline.study_ledger import Ledger
from resq_deploy.pipeline.study_recipe import Recipe
from resq_deploy.pipeline.study_steps import Step, cell_folder, steps_of
from resq_deploy.records import RunFolder, write_json

SCHEMA = 1
REMADE = "remade"
"""The folder that printed commands write to: not the study's own, where they would find that all is done."""

_NAMED = 4  # cells named where none matches

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """How a study is run.

    Attributes:
        data_dir: where named data sets lie.
        cells: patterns for `NETWORK/DATASET/seed-S/VARIANT`; a cell that matches none is not run.
        jobs: how many steps run at once, each on its share of the cores.
        arithmetic: in which int8 files are run.
    """

    data_dir: pathlib.Path | None = None
    cells: tuple[str, ...] = ("*",)
    jobs: int = 1
    arithmetic: str = "exact"


class Study:
    """A study about to be run.

    Args:
        recipe: what to do.
        options: how.

    Attributes:
        recipe: what to do.
        chosen: the cells to run.
        steps: what they need, in order.

    Raises:
        OptionError: if no cell is left, or there are more jobs than cores.
    """

    def __init__(self, recipe: Recipe, options: StudyOptions) -> None:
        core_shares(options.jobs)
        self.recipe = recipe
        self._options = options
        folders = {cell: cell_folder(cell) for cell in recipe.cells()}
        for pattern in options.cells:
            if not fnmatch.filter(folders.values(), pattern):
                raise OptionError(f"no cell matches {pattern}: the recipe has {_some(pattern, list(folders.values()))}")
        self.chosen = [
            cell
            for cell, folder in folders.items()
            if any(fnmatch.fnmatchcase(folder, pattern) for pattern in options.cells)
        ]
        self.steps = steps_of(recipe, self.chosen, options.arithmetic)

    def run(self, out: pathlib.Path, *, resume: bool = False, report: Report = lambda _: None) -> dict[str, Any]:
        """Run what is not done, and return the study's summary.

        A step that fails stops what needs it and nothing else.

        Args:
            out: run folder; gets a folder for every network, data set and seed, logs, summary.json, manifest.json.
            resume: go on with the study in `out`.
            report: takes a line on every step.

        Raises:
            DataError: if a data set cannot be read.
            RunFolderError: if the folder cannot be used.
            FailedError: after all that can be run, if a step failed.
        """
        data = self._data_digests()
        with RunFolder.open(
            out,
            command="study",
            options=self._identity(),
            settings={"title": self.recipe.title, "cells": list(self._options.cells)},
            resume=resume,
        ) as folder:
            ledger = Ledger(folder.path, data)
            failed = self._run_steps(folder.path, ledger, report)
            for step in steps_of(self.recipe, self.recipe.cells(), self._options.arithmetic):
                if step.command == "export-int8" and ledger.has(step):
                    keep_layers(folder.path / step.writes[0])
            summary = self._summary(ledger, failed)
            write_json(folder.path / "summary.json", summary)
            if failed:
                name, why = next(iter(failed.items()))
                more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
                raise FailedError(f"{name} failed ({why}){more}: mend it and --resume; logs are in {out / LOGS}")
        return summary

    def _identity(self) -> dict[str, Any]:
        """Return what decides the figures; which cells are run does not, nor does the title."""
        recipe = self.recipe
        return {
            "profile": recipe.profile,
            "networks": list(recipe.networks),
            "datasets": list(recipe.datasets),
            "variants": list(recipe.variants),
            "seeds": list(recipe.seeds),
            "arithmetic": self._options.arithmetic,
        }

    def _data_digests(self) -> dict[str, str]:
        """Return a digest of each data set that is used."""
        digests = {}
        for name in dict.fromkeys(cell.dataset for cell in self.chosen):
            dataset = load_dataset(name, self._options.data_dir)
            splits = [dataset.digest("train"), dataset.digest("test")]
            digests[name] = hashlib.sha256("".join(splits).encode()).hexdigest()
        return digests

    def _run_steps(self, folder: pathlib.Path, ledger: "Ledger", report: Report) -> dict[str, str]:
        """Run the steps that are not done; return what failed, and why."""
        failed: dict[str, str] = {}
        missing: set[str] = set()
        places = {step.name: f"[{number}/{len(self.steps)}] {step.name}" for number, step in enumerate(self.steps, 1)}

        def start(step: Step) -> bool:
            if any(path in missing for _, path in step.reads):
                missing.update(step.writes)
                report(f"{places[step.name]}: left out, since what it needs failed")
            elif ledger.has(step):
                report(f"{places[step.name]}: done before")
            else:
                report(f"{places[step.name]}: {step.command}")
                return True
            return False

        jobs = self._options.jobs
        with Children() as children:
            run = functools.partial(
                execute, folder=folder, data_dir=self._options.data_dir, children=children, alone=jobs == 1
            )
            for step, why, seconds in in_parallel(self.steps, jobs, start, run):
                if why is None:
                    ledger.add(step, seconds)
                    report(f"{places[step.name]}: done in {seconds:,.0f} s")
                else:
                    if step.resumable and (folder / step.out).exists():
                        why += f"; to run this step anew, remove {folder / step.out}"
                    failed[step.name] = why
                    missing.update(step.writes)
                    report(f"{places[step.name]}: FAILED, {why}")
        return failed

    def _remade_by(self, folder: str) -> str:
        """Return the one command that makes a cell, and all behind it, anew."""
        recipe, options = self.recipe, self._options
        words = ["resq-deploy", "study", recipe.source, *(["--profile", recipe.profile] if recipe.profile else [])]
        words += ["--cells", folder, *(["--data-dir", str(options.data_dir)] if options.data_dir else [])]
        words += ["--arithmetic", options.arithmetic] if options.arithmetic != "exact" else []
        return shlex.join([*words, "--out", REMADE])

    def _summary(self, ledger: "Ledger", failed: Mapping[str, str]) -> dict[str, Any]:
        """Return what was run of every cell, and where its records lie."""
        cells = []
        for cell in self.recipe.cells():
            steps = steps_of(self.recipe, [cell], self._options.arithmetic)
            done = {step.name: {"command": step.command, **ledger.entry(step)} for step in steps if ledger.has(step)}
            broken = [step.name for step in steps if step.name in failed]
            status = "done" if len(done) == len(steps) else "failed" if broken else "not run"
            remade = pathlib.Path(REMADE)
            lines = [shlex.join(["resq-deploy", *step.command_line(remade, self._options.data_dir)]) for step in steps]
            cells.append(
                {
                    "network": cell.network,
                    "dataset": cell.dataset,
                    "variant": cell.variant,
                    "seed": cell.seed,
                    "folder": cell_folder(cell),
                    "status": status,
                    "steps": done,
                    "remade": {"by": self._remade_by(cell_folder(cell)), "steps": lines},
                }
            )
        return {
            "schema": SCHEMA,
            "title": self.recipe.title,
            **self._identity(),
            "cells": cells,
            "failed": dict(failed),
        }


def _some(pattern: str, cells: Sequence[str]) -> str:
    """Return the cells that come nearest to a pattern, in their order, and how many more there are."""
    near = sorted(difflib.get_close_matches(pattern, cells, n=_NAMED, cutoff=0.0), key=cells.index)
    more = f" and {len(cells) - len(near):,} more" if len(cells) > len(near) else ""
    return ", ".join(near) + more


def command_lines(study: Study, out: pathlib.Path, data_dir: pathlib.Path | None) -> list[str]:
    """Return the commands of a study, as one would type them."""
    return [shlex.join(["resq-deploy", *step.command_line(out, data_dir)]) for step in study.steps]
