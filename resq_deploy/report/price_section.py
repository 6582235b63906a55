"""What resilience costs: the networks between the start and the hardened one that a training weighed."""

from typing import Any

from resq_deploy.errors import RunFolderError
from resq_deploy.records import read_json
from resq_deploy.report.document import Block, Lines, Section, Series, Table
from resq_deploy.report.runs import Run, check_schema
from resq_deploy.report.text import percent, share

FILE = "pareto.json"
_NAMES = {"clean_accuracy": "clean", "robust_accuracy": "under attack", "faulty_accuracy": "under faults"}


def price_section(train: Run) -> Section | None:
    """Return the section about a training run's budget of clean accuracy; None where none was named.

    Raises:
        RunFolderError: if `pareto.json` is broken.
    """
    path = train.path / FILE
    if not path.is_file():
        return None
    value = read_json(path)
    try:
        check_schema(value, "pareto", path)
        return _section(train, value)
    except (KeyError, TypeError, IndexError, StopIteration) as error:
        raise RunFolderError(f"{path} is broken ({error}): remove it, or train again") from error


def _section(train: Run, value: dict[str, Any]) -> Section:
    points, figures = value["points"], ["clean_accuracy", *value["at_stake"]]
    chosen = next(point for point in points if point["share"] == value["chosen"])
    shares = [100 * point["share"] for point in points]
    told = ", ".join(f"{share(chosen[name]['value'])} {_NAMES[name]}" for name in figures)
    blocks: list[Block] = [
        f"Networks on the line between the weights that hardening started from (0 %) and the hardened ones (100 %); "
        f"batch-norm statistics in between are measured anew. All figures are of the quantized network on validation "
        f"images, which chose: hardening may cost {100 * value['budget']:g} points, so that clean accuracy must be "
        f"{share(value['floor'])} or more; of those, the most resilient was taken.",
        Lines(
            series=[
                Series(name=_NAMES[name], x=shares, estimates=[point[name] for point in points]) for name in figures
            ],
            x_title="share of the hardened weights (%)",
            y_title="accuracy (%)",
            description="Clean accuracy and what is at stake, from the starting to the hardened weights",
        ),
        Table(
            headers=["hardened weights", *(_NAMES[name] for name in figures), "within the budget"],
            rows=[_row(point, figures, value) for point in points],
        ),
    ]
    title = f"{train.label}: {value['chosen']:.0%} of the hardened weights keep within the budget: {told}"
    return Section(title=title, topic="What resilience costs", blocks=blocks)


def _row(point: dict[str, Any], figures: list[str], value: dict[str, Any]) -> list[str]:
    within = point["clean_accuracy"]["value"] >= value["floor"] - 1e-12
    verdict = "chosen" if point["share"] == value["chosen"] else "yes" if within else "no"
    return [f"{point['share']:.0%}", *(percent(point[name]) for name in figures), verdict]
