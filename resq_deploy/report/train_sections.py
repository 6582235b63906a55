"""What hardening did, stage by stage from the float network to the deployed file."""

from collections.abc import Mapping, Sequence
from typing import Any

from resq_deploy.faults.statistics import as_estimate, difference
from resq_deploy.report.attack_sections import radius
from resq_deploy.report.critical_section import critical_section, has_ranking
from resq_deploy.report.document import Block, Dots, JsonEstimate, Section, Series, Table
from resq_deploy.report.fault_sections import with_curve, without_curve
from resq_deploy.report.lineage import STAGES, Step, lines
from resq_deploy.report.price_section import price_section
from resq_deploy.report.runs import Run, draws_layers, of_command
from resq_deploy.report.task import clean, quality
from resq_deploy.report.text import NONE, percent, points, rate, share, short

_TITLES = {"baseline": "0 baseline", "attack": "1 attack", "fault": "2 fault", "budget": "within the budget"}


def train_sections(runs: Sequence[Run]) -> list[Section]:
    """Return the sections about training runs, and about what became of their checkpoints.

    Raises:
        RunFolderError: if a ranking of layers or a table of faults is broken.
    """
    sections = [_stages(line) for line in lines(runs)]
    trainings = of_command(runs, "train")
    sections += [section for train in trainings if (section := price_section(train))]
    return sections + [critical_section(train, runs) for train in trainings if has_ranking(train)]


def _stages(line: Sequence[Step]) -> Section:
    first, last = line[0], line[-1]
    attack = last.train.summary["attack"]
    radius = f"{255 * attack['epsilon']:g}/255"
    rows = [row for step in line for row in _rows(step, line)]
    blocks: list[Block] = [
        f"{last.train.summary['network']} on {last.train.summary['dataset']}. Float networks are attacked by PGD with "
        f"{attack['steps']} steps at {radius} and full knowledge; stage 3 is the deployed int8 file, under the attacks "
        "and faults of its own runs. A file belongs to a stage where a run names the SHA-256 of its checkpoint.",
        _effect(rows),
        Table(
            headers=["stage", "file", "clean", "under faults", "faults", "under attack", "attack"],
            rows=[_told(row) for row in rows],
        ),
    ]
    if not any(step.campaigns for step in line):
        blocks.append("No run given is known to be on a file of these checkpoints, so that stage 3 is not shown.")
    return Section(title=_finding(first, last), topic="Stage by stage", blocks=blocks)


def _finding(first: Step, last: Step) -> str:
    """Say what the stages gained and cost on the float network."""
    a, b = (step.train.summary["stages"][step.stage]["test"] for step in (first, last))
    if first is last:
        return f"{last.train.label}: {share(b['clean']['value'])} clean, {share(b['robust']['value'])} under attack"
    clean, robust = (_change(a[key], b[key]) for key in ("clean", "robust"))
    return (
        f"{last.train.label}: from {first.stage} to {last.stage}, accuracy under attack changes by {robust} points and "
        f"clean accuracy by {clean}"
    )


def _change(first: JsonEstimate, second: JsonEstimate) -> str:
    """Write a difference of two accuracies, in points; its interval takes their images for independent."""
    if first["confidence"] != second["confidence"]:
        return f"{100 * (second['value'] - first['value']):+.1f}"
    return points(difference(as_estimate(first), as_estimate(second)).as_dict())


def _rows(step: Step, line: Sequence[Step]) -> list[dict[str, Any]]:
    """Return the figures of a stage's float network, and of each deployed file made from it."""
    test = step.train.summary["stages"][step.stage]["test"]
    title = _TITLES[step.stage]
    found: list[dict[str, Any]] = [
        {
            "name": f"{title}, float",
            "clean": test["clean"],
            "attack": test["robust"],
            "attack_what": "PGD, float network",
        }
    ]
    for number, file in enumerate(step.files, start=1):
        campaigns = [run for run in step.campaigns if run.model == file]
        name = f"{title}, int8" if len(step.files) == 1 else f"{title}, int8 ({number})"
        row: dict[str, Any] = {"name": name, "file": campaigns[0].file, "clean": _clean(campaigns)}
        row |= _under_faults(campaigns, line) | _under_attack(campaigns, line)
        found.append(row)
    return found


