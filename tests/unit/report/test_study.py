"""The tables of a study, from records as its commands write them."""

import json
import re

import pytest

from resq_deploy.errors import RunFolderError
from resq_deploy.report.document import Commands
from resq_deploy.report.markdown import as_markdown
from resq_deploy.report.page import render
from resq_deploy.report.study import study_csv, study_document
from resq_deploy.report.study_card import cell_card
from resq_deploy.report.study_figures import Metric, change, read_study

CLEAN, ATTACK, FAULT, SDC = (
    Metric(kind="clean"),
    Metric(kind="attack", campaign="pgd", level="4", norm="linf"),
    Metric(kind="fault", campaign="chips", level="0.001"),
    Metric(kind="sdc", campaign="flips"),
)


def estimate(value, spread=0.02, n=100):
    return {"value": value, "low": value - spread, "high": value + spread, "n": n, "confidence": 0.95}


def record(folder, path, value):
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(json.dumps(value))
    return {"seconds": 36.0, "wrote": [path]}


def cell(folder, variant, seed, figures, *, trustworthy=True):
    """Write the records of a cell that is done; figures: clean, attack, fault, SDC."""
    clean, attack, fault, sdc = figures
    home = f"net/set/seed-{seed}/{variant}"
    steps = {
        f"{home}/net.int8.onnx": ("export-int8", "net.int8.json", {"accuracy": {"int8": estimate(clean)}}),
        f"{home}/attackcamp-pgd": (
            "attackcamp",
            "attackcamp-pgd/summary.json",
            {"threat": {"norm": "linf"}, "worst_case": {"4": estimate(attack)}, "trustworthy": trustworthy},
        ),
        f"{home}/faultcamp-chips": (
            "faultcamp",
            "faultcamp-chips/summary.json",
            {"curve": [{"ber": 1e-3, "accuracy": estimate(fault)}]},
        ),
        f"{home}/faultcamp-flips": (
            "faultcamp",
            "faultcamp-flips/summary.json",
            {"rates": {"sdc1": estimate(sdc, 0.001)}},
        ),
    }
    done = {
        name: {"command": command, **record(folder, f"{home}/{file}", value)}
        for name, (command, file, value) in steps.items()
    }
    done[f"{home}/net.int8.onnx"]["wrote"].insert(0, f"{home}/net.int8.onnx")
    return {
        "network": "net",
        "dataset": "set",
        "variant": variant,
        "seed": seed,
        "folder": home,
        "status": "done",
        "steps": done,
    }


def written(folder, cells):
    axes = {
        f"{axis}s": list(dict.fromkeys(one[axis] for one in cells))
        for axis in ("network", "dataset", "variant", "seed")
    }
    summary = {"schema": 1, "title": "A study", "profile": None, **axes, "cells": cells, "failed": {}}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "manifest.json").write_text(json.dumps({"schema": 1, "command": "study"}))
    return read_study(folder)


def left_out(variant, seed, status="not run"):
    return {
        "network": "net",
        "dataset": "set",
        "variant": variant,
        "seed": seed,
        "folder": f"net/set/seed-{seed}/{variant}",
        "status": status,
        "steps": {},
    }


@pytest.fixture
def two_seeds(tmp_path):
    return written(
        tmp_path,
        [
            cell(tmp_path, "baseline", 0, (0.90, 0.00, 0.60, 0.004)),
            cell(tmp_path, "attack+fault", 0, (0.86, 0.40, 0.80, 0.002)),
            cell(tmp_path, "baseline", 1, (0.92, 0.02, 0.50, 0.004), trustworthy=None),
            cell(tmp_path, "attack+fault", 1, (0.87, 0.44, 0.80, 0.001), trustworthy=False),
        ],
    )


def test_figures_are_those_of_the_records(two_seeds):
    _, (baseline, both) = two_seeds
    assert set(baseline.seeds) == {0, 1}
    assert {metric: found.value for metric, found in both.seeds[1].items()} == {
        CLEAN: 0.87,
        ATTACK: 0.44,
        FAULT: 0.80,
        SDC: 0.001,
    }
    assert baseline.seconds == 8 * 36.0
    assert (baseline.untrusted, both.untrusted) == ((), (1,))
    assert (baseline.unchecked, both.unchecked) == ((1,), ())


