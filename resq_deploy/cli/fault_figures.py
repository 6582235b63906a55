"""What `resq-deploy faultcamp` prints of a campaign: figures in words and tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from resq_deploy.api import FaultRun
from resq_deploy.api.words import figure_name, percent, strikes_told, way_told
from resq_deploy.cli.shared import print_table

_CLASSIFIER = ("masked", "benign", "sdc1", "sdc5", "sdc10", "sdc20", "corrected", "corrupted", "nonfinite")


def print_plan(plan: Mapping[str, Any]) -> None:
    """Print what a campaign would do, and how long it would take."""
    faults = plan["population"]["faults"]
    endless = faults == float("inf")
    click.echo(
        f"population: {'random masks' if endless else f'{faults:,} faults'} over {plan['population']['bits']:,} bits"
    )
    planned, expected = plan["planned"], plan["expected"]
    if expected is None or expected == planned:
        click.echo(
            f"planned: {planned:,} faults, about {plan['seconds']:,.0f} s at {plan['seconds_per_fault']:.3f} s each"
        )
    else:
        click.echo(
            f"planned: a pilot of {planned:,} faults; as it shows, {expected:,} in all reach the margin, in about "
            f"{plan['seconds_expected']:,.0f} s at {plan['seconds_per_fault']:.3f} s each. An estimate: what further "
            "faults show decides"
        )
    images = plan["images"]
    if images["per_fault"] is not None:
        click.echo(f"each is judged on about {images['per_fault']} images of its own, of {images['of']:,}")
    if plan["at_most"] > planned:
        if expected is None:
            click.echo("that is the pilot; what it finds sizes the main phase, which is no smaller")
        click.echo(
            f"Equation 7 of Leveugle et al., for the worst case, would take {plan['at_most']:,} faults, "
            f"{plan['seconds_at_most']:,.0f} s"
        )
    for need in plan["needs"]:
        click.echo(f"{need['told']}{'' if need['reachable'] else ': it cannot pass'}")


def print_summary(run: FaultRun) -> None:
    """Print the figures of a campaign, in the words of its judge."""
    summary = run.summary
    golden, faults, population = summary["golden"], summary["faults"], summary["population"]
    click.echo(f"golden run: {_quality(golden)}{golden['images']} images{_set_aside(golden)}")
    drawn = f" of {population['faults']:,}" if population["faults"] else ""
    how = ", layers drawn evenly" if summary["draw"] == "layers" else ""
    quality = summary.get("quality")
    under = f"; {figure_name(quality['name'])} under fault {percent(quality)}" if quality else ""
    click.echo(
        f"{faults['evaluated']:,}{drawn} {summary['fault_model']} faults over {population['bits']:,} bits{how}, "
        f"{faults['due']} due{under}"
    )
    if way := way_told(summary):
        click.echo(f"bits flip {way}: {strikes_told(summary)}")
    if refined := summary["refined"]:
        click.echo(f"{refined['kept']:,} faults were kept, and {refined['added']:,} added; {_widest(summary)}")
    if summary["images"]["not_known"]:
        click.echo(f"{_images(summary['images'])}: {summary['images']['not_known']}")
    if "curve" in summary:
        _print_curve(summary["curve"], how)
    else:
        _print_outcomes(run, how)
        _print_roles(summary, how)
    for where, found in _detections(summary):
        click.echo(f"health output{where}: {percent(found['detected'])} of the faults detected; {_covered(found)}")
    engine, audit = summary["engine"], summary["audit"]
    if engine["fallback"]:
        click.echo(f"evaluated by reload-and-run, as replay cannot be exact here: {engine['fallback']}")
    elif engine["name"] == "replay" and faults["reloaded"]:
        click.echo(f"{faults['reloaded']:,} of the faults were run by reload-and-run: replay is inexact or no faster")
    if audit["checked"]:
        click.echo(run.audit.told)
    speed = summary["throughput"]
    click.echo(
        f"{speed['faults_per_s']:.1f} faults/s, {speed['image_runs_per_s']:,.0f} image runs/s; written to {run.path}"
    )


def _quality(golden: Mapping[str, Any]) -> str:
    """Return the quality of the fault-free file in words; nothing where it is not known what is right."""
    if "accuracy" in golden:
        return f"accuracy {percent(golden['accuracy'])} on "
    known = golden.get("quality")
    return (
        f"{figure_name(known['name'])} {100 * known['value']:.2f} % on " if known and known["value"] is not None else ""
    )


def _set_aside(golden: Mapping[str, Any]) -> str:
    return f", {golden['set_aside']:,} set aside as their outputs are not finite" if golden["set_aside"] else ""


def _print_outcomes(run: FaultRun, how: str) -> None:
    """Print the rates of the judge's ladder, what they mean, and how much there was of what it sums up."""
    summary, meaning = run.summary, run.meanings
    judge = summary["judge"]
    names = [name for name in judge["ladder"] if not name.endswith("_abs")]
    if judge["name"] == "top1":  # everybody knows these
        rates = [(name, percent(summary["rates"][name])) for name in _CLASSIFIER if name in names]
        print_table(f"Image runs{how}", ("outcome", "rate"), rates)
        return
    rows = [(name, percent(summary["rates"][name]), meaning[name]) for name in names]
    print_table(f"Image runs{how}, judged as {judge['name']}", ("outcome", "rate", "meaning"), rows)
    if amounts := summary.get("amounts"):
        told = ", ".join(f"{name} {value:.4g}" for name, value in amounts.items() if value is not None)
        if told:
            click.echo(f"an image run, on average: {told}")


