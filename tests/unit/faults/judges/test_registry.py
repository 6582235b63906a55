import json

import pytest

from resq_deploy.errors import OptionError
from resq_deploy.faults.judges.registry import JUDGES, described, from_identity, identity, parse

TEXTS = [
    "top1",
    "binary:threshold=0.7",
    "labels",
    "map:axis=-1,share=0.05,ignore=-100",
    "boxes:decode=ssd,score=0.4,background=first,top=50",
    "embedding:bound=0.3",
    "values:norm=max,each=yes",
    "json:dumps",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_judge_is_told_by_its_identity(text):
    judge = parse(text, ["a"])
    assert from_identity(json.loads(json.dumps(identity(judge)))) == judge


def test_options_are_read():
    judge = parse("map:axis=-1,share=0.05,threshold=auto", ["a"])
    assert (judge.axis, judge.share, judge.threshold) == (-1, 0.05, None)
    assert parse("values:each=yes", ["a"]).each is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "top5",
            "no judge 'top5': give one of top1, binary, labels, map, boxes, embedding, values, or module:function",
        ),
        ("map:axes=1", "cannot read 'axes=1'; options of map: axis, share, ignore, threshold, quality"),
        ("map:axis", "no judge|cannot read 'axis'"),
        ("map:axis=x", "axis is a number \\(axis of the output\\), not 'x'"),
        ("map:share=2", "share is a share: give 0 to 1, not 2"),
        ("values:each=maybe", "each is yes or no, not 'maybe'"),
        ("values:norm=l1", "norm is one of l2, max, not 'l1'"),
        ("values:bound=nan", "bound is 0 or more, not nan"),
        ("boxes:decode=ssd,order=zxy", "order is one of"),
        ("boxes:decode=ssd,top=0", "top is 1 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(text, message):
    with pytest.raises(OptionError, match=message):
        parse(text, ["a"])


def test_outputs_must_be_named_and_different():
    for outputs in ([], ["a", "a"]):
        with pytest.raises(OptionError, match="name one or more different outputs"):
            parse("values", outputs)


@pytest.mark.parametrize("kind", JUDGES.values(), ids=JUDGES)
def test_every_option_says_what_it_does(kind):
    assert kind.__doc__
    assert all(unit and text for _, unit, text in described(kind))


def test_defaults_are_those_of_the_specification():
    told = {f"{kind.name}.{name}" for kind in JUDGES.values() for name, _, _ in described(kind)}
    assert {"map.share=0.01", "boxes.iou=0.5", "values.bound=0.1", "boxes.order=auto", "values.each=no"} <= told


@pytest.mark.parametrize(
    ("text", "rated", "ladder"),
    [
        ("top1:confidence=none", False, ["masked", "benign", "sdc1", "sdc5", "nonfinite"]),
        ("binary", True, ["masked", "benign", "sdc1", "nonfinite", "corrected", "corrupted"]),
        ("map", True, ["masked", "benign", "sdc1", "nonfinite"]),
        (
            "boxes:decode=ssd",
            True,
            ["masked", "benign", "sdc1", "lost", "moved", "relabelled", "ghost", "nonfinite"],
        ),
        ("values", False, ["masked", "benign", "sdc1", "nonfinite"]),
    ],
)
def test_the_ladder_has_the_rungs_of_the_task(text, rated, ladder):
    assert list(parse(text, ["a"]).ladder(rated)) == ladder
