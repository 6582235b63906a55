"""Progress where there is no terminal: lines in a log, few and telling."""

import pytest

from resq_deploy import progress
from resq_deploy.api.training_progress import training_progress
from resq_deploy.progress import Pace, progress_bar


def lines(pace, seconds, total=1000, before=0):
    """Return the lines of work that does a unit a second, by the second each comes at."""
    told = {now: pace.line("faultcamp", before + now, total, "faults", float(now)) for now in range(1, seconds + 1)}
    return {now: line for now, line in told.items() if line is not None}


def test_a_line_says_share_and_time_left():
    told = lines(Pace(0.0), 40)
    assert list(told) == [10, 40]
    assert told[10] == "faultcamp: 10 of 1,000 faults (1 %), 0:10 passed, about 16:30 left"


def test_lines_come_further_apart_as_time_goes_by():
    told = list(lines(Pace(0.0), 20_000, total=20_000))
    assert len(told) < 100
    assert told[1] - told[0] == 30
    assert told[-1] - told[-2] > 600


def test_what_an_earlier_session_did_took_no_time_here():
    told = lines(Pace(0.0), 10, before=900)
    assert told[10].endswith("910 of 1,000 faults (91 %), 0:10 passed, about 1:30 left")


def test_another_stage_begins_anew():
    pace = Pace(0.0)
    pace.line("square", 50, 50, "units", 9.0)
    pace.line("twin-pgd", 0, 20, "units", 9.0)
    assert pace.line("twin-pgd", 1, 20, "units", 12.0) == "twin-pgd: 1 of 20 units (5 %), 0:12 passed, about 0:57 left"


def test_another_stage_begins_anew_where_the_first_began_at_nothing():
    pace = Pace(0.0)
    for done in (1, 600):
        pace.line("attack", done, 888, "steps", 5.0 * done)
    pace.line("fault", 1, 592, "steps", 4440.0)
    assert pace.line("fault", 11, 592, "steps", 5000.0).endswith(", 1:23:20 passed, about 9:02:16 left")


@pytest.mark.parametrize("total", [None, 0])
def test_without_a_total_nothing_is_foretold(total):
    assert Pace(0.0).line("demo", 3, total, "units", 3700.0) == "demo: 3 units, 1:01:40 passed"


def test_a_long_epoch_is_not_silent_in_a_log(capsys, monkeypatch):
    pytest.importorskip("torch")
    from resq_deploy.hardening.events import StepDone

    monkeypatch.setattr(progress, "FIRST_LINE", 0.0)
    with training_progress() as report:
        for step in (1, 2):  # half a minute is not over at the second
            at = {"stage": "attack", "epoch": 2, "epochs": 5, "step": step, "steps": 10}
            report(StepDone(**at, loss=0.5, accuracy=0.8, images_per_second=120.0))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("attack 2/5  loss 0.500  accuracy 80.0 %  120 images/s: 11 of 50 steps (22 %), 0:00 passed")


def test_a_log_gets_lines_and_no_bar(capsys, monkeypatch):
    monkeypatch.setattr(progress, "FIRST_LINE", 0.0)
    with progress_bar("faults") as bar:
        task = bar.add_task("faultcamp", total=4)
        bar.update(task, completed=1, description="SDC-1 0.5 %")
        bar.advance(task)  # half a minute is not over
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["SDC-1 0.5 %: 1 of 4 faults (25 %), 0:00 passed"]
