"""The demo's page and its table, from the demo's summary."""

from collections.abc import Mapping, Sequence
from typing import Any

from resq_deploy.report.document import Document, Dots, Lines, Section, Series, Statement, Table, Tone, Verdict
from resq_deploy.report.glossary import with_glossary
from resq_deploy.report.page import render
from resq_deploy.report.text import at_least, at_most, percent, rate
from resq_deploy.report.wide import too_wide

NAMES = {"baseline": "baseline", "resq": "hardened (RESQ)", "protected": "hardened and protected"}


def _not_tested(summary: Mapping[str, Any]) -> str:
    """Say what the figures leave out; those of the demo's own recipe were chosen with the test images in view."""
    own = "attacks" in summary
    attacks = "" if own else "; attacks made with knowledge of the int8 file itself"
    chosen = (
        ""
        if own
        else ", and the numbers of epochs in its recipe were chosen with these test images in view: expect a little "
        "less elsewhere"
    )
    return (
        f"Not tested: faults in activations, in the arithmetic and in memory after the file was loaded{attacks}. Bit "
        "errors hit stored weights only; single flips hit every stored parameter, biases, scales and zero points "
        f"included. The networks are one training run with one seed{chosen}."
    )


def demo_table(summary: Mapping[str, Any]) -> Table:
    """Return the headline figures, one column a file."""
    files = [summary["files"][name] for name in NAMES]
    rows = [["clean accuracy, float", *(percent(file["accuracy"]["float"]) for file in files)]]
    rows.append(["clean accuracy, int8 file", *(percent(file["accuracy"]["int8"]) for file in files)])
    for place, attack in enumerate(files[0]["pgd"]):
        radius = f"{255 * attack['epsilon']:g}/255"
        named = _attack_name(summary)
        if attack["float"]:
            rows.append([f"{named} {radius}, float", *(percent(file["pgd"][place]["float"]) for file in files)])
        rows.append([f"{named} {radius}, on the int8 file", *(percent(file["pgd"][place]["int8"]) for file in files)])
    for place, point in enumerate(files[0]["curve"]):
        label = f"bit error rate {point['ber']:g}, weights"
        rows.append([label, *(percent(file["curve"][place]["accuracy"]) for file in files)])
    rows.append(["SDC-1 of single flips, all roles", *(percent(file["sdc1"]) for file in files)])
    return Table(headers=("figure", *NAMES.values()), rows=rows)


def demo_page(summary: Mapping[str, Any]) -> str:
    """Return the demo's page as HTML."""
    sections = [
        Section(title="Side by side", blocks=["In brackets: 95 % intervals.", demo_table(summary)]),
        _under_attack(summary),
        _under_bit_errors(summary),
        _single_flips(summary),
        Section(title="What this does not say", blocks=[_not_tested(summary), _identity(summary)]),
    ]
    lead = (
        f"{summary['network']} on {summary['dataset']}: the same network before and after hardening, and with votes "
        f"and codes in its file, as deployed int8 ONNX files run with onnxruntime in {_arithmetic(summary)}."
    )
    document = Document(title="resq-deploy demo", lead=lead, sections=sections, verdict=_verdict(summary))
    return render(with_glossary(document))


def _attack_name(summary: Mapping[str, Any]) -> str:
    """Name what the files were attacked by: PGD on the float network, or several attacks on the file itself."""
    return "PGD" if "attacks" not in summary else f"worst of {' and '.join(summary['attacks'])},"


def _verdict(summary: Mapping[str, Any]) -> Verdict:
    """Say what hardening and protection gained and cost, at the largest radius and rate."""
    files = summary["files"]
    before, hardened, protected = (files[name] for name in NAMES)
    radius = f"{255 * before['pgd'][-1]['epsilon']:g}/255"
    attacked = [percent(file["pgd"][-1]["int8"]) for file in (before, hardened)]
    clean = [percent(file["accuracy"]["int8"]) for file in (before, hardened)]
    points = [file["curve"][-1] for file in (before, hardened, protected)]
    flips = protected["single"]
    named = _attack_name(summary).rstrip(",")
    return Verdict(
        statements=[
            Statement(
                about=NAMES["resq"],
                tone=Tone.OPEN,
                label="Upper bound",
                text=f"Under {named} within {radius}, {attacked[1]} of the images are answered right, instead of "
                f"{attacked[0]}; without attack {clean[1]}, instead of {clean[0]}.",
                reservations=[_of_attacks(summary)],
            ),
            _flipped(NAMES["protected"], points),
            Statement(
                about=NAMES["protected"],
                tone=Tone.SHOWN,
                label="Shown",
                text=f"At most {at_most(flips['rates']['sdc1']['high'])} of the images get another answer when one "
                f"stored bit is flipped, on average over all such faults (measured: {percent(flips['rates']['sdc1'])}; "
                f"unprotected and not hardened: {percent(before['single']['rates']['sdc1'])}).",
            ),
        ],
        grounds=[
            f"Bounds are ends of 95 % intervals. Run with onnxruntime in {_arithmetic(summary)}. {_not_tested(summary)}"
        ],
    )


