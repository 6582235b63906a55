"""tools/compare_prices.py on digits: both ways judged alike, resumed, and a table."""

import json

import compare_prices
import pytest
from compare_prices import LINE, SMALLER, Candidate, candidates

WORDS = [
    *("--network", "resnet8", "--dataset", "digits", "--stages", "attack", "--epsilons", "2,8", "--judged-at", "4"),
    *("--seeds", "0", "--budgets", "0,100"),
]
COMMON = [
    *("--epochs-baseline", "1", "--epochs-attack", "1", "--train-images", "64", "--batch-size", "16"),
    *("--criticality-batches", "1", "--validation-images", "4", "--robust-test-images", "4", "--test-images", "20"),
    *("--precision", "float32"),
]


def test_the_line_is_that_of_full_strength_and_smaller_radii_are_whole_networks():
    found = candidates([4.0, 1.0], (0.0, 0.5, 1.0))
    start = Candidate(epsilon=None, share=0.0)
    assert found[LINE] == [start, Candidate(epsilon=4.0, share=0.5), Candidate(epsilon=4.0, share=1.0)]
    assert found[SMALLER] == [start, Candidate(epsilon=1.0, share=1.0), Candidate(epsilon=4.0, share=1.0)]


class Known:
    """A judge that knows all figures."""

    at_stake = ("robust_accuracy", "faulty_accuracy")

    def __init__(self, figures):
        self._figures = figures

    def figures(self, candidate, split):
        assert split == "validation", "test images choose nothing"
        clean, *rest = self._figures[candidate.name]
        names = ("clean_accuracy", *self.at_stake)
        return {name: {"value": value} for name, value in zip(names, (clean, *rest), strict=True)}


@pytest.mark.parametrize(("budget", "chosen"), [(0.0, "start"), (0.01, "1/255, 100%"), (0.1, "4/255, 100%")])
def test_validation_images_choose_the_most_resilient_within_the_budget(budget, chosen):
    judge = Known({"start": (0.9, 0.0, 0.6), "1/255, 100%": (0.89, 0.3, 0.6), "4/255, 100%": (0.82, 0.5, 0.7)})
    among = candidates([1.0, 4.0], ())[SMALLER]
    assert compare_prices.choose(judge, among, budget).name == chosen


def row(seed, budget, way, clean, robust):
    figures = {"clean_accuracy": {"value": clean}, "robust_accuracy": {"value": robust}}
    return {"seed": seed, "budget": budget, "way": way, "chosen": f"{way} {seed}", "test": figures}


def test_changes_are_paired_by_seed():
    rows = []
    for seed, gain in enumerate((0.10, 0.14)):
        rows += [row(seed, 1.0, LINE, 0.89, gain), row(seed, 1.0, SMALLER, 0.88, 0.1), row(seed, None, "start", 0.9, 0)]
    lines = compare_prices.table({"judged_at": 2.0, "rows": rows}).splitlines()
    assert lines[0] == "| budget, points | way | chosen | clean, points | under attack, points |"
    assert lines[2].startswith("| 1 | line | line 0; line 1 | -1.0 | +12.0 [-13.4, +37.4] |")
    assert lines[4] == "| 1 | line less smaller epsilon |  | +1.0 | +2.0 [-23.4, +27.4] |"
    assert lines[-1] == "Start, clean, seed by seed: 90.00 %, 90.00 %. Under attack: PGD-10 at 2/255."


@pytest.mark.slow
def test_both_ways_are_trained_judged_and_resumed(tmp_path, capfd):
    words = [*WORDS, "--out", str(tmp_path), "--", *COMMON]
    assert compare_prices.main(words) == 0
    found = json.loads((tmp_path / "prices.json").read_text())
    assert [(one["budget"], one["way"]) for one in found["rows"]] == [
        (0.0, LINE),
        (0.0, SMALLER),
        (100.0, LINE),
        (100.0, SMALLER),
        (None, "start"),
    ]
    judged = json.loads((tmp_path / "seed-0/judged-at-4.json").read_text())
    tried = {key.removesuffix(", validation") for key in judged if key.endswith("validation")}
    assert tried == {"start", "2/255, 100%", *(f"8/255, {share}%" for share in range(10, 101, 10))}
    options = json.loads((tmp_path / "seed-0/epsilon-8/manifest.json").read_text())["options"]
    assert options["epsilon"] == pytest.approx(8 / 255)
    assert options["stages"] == ["attack"]
    before = (tmp_path / "seed-0/epsilon-2/attack.pt").stat().st_mtime_ns
    capfd.readouterr()
    assert compare_prices.main(words) == 0
    assert (tmp_path / "seed-0/epsilon-2/attack.pt").stat().st_mtime_ns == before
    assert ", validation" not in capfd.readouterr().err  # nothing is judged again
    assert json.loads((tmp_path / "prices.json").read_text()) == found


@pytest.mark.parametrize(
    "words", [["--epsilons", "4"], ["--epsilons", "0,4"], ["--judged-at", "0"], ["--budgets", "101"]], ids=" ".join
)
def test_what_makes_no_sense_is_one_line(tmp_path, capsys, words):
    assert compare_prices.main(["--network", "resnet8", "--dataset", "digits", "--out", str(tmp_path), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"compare_prices: {words[0]}")
