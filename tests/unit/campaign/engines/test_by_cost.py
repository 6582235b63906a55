"""What is kept while there is room: what costs least to make again for its size goes first."""

from resq_deploy.campaign.engines.by_cost import ByCost


def held(kept, kind, keys):
    return [key for key in keys if kept.get(kind, key) is not None]


def test_what_is_cheap_for_its_size_goes_first():
    kept = ByCost[str](100)
    for key in range(4):
        kept.put("dear", key, "d", size=10, cost=5.0)
        kept.put("cheap", key, "c", size=30, cost=5.0)
    assert held(kept, "dear", range(4)) == [0, 1, 2, 3]
    assert held(kept, "cheap", range(4)) == [2, 3]


def test_of_a_kind_what_was_used_longest_ago_goes_first():
    kept = ByCost[str](30)
    for key in range(3):
        kept.put("kind", key, str(key), size=10, cost=1.0)
    assert kept.get("kind", 0) == "0"
    kept.put("kind", 3, "3", size=10, cost=1.0)
    assert held(kept, "kind", range(4)) == [0, 2, 3]


def test_what_is_dear_goes_too_once_nobody_uses_it():
    kept = ByCost[str](40)
    kept.put("dear", 0, "d", size=20, cost=100.0)
    for key in range(200):
        kept.put("cheap", key, "c", size=20, cost=2.0)
    assert held(kept, "dear", [0]) == []
    assert len(kept) == 2


def test_nothing_larger_than_the_room_is_held_and_what_is_put_again_counts_once():
    kept = ByCost[str](30)
    kept.put("kind", 0, "0", size=31, cost=1.0)
    assert len(kept) == 0
    for _ in range(5):
        kept.put("kind", 1, "1", size=20, cost=1.0)
    assert held(kept, "kind", [0, 1]) == [1]
    kept.put("kind", 2, "2", size=10, cost=1.0)
    assert held(kept, "kind", [1, 2]) == [1, 2]


def test_what_was_put_last_stays_however_cheap_it_is_and_goes_first_after_that():
    kept = ByCost[str](50)
    for key in range(2):
        kept.put("dear", key, "d", size=20, cost=100.0)
    kept.put("cheap", 0, "c", size=30, cost=1.0)
    assert held(kept, "cheap", [0]) == [0]
    assert held(kept, "dear", range(2)) == [1]
    kept.put("dear", 2, "d", size=20, cost=100.0)
    assert held(kept, "cheap", [0]) == []
    assert held(kept, "dear", range(3)) == [1, 2]
