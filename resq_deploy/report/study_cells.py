"""What the cells of a study say of layers: training's rankings, what injection found, the scales of their files."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from resq_deploy.records import read_json
from resq_deploy.report.layer_harm import CRITICALITY, Injection, Ranking, injection, read_rankings
from resq_deploy.report.runs import check_schema, load_run

_LAYERS = "layers.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layered:
    """The layers of one cell that is done.

    Attributes:
        network: the network.
        dataset: the data set.
        variant: the stages.
        seed: of training.
        rankings: of the trainings behind it, by `before` and `after` stage 1.
        injection: of the campaign that tells most of its layers; None where none was run.
        layers: of its file: `weights`, `weight`, `relative`, `read` (see `quantization.scales`); empty where not kept.
    """

    network: str
    dataset: str
    variant: str
    seed: int
    rankings: Mapping[str, Ranking]
    injection: Injection | None
    layers: Mapping[str, Mapping[str, Any]]


def read_layered(folder: pathlib.Path, summary: Mapping[str, Any]) -> list[Layered]:
    """Read what the cells of a study say of layers.

    Args:
        folder: the study's run folder.
        summary: its `summary.json`.

    Raises:
        RunFolderError: if a record is broken.
    """
    return [_layered(folder, cell) for cell in summary["cells"] if cell["status"] == "done"]


def _layered(folder: pathlib.Path, cell: Mapping[str, Any]) -> Layered:
    rankings: dict[str, Ranking] = {}
    for training in _folders(folder, cell, "train"):
        if (training / CRITICALITY).is_file():
            rankings = read_rankings(training / CRITICALITY) | rankings  # the first that measured it
    return Layered(
        network=cell["network"],
        dataset=cell["dataset"],
        variant=cell["variant"],
        seed=cell["seed"],
        rankings=rankings,
        injection=_injection(folder, cell),
        layers=_kept(folder, cell),
    )


def _folders(folder: pathlib.Path, cell: Mapping[str, Any], command: str) -> Iterator[pathlib.Path]:
    """Yield the run folders of a cell's steps of one command; a summary lies in each."""
    for step in cell["steps"].values():
        if step["command"] == command:
            yield folder / pathlib.Path(step["wrote"][-1]).parent


def _injection(folder: pathlib.Path, cell: Mapping[str, Any]) -> Injection | None:
    """Return what was found one fault at a time, by the campaign whose least tried layer has most faults."""
    found = []
    for path in _folders(folder, cell, "faultcamp"):
        run = load_run(path, cell["variant"])
        if "curve" not in run.summary and run.summary["fault_model"] == "single":
            found.append(injection(run, cell["variant"]))
    return max((one for one in found if one.sdc1), key=_tried, default=None)


def _tried(one: Injection) -> tuple[int, int]:
    """Return how many layers a campaign knows, and how many faults the least tried of them has."""
    return len(one.sdc1), min(found["n"] for found in one.sdc1.values())


def _kept(folder: pathlib.Path, cell: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    path = next((file / _LAYERS for file in _folders(folder, cell, "export-int8")), None)
    if path is None or not path.is_file():
        return {}
    value = read_json(path)
    check_schema(value, "layers", path)
    layers: Mapping[str, Mapping[str, Any]] = value["layers"]
    return layers


def of_pair(cells: Sequence[Layered], pair: tuple[str, str]) -> dict[tuple[str, int], Layered]:
    """Return the cells of one network and data set, by variant and seed."""
    return {(cell.variant, cell.seed): cell for cell in cells if (cell.network, cell.dataset) == pair}
