"""The verdict: sentences made from figures, one case each, and none that says more than the figures do."""

import dataclasses
import pathlib

import pytest

from resq_deploy.faults.statistics import Estimate
from resq_deploy.report import fault_sections
from resq_deploy.report.difference import Comparison, Difference
from resq_deploy.report.document import Tone
from resq_deploy.report.runs import Run
from resq_deploy.report.verdict import verdict_of


def estimate(value, low, high, n=100):
    return {"value": value, "low": low, "high": high, "n": n, "confidence": 0.95}


NONE = estimate(0.0, 0.0, 0.009)


def made(command, summary, label="run", **options):
    manifest = {
        "command": command,
        "options": options,
        "sha256": {"model": "a" * 64},
        "settings": {"model_file": "net.onnx"},
        "versions": {"onnxruntime": "1.32.0", "torch": "2.6"},
        "machine": "x86_64",
        "cpu": "A CPU",
        "cpu_flags": ["avx2"],
    }
    return Run(label=label, path=pathlib.Path(label), manifest=manifest, summary=summary)


def faultcamp(sdc1=(0.007, 0.0021, 0.0216), model="single", due=NONE, **more):
    """A campaign of faults one by one."""
    options = more.pop("options", {})
    rate = None if sdc1 is None else estimate(*sdc1, n=400)
    summary = {
        "fault_model": model,
        "golden": {"accuracy": estimate(0.945, 0.9, 0.97), "images": 200},
        "population": {"faults": 666_792, "bits": 666_792},
        "faults": {"evaluated": 400},
        "rates": {"sdc1": rate, "corrupted": rate},
        "due": due,
        "exposure": None,
        "gates": [],
        "audit": {"checked": 20, "mismatches": 0},
        "engine": {"name": "replay"},
        "arithmetic": {"name": "exact", "cpu_saturates": False},
        **more,
    }
    return made("faultcamp", summary, **options)


def chips(accuracy, clean=0.9, due=NONE, **more):
    points = [
        {"ber": ber, "chips": 20, "accuracy": found, "worst": 0.6, "due": due}
        for ber, found in ((1e-3, estimate(0.88, 0.851, 0.9)), (1e-2, accuracy))
    ]
    golden = {"accuracy": estimate(clean, 0.88, 0.93), "images": 200}
    return faultcamp(model="ber", curve=points, golden=golden, **more)


def attackcamp(worst=(0.785, 0.758, 0.81), trustworthy=None, upper_bound=True, attacks=("square",), **more):
    summary = {
        "clean": estimate(0.87, 0.85, 0.89, n=1000),
        "robust": {name: {} for name in attacks},
        "worst_case": {"2": estimate(0.8, 0.78, 0.82, n=1000), "4": estimate(*worst, n=1000)},
        "checks": {},
        "trustworthy": trustworthy,
        "trustworthy_missing": ["chance", "black_box or transfer"],
        "upper_bound": upper_bound,
        **more,
    }
    return made("attackcamp", summary)


def said(run):
    """Return the statements about a run: tone, label, text, reservations."""
    return [
        (statement.tone, statement.label, statement.text, list(statement.reservations))
        for statement in verdict_of([run], []).statements
    ]


def one(run):
    (found,) = said(run)
    return found


def test_a_bound_on_changed_answers_is_rounded_outwards():
    tone, label, text, reservations = one(faultcamp())
    assert (tone, label, reservations) == (Tone.SHOWN, "Shown", [])
    assert text == (
        "At most 2.2 % of the images get another answer when one stored bit is flipped, on average over all such "
        "faults (measured: 0.7 % [0.2, 2.2], from 400 of 666,792 such faults, on 200 images)."
    )


def test_faults_that_change_most_answers_are_not_shown_in_green():
    assert one(faultcamp(sdc1=(0.9, 0.8, 0.95), model="list"))[:2] == (Tone.HARM, "Does not withstand")


def test_no_harm_seen_is_no_proof_of_none():
    _, _, text, _ = one(faultcamp(sdc1=(0.0, 0.0, 0.00918)))
    assert text.startswith("None of 400 flipped bits changed an answer. At most 0.92 % of the images get another")


@pytest.mark.parametrize(
    ("model", "options", "when"),
    [
        ("burst", {"burst": 3}, "when 3 adjacent stored bits are flipped,"),
        (
            "stuck-at-1",
            {"roles": ["weight", "zero-point"]},
            "when one stored bit of weight and zero point is stuck at 1",
        ),
        ("word", {}, "when one stored value is replaced,"),
        ("cluster", {}, "when one particle upsets several neighbouring memory cells,"),
        ("list", {}, "when a fault of the list is applied, on average over the 400 faults of it"),
    ],
)
def test_faults_are_called_what_they_are(model, options, when):
    assert when in one(faultcamp(model=model, options=options))[2]


