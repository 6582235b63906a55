"""The sections of an FMEDA: metrics against targets, coverage by mechanism, elements, and what all of it assumes."""

from resq_deploy.faults.cell_words import way_told
from resq_deploy.faults.hardware_metrics import TARGETS, level
from resq_deploy.report.document import Block, Bullets, Section, Table
from resq_deploy.report.fmeda import MEMORY_ECC, Analysis, Element
from resq_deploy.report.fmeda_table import metrics, safe_share
from resq_deploy.report.runs import Run
from resq_deploy.report.task import judged_on, task_of
from resq_deploy.report.text import NONE, at_least, count, percent, quantity, share

_NAMES = {
    "spfm": "single-point fault metric (SPFM)",
    "lfm": "latent fault metric (LFM)",
    "coverage/health": "diagnostic coverage, health output",
    "coverage/selftest": "diagnostic coverage, self-test",
    "spfm_with_selftest": "SPFM with the self-test in each fault-tolerant time interval",
}


def fmeda_sections(analysis: Analysis) -> list[Section]:
    """Return the sections of an FMEDA."""
    return [_metrics(analysis), _elements(analysis), _assumed(analysis)]


def _metrics(analysis: Analysis) -> Section:
    found = analysis.found
    rows = [[_named(name), percent(one.as_dict() if one else None)] for name, one in metrics(analysis).items()]
    title = f"SPFM of the stored bits is {at_least(found.spfm.low)} or more"
    title += f", LFM {at_least(found.lfm.low)} or more" if found.lfm else "; LFM is not known"
    blocks: list[Block] = [
        "Single-point fault metric: 1 - sum(SPF + RF) / sum(all). Latent fault metric: 1 - sum(latent) / sum(all - SPF "
        "- RF) (ISO 26262-5:2018, 8.4). SPF are dangerous faults of what no mechanism protects, RF those that a "
        "mechanism leaves; both undetected. Latent faults are controlled, and reported by nothing.",
        Table(headers=["figure", "value"], rows=rows),
        " ".join([_targets(), *_reached(analysis)]),
        _next(analysis),
    ]
    if found.lfm is None:
        blocks.append(
            "What mechanisms control is not known from one campaign: those faults are among the safe ones here. Run "
            "scrub --bake and a campaign on the plain file, and give it as the second."
        )
    return Section(title=title, topic="FMEDA", blocks=blocks)


def _named(name: str) -> str:
    return _NAMES.get(name, f"diagnostic coverage, {name.removeprefix('coverage/')}")


def _targets() -> str:
    single, latent = TARGETS["spfm"], TARGETS["lfm"]
    told = [f"{name}: SPFM {share(single[name])}, LFM {share(latent[name])}" for name in single]
    return f"Targets by level, each of a whole item: {'; '.join(told)}."


def _reached(analysis: Analysis) -> list[str]:
    """Say which target each metric's lower end reaches; nothing where a mechanism's coverage is open down to 0."""
    found = analysis.found
    if found.lfm is None or not all(one is not None and one.low > 0.0 for one in found.coverage.values()):
        return []
    told = []
    for name, metric in (("spfm", found.spfm), ("lfm", found.lfm)):
        reached = level(name, metric.low)
        what = f"the target value of ASIL {reached}" if reached else "none of the target values"
        told.append(f"{name.upper()}, {at_least(metric.low)}, reaches {what} for this metric")
    return [
        f"By the lower end of its own interval {' and '.join(told)}, for the stored bits alone: the metric is of the "
        "whole item, and each interval holds by itself."
    ]


def _next(analysis: Analysis) -> str:
    """Say which element leaves most of each metric open."""
    found = analysis.found
    row, element = found.rows[found.widest], analysis.elements[found.widest]
    told = (
        f"Of all elements {element.name} leaves most of SPFM open: {quantity(row.undetected.as_dict())} FIT of "
        f"{row.raw:.3g} are dangerous and undetected, by {count(row.undetected.n, 'faults')}. faultcamp --refine "
        f"{analysis.run.label} goes on with it: it draws where intervals are widest."
    )
    if found.widest_latent is None:
        return told
    row, element = found.rows[found.widest_latent], analysis.elements[found.widest_latent]
    return told + (
        f" {_told(element)} leaves most of LFM open: {quantity(row.latent.as_dict())} FIT of {row.raw:.3g} are latent. "
        "That takes more faults of both campaigns."
    )


def _elements(analysis: Analysis) -> Section:
    found = analysis.found
    rows = []
    for element, row in zip(analysis.elements, found.rows, strict=True):
        figures = (row.detected, row.undetected, row.controlled_detected, row.latent)
        rows.append(
            [
                *(_told(element), count(row.bits), f"{row.raw:.3g}"),
                percent(safe_share(row).as_dict()),
                *(quantity(one.as_dict()) for one in figures),
            ]
        )
    totals = [
        sum(getattr(row, name).value for row in found.rows)
        for name in ("safe", "detected", "undetected", "controlled_detected", "latent")
    ]
    safe = share(totals[0] / found.raw) if found.raw else NONE
    bits = count(sum(row.bits for row in found.rows))
    undetected = quantity(found.undetected.as_dict())
    latent = NONE if found.latent is None else quantity(found.latent.as_dict())
    rows.append(["total", bits, f"{found.raw:.3g}", safe, f"{totals[1]:.3g}", undetected, f"{totals[3]:.3g}", latent])
    headers = [
        *("element", "bits", "raw FIT", "safe"),
        *("dangerous, detected", "dangerous, undetected", "controlled, reported", "latent"),
    ]
    safe_told = f"{safe} of the raw rate is safe" if found.raw else "Nothing fails"
    return Section(
        title=f"{safe_told}; {undetected} FIT are dangerous and undetected",
        topic="Elements",
        blocks=[
            "Rates in FIT, failures in 10^9 hours. Those of a row add up to its raw rate, and those of all rows to the "
            "total. The interval of a row holds by itself; those of the metrics are not made of them. In brackets "
            "behind a name: by what it is protected. " + _memory_rates(analysis),
            Table(headers=headers, rows=rows),
        ],
    )


