"""`boxes`: detectors."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from resq_deploy.errors import DataError, FailedError, OptionError
from resq_deploy.faults.judges import decoders
from resq_deploy.faults.judges.decoders import ACTIVATIONS, BACKGROUNDS, DECODERS, ORDERS, Reading
from resq_deploy.faults.judges.detections import Detections, Differences, differences, hits, suppressed
from resq_deploy.faults.judges.judge import Answers, Bench, Comparison, Judge, Weighed, option
from resq_deploy.faults.judges.outputs import Labels, Outputs, Rows, count, is_ragged
from resq_deploy.faults.judges.own import user_function
from resq_deploy.faults.judges.quality import Contributions

_AMOUNTS = ("lost", "moved", "relabelled", "ghost")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boxes(Judge):
    """Detections above a score; sdc1: golden and faulty ones do not match one to one, as `detections.differences` says.

    Its rungs lost, moved, relabelled and ghost are samples with any such detection, its amounts how many they are.

    With labels, rows `class, x1, y1, x2, y2` in the unit of the boxes, [N, L, 5] filled up with a class below 0, or a
    table a sample, `map50`: mean average precision at IoU 0.5, over scores above `floor`.
    """

    name: ClassVar[str] = "boxes"
    rungs: ClassVar[tuple[str, ...]] = _AMOUNTS
    amounts: ClassVar[tuple[str, ...]] = _AMOUNTS

    decode: str = option("", "yolov5|yolov8|ssd|detr|decoded|module:function", "how outputs become detections")
    score: float = option(0.25, "share, a probability", "detections above it are an answer")
    iou: float = option(0.5, "share, intersection over union", "golden and faulty boxes match from it on")
    nms: float = option(0.45, "share, intersection over union", "of overlaps beyond it only the best of a class stays")
    top: int = option(300, "detections", "the best of a sample are kept")
    floor: float = option(0.001, "share, a probability", "detections above it count for mAP")
    order: str = option("", "xyxy|yxyx|cxcywh|xywh", "of a box's numbers; left open: the decoder's usual one")
    activation: str = option("", "none|sigmoid|softmax", "of the scores; left open: told by the outputs")
    background: str = option("", "none|first|last", "which class is none; left open: told by the outputs")
    extra: int = option(0, "numbers", "at the end of each prediction that are no class (masks, key points)")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of("order", ("", *ORDERS))
        self.one_of("activation", ("", *ACTIVATIONS))
        self.one_of("background", ("", *BACKGROUNDS))
        if ":" in self.decode:
            user_function(self.decode, "judge boxes: decode")
        elif self.decode not in DECODERS:
            known = ", ".join(DECODERS)
            raise OptionError(
                f"no decoder {self.decode!r}: give --judge boxes:decode=NAME, one of {known}, or module:function of "
                "your own"
            )
        if self.top < 1 or self.extra < 0:
            raise OptionError("judge boxes: top is 1 or more, and extra 0 or more")

    @property
    def figure(self) -> str:
        """The name of its quality figure with labels."""
        return "map50"

    def settled(self, golden: Outputs) -> Self:
        """Return the judge with its reading of the outputs fixed by the golden ones."""
        mine = self.chosen(golden)
        if ":" in self.decode:
            return self
        decoders.check(self.decode, mine, self.extra)
        whole = [np.concatenate(list(values)) if is_ragged(values) else values for values in mine.values()]
        known = Reading(order=self.order, activation=self.activation, background=self.background, extra=self.extra)
        return dataclasses.replace(self, **dataclasses.asdict(decoders.settled(self.decode, whole, known)))

    def on(self, golden: Outputs, labels: Labels | None) -> Bench:
        """Return what judges faulty outputs of these samples; without labels nothing below `score` is looked at."""
        judge = self.settled(golden)
        return Comparison(
            judge if labels is not None else dataclasses.replace(judge, floor=judge.score), golden, labels
        )

    def read(self, outputs: Outputs) -> Answers:
        """Return `found`: the detections of each sample, suppressed, an object array [N]."""
        if ":" in self.decode:
            return {"found": _packed(self._asked({name: outputs[name] for name in self.outputs}))}
        reading = Reading(order=self.order, activation=self.activation, background=self.background, extra=self.extra)
        decoder, floor = DECODERS[self.decode], min(self.floor, self.score)
        samples = ([outputs[name][sample] for name in self.outputs] for sample in range(count(outputs)))
        return {"found": _packed([self._kept(decoder.decode(one, reading, floor)) for one in samples])}

    def _kept(self, found: Detections) -> Detections:
        """Return what is left of the detections that are of interest."""
        suppress = ":" not in self.decode and DECODERS[self.decode].suppress
        return (suppressed(found, self.nms) if suppress else found).take(slice(self.top))

    def _asked(self, outputs: Mapping[str, NDArray[Any]]) -> list[Detections]:
        """Return what the user's own decoder finds, taken as it is: it suppresses by itself."""
        try:
            parts = user_function(self.decode, "judge boxes: decode")(outputs)
            found = [self._kept(Detections.of(*part).above(min(self.floor, self.score))) for part in parts]
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise FailedError(f"judge boxes: decode {self.decode} failed: {reason}") from error
        if len(found) != count(outputs):
            raise FailedError(
                f"judge boxes: decode {self.decode} returned {len(found)} for {count(outputs)} samples: it must "
                "return, for each, boxes [D, 4] as x1, y1, x2, y2, scores [D] and classes [D]"
            )
        return found

    def blanked(self, answers: Answers, rows: Rows) -> Answers:
        """Return answers without a detection for some samples."""
        found = answers["found"].copy()
        for row in rows:
            found[row] = Detections.none()
        return {"found": found}

    def weigh(self, golden: Answers, found: Answers, labels: Labels | None) -> Weighed:
        """Return whose detections differ; labels as of the class."""
        each = [self._compared(one, other) for one, other in zip(golden["found"], found["found"], strict=True)]
        amounts = {name: np.array([getattr(one, name) for one in each], dtype=np.int64) for name in _AMOUNTS}
        rating = None
        if labels is not None:
            tables = [_table(one) for one in labels]
            pairs = zip(found["found"], tables, strict=True)
            rows = [hits(one, table[:, 1:], table[:, 0].astype(np.int64), 0.5) for one, table in pairs]
            rating = Contributions.listed(rows, width=3)
        flags = {name: amount > 0 for name, amount in amounts.items()}
        return Weighed(sdc1=np.any(list(flags.values()), axis=0), flags=flags, amounts=amounts, contributions=rating)

    def _compared(self, golden: Detections, faulty: Detections) -> Differences:
        return differences(golden.above(self.score), faulty.above(self.score), self.iou)


def _packed(found: list[Detections]) -> NDArray[Any]:
    packed = np.empty(len(found), dtype=object)
    for place, one in enumerate(found):
        packed[place] = one
    return packed


def _table(labels: Any) -> NDArray[np.float64]:
    """Return one sample's labelled boxes, rows `class, x1, y1, x2, y2`, shape [L, 5].

    Raises:
        DataError: if they are no such table.
    """
    table = np.asarray(labels)
    if table.ndim != 2 or table.shape[1] != 5 or table.dtype.kind not in "fiu":
        raise DataError(
            f"judge boxes takes labels [N, L, 5] of class, x1, y1, x2, y2, filled up with class -1; one sample's are "
            f"{table.dtype.name} {list(table.shape)}"
        )
    return table[table[:, 0] >= 0].astype(np.float64)
