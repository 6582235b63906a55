"""Decoders: from a detector's outputs to detections, without anything of the file but what its outputs say.

What a decoder cannot know from the file is a `Reading`: whether scores are probabilities, which class is the
background, in which order a box has its numbers. `settled` tells it from golden outputs.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.errors import ModelError
from resq_deploy.faults.judges.detections import Detections
from resq_deploy.faults.judges.outputs import is_ragged

ORDERS = ("xyxy", "yxyx", "cxcywh", "xywh")
ACTIVATIONS = ("none", "sigmoid", "softmax")
BACKGROUNDS = ("none", "first", "last")

Numbers = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """How numbers are read.

    Attributes:
        order: of a box's numbers: corners, or centre (cxcywh) or corner (xywh) and size.
        activation: what makes probabilities of the scores.
        background: which class is none.
        extra: numbers at the end of each prediction that are no class: mask coefficients, key points.
    """

    order: str = "xyxy"
    activation: str = "none"
    background: str = "none"
    extra: int = 0


def corners(boxes: NDArray[Any], order: str) -> Numbers:
    """Return boxes as x1, y1, x2, y2, whatever order their numbers have, shape [..., 4]."""
    a, b, c, d = np.moveaxis(np.asarray(boxes, dtype=np.float64), -1, 0)
    if order == "yxyx":
        a, b, c, d = b, a, d, c
    elif order == "cxcywh":
        a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    elif order == "xywh":
        c, d = a + c, b + d
    return np.stack([a, b, c, d], axis=-1)


def probabilities(scores: NDArray[Any], activation: str) -> Numbers:
    """Return scores as probabilities, along the last axis where they compete."""
    values = np.asarray(scores, dtype=np.float64)
    if activation == "sigmoid":
        return np.exp(-np.logaddexp(0.0, -values))
    if activation == "softmax":
        raised = np.exp(values - values.max(axis=-1, keepdims=True))
        shares: Numbers = raised / raised.sum(axis=-1, keepdims=True)
        return shares
    return values


def _best(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    reading: Reading,
    floor: float,
    objectness: NDArray[Any] | None = None,
) -> Detections:
    """Return the best class of each prediction above a score, the background's left out.

    Args:
        boxes: shape [A, 4].
        scores: as the file gives them, shape [A, C].
        reading: how both are read.
        floor: scores above it are of interest.
        objectness: a factor of the scores, as the file gives it, shape [A].
    """
    first = 1 if reading.background == "first" else 0
    kept = slice(first, scores.shape[1] - (reading.background == "last"))
    if reading.activation == "softmax":
        scores = probabilities(scores, reading.activation)
    best = scores[:, kept].max(axis=1)  # which of them it is matters for the few above the floor alone
    certain = probabilities(best, "none" if reading.activation == "softmax" else reading.activation)
    if objectness is not None:
        certain = certain * probabilities(objectness, reading.activation)
    rows = np.flatnonzero(certain > floor)
    classes = np.argmax(scores[rows, kept], axis=1) + first
    return Detections.of(corners(boxes[rows], reading.order), certain[rows], classes)


def _yolov5(parts: Sequence[NDArray[Any]], reading: Reading, floor: float) -> Detections:
    """Rows of box, objectness and classes, [A, 5 + C]: YOLOv5, v7, X, and their like."""
    head = parts[0][:, : parts[0].shape[1] - reading.extra]
    return _best(head[:, :4], head[:, 5:], reading, floor, head[:, 4])


def _yolov8(parts: Sequence[NDArray[Any]], reading: Reading, floor: float) -> Detections:
    """Columns of box and classes, [4 + C, A]: YOLOv8, v9, 11, 12."""
    head = parts[0][: len(parts[0]) - reading.extra].T
    return _best(head[:, :4], head[:, 4:], reading, floor)


def _pairs(parts: Sequence[NDArray[Any]], reading: Reading, floor: float) -> Detections:
    """Boxes [A, 4] and a row of scores for each, [A, C]: SSD, RetinaNet, anchor-free heads, DETR and its like."""
    return _best(parts[0], parts[1], reading, floor)


def _decoded(parts: Sequence[NDArray[Any]], reading: Reading, floor: float) -> Detections:
    """What is decoded and suppressed already.

    Rows of box, score, class, [M, 6], or [M, 7] with a number of the image before them; or boxes [M, 4], scores [M],
    classes [M], which may be left out, and how many of them are valid.
    """
    if len(parts) == 1:
        rows = parts[0][:, parts[0].shape[1] - 6 :]
        return Detections.of(corners(rows[:, :4], reading.order), rows[:, 4], rows[:, 5]).above(floor)
    boxes, scores = parts[0].reshape(-1, 4), parts[1].ravel()
    classes = parts[2].ravel() if len(parts) > 2 else np.zeros(len(scores))
    valid = slice(int(np.clip(parts[3].ravel()[0], 0, len(scores)))) if len(parts) > 3 else slice(None)
    return Detections.of(corners(boxes[valid], reading.order), scores[valid], classes[valid]).above(floor)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """How one kind of head is decoded.

    Attributes:
        decode: makes detections above a score of one sample's outputs, in the order of the roles.
        roles: what the outputs are, in their order; those after the `least` first may be missing.
        least: how many outputs it takes at least.
        order: of its boxes' numbers, unless told otherwise.
        suppress: whether overlapping detections are still in it.
        scores: where the scores are in a sample's outputs, to tell whether they are probabilities, [..., C].
    """

    decode: Callable[[Sequence[NDArray[Any]], Reading, float], Detections]
    roles: tuple[str, ...]
    least: int
    order: str
    suppress: bool
    scores: Callable[[Sequence[NDArray[Any]], int], NDArray[Any]] | None


DECODERS: Mapping[str, Decoder] = {
    "yolov5": Decoder(
        decode=_yolov5,
        roles=("rows [A, 5 + classes]",),
        least=1,
        order="cxcywh",
        suppress=True,
        scores=lambda parts, extra: parts[0][..., 4 : parts[0].shape[-1] - extra],
    ),
    "yolov8": Decoder(
        decode=_yolov8,
        roles=("columns [4 + classes, A]",),
        least=1,
        order="cxcywh",
        suppress=True,
        scores=lambda parts, extra: np.swapaxes(parts[0], -1, -2)[..., 4 : parts[0].shape[-2] - extra],
    ),
    "ssd": Decoder(
        decode=_pairs,
        roles=("boxes [A, 4]", "scores [A, classes]"),
        least=2,
        order="xyxy",
        suppress=True,
        scores=lambda parts, _: parts[1],
    ),
    "detr": Decoder(
        decode=_pairs,
        roles=("boxes [Q, 4]", "logits [Q, classes]"),
        least=2,
        order="cxcywh",
        suppress=False,
        scores=lambda parts, _: parts[1],
    ),
    "decoded": Decoder(
        decode=_decoded,
        roles=("boxes [M, 4] or rows [M, 6]", "scores [M]", "classes [M]", "how many are valid"),
        least=1,
        order="xyxy",
        suppress=False,
        scores=None,
    ),
}
"""By name; shapes are those of one sample."""


def settled(kind: str, outputs: Sequence[NDArray[Any]], reading: Reading) -> Reading:
    """Return a reading in which nothing is left open (empty), told by golden outputs.

    Scores are probabilities where all lie in [0, 1]. Logits compete (softmax) in `ssd` and `detr`, where the background
    is a class, and are independent (sigmoid) elsewhere; in `detr` they compete only if the last class, that of no
    object, wins most of the queries. Probabilities of `ssd` that sum to 1 have a background, the first.

    Args:
        kind: the decoder's name.
        outputs: of all samples, in the order of the roles.
        reading: what is known; an empty text is left open.
    """
    decoder = DECODERS[kind]
    order = reading.order or decoder.order
    if decoder.scores is None:
        return Reading(order=order, activation="none", background="none", extra=reading.extra)
    scores = decoder.scores(outputs, reading.extra).astype(np.float64)
    rows = scores.reshape(-1, scores.shape[-1])
    rows = rows[np.isfinite(rows).all(axis=1)]
    given = bool(((rows >= 0) & (rows <= 1)).all())
    compete = rows.shape[1] > 1 and kind in ("ssd", "detr")
    if compete and given:
        compete = bool(np.abs(rows.sum(axis=1) - 1.0).max(initial=0.0) < 0.02)  # 8-bit probabilities, too
    elif compete and kind == "detr":
        compete = bool((np.argmax(rows, axis=1) == rows.shape[1] - 1).mean() > 0.5) if len(rows) else True
    if reading.background:
        compete = compete or reading.background != "none"
    usual = ("last" if kind == "detr" else "first") if compete else "none"
    return Reading(
        order=order,
        activation=reading.activation or ("none" if given else "softmax" if compete else "sigmoid"),
        background=reading.background or usual,
        extra=reading.extra,
    )


def check(kind: str, outputs: Mapping[str, NDArray[Any]], extra: int) -> None:
    """Check that outputs, in the order of the roles, have shapes that a decoder takes.

    Raises:
        ModelError: if they have not.
    """
    decoder = DECODERS[kind]
    shapes = [sample_shape(values) for values in outputs.values()]
    told = ", ".join(f"{name!r} {list(values.shape)}" for name, values in outputs.items())
    fits = decoder.least <= len(shapes) <= len(decoder.roles) and _FITS[kind](shapes, extra)
    if not fits:
        raise ModelError(
            f"decoder {kind} takes, of each sample, {'; '.join(decoder.roles)}, in that order (--outputs); not {told}"
        )


def sample_shape(values: NDArray[Any]) -> tuple[int, ...]:
    """Return the shape of one sample's part of an output; of a ragged one the first sample's."""
    return tuple(values[0].shape) if is_ragged(values) else values.shape[1:]


Shapes = Sequence[tuple[int, ...]]


def _fits_pair(shapes: Shapes, _: int) -> bool:
    boxes, scores = shapes
    return len(boxes) == len(scores) == 2 and boxes[1] == 4 and boxes[0] == scores[0] and scores[1] > 0


def _fits_decoded(shapes: Shapes, _: int) -> bool:
    if len(shapes) == 1:
        return len(shapes[0]) == 2 and shapes[0][1] in (6, 7)
    boxes, scores, *more = shapes
    size = int(np.prod(scores))
    classes = more[:1]
    return boxes[-1:] == (4,) and int(np.prod(boxes)) == 4 * size and all(int(np.prod(one)) == size for one in classes)


_FITS: Mapping[str, Callable[[Shapes, int], bool]] = {
    "yolov5": lambda shapes, extra: len(shapes[0]) == 2 and shapes[0][1] > 5 + extra,
    "yolov8": lambda shapes, extra: len(shapes[0]) == 2 and shapes[0][0] > 4 + extra,
    "ssd": _fits_pair,
    "detr": _fits_pair,
    "decoded": _fits_decoded,
}