@pytest.mark.parametrize(
    ("summary", "way"),
    [
        ({"flip_direction": "1to0"}, "only from 1 to 0"),
        ({"flip_direction": "1to0:0.8"}, "from 1 to 0 with a probability of 0.8, else from 0 to 1"),
        (
            {"flip_direction": "1to0", "true_cells": "0.5"},
            "only from 1 to 0 in true cells and the other way in anti cells, 0.5 of the cells being true",
        ),
        (
            {"flip_direction": "0to1", "true_cells": "rows:512"},
            "only from 0 to 1 in true cells and the other way in anti cells, 512 rows of each by turns",
        ),
        (
            {"flip_direction": "1to0:0.9", "true_cells": "layout"},
            "in true cells from 1 to 0 with a probability of 0.9, else from 0 to 1, in anti cells the other way round, "
            "which the table of the memory's layout tells apart",
        ),
    ],
)
def test_which_way_bits_flip_is_told_with_every_figure(summary, way):
    strikes = "a strike on a bit that has that value already counts, and changes nothing"
    known = faultcamp(**summary)
    known.summary["population"]["changed"] = 0.4321
    assert f" ({way}: {strikes}, so that 43.2 % of all strikes change their bit), on average" in one(known)[2]
    told = f" ({way}: {strikes})"
    assert f"when one stored bit is flipped{told}, on average" in one(faultcamp(**summary))[2]
    assert (
        f"is struck with a probability of 1e-2 (one in 100){told}, accuracy"
        in one(chips(estimate(0.77, 0.72, 0.8), **summary))[2]
    )
    layers = one(chips(estimate(0.77, 0.72, 0.8), draw="layers", **summary))[2]
    assert f"are drawn in every layer alike{told}, accuracy" in layers
    assert f"; flips {way}; " in fault_sections.tested_row(faultcamp(**summary))[-1]


def test_layers_drawn_alike_are_no_average_over_bits():
    _, _, text, reservations = one(faultcamp(draw="layers"))
    assert "on average over such faults, drawn in every layer alike (measured" in text
    assert reservations == ["Of bits drawn alike it says nothing: small layers weigh as much as large ones"]
    _, _, text, _ = one(chips(estimate(0.77, 0.72, 0.8), draw="layers"))
    assert text.startswith(
        "When so many flips as a bit error rate of 1e-2 makes are drawn in every layer alike, accuracy"
    )


def test_too_few_faults_are_said_to_be_too_few():
    tone, label, text, _ = one(faultcamp(sdc1=(0.3, 0.05, 0.9)))
    assert (tone, label) == (Tone.OPEN, "Too few faults to tell")
    assert "400 faults are too few to tell" in text
    assert "between 5 % and 90 %" in text


def test_faults_that_stop_the_file_are_no_answers():
    due = estimate(1.0, 0.99, 1.0)
    assert one(faultcamp(sdc1=None, due=due))[1] == "Nothing to tell"
    assert one(faultcamp(due=estimate(0.1, 0.05, 0.2)))[3] == [
        "10.0 % [5.0, 20.0] of the faults keep the file from loading or running"
    ]


def test_what_was_left_out_is_a_reservation():
    images = {"per_fault": 20, "not_known": "what fails elsewhere"}
    run = faultcamp(
        images=images,
        design="simple",
        audit={"checked": 0, "mismatches": 0},
        options={"layers": "conv*", "bits": [7], "ecc": "secded"},
    )
    assert one(run)[3] == [
        "Only layers that match 'conv*' were hit",
        "Only bits 7 of each value were hit",
        "The memory is taken to correct one and detect two flips in 64 bits",
        "Each fault was judged on about 20 of 200 images, drawn by seed and fault",
        "No fault was run again by reloading the file (--audit 0)",
    ]


def test_an_audit_that_found_differences_is_all_that_is_said():
    tone, label, text, _ = one(faultcamp(audit={"checked": 20, "mismatches": 2}))
    assert (tone, label) == (Tone.ALARM, "Do not use")
    assert "2 of 20 faults that were run again by reloading the flipped file gave something else" in text


def test_accuracy_under_bit_errors_is_a_lower_bound_over_devices():
    tone, _, text, _ = one(chips(estimate(0.77, 0.7231, 0.8)))
    assert tone is Tone.SHOWN
    assert text == (
        "When every stored bit flips with a probability of 1e-2 (one in 100), accuracy is at least 72.3 % on average "
        "over devices (measured: 77.0 % [72.3, 80.0] over 20 simulated chips; 90 % without faults). The worst chip "
        "drawn had 60 %. At lower rates it is at least 85.1 % at 1e-3."
    )


