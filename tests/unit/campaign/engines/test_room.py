"""What golden values, sessions and outputs may take of the memory that a process does not use yet."""

import resource
import sys

import numpy as np
import pytest

from resq_deploy.campaign.engines import room
from resq_deploy.campaign.engines.room import Room

MEGABYTE = 10**6


@pytest.mark.parametrize(
    ("stored", "given", "values"),
    [
        (0, MEGABYTE, 700),
        (50, 250, 650),
        (200, MEGABYTE, 500),
        (MEGABYTE, 250, 500),
        (MEGABYTE, 100, 650),
        (50, 0, 900),
    ],
)
def test_golden_values_get_what_sessions_and_outputs_can_not_come_to(stored, given, values, monkeypatch):
    monkeypatch.setattr(room, "_used", lambda: 100 * MEGABYTE)
    found = Room.of(1_100 * MEGABYTE, stored * MEGABYTE, given * MEGABYTE)
    assert [round(size / MEGABYTE) for size in found] == [values, 200, 250]


def test_each_has_some_room_however_little_memory_there_is():
    assert min(Room.of(MEGABYTE, 10**12, 10**12)) == 2**25


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells what a process takes now")
def test_what_an_earlier_campaign_held_is_free_again():
    held = np.ones(300 * MEGABYTE, dtype=np.uint8)
    during = room._used()
    assert held.all()
    del held
    assert room._used() < during - 250 * MEGABYTE
    assert during <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + MEGABYTE
