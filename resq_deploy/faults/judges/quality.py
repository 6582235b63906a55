"""Quality figures from what each sample contributes, so that they can be stored, joined and taken of any samples.

All lie in [0, 1], higher is better. What a figure needs of a sample are a few rows of numbers; a figure over many
samples is computed from their rows together, which for mIoU and mAP is not the mean of the samples' own figures.
"""

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults.judges.outputs import Rows

RECALLS = np.linspace(0.0, 1.0, 101)
"""Recalls at which a precision is read: the 101 points of COCO."""

_HEAD = 3  # numbers in front of what is stored: samples, rows, numbers a row


@dataclasses.dataclass(frozen=True, eq=False)
class Contributions:
    """Rows of numbers that samples contribute to a figure.

    Attributes:
        samples: how many samples there are, those without a row included.
        sample: which sample each row belongs to, ascending, shape [R].
        rows: the numbers, shape [R, K]; what they mean is the figure's own.
    """

    samples: int
    sample: Rows
    rows: NDArray[np.float64]

    @classmethod
    def even(cls, *columns: NDArray[np.generic]) -> "Contributions":
        """Make contributions of one row a sample from the columns, shape [N] each."""
        rows = np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
        return cls(len(rows), np.arange(len(rows)), rows)

    @classmethod
    def listed(cls, tables: Sequence[NDArray[np.float64]], width: int) -> "Contributions":
        """Make contributions from a table of rows a sample, shape [R_i, width] each; a sample may have none."""
        sample = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
        return cls(len(tables), sample, np.concatenate([np.empty((0, width)), *tables]))

    @classmethod
    def joined(cls, parts: Iterable["Contributions"]) -> "Contributions":
        """Join the contributions of further samples, in the order given; of at least one part."""
        chunks = list(parts)
        starts = np.cumsum([0, *(part.samples for part in chunks)])
        sample = np.concatenate([part.sample + start for part, start in zip(chunks, starts[:-1], strict=True)])
        return cls(int(starts[-1]), sample, np.concatenate([part.rows for part in chunks]))

    def take(self, samples: Rows) -> "Contributions":
        """Return the contributions of some samples, in the order given."""
        begin, end = np.searchsorted(self.sample, samples), np.searchsorted(self.sample, samples, side="right")
        each = end - begin
        rows = np.repeat(begin - np.cumsum(each) + each, each) + np.arange(each.sum())
        return Contributions(len(samples), np.repeat(np.arange(len(samples)), each), self.rows[rows])

    def replaced(self, samples: Rows, new: "Contributions") -> "Contributions":
        """Return them with those of some samples replaced by new ones, `new.samples` = len(samples).

        A record need hold only what a fault changed: the rest is golden.
        """
        place = np.arange(self.samples)
        place[samples] = self.samples + np.arange(len(samples))
        return Contributions.joined([self, new]).take(place)

    def spread(self, samples: Rows, total: int) -> "Contributions":
        """Return them as those of some samples, ascending, out of `total`; the others contribute nothing."""
        return Contributions(total, samples[self.sample], self.rows)

    def to_bytes(self) -> bytes:
        """Return them as bytes to be stored; the same for the same contributions on any machine."""
        head = np.array([self.samples, *self.rows.shape], dtype="<i8")
        body = (head, self.sample.astype("<i8"), np.ascontiguousarray(self.rows.T).astype("<f8"))
        return zlib.compress(b"".join(part.tobytes() for part in body), level=6)

    @classmethod
    def from_bytes(cls, stored: bytes) -> "Contributions":
        """Read what `to_bytes` wrote.

        Raises:
            ValueError: if it is none of that.
        """
        try:
            raw = zlib.decompress(stored)
        except zlib.error as error:
            raise ValueError(f"contributions are damaged ({error})") from error
        head = np.frombuffer(raw[: 8 * _HEAD], dtype="<i8")
        if len(head) < _HEAD or len(raw) != 8 * (_HEAD + head[1] + head[1] * head[2]):
            raise ValueError("contributions are cut short")
        samples, rows, width = head.tolist()
        sample = np.frombuffer(raw, dtype="<i8", count=rows, offset=8 * _HEAD).astype(np.int64)
        table = np.frombuffer(raw, dtype="<f8", offset=8 * (_HEAD + rows)).astype(np.float64)
        return cls(samples, sample, np.ascontiguousarray(table.reshape(width, rows).T))


def share(contributions: Contributions) -> float | None:
    """Return a share of the whole from rows `part, whole`: right answers of samples, right tokens of tokens."""
    part, whole = contributions.rows.sum(axis=0).tolist()
    return part / whole if whole else None


def mean_iou(contributions: Contributions) -> float | None:
    """Return the mean intersection over union from rows `class, intersection, union`, in positions.

    Summed over the samples first (Everingham et al., "The PASCAL Visual Object Classes Challenge", IJCV 2010), then
    averaged over the classes that are there, in the labels or in the answers.
    """
    if not len(contributions.rows):
        return None
    _, place = np.unique(contributions.rows[:, 0], return_inverse=True)
    intersection, union = (np.bincount(place, contributions.rows[:, column]) for column in (1, 2))
    return float((intersection / union).mean())


def mean_average_precision(contributions: Contributions) -> float | None:
    """Return the mean average precision at one IoU, over the classes that the labels have.

    Average precision as COCO's evaluation computes it (Lin et al., "Microsoft COCO", ECCV 2014): at each of 101
    recalls the best precision at that recall or a higher one, averaged. Rows are `class, score, hit` of each detection
    (hit 1 if it found a labelled box, else 0), and `class, NaN, boxes` of each class that the labels of a sample have.
    """
    kinds, scores, values = contributions.rows.T
    labelled = np.isnan(scores)
    found = []
    for kind in np.unique(kinds[labelled]):
        of_kind = kinds == kind
        mine = of_kind & ~labelled
        hits = values[mine][np.argsort(-scores[mine], kind="stable")]
        found.append(_average_precision(hits, float(values[of_kind & labelled].sum())))
    return float(np.mean(found)) if found else None


def _average_precision(hits: NDArray[np.float64], boxes: float) -> float:
    """Return the average precision of detections of one class in the order of their scores, hits shape [D]."""
    recall = np.cumsum(hits) / boxes
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(best, 0.0)[place].mean())


FIGURES: Mapping[str, Callable[[Contributions], float | None]] = {
    "accuracy": share,
    "token_accuracy": share,
    "miou": mean_iou,
    "map50": mean_average_precision,
    "within": share,
    "quality": share,
}
"""How each figure is computed; None where nothing was labelled."""