def test_seeds_are_averaged_with_their_own_spread(two_seeds):
    _, (baseline, _) = two_seeds
    mean = baseline.mean(FAULT)
    assert mean.value == pytest.approx(0.55)
    assert mean.n == 2
    assert mean.high - mean.value == pytest.approx(min(12.7062 * 0.05, 0.45), rel=1e-4)  # t(0.975, 1) s / sqrt(2)


def test_changes_are_paired_by_seed(two_seeds):
    _, (baseline, both) = two_seeds
    gain = change(baseline, both, ATTACK)
    assert gain.value == pytest.approx(0.41)
    assert gain.high - gain.value == pytest.approx(12.7062 * 0.01, rel=1e-4)


def test_seeds_that_agree_to_the_last_digit_keep_the_widest_interval_of_their_own(tmp_path):
    figures = (0.90, 0.00, 0.60, 0.004)
    cells = [cell(tmp_path, variant, seed, figures) for variant in ("baseline", "fault") for seed in (0, 1)]
    _, (baseline, fault) = written(tmp_path, cells)
    assert baseline.mean(ATTACK).as_dict() == estimate(0.0)
    shift = change(baseline, fault, ATTACK)
    assert (shift.value, shift.low, shift.high) == pytest.approx((0.0, -0.02 * 2**0.5, 0.02 * 2**0.5))


def test_changes_that_differ_by_rounding_alone_agree(tmp_path):
    """0.3 - 0.1 and 0.4 - 0.2 are two floats."""
    cells = [
        cell(tmp_path, variant, seed, (0.9, 0.0, before + gain, 0.004))
        for seed, before in enumerate((0.1, 0.2))
        for variant, gain in (("baseline", 0.0), ("fault", 0.2))
    ]
    shift = change(*written(tmp_path, cells)[1], FAULT)
    assert (shift.value, shift.high) == pytest.approx((0.2, 0.2 + 0.02 * 2**0.5))


def test_corners_with_fewer_seeds_say_so(tmp_path):
    figures = (0.90, 0.00, 0.60, 0.004)
    cells = [cell(tmp_path, "baseline", seed, figures) for seed in (0, 1)] + [cell(tmp_path, "fault", 0, figures)]
    *_, table, _, _ = study_document(*written(tmp_path, cells)).sections
    assert table.topic == "2 seeds"
    assert table.blocks[0].headers == ["", "baseline, 2 seeds", "fault, 1 seed"]


def test_one_seed_keeps_its_own_interval(tmp_path):
    _, (baseline, both) = written(
        tmp_path,
        [
            cell(tmp_path, "baseline", 0, (0.90, 0.00, 0.60, 0.004)),
            cell(tmp_path, "attack+fault", 0, (0.86, 0.40, 0.80, 0.002)),
            left_out("attack+fault", 1, "failed"),
        ],
    )
    assert baseline.mean(FAULT).as_dict() == estimate(0.60)
    gain = change(baseline, both, FAULT)
    assert (gain.value, gain.low) == pytest.approx((0.2, 0.2 - 0.02 * 2**0.5))
    assert both.failed == 1


def test_the_document_says_what_was_not_run_and_not_trusted(two_seeds, tmp_path):
    summary, corners = two_seeds
    document = study_document(summary, corners)
    texts = json.dumps([[getattr(block, "text", "") for block in section.blocks] for section in document.sections])
    assert "not to be trusted in: net, set, attack+fault" in texts
    scope, paper, effect, table, choices, _ = document.sections
    assert (effect.topic, choices.title) == ("Stage by stage", "Which images chose what")
    first = document.verdict.statements[0]
    assert (first.tone, first.about) == ("alarm", "net on set, attack+fault")
    told = document.verdict.statements[-1].text
    assert "attack resilience" not in told  # which failed a check
    assert re.search(r"fault resilience by \+\S+ \[\S+, \S+\] points at bit error rate 0.001\.$", told)
    assert scope.title == "4 of 4 cells were run"
    rows = paper.blocks[-1].rows
    assert rows[0][0] == "net, set"
    assert rows[0][2].startswith("+41.0 [")
    assert rows[-1][2:] == ["+10.35", "+12.47"]
    assert table.blocks[0].headers == ["", "baseline", "attack+fault"]
    assert table.blocks[0].rows[1][0] == "accuracy under attack, 4/255 Linf, pgd"
    assert "at 4/255 Linf" in rows[0][2]
    assert table.blocks[1].headers == ["change, in points", "both stages"]


