import json
import re

import pytest

from resq_deploy.campaign.options import FaultModel
from resq_deploy.report.build import document, gather
from resq_deploy.report.document import Dots, HeatMap, Lines, Notice, Table
from resq_deploy.report.markdown import as_markdown
from resq_deploy.report.page import render
from resq_deploy.report.scope import not_tested
from resq_deploy.report.text import percent, quantity


def section(report, topic, start=""):
    return next(s for s in report.sections if s.topic == topic and s.title.startswith(start))


def tables(found):
    return [block for block in found.blocks if isinstance(block, Table)]


def plots(found, kind):
    return [block for block in found.blocks if isinstance(block, kind)]


@pytest.fixture(scope="module")
def report(everything):
    return document(gather(everything))


def test_a_mixture_of_runs_has_every_part(report):
    topics = [found.topic for found in report.sections]
    for topic in ("Overview", "Bit errors", "Outcomes", "Exposure", "Layers and bits", "Attacks", "Comparison"):
        assert topic in topics
    assert topics[-3:] == ["Limits", "Provenance", "Glossary"]
    assert {"Stage by stage", "Critical layers"} <= set(topics)
    assert report.lead.startswith("6 runs on 2 deployed files (digits.int8.onnx and coarse.int8.onnx).")


def test_titles_tell_the_figures_of_the_summaries(report, curve, coarse_curve):
    ends = [json.loads((run / "summary.json").read_text())["curve"][-1] for run in (curve, coarse_curve)]
    told = [percent(end["accuracy"]) for end in ends]
    assert section(report, "Bit errors").title == (
        f"At a bit error rate of 3e-2, accuracy is {told[0]} (curve) and {told[1]} (coarse-curve)"
    )


def test_the_curve_shows_every_chip_with_band_and_mean(report):
    (lines,) = plots(section(report, "Bit errors"), Lines)
    assert [series.name for series in lines.series] == ["curve", "coarse-curve"]
    assert [len(series.dots) for series in lines.series] == [8, 8]
    assert all(len(series.x) == 2 and series.estimates[0]["n"] == 4 for series in lines.series)


def test_each_bit_error_rate_has_all_outcomes_and_none_is_pooled(report, curve):
    points = json.loads((curve / "summary.json").read_text())["curve"]
    main, few, rates, _ = tables(section(report, "Bit errors"))
    assert [row[0] for row in main.rows] == ["fault-free"]
    assert few.folded == "2 of 3 rows: too few chips to tell (intervals wider than 50 points)"
    assert [row[0] for row in few.rows] == ["1e-3", "3e-2"]
    assert rates.headers == ["outcome", "meaning", "at 1e-3", "at 3e-2"]
    sdc1 = next(row for row in rates.rows if row[0] == "sdc1")
    assert sdc1[2:] == [percent(point["rates"]["sdc1"]) for point in points]
    assert main.headers[1:4] == ["curve", "curve, worst chip", "curve, quartiles of the chips"]
    pooled = percent(json.loads((curve / "summary.json").read_text()).get("accuracy"))
    assert pooled == "-"


def test_gates_stand_on_top_and_failed_ones_cannot_be_overlooked(single, copied):
    folder = copied(single)
    summary = json.loads((folder / "summary.json").read_text())
    sdc1 = summary["rates"]["sdc1"]
    summary["gates"] = [
        {"metric": "sdc1", "ber": None, "bound": bound, "estimate": sdc1, "passed": passed}
        for bound, passed in ((0.5, True), (1e-4, False))
    ]
    (folder / "summary.json").write_text(json.dumps(summary))
    first = document(gather([folder])).sections[0]
    assert [row[1:] for row in tables(first)[-1].rows] == [
        ["sdc1", "at most 50 %", percent(sdc1), "passed"],
        ["sdc1", "at most 0.01 %", percent(sdc1), "FAILED"],
    ]
    assert [block.text for block in first.blocks if isinstance(block, Notice)] == [
        "single: the figures are not within the bounds asked for sdc1"
    ]


def test_gates_of_attacks_stand_there_as_well(attack_folder, tmp_path):
    folder = attack_folder(tmp_path / "gated", "0" * 64)
    summary = json.loads((folder / "summary.json").read_text())
    worst = summary["worst_case"]["4"]
    robust = {"metric": "robust", "epsilon": "4", "bound": 0.4, "estimate": worst, "passed": False, "reason": "below"}
    trust = {**robust, "metric": "trustworthy", "epsilon": None, "bound": None, "estimate": None, "reason": "open"}
    (folder / "summary.json").write_text(json.dumps({**summary, "gates": [robust, trust]}))
    first = document(gather([folder])).sections[0]
    assert [row[1:] for row in tables(first)[-1].rows] == [
        ["robust at 4/255 Linf", "at least 40 %", percent(worst), "FAILED"],
        ["trustworthy", "-", "-", "FAILED"],
    ]


