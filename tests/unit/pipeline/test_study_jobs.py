"""Steps side by side: what waits for what, how many at once, and on which cores."""

import os
import threading

import pytest

from resq_deploy.errors import OptionError
from resq_deploy.pipeline.study_jobs import core_shares, in_parallel
from resq_deploy.pipeline.study_steps import Step

CORES = sorted(os.sched_getaffinity(0))
needs_two = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")


def step(name, *reads):
    return Step(
        name=name,
        command="train",
        dataset="digits",
        arguments=(),
        reads=tuple(("", path) for path in reads),
        writes=(name,),
        out=name,
        resumable=False,
    )


DIAMOND = [step("a"), step("b", "a"), step("c", "a"), step("d", "b", "c"), step("e")]


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=needs_two)])
def test_a_step_waits_for_all_it_reads(jobs):
    ended: list[str] = []
    seen: dict[str, list[str]] = {}

    def run(which):
        seen[which.name] = [*ended]

    for which, why, seconds in in_parallel(DIAMOND, jobs, lambda _: True, run):
        assert why is None
        assert seconds >= 0
        ended.append(which.name)
    assert sorted(ended) == ["a", "b", "c", "d", "e"]
    for which in DIAMOND:
        assert {path for _, path in which.reads} <= set(seen[which.name])


@needs_two
def test_steps_that_do_not_need_each_other_run_at_once_on_cores_of_their_own():
    together = threading.Barrier(2, timeout=600)
    cores: list[set[int]] = []

    def run(_):
        cores.append(os.sched_getaffinity(0))
        together.wait()  # passes only if both are here

    assert len(list(in_parallel([step("a"), step("b")], 2, lambda _: True, run))) == 2
    assert not cores[0] & cores[1]
    assert cores[0] | cores[1] == set(CORES)
    assert os.sched_getaffinity(0) == set(CORES)


def test_steps_left_out_do_not_hold_up_what_reads_them():
    ran = []
    list(in_parallel(DIAMOND, 1, lambda which: which.name not in {"a", "b"}, lambda which: ran.append(which.name)))
    assert ran == ["c", "d", "e"] or ran == ["c", "e", "d"]


def test_why_a_step_failed_is_passed_on():
    assert [why for _, why, _ in in_parallel([step("a")], 1, lambda _: True, lambda _: "disk full")] == ["disk full"]


def test_no_more_jobs_than_cores():
    with pytest.raises(OptionError, match=r"--jobs \d+: this process may use \d+ cores"):
        core_shares(len(CORES) + 1)
