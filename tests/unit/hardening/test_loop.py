"""The training loop: what a run leaves behind, and that a killed one ends as if it had never been."""

import dataclasses
import json

import pytest
import torch

from resq_deploy.errors import CheckpointError, TrainingError
from resq_deploy.hardening import stage_run
from resq_deploy.hardening.checkpoint import load_checkpoint
from resq_deploy.hardening.events import EpochDone, Notice, StepDone
from resq_deploy.hardening.loop import train
from resq_deploy.hardening.progress import Progress
from resq_deploy.hardening.stage1_desensitize import Desensitize
from resq_deploy.records import RunFolder

TIMES = ("seconds", "images_per_second")


class Killed(BaseException):
    """As final as a signal: nothing in the library may catch it."""


def run(options, dataset, path, *, report=lambda _: None, resume=False, init=None):
    with RunFolder.open(path, command="train", options=options.identity(), resume=resume) as folder:
        return train(options, dataset, folder.path, report, init=init)


def lines(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def figures(path):
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines(path)]


def assert_same_run(path, expected):
    assert figures(path) == figures(expected)
    for name in ("summary.json", "criticality.json"):
        assert (path / name).read_bytes() == (expected / name).read_bytes()
    for stage in ("baseline", "attack", "fault"):
        found, wanted = (load_checkpoint(folder / f"{stage}.pt") for folder in (path, expected))
        assert (found.epoch, found.lineage) == (wanted.epoch, wanted.lineage)
        assert all(torch.equal(value, wanted.state[name]) for name, value in found.state.items())


