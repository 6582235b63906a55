"""`resq-deploy faultcamp`: a fault campaign on a deployed file."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from resq_deploy.cli.junit import Case, junit_file, junit_option, print_gates
from resq_deploy.cli.preprocessing import preprocessing_options, read_preprocessing, tell_accuracy
from resq_deploy.cli.shared import (
    PATH,
    arithmetic_option,
    data_dir_option,
    dataset_option,
    out_option,
    percent,
    print_table,
    resume_option,
    seed_option,
    tell_arithmetic,
    workers_option,
)
from resq_deploy.errors import OptionError
from resq_deploy.progress import progress_bar

if TYPE_CHECKING:
    from resq_deploy.campaign.options import CampaignOptions
    from resq_deploy.campaign.run import Campaign

_SHOWN = ("masked", "benign", "sdc1", "sdc5", "sdc10", "sdc20", "corrected", "corrupted", "nonfinite")
_MODELS = ("single", "ber", "burst", "stuck-at-0", "stuck-at-1", "word")


@click.command()
@click.argument("model", type=PATH)
@dataset_option
@data_dir_option
@preprocessing_options
@out_option("Run folder to write: summary.json, faults.csv, campaign.sqlite, manifest.json.", required=False)
@click.option("--images", type=int, default=1000, show_default=True, help="Test images to judge by.")
@click.option(
    "--images-per-fault",
    metavar="auto|N|all",
    help="How many of them, drawn by seed and fault, each fault is judged on; auto: as many as are cheapest.  "
    "[default: auto with --margin, else all]",
)
@click.option(
    "--faults",
    type=click.Choice(_MODELS),
    help="single: one flipped bit a fault; ber: every bit flips with a given probability, one mask a chip; burst: "
    "adjacent bits of one value; stuck-at: a bit forced to 0 or 1; word: a value replaced.  [default: single]",
)
@click.option(
    "--draw",
    type=click.Choice(["bits", "layers"]),
    default="bits",
    show_default=True,
    help="bits: every stored bit alike; layers: every layer alike, whatever its size, then a bit of it, as several "
    "published campaigns do: figures are then means over layers, and --ber counts draws.",
)
@click.option("--burst", type=int, default=2, show_default=True, metavar="N", help="Bits of a burst.")
@click.option("--fault-list", type=PATH, metavar="CSV", help="Faults to run: tensor,index,bit[,fault,op,value].")
@click.option("--roles", default="all", show_default=True, help="Roles to hit, such as weight,bias.")
@click.option("--layers", metavar="GLOB", default="*", show_default=True, help="Layers to hit, by shell pattern.")
@click.option("--bits", help="Bit positions to hit, such as 7 or 0-3,31; 0 is the least significant.")
@click.option(
    "--ber",
    metavar="P,P,...",
    default="1e-6,1e-5,1e-4,1e-3,1e-2",
    show_default=True,
    help="Bit error rates: of ber's masks, and of the exposure that other models end with.",
)
@click.option(
    "--chips", type=int, default=20, show_default=True, help="Simulated chips a rate, for ber without --margin."
)
@click.option("--samples", type=int, help="How many faults to draw, evenly from the population.")
@click.option(
    "--margin",
    type=float,
    help="Half-width wanted for SDC-1, a fraction; draws in strata, of ber chips, until reached.  [default: 0.01]",
)
@click.option(
    "--refine",
    type=PATH,
    metavar="RUN",
    help="Go on with a finished campaign that was run with --margin: its faults are kept, and further ones drawn where "
    "roles and larger layers have the widest intervals, until each has --margin, or --samples more; RUN stays as it "
    "is.",
)
@click.option("--exhaustive", is_flag=True, help="Evaluate every fault there is.")
@click.option("--confidence", type=float, default=0.95, show_default=True, help="Coverage of the intervals.")
@click.option(
    "--ecc",
    type=click.Choice(["none", "secded"]),
    default="none",
    show_default=True,
    help="Memory: secded corrects one and detects two flips in 64 bits.",
)
@click.option("--fit-per-mbit", type=float, metavar="R", help="Raw failures in 10^9 hours and 10^6 bits of the memory.")
@click.option(
    "--scrub-hours",
    type=float,
    metavar="T",
    help="With --fit-per-mbit: hours after which the stored file is made sound again (healed by scrub, or written "
    "anew), which bounds how many flips gather in one word of a code.",
)
@click.option(
    "--lifetime-hours",
    type=float,
    default=87_600.0,
    show_default=True,
    metavar="L",
    help="Hours that flips gather where it never is, to compare --scrub-hours with.",
)
@click.option(
    "--failing-share",
    type=float,
    default=0.01,
    show_default=True,
    metavar="SHARE",
    help="Count in the exposure, beside faults that change any answer, those that change more than this share.",
)
@click.option("--time-limit", type=float, metavar="S", help="Seconds before a run counts as due.  [default: none]")
@click.option(
    "--engine",
    type=click.Choice(["replay", "reload"]),
    default="replay",
    show_default=True,
    help="reload: every fault in a session of its own over all images; replay: the same figures, from what a fault "
    "changes alone.",
)
@click.option(
    "--audit",
    type=float,
    metavar="SHARE",
    help="Share of the faults to run again by reload-and-run and compare bit by bit: 20 at least, and one of each way, "
    "role and layer; 0 for none.  [default: 0.01 with replay]",
)
@click.option("--memory", type=int, metavar="BYTES", default=2_000_000_000, show_default=True, help="Memory to use.")
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Dask scheduler whose workers run the faults, such as tcp://host:8786; local starts one here, with "
    "--workers processes.",
)
@click.option("--provider", "providers", multiple=True, help="onnxruntime provider.  [default: CPUExecutionProvider]")
@click.option(
    "--optimization",
    type=click.Choice(["all", "extended", "basic", "none"]),
    default="all",
    show_default=True,
    help="onnxruntime's graph optimisation, as deployed.",
)
@arithmetic_option
@click.option(
    "--dry-run", is_flag=True, help="Print population, planned faults and an estimate of the time; write nothing."
)
@click.option(
    "--fail-above",
    multiple=True,
    metavar="METRIC[@BER]=BOUND",
    help="Exit 1 if the interval of an outcome ends above a share, such as sdc1=0.01; of ber at every rate, or at one.",
)
@junit_option
@workers_option
@seed_option
@resume_option
def command(model: pathlib.Path, dataset: str, **given: Any) -> None:
    """Flip stored bits of MODEL, run it on test images with onnxruntime, and count what happens.

    \b
    Examples:
      resq-deploy faultcamp net.int8.onnx --dataset digits --samples 200 --out run
      resq-deploy faultcamp net.int8.onnx --dataset cifar10 --data-dir data --margin 0.02 --out run
      resq-deploy faultcamp net.int8.onnx --dataset cifar10 --faults ber --ber 1e-4,1e-3,1e-2 --out run
      resq-deploy faultcamp net.int8.onnx --dataset cifar10 --faults ber --ber 1e-5,3e-4 --draw layers --out even
      resq-deploy faultcamp net.int8.onnx --dataset digits --fault-list run/faults.csv --out again
      resq-deploy faultcamp net.int8.onnx --dataset digits --out run --margin 0.005 --fail-above sdc1=0.01
      resq-deploy faultcamp net.int8.onnx --dataset digits --faults ber --dry-run --fail-above sdc1@1e-5=0.01
      resq-deploy faultcamp net.int8.onnx --dataset cifar10 --out run --scheduler tcp://host:8786
      resq-deploy faultcamp net.int8.onnx --dataset digits --refine run --margin 0.02 --out finer
    """
    data_dir, out, resume, dry_run = (given.pop(name) for name in ("data_dir", "out", "resume", "dry_run"))
    given_gates, refine, junit = (given.pop(name) for name in ("fail_above", "refine", "junit"))
    if out is None and not dry_run:
        raise click.UsageError("Missing option '--out'.", click.get_current_context())
    from resq_deploy.campaign.gates import needs, parse_gate
    from resq_deploy.campaign.refine import Base
    from resq_deploy.campaign.run import Campaign
    from resq_deploy.data import load_dataset
    from resq_deploy.deployed.model import DeployedModel
    from resq_deploy.deployed.sidecar import made_ready

    gates = [parse_gate(text) for text in given_gates]
    asked = read_preprocessing(given)
    options = read_options(given)
    deployed = DeployedModel.load(model)
    data = load_dataset(dataset, data_dir)
    data, options, notes = made_ready(options, deployed, data, asked.on(data))
    base = None if refine is None else Base.read(refine)
    if base is not None:
        options = base.refined(options)
    held = () if dry_run else gates  # a dry run says what they need instead
    campaign = Campaign(deployed, data, options, lambda text: click.echo(text, err=True), held, base)
    for line in notes:
        click.echo(line, err=True)
    tell_accuracy(deployed, data, campaign.golden.right, campaign.golden.labels)
    told = needs(gates, campaign.plan)
    if dry_run:
        _print_plan(campaign.estimate())
        for need in told:
            click.echo(f"{need}{'' if need.reachable else ': it cannot pass'}")
        return
    tell_arithmetic(options.deployment)
    for need in told:
        if need.margin is not None and need.gate.bound <= need.margin:
            click.echo(f"note: {need}, which may leave its upper end above the bound: give a lower --margin", err=True)
    with junit_file(junit, f"faultcamp {model.name}") as cases:
        summary = _run(campaign, out, resume)
        _print(summary, out)
        held_gates = [_case(gate) for gate in summary["gates"]]
        cases += [*held_gates, _audit_case(summary["audit"], options.confidence)]
        print_gates("--fail-above", held_gates)


def read_options(given: dict[str, Any]) -> "CampaignOptions":
    """Turn the command's options into those of a campaign.

    Raises:
        OptionError: if one, or a combination of them, makes no sense.
    """
    from resq_deploy.campaign.options import (
        CampaignOptions,
        FaultModel,
        parse_bits,
        parse_draw,
        parse_images_per_fault,
        parse_rates,
        parse_roles,
    )
    from resq_deploy.deployed.arithmetic import Arithmetic
    from resq_deploy.deployed.session import Deployment

    read_preprocessing(given)
    listed = given["fault_list"] is not None
    given["deployment"] = Deployment(
        providers=given.pop("providers") or ("CPUExecutionProvider",),
        optimization=given.pop("optimization"),
        arithmetic=Arithmetic(given.pop("arithmetic")),
    )
    if listed and given["faults"]:
        raise OptionError("--fault-list names the faults itself: leave --faults out")
    given["faults"] = FaultModel.LIST if listed else FaultModel(given["faults"] or "single")
    if given["images_per_fault"] is not None:
        given["images_per_fault"] = parse_images_per_fault(given["images_per_fault"])
    given["roles"] = parse_roles(given["roles"])
    given["bits"] = () if given["bits"] is None else parse_bits(given["bits"])
    given["ber"] = parse_rates(given["ber"])
    given["draw"] = parse_draw(given["draw"])
    return CampaignOptions(**given)


def _run(campaign: "Campaign", out: pathlib.Path, resume: bool) -> dict[str, Any]:
    from resq_deploy.campaign.run import Progress

    with progress_bar("faults") as bar:
        task = bar.add_task("faultcamp", total=None)

        def show(progress: Progress) -> None:
            # Bit error rates are never pooled, not even here.
            text = "bit errors" if campaign.plan.masks else f"SDC-1 {100 * progress.sdc1:.2f} %"
            bar.update(task, completed=progress.done, total=progress.total, description=text)

        return campaign.run(out, resume=resume, report=show)


def _print_plan(plan: Mapping[str, Any]) -> None:
    faults = plan["population"]["faults"]
    endless = faults == float("inf")
    click.echo(
        f"population: {'random masks' if endless else f'{faults:,} faults'} over {plan['population']['bits']:,} bits"
    )
    click.echo(
        f"planned: {plan['planned']:,} faults, about {plan['seconds']:,.0f} s at {plan['seconds_per_fault']:.3f} s each"
    )
    images = plan["images"]
    if images["per_fault"] is not None:
        click.echo(f"each is judged on about {images['per_fault']} images of its own, of {images['of']:,}")
    if plan["at_most"] > plan["planned"]:
        click.echo(
            "that is the pilot; what it finds sizes the main phase, which is no smaller. Equation 7 of Leveugle et "
            f"al., for the worst case, would take {plan['at_most']:,} faults, {plan['seconds_at_most']:,.0f} s"
        )


def _print(summary: dict[str, Any], out: pathlib.Path) -> None:
    golden, faults, population = summary["golden"], summary["faults"], summary["population"]
    click.echo(f"golden run: accuracy {percent(golden['accuracy'])} on {golden['images']} images")
    drawn = f" of {population['faults']:,}" if population["faults"] else ""
    how = ", layers drawn evenly" if summary["draw"] == "layers" else ""
    under = "" if "curve" in summary else f"; accuracy under fault {percent(summary['accuracy'])}"
    click.echo(
        f"{faults['evaluated']:,}{drawn} {summary['fault_model']} faults over {population['bits']:,} bits{how}, "
        f"{faults['due']} due{under}"
    )
    if refined := summary["refined"]:
        click.echo(f"{refined['kept']:,} faults were kept, and {refined['added']:,} added; {_widest(summary)}")
    if summary["images"]["not_known"]:
        click.echo(f"{_images(summary['images'])}: {summary['images']['not_known']}")
    if "curve" in summary:
        _print_curve(summary["curve"], how)
    else:
        rates = [(name, percent(summary["rates"][name])) for name in _SHOWN]
        print_table(f"Image runs{how}", ("outcome", "rate"), rates)
        _print_roles(summary, how)
    for where, found in _detections(summary):
        click.echo(f"health output{where}: {percent(found['detected'])} of the faults detected; {_covered(found)}")
    engine, audit = summary["engine"], summary["audit"]
    if engine["fallback"]:
        click.echo(f"evaluated by reload-and-run, as replay cannot be exact here: {engine['fallback']}")
    elif engine["name"] == "replay" and faults["reloaded"]:
        click.echo(f"{faults['reloaded']:,} of the faults were run by reload-and-run: replay is inexact or no faster")
    if audit["checked"]:
        click.echo(_audited(audit, golden["accuracy"]["confidence"]))
    speed = summary["throughput"]
    click.echo(f"{speed['faults_per_s']:.1f} faults/s, {speed['image_runs_per_s']:,.0f} image runs/s; written to {out}")


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


def _audited(audit: Mapping[str, Any], confidence: float) -> str:
    """Return what the audit did, and what it rules out."""
    text = (
        f"audit: {audit['checked']} faults run again ({audit['evenly']} drawn evenly, others so that each of "
        f"{audit['groups']} groups of way, role and layer is visited), {audit['mismatches']} differ"
    )
    if audit["rules_out"] is None:
        return text
    if not audit["rules_out"]:
        return f"{text}; no record was left out"
    return f"{text}; rules out more than {100 * audit['rules_out']:.2g} % wrong records (at {100 * confidence:g} %)"


def _print_curve(curve: Sequence[Mapping[str, Any]], how: str) -> None:
    """Print the figures at each bit error rate: means with intervals for further chips, and the chips drawn."""
    rows = []
    for point in curve:
        spread = point["spread"]["accuracy"]
        quartiles = f"{100 * spread['quarter']:.2f} to {100 * spread['three_quarters']:.2f} %"
        figures = (
            percent(point["accuracy"]),
            f"{100 * point['worst']:.2f} %",
            quartiles,
            percent(point["rates"]["sdc1"]),
        )
        rows.append((f"{point['ber']:g}", *figures, str(point["chips"])))
    headers = ("BER", "accuracy, mean", "worst chip", "quartiles", "SDC-1, mean", "chips")
    print_table(f"Accuracy and SDC-1 over bit error rate{how}", headers, rows)
    click.echo("intervals hold for further chips; worst chip and quartiles describe those drawn")
    due = [f"{percent(point['due'])} at {point['ber']:g}" for point in curve if point["due"]["value"]]
    if due:
        click.echo(f"due, and in no rate but accuracy: {', '.join(due)} of the chips")


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
    print_table(f"SDC-1 by role{how}", headers, rows)
    if not exposure:
        click.echo(f"no exposure: {summary['exposure_reason']}")
        return
    unseen = [role for role, exposed in roles.items() if exposed["wrong_answers"] is None]
    if unseen:
        click.echo(f"no fault fell on {', '.join(unseen)}: draw more, or with --margin, which visits every role")
    _print_exposure(exposure)


def _print_exposure(exposure: Mapping[str, Any]) -> None:
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
        "wrong answers: mean share of image runs with another top-1. Failing faults: change any answer, or over "
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
    return f"{expected['value']:.2e}" if expected["value"] is not None else f"at least {expected['low']:.2e}"


def _failures(found: Mapping[str, Any]) -> str:
    """Write failures in time."""
    if found["value"] is None:
        return f"at least {found['low']:.3g}"
    return f"{found['value']:.3g} [{found['low']:.3g}, {found['high']:.3g}]"


def _audit_case(audit: Mapping[str, Any], confidence: float) -> Case:
    """Say what became of the audit, which is an error of its own where it fails."""
    checked = bool(audit["checked"])
    told = _audited(audit, confidence) if checked else "no fault was audited"
    return Case(name="faults equal reload-and-run", passed=True if checked else None, told=told)


def _case(gate: Mapping[str, Any]) -> Case:
    """Say what became of a gate."""
    at = "" if gate["ber"] is None else f"@{gate['ber']:g}"
    found = percent(gate["estimate"]) if gate["estimate"] else "no fault that could be judged"
    told = f"{found}, bound {100 * gate['bound']:g} %"
    return Case(
        name=f"{gate['metric']}{at}={gate['bound']:g}",
        passed=gate["passed"],
        told=told if gate["passed"] else f"{told}; the upper end is above the bound",
    )