def _told(element: Element) -> str:
    return f"{element.name} ({element.mechanism})" if element.mechanism else element.name


def _memory_rates(analysis: Analysis) -> str:
    rates = sorted({element.rate for element in analysis.elements})
    told = f"{rates[0]:.3g}" if len(rates) == 1 else f"{rates[0]:.3g} to {rates[-1]:.3g}, by role,"
    return f"The raw rate is {told} FIT in 10^6 bits."


def _assumed(analysis: Analysis) -> Section:
    run, asked = analysis.run, analysis.asked
    task = task_of(run)
    if asked.dangerous == "any":
        dangerous = f"A fault is dangerous if it gives any of the {task.units} another answer: {task.answer}."
    else:
        dangerous = (
            f"A fault is dangerous by the share of {task.unit} runs that it gives another answer ({task.answer}): raw "
            "rate times that is the rate of faults that meet a demand and answer it wrong. --dangerous any counts a "
            "fault whole that is wrong on any."
        )
    items = [
        dangerous,
        f"Safe is all else: outputs that are bit-equal (masked), or that the judge, {run.summary['judge']['name']}, "
        "takes for the same answer (benign).",
        "A fault after which the file no longer loads or runs is dangerous and detected: the runtime says so.",
        "One bit at a time, in the stored file alone: no fault of processor, activations, or of the mechanisms' code.",
        "The raw rate is alike for all bits of a region, and safety goals are about the demands that the campaign's "
        f"{task.units} stand for.",
        _about_bits(run),
        "Each interval is about the faults that were not drawn, on the same " + f"{task.units}.",
    ]
    if way := way_told(run.summary):
        items.append(
            f"Bits flip {way}. The raw rate is that at which any bit is struck; strikes on bits that have that value "
            "already change nothing, are no faults, and are in no sum here."
        )
    if not analysis.rate_given:
        items.append("No raw rate was given: rates are those of a memory of 1 FIT in 10^6 bits; metrics are the same.")
    if run.summary["drawing"]["share"] < 1.0:
        items.append(judged_on(run))
    if any(element.mechanism for element in analysis.elements):
        items += _about_mechanisms(analysis)
    if asked.selftest is not None:
        items.append(
            "The self-test's coverage is that of its bundle, of failing faults each of which counts as one; it takes "
            "part in the metric only where it runs within each fault-tolerant time interval."
        )
    return Section(title="What these figures assume", topic="Assumptions", blocks=[Bullets(items=items)])


def _about_bits(run: Run) -> str:
    chosen = [
        f"--{name} {', '.join(map(str, run.options[name]))}"
        for name in ("roles", "layers", "bits")
        if run.options.get(name) not in (None, [], ["*"], "*")
    ]
    left = f"those of {'; '.join(chosen)}" if chosen else "all that the campaign could hit"
    return f"The bits counted are {left}: {count(run.summary['population']['bits'])}."


def _about_mechanisms(analysis: Analysis) -> list[str]:
    run, without = analysis.run, analysis.without
    told = [
        "Every bit of a protected element - of any of three copies, or of a word with its check bits - counts as "
        "dangerous without the mechanism as much as a bit of the values that it stores; bits of which the plain file "
        "has none count as controlled wherever they do no harm.",
        "What is controlled and not reported is latent, however often the file is scrubbed: reading a health output, "
        "or scrub with a report, is what makes it known.",
        "Codes that no weight uses (-128 of int8) are no mechanism: nothing in the file looks for them, and inspect "
        "only tells of them.",
    ]
    if any(element.mechanism == MEMORY_ECC for element in analysis.elements):
        told.append(
            "The memory's ECC corrects every flip of one bit, and what it corrects counts as reported by nothing: its "
            "corrections are known only where the memory's controller logs them. Its check bits are not in."
        )
    if without is not None:
        told.append(f"What faults do without mechanisms was drawn independently, in {without.label}.")
    scrubbing = ((run.summary.get("exposure") or {}).get("fit") or {}).get("scrubbing")
    if scrubbing and scrubbing["parts"]:
        told.append(
            f"Flips that meet in one word or value come on top: at most {scrubbing['fit']:.3g} FIT if the storage is "
            f"scrubbed every {scrubbing['hours']:g} hours, {scrubbing['fit_never']:.3g} if never in "
            f"{scrubbing['lifetime_hours']:g}."
        )
    else:
        told.append("Flips that meet in one word or value are not in: faultcamp --scrub-hours tells their rate.")
    return told