@pytest.fixture(scope="module")
def finished(options, dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "run"
    events = []
    return path, run(options, dataset, path, report=events.append), events


def test_a_run_leaves_the_files_of_the_contract(finished):
    path, result, _ = finished
    names = {entry.name for entry in path.iterdir()}
    files = {"baseline.pt", "attack.pt", "fault.pt", "last.pt", "metrics.jsonl", "criticality.json", "summary.json"}
    assert names - {".lock", "manifest.json"} == files
    assert result.checkpoints == {stage: path / f"{stage}.pt" for stage in ("baseline", "attack", "fault")}
    assert load_checkpoint(path / "fault.pt").lineage == ("baseline", "attack", "fault")
    ranking = json.loads((path / "criticality.json").read_text())
    assert set(ranking) == {"before", "after"}
    weights = {
        name for name in load_checkpoint(path / "attack.pt").state if name.endswith(("conv1.weight", "fc.weight"))
    }
    assert weights < {f"{entry['layer']}.weight" for entry in ranking["after"]}


def test_every_epoch_has_one_line_with_its_figures(finished):
    path, _, events = finished
    found = lines(path)
    assert [(line["stage"], line["epoch"]) for line in found] == [
        (stage, epoch) for stage in ("baseline", "attack", "fault") for epoch in (1, 2)
    ]
    common = {"loss", "learning_rate", "train_accuracy", "clean_accuracy", "images_per_second", "seconds", "best"}
    own = {
        "baseline": {"loss_cross_entropy"},
        "attack": {"loss_feature", "loss_consistency", "robust_accuracy", "guard_accuracy"},
        "fault": {"loss_faulty", "loss_distill", "robust_accuracy", "faulty_accuracy"},
    }
    for line in found:
        assert line.keys() >= common | own[line["stage"]]
    assert [event.record for event in events if isinstance(event, EpochDone)] == found
    steps = [event for event in events if isinstance(event, StepDone)]
    assert len(steps) == 6 * steps[0].steps


def test_the_summary_holds_estimates_of_every_stage(finished):
    path, result, _ = finished
    assert json.loads((path / "summary.json").read_text()) == result.summary
    for stage in result.summary["stages"].values():
        for part, counts in (("validation", (9, 6)), ("test", (30, 10))):
            for name, count in zip(("clean", "robust"), counts, strict=True):
                estimate = stage[part][name]
                assert list(estimate) == ["value", "low", "high", "n", "confidence"]
                assert estimate["n"] == count
                assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1


def test_training_learns(options, dataset, tmp_path):
    result = run(dataclasses.replace(options, stages=("baseline",), epochs_baseline=8), dataset, tmp_path / "run")
    assert result.summary["stages"]["baseline"]["test"]["clean"]["value"] > 0.8


def test_the_same_seed_gives_the_same_weights_and_another_does_not(finished, options, dataset, tmp_path):
    again = tmp_path / "again"
    run(options, dataset, again)
    assert_same_run(again, finished[0])
    short = dataclasses.replace(options, stages=("baseline",), seed=1)
    run(short, dataset, tmp_path / "other")
    first, other = (load_checkpoint(path / "baseline.pt").state for path in (again, tmp_path / "other"))
    assert not torch.equal(first["body.conv1.weight"], other["body.conv1.weight"])


def kill_at_step(stage, epoch, step):
    def report(event):
        if isinstance(event, StepDone) and (event.stage, event.epoch, event.step) == (stage, epoch, step):
            raise Killed

    return report


@pytest.mark.parametrize(
    ("stage", "epoch", "step"),
    [("baseline", 1, 2), ("attack", 2, 3), ("fault", 1, 1), ("fault", 2, 4)],
)
def test_a_run_killed_within_an_epoch_ends_like_one_never_killed(
    finished, options, dataset, tmp_path, stage, epoch, step
):
    path = tmp_path / "run"
    with pytest.raises(Killed):
        run(options, dataset, path, report=kill_at_step(stage, epoch, step))
    notices = []
    run(options, dataset, path, resume=True, report=lambda e: notices.append(e) if isinstance(e, Notice) else None)
    assert notices[0].message.startswith("resuming")
    assert_same_run(path, finished[0])


def test_adamw_goes_on_with_the_moments_it_had(options, dataset, tmp_path):
    options = dataclasses.replace(options, optimizer="adamw", rate_baseline=1e-3, rate_attack=1e-3, rate_fault=1e-3)
    run(options, dataset, tmp_path / "whole")
    with pytest.raises(Killed):
        run(options, dataset, tmp_path / "run", report=kill_at_step("fault", 2, 2))
    run(options, dataset, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(("when", "saves"), [("before", 1), ("before", 6), ("between", 4), ("between", 9)])
def test_a_run_killed_while_saving_ends_like_one_never_killed(
    finished, options, dataset, tmp_path, monkeypatch, when, saves
):
    """Each stage saves once at its start and once an epoch; `between` is after last.pt, before metrics.jsonl."""
    path = tmp_path / "run"
    target = "save" if when == "before" else "write_metrics"
    original, done = getattr(Progress, target), []

    def dying(self, *args):
        done.append(1)
        if len(done) == saves:
            raise Killed
        original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, target, dying)
        with pytest.raises(Killed):
            run(options, dataset, path)
    run(options, dataset, path, resume=True)
    assert_same_run(path, finished[0])


def test_resuming_a_finished_run_changes_nothing(finished, options, dataset):
    path, _, _ = finished
    before = (path / "last.pt").read_bytes()
    run(options, dataset, path, resume=True, report=lambda e: None if isinstance(e, Notice) else pytest.fail(str(e)))
    assert (path / "last.pt").read_bytes() == before


def test_ctrl_c_propagates_and_leaves_a_resumable_run(options, dataset, tmp_path):
    def interrupt(event):
        if isinstance(event, EpochDone):
            raise KeyboardInterrupt

    short = dataclasses.replace(options, stages=("baseline",))
    with pytest.raises(KeyboardInterrupt):
        run(short, dataset, tmp_path / "run", report=interrupt)
    assert json.loads((tmp_path / "run/manifest.json").read_text())["status"] == "interrupted"
    run(short, dataset, tmp_path / "run", resume=True)
    assert len(lines(tmp_path / "run")) == 2


def test_a_loss_that_is_not_finite_stops_and_keeps_the_best_epoch(options, dataset, tmp_path):
    def poison(event):
        if isinstance(event, EpochDone):
            networks[0].body.conv1.weight.data.fill_(float("nan"))

    networks = []
    original = stage_run.Baseline.step

    def step(self, batch):
        networks.append(self.network)
        return original(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_run.Baseline, "step", step)
        with pytest.raises(TrainingError, match=r"stage baseline, epoch 2, step 1: .*baseline\.pt is kept") as caught:
            run(options, dataset, tmp_path / "run", report=poison)
    assert "\n" not in str(caught.value)
    assert load_checkpoint(tmp_path / "run/baseline.pt").epoch == 1


@pytest.mark.parametrize(("spoilt", "kept"), [(1, "last"), (2, "baseline")])
def test_weights_that_the_last_step_of_an_epoch_spoilt_are_never_kept(options, dataset, tmp_path, spoilt, kept):
    """The loss of that step was still finite, and accuracy is a number whatever the weights are."""
    short = dataclasses.replace(options, stages=("baseline",), ema=0.0)
    after_step = stage_run.Baseline.after_step

    def spoil(self, batch):
        after_step(self, batch)
        if batch.index == spoilt * bench_steps(dataset, short) - 1:
            self.network.body.conv1.weight.data.fill_(float("nan"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_run.Baseline, "after_step", spoil)
        with pytest.raises(TrainingError, match=rf"conv1\.weight .* epoch {spoilt}: .*{kept}\.pt is kept"):
            run(short, dataset, tmp_path / "run")
    run(short, dataset, tmp_path / "run", resume=True)
    run(short, dataset, tmp_path / "whole")
    assert figures(tmp_path / "run") == figures(tmp_path / "whole")
    assert load_checkpoint(tmp_path / "run/baseline.pt").epoch in (1, 2)


def bench_steps(dataset, options):
    return len(dataset.train) // options.batch_size


def test_catastrophic_overfitting_is_undone_with_half_the_step(options, dataset, tmp_path, monkeypatch):
    short = dataclasses.replace(options, stages=("attack",), epochs_attack=2)
    original, seen = Desensitize.validate, []

    def validate(self):
        seen.append((self.step_share, {name: value.clone() for name, value in self.network.state_dict().items()}))
        guard = {1: 0.9, 2: 0.3, 3: 0.8}[len(seen)]
        return {**original(self), "guard_accuracy": guard}

    monkeypatch.setattr(Desensitize, "validate", validate)
    notices = []
    run(short, dataset, tmp_path / "run", report=lambda e: notices.append(e) if isinstance(e, Notice) else None)
    assert [share for share, _ in seen] == [1, 1, 0.5]
    assert not torch.equal(seen[1][1]["body.conv1.weight"], seen[2][1]["body.conv1.weight"])
    found = lines(tmp_path / "run")
    assert [(line["epoch"], line.get("undone", False)) for line in found] == [(1, False), (2, True), (2, False)]
    assert any("undone, step halved" in notice.message for notice in notices)


def test_a_stage_starts_from_the_checkpoint_it_is_given(finished, options, dataset, tmp_path):
    init = load_checkpoint(finished[0] / "attack.pt")
    still = dataclasses.replace(options, stages=("fault",), epochs_fault=1, rate_fault=0.0, clip_final=1.0)
    run(still, dataset, tmp_path / "run", init=init)
    found = load_checkpoint(tmp_path / "run/fault.pt")
    assert found.lineage == ("baseline", "attack", "fault")
    assert torch.equal(found.state["body.conv1.weight"], init.state["body.conv1.weight"])
    assert "distill" in str(lines(tmp_path / "run")[0]), "a start after stage 1 is kept close to it"


def test_a_checkpoint_of_another_network_or_class_count_is_refused(finished, options, dataset, tmp_path):
    init = load_checkpoint(finished[0] / "baseline.pt")
    other = dataclasses.replace(init, network="resnet20")
    with pytest.raises(CheckpointError, match="give --network resnet20"):
        run(options, dataset, tmp_path / "a", init=other)
    fewer = dataclasses.replace(init, classes=("a", "b"))
    with pytest.raises(CheckpointError, match="2 classes and colours has 3"):
        run(options, dataset, tmp_path / "b", init=fewer)


def test_a_broken_state_is_one_line(finished, options, dataset, tmp_path):
    path = tmp_path / "run"
    with pytest.raises(Killed):
        run(options, dataset, path, report=kill_at_step("attack", 1, 1))
    (path / "last.pt").write_bytes((path / "last.pt").read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"last\.pt is no readable"):
        run(options, dataset, path, resume=True)


def test_the_last_epoch_is_kept_where_that_is_asked_for(options, dataset, tmp_path):
    chosen = dataclasses.replace(options, stages=("baseline",), epochs_baseline=4, rate_baseline=5.0, keep="last")
    run(chosen, dataset, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run/baseline.pt").epoch == 4
    assert [line["best"] for line in lines(tmp_path / "run")] == [True] * 4
