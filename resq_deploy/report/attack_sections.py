"""What attacks do to deployed files, and whether the figures can be trusted."""

from collections.abc import Mapping, Sequence
from typing import Any

from resq_deploy.report.corruption_section import CORRUPTIONS, corruption_section
from resq_deploy.report.document import Block, Caption, Lines, Notice, Section, Series, Table
from resq_deploy.report.runs import Run
from resq_deploy.report.text import NONE, count, listed, percent, points, quantity, rate, share, short, side_by_side

_MOST_SERIES = 6
_NORMS = {"linf": "Linf", "l2": "L2"}
_BLACK_BOX = ("square", "hopskipjump")
_GRADIENTS = ("transfer-pgd", "twin-pgd", "twin-apgd")

UNPAIRED = "attacks are not paired, since an attack searches anew on each file"
"""Why no difference between two attack campaigns is tested."""

_VERDICT = {True: "passed", False: "FAILED", None: "not run"}


def attack_sections(campaigns: Sequence[Run]) -> list[Section]:
    """Return the sections about attack campaigns."""
    attacked = [run for run in campaigns if run.summary["worst_case"]]
    groups = _alike(attacked)
    sections = [_worst_cases(group, [one for one in attacked if one not in group]) for group in groups if group[1:]]
    if len(groups) > 1:
        sections.append(_apart(attacked))
    for run in campaigns:
        sections += [_robust(run)] if run.summary["robust"] else []
        sections += [corruption_section(run)] if run.summary.get(CORRUPTIONS) else []
        sections += [_bit_flip(run)] if run.summary.get("bit_flip") else []
        sections += [_fault_attack(run)] if run.summary.get("fault_attack") else []
    return sections


def radius(run: Run, epsilon: str) -> str:
    """Write a radius of a campaign with unit and norm, such as 4/255 Linf."""
    return f"{epsilon}/255 Linf" if _norm(run) == "linf" else f"{epsilon} L2"


def _norm(run: Run) -> str:
    return str(run.options.get("norm", "linf"))


def _scene(run: Run) -> tuple[str | None, int, str]:
    """Return what must be the same for two worst cases to stand in one heading: data, images and norm."""
    return run.digest("data"), run.summary["clean"]["n"], _norm(run)


def _alike(runs: Sequence[Run]) -> list[list[Run]]:
    groups: dict[tuple[str | None, int, str], list[Run]] = {}
    for run in runs:
        groups.setdefault(_scene(run), []).append(run)
    return list(groups.values())


def _apart(runs: Sequence[Run]) -> Section:
    """Say which runs were attacked on other images or within another norm, and must not be held against each other."""
    rows = [
        [
            run.label,
            f"{run.options.get('dataset', NONE)} ({short(run.digest('data'))})",
            count(run.summary["clean"]["n"]),
            _NORMS[_norm(run)],
        ]
        for run in runs
    ]
    return Section(
        title="Attacks on other data, other images or within another norm are not held against each other",
        topic="Attacks",
        blocks=[Table(headers=["run", "data (SHA-256)", "images", "norm"], rows=rows)],
    )


def untrusted(run: Run) -> str | None:
    """Return why the robust accuracy of a campaign must not be trusted, or None."""
    failed = [name for name, check in run.summary["checks"].items() if check["passed"] is False]
    if run.summary["trustworthy"] is not False and not failed:
        return None
    reasons = [f"{name} ({check})" if check else name for name, check in ((n, _why(run, n)) for n in failed)]
    return f"{run.label}: the robust accuracy is not trustworthy; failed checks: {'; '.join(reasons) or 'see below'}"


def _why(run: Run, check: str) -> str:
    return str(run.summary["checks"][check].get("reason") or "")


def _worst_cases(runs: Sequence[Run], others: Sequence[Run]) -> Section:
    """Show runs on the same images side by side, and name those that are not among them."""
    epsilon = _common_radius(runs)
    told = []
    for run in runs:
        at, found = (epsilon, run.summary["worst_case"][epsilon]) if epsilon else _strongest(run.summary["worst_case"])
        told.append((run.label, found["value"], f"{percent(found)}{'' if epsilon else f' at {radius(run, at)}'}"))
    at = f" at {radius(runs[0], epsilon)}" if epsilon else ""
    title = f"Under the worst attack{at}, accuracy is {side_by_side(told)}"
    blocks: list[Block] = [
        f"An image counts if it withstands all attacks of its run. {UNPAIRED[0].upper()}{UNPAIRED[1:]}: the runs stand "
        "side by side, and no difference is tested.",
        Caption(text=_bands(runs)),
    ]
    if others:
        blocks.append(f"Not among them, on other data, other images or within another norm: {_labels(others)}.")
    for start in range(0, len(runs), _MOST_SERIES):
        some = runs[start : start + _MOST_SERIES]
        series = [_over_epsilon(run.label, run.summary["clean"], run.summary["worst_case"]) for run in some]
        blocks.append(_lines(series, _norm(runs[0]), title))
    return Section(title=title, topic="Attacks", blocks=blocks)


