import hashlib
import json
import sys

import pytest

from resq_deploy.errors import OptionError
from resq_deploy.faults.judges.registry import (
    JUDGES,
    code_digest,
    described,
    from_identity,
    identity,
    parse,
    with_decoder,
)

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


@pytest.mark.parametrize(
    ("judge", "decode", "expected"),
    [
        (None, None, None),
        ("map", None, "map"),
        (None, "ssd", "boxes:decode=ssd"),
        ("boxes", "yolov5", "boxes:decode=yolov5"),
        ("boxes:score=0.4,iou=0.6", "mine:heads", "boxes:score=0.4,iou=0.6,decode=mine:heads"),
    ],
)
def test_a_decoder_is_put_into_the_judge(judge, decode, expected):
    assert with_decoder(judge, decode) == expected


def test_the_decoder_that_is_put_in_is_the_judges():
    judge = parse(with_decoder("boxes:score=0.4", "detr"), ["a", "b"])
    assert (judge.decode, judge.score) == ("detr", 0.4)
    assert parse(with_decoder(None, "json:dumps"), ["a"]).decode == "json:dumps"


@pytest.mark.parametrize(
    ("judge", "decode", "message"),
    [
        ("map:axis=1", "ssd", "--decode ssd is for detectors, which --judge boxes judges, not --judge map:axis=1"),
        ("mine:judge", "ssd", "--decode ssd is for detectors"),
        ("boxes:decode=detr", "ssd", "--judge boxes:decode=detr and --decode ssd both say how to decode: give one"),
        (None, "", "--decode '': give one of yolov5, yolov8, ssd, detr, decoded, or module:function of your own"),
        (None, "ssd,score=0.1", "give one of yolov5"),
    ],
)
def test_a_decoder_that_goes_with_nothing_is_refused(judge, decode, message):
    with pytest.raises(OptionError) as refused:
        with_decoder(judge, decode)
    assert message in str(refused.value)


@pytest.mark.parametrize("text", ["{}:judge", "boxes:decode={}:judge", "{}:JUDGE"])
def test_code_of_the_users_own_has_a_digest(text, tmp_path, monkeypatch):
    name = f"digested_{abs(hash(text))}"
    source = tmp_path / f"{name}.py"
    source.write_text("import functools\n\ndef judge(*_):\n    return None\n\nJUDGE = functools.partial(judge)\n")
    monkeypatch.chdir(tmp_path)
    judge = parse(text.format(name), ["a"])
    assert code_digest(judge) == hashlib.sha256(source.read_bytes()).hexdigest()
    source.write_text(source.read_text() + "# changed\n")
    assert code_digest(judge) == hashlib.sha256(source.read_bytes()).hexdigest()
    sys.modules.pop(name)


@pytest.mark.parametrize("text", ["top1", "boxes:decode=ssd", "math:hypot"])
def test_where_there_is_no_source_there_is_no_digest(text):
    assert code_digest(parse(text, ["a"])) is None


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
