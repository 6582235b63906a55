"""The guess is right on every kind of file that is common, from what it gives for a few samples."""

import numpy as np
import pytest

from resq_deploy.errors import ModelError
from resq_deploy.faults.judges.boxes import Boxes
from resq_deploy.faults.judges.guess import Value, guess
from resq_deploy.faults.judges.outputs import ragged
from resq_deploy.faults.judges.registry import identity
from resq_deploy.faults.judges.top1 import Top1

RNG = np.random.default_rng(22)
IMAGE = [Value(name="images", shape=(3, 64, 64), type="float32")]
DETECTOR = [Value(name="images", shape=(3, 640, 640), type="float32")]
TOKENS = [
    Value(name="input_ids", shape=(None,), type="int64"),
    Value(name="attention_mask", shape=(None,), type="int64"),
]


def normal(*shape, dtype=np.float32):
    return RNG.normal(0, 3, shape).astype(dtype)


def softmax(values, axis):
    raised = np.exp(values - values.max(axis=axis, keepdims=True))
    return raised / raised.sum(axis=axis, keepdims=True)


def sigmoid(values):
    return (1 + np.tanh(values / 2)) / 2


def in_bytes(shares):
    """Probabilities as an 8-bit tensor gives them back."""
    return np.round(shares * 256).clip(0, 255).astype(np.float32) / 256


def corners(samples, count, size=640.0):
    low = RNG.uniform(0, 0.7, (samples, count, 2))
    return (np.concatenate([low, low + RNG.uniform(0.01, 0.3, (samples, count, 2))], axis=2) * size).astype(np.float32)


def centred(samples, count, size=640.0):
    boxes = corners(samples, count, size)
    return np.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], axis=2)


def scores(*shape):
    return sigmoid(normal(*shape) - 5)


def classes(*shape, dtype=np.int64, kinds=80):
    return RNG.integers(0, kinds, shape).astype(dtype)


def head(places, *parts):
    return np.concatenate([centred(2, places), *parts], axis=2)


def valid_rows(*columns, dtype=np.float32):
    table = np.concatenate(columns, axis=2).astype(dtype)
    table[:, 60:] = 0
    return table


def unit(*shape):
    vectors = normal(*shape)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def decided(*shape):
    return sigmoid(normal(*shape) * 30)


def detr_logits(kinds, queries=100):
    logits = normal(2, queries, kinds + 1)
    logits[:, 5:, -1] = 30
    return logits


