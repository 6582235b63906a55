"""Campaigns by other judges than a classifier's: figures, tables, gates, resuming; and which judge is taken."""

import csv
import importlib.resources
import json
import re

import numpy as np
import pytest

from resq_deploy.campaign.gates import parse_gate
from resq_deploy.campaign.golden import golden_of, untold
from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.refine import Base
from resq_deploy.campaign.run import Campaign
from resq_deploy.campaign.store import FILE, read_records
from resq_deploy.cli.faultcamp import command
from resq_deploy.data import load_dataset
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.judging import choose
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.errors import DataError, ModelError, OptionError, RunFolderError
from resq_deploy.faults.judges.registry import JUDGES, described, parse
from resq_deploy.report.runs import load_runs

IMAGES = 20


@pytest.fixture
def prepare(digits_int8):
    def campaign(gates=(), **values):
        options = CampaignOptions(**{"images": IMAGES, "workers": 1, "audit": 0.0, **values})
        model, held = DeployedModel.load(digits_int8), [parse_gate(gate) for gate in gates]
        return Campaign(model, load_dataset("digits"), options, gates=held)

    return campaign


def test_what_is_judged_by_numbers_has_no_accuracy_and_resumes(prepare, tmp_path):
    """Class labels rate no numbers: nothing is said of accuracy, and nothing of a classifier's rungs."""
    values = {"samples": 30, "judge": "values:bound=0.01", "gates": ["sdc1=1", "nonfinite=1"]}
    whole = prepare(**values).run(tmp_path / "whole")
    judge = whole["judge"]
    assert (judge["name"], judge["outputs"], judge["options"]["bound"]) == ("values", ["logits"], 0.01)
    assert judge["reason"] == "asked for with --judge"
    assert judge["ladder"] == list(whole["rates"]) == ["masked", "benign", "sdc1", "nonfinite"]
    assert whole["golden"] == {"images": IMAGES, "set_aside": 0, "health": None}
    assert not {"accuracy", "quality", "amounts"} & whole.keys()
    assert [gate["passed"] for gate in whole["gates"]] == [True, True]
    with (tmp_path / "whole" / "faults.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert not {"accuracy", "sdc5", "corrected"} & rows[0].keys()
    records = read_records(tmp_path / "whole" / FILE)
    assert {(record.quality, record.right) for record in records} == {(None, b"")}
    assert [int(row["sdc1"]) for row in rows] == [record.counts["sdc1"] for record in records]
    assert any(record.counts["sdc1"] for record in records)
    (run,) = load_runs([tmp_path / "whole"])
    assert run.confidence == 0.95

    def stop(progress):
        if progress.done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(**values).run(tmp_path / "broken", report=stop)
    with pytest.raises(RunFolderError, match="judge"):
        prepare(**{**values, "judge": "values:bound=0.02"}).run(tmp_path / "broken", resume=True)
    resumed = prepare(**values).run(tmp_path / "broken", resume=True)
    assert {**resumed, "throughput": 0} == {**whole, "throughput": 0}


def test_a_judge_of_the_users_own_that_changed_is_no_longer_the_one_that_began(prepare, tmp_path, monkeypatch):
    source = tmp_path / "judge_that_changes.py"
    source.write_text(
        "def judge(golden, faulty, labels):\n    return golden['logits'][:, 0] != faulty['logits'][:, 0]\n"
    )
    monkeypatch.chdir(tmp_path)
    values = {"samples": 4, "judge": "judge_that_changes:judge"}

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(**values).run(tmp_path / "run", report=stop)
    before = source.read_text()
    source.write_text(before.replace("!=", ">"))
    with pytest.raises(RunFolderError, match=r"judge_code was '[0-9a-f]{64}' and is now '[0-9a-f]{64}'"):
        prepare(**values).run(tmp_path / "run", resume=True)
    source.write_text(before)
    prepare(**values).run(tmp_path / "run", resume=True)
    base = Base(tmp_path / "run", {"judge": 0}, {"model": "m", "judge_code": "then"}, ())
    base.check({"judge": 0}, {"model": "m", "judge_code": "then"})
    with pytest.raises(OptionError, match="another version of the judge's own code"):
        base.check({"judge": 0}, {"model": "m", "judge_code": "now"})


def test_random_bit_errors_without_right_answers(prepare, tmp_path):
    summary = prepare(faults=FaultModel.BER, ber=(1e-4,), chips=3, judge="embedding:bound=0.001").run(tmp_path / "run")
    (point,) = summary["curve"]
    assert not {"accuracy", "quality", "worst"} & point.keys()
    assert list(point["spread"]) == ["sdc1"]
    assert load_runs([tmp_path / "run"])


def test_faults_on_images_of_their_own_are_judged_by_any_judge(prepare, tmp_path):
    every = prepare(samples=40, images=40, judge="values:bound=0.01").run(tmp_path / "all")
    some = prepare(samples=40, images=40, images_per_fault=10, judge="values:bound=0.01").run(tmp_path / "some")
    assert some["images"]["per_fault"] == 10
    assert some["rates"]["sdc1"]["low"] <= every["rates"]["sdc1"]["value"] <= some["rates"]["sdc1"]["high"]


@pytest.mark.parametrize(
    ("text", "per_fault", "name"),
    [
        ("map:axis=1,quality=miou", 10, "mIoU"),
        ("boxes:decode=ssd", 1000, "mAP@50"),
        ("map:axis=1,quality=token_accuracy", 10, "token accuracy"),
        ("map:axis=1,quality=miou", None, None),
        ("top1", 10, None),
        ("values", 10, None),
    ],
)
def test_a_figure_that_a_faults_own_images_do_not_tell_is_named(text, per_fault, name):
    notes = untold(parse(text, ["a"]), per_fault)
    assert [note.partition(" under faults is left out")[0] for note in notes] == ([name] if name else [])
    assert all(
        f"so that {per_fault:,} or so a fault do not tell it; --images-per-fault all does" in one for one in notes
    )


def test_gates_of_what_the_judge_does_not_count_are_refused(prepare):
    with pytest.raises(OptionError, match=r"--fail-above sdc5=0.1: this judge counts masked, benign, sdc1, nonfinite"):
        prepare(judge="values", gates=["sdc5=0.1"])
    with pytest.raises(OptionError, match=r"metrics are masked, .*, lost, moved, relabelled, ghost, due$"):
        parse_gate("sdc2=0.1")


@pytest.fixture
def chosen(models, tmp_path):
    """Return a function that says which judge is taken for two outputs: scores, and the values before them."""

    def ask(text=None, names=(), labels=None, **tensors):
        proto = models.float_cnn()
        proto.graph.output.append(type(proto.graph.output[0])(name="flat"))
        proto.graph.output[-1].type.tensor_type.elem_type = 1
        session = Session(proto.SerializeToString(), Deployment())
        images = models.images(5)
        seen, _ = session.first_answers([images], names)
        return choose(text, names, session, proto.SerializeToString(), seen, labels), session, images

    return ask


@pytest.mark.parametrize(
    ("text", "names", "judged"),
    [
        ("values", (), ("y", "flat")),
        ("values", ("flat",), ("flat",)),
        ("top1", ("y",), ("y",)),
        ("embedding:bound=0.5", ("flat",), ("flat",)),
    ],
)
def test_outputs_are_those_named_or_all_that_the_judge_reads(text, names, judged, chosen):
    found, *_ = chosen(text, names)
    assert found.judge.outputs == judged
    assert (found.guessed, found.notes) == (False, ())


def test_what_fits_several_outputs_has_to_be_told_which(chosen):
    with pytest.raises(ModelError, match="--judge top1 fits outputs 'y', 'flat': name one with --outputs"):
        chosen("top1")


def test_what_no_rule_knows_is_judged_by_numbers_and_said(chosen):
    found, *_ = chosen()
    assert (found.judge.name, found.guessed) == ("values", True)
    assert found.notes[0].startswith("judged as values: no task is told")


def test_samples_whose_golden_outputs_are_not_finite_are_set_aside(chosen, models):
    found, session, images = chosen("values", ("y",))
    images = images.copy()
    images[2] = np.nan
    golden = golden_of(session, images, None, found)
    assert (len(golden), golden.set_aside) == (4, 1)
    assert "1 of 5 samples are set aside" in golden.notes[0]
    assert np.array_equal(golden.outputs["y"], session.run(images[[0, 1, 3, 4]]))
    with pytest.raises(ModelError, match="not finite"):
        golden_of(session, np.full_like(images, np.nan), None, found)


def test_labels_that_do_not_fit_rate_nothing_and_are_named(chosen):
    found, session, images = chosen("binary:threshold=0", ("y",))
    golden = golden_of(session, images, np.arange(5), found)
    assert (golden.rated, golden.labels) == (False, None)
    assert golden.notes[0].startswith("no quality figure, as the labels do not fit: judge binary takes labels 0 or 1")
    *_, classifier = (chosen("top1", ("y",))[0],)
    with pytest.raises(DataError, match="judge top1 takes one class a sample"):
        golden_of(session, images, np.zeros((5, 2), np.int64), classifier)


def test_a_summary_of_a_judge_is_json(prepare, tmp_path):
    summary = prepare(samples=4, judge="labels", outputs=("logits",)).run(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["judge"] == summary["judge"]


def test_the_help_names_every_judge():
    (option,) = (one for one in command.params if one.name == "judge")
    assert [name for name in JUDGES if name not in option.help] == []


def test_the_manual_names_every_option_of_every_judge():
    page = (importlib.resources.files("resq_deploy") / "guide" / "judges.md").read_text(encoding="utf-8")
    for name, kind in JUDGES.items():
        (told,) = re.findall(rf"^- `{name}`: (.*?)(?=^- |^$)", page, re.MULTILINE | re.DOTALL) or [""]
        for option, *_ in described(kind):
            assert f"`{option.partition('=')[0]}`" in told, (name, option)