def test_all_three_stages_stand_beside_the_paper_where_they_were_run(tmp_path):
    summary, corners = written(
        tmp_path,
        [
            cell(tmp_path, "baseline", 0, (0.90, 0.00, 0.60, 0.004)),
            cell(tmp_path, "attack+fault", 0, (0.86, 0.40, 0.80, 0.002)),
            cell(tmp_path, "resq", 0, (0.85, 0.39, 0.84, 0.001)),
        ],
    )
    document = study_document(summary, corners)
    _, paper, _, table, _, _ = document.sections
    (statement,) = document.verdict.statements
    assert statement.label == "One seed"
    assert statement.text.startswith("All stages together changed accuracy without attack or fault by -5.0 [")
    assert [row.partition(" [")[0] for row in paper.blocks[-1].rows[0][1:]] == ["-5.0", "+39.0", "+24.0"]
    assert table.blocks[1].headers[1:] == ["both stages", "stage 3 after both", "all three stages"]


def test_cells_that_were_not_run_are_marked(tmp_path):
    summary, corners = written(tmp_path, [left_out("baseline", 0), left_out("attack+fault", 0, "failed")])
    document = study_document(summary, corners)
    assert document.sections[0].title == "0 of 2 cells were run"
    assert [row[1] for row in document.sections[0].blocks[0].rows] == ["not run", "failed"]
    assert [row[1:] for row in document.sections[1].blocks[-1].rows[:1]] == [["not run"] * 3]


def test_a_campaign_of_another_confidence_is_not_called_95_percent(tmp_path):
    one = cell(tmp_path, "baseline", 0, (0.90, 0.00, 0.60, 0.004))
    path = tmp_path / one["folder"] / "attackcamp-pgd" / "summary.json"
    path.write_text(path.read_text().replace('"confidence": 0.95', '"confidence": 0.6'))
    summary, corners = written(tmp_path, [one])
    assert "with its interval (60 % or 95 %)" in study_document(summary, corners).lead


def test_rows(two_seeds):
    _, corners = two_seeds
    lines = study_csv(corners).splitlines()
    assert len(lines) == 1 + 4 * 4
    assert lines[2] == "net,set,baseline,0,attack,pgd,4,0.0,-0.02,0.02,100,0.95,linf,"


def test_a_broken_record_is_one_line(tmp_path):
    one = cell(tmp_path, "baseline", 0, (0.9, 0.0, 0.6, 0.004))
    (tmp_path / one["folder"] / "net.int8.json").write_text("{}")
    with pytest.raises(RunFolderError, match="is broken or half-written"):
        written(tmp_path, [one])


def test_another_command_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": 1, "command": "train"}))
    with pytest.raises(RunFolderError, match="is not a run of study"):
        read_study(tmp_path)


def test_each_cell_that_is_done_has_a_command_and_a_card(tmp_path):
    one = cell(tmp_path, "baseline", 0, (0.90, 0.00, 0.60, 0.004))
    sidecar = tmp_path / one["folder"] / "net.int8.json"
    known = {"model": {"sha256": "ab12", "bytes": 1234}, "dataset": {"name": "set", "test_sha256": "cd34"}}
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | known))
    line = "resq-deploy study my.toml --cells net_1/set/seed-0/baseline --out remade"
    one["remade"] = {"by": line, "steps": ["resq-deploy train --out remade/train"]}
    summary, corners = written(tmp_path, [one, left_out("attack", 0) | {"remade": {"by": "never", "steps": []}}])
    page, text = study_document(summary, corners), as_markdown(cell_card(tmp_path, one))
    (commands,) = [block for block in page.sections[0].blocks if isinstance(block, Commands)]
    assert list(commands.lines) == [line]
    assert f"```sh\n{line}\n```" in as_markdown(page)  # to the letter, no underscore escaped
    assert f"<pre>{line}</pre>" in render(page)
    assert f"```sh\n{line}\n```" in text
    assert "resq-deploy train --out remade/train" in text
    assert "SHA-256 ab12, of 1,234 bytes. Test images of set, SHA-256 cd34" in text
    assert "| accuracy at bit error rate 0.001, chips | 60.0 % \\[58.0, 62.0\\] | 100 |" in text
    assert "Validation images, which are held out" in text
