"""What corruptions do to a deployed file: what sensors do, and not attackers."""

from collections.abc import Mapping
from typing import Any

from resq_deploy.report.document import HeatMap, Section, Statement, Table, Tone
from resq_deploy.report.runs import Run
from resq_deploy.report.text import at_least, at_most, percent, share
from resq_deploy.report.wide import too_wide

CORRUPTIONS = "corruptions"


def corruption_section(run: Run) -> Section:
    """Return the section: a map of wrong answers, and accuracy with intervals."""
    found, clean = run.summary[CORRUPTIONS], run.summary["clean"]
    severities = list(found["by_severity"])
    title = f"{run.label}: under corruptions, {percent(found['mean'])} are answered right, {percent(clean)} without"
    names = list(found["accuracy"])
    wrong = [[1.0 - found["accuracy"][name][severity]["value"] for severity in severities] for name in names]
    height, width = found["image_size"]
    return Section(
        title=title,
        topic="Corruptions",
        blocks=[
            "What sensors, weather and codecs do to images; nobody chooses it to do harm, and no worst case over "
            f"attacks counts it. Definitions and severities of {found['definitions']} (Hendrycks and Dietterich, ICLR "
            f"2019) on images of {height}x{width}, rounded to 8 bits. The mean counts for each image the share of "
            "corruptions under which it is answered right; intervals are over images.",
            HeatMap(
                rows=names,
                columns=severities,
                shares=wrong,
                counts=[[found["images"]] * len(severities) for _ in names],
                x_title="severity",
                scale_title="answered wrong",
                description=f"Share of images answered wrong, by corruption and severity. {title}.",
            ),
            Table(
                headers=["accuracy", *(f"severity {severity}" for severity in severities)],
                rows=[
                    [name, *(percent(row[severity]) for severity in severities)]
                    for name, row in [*found["accuracy"].items(), ("mean", found["by_severity"])]
                ],
            ),
        ],
    )


def corruption_statement(run: Run) -> Statement:
    """Say what corruptions leave right, and which leaves the least."""
    found, clean = run.summary[CORRUPTIONS], run.summary["clean"]["value"]
    mean, last = found["mean"], list(found["by_severity"])[-1]
    worst = min(found["accuracy"], key=lambda name: found["accuracy"][name][last]["value"])
    under, without = "Under corruptions", f"{share(clean)} without"
    of = f"measured: {percent(mean)} of {found['images']:,} images, {without}"
    least = f"the least under {worst} at severity {last}: {percent(found['accuracy'][worst][last])}"
    tone, label = Tone.SHOWN, "Shown for these corruptions"
    text = f"{under} at least {at_least(mean['low'])} are answered right in the mean ({of}); {least}."
    if too_wide(mean):
        tone, label = Tone.OPEN, "Too few images to tell"
        text = f"{under} {percent(mean)} are answered right in the mean, {without}; {least}."
    elif mean["high"] < clean / 2:
        tone, label = Tone.HARM, "Does not withstand"
        text = f"{under} at most {at_most(mean['high'])} are answered right in the mean ({of}); {least}."
    other = f"Of the {len(found['accuracy'])} corruptions that were tried alone: a sensor of your own may do others"
    return Statement(about=run.file, tone=tone, label=label, text=text, reservations=[other])


def gate_words(gate: Mapping[str, Any]) -> str:
    """Write where a bound on corruptions was asked for; nothing where that is every severity, or of other bounds."""
    return f" at severity {gate['severity']}" if gate.get("severity") else ""
