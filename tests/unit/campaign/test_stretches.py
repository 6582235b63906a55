import pytest

from resq_deploy.campaign.stretches import Stretches


def test_each_worker_goes_on_where_it_was_and_everything_is_taken_once():
    stretches = Stretches(range(16))
    taken = {"a": [], "b": []}
    taken["a"].append(stretches.take("a"))
    for worker in "babbababababbab":
        taken[worker].append(stretches.take(worker))
    assert not stretches
    assert sorted(taken["a"] + taken["b"]) == list(range(16))
    assert taken["a"][:7] == list(range(7))
    assert taken["b"][:8] == list(range(8, 16))


def test_one_worker_alone_takes_all_in_order():
    stretches = Stretches("abc")
    assert [stretches.take("w") for _ in range(3)] == ["a", "b", "c"]


def test_what_a_dead_worker_had_is_taken_by_the_others():
    stretches = Stretches(range(10))
    stretches.take("dead")
    assert sorted(stretches.take("alive") for _ in range(9)) == list(range(1, 10))
    with pytest.raises(IndexError):
        stretches.take("alive")
