"""A budget of clean accuracy: weights between the start and the hardened network."""

import dataclasses
import json

import pytest
import torch

from resq_deploy.errors import OptionError, RunFolderError
from resq_deploy.hardening import budget
from resq_deploy.hardening.budget import SHARES, choose, mixed
from resq_deploy.hardening.checkpoint import load_checkpoint
from resq_deploy.hardening.events import Notice
from resq_deploy.hardening.loop import train
from resq_deploy.pipeline.float_source import FloatSource
from resq_deploy.records import RunFolder
from resq_deploy.report.price_section import price_section
from resq_deploy.report.runs import load_runs


def run(options, dataset, path, *, report=lambda _: None, resume=False, init=None):
    with RunFolder.open(
        path, command="train", options=options.identity(), sha256={"train": "a", "test": "b"}, resume=resume
    ) as folder:
        return train(options, dataset, folder.path, report, init=init)


@pytest.fixture(scope="module")
def finished(options, dataset, tmp_path_factory):
    path, told = tmp_path_factory.mktemp("finished") / "run", []
    result = run(dataclasses.replace(options, clean_budget=1.0), dataset, path, report=told.append)
    return path, result, told


def point(share, clean, **figures):
    return {"share": share, "clean_accuracy": {"value": clean}, **{name: {"value": v} for name, v in figures.items()}}


def test_the_most_resilient_within_the_budget_is_chosen():
    points = [
        point(0.0, 0.90, robust_accuracy=0.1, faulty_accuracy=0.5),
        point(0.5, 0.89, robust_accuracy=0.4, faulty_accuracy=0.6),
        point(0.7, 0.88, robust_accuracy=0.2, faulty_accuracy=0.6),
        point(1.0, 0.80, robust_accuracy=0.6, faulty_accuracy=0.8),
    ]
    both = ("robust_accuracy", "faulty_accuracy")
    assert choose(points, both, 0.88) == 1
    assert choose(points, both, 0.895) == 0
    assert choose(points, both, 0.0) == 3
    assert choose(points, ("faulty_accuracy",), 0.88) == 1  # of equals the smaller share


def test_of_equals_the_smaller_share_is_chosen():
    assert (
        choose([point(0.0, 1, robust_accuracy=0.3), point(1.0, 1, robust_accuracy=0.3)], ("robust_accuracy",), 0) == 0
    )


def test_a_mix_is_linear_and_its_ends_are_exact():
    start = {"w": torch.tensor([0.1, 1e30]), "n": torch.tensor(3)}
    end = {"w": torch.tensor([0.3, -1.0]), "n": torch.tensor(9)}
    assert torch.equal(mixed(start, end, 0.0)["w"], start["w"])
    assert torch.equal(mixed(start, end, 1.0)["w"], end["w"])
    torch.testing.assert_close(mixed(start, end, 0.25)["w"], torch.tensor([0.15, 0.75e30]))
    assert mixed(start, end, 0.25)["n"] == 9


def test_a_run_writes_what_it_weighed_and_the_weights_it_chose(finished):
    path, result, told = finished
    found = json.loads((path / "pareto.json").read_text())
    assert [entry["share"] for entry in found["points"]] == list(SHARES)
    assert found["budget"] == 1.0
    assert found["at_stake"] == ["robust_accuracy", "faulty_accuracy"]
    checkpoint = load_checkpoint(path / "budget.pt")
    assert checkpoint.stage == "budget"
    assert checkpoint.lineage == ("baseline", "attack", "fault")
    assert checkpoint.metrics["share"] == found["chosen"]
    assert result.checkpoints["budget"] == path / "budget.pt"
    assert "budget" in result.summary["stages"]
    messages = [event.message for event in told if isinstance(event, Notice)]
    assert any(message.startswith("within the budget: ") for message in messages)
    assert FloatSource(source=path).path == path / "budget.pt"