ONE = {
    # name: (output, inputs, what is expected of the judge)
    "logits": (normal(8, 10), IMAGE, {"name": "top1"}),
    "logits-1000": (normal(4, 1000), IMAGE, {"name": "top1"}),
    "softmax": (softmax(normal(8, 10), 1), IMAGE, {"name": "top1"}),
    "softmax-8-bit": (in_bytes(softmax(normal(8, 10), 1)), IMAGE, {"name": "top1"}),
    "log-softmax": (np.log(softmax(normal(8, 10), 1)), IMAGE, {"name": "top1"}),
    "logits-1x1": (normal(8, 10, 1, 1), IMAGE, {"name": "top1"}),
    "logits-nhwc": (normal(8, 1, 1, 10), IMAGE, {"name": "top1"}),
    "uint8-scores": (classes(8, 10, dtype=np.uint8, kinds=256), IMAGE, {"name": "top1"}),
    "int8-scores": (normal(8, 10).astype(np.int8), IMAGE, {"name": "top1"}),
    "one-sigmoid": (sigmoid(normal(8, 1)), IMAGE, {"name": "binary"}),
    "one-sigmoid-uint8": (classes(8, 1, dtype=np.uint8, kinds=256), IMAGE, {"name": "binary"}),
    "tags-of-an-image": (sigmoid(normal(8, 12)), IMAGE, {"name": "binary"}),
    "regression": (normal(8, 1) * 50, IMAGE, {"name": "values"}),
    "regression-flat": (normal(8) * 50, IMAGE, {"name": "values"}),
    "labels": (classes(8, kinds=3), IMAGE, {"name": "labels"}),
    "labels-column": (classes(8, 1, kinds=3), IMAGE, {"name": "labels"}),
    "labels-text": (np.array(["cat", "dog"] * 4, dtype=object), IMAGE, {"name": "labels"}),
    "yolov8": (np.swapaxes(head(8400, scores(2, 8400, 80)), 1, 2), DETECTOR, {"name": "boxes", "decode": "yolov8"}),
    "yolov8-one-class": (np.swapaxes(head(2100, scores(2, 2100, 1)), 1, 2), DETECTOR, {"decode": "yolov8"}),
    "yolov8-normalised": (
        np.swapaxes(np.concatenate([centred(2, 8400, 1.0), scores(2, 8400, 80)], axis=2), 1, 2),
        DETECTOR,
        {"decode": "yolov8"},
    ),
    "normalised-but-not-a-place-a-cell": (
        np.swapaxes(np.concatenate([centred(2, 8000, 1.0), scores(2, 8000, 80)], axis=2), 1, 2),
        DETECTOR,
        {"name": "values"},
    ),
    "negative-sizes": (
        np.swapaxes(np.concatenate([normal(2, 8400, 4), scores(2, 8400, 80)], axis=2), 1, 2),
        DETECTOR,
        {"name": "values"},
    ),
    "yolov8-open-size": (np.swapaxes(head(8400, scores(2, 8400, 3)), 1, 2), [], {"decode": "yolov8"}),
    "yolov5": (head(25200, scores(2, 25200, 81)), DETECTOR, {"name": "boxes", "decode": "yolov5"}),
    "yolov5-one-class": (head(1008, scores(2, 1008, 2)), DETECTOR, {"decode": "yolov5"}),
    "detections-rows": (
        valid_rows(corners(2, 300), scores(2, 300, 1), classes(2, 300, 1)),
        DETECTOR,
        {"name": "boxes", "decode": "decoded"},
    ),
    "detections-rows-7": (
        ragged(
            [
                np.concatenate([np.zeros((n, 1)), corners(1, n)[0], classes(n, 1), scores(n, 1)], axis=1)[
                    :, [0, 1, 2, 3, 4, 6, 5]
                ]
                for n in (3, 5)
            ]
        ),
        DETECTOR,
        {"name": "boxes", "decode": "decoded"},
    ),
    "segmentation": (normal(2, 21, 64, 64), IMAGE, {"name": "map", "axis": 1}),
    "segmentation-softmax": (softmax(normal(2, 3, 64, 64), 1), IMAGE, {"name": "map", "axis": 1}),
    "segmentation-nhwc": (normal(2, 64, 64, 21), IMAGE, {"name": "map", "axis": -1}),
    "segmentation-smaller": (normal(2, 5, 16, 16), IMAGE, {"name": "map", "axis": 1}),
    "segmentation-classes": (classes(2, 64, 64, kinds=21), IMAGE, {"name": "map", "axis": 0}),
    "segmentation-classes-uint8": (classes(2, 64, 64, dtype=np.uint8, kinds=21), IMAGE, {"name": "map", "axis": 0}),
    "segmentation-yes-or-no": (decided(2, 1, 64, 64), IMAGE, {"name": "map", "axis": 1}),
    "picture-uint8": (classes(2, 64, 64, dtype=np.uint8, kinds=256), IMAGE, {"name": "values"}),
    "tagger": (normal(2, 12, 9), [Value(name="ids", shape=(12,), type="int64")], {"name": "map", "axis": -1}),
    "tagger-softmax": (softmax(normal(2, 12, 9), -1), TOKENS, {"name": "map", "axis": -1}),
    "ctc-softmax": (softmax(normal(2, 40, 6625), -1), IMAGE, {"name": "map", "axis": -1}),
    "ctc-log-softmax": (np.log(softmax(normal(2, 40, 97), -1)), IMAGE, {"name": "map", "axis": -1}),
    "ctc-as-long-as-cells": (softmax(normal(2, 21, 84), 1), IMAGE, {"name": "map", "axis": 1}),
    "ctc-channels-first": (softmax(normal(2, 97, 40), 1), IMAGE, {"name": "map", "axis": 1}),
    "speech-mask": (
        sigmoid(normal(2, 257, 40)),
        [Value(name="magnitude", shape=(257, 41), type="float32")],
        {"name": "values"},
    ),
    "embedding-128": (unit(8, 128), IMAGE, {"name": "embedding"}),
    "embedding-512": (unit(8, 512), IMAGE, {"name": "embedding"}),
    "autoencoder-row": (normal(8, 32), [Value(name="x", shape=(32,), type="float32")], {"name": "values"}),
    "autoencoder": (sigmoid(normal(2, 3, 64, 64)), IMAGE, {"name": "values"}),
    "super-resolution": (normal(2, 3, 128, 128), IMAGE, {"name": "values"}),
    "depth": (sigmoid(normal(2, 1, 64, 64)), IMAGE, {"name": "values"}),
    "many-dimensions": (normal(2, 3, 80, 80, 85), IMAGE, {"name": "values"}),
}


