"""Each decoder reads two detections back out of the outputs of its kind, however these are written."""

import numpy as np
import pytest

from resq_deploy.errors import ModelError
from resq_deploy.faults.judges.outputs import ragged
from resq_deploy.faults.judges.registry import parse

BOXES = np.array([[10.0, 20, 30, 60], [40, 40, 50, 70]])  # x1, y1, x2, y2
SCORES, CLASSES = np.array([0.9, 0.6]), np.array([2, 0])
CENTRED = np.concatenate([(BOXES[:, :2] + BOXES[:, 2:]) / 2, BOXES[:, 2:] - BOXES[:, :2]], axis=1)
ONE_HOT = SCORES[:, None] * np.eye(3)[CLASSES]  # [2, 3]


def logit(shares):
    clipped = np.clip(shares, 1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped))


def competing(background):
    """Probabilities that sum to 1, the rest of each row on a background."""
    rest = 1 - SCORES[:, None]
    return np.concatenate([rest, ONE_HOT] if background == "first" else [ONE_HOT, rest], axis=1)


def padded(rows, value=0.0):
    return np.concatenate([rows, np.full((3, *rows.shape[1:]), value)])


def queries(scores):
    """Logits of which most are those of no object, as a DETR's are."""
    none = np.log(np.array([0.01, 0.01, 0.01, 0.97]))
    return np.concatenate([np.log(scores + 1e-6), np.tile(none, (4, 1))])


KINDS = {
    "yolov8": ("boxes:decode=yolov8", [np.concatenate([CENTRED, ONE_HOT], axis=1).T], CLASSES),
    "yolov8-logits": ("boxes:decode=yolov8", [np.concatenate([CENTRED, logit(ONE_HOT)], axis=1).T], CLASSES),
    "yolov8-masks": (
        "boxes:decode=yolov8,extra=32",
        [np.concatenate([CENTRED, ONE_HOT, np.full((2, 32), 5.0)], axis=1).T],
        CLASSES,
    ),
    "yolov5": (
        "boxes:decode=yolov5",
        [np.concatenate([CENTRED, SCORES[:, None], np.eye(3)[CLASSES]], axis=1)],
        CLASSES,
    ),
    "yolov5-logits": (
        "boxes:decode=yolov5",
        [np.concatenate([CENTRED, logit(SCORES)[:, None], logit(np.eye(3)[CLASSES])], axis=1)],
        CLASSES,
    ),
    "ssd-softmax": ("boxes:decode=ssd", [BOXES, competing("first")], CLASSES + 1),
    "ssd-logits": ("boxes:decode=ssd", [BOXES, np.log(competing("first") + 1e-9)], CLASSES + 1),
    "ssd-sigmoid": ("boxes:decode=ssd", [BOXES, ONE_HOT], CLASSES),
    "ssd-yxyx": ("boxes:decode=ssd,order=yxyx", [BOXES[:, [1, 0, 3, 2]], ONE_HOT], CLASSES),
    "ssd-xywh": (
        "boxes:decode=ssd,order=xywh",
        [np.concatenate([BOXES[:, :2], CENTRED[:, 2:]], axis=1), ONE_HOT],
        CLASSES,
    ),
    "detr": ("boxes:decode=detr", [np.concatenate([CENTRED, np.ones((4, 4))]), queries(competing("last"))], CLASSES),
    "detr-sigmoid": ("boxes:decode=detr", [CENTRED, logit(ONE_HOT)], CLASSES),
    "rows": (
        "boxes:decode=decoded",
        [padded(np.concatenate([BOXES, SCORES[:, None], CLASSES[:, None]], axis=1))],
        CLASSES,
    ),
    "rows-with-image": (
        "boxes:decode=decoded",
        [
            padded(
                np.concatenate([np.zeros((2, 1)), BOXES, CLASSES[:, None], SCORES[:, None]], axis=1)[
                    :, [0, 1, 2, 3, 4, 6, 5]
                ]
            )
        ],
        CLASSES,
    ),
    "separate": ("boxes:decode=decoded", [padded(BOXES), padded(SCORES), padded(CLASSES)], CLASSES),
    "separate-valid": (
        "boxes:decode=decoded",
        [padded(BOXES, 7.0), padded(SCORES, 0.99), padded(CLASSES), np.array([2.0])],
        CLASSES,
    ),
    "one-class": ("boxes:decode=decoded", [padded(BOXES), padded(SCORES)], np.zeros(2)),
}


@pytest.mark.parametrize(("text", "parts", "classes"), KINDS.values(), ids=KINDS)
def test_detections_are_read_back(text, parts, classes):
    outputs = {f"o{place}": np.stack([part, part]).astype(np.float32) for place, part in enumerate(parts)}
    judge = parse(text, list(outputs)).settled(outputs)
    found = judge.read(outputs)["found"]
    for one in found:
        mine = one.above(0.25)
        np.testing.assert_allclose(mine.boxes, BOXES, atol=1e-4)
        np.testing.assert_allclose(mine.scores, SCORES, atol=1e-4)
        np.testing.assert_array_equal(mine.classes, classes)


def test_rows_of_different_number_a_sample():
    rows = np.concatenate([BOXES, SCORES[:, None], CLASSES[:, None]], axis=1)
    outputs = {"y": ragged([rows, rows[:0], rows[1:]])}
    judge = parse("boxes:decode=decoded", ["y"]).settled(outputs)
    assert [len(one) for one in judge.read(outputs)["found"]] == [2, 0, 1]


def test_what_overlaps_a_better_one_of_its_class_is_suppressed():
    boxes = np.array([[50, 50, 20, 20], [51, 50, 20, 20], [51, 50, 20, 20], [80, 50, 20, 20]])
    scores = np.array([[0.9, 0], [0.8, 0], [0, 0.7], [0.6, 0]])
    outputs = {"y": np.concatenate([boxes, scores], axis=1).T[None].astype(np.float32)}

    def kept(text):
        return parse(text, ["y"]).settled(outputs).read(outputs)["found"][0].scores.round(4).tolist()

    assert kept("boxes:decode=yolov8") == [0.9, 0.7, 0.6]
    assert kept("boxes:decode=yolov8,nms=0.95") == [0.9, 0.8, 0.7, 0.6]
    assert kept("boxes:decode=yolov8,top=2") == [0.9, 0.7]


@pytest.mark.parametrize(
    ("decode", "shapes"),
    [
        ("yolov8", [(2, 4, 100)]),
        ("yolov8", [(2, 3, 8, 8)]),
        ("yolov5", [(2, 100, 5)]),
        ("ssd", [(2, 100, 4)]),
        ("ssd", [(2, 100, 21), (2, 100, 4)]),
        ("detr", [(2, 100, 4), (2, 90, 92)]),
        ("decoded", [(2, 100, 5)]),
        ("decoded", [(2, 100, 4), (2, 90)]),
    ],
    ids=str,
)
def test_other_shapes_are_refused(decode, shapes):
    outputs = {f"o{place}": np.zeros(shape, dtype=np.float32) for place, shape in enumerate(shapes)}
    with pytest.raises(ModelError, match=rf"decoder {decode} takes, of each sample, .*--outputs.*'o0'"):
        parse(f"boxes:decode={decode}", list(outputs)).settled(outputs)
