#!/usr/bin/env python3
r"""Draw figures 2 and 3 of RESQ (arXiv 2603.15413) from run folders or a study, of any network, as SVG and PNG.

Figure 2: the ten layers with the largest moving averages of gradient norms, and what injection on the deployed files
says of the same layers. Figure 3: clean accuracy, accuracy under faults and accuracy under attack, stage by stage. Both
are the plots that `report` shows: a ranking needs a training run, its injection a fault campaign of single faults on a
file of it, and a stage's file the campaigns on it. Of a study they are those of its page, network by network.

Examples:
  python tools/paper_figures.py run faults chips attacks --out figures
  python tools/paper_figures.py paper --out figures
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from command_line import with_one_line_errors

from resq_deploy.errors import OptionError
from resq_deploy.records import read_manifest
from resq_deploy.report.document import Dots, Section
from resq_deploy.report.figures import draw
from resq_deploy.report.runs import load_runs
from resq_deploy.report.study import study_document
from resq_deploy.report.study_cells import read_layered
from resq_deploy.report.study_figures import read_study
from resq_deploy.report.train_sections import train_sections

FIGURES = {"Critical layers": "figure-2", "Stage by stage": "figure-3"}
"""Of a report's section, by its topic: what the paper calls its plot."""

_DOTS_PER_INCH = 200


@with_one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figures of the runs given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=pathlib.Path, help="run folders, folders that hold them, or a study")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write to")
    given = parser.parse_args(argv)
    sections = [section for section in _sections(given.runs) if section.topic in FIGURES]
    if not sections:
        raise OptionError("none of the runs is a training: give the run folder of train, and those of campaigns")
    given.out.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, int] = {}
    for section in sections:
        name = FIGURES[section.topic]
        for plot in section.blocks:
            if isinstance(plot, Dots):
                drawn[name] = drawn.get(name, 0) + 1
                stem = name if drawn[name] == 1 else f"{name}-{drawn[name]}"
                figure = draw(plot)
                for ending in ("svg", "png"):
                    figure.savefig(given.out / f"{stem}.{ending}", dpi=_DOTS_PER_INCH, bbox_inches="tight")
                print(f"{given.out / stem}.svg, .png: {section.title}")
    return 0


def _sections(paths: Sequence[pathlib.Path]) -> Sequence[Section]:
    """Return the sections of a study's page, or of the report on run folders."""
    if len(paths) == 1 and read_manifest(paths[0]).get("command") == "study":
        summary, corners = read_study(paths[0])
        return study_document(summary, corners, read_layered(paths[0], summary)).sections
    return train_sections(load_runs(paths))


if __name__ == "__main__":
    sys.exit(main())