def _labels(runs: Sequence[Run]) -> str:
    return listed([run.label for run in runs])


def _common_radius(runs: Sequence[Run]) -> str | None:
    """Return the largest radius that all runs have; None where they share none."""
    common = set.intersection(*(set(run.summary["worst_case"]) for run in runs))
    return max(common, key=float, default=None)


def _robust(run: Run) -> Section:
    summary, norm = run.summary, _norm(run)
    epsilon, worst = _strongest(summary["worst_case"])
    title = f"{run.label}: {_title(run, percent(worst))} within {radius(run, epsilon)}"
    lines = [_over_epsilon(name, summary["clean"], found) for name, found in summary["robust"].items()]
    if len(lines) > 1:
        lines.append(_over_epsilon("worst case", summary["clean"], summary["worst_case"]))
    blocks: list[Block] = []
    reason = untrusted(run)
    if reason:
        blocks.append(Notice(text=reason))
    knowledge = summary.get("threat", {}).get("attacks", {})
    if summary.get("upper_bound") and not reason:
        blocks.append("No attack had the gradients of the file itself: robust accuracy is no more than an upper bound.")
    if summary["trustworthy"] is None and summary.get("trustworthy_missing"):
        missing = listed(summary["trustworthy_missing"])
        blocks.append(f"Not shown to be trustworthy: of the checks for masked gradients, {missing} did not run.")
    blocks.append(f"Threat model: {_threat(run, knowledge)}.")
    blocks.append(Caption(text=f"Epsilon 0 is the clean accuracy. {_bands([run])}"))
    blocks += [_lines(lines[start : start + _MOST_SERIES], norm, title) for start in range(0, len(lines), _MOST_SERIES)]
    blocks += [_robust_table(run), _checks(run)]
    twin = summary.get("twin")
    if twin:
        agreement = twin["top1_agreement"]
        told = percent(agreement) if isinstance(agreement, Mapping) else share(agreement)
        blocks.append(
            f"The differentiable twin, which gradients come from, answers clean images as the file does in {told}; its "
            f"logits differ by {twin['max_logit_difference']:.3g} at most."
        )
    return Section(title=title, topic="Attacks", blocks=blocks)


def _title(run: Run, worst: str) -> str:
    """Say how many images are answered right under the attacks that were tried: of others nothing is known."""
    attacks = listed(list(run.summary["robust"]))
    if untrusted(run):
        return f"{worst} are answered right, which is not to be trusted,"
    if run.summary.get("upper_bound"):
        return f"at most {worst} are answered right: {attacks} only, an upper bound,"
    doubt = "" if run.summary["trustworthy"] else ", which was not shown to be trustworthy,"
    return f"{worst} are answered right under {attacks}{doubt}"


def _bands(runs: Sequence[Run]) -> str:
    confidence = listed(sorted({f"{100 * run.confidence:g} %" for run in runs}))
    return f"Bands: {confidence} intervals over images."


def _strongest(by_epsilon: Mapping[str, Any]) -> tuple[str, Any]:
    epsilon = max(by_epsilon, key=float)
    return epsilon, by_epsilon[epsilon]


def _over_epsilon(name: str, clean: Any, by_epsilon: Mapping[str, Any]) -> Series:
    ordered = sorted(by_epsilon, key=float)
    return Series(
        name=name,
        x=[0.0, *map(float, ordered)],
        estimates=[clean, *(by_epsilon[epsilon] for epsilon in ordered)],
    )


def _lines(series: Sequence[Series], norm: str, title: str) -> Lines:
    return Lines(
        series=series,
        x_title="epsilon (1/255, Linf)" if norm == "linf" else "epsilon (L2, units of [0, 1] pixels)",
        y_title="accuracy (%)",
        description=f"Accuracy over the strength of the attack. {title}.",
    )


def _threat(run: Run, knowledge: Mapping[str, str]) -> str:
    options = run.options
    named = [name for name in options.get("attacks", ()) if name != CORRUPTIONS]
    attacks = [f"{name} ({knowledge[name]})" if name in knowledge else name for name in named]
    told = [f"norm {_NORMS[_norm(run)]}", f"attacks {', '.join(attacks)}"] if attacks else []
    done = options.get("attacks", run.summary["robust"])
    if "queries" in options and any(name in _BLACK_BOX for name in done):
        told.append(f"{count(options['queries'])} queries an image for black-box attacks")
    if "steps" in options and any(name in _GRADIENTS for name in done):
        told.append(f"{options['steps']} steps for those with gradients")
    told += ["corruptions at five severities"] if CORRUPTIONS in options.get("attacks", ()) else []
    return ", ".join([*told, f"{count(run.summary['clean']['n'])} images"])


