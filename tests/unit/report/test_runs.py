import csv
import json
import pathlib
import sqlite3

import pytest

from resq_deploy.errors import RunFolderError
from resq_deploy.records import write_json
from resq_deploy.report.build import document, gather
from resq_deploy.report.page import render
from resq_deploy.report.runs import load_runs


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    write_json(path, value)


def test_runs_are_called_by_as_much_of_their_path_as_tells_them_apart(single, copied):
    copy = copied(single)
    assert [run.label for run in load_runs([single])] == ["single"]
    assert [run.label for run in load_runs([single, copy])] == [
        f"{folder.parent.name}/{folder.name}" for folder in (single, copy)
    ]


def test_a_folder_of_run_folders_stands_for_those(single, curve, tmp_path):
    write_json(tmp_path / "manifest.json", {"schema": 1, "command": "demo"})
    for run in (single, curve):
        (tmp_path / run.name).symlink_to(run)
    assert [run.label for run in load_runs([tmp_path])] == ["curve", "single"]


def test_a_run_of_another_command_is_named(tmp_path):
    write_json(tmp_path / "manifest.json", {"schema": 1, "command": "cook"})
    with pytest.raises(RunFolderError, match="is a run of 'cook': report reads run folders of train, faultcamp"):
        load_runs([tmp_path])


def test_no_run_counts_twice(single):
    with pytest.raises(RunFolderError, match="given twice"):
        load_runs([single, single.parent / "." / single.name])


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_an_unfinished_run_is_refused(single, copied, status):
    with pytest.raises(RunFolderError, match=f"not finished \\(status '{status}'\\): finish it with --resume"):
        load_runs([copied(single, status=status)])


def test_a_run_whose_audit_failed_is_shown_as_that(single, copied):
    folder = copied(single, status="failed")
    summary = json.loads((folder / "summary.json").read_text())
    summary["audit"] |= {"checked": 20, "mismatches": 1}
    write_json(folder / "summary.json", summary)
    report = document(gather([folder]))
    assert [statement.tone for statement in report.verdict.statements] == ["alarm"]
    page = render(report)
    assert page.index('class="statement alarm"') < page.index("<nav")
    (folder / "summary.json").unlink()
    with pytest.raises(RunFolderError, match="not finished"):
        load_runs([folder])


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("manifest.json", lambda value: value["options"].update(layers=3), "at options.layers: 3 is not of type"),
        ("manifest.json", lambda value: value["options"].update(roles="weight"), "at options.roles: 'weight' is not"),
        ("manifest.json", lambda value: value["options"].update(norm="l7"), "at options.norm: 'l7' is not one of"),
        ("manifest.json", lambda value: value.pop("options"), "manifest.json is broken .*'options' is a required"),
        ("manifest.json", lambda value: value.update(schema=9), "schema version 9, this resq-deploy reads 1"),
        ("summary.json", lambda value: value.update(schema=3), "summary.json has schema version 3"),
        ("summary.json", lambda value: value.update(schema=1), "schema version 1, this resq-deploy reads 2: run again"),
        ("summary.json", lambda value: value["golden"].pop("images"), "at golden: 'images' is a required"),
        ("summary.json", lambda value: value["by_bit"]["3"].update(sdc1=7), "summary.json is broken"),
        ("summary.json", lambda value: value.pop("by_role"), "summary.json is broken"),
    ],
    ids=[
        "layers no text",
        "roles no list",
        "norm unknown",
        "no options",
        "manifest version",
        "summary version",
        "earlier summary",
        "missing figure",
        "wrong type",
        "no groups",
    ],
)
def test_a_broken_folder_is_one_clear_line(single, copied, file, change, message):
    folder = copied(single)
    edit(folder / file, change)
    with pytest.raises(RunFolderError, match=message) as raised:
        load_runs([folder])
    assert len(str(raised.value)) < 500
    assert str(folder) in str(raised.value)


@pytest.mark.parametrize(
    "harm",
    [
        {"worst_case": {}},
        {"worst_case": {"far": 1}},
        {"bit_flip": {"flips": 3, "accuracy": None, "batches": []}},
        {"fault_attack": {"faults": {"model": "ber", "faults": 3}, "clean": {}, "attacked": {}}},
    ],
    ids=lambda harm: next(iter(harm)),
)
def test_a_broken_attack_campaign_is_one_clear_line(attack_folder, tmp_path, harm):
    folder = attack_folder(tmp_path / "attacks", "0" * 64)
    edit(folder / "summary.json", lambda value: value.update(harm))
    with pytest.raises(RunFolderError, match=r"summary.json is broken or half-written"):
        load_runs([folder])


@pytest.mark.parametrize("file", ["summary.json", "manifest.json"])
@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": 1e999}', '{"a": 1' + "0" * 400 + "}", "[" * 200_000, "[" * 500])
def test_json_that_no_report_can_hold_is_one_clear_line(single, copied, file, text):
    folder = copied(single)
    (folder / file).write_text(text + "]" * text.count("["))
    with pytest.raises(RunFolderError, match=f"{file} is not valid JSON .*: the file is broken"):
        load_runs([folder])


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _drop_last_row(path):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def _forget(path):
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM faults WHERE number > 5")
    database.close()


def _shift(path):
    with sqlite3.connect(path) as database:
        database.execute("UPDATE faults SET number = number + 7000")
    database.close()


def _put_text(path):
    with sqlite3.connect(path) as database:
        database.execute("UPDATE faults SET right = 'yes'")
    database.close()


def _put_a_blank_line(path):
    path.write_text(path.read_text().replace("\n", "\n\n", 1))


def _put_an_impossible_share(path):
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))
    rows[1][rows[0].index("accuracy")] = "nan"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


def _renumber(path):
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()


@pytest.mark.parametrize(
    ("file", "harm", "message"),
    [
        ("summary.json", pathlib.Path.unlink, "cannot read .*summary.json"),
        ("summary.json", _truncate, "not valid JSON"),
        ("faults.csv", pathlib.Path.unlink, "faults.csv is missing or broken"),
        ("faults.csv", _drop_last_row, "holds 79 faults, the summary 80"),
        ("faults.csv", _truncate, "faults.csv"),
        ("campaign.sqlite", pathlib.Path.unlink, "campaign.sqlite is missing"),
        ("campaign.sqlite", _truncate, "campaign.sqlite"),
        ("campaign.sqlite", _forget, "does not hold the faults of faults.csv"),
        ("faults.csv", _put_a_blank_line, "faults.csv is missing or broken .line 2 is blank.: run the campaign again"),
        ("faults.csv", _put_an_impossible_share, "accuracy nan or SDC-1 .* is impossible"),
        ("campaign.sqlite", lambda path: path.write_bytes(b""), "campaign.sqlite is empty: copy the whole folder"),
        ("campaign.sqlite", _shift, "does not hold the faults of faults.csv"),
        ("campaign.sqlite", _put_text, "holds answers that are no bitmaps: run the campaign again"),
        ("campaign.sqlite", _renumber, "has schema version 99, this resq-deploy reads 1, 2, 3, 4, 5 and 6"),
    ],
)
def test_missing_and_half_written_files_are_named(single, coarse_single, copied, file, harm, message):
    folder = copied(single)
    harm(folder / file)
    with pytest.raises(RunFolderError, match=message):
        document(gather([coarse_single, folder]))


def test_reading_leaves_a_run_folder_as_it_was(single, coarse_single):
    before = {file.name: file.stat().st_mtime_ns for file in single.iterdir()}
    document(gather([single, coarse_single]))
    assert {file.name: file.stat().st_mtime_ns for file in single.iterdir()} == before
