"""What one fault does to answers: the ladder of outcomes, run by run."""

from collections.abc import Sequence

from resq_deploy.report.bit_error_section import MOST_SERIES, SPLIT
from resq_deploy.report.document import Block, Caption, Dots, Section, Series, Table
from resq_deploy.report.runs import LAYERS_DRAWN, Run, draws_layers, subsampled
from resq_deploy.report.task import amounts_told, judged_on, meanings, quality, quality_name, task_of
from resq_deploy.report.text import NONE, percent, side_by_side
from resq_deploy.report.wide import folded_where_wide

_MILD = ("masked", "benign")
_LAST = ("nonfinite", "corrupted", "corrected")


def outcome_section(runs: Sequence[Run]) -> Section:
    """Return the section on campaigns of faults one by one that are judged alike."""
    task, name = task_of(runs[0]), quality_name(runs[0])
    known = [(run.label, run.summary["rates"]["sdc1"]) for run in runs if run.summary["rates"]["sdc1"]]
    figures = [(label, sdc1["value"], percent(sdc1)) for label, sdc1 in known]
    title = f"SDC-1 of a fault is {side_by_side(figures)}" if figures else "No fault could be judged"
    title += "" if task.judge == "top1" or not figures else f": {task.answer}"
    blocks: list[Block] = [
        f"Share of {task.unit} runs by what a fault does to them, averaged over faults; the interval is about the "
        f"other faults of the same file, on the same {task.units}.",
        *([LAYERS_DRAWN] if any(map(draws_layers, runs)) else []),
        *(f"{run.label}: {judged_on(run)} The interval is about all of them." for run in runs if subsampled(run)),
        *(f"{run.label}: a fault makes {told}." for run in runs if (told := amounts_told(run.summary, task))),
        *_by_which_judge(runs),
        Caption(text="Open dots at the left edge: none seen."),
    ]
    rungs = [rung for rung in task.ladder if rung not in (*_MILD, *_LAST)]
    rungs += [rung for rung in _LAST if rung in task.ladder]
    for start in range(0, len(runs), MOST_SERIES):
        some = runs[start : start + MOST_SERIES]
        blocks.append(
            Dots(
                rows=rungs,
                series=[
                    Series(name=run.label, estimates=[run.summary["rates"].get(rung) for rung in rungs]) for run in some
                ],
                x_title=f"share of {task.unit} runs (%)",
                log_x=True,
                description=f"Share of {task.unit} runs by kind of silent data corruption. {title}.",
            )
        )
    names = [*task.ladder, *(SPLIT if any(run.summary.get("detection") for run in runs) else ())]
    meaning = meanings(task)
    found = [(one, meaning.get(one, NONE), [run.summary["rates"].get(one) for run in runs]) for one in names]
    found.append(("due", meaning["due"], [run.summary["due"] for run in runs]))
    if name:
        found.append((name, "under a fault", [quality(run.summary) for run in runs]))
    rows = [[one, meant, *map(percent, estimates)] for one, meant, estimates in found]
    table = Table(headers=["outcome", "meaning", *(run.label for run in runs)], rows=rows)
    blocks += folded_where_wide(table, [estimates for *_, estimates in found], "faults")
    return Section(title=title, topic="Outcomes", blocks=blocks)


def _by_which_judge(runs: Sequence[Run]) -> list[str]:
    """Say by which judge outputs were judged, and why by that."""
    known = [judge for run in runs if (judge := run.summary.get("judge"))]
    told = [f"Judged by {one['name']} on {', '.join(one['outputs'])}: {one['reason'].rstrip('.')}." for one in known]
    return list(dict.fromkeys(told))