def test_a_file_that_no_longer_works_is_not_shown_in_green():
    tone, label, text, _ = one(chips(estimate(0.1, 0.07, 0.28)))
    assert (tone, label) == (Tone.HARM, "Does not withstand")
    assert "accuracy falls to at most 28 % on average" in text
    tone, label, *_ = one(chips(estimate(0.6, 0.2, 0.95)))
    assert (tone, label) == (Tone.OPEN, "Too few chips to tell")


DETECTOR = {
    "name": "boxes",
    "outputs": ["boxes"],
    "options": {},
    "reason": "the output is [1, 84, 8400]",
    "ladder": ["masked", "benign", "sdc1", "lost", "moved", "relabelled", "ghost", "nonfinite"],
}


def test_a_detector_loses_detections_and_has_no_classes():
    amounts = {"lost": 0.002, "moved": 0.0, "relabelled": 0.0, "ghost": 0.0005}
    _, _, text, _ = one(faultcamp(judge=DETECTOR, golden={"images": 64}, amounts=amounts, options={"confidence": 0.95}))
    assert text.startswith("At most 2.2 % of the images lose, move or relabel a detection, or show a ghost when one ")
    assert text.endswith("on 64 images). Measured: 2 lost detections and 0.5 ghosts in 1,000 images, on average.")
    assert "accuracy" not in text


def test_quality_under_bit_errors_is_called_by_its_name():
    figure = {"name": "map50", **estimate(0.5, 0.4, 0.55)}
    point = {"ber": 1e-2, "chips": 20, "due": NONE, "quality": figure, "worst": 0.3}
    golden = {"images": 64, "quality": {"name": "map50", "value": 0.61, "n": 64}}
    _, _, text, _ = one(
        faultcamp(model="ber", judge=DETECTOR, golden=golden, curve=[point], options={"confidence": 0.95})
    )
    assert "mAP@50 is at least 40 % on average over devices (measured: 50.0 % [40.0, 55.0] over 20 " in text
    assert "61 % without faults" in text


@pytest.mark.parametrize(
    ("sdc1", "tone", "words"),
    [
        ((0.1, 0.05, 0.2), Tone.SHOWN, "at most 20 % of the samples move further than a relative error of 0.1"),
        ((0.6, 0.4, 0.8), Tone.HARM, "at most 80 % of the samples"),
        ((0.5, 0.1, 0.9), Tone.OPEN, "20 chips are too few to tell."),
        (None, Tone.HARM, "none of 20 simulated chips loads the file any more"),
    ],
)
def test_without_labels_what_changes_is_told(sdc1, tone, words):
    judge = {**DETECTOR, "name": "values", "options": {"bound": 0.1}}
    point = {"ber": 1e-2, "chips": 20, "due": NONE, "rates": {"sdc1": sdc1 and estimate(*sdc1)}}
    run = faultcamp(model="ber", judge=judge, golden={"images": 64}, curve=[point], options={"confidence": 0.95})
    found = one(run)
    assert found[0] is tone
    assert words in found[2]
    assert "accuracy" not in found[2]


def test_synthetic_inputs_sequences_and_samples_set_aside_are_reservations():
    samples = {"synthetic": True, "states": [{"input": "h", "output": "h1"}]}
    run = faultcamp(
        judge={**DETECTOR, "name": "values", "options": {"bound": 0.1}},
        golden={"images": 9, "set_aside": 1},
        data=samples,
    )
    run.manifest["options"]["confidence"] = 0.95
    _, _, text, reservations = one(run)
    assert "on 9 sequences)" in text
    assert [words.split(":")[0] for words in reservations] == [
        "Synthetic inputs",
        "Figures are per sequence",
        "Set aside, as fault-free outputs are not finite",
    ]


def test_what_was_asked_for_comes_first_where_it_is_not_met():
    gates = [
        {"metric": "sdc1", "ber": None, "bound": bound, "estimate": estimate(0.007, 0.002, 0.0216), "passed": passed}
        for bound, passed in ((0.05, True), (0.01, False))
    ]
    found = said(faultcamp(gates=gates))
    assert [(tone, text) for tone, _, text, _ in found][:2] == [
        (Tone.FAILED, "SDC-1 of at most 1 %: its interval ends at 2.2 %."),
        (Tone.SHOWN, "SDC-1 of at most 5 %: its interval ends at 2.2 %."),
    ]


