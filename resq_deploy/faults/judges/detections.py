"""Detections of one sample: boxes, scores and classes; how they overlap, suppress and match one another.

Ties never depend on the order in which a file gives its detections: they are put in an order of their own first.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults.judges.outputs import Flags, Rows

Numbers = NDArray[np.float64]

LEAST_MOVED = 0.1
"""IoU from which an unmatched detection of the same class counts as moved, rather than lost here and a ghost there."""

_AT_ONCE = 256  # detections whose overlaps are all computed at once
_PER_CLASS = 100  # detections of one class and sample that mAP looks at, as COCO's evaluation


@dataclasses.dataclass(frozen=True, eq=False)
class Detections:
    """Detections of one sample, by score, highest first.

    Attributes:
        boxes: x1, y1, x2, y2 in whatever unit the model has, shape [D, 4].
        scores: shape [D].
        classes: shape [D].
    """

    boxes: Numbers
    scores: Numbers
    classes: NDArray[np.int64]

    @classmethod
    def of(cls, boxes: NDArray[np.generic], scores: NDArray[np.generic], classes: NDArray[np.generic]) -> "Detections":
        """Put detections in their order, without those that are not finite: nothing can be done with them."""
        corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        certain, kinds = np.asarray(scores, dtype=np.float64), np.asarray(classes, dtype=np.float64)
        good = np.isfinite(corners).all(axis=1) & np.isfinite(certain) & np.isfinite(kinds)
        corners, certain, kinds = corners[good], certain[good], np.rint(kinds[good])
        order = np.lexsort((*corners.T[::-1], kinds, -certain))
        return cls(corners[order], certain[order], kinds[order].astype(np.int64))

    @classmethod
    def none(cls) -> "Detections":
        """Return no detections."""
        return cls(np.empty((0, 4)), np.empty(0), np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, chosen: Rows | Flags | slice) -> "Detections":
        """Return some of them, in their order."""
        return Detections(self.boxes[chosen], self.scores[chosen], self.classes[chosen])

    def above(self, score: float) -> "Detections":
        """Return those above a score."""
        return self.take(self.scores > score)


def overlaps(one: Numbers, other: Numbers) -> Numbers:
    """Return the intersection over union of boxes, [A, 4] x [B, 4] -> [A, B]; 0 where neither has an area."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    sides = np.clip(high - low, 0.0, None)
    intersection = sides[..., 0] * sides[..., 1]
    union = _areas(one)[:, None] + _areas(other)[None, :] - intersection
    shares: Numbers = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return shares


def _areas(boxes: Numbers) -> Numbers:
    sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0.0, None)
    areas: Numbers = sides[:, 0] * sides[:, 1]
    return areas


def suppressed(found: Detections, iou: float) -> Detections:
    """Return what non-maximum suppression leaves: none that overlaps a better one of its class by more than `iou`."""
    alive, boxes, classes = np.ones(len(found), dtype=bool), found.boxes, found.classes
    of_all = overlaps(boxes, boxes) if len(found) <= _AT_ONCE else None
    for place in range(len(found)):
        if alive[place]:
            later = place + 1 + np.flatnonzero(alive[place + 1 :] & (classes[place + 1 :] == classes[place]))
            overlap = overlaps(boxes[place : place + 1], boxes[later])[0] if of_all is None else of_all[place, later]
            alive[later] = overlap <= iou
    return found.take(alive)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Differences:
    """How the detections of a sample differ from the golden ones; all zero where each has its match.

    Attributes:
        lost: golden ones of which nothing is left.
        moved: golden ones whose match, of their class, overlaps them by less than the bound.
        relabelled: golden ones whose match has another class.
        ghost: faulty ones that match nothing.
    """

    lost: int
    moved: int
    relabelled: int
    ghost: int


def differences(golden: Detections, faulty: Detections, iou: float) -> Differences:
    """Match detections greedily, the golden ones by score, each with the best overlap that is still free.

    First within a class, from `iou` on; of what is left a relabelled one has another class and overlaps as much, a
    moved one has the same class and overlaps by `LEAST_MOVED` at least.
    """
    overlap = overlaps(golden.boxes, faulty.boxes)
    overlap[(golden.boxes[:, None] == faulty.boxes[None]).all(axis=2)] = 1.0  # boxes without an area, too
    alike = golden.classes[:, None] == faulty.classes[None, :]
    free = np.ones(overlap.shape, dtype=bool)
    matched = _paired(overlap, alike & (overlap >= iou), free)
    relabelled = _paired(overlap, ~alike & (overlap >= iou), free)
    moved = _paired(overlap, alike & (overlap >= min(iou, LEAST_MOVED)), free)
    together = matched + relabelled + moved
    return Differences(lost=len(golden) - together, moved=moved, relabelled=relabelled, ghost=len(faulty) - together)


def _paired(overlap: Numbers, allowed: NDArray[np.bool_], free: NDArray[np.bool_]) -> int:
    """Pair rows with columns where that is allowed, take them out of what is free, and return how many pairs."""
    pairs = 0
    for row in np.flatnonzero((allowed & free).any(axis=1)):
        open_ = allowed[row] & free[row]
        if open_.any():
            column = int(np.argmax(np.where(open_, overlap[row], -1.0)))
            free[row], free[:, column] = False, False
            pairs += 1
    return pairs


def hits(found: Detections, boxes: Numbers, classes: NDArray[np.int64], iou: float) -> NDArray[np.float64]:
    """Return what one sample contributes to mAP: rows `class, score, hit` and `class, NaN, boxes`, shape [R, 3].

    As in COCO's evaluation a detection, by score, takes the best overlap of its class that is still free; of each
    class the best hundred count.

    Args:
        found: the detections, low scores included.
        boxes: the right ones, shape [L, 4].
        classes: of those, shape [L].
        iou: from which overlap on a box is found.
    """
    rows = []
    for kind in np.union1d(found.classes, classes):
        mine, right = found.take(found.classes == kind).take(slice(_PER_CLASS)), boxes[classes == kind]
        overlap = overlaps(mine.boxes, right)
        free = np.ones(len(right), dtype=bool)
        for place, score in enumerate(mine.scores):
            best = int(np.argmax(np.where(free, overlap[place], -1.0))) if free.any() else -1
            hit = best >= 0 and overlap[place, best] >= iou
            if hit:
                free[best] = False
            rows.append((float(kind), float(score), float(hit)))
        if len(right):
            rows.append((float(kind), np.nan, float(len(right))))
    return np.array(rows, dtype=np.float64).reshape(-1, 3)
