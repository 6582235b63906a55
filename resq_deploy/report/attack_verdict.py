"""What attack campaigns show, in plain words: of which attacks, as a bound or not, and whether it can be trusted."""

from collections.abc import Iterator, Sequence

from resq_deploy.report.attack_sections import radius
from resq_deploy.report.corruption_section import CORRUPTIONS, corruption_statement, gate_words
from resq_deploy.report.document import Statement, Tone
from resq_deploy.report.runs import Run
from resq_deploy.report.text import at_least, at_most, listed, percent, quantity, share
from resq_deploy.report.wide import too_wide

_NAMES = {
    "square": "Square",
    "hopskipjump": "HopSkipJump",
    "transfer-pgd": "PGD on the float network",
    "twin-pgd": "PGD with the file's own gradients",
    "twin-apgd": "APGD with the file's own gradients",
}


def attack_statements(run: Run) -> Iterator[Statement]:
    """Yield what an attack campaign shows of its file; that its figures must not be used, if that is so."""
    summary = run.summary
    failed = [name for name, check in summary["checks"].items() if check["passed"] is False]
    unsound = summary["trustworthy"] is False or bool(failed)
    if unsound:
        reasons = [f"{name}: {summary['checks'][name]['reason']}" for name in failed]
        yield Statement(
            about=run.file,
            tone=Tone.ALARM,
            label="Do not use",
            text=f"The accuracy under attack of {run.label} is not to be trusted and may be far too high: the attacks "
            f"did not pass {'their checks' if failed[1:] or not failed else 'a check'}.",
            reservations=reasons,
        )
    yield from _gates(run)
    if summary["worst_case"] and not unsound:
        yield _robust(run)
    if summary.get(CORRUPTIONS):
        yield corruption_statement(run)
    if summary.get("bit_flip"):
        yield _bit_flip(run)


def _robust(run: Run) -> Statement:
    """Say how many images are answered right under the attacks that were tried, never of all there are."""
    summary = run.summary
    epsilon = max(summary["worst_case"], key=float)
    worst, names = summary["worst_case"][epsilon], list(summary["robust"])
    attacks = listed([_name(name) for name in names])
    tried = f"under attack within {radius(run, epsilon)}"
    of = f"{percent(worst)} of {worst['n']:,} images"
    without = f"{share(summary['clean']['value'])} without attack"
    if too_wide(worst):
        text = f"{worst['n']} images are too few to tell: {of} are answered right {tried} ({attacks}; {without})."
        return _statement(run, Tone.OPEN, "Too few images to tell", text)
    if worst["high"] < summary["clean"]["value"] / 2:
        text = f"At most {at_most(worst['high'])} of the images are answered right {tried} (measured: {of}; {without}; "
        return _statement(run, Tone.HARM, "Does not withstand", f"{text}by {attacks}).")
    if summary.get("upper_bound"):
        text = (
            f"At most {of} are answered right {tried}: {attacks} only, an upper bound ({without}). An attacker with "
            "the file's gradients may leave far fewer."
        )
        return _statement(run, Tone.OPEN, "Upper bound", text)
    tries = f"{of} are answered right whatever {attacks} tried within {radius(run, epsilon)} ({without})"
    if summary["trustworthy"]:
        text = f"{tries}: at least {at_least(worst['low'])}. All checks that the attacks were sound passed."
        other = "Of these attacks alone: another one, or more steps, may leave fewer"
        return _statement(run, Tone.SHOWN, "Shown against these attacks", text, [other])
    missing = listed(summary.get("trustworthy_missing") or ["some checks"])
    text = f"{tries}. It was not shown to be trustworthy: of the checks for masked gradients, {missing} did not run."
    return _statement(run, Tone.OPEN, "Not checked", text)


def _name(attack: str) -> str:
    base = attack.removesuffix("-unmasked")
    return _NAMES.get(base, base) + (", passed through what saturates" if base != attack else "")


def _gates(run: Run) -> Iterator[Statement]:
    """Yield the bounds that were asked for, and whether they hold."""
    for gate in run.summary.get("gates", ()):
        asked = "Trustworthy attacks"
        if gate["bound"] is not None:
            under = f" under attack within {radius(run, gate['epsilon'])}" if gate["epsilon"] else " without attack"
            under = f" under corruptions{gate_words(gate)}" if gate["metric"] == CORRUPTIONS else under
            asked = f"Accuracy{under} of at least {share(gate['bound'])}"
        found = [f"its interval begins at {at_least(gate['estimate']['low'])}"] if gate["estimate"] else []
        told = "; ".join([*found, *filter(None, [gate["reason"]])]) or "all checks passed"
        met = "Asked for, and met" if gate["passed"] else "Asked for, and not met"
        yield _statement(run, Tone.SHOWN if gate["passed"] else Tone.FAILED, met, f"{asked}: {told}.")


def _bit_flip(run: Run) -> Statement:
    """Say how few chosen flips ruin the file."""
    found = run.summary["bit_flip"]
    flips, accuracy = found["flips"], found["accuracy"]
    text = (
        f"An attacker who may choose the bits brings accuracy to {percent(accuracy)} with {quantity(flips)} flips, "
        f"the mean of {flips['n']} attempts."
    )
    censored = flips.get("censored")
    given_up = [f"{censored} of {flips['n']} attempts were given up before their goal"] if censored else []
    return _statement(run, Tone.OPEN, "Upper bound", text, [*given_up, "A better search may need fewer"])


def _statement(run: Run, tone: Tone, label: str, text: str, reservations: Sequence[str] = ()) -> Statement:
    return Statement(about=run.file, tone=tone, label=label, text=text, reservations=reservations)