def test_failures_in_time_have_a_bound_where_they_have_an_upper_end():
    fit = {"fit_per_mbit": 50.0, "failing_faults": {"total": estimate(2.79, 2.1, 4.081)}}
    _, (_, _, text, _) = said(faultcamp(exposure={"fit": fit}))
    assert "at most 4.08 times in 10^9 hours (measured: 2.79)" in text
    fit = {"fit_per_mbit": 50.0, "failing_faults": {"total": {"value": None, "low": 1.0, "high": None}}}
    assert len(said(faultcamp(exposure={"fit": fit}))) == 1


@pytest.mark.parametrize(("high", "statements"), [(0.004, 2), (0.9, 1)], ids=["says something", "too wide"])
def test_failures_in_time_that_have_ends_alone_are_told_where_these_say_something(high, statements):
    ends = {"value": None, "low": 0.0, "high": high, "n": 400, "confidence": 0.95}
    fit = {"fit_per_mbit": 50.0, "failing_faults": {"total": {**ends, "low": 1.04, "high": 4.081}}}
    found = said(faultcamp(exposure={"fit": fit, "failing_faults": {"total": ends}}))
    assert len(found) == statements
    assert statements == 1 or "at most 4.08 times in 10^9 hours (at least 1.04)" in found[-1][2]


def test_what_the_file_reports_of_its_faults():
    _, (tone, _, text, _) = said(faultcamp(detection={"diagnostic_coverage": estimate(0.99, 0.9512, 1.0)}))
    assert tone is Tone.SHOWN
    assert "the file's own health output reports at least 95.1 %" in text
    assert len(said(faultcamp(detection={"diagnostic_coverage": None}))) == 1


def corrupted(mean, last=0.3):
    rows = {"fog": {"5": estimate(last + 0.1, 0.1, 0.9)}, "jpeg": {"5": estimate(last, 0.1, 0.9)}}
    found = {"definitions": "CIFAR-10-C", "image_size": [32, 32], "images": 1000, "accuracy": rows, "mean": mean}
    return attackcamp(worst_case={}, robust={}, corruptions={**found, "by_severity": {"5": mean}})


@pytest.mark.parametrize(
    ("ends", "tone", "words"),
    [
        ((0.7, 0.68, 0.72), Tone.SHOWN, "at least 68 % are answered right in the mean (measured: 70.0 % [68.0, 72.0]"),
        ((0.4, 0.38, 0.42), Tone.HARM, "at most 42 % are answered right"),
        ((0.6, 0.2, 0.9), Tone.OPEN, "60.0 % [20.0, 90.0] are answered right in the mean"),
    ],
    ids=str,
)
def test_corruptions_are_a_statement_of_their_own(ends, tone, words):
    found = one(corrupted(estimate(*ends)))
    assert found[0] is tone
    assert words in found[2]
    assert "the least under jpeg at severity 5: 30" in found[2]
    assert "attack" not in found[2]


def test_a_bound_on_corruptions_is_told_with_its_severity():
    gate = {"metric": "corruptions", "epsilon": None, "bound": 0.6, "passed": True, "reason": ""}
    gates = [gate | {"estimate": estimate(0.7, 0.65, 0.75), "severity": severity} for severity in (3, None)]
    texts = [text for _, _, text, _ in said(attackcamp(gates=gates))]
    assert [text.partition(":")[0] for text in texts if "corruptions" in text] == [
        "Accuracy under corruptions at severity 3 of at least 60 %",
        "Accuracy under corruptions of at least 60 %",
    ]


def test_one_black_box_attack_gives_an_upper_bound_and_no_more():
    tone, label, text, _ = one(attackcamp())
    assert (tone, label) == (Tone.OPEN, "Upper bound")
    assert text == (
        "At most 78.5 % [75.8, 81.0] of 1,000 images are answered right under attack within 4/255 Linf: Square only, "
        "an upper bound (87 % without attack). An attacker with the file's gradients may leave far fewer."
    )


@pytest.mark.parametrize(
    ("values", "tone", "words"),
    [
        ({"trustworthy": True}, Tone.SHOWN, "at least 75.8 %. All checks that the attacks were sound passed."),
        (
            {"trustworthy": None},
            Tone.OPEN,
            "not shown to be trustworthy: of the checks for masked gradients, chance and ",
        ),
        ({"trustworthy": True, "worst": (0.02, 0.01, 0.0321)}, Tone.HARM, "At most 3.3 % of the images are answered"),
        ({"trustworthy": True, "worst": (0.5, 0.2, 0.8)}, Tone.OPEN, "1000 images are too few to tell"),
    ],
)
def test_attacks_that_had_the_gradients_are_named_and_never_all(values, tone, words):
    found = one(attackcamp(upper_bound=False, attacks=("square", "twin-pgd"), **values))
    assert found[0] is tone
    assert words in found[2]
    assert "Square and PGD with the file's own gradients" in found[2]
    assert "all attacks" not in found[2]