def test_outcomes_and_exposure_name_every_rate_with_its_interval(report, single):
    summary = json.loads((single / "summary.json").read_text())
    cells = {row[0]: row[2] for table in tables(section(report, "Outcomes")) for row in table.rows}
    assert cells.keys() == {*summary["rates"], "due", "accuracy"}
    assert cells["sdc1"].startswith(f"{100 * summary['rates']['sdc1']['value']:.1f}"[:3])
    exposure = section(report, "Exposure", "single")
    kinds, *by_role, _ = tables(exposure)
    assert [row[0] for row in kinds.rows] == ["wrong answers", "failing faults", "failing faults, over 1 %", "due"]
    assert kinds.headers[-1] == "in 10^9 hours (FIT), of a memory with 100 FIT in 10^6 bits"
    fit = summary["exposure"]["fit"]["failing_faults"]["total"]
    assert kinds.rows[1][-1] == quantity(fit)
    assert {row[0] for table in by_role for row in table.rows} == set(summary["exposure"]["roles"])
    for table in by_role:  # roles with too few faults are folded away
        found = [summary["exposure"]["roles"][row[0]]["wrong_answers"] for row in table.rows]
        wide = {figure["high"] - figure["low"] > 0.5 for figure in found if figure}
        assert wide <= {bool(table.folded)}


def test_the_heat_map_has_a_mean_for_every_cell_that_was_hit(report, single):
    heat = plots(section(report, "Layers and bits", "single"), HeatMap)[1]
    by_role = json.loads((single / "summary.json").read_text())["by_role"]
    for name, shares, counts in zip(heat.rows, heat.shares, heat.counts, strict=True):
        mean = sum(s * n for s, n in zip(shares, counts, strict=True) if s is not None) / sum(counts)
        assert mean == pytest.approx(by_role[name]["sdc1"]["value"])
        assert sum(counts) == by_role[name]["sdc1"]["n"]


def test_stages_are_joined_to_the_files_made_from_them(report):
    found = section(report, "Stage by stage")
    (table,) = tables(found)
    names = [row[0] for row in table.rows]
    assert names[:3] == ["0 baseline, float", "1 attack, float", "2 fault, float"]
    assert len(names) == 4  # the file whose attacks name fault.pt
    assert table.rows[3][4] == "bit errors at 3e-2"
    assert table.rows[3][6] == "worst case at 4/255 Linf"
    (dots,) = plots(found, Dots)
    assert [series.name for series in dots.series] == ["clean", "under faults", "under attack"]
    assert found.title == (
        "train: from baseline to fault, accuracy under attack changes by +52.0 [+49.2, +54.8] points and clean "
        "accuracy by -4.0 [-6.8, -1.2]"
    )


MODELS = {
    "burst": {"faults": FaultModel.BURST, "samples": 20},
    "word": {"faults": FaultModel.WORD, "samples": 20},
    "stuck": {"faults": FaultModel.STUCK_AT_1, "samples": 20},
    "due": {"samples": 5, "faults": FaultModel.BURST, "ecc": "secded"},
}


@pytest.mark.parametrize("name", [*MODELS, "list"])
def test_every_fault_model_makes_a_page(faultcamp, tmp_path, name):
    if name == "list":
        listed = tmp_path / "faults.csv"
        listed.write_text("fault,tensor,index,bit\na,fc.weight_quantized,3,7\na,conv.weight_quantized,9,6\n")
        folder = faultcamp("page-list", faults=FaultModel.LIST, fault_list=listed)
    else:
        folder = faultcamp(f"page-{name}", **MODELS[name])
    report = document(gather([folder]))
    found = section(report, "Layers and bits")
    assert len(plots(found, HeatMap)) == (0 if name in ("word", "list", "due") else 2)
    assert render(report).count('class="plot"') == sum(len(plots(s, (Dots, HeatMap))) for s in report.sections)
    if name == "due":
        assert "due" in {row[5] for row in tables(found)[-1].rows}
        assert section(report, "Outcomes").title == "No fault could be judged"


def test_a_failed_check_cannot_be_overlooked(attack_folder, tmp_path):
    report = document(gather([attack_folder(tmp_path / "weak", "0" * 64, passed=False)]))
    notices = [block.text for found in report.sections for block in found.blocks if isinstance(block, Notice)]
    assert len(notices) == 2  # on top, and beside the figures
    assert all("not trustworthy" in text and "falls (it rises <b>)" in text for text in notices)
    checks = tables(section(report, "Attacks"))[1]
    assert [row[1] for row in checks.rows] == ["FAILED", "not run"]


def test_robust_accuracy_that_nobody_looked_behind_is_called_so(attack_folder, tmp_path):
    folder = attack_folder(tmp_path / "plain", "0" * 64)
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {"trustworthy": None, "trustworthy_missing": ["chance", "black_box or transfer"]}
    (folder / "summary.json").write_text(json.dumps(summary))
    texts = [block for found in document(gather([folder])).sections for block in found.blocks if isinstance(block, str)]
    told = (
        "Not shown to be trustworthy: of the checks for masked gradients, chance and black_box or transfer did not run."
    )
    assert told in texts


