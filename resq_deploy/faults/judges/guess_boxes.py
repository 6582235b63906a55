"""Which decoder fits a detector's outputs: boxes give themselves away by sizes and scores that keep to their range."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults.judges.boxes import Boxes
from resq_deploy.faults.judges.decoders import sample_shape
from resq_deploy.faults.judges.outputs import is_ragged

Named = tuple[str, NDArray[Any]]
Found = tuple[Boxes, str]
Shape = tuple[int | None, ...]

_STRIDES = (8, 16, 32, 64)
_MOST = 0.99  # of the boxes, since a box or two may be odd


def detector(outputs: Sequence[Named], inputs: Sequence[Shape]) -> Found | None:
    """Return a judge of boxes and the reason, if outputs are a detector's.

    Args:
        outputs: names and values for a few samples, [N, ...].
        inputs: shapes of one sample of each input.
    """
    cells = {count for shape in inputs for count in _cells(shape)}
    for name, values in outputs:
        found = _head(name, values, cells, _mask_numbers(outputs)) or _rows(name, values)
        if found:
            return found
    if len(outputs) > 1:
        return _separate(outputs) or _pair(outputs)
    return None


def _head(name: str, values: NDArray[Any], cells: set[int], extra: int) -> Found | None:
    """A prediction a place, each with box and scores: [N, 4 + C, A], or [N, A, 5 + C] with an objectness."""
    if values.ndim != 3 or values.dtype.kind != "f":
        return None
    told = f"output {name!r} {_shape(values)} has a box and"
    first, second = values.shape[1:]
    if 5 + extra <= first < second:
        numbers = np.swapaxes(values, 1, 2).reshape(-1, first)
        if _is_predictions(numbers, extra, places=second, usual=cells):
            what = f"{told} {first - 4 - extra} scores at each of {second} places (YOLOv8, 11)"
            return Boxes(outputs=(name,), decode="yolov8", extra=extra), _with_masks(what, extra)
    if 6 + extra <= second < first:
        numbers = values.reshape(-1, second)
        if _is_predictions(numbers, extra, places=first, usual={3 * count for count in cells} | cells):
            what = f"{told} 1 + {second - 5 - extra} scores at each of {first} places (YOLOv5)"
            return Boxes(outputs=(name,), decode="yolov5", extra=extra), _with_masks(what, extra)
    return None


def _is_predictions(rows: NDArray[Any], extra: int, *, places: int, usual: set[int]) -> bool:
    """Whether rows are box and scores: no negative size, scores in [0, 1], and pixels or as many places as cells."""
    rows = rows[np.isfinite(rows).all(axis=1)]
    scores = rows[:, 4 : rows.shape[1] - extra]
    if not len(rows) or not ((scores >= 0) & (scores <= 1)).all() or (rows[:, 2:4] >= 0).mean() < _MOST:
        return False
    if np.abs(rows.astype(np.float64).sum(axis=1) - 1.0).max() < 0.02:
        return False  # a class at each place, of a softmax
    return places in usual or rows[:, :4].max() > 1.5


def _rows(name: str, values: NDArray[Any]) -> Found | None:
    """Rows of box, score and class, [N, M, 6], or with the image's number before them, [N, M, 7]."""
    shape = sample_shape(values)
    if len(shape) != 2 or shape[1] not in (6, 7):
        return None
    rows = _together(values).reshape(-1, shape[1])[:, shape[1] - 6 :].astype(np.float64)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if not len(rows) or not _are_scores(rows[:, 4]) or not _are_classes(rows[:, 5]) or not _are_corners(rows[:, :4]):
        return None
    if (rows[:, 4:] == 0).all():
        return None  # zeros are all that a filling gives, and fit everything
    why = f"output {name!r} {_shape(values)} has rows of corners, score and class"
    return Boxes(outputs=(name,), decode="decoded"), why


def _separate(outputs: Sequence[Named]) -> Found | None:
    """Boxes, scores and classes that are decoded already, each in an output, and how many of them are valid."""
    tables = [one for one in outputs if len(sample_shape(one[1])) > 1 and sample_shape(one[1])[-1] == 4]
    boxes = next((one for one in tables if _are_corners(_corners(one[1]))), None)
    if boxes is None:
        return None
    size = int(np.prod(sample_shape(boxes[1])[:-1]))
    alike = [one for one in outputs if one is not boxes and int(np.prod(sample_shape(one[1]))) == size]
    alike = [
        one for one in alike if one[1].dtype.kind != "U" and not (one[1].dtype == object and not is_ragged(one[1]))
    ]
    by_name = sorted(alike, key=lambda one: not re.search(r"score|conf|prob", one[0], re.IGNORECASE))
    scores = next(
        (one for one in by_name if _together(one[1]).dtype.kind == "f" and _are_scores(_together(one[1]))), None
    )
    if scores is None:
        return None
    classes = [one for one in alike if one is not scores and _are_classes(_together(one[1]))][:1]
    valid = [one for one in outputs if int(np.prod(sample_shape(one[1]))) == 1 and size > 1 and not is_ragged(one[1])]
    if not classes and (valid or len(alike) > 1):
        return None
    names = tuple(name for name, _ in (boxes, scores, *classes, *valid[:1]))
    order = "yxyx" if "detection_boxes" in boxes[0] else ""  # of TensorFlow's detectors, whose outputs are called so
    told = ", ".join(map(repr, names))
    return Boxes(outputs=names, decode="decoded", order=order), f"outputs {told} are boxes, their scores and classes"