@pytest.mark.parametrize(("values", "inputs", "expected"), ONE.values(), ids=ONE)
def test_one_output(values, inputs, expected):
    judge, reason = guess([Value(name="out", values=values)], inputs)
    told = identity(judge)
    assert {key: told[key] for key in expected} == expected, reason
    assert judge.outputs == ("out",)
    assert "\n" not in reason
    assert "'out'" in reason or "sample" in reason
    judge.settled({"out": values}).on({"out": values}, None)  # what is guessed can be judged


NAMED = {
    "embedding": ({"embedding": normal(8, 256)}, {"name": "embedding"}),
    "hidden": ({"last_hidden_state": normal(2, 12, 384)}, {"name": "values"}),
    "logits-of-text": ({"logits": normal(2, 40, 97)}, {"name": "map", "axis": -1}),
    "ssd": (
        {"boxes": corners(2, 1917, 1.0), "scores": softmax(normal(2, 1917, 21), -1)},
        {"name": "boxes", "decode": "ssd", "outputs": ["boxes", "scores"]},
    ),
    "ssd-scores-first": (
        {"scores": softmax(normal(2, 4420, 2), -1), "boxes": corners(2, 4420, 1.0)},
        {"name": "boxes", "decode": "ssd", "outputs": ["boxes", "scores"]},
    ),
    "ssd-centres": ({"loc": centred(2, 500, 300.0), "conf": scores(2, 500, 8)}, {"decode": "ssd", "order": "cxcywh"}),
    "ssd-offsets": ({"loc": normal(2, 1917, 4), "conf": normal(2, 1917, 21)}, {"name": "values"}),
    "detr": (
        {"logits": detr_logits(91), "pred_boxes": centred(2, 100, 1.0)},
        {"name": "boxes", "decode": "detr", "outputs": ["pred_boxes", "logits"]},
    ),
    "rt-detr": ({"logits": normal(2, 300, 80) - 9, "boxes": centred(2, 300, 1.0)}, {"decode": "detr"}),
    "decoded-3": (
        {"bboxes": corners(2, 50), "labels": classes(2, 50), "scores": scores(2, 50)},
        {"name": "boxes", "decode": "decoded", "outputs": ["bboxes", "scores", "labels"]},
    ),
    "decoded-4": (
        {
            "detection_boxes": corners(2, 100, 1.0),
            "detection_classes": classes(2, 100, dtype=np.float32),
            "detection_scores": scores(2, 100),
            "num_detections": np.array([7.0, 9.0], dtype=np.float32),
        },
        {
            "decode": "decoded",
            "order": "yxyx",
            "outputs": ["detection_boxes", "detection_scores", "detection_classes", "num_detections"],
        },
    ),
    "decoded-number-first": (
        {
            "num_dets": np.array([[7], [9]], dtype=np.int32),
            "det_boxes": corners(2, 100),
            "det_scores": scores(2, 100),
            "det_classes": classes(2, 100, dtype=np.int32),
        },
        {"decode": "decoded", "outputs": ["det_boxes", "det_scores", "det_classes", "num_dets"]},
    ),
    "decoded-ragged": (
        {
            "boxes": ragged([corners(1, 3)[0], corners(1, 5)[0]]),
            "labels": ragged([classes(3), classes(5)]),
            "scores": ragged([scores(3), scores(5)]),
        },
        {"decode": "decoded", "outputs": ["boxes", "scores", "labels"]},
    ),
    "yolov8-masks": (
        {
            "output0": np.swapaxes(head(8400, scores(2, 8400, 80), normal(2, 8400, 32)), 1, 2),
            "output1": normal(2, 32, 9, 9),
        },
        {"decode": "yolov8", "extra": 32, "outputs": ["output0"]},
    ),
    "two-classifiers": (
        {"four": np.sort(normal(3, 4), axis=1), "alarm": sigmoid(normal(3, 1))},
        {"name": "values", "outputs": ["four", "alarm"]},
    ),
    "raw-heads": (
        {"p3": normal(2, 255, 80, 80), "p4": normal(2, 255, 40, 40), "p5": normal(2, 255, 20, 20)},
        {"name": "values", "outputs": ["p3", "p4", "p5"]},
    ),
    "segmentation-aux": (
        {"out": normal(2, 21, 64, 64), "aux": normal(2, 21, 64, 64)},
        {"name": "map", "outputs": ["out"]},
    ),
    "label-and-probabilities": (
        {"label": classes(8, kinds=3), "probabilities": softmax(normal(8, 3), 1)},
        {"name": "labels", "outputs": ["label"]},
    ),
    "labels-and-text": (
        {"number": classes(8, kinds=3), "name": np.array(["cat", "dog"] * 4, dtype=object)},
        {"name": "labels", "outputs": ["number", "name"]},
    ),
    "a-number-beside-a-mask": (
        {"count": classes(2, kinds=9), "mask": sigmoid(normal(2, 257, 40))},
        {"name": "values", "outputs": ["count", "mask"]},
    ),
    "text-beside-a-mask": (
        {"said": np.array(["cat", "dog"], dtype=object), "mask": sigmoid(normal(2, 257, 40))},
        {"name": "values", "outputs": ["mask"]},
    ),
    "twelve-outputs": ({f"head{place}": normal(2, 5 + place) for place in range(12)}, {"name": "values"}),
}