def test_attacks_that_failed_a_check_are_all_that_is_said():
    checks = {"chance": {"passed": False, "reason": "30 % survive"}, "falls": {"passed": True, "reason": ""}}
    tone, label, text, reservations = one(attackcamp(trustworthy=False, checks=checks))
    assert (tone, label) == (Tone.ALARM, "Do not use")
    assert "78.5" not in text
    assert reservations == ["chance: 30 % survive"]


def test_gates_of_attacks_say_what_they_passed_with():
    gate = {"metric": "robust", "epsilon": "4", "bound": 0.7, "estimate": estimate(0.785, 0.758, 0.81), "passed": True}
    gates = [{**gate, "reason": "an upper bound"}, {**gate, "bound": 0.8, "passed": False, "reason": "it is below"}]
    (failed, _, first, _), (_, _, second, _), _ = said(attackcamp(gates=gates))
    assert failed is Tone.FAILED
    assert first.startswith("Accuracy under attack within 4/255 Linf of at least 80 %: its interval begins at 75.8 %;")
    assert second.endswith("begins at 75.8 %; an upper bound.")


def test_chosen_flips_are_an_upper_bound_of_what_it_takes():
    flips = {"value": 12.0, "low": 8.0, "high": 16.0, "n": 5, "confidence": 0.95, "censored": 1}
    found = {"flips": flips, "accuracy": estimate(0.1, 0.05, 0.2)}
    _, (tone, _, text, reservations) = said(attackcamp(bit_flip=found))
    assert tone is Tone.OPEN
    assert "brings accuracy to 10.0 % [5.0, 20.0] with 12 [8, 16] flips, the mean of 5 attempts" in text
    assert reservations[0] == "1 of 5 attempts were given up before their goal"


def test_an_alarm_leads_whatever_else_was_run():
    good, bad = faultcamp(), dataclasses.replace(faultcamp(audit={"checked": 20, "mismatches": 1}), label="bad")
    assert [statement.tone for statement in verdict_of([good, bad], []).statements] == [Tone.ALARM, Tone.SHOWN]


@pytest.mark.parametrize(
    ("arithmetic", "words"),
    [
        ({"name": "exact", "cpu_saturates": False}, "in exact arithmetic: the same on every CPU."),
        ({"name": "native", "cpu_saturates": True}, "in native, on a CPU that saturates: for such CPUs alone."),
    ],
)
def test_on_which_cpu_and_in_which_arithmetic_is_said(arithmetic, words):
    *_, machine = verdict_of([faultcamp(arithmetic=arithmetic)], []).grounds
    assert machine == f"Run on A CPU, x86_64 (avx2) with onnxruntime 1.32.0, {words}"


def interval(value, low, high):
    return Estimate(value=value, low=low, high=high, n=20, confidence=0.95)


def compared(**values):
    one = interval(0.8, 0.75, 0.85)
    made = Difference(figure="accuracy at 1e-2", first=one, second=one, unit="chips", **values)
    comparison = Comparison(first=faultcamp(), second=faultcamp(), differences=[made], notes=[])
    (statement,) = verdict_of([], [comparison]).statements
    return statement


def test_differences_are_said_only_where_they_are_beyond_chance():
    real = compared(estimate=interval(0.1, 0.02, 0.15), p=0.001, p_images=0.001)
    assert real.text == "Beyond chance, accuracy at 1e-2 is higher (+10.0 [+2.0, +15.0] points)."
    assert real.reservations == []
    few = compared(estimate=interval(-0.1, -0.2, 0.01), p=0.001)
    assert few.text == "Beyond chance, accuracy at 1e-2 is lower (-10.0 [-20.0, +1.0] points)."
    assert [words.split(":")[0] for words in few.reservations] == [
        "Of accuracy at 1e-2",
        "The interval of accuracy at 1e-2, which holds however harm is spread, still includes 0",
    ]
    wrong = faultcamp(audit={"checked": 20, "mismatches": 1})
    spoilt = Comparison(first=faultcamp(), second=wrong, differences=[], notes=[])
    assert verdict_of([], [spoilt]).statements == []
    chance = compared(estimate=interval(0.1, -0.2, 0.3), p=0.4)
    assert (chance.tone, chance.label) == (Tone.OPEN, "No difference shown")
