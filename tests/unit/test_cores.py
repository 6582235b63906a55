"""The cores this process may use."""

import os

from resq_deploy.cores import keep_to, usable_cores


def test_the_cores_are_those_of_the_affinity():
    assert usable_cores() == sorted(os.sched_getaffinity(0))


def test_a_system_without_affinity_offers_all_and_keeps_to_none(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delattr(os, "sched_setaffinity")
    assert usable_cores() == list(range(os.cpu_count()))
    keep_to({0})