def _robust_table(run: Run) -> Table:
    summary = run.summary
    ordered = sorted(summary["worst_case"], key=float)
    rows = [["none (clean)", *(percent(summary["clean"]) for _ in ordered)]]
    named = [*summary["robust"].items(), ("worst case", summary["worst_case"])]
    if "worst_case_8bit" in summary:
        named.append(("worst case, images rounded to 8 bits", summary["worst_case_8bit"]))
    rows += [[name, *(percent(found.get(epsilon)) for epsilon in ordered)] for name, found in named]
    return Table(headers=["attack", *(radius(run, epsilon) for epsilon in ordered)], rows=rows)


def _checks(run: Run) -> Table:
    rows = [
        [name, _VERDICT[check["passed"]], str(check.get("reason") or NONE)]
        for name, check in run.summary["checks"].items()
    ]
    return Table(headers=["check that the attacks were sound", "verdict", "why"], rows=rows)


def _bit_flip(run: Run) -> Section:
    found = run.summary["bit_flip"]
    flips, accuracy = found["flips"], found["accuracy"]
    title = f"{run.label}: {flips['value']:.3g} chosen bit flips bring accuracy to {share(accuracy['value'])}"
    blocks: list[Block] = [
        f"Progressive bit search; each flip confirmed on the deployed file. Flips an attack batch: {quantity(flips)} "
        f"(Student's interval over {flips['n']} batches); accuracy after the last: {percent(accuracy)}."
    ]
    if flips.get("censored"):
        blocks.append(
            Notice(text=f"{flips['censored']} of {flips['n']} batches did not reach their goal: more flips are needed.")
        )
    rows = [
        [str(number), str(batch["flips"]), percent(batch["accuracy"]), str(batch["end"]), *_told(batch)]
        for number, batch in enumerate(found["batches"])
    ]
    headers = ["attack batch", "flips", "accuracy after the last", "end"]
    headers += ["words corrected", "uncorrectable", "detected"] if any(map(_told, found["batches"])) else []
    blocks.append(Table(headers=headers, rows=rows))
    if found["attacked"].get("coded_tensors"):
        blocks.append(
            "Weights are stored under a code: a word stays changed only if more of its bits are flipped than it "
            "corrects, and every one counts. What the file's health output says of its words is that after the last "
            "flip; a word that is taken for another one counts as corrected."
        )
    return Section(title=title, topic="Bit-flip attack", blocks=blocks)


def _told(batch: Mapping[str, Any]) -> list[str]:
    """Return what the file reports of its code words after the last flip; nothing where it reports nothing."""
    health = batch.get("health")
    return [str(health[0]), str(health[1]), "yes" if batch["detected"] else "no"] if health else []


def _fault_attack(run: Run) -> Section:
    found = run.summary["fault_attack"]
    cells = [("clean", "", found["clean"])]
    cells += [(name, epsilon, cell) for name, by in found["attacked"].items() for epsilon, cell in by.items()]
    rows = [
        [
            f"{name} {_strength(run, name, epsilon)}".strip(),
            percent(cell["fault_free"]),
            percent(cell["faulty"]),
            points(cell["drop"]),
            points(cell["drop_beyond_clean"]) if cell.get("drop_beyond_clean") else NONE,
            percent(cell["sdc1"]),
            points(cell["sdc1_beyond_clean"]) if cell.get("sdc1_beyond_clean") else NONE,
        ]
        for name, epsilon, cell in cells
    ]
    headers = [
        "images",
        "fault-free",
        "faulty",
        "drop (points)",
        "beyond clean (points)",
        "SDC-1",
        "beyond clean (points)",
    ]
    faults = found["faults"]
    mixed = ["Under corruptions each image has one of them, in turn."] if CORRUPTIONS in found["attacked"] else []
    what = f"random bit errors at {rate(faults['ber'])}" if faults["model"] == "ber" else "the faults of a list"
    return Section(
        title=f"{run.label}: faults and attacks together",
        topic="Faults and attacks",
        blocks=[
            f"Clean and adversarial images on the fault-free file and under {what}, {faults['faults']} faults; "
            "differences are paired by fault, their intervals are over faults, given the images.",
            *mixed,
            Table(headers=headers, rows=rows),
        ],
    )


def _strength(run: Run, name: str, place: str) -> str:
    """Write how strong what was done to images is: a radius, or a severity; nothing of clean ones."""
    if not place:
        return ""
    return f"at severity {place}" if name == CORRUPTIONS else radius(run, place)


def tested_row(run: Run) -> list[str]:
    """Return what an attack campaign tested, for the table of runs."""
    return [
        run.label,
        "attackcamp",
        f"{run.file} ({short(run.model)})",
        f"{run.options.get('dataset', NONE)} ({short(run.digest('data'))})",
        count(run.summary["clean"]["n"]),
        _threat(run, {}),
    ]
