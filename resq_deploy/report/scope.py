"""What a report does not say: threats no run covered, as plainly as what was tested."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from resq_deploy.report.runs import Run, of_command, subsampled
from resq_deploy.report.task import synthetic, task_of
from resq_deploy.report.text import count, listed, share, short

OUT_OF_SCOPE = "Transient faults in activations, in the arithmetic, and in memory after the file was loaded."
FAULT_MODELS = ("single", "ber", "burst", "stuck-at-0", "stuck-at-1", "word", "cluster")
_NAMED = 10
ATTACKS = ("square", "hopskipjump", "transfer-pgd", "twin-pgd", "twin-apgd", "bit-flip")


def not_tested(runs: Sequence[Run]) -> list[str]:
    """Return plain statements of what the runs did not test, one for each file, and what no run can test."""
    campaigns = [run for run in runs if run.model is not None]
    said = [OUT_OF_SCOPE]
    for file in dict.fromkeys(run.model for run in campaigns):
        on_file = [run for run in campaigns if run.model == file]
        said.append(f"{on_file[0].file} ({short(file)}): {'; '.join([*_faults(on_file), *_attacks(on_file)])}.")
    if not campaigns:
        said.append("Any deployed file: only float networks, during training.")
    return said


def _faults(on_file: Sequence[Run]) -> Iterator[str]:
    runs = of_command(on_file, "faultcamp")
    if not runs:
        yield "no faults in stored bits"
        return
    left = [model for model in FAULT_MODELS if model not in {run.summary["fault_model"] for run in runs}]
    if left:
        yield f"no faults of the models {listed(left, 'or')}"
    for run in runs:
        yield from _unseen_layers(run, runs)
        if subsampled(run):
            yield f"in {run.label}, no fault on all {task_of(run).units}: {run.summary['images']['not_known']}"
        options = run.options
        if options.get("roles"):
            yield f"in {run.label}, no faults in roles other than {listed(options['roles'])}"
        if options.get("layers", "*") != "*":
            yield f"in {run.label}, no faults in layers that do not match {options['layers']!r}"
        if options.get("bits"):
            yield f"in {run.label}, no faults at bits other than {listed(options['bits'])}"
        yield from _unaudited(run)
        roles = (run.summary["exposure"] or {"roles": {}})["roles"]
        unseen = [role for role, found in roles.items() if not found["wrong_answers"]]
        if unseen:
            yield f"in {run.label}, no fault fell on {listed(unseen)}"
        if run.summary["exposure_reason"] and "curve" not in run.summary:
            yield f"in {run.label}, no exposure: {run.summary['exposure_reason']}"
    left_out = [run.summary["population"].get("left_out") for run in runs]
    if known := next(filter(None, left_out), None):
        yield _left_out(known)
    most = max(runs, key=lambda run: run.summary["golden"]["images"])
    yield f"no more than {count(most.summary['golden']['images'], task_of(most).units)} under faults"
    for run in runs:
        if synthetic(run):
            yield f"in {run.label}, inputs are synthetic: nothing is known of its answers to real ones"


def _unaudited(run: Run) -> Iterator[str]:
    """Say what no audit ruled out of the records that rest on more than reload-and-run."""
    audit = run.summary["audit"]
    if not audit["checked"] and run.summary.get("engine", {}).get("name") == "replay":
        yield f"in {run.label}, no fault was audited by reload-and-run"
    elif audit.get("rules_out"):
        wrong = share(audit["rules_out"])
        yield f"in {run.label}, the audit does not rule out that up to {wrong} of the faults have a wrong record"


def _left_out(values: Sequence[Mapping[str, Any]]) -> str:
    """Say what the file stores that no fault was tried in, by reason."""
    bits: Counter[str] = Counter()
    for value in values:
        bits[str(value["reason"])] += int(value["bits"])
    reasons = "; ".join(f"{reason}, {count(size, 'bits')}" for reason, size in bits.items())
    return f"no faults in {count(len(values), 'stored values')} that are left out ({reasons})"


def _unseen_layers(run: Run, on_file: Sequence[Run]) -> Iterator[str]:
    """Name the layers no fault fell on: of those the campaign could hit, or that others of its kind did hit."""
    if "by_layer" not in run.summary or run.summary["fault_model"] == "list":
        return
    alike = [other for other in on_file if "by_layer" in other.summary and _chosen(other) == _chosen(run)]
    known = run.summary["population"].get("layers") or [layer for one in alike for layer in one.summary["by_layer"]]
    unseen = [layer for layer in dict.fromkeys(known) if layer not in run.summary["by_layer"]]
    if unseen:
        more = [f"{len(unseen) - _NAMED} more"] if len(unseen) > _NAMED else []
        yield f"in {run.label}, no fault fell on {'layer' if unseen[1:] == [] else 'layers'} " + listed(
            [*unseen[:_NAMED], *more]
        )


def _chosen(run: Run) -> tuple[object, ...]:
    return tuple(run.options.get(name) for name in ("roles", "layers", "bits"))


def _attacks(on_file: Sequence[Run]) -> Iterator[str]:
    runs = of_command(on_file, "attackcamp")
    if not runs:
        yield "no attacks"
        return
    done = {attack for run in runs for attack in run.options.get("attacks", run.summary["robust"])}
    left = [attack for attack in ATTACKS if attack not in done]
    if left:
        yield f"no attacks by {listed(left, 'or')}"
    if "corruptions" not in done:
        yield "no corruptions, such as noise, blur and fog"
    yield f"no more than {count(max(run.summary['clean']['n'] for run in runs), 'images')} under attack"
    norms = {run.options.get("norm", "linf") for run in runs if run.summary["worst_case"]}
    if norms and norms != {"linf", "l2"}:
        yield f"no attacks bounded in {'L2' if 'linf' in norms else 'Linf'}"