@pytest.mark.parametrize(("outputs", "expected"), NAMED.values(), ids=NAMED)
def test_named_outputs(outputs, expected):
    judge, reason = guess([Value(name=name, values=values) for name, values in outputs.items()], DETECTOR)
    told = identity(judge)
    assert {key: told[key] for key in expected} == expected, reason
    judge.settled(outputs).on(outputs, None)
    left_out = reason.partition("left out: ")[2]
    assert [name for name in outputs if name not in judge.outputs] == [
        name for name in outputs if repr(name) in left_out
    ]


@pytest.mark.parametrize("kind", ["detr", "rt-detr"])
def test_queries_are_read_as_their_logits_are(kind):
    outputs, _ = NAMED[kind]
    judge, _ = guess([Value(name=name, values=values) for name, values in outputs.items()])
    assert isinstance(judge, Boxes)
    settled = judge.settled(outputs)
    expected = ("softmax", "last") if kind == "detr" else ("sigmoid", "none")
    assert (settled.activation, settled.background) == expected


def test_zipmap_is_judged_by_its_label():
    outputs = [Value(name="output_label", values=classes(8, kinds=3)), Value(name="output_probability")]
    judge, reason = guess(outputs)
    assert (judge.name, judge.outputs) == ("labels", ("output_label",))
    assert reason.endswith("left out: 'output_probability'")
    with pytest.raises(ModelError, match="none of the model's outputs is a tensor"):
        guess(outputs[1:])


@pytest.mark.parametrize(
    ("into", "out"),
    [
        ("h0", "hn"),
        ("state_in", "state_out"),
        ("state", "stateN"),
        ("prev_state", "next_state"),
        ("past.0.key", "present.0.key"),
        ("hidden", "hidden_out"),
        ("inState", "outState"),
    ],
)
def test_states_are_not_the_answer(into, out):
    inputs = [Value(name="audio", shape=(512,), type="float32"), Value(name=into, shape=(1, 64), type="float32")]
    outputs = [Value(name="speech", values=sigmoid(normal(4, 1))), Value(name=out, values=normal(4, 1, 64))]
    judge, reason = guess(outputs, inputs)
    assert (judge.name, judge.outputs) == ("binary", ("speech",))
    assert reason.endswith(f"left out: {out!r}")


def test_an_output_is_no_state_for_its_size_alone():
    inputs = [Value(name="x", shape=(64,), type="float32")]
    outputs = [Value(name="mean", values=normal(4, 64)), Value(name="deviation", values=normal(4, 64))]
    assert guess(outputs, inputs).judge.outputs == ("mean", "deviation")


