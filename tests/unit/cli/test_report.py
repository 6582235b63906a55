"""`resq-deploy report` as a user meets it: files of every form, and one line for each wrong input."""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def campaigns(tmp_path_factory, digits_int8):
    """Two campaigns that can be compared, and one that cannot."""
    folder = tmp_path_factory.mktemp("campaigns")
    for name, images in (("one", 40), ("two", 40), ("more", 50)):
        call = [
            "faultcamp",
            digits_int8,
            "--dataset",
            "digits",
            "--samples",
            "30",
            "--images",
            images,
            "--workers",
            "1",
        ]
        subprocess.run(
            [sys.executable, "-m", "resq_deploy", *map(str, call), "--out", str(folder / name)],
            check=True,
            capture_output=True,
        )
    return folder


@pytest.mark.parametrize("form", ["html", "json", "csv", "md"])
@pytest.mark.parametrize("named", ["by the ending", "by --format"])
def test_every_form_is_written(resq, campaigns, tmp_path, form, named):
    out = tmp_path / (f"report.{form}" if named == "by the ending" else "report")
    asked = () if named == "by the ending" else ("--format", form)
    status, printed, _ = resq("report", campaigns / "one", campaigns / "two", "--out", out, *asked)
    assert status == 0
    assert printed == f"2 runs, 1 pair compared: {out}\n"
    text = out.read_text(encoding="utf-8")
    if form == "html":
        assert text.startswith("<!DOCTYPE html>")
    elif form == "json":
        assert [run["run"] for run in json.loads(text)["runs"]] == ["one", "two"]
    elif form == "csv":
        assert {row["run"] for row in csv.DictReader(text.splitlines())} == {"one", "two", "two - one"}
    else:
        assert text.startswith("# resq-deploy report")


def test_runs_that_cannot_be_paired_are_shown_and_told_why(resq, campaigns, tmp_path):
    out = tmp_path / "report.md"
    assert resq("report", campaigns / "one", campaigns / "more", "--out", out)[0] == 0
    assert "one was not compared: other number of images: 50 in more, 40 in one." in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{runs}/none", "--out", "x.html"), "is not a run folder of resq-deploy: it holds no manifest.json"),
        (("{runs}/one", "{runs}/one", "--out", "x.html"), "is given twice"),
        (("{runs}/one", "{runs}/more", "--compare", "--out", "x.html"), "cannot compare one: other number of images"),
        (("{runs}/one", "--compare", "--out", "x.html"), "cannot compare runs: give two or more of faultcamp"),
        (("{runs}/one", "--out", "{runs}"), "is a folder: give a file, such as"),
        (("{runs}/one", "--out", "/proc/none/x.html"), "cannot write /proc/none/x.html"),
        (("{runs}/one", "--out", "n" * 300), "File name too long"),
        (("{runs}/one",), "Missing option '--out'"),
        (("--out", "x.html"), "Missing argument 'DIR...'"),
    ],
)
def test_wrong_input_is_one_line(resq, campaigns, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = resq("report", *(argument.format(runs=campaigns) for argument in arguments))
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["summary.json", "manifest.json", "faults.csv", "campaign.sqlite", "last.pt"])
def test_records_of_a_run_are_never_overwritten(resq, campaigns, tmp_path, name):
    link = tmp_path / "link.md"
    link.symlink_to(campaigns / "one" / name)
    before = {file.name: file.read_bytes() for file in (campaigns / "one").iterdir()}
    for out in (campaigns / "one" / name, campaigns / "one" / "deep" / name, link):
        status, printed, err = resq("report", campaigns / "one", "--out", out)
        assert (status, printed, err.count("\n")) == (2, "", 1)
        assert "would overwrite a file that the run consists of: give another name" in err
    assert {file.name: file.read_bytes() for file in (campaigns / "one").iterdir()} == before


def test_a_report_may_stand_in_its_run_folder_and_be_written_again(resq, campaigns):
    for _ in range(2):
        status, printed, _ = resq("report", campaigns / "more", "--out", campaigns / "more" / "report.html")
        assert status == 0
        assert printed.startswith("1 run: ")


def test_a_pipe_holds_the_report_alone(campaigns, tmp_path):
    out = tmp_path / "out"
    out.symlink_to("/dev/stdout")  # a defect is not to reach the device itself
    call = [
        sys.executable,
        "-m",
        "resq_deploy",
        "report",
        campaigns / "one",
        "--format",
        "json",
        "--out",
        out,
    ]
    ended = subprocess.run(call, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout)["runs"][0]["run"] == "one"
    assert ended.stderr == f"1 run: {out}\n"


def test_a_run_folder_whose_name_is_not_utf8(resq, campaigns, tmp_path):
    folder = tmp_path / os.fsdecode(b"r\xff")
    shutil.copytree(campaigns / "one", folder)
    for form in ("md", "html", "csv", "json"):
        assert resq("report", folder, "--out", tmp_path / f"out.{form}")[0] == 0
        assert "r\\" in (tmp_path / f"out.{form}").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", ["jinja2", "jsonschema", "matplotlib"])
def test_a_missing_extra_says_what_to_install(resq, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    status, _, err = resq("report", "run", "--out", "x.html")
    assert status == 2
    assert err == "resq-deploy: the report needs the extra 'report': pip install 'resq-deploy[report]'\n"