def test_nothing_beyond_the_budget_is_taken(finished, options, dataset, tmp_path):
    start = load_checkpoint(finished[0] / "baseline.pt")
    strict = dataclasses.replace(options, stages=("attack",), epochs_attack=1, clean_budget=0.0)
    run(strict, dataset, tmp_path / "run", init=start)
    found = json.loads((tmp_path / "run/pareto.json").read_text())
    clean = {entry["share"]: entry["clean_accuracy"]["value"] for entry in found["points"]}
    assert found["at_stake"] == ["robust_accuracy"]
    assert clean[found["chosen"]] >= clean[0.0]


@pytest.fixture
def forced(options, dataset, tmp_path, monkeypatch):
    """Return a function that takes a point whatever its figures, and gives the start, the end and what was kept."""

    def run_to(place):
        monkeypatch.setattr(budget, "choose", lambda *_: place)
        short = dataclasses.replace(
            options, stages=("baseline", "fault"), epochs_baseline=1, epochs_fault=1, clean_budget=0.1
        )
        run(short, dataset, tmp_path / "run")
        return [load_checkpoint(tmp_path / f"run/{name}.pt").state for name in ("baseline", "fault", "budget")]

    return run_to


@pytest.mark.parametrize(("place", "end"), [(0, 0), (-1, 1)], ids=["start", "hardened"])
def test_an_end_is_kept_as_it_is(forced, place, end):
    *ends, kept = forced(place)
    assert all(torch.equal(value, ends[end][name]) for name, value in kept.items())


def test_between_the_ends_weights_are_mixed_and_batch_norm_is_measured_anew(forced):
    start, end, kept = forced(5)
    for name in start:
        middle = torch.lerp(start[name].float(), end[name].float(), 0.5)
        if "running_" in name:
            assert not torch.allclose(kept[name], middle), name
        elif start[name].is_floating_point():
            torch.testing.assert_close(kept[name], middle)


def test_a_resumed_run_chooses_the_same(finished, options, dataset):
    path, _, _ = finished
    before = (path / "pareto.json").read_bytes()
    (path / "pareto.json").unlink()
    (path / "budget.pt").unlink()
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    run(dataclasses.replace(options, clean_budget=1.0), dataset, path, resume=True)
    assert (path / "pareto.json").read_bytes() == before
    assert (path / "budget.pt").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": ("baseline",)}, "run stage attack or fault"),
        ({"stages": ("attack",)}, "needs a trained network: give --init or --weights"),
    ],
    ids=["no hardening", "fresh weights"],
)
def test_a_budget_that_means_nothing_is_refused(options, dataset, tmp_path, changes, message):
    with pytest.raises(OptionError, match=message):
        run(dataclasses.replace(options, clean_budget=0.01, **changes), dataset, tmp_path / "run")


@pytest.mark.parametrize("budget", [-0.01, 1.01, float("nan")])
def test_a_budget_is_a_share(options, budget):
    with pytest.raises(OptionError, match=r"clean-budget is .* points: give a number from 0 to 100"):
        dataclasses.replace(options, clean_budget=budget)


class TestPage:
    def test_the_section_names_the_choice_and_draws_the_line(self, finished):
        path, _, _ = finished
        found = json.loads((path / "pareto.json").read_text())
        (loaded,) = load_runs([path])
        section = price_section(loaded)
        assert f"{found['chosen']:.0%} of the hardened weights keep within the budget" in section.title
        table = section.blocks[-1]
        assert [row[-1] for row in table.rows].count("chosen") == 1
        assert len(table.rows) == len(SHARES)

    def test_a_broken_file_is_one_line(self, finished, tmp_path):
        path, _, _ = finished
        (loaded,) = load_runs([path])
        copy = dataclasses.replace(loaded, path=tmp_path)
        assert price_section(copy) is None
        (tmp_path / "pareto.json").write_text("{}")
        with pytest.raises(RunFolderError, match=r"pareto\.json is broken"):
            price_section(copy)