def _detections(summary: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return what a file that reports its own health detects: of all faults, or at each bit error rate."""
    curve = summary.get("curve")
    found = [(f" at {p['ber']:g}", p["detection"]) for p in curve] if curve else [("", summary["detection"])]
    return [(where, detection) for where, detection in found if detection and detection["detected"]]


def _covered(detection: Mapping[str, Any]) -> str:
    """Say how many of the failing faults are detected, where it takes no other images to know."""
    if detection["at_least"]:
        seen = f"{detection['failing']:,}" if detection["failing"] else "none"
        return f"{seen} seen to fail on their images; diagnostic coverage takes --images-per-fault all"
    covered = detection["diagnostic_coverage"]
    return f"diagnostic coverage of failing faults {percent(covered)}" if covered else "no fault failed"


def _widest(summary: Mapping[str, Any]) -> str:
    """Say which role or layer has the widest interval of SDC-1."""
    rows = [
        (max(rates["sdc1"]["high"] - rates["sdc1"]["value"], rates["sdc1"]["value"] - rates["sdc1"]["low"]), key, name)
        for key in ("role", "layer")
        for name, rates in summary[f"by_{key}"].items()
        if rates["sdc1"]
    ]
    width, key, name = max(rows)
    return f"the widest interval is now that of {key} {name}, {100 * width:.2g} points on one side"


def _images(images: Mapping[str, Any]) -> str:
    """Say how many images each fault was judged on."""
    if images["per_fault"] is None:
        return f"all {images['of']:,} images a fault in the last phase"
    return f"about {images['per_fault']:,} of {images['of']:,} images a fault, drawn by seed and fault"


def _print_curve(curve: Sequence[Mapping[str, Any]], how: str) -> None:
    """Print the figures at each bit error rate: means with intervals for further chips, and the chips drawn."""
    figure = curve[0]["quality"]["name"] if "quality" in curve[0] else None
    rows = []
    for point in curve:
        figures: tuple[str, ...] = (percent(point["rates"]["sdc1"]),)
        if figure:
            spread = point["spread"]["accuracy" if figure == "accuracy" else "quality"]
            quartiles = f"{100 * spread['quarter']:.2f} to {100 * spread['three_quarters']:.2f} %"
            figures = (percent(point["quality"]), f"{100 * point['worst']:.2f} %", quartiles, *figures)
        rows.append((f"{point['ber']:g}", *figures, str(point["chips"])))
    name = figure_name(figure) if figure else ""
    first = (f"{name}, mean", "worst chip", "quartiles") if figure else ()
    told = name.capitalize() if name.islower() else name
    title = f"{told} and SDC-1" if figure else "SDC-1"
    print_table(f"{title} over bit error rate{how}", ("BER", *first, "SDC-1, mean", "chips"), rows)
    drawn = "; worst chip and quartiles describe those drawn" if figure else ""
    click.echo(f"a chip is one drawing of all bits at a rate; intervals hold for further chips{drawn}")
    due = [f"{percent(point['due'])} at {point['ber']:g}" for point in curve if point["due"]["value"]]
    if due:
        click.echo(f"due, and in no rate{' but ' + name if figure else ''}: {', '.join(due)} of the chips")


def _print_roles(summary: Mapping[str, Any], how: str) -> None:
    """Print SDC-1 by role, beside how many of the bits and how much of the risk each role holds."""
    exposure = summary["exposure"]
    roles = exposure["roles"] if exposure else {}
    rows = []
    for role, figures in summary["by_role"].items():
        sdc1, exposed = figures["sdc1"], roles.get(role)
        bits = f"{100 * exposed['share_of_bits']:.2f} %" if exposed else "-"
        risk = f"{100 * exposed['share_of_risk']:.1f} %" if exposed and exposed["share_of_risk"] is not None else "-"
        failing = percent(exposed["failing_faults"]) if exposed else "-"
        rows.append((role, percent(sdc1), failing, str(sdc1["n"]) if sdc1 else "0", bits, risk))
    headers = ("role", "SDC-1", "failing faults", "faults", "of the bits", "of the risk")
    print_table(f"SDC-1 by role, which is what a stored value is for{how}", headers, rows)
    if not exposure:
        click.echo(f"no exposure: {summary['exposure_reason']}")
        return
    unseen = [role for role, exposed in roles.items() if exposed["wrong_answers"] is None]
    if unseen:
        click.echo(f"no fault fell on {', '.join(unseen)}: draw more, or with --margin, which visits every role")
    is_classifier = summary["judge"]["name"] == "top1"
    _print_exposure(exposure, "another top-1" if is_classifier else "another answer (sdc1)")


def _print_exposure(exposure: Mapping[str, Any], another: str) -> None:
    """Print the three kinds of failure: of one fault, at the lowest bit error rate, and in time."""
    fit, at = exposure["fit"], exposure["at"][0]
    share = f"{100 * exposure['failing_share']:g} %"
    meanings = {
        "wrong_answers": "wrong answers",
        "failing_faults": "failing faults",
        "failing_faults_over_share": f"failing faults, over {share}",
        "due": "due",
    }
    rows = []
    for kind, meaning in meanings.items():
        expected = at[kind]["total"]
        row = [meaning, percent(exposure[kind]["total"], 3), _probability(expected)]
        rows.append([*row, _failures(fit[kind]["total"])] if fit else row)
    in_time = (f"FIT at {fit['fit_per_mbit']:g}/Mbit",) if fit else ()
    headers = ("failure", "of one fault", f"at BER {at['ber']:g}", *in_time)
    print_table(f"Exposure of {exposure['bits']:,} bits, first order", headers, rows)
    click.echo(
        f"wrong answers: mean share of image runs with {another}. Failing faults: change any answer, or over "
        f"{share}\nof them; a stored fault persists until the file is loaded again, so that they count devices and not "
        "runs.\nDue: the file no longer loads or runs."
    )
    if fit and fit["scrubbing"]:
        _print_scrubbing(fit["scrubbing"])


def _print_scrubbing(scrubbing: Mapping[str, Any]) -> None:
    """Print the failures in time of what codes and votes protect, with scrubs and without."""
    if not scrubbing["parts"]:
        click.echo("neither codes nor votes protect what could be hit: scrubbing changes no figure")
        return
    rows = [
        (
            part["protection"],
            f"{part['count']:,} of {part['bits']} bits",
            f"{part['fit']:.3g}",
            f"{part['fit_never']:.3g}",
        )
        for part in scrubbing["parts"]
    ]
    headers = (
        "protected by",
        "words or values",
        f"FIT, scrubbed every {scrubbing['hours']:g} h",
        f"never, over {scrubbing['lifetime_hours']:g} h",
    )
    print_table("Flips that gather where single ones are corrected", headers, rows)
    click.echo(
        "on top of the failing faults: every word with more flips than its code corrects, and every value of which\n"
        "two copies were hit, counts as a failure, an upper bound. It is about storage: flips in memory, after the\n"
        "file was loaded, last until the session is created again."
    )


def _probability(expected: Mapping[str, Any]) -> str:
    """Write what is expected at a bit error rate."""
    if expected["value"] is not None:
        return f"{expected['value']:.2e}"
    low = f"{expected['low']:.2e}"
    return f"at least {low}" if expected["high"] is None else f"{low} to {expected['high']:.2e}"


def _failures(found: Mapping[str, Any]) -> str:
    """Write failures in time."""
    if found["value"] is None:
        return f"at least {found['low']:.3g}" if found["high"] is None else f"{found['low']:.3g} to {found['high']:.3g}"
    return f"{found['value']:.3g} [{found['low']:.3g}, {found['high']:.3g}]"
