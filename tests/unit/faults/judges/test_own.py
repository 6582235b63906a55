import numpy as np
import pytest

from resq_deploy.errors import FailedError, OptionError
from resq_deploy.faults.judges.quality import FIGURES
from resq_deploy.faults.judges.registry import parse

SOURCE = """
import numpy as np

def side(golden, faulty, labels):
    return np.sign(golden["y"]) != np.sign(faulty["y"])

def rated(golden, faulty, labels):
    return side(golden, faulty, labels), 1 - np.abs(faulty["y"] - labels) / 10

def counts(golden, faulty, labels):
    return (golden["y"] != faulty["y"]).sum()

def never_content(golden, faulty, labels):
    return golden["y"] == golden["y"]

def too_good(golden, faulty, labels):
    return golden["y"] != golden["y"], golden["y"]

def raises(golden, faulty, labels):
    raise KeyError("what")
"""
GOLDEN = np.array([5.0, 5.0, -5.0, np.nan])
FAULTY = np.array([5.0, -1.0, np.inf, 5.0])


@pytest.fixture
def bench(tmp_path, monkeypatch):
    (tmp_path / "own_judge.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)

    def make(name, labels=None):
        judge = parse(f"own_judge:{name}", ["y"])
        return judge.settled({"y": GOLDEN}).on({"y": GOLDEN}, labels)

    return make


def test_flags_of_the_users_own(bench):
    found = bench("side")({"y": FAULTY})
    assert found.flags["masked"].tolist() == [True, False, False, False]
    assert found.flags["sdc1"].tolist() == [False, True, True, False]
    assert found.flags["nonfinite"].tolist() == [False, False, True, False]
    assert found.contributions is None


def test_a_quality_of_the_users_own_is_averaged(bench):
    judge = bench("rated", np.array([5.0, 5.0, 0.0, 0.0]))
    assert FIGURES["quality"](judge.golden.contributions) == pytest.approx((1 + 1 + 0.5) / 3)
    found = judge({"y": FAULTY})
    assert FIGURES["quality"](found.contributions) == pytest.approx((1 + 0.4 + 0) / 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("counts", r"returned int64 \[\]: it must return one truth value for each of 3 samples"),
        ("never_content", "says that golden outputs differ from themselves"),
        ("too_good", "quality must be one number from 0 to 1 a sample"),
        ("raises", "own_judge:raises failed: KeyError: 'what'"),
    ],
)
def test_what_is_no_judge_is_refused(bench, name, message):
    with pytest.raises(FailedError, match=message):
        bench(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "no_such_module:judge",
            "cannot import 'no_such_module' for --judge no_such_module:judge: ModuleNotFoundError",
        ),
        ("numpy:no_such_function", "has no function 'no_such_function'"),
        ("numpy:", "no judge 'numpy': give one of top1, binary, labels, map, boxes, embedding, values, or module"),
    ],
)
def test_what_cannot_be_found_is_refused(text, message):
    with pytest.raises(OptionError, match=message):
        parse(text, ["y"])
