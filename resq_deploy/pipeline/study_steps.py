"""A study as steps: commands with their arguments, what they read and what they write, in an order that works."""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence

from resq_deploy.pipeline.study_format import VARIANTS, Tree, folder_name
from resq_deploy.pipeline.study_recipe import Cell, Recipe, arguments, needs_surrogate

STAGE_FILES = {"baseline": "baseline.pt", "attack": "attack.pt", "fault": "fault.pt"}
BUDGET_FILE = "budget.pt"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One command of a study. Paths are relative to the study's folder, so that it may be moved.

    Attributes:
        name: the folder or file it writes.
        command: the command's name.
        dataset: the data set it uses.
        arguments: what follows it, without data folder and output.
        reads: files of earlier steps that it reads: (option, or nothing for the argument proper; path).
        writes: files that hold its result.
        out: what is given as `--out`.
        resumable: whether the command takes `--resume`.
    """

    name: str
    command: str
    dataset: str
    arguments: tuple[str, ...]
    reads: tuple[tuple[str, str], ...]
    writes: tuple[str, ...]
    out: str
    resumable: bool

    def command_line(self, folder: pathlib.Path, data_dir: pathlib.Path | None) -> list[str]:
        """Return the arguments of `resq-deploy` that run the step."""
        line = [self.command]
        for option, path in self.reads:
            line += [option, str(folder / path)] if option else [str(folder / path)]
        line += [*self.arguments, "--out", str(folder / self.out)]
        line += ["--data-dir", str(data_dir)] if data_dir is not None else []
        return [*line, "--resume"] if self.resumable else line


def cell_folder(cell: Cell) -> str:
    """Return the folder of a cell, relative to the study's."""
    return f"{_chain_folder(cell)}/{cell.variant}"


def steps_of(recipe: Recipe, cells: Iterable[Cell], arithmetic: str = "exact") -> list[Step]:
    """Return the steps of some cells, each once, after all it needs.

    Args:
        recipe: what to do.
        cells: of it.
        arithmetic: in which int8 files are run, where the recipe does not say.
    """
    found: dict[str, Step] = {}
    for cell in cells:
        for step in _cell_steps(recipe, cell):
            found.setdefault(step.name, _in_arithmetic(step, arithmetic))
    return list(found.values())


def _in_arithmetic(step: Step, arithmetic: str) -> Step:
    if step.command == "train" or arithmetic == "exact" or "--arithmetic" in step.arguments:
        return step
    return dataclasses.replace(step, arguments=(*step.arguments, "--arithmetic", arithmetic))


def _cell_steps(recipe: Recipe, cell: Cell) -> list[Step]:
    options = recipe.options(cell)
    steps = _trainings(cell, options["train"])
    checkpoint = steps[-1].writes[0]
    folder = cell_folder(cell)
    file = f"{folder}/net.int8.onnx"
    steps.append(
        Step(
            name=file,
            command="export-int8",
            dataset=cell.dataset,
            arguments=(*_data(cell), *_own_network(cell), *arguments(options["export-int8"])),
            reads=(("", checkpoint),),
            writes=(file, f"{folder}/net.int8.json"),
            out=file,
            resumable=False,
        )
    )
    for command in ("faultcamp", "attackcamp"):
        for name, given in options[command].items():
            surrogate = (("--surrogate", checkpoint),) if command == "attackcamp" and needs_surrogate(given) else ()
            steps.append(
                Step(
                    name=f"{folder}/{command}-{name}",
                    command=command,
                    dataset=cell.dataset,
                    arguments=(*_data(cell), *(_own_network(cell) if surrogate else ()), *arguments(given)),
                    reads=(("", file), *surrogate),
                    writes=(f"{folder}/{command}-{name}/summary.json",),
                    out=f"{folder}/{command}-{name}",
                    resumable=True,
                )
            )
    return steps


def _trainings(cell: Cell, options: Tree) -> list[Step]:
    """Return the chain of trainings behind a cell; chains of one seed share what they can.

    Stages are commands of their own, but for those under a budget of clean accuracy: that is a bound on what they cost
    together, and met by weights between the baseline and the last of them.
    """
    chain = _chain_folder(cell)
    hardening = VARIANTS[cell.variant]
    together = hardening if options.get("clean-budget") is not None else ()
    links = [("baseline",), *([together] if together else [(stage,) for stage in hardening])]
    steps: list[Step] = []
    for count, stages in enumerate(links, start=1):
        behind = [stage for link in links[1:count] for stage in link]
        out = f"{chain}/train-{'+'.join(behind) or 'baseline'}"
        steps.append(
            Step(
                name=out,
                command="train",
                dataset=cell.dataset,
                arguments=(
                    "--network",
                    cell.network,
                    *_data(cell),
                    "--stages",
                    ",".join(stages),
                    *arguments(_of_stages(options, stages)),
                ),
                reads=(("--init", steps[-1].writes[0]),) if steps else (),
                writes=(
                    f"{out}/{BUDGET_FILE if stages == together else STAGE_FILES[stages[-1]]}",
                    f"{out}/summary.json",
                ),
                out=out,
                resumable=True,
            )
        )
    return steps


def _of_stages(options: Tree, stages: Sequence[str]) -> Tree:
    """Return the options without those of other stages, such as their epochs: what these are must not matter."""
    others = tuple(f"-{name}" for name in STAGE_FILES if name not in stages)
    left = {name: value for name, value in options.items() if not name.endswith(others)}
    if "baseline" in stages:
        left.pop("clean-budget", None)
    return left


def _data(cell: Cell) -> tuple[str, ...]:
    return ("--dataset", cell.dataset, "--seed", str(cell.seed))


def _own_network(cell: Cell) -> tuple[str, ...]:
    """Return what allows the checkpoint of a network of the user's own to be built: the recipe names its code."""
    return ("--network", cell.network) if ":" in cell.network else ()


def _chain_folder(cell: Cell) -> str:
    """Return the folder of all that one network, data set and seed share."""
    return f"{folder_name(cell.network)}/{folder_name(cell.dataset)}/seed-{cell.seed}"