def test_what_an_audit_does_not_rule_out_is_told(single, copied):
    folder = copied(single)
    summary = json.loads((folder / "summary.json").read_text())
    summary["audit"] = {**summary["audit"], "checked": 20, "mismatches": 0, "rules_out": 0.1391}
    (folder / "summary.json").write_text(json.dumps(summary))
    said = " ".join(not_tested(gather([folder]).runs))
    assert "the audit does not rule out that up to 13.9 % of the faults have a wrong record" in said


def test_an_audit_with_differences_cannot_be_overlooked(single, copied):
    folder = copied(single)
    summary = json.loads((folder / "summary.json").read_text())
    summary["audit"] = {**summary["audit"], "checked": 5, "mismatches": 1}
    (folder / "summary.json").write_text(json.dumps(summary))
    first = document(gather([folder])).sections[0]
    assert any(isinstance(block, Notice) and "do not use" in block.text for block in first.blocks)


def test_what_was_not_tested_is_said_plainly(report):
    (bullets,) = [block for block in section(report, "Limits").blocks if not isinstance(block, str)]
    said = "\n".join(bullets.items)
    assert said.startswith("Transient faults in activations, in the arithmetic, and in memory")
    plain, coarse = said.splitlines()[1:]
    assert re.match(
        r"digits.int8.onnx \(\w{12}\): no faults of the models burst, stuck-at-0, stuck-at-1, word or cluster;", plain
    )
    assert "; in curve, no faults in roles other than weight;" in plain
    assert "; no more than 60 images under faults;" in plain
    assert plain.endswith(
        "no attacks by hopskipjump, transfer-pgd, twin-apgd or bit-flip; no corruptions, such as noise, blur and fog; "
        "no more than 100 images under attack; no attacks bounded in L2."
    )
    assert re.match(r"coarse.int8.onnx \(\w{12}\): ", coarse)
    assert coarse.endswith("; no attacks.")


def test_training_alone_makes_a_report(train_folder, sha256, tmp_path):
    base = train_folder(tmp_path / "base", stages=("baseline",))
    init = sha256(base / "baseline.pt")
    resq = train_folder(tmp_path / "resq", stages=("attack", "fault"), init=init)
    report = document(gather([resq, base]))
    found = [s for s in report.sections if s.topic == "Stage by stage"]
    assert len(found) == 1  # one line: the second run began where the first ended
    assert [row[0] for row in tables(found[0])[0].rows] == [
        "0 baseline, float",
        "1 attack, float",
        "2 fault, float",
    ]


def test_a_file_belongs_to_the_checkpoint_its_sidecar_names(train_folder, faultcamp, digits_int8, sha256, tmp_path):
    train = train_folder(tmp_path / "train")
    model = tmp_path / "net.onnx"
    model.write_bytes(digits_int8.read_bytes())
    sidecar = {"model": {"sha256": sha256(model)}, "checkpoint": sha256(train / "attack.pt")}
    model.with_suffix(".json").write_text(json.dumps(sidecar))
    campaign = faultcamp("with-sidecar", model, samples=5)
    report = document(gather([train, campaign]))
    rows = [row[:2] for row in tables(section(report, "Stage by stage"))[0].rows]
    assert rows[2] == ["1 attack, int8", "net.onnx"]


def test_injection_stands_beside_the_layers_training_found_critical(train_folder, faultcamp, tmp_path):
    train = train_folder(tmp_path / "train")
    by_training = json.loads((train / "criticality.json").read_text())
    names = ["conv", "fc", "a", "b"]
    by_training["after"] = [{"layer": name, "gradient": 1 / n, "scaled": n} for n, name in enumerate(names, start=1)]
    (train / "criticality.json").write_text(json.dumps(by_training))
    campaign = faultcamp("single", samples=80, fit_per_mbit=100.0)
    report = document(gather([train, campaign]))
    found = section(report, "Critical layers")
    (norms,) = [block for block in found.blocks if isinstance(block, Dots)]
    assert list(norms.rows) == names
    assert [one["value"] for one in norms.series[0].estimates] == [1.0, 1 / 2, 1 / 3, 1 / 4]
    (table,) = tables(found)
    assert table.headers[:2] == ["rank", "layer"]
    assert len(table.headers) == 4  # two layers in common are too few to rank


def test_markdown_has_the_words_and_tables_and_no_markup_of_runs(report, attack_folder, tmp_path):
    text = as_markdown(report)
    for found in report.sections:
        assert f"## {found.title}".replace("[", "\\[").replace("]", "\\]").replace("_", "\\_") in text
    assert text.count("| --- |") >= sum(len(tables(found)) for found in report.sections)
    weak = as_markdown(document(gather([attack_folder(tmp_path / "weak", "0" * 64, passed=False)])))
    assert "it rises \\<b\\>" in weak