ROW = Value(name="x", shape=(10,), type="float32")
SMALL = Value(name="image", shape=(3, 32, 32), type="float32")
LIKE_AN_INPUT = {
    "mask-of-classes-beside-an-image": (
        "out",
        normal(8, 10),
        [SMALL, Value(name="a", shape=(10,), type="float32")],
        "top1",
    ),
    "mask-by-name-beside-less": (
        "out",
        normal(8, 10),
        [Value(name="x", shape=(4,), type="float32"), Value(name="class_mask", shape=(10,), type="float32")],
        "top1",
    ),
    "mask-of-truth-values": ("out", normal(8, 10), [SMALL, Value(name="a", shape=(10,), type="bool")], "top1"),
    "mask-of-truth-values-alone": ("out", normal(8, 10), [Value(name="a", shape=(10,), type="bool")], "top1"),
    "condition-beside-features": (
        "out",
        normal(8, 10),
        [Value(name="x", shape=(4,), type="float32"), Value(name="task", shape=(10,), type="float32")],
        "top1",
    ),
    "weights-beside-open-tokens": (
        "out",
        normal(8, 10),
        [Value(name="ids", shape=(None,), type="int64"), Value(name="a", shape=(10,), type="float32")],
        "top1",
    ),
    "as-many-classes-as-features": ("logits", normal(8, 10), [ROW], "top1"),
    "region-beside-an-image": (
        "out",
        (normal(2, 1, 64, 64) > 0).astype(np.float32),
        [IMAGE[0], Value(name="region", shape=(1, 64, 64), type="float32")],
        "map",
    ),
    "autoencoder": ("out", normal(8, 10), [ROW], "values"),
    "autoencoder-of-a-time": ("out", normal(8, 10), [ROW, Value(name="t", shape=(1,), type="float32")], "values"),
    "two-pictures": ("out", sigmoid(normal(2, 3, 64, 64)), [IMAGE[0], Value(name="b", shape=(3, 64, 64))], "values"),
    "picture-and-mask": (
        "out",
        sigmoid(normal(2, 3, 64, 64)),
        [IMAGE[0], Value(name="mask", shape=(1, 64, 64), type="float32")],
        "values",
    ),
}


@pytest.mark.parametrize(("name", "values", "inputs", "judge"), LIKE_AN_INPUT.values(), ids=LIKE_AN_INPUT)
def test_what_is_as_large_as_an_input_need_not_be_a_copy_of_it(name, values, inputs, judge):
    found, reason = guess([Value(name=name, values=values)], inputs)
    assert found.name == judge, reason


def test_a_row_that_is_labelled_by_class_is_no_copy_of_the_input():
    found, reason = guess([Value(name="out", values=normal(8, 10))], [ROW], np.arange(8))
    assert found.name == "top1", reason


def test_states_do_not_hide_what_comes_out():
    state = Value(name="h_in", shape=(1, 128), type="float32")
    outputs = [Value(name="gain", values=sigmoid(normal(8, 257))), Value(name="h_out", values=normal(8, 1, 128))]
    found, reason = guess(outputs, [Value(name="x", shape=(257,), type="float32"), state])
    assert (found.name, found.outputs) == ("values", ("gain",)), reason


LABELLED = {
    "logit": (normal(8, 1), np.array([0, 1] * 4), "binary"),
    "number": (normal(8, 1), normal(8), "values"),
    "coordinates": (normal(8, 10), normal(8, 10), "values"),
    "scores": (unit(8, 10), np.arange(8), "top1"),
    "tokens": (normal(4, 6, 9), classes(4, 6, kinds=9), "map"),
    "three-classes-as-large-as-the-image": (normal(2, 3, 64, 64), classes(2, 64, 64, kinds=3), "map"),
}


@pytest.mark.parametrize(("values", "labels", "name"), LABELLED.values(), ids=LABELLED)
def test_labels_tell_what_numbers_alone_do_not(values, labels, name):
    judge, reason = guess([Value(name="out", values=values)], IMAGE, labels)
    assert judge.name == name, reason


def test_golden_outputs_that_are_not_finite_do_not_mislead():
    values = softmax(normal(8, 10), 1)
    values[3, 4] = np.nan
    assert guess([Value(name="out", values=values)]).reason.startswith("output 'out' [N, 10] is a row of 10 scores")
    assert guess([Value(name="out", values=np.full((2, 7), np.nan))]).judge.name == "top1"


def test_the_reason_is_a_sentence_for_the_user():
    _, reason = guess([Value(name="mask", values=sigmoid(normal(2, 257, 40)))])
    assert reason == (
        "no task is told (output 'mask' [N, 257, 40] could be anything): an error beyond 0.1 of the golden values "
        "counts as sdc1"
    )
    assert "give --judge embedding" in guess([Value(name="y", values=normal(8, 512))]).reason


def test_a_classifier_that_gives_its_features_too_is_one_where_classes_are_labelled():
    """Without labels both rows may be anything, and are judged by their numbers."""
    rng = np.random.default_rng(0)
    outputs = [Value(name="pooled", values=rng.random((4, 64))), Value(name="scores", values=rng.normal(size=(4, 10)))]
    assert guess(outputs, labels=np.array([3, 1, 9, 0])).judge == Top1(outputs=("scores",))
    assert guess(outputs).judge.outputs == ("pooled", "scores")
