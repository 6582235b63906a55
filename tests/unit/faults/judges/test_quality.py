"""mAP and mIoU are those of libraries; contributions can be stored, joined and taken apart."""

import zlib

import numpy as np
import pytest

from resq_deploy.faults.judges.quality import FIGURES, Contributions
from resq_deploy.faults.judges.registry import parse


def boxes(rng, count):
    low = rng.uniform(0, 60, (count, 2))
    return np.concatenate([low, low + rng.uniform(5, 40, (count, 2))], axis=1)


def scene(rng, images, classes, most):
    """Labels of images, and detections: most labels found, somewhat aside, and others that are nowhere."""
    labels, found = [], []
    for _ in range(images):
        count = int(rng.integers(0, most))
        truth = np.concatenate([rng.integers(0, classes, (count, 1)), boxes(rng, count)], axis=1)
        seen = truth[rng.random(count) < 0.8]
        near = seen[:, 1:] + rng.normal(0, 3, (len(seen), 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 0.5)
        kinds = np.where(rng.random(len(seen)) < 0.85, seen[:, 0], rng.integers(0, classes + 1, len(seen)))
        others = int(rng.integers(0, most))
        corners = np.concatenate([near, boxes(rng, others)])
        kinds = np.concatenate([kinds, rng.integers(0, classes + 1, others)])
        labels.append(truth)
        found.append(np.concatenate([corners, rng.random((len(corners), 1)), kinds[:, None]], axis=1))
    return labels, found


def coco_map50(labels, found):
    """mAP at IoU 0.5 as COCO's own evaluation finds it."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def annotations(tables, first_corner, kind, score=None):
        for image, table in enumerate(tables):
            for row in table:
                x, y, right, below = row[first_corner : first_corner + 4].tolist()
                area = (right - x) * (below - y)
                told = {"image_id": image + 1, "category_id": int(row[kind]) + 1, "bbox": [x, y, right - x, below - y]}
                yield {**told, "area": area, "iscrowd": 0} | ({} if score is None else {"score": row[score]})

    def made(rows):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image + 1} for image in range(len(labels))],
            "categories": [{"id": kind + 1} for kind in range(20)],
            "annotations": [{**row, "id": place + 1} for place, row in enumerate(rows)],
        }
        coco.createIndex()
        return coco

    evaluation = COCOeval(made(annotations(labels, 1, 0)), made(annotations(found, 0, 5, 4)), "bbox")
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, -1]
    return float(precision[precision > -1].mean())


@pytest.mark.parametrize(
    ("images", "classes", "most"),
    [(1, 1, 12), (8, 3, 10), (30, 5, 6), (3, 2, 300)],
    ids=["one", "few", "many", "crowd"],
)
@pytest.mark.parametrize("seed", range(3))
def test_map_is_that_of_coco(images, classes, most, seed):
    labels, found = scene(np.random.default_rng(seed), images, classes, most)
    room = max(1, *(len(one) for one in found))
    outputs = np.zeros((images, room, 6))
    for output, one in zip(outputs, found, strict=True):
        output[: len(one)] = one
    padded = np.full((images, max(1, *(len(one) for one in labels)), 5), -1.0)
    for label, one in zip(padded, labels, strict=True):
        label[: len(one)] = one
    judge = parse("boxes:decode=decoded,top=100000,floor=0", ["y"]).settled({"y": outputs})
    rating = judge.on({"y": outputs}, padded).golden.contributions
    assert FIGURES["map50"](rating) == pytest.approx(coco_map50(labels, found), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_miou_is_that_of_scikit_learn(seed):
    from sklearn.metrics import jaccard_score

    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(6, 7, 9, 11)).astype(np.float32)
    labels = rng.integers(0, 6, (6, 9, 11))
    labels[rng.random(labels.shape) < 0.1] = 255
    scores[:, 6] = -9  # a class that is neither found nor labelled
    agree = rng.random(labels.shape) < 0.5
    np.put_along_axis(scores, np.where(agree & (labels < 255), labels, 0)[:, None], 4.0, axis=1)
    judge = parse("map", ["y"]).settled({"y": scores})
    rating = judge.on({"y": scores}, labels).golden.contributions
    rated = labels != 255
    right = jaccard_score(labels[rated], scores.argmax(axis=1)[rated], average="macro")
    assert FIGURES["miou"](rating) == pytest.approx(right, abs=1e-6)
    assert 0.2 < right < 0.9


def test_nothing_labelled_is_no_figure():
    assert FIGURES["miou"](Contributions.listed([np.empty((0, 3))], width=3)) is None
    assert FIGURES["accuracy"](Contributions.even(np.zeros(0), np.zeros(0))) is None


def uneven(seed, samples):
    rng = np.random.default_rng(seed)
    return Contributions.listed([rng.normal(size=(int(rng.integers(0, 4)), 3)) for _ in range(samples)], width=3)


def same(one, other):
    assert one.samples == other.samples
    np.testing.assert_array_equal(one.sample, other.sample)
    np.testing.assert_array_equal(one.rows, other.rows)


def test_contributions_survive_storage():
    for contributions in (uneven(0, 9), uneven(1, 0), Contributions.even(np.array([True, False]), np.ones(2))):
        stored = contributions.to_bytes()
        same(Contributions.from_bytes(stored), contributions)
        assert Contributions.from_bytes(stored).to_bytes() == stored
    with pytest.raises(ValueError, match="damaged"):
        Contributions.from_bytes(b"nothing of the kind")
    short = zlib.compress(zlib.decompress(uneven(0, 9).to_bytes())[:-8])
    with pytest.raises(ValueError, match="cut short"):
        Contributions.from_bytes(short)


def test_contributions_are_joined_and_taken_apart():
    one, other = uneven(2, 5), uneven(3, 4)
    joined = Contributions.joined([one, other])
    same(joined.take(np.arange(5)), one)
    same(joined.take(np.arange(5, 9)), other)
    same(joined.take(np.array([7, 2])), Contributions.joined([other.take(np.array([2])), one.take(np.array([2]))]))
    places = np.array([1, 3, 4, 8])
    same(joined.replaced(places, other).take(places), other)
    left = np.array([0, 2, 5, 6, 7])
    same(joined.replaced(places, other).take(left), joined.take(left))
    same(other.spread(places, 9).take(places), other)