def _clean(campaigns: Sequence[Run]) -> JsonEstimate | None:
    """Return the clean accuracy on most images; None where no campaign had labels."""
    known = [clean(run) if run.command == "faultcamp" else run.summary["clean"] for run in campaigns]
    best: JsonEstimate | None = max(filter(None, known), key=lambda estimate: estimate["n"], default=None)
    return best


def _under_faults(campaigns: Sequence[Run], line: Sequence[Step]) -> dict[str, Any]:
    """Return accuracy at the highest bit error rate that all curves of the line have; else under single faults."""
    everywhere = [run for step in line for run in with_curve(of_command(step.campaigns, "faultcamp"))]
    everywhere = [run for run in everywhere if not draws_layers(run)] or everywhere  # rates of the two are unlike
    curves = [run for run in with_curve(of_command(campaigns, "faultcamp")) if run in everywhere]
    if curves:
        common = set.intersection(*({point["ber"] for point in run.summary["curve"]} for run in everywhere))
        points = curves[0].summary["curve"]
        point = next((p for p in reversed(points) if p["ber"] in common), points[-1])
        what = f"bit errors at {rate(point['ber'])}{_drawing(curves[0])}"
        return {"faults": quality(point), "faults_what": what}
    singles = sorted(without_curve(of_command(campaigns, "faultcamp")), key=draws_layers)
    if singles:
        what = f"{singles[0].summary['fault_model']}{_drawing(singles[0])}"
        return {"faults": quality(singles[0].summary), "faults_what": what}
    return {}


def _drawing(run: Run) -> str:
    return ", layers drawn evenly" if draws_layers(run) else ""


def _under_attack(campaigns: Sequence[Run], line: Sequence[Step]) -> dict[str, Any]:
    """Return the worst case at the largest radius that all attack campaigns of the line have."""
    attacks = [run for run in of_command(campaigns, "attackcamp") if run.summary["worst_case"]]
    if not attacks:
        return {}
    everywhere = [run for step in line for run in of_command(step.campaigns, "attackcamp")]
    common = set.intersection(*(set(run.summary["worst_case"]) for run in everywhere if run.summary["worst_case"]))
    found = attacks[0].summary["worst_case"]
    epsilon = max(common & found.keys() or found, key=float)
    return {
        "attack": found[epsilon],
        "attack_what": f"worst case at {radius(attacks[0], epsilon)}",
    }


def _effect(rows: Sequence[Mapping[str, Any]]) -> Dots:
    kinds = {"clean": "clean", "faults": "under faults", "attack": "under attack"}
    series = [Series(name=name, estimates=[row.get(key) for row in rows]) for key, name in kinds.items()]
    return Dots(
        rows=[row["name"] for row in rows],
        series=[one for one in series if any(one.estimates)],
        x_title="accuracy (%)",
        description="Clean accuracy, accuracy under faults and accuracy under attack, stage by stage",
    )


def _told(row: Mapping[str, Any]) -> list[str]:
    return [
        row["name"],
        row.get("file", NONE),
        percent(row["clean"]),
        percent(row.get("faults")),
        row.get("faults_what", NONE),
        percent(row.get("attack")),
        row.get("attack_what", NONE),
    ]


def tested_row(run: Run) -> list[str]:
    """Return what a training run did, for the table of runs."""
    test = next(iter(run.summary["stages"].values()))["test"]["clean"]["n"]
    return [
        run.label,
        "train",
        f"{run.summary['network']} (float)",
        f"{run.summary['dataset']} ({short(run.digest('test'))})",
        f"{test:,}",
        f"stages {', '.join(stage for stage in STAGES if stage in run.summary['stages'])}; PGD at "
        f"{255 * run.summary['attack']['epsilon']:g}/255",
    ]
