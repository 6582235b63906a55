"""What golden values, sessions and outputs may take of the memory that a process does not use yet."""

import pytest

from resq_deploy.campaign.engines import room
from resq_deploy.campaign.engines.room import Room


@pytest.fixture(autouse=True)
def _uses_a_tenth(monkeypatch):
    """Let the process have taken 100 of 1,100 MB."""
    usage = type("Usage", (), {"ru_maxrss": 100 * 10**6 // 1024})()
    monkeypatch.setattr(room.sys, "platform", "linux")
    monkeypatch.setattr(room.resource, "getrusage", lambda _: usage)


@pytest.mark.parametrize(
    ("stored", "values"),
    [(0, 700), (50, 650), (200, 500), (10**6, 500)],
)
def test_golden_values_get_what_sessions_can_not_come_to(stored, values):
    found = Room.of(1_100 * 10**6, stored * 10**6)
    assert [round(size / 10**6) for size in found] == [values, 200, 250]


def test_each_has_some_room_however_little_memory_there_is():
    assert min(Room.of(10**6, 10**12)) == 2**25
