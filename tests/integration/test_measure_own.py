"""The tool that measures a stranger's path: the whole page runs on what it makes, here a tenth of the photos."""

import json

import measure_own
import pytest

pytest.importorskip("torch")


def test_the_steps_are_those_of_the_page():
    commands = [step[0] for step in measure_own.steps()]
    assert commands == ["train", "export-int8", "faultcamp", "faultcamp", "attackcamp", "report"]


def test_photos_are_the_same_for_a_seed(tmp_path):
    for folder in ("first", "again"):
        measure_own.photos(tmp_path / folder, 10, seed=3)
    files = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").glob("*/*.png"))
    assert len(files) == 10
    assert len({path.parent for path in files}) == 5
    assert all((tmp_path / "first" / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)


@pytest.mark.slow
def test_the_whole_path(tmp_path, capsys):
    status = measure_own.main(["--out", str(tmp_path / "own"), "--photos", "60", "--epochs", "3"])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    record = json.loads((tmp_path / "own/own.json").read_text())
    assert [step["command"].split()[0] for step in record["steps"]] == [step[0] for step in measure_own.steps()]
    assert record["in_all"]["seconds"] == pytest.approx(sum(step["seconds"] for step in record["steps"]), abs=0.1)
    assert (tmp_path / "own/mine.html").stat().st_size > 10_000
