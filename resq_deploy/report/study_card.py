"""What a cell of a study needs to stand by itself: how it is remade, which images chose what, and its figures."""

import pathlib
from collections.abc import Mapping
from typing import Any

from resq_deploy.records import read_json
from resq_deploy.report.document import Block, Bullets, Commands, Document, Section, Table
from resq_deploy.report.study_figures import figures_of
from resq_deploy.report.text import percent

CARD = "card.md"

CHOICES = Bullets(
    items=(
        "Training images: weights, batch-norm statistics, the ranking of critical layers; a sample of them calibrates "
        "the export (activation ranges and, where asked for, percentile, bias correction and rounding).",
        "Validation images, which are held out from training: of each stage the epoch that is kept (unless the recipe "
        "asks for the last), whether stage 1 is rolled back, and, where a budget of clean accuracy is named, the share "
        "of the hardened weights.",
        "Test images: every figure here, and nothing of a file. What is drawn or told apart by test figures is said "
        "where it is: the level at which the plain baseline has lost half of its margin, and the largest gains beside "
        "the paper's. Radii, bit error rates, learning rates and epochs are the recipe's; whether its author looked at "
        "test images for them no record can tell.",
    )
)


def choices_section() -> Section:
    """Return which images chose what in a study."""
    return Section(title="Which images chose what", topic="choices", blocks=[CHOICES])


def remade_by(summary: Mapping[str, Any]) -> Commands | None:
    """Return the commands that remake each cell that is done; None where the study did not keep them."""
    lines = [cell["remade"]["by"] for cell in summary["cells"] if cell["status"] == "done" and "remade" in cell]
    return Commands(lines=lines, folded="One command remakes a cell, its card and its figures") if lines else None


def cell_card(folder: pathlib.Path, cell: Mapping[str, Any]) -> Document:
    """Return the card of a cell that is done.

    Args:
        folder: the study's run folder.
        cell: its entry in `summary.json`.

    Raises:
        RunFolderError: if a record is missing or broken.
    """
    export = next(step for step in cell["steps"].values() if step["command"] == "export-int8")
    sidecar = read_json(folder / export["wrote"][1])
    rows = [[str(metric), percent(found.as_dict()), f"{found.n:,}"] for metric, found in figures_of(folder, cell)]
    sections = [
        Section(
            title="Figures",
            blocks=[Table(headers=["figure, test images", "value", "images, chips or faults"], rows=rows)],
        )
    ]
    if "remade" in cell:
        steps = Commands(lines=cell["remade"]["steps"], folded="Which runs these, one after another")
        blocks: list[Block] = [Commands(lines=[cell["remade"]["by"]]), steps]
        sections.insert(0, Section(title="Remade by", blocks=blocks))
    return Document(
        title=f"{cell['network']} on {cell['dataset']}, {cell['variant']}, seed {cell['seed']}",
        lead=f"{_file(sidecar)} Intervals stand in brackets; of a single training they know nothing of another one.",
        sections=[*sections, choices_section()],
    )


def _file(sidecar: Mapping[str, Any]) -> str:
    model, data = sidecar.get("model", {}), sidecar.get("dataset", {})
    told = f"Static int8 ONNX file, SHA-256 {model.get('sha256')}, of {model.get('bytes', 0):,} bytes."
    return f"{told} Test images of {data.get('name')}, SHA-256 {data.get('test_sha256')}."