def _pair(outputs: Sequence[Named]) -> Found | None:
    """A box and a row of scores at each place, [N, A, 4] and [N, A, C]: undecoded offsets are not taken."""
    for boxes, scores in _pairs(outputs):
        numbers, rows = _corners(boxes[1]), scores[1].reshape(-1, scores[1].shape[-1]).astype(np.float64)
        places = (
            f"outputs {boxes[0]!r} {_shape(boxes[1])} and {scores[0]!r} {_shape(scores[1])} are boxes and scores of"
        )
        names = (boxes[0], scores[0])
        given = bool(((rows >= 0) & (rows <= 1)).all())
        if not given and ((numbers >= 0) & (numbers <= 1)).mean() >= _MOST:
            return Boxes(outputs=names, decode="detr"), f"{places} {boxes[1].shape[1]} queries (DETR)"
        if given and _are_corners(numbers):
            return Boxes(outputs=names, decode="ssd"), f"{places} {boxes[1].shape[1]} places (SSD)"
        if given and (numbers[:, 2:] >= 0).mean() >= _MOST and (numbers[:, :2] >= 0).mean() >= _MOST:
            return Boxes(outputs=names, decode="ssd", order="cxcywh"), f"{places} {boxes[1].shape[1]} places (SSD)"
    return None


def _pairs(outputs: Sequence[Named]) -> Iterator[tuple[Named, Named]]:
    """Yield what could be boxes and their scores, those that are called so first."""
    planes = [one for one in outputs if one[1].ndim == 3 and one[1].dtype.kind == "f"]
    for boxes in sorted(planes, key=lambda one: not re.search(r"box|loc|coord", one[0], re.IGNORECASE)):
        if boxes[1].shape[2] == 4:
            for scores in planes:
                if scores is not boxes and scores[1].shape[1] == boxes[1].shape[1]:
                    yield boxes, scores


def _mask_numbers(outputs: Sequence[Named]) -> int:
    """Return how many mask coefficients each prediction ends with: as many as the prototypes of a further output."""
    planes = [values.shape[1] for _, values in outputs if values.ndim == 4]
    return planes[0] if len(outputs) == 2 and len(planes) == 1 else 0


def _with_masks(told: str, extra: int) -> str:
    return f"{told}, and {extra} mask coefficients, which are not judged" if extra else told


def _cells(shape: Shape) -> Iterator[int]:
    """Yield how many places detectors look at in a picture of some shape, at the usual strides."""
    sizes = [size for size in shape if size is not None and size % _STRIDES[2] == 0 and size > 0]
    if len(shape) == 3 and len(sizes) >= 2:
        for strides in (_STRIDES[:3], _STRIDES):
            yield sum((sizes[-2] // stride) * (sizes[-1] // stride) for stride in strides)


def _are_corners(boxes: NDArray[np.float64]) -> bool:
    boxes = boxes[np.isfinite(boxes).all(axis=1)]
    good = (boxes[:, 2] >= boxes[:, 0]) & (boxes[:, 3] >= boxes[:, 1])
    return bool(len(boxes)) and float(good.mean()) >= _MOST and bool((boxes != 0).any())


def _are_scores(values: NDArray[Any]) -> bool:
    known = values[np.isfinite(values)]
    return bool(((known >= 0) & (known <= 1)).all())


def _are_classes(values: NDArray[Any]) -> bool:
    known = values[np.isfinite(values)]
    return bool((known >= -1).all() and (known == np.rint(known)).all())


def _corners(values: NDArray[Any]) -> NDArray[np.float64]:
    corners: NDArray[np.float64] = _together(values).reshape(-1, 4).astype(np.float64)
    return corners


def _together(values: NDArray[Any]) -> NDArray[Any]:
    """Return the values of all samples, whose sizes may differ, in one array."""
    return np.concatenate([np.atleast_1d(one) for one in values]) if is_ragged(values) else values


def _shape(values: NDArray[Any]) -> str:
    return f"[N{''.join(f', {size}' for size in sample_shape(values))}]"
