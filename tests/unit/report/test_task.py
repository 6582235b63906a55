"""Words of the task: detections that are lost are no wrong classes, and without labels there is no accuracy."""

import pathlib

import pytest

from resq_deploy.report.runs import Run
from resq_deploy.report.task import amounts_told, by_task, clean_told, meanings, quality_name, task_of


def judge(name, ladder=("masked", "benign", "sdc1", "nonfinite"), **options):
    return {"name": name, "outputs": ["y"], "options": options, "reason": "it fits", "ladder": list(ladder)}


def of(summary, label="run"):
    manifest = {"command": "faultcamp", "options": {}, "settings": {}, "sha256": {}}
    return Run(label=label, path=pathlib.Path(label), manifest=manifest, summary=summary)


def made(found, label="run", **more):
    return of({"judge": found, "golden": {"images": 20}, **more}, label)


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (judge("top1"), "get another answer"),
        (judge("boxes"), "lose, move or relabel a detection, or show a ghost"),
        (judge("map", share=0.01), "have another class at more than 1 % of their positions"),
        (judge("embedding", bound=0.1), "move further than a cosine distance of 0.1"),
        (judge("values", bound=0.05), "move further than a relative error of 0.05"),
        (judge("own", function="mine:judge"), "are wrong by mine:judge"),
        (judge("one of tomorrow"), "get another answer"),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_every_judge_has_its_words(found, wrong):
    task = task_of(made(found))
    assert task.wrong == wrong
    assert {"masked", "benign", "sdc1", "nonfinite", "due"} <= meanings(task).keys()


def test_earlier_campaigns_judged_classes():
    old = of({"golden": {"images": 20}})
    assert (task_of(old).judge, task_of(old).unit) == ("top1", "image")
    assert "sdc10" in task_of(old).ladder


def test_a_sample_with_states_is_a_sequence():
    assert task_of(made(judge("values", bound=0.1))).units == "samples"
    stated = made(judge("values", bound=0.1), data={"states": [{"input": "h", "output": "h_next"}]})
    assert task_of(stated).units == "sequences"


def test_what_is_counted_is_told():
    run = made(judge("boxes"), amounts={"lost": 0.00125, "moved": 0.0, "ghost": 0.005})
    told = amounts_told(run.summary, task_of(run))
    assert told == "1.2 lost detections and 5 ghosts in 1,000 images, on average"
    assert amounts_told({}, task_of(run)) == ""


def test_without_labels_there_is_no_quality():
    plain = made(judge("map", share=0.01))
    assert quality_name(plain) is None
    assert clean_told(plain) == "-"
    figure = {"name": "miou", "value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "confidence": 0.95}
    rated = made(
        judge("map", share=0.01), golden={"images": 20, "quality": {"name": "miou", "value": 0.61}}, quality=figure
    )
    assert quality_name(rated) == "mIoU"
    assert clean_told(rated) == "61 %"


def test_runs_stand_side_by_side_only_where_they_are_judged_alike():
    one, two = made(judge("boxes"), "one"), made(judge("top1"), "two")
    three = made(judge("boxes", iou=0.5), "three")
    assert [[run.label for run in group] for group in by_task([one, two, three])] == [["one", "three"], ["two"]]