def _of_attacks(summary: Mapping[str, Any]) -> str:
    """Say what the attacks leave open."""
    if "attacks" not in summary:
        return (
            "Attacks made on the float network, and run on the int8 file: one with the file's own gradients may leave "
            "fewer"
        )
    if not all(file["trustworthy"] for file in summary["files"].values()):
        return "Not every file passed all checks on its attacks (see the runs): other attacks may leave fewer"
    return "Attacks on the file with its own gradients, all checks passed; a longer search may leave fewer"


def _flipped(about: str, points: Sequence[Mapping[str, Any]]) -> Statement:
    before, hardened, protected = (point["accuracy"] for point in points)
    wide, ber = too_wide(protected), rate(points[-1]["ber"])
    kept = (
        f"between {at_least(protected['low'])} and {at_most(protected['high'])}"
        if wide
        else (f"at least {at_least(protected['low'])}")
    )
    return Statement(
        about=about,
        tone=Tone.OPEN if wide else Tone.SHOWN,
        label="Too few chips to tell" if wide else "Shown",
        text=f"When every stored weight bit flips with a probability of {ber}, accuracy is {kept} on average over "
        f"devices (measured: {percent(protected)}; hardened alone {percent(hardened)}, neither {percent(before)}).",
    )


def _arithmetic(summary: Mapping[str, Any]) -> str:
    """Name the arithmetic; that of a CPU which saturates is no other's."""
    used = summary["arithmetic"]
    if used["name"] == "exact":
        return "exact arithmetic: integer sums are the same on every CPU"
    return f"the native arithmetic of a CPU that {'saturates' if used['cpu_saturates'] else 'does not saturate'}"


def _under_attack(summary: Mapping[str, Any]) -> Section:
    return Section(
        title="Under attack",
        blocks=[
            f"{_how_attacked(summary)}; {summary['test_images']} test images. Epsilon 0 is the clean accuracy. Bands: "
            "95 % Wilson.",
            Lines(
                series=[_attack_series(label, summary["files"][name]) for name, label in NAMES.items()],
                x_title="epsilon (1/255, Linf)",
                y_title="accuracy (%)",
                description="Accuracy of the int8 files over the strength of a PGD attack",
            ),
        ],
    )


def _how_attacked(summary: Mapping[str, Any]) -> str:
    if "attacks" in summary:
        return (
            f"The worst of {' and '.join(summary['attacks'])} on each int8 file itself, {summary['attack_steps']} "
            "steps of those with gradients"
        )
    return (
        f"PGD with {summary['attack_steps']} steps on each float network, its images run on the int8 file made from it"
    )


def _under_bit_errors(summary: Mapping[str, Any]) -> Section:
    curves = {name: summary["files"][name]["curve"] for name in NAMES}
    series = [
        Series(
            name=label,
            x=[point["ber"] for point in curves[name]],
            estimates=[point["accuracy"] for point in curves[name]],
        )
        for name, label in NAMES.items()
    ]
    return Section(
        title="Under bit errors",
        blocks=[
            "Every stored weight bit of the int8 file flips with the given probability, those of the code included, on "
            f"{curves['baseline'][0]['chips']} simulated chips. Bands: 95 % bounds on further chips.",
            Lines(
                series=series,
                x_title="bit error rate of the stored weights",
                y_title="accuracy (%)",
                log_x=True,
                description="Accuracy of the int8 files over the bit error rate",
            ),
        ],
    )


def _single_flips(summary: Mapping[str, Any]) -> Section:
    files = summary["files"]
    single = files["baseline"]["single"]
    bits = ", ".join(f"{label} {files[name]['single']['population']['bits']:,}" for name, label in NAMES.items())
    return Section(
        title="Single flips",
        blocks=[
            f"{single['faults']['evaluated']} flips drawn evenly from the stored bits of each file ({bits}), judged on "
            f"{summary['fault_images']} images. SDC-1: the top-1 class changes; SDC-10 and -20: the confidence moves "
            "by more than 10 or 20 % of its value. Bars: 95 % intervals over faults.",
            _ladder(files),
        ],
    )


def _attack_series(label: str, file: Mapping[str, Any]) -> Series:
    return Series(
        name=label,
        x=[0.0, *(255 * attack["epsilon"] for attack in file["pgd"])],
        estimates=[file.get("clean", file["accuracy"]["int8"]), *(attack["int8"] for attack in file["pgd"])],
    )


def _ladder(files: Mapping[str, Any]) -> Dots:
    outcomes: Sequence[str] = ("sdc1", "sdc10", "sdc20")
    series = [
        Series(name=label, estimates=[files[name]["single"]["rates"][outcome] for outcome in outcomes])
        for name, label in NAMES.items()
    ]
    return Dots(
        rows=outcomes,
        series=series,
        x_title="share of image runs (%)",
        log_x=True,
        description="Share of image runs by outcome for each file",
    )


def _identity(summary: Mapping[str, Any]) -> Table:
    rows = [[label, summary["files"][name]["sha256"]] for name, label in NAMES.items()]
    return Table(headers=("file", "SHA-256"), rows=rows)
