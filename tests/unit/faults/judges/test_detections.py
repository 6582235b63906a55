import numpy as np
import pytest

from resq_deploy.faults.judges.detections import Detections, differences, overlaps, suppressed


def found(*rows):
    """Detections from rows x1, y1, x2, y2, score, class."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return Detections.of(table[:, :4], table[:, 4], table[:, 5])


def told(golden, faulty, iou=0.5):
    differs = differences(golden, faulty, iou)
    return {name: count for name, count in vars(differs).items() if count}


CAT = (0, 0, 10, 10, 0.9, 0)
DOG = (20, 20, 30, 30, 0.8, 1)


@pytest.mark.parametrize(
    ("faulty", "expected"),
    [
        pytest.param([CAT, DOG], {}, id="the-same"),
        pytest.param([(0, 0, 10, 10, 0.3, 0), DOG], {}, id="another-score"),
        pytest.param([(0, 2, 10, 12, 0.9, 0), DOG], {}, id="hardly-moved"),  # IoU 80 / 120
        pytest.param([(0, 0, 10, 5, 0.9, 0), DOG], {}, id="half-of-it"),  # IoU one half
        pytest.param([(0, 0, 10, 4.9, 0.9, 0), DOG], {"moved": 1}, id="less-than-half"),
        pytest.param([(9, 9, 19, 19, 0.9, 0), DOG], {"lost": 1, "ghost": 1}, id="hardly-a-corner-left"),
        pytest.param([DOG], {"lost": 1}, id="lost"),
        pytest.param([], {"lost": 2}, id="nothing-left"),
        pytest.param([CAT, DOG, (50, 50, 60, 60, 0.5, 1)], {"ghost": 1}, id="ghost"),
        pytest.param([CAT, DOG, (0, 0, 10, 10, 0.5, 0)], {"ghost": 1}, id="found-twice"),
        pytest.param([(0, 0, 10, 10, 0.9, 1), DOG], {"relabelled": 1}, id="relabelled"),
        pytest.param([(0, 0, 10, 4.9, 0.9, 1), DOG], {"lost": 1, "ghost": 1}, id="relabelled-and-moved"),
        pytest.param([(0, 0, 10, 10, 0.9, 1), (20, 20, 30, 30, 0.8, 0)], {"relabelled": 2}, id="classes-exchanged"),
        pytest.param([CAT, DOG, (0, 0, 10, 10, 0.9, 7)], {"ghost": 1}, id="a-second-class-for-one-box"),
    ],
)
def test_differences(faulty, expected):
    assert told(found(CAT, DOG), found(*faulty)) == expected


def test_empty_images():
    assert told(found(), found()) == {}
    assert told(found(), found(CAT)) == {"ghost": 1}


def test_the_better_golden_detection_chooses_first():
    # Both golden boxes overlap the one that is left by a half or more: the better one keeps it.
    golden = found((0, 0, 10, 10, 0.9, 0), (0, 3, 10, 13, 0.8, 0))
    assert told(golden, found((0, 2, 10, 12, 0.9, 0))) == {"lost": 1}
    # Each takes the best overlap that is still free, whatever the scores of the faulty ones.
    assert told(golden, found((0, 3, 10, 13, 0.95, 0), (0, 0, 10, 10, 0.3, 0))) == {}


def test_boxes_without_an_area_match_themselves():
    golden = found((5, 5, 5, 5, 0.9, 0), (7, 9, 5, 5, 0.8, 0))
    assert told(golden, golden) == {}
    assert told(golden, found((5, 5, 5, 6, 0.9, 0), (7, 9, 5, 5, 0.8, 0))) == {"lost": 1, "ghost": 1}


def test_another_bound():
    assert told(found(CAT), found((0, 2, 10, 12, 0.9, 0)), iou=0.7) == {"moved": 1}
    assert told(found(CAT), found((9, 9, 19, 19, 0.9, 0)), iou=0.005) == {}


def test_what_is_not_finite_is_no_detection():
    assert len(found(CAT, (0, np.nan, 1, 1, 0.9, 0), (0, 0, 1, np.inf, 0.9, 0), (0, 0, 1, 1, np.nan, 0))) == 1


def test_order_is_by_score_and_ties_do_not_depend_on_the_order_given():
    rows = [(0, 0, 10, 10, 0.5, 1), (0, 0, 9, 9, 0.5, 1), (0, 0, 10, 10, 0.5, 0), (3, 3, 4, 4, 0.7, 2)]
    one, other = found(*rows), found(*rows[::-1])
    np.testing.assert_array_equal(one.boxes, other.boxes)
    assert one.scores.tolist() == [0.7, 0.5, 0.5, 0.5]
    assert one.classes.tolist() == other.classes.tolist() == [2, 0, 1, 1]
    for kept in (suppressed(one, 0.5), suppressed(other, 0.5)):
        assert kept.boxes[kept.classes == 1].tolist() == [[0, 0, 9, 9]]


def random_detections(rng, count, classes=3):
    low = rng.uniform(0, 80, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 40, (count, 2))], axis=1)
    scores = rng.permutation(np.linspace(0.05, 0.95, count))
    return Detections.of(boxes, scores, rng.integers(0, classes, count))


@pytest.mark.parametrize("iou", [0.0, 0.3, 0.45, 0.7, 1.0])
def test_overlaps_and_suppression_are_those_of_torchvision(iou):
    import torch
    from torchvision.ops import box_iou, nms

    rng = np.random.default_rng(5)
    for count in (0, 1, 60, 200):
        detections = random_detections(rng, count)
        boxes = torch.from_numpy(detections.boxes)
        np.testing.assert_allclose(
            overlaps(detections.boxes, detections.boxes), box_iou(boxes, boxes).numpy(), rtol=0, atol=1e-12
        )
        kept = suppressed(detections, iou)
        for kind in range(3):
            mine = detections.take(detections.classes == kind)
            right = nms(torch.from_numpy(mine.boxes), torch.from_numpy(mine.scores), iou).numpy()
            np.testing.assert_array_equal(kept.boxes[kept.classes == kind], mine.boxes[right])
