"""Which judge fits outputs: the rules, in the order in which they are asked, each with its reason for the user.

A guess rests on what the fault-free file gives for a few samples: sizes, types, and numbers that give a task away (rows
that sum to 1, vectors of length 1, widths that are never negative). Names decide only where numbers cannot. Whatever
no rule knows is judged as `values`, and told so.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resq_deploy.errors import ModelError
from resq_deploy.faults.judges.binary import Binary
from resq_deploy.faults.judges.decoders import sample_shape
from resq_deploy.faults.judges.embedding import Embedding
from resq_deploy.faults.judges.guess_boxes import detector
from resq_deploy.faults.judges.judge import Judge
from resq_deploy.faults.judges.labels import ClassLabels
from resq_deploy.faults.judges.maps import Map
from resq_deploy.faults.judges.outputs import is_ragged
from resq_deploy.faults.judges.top1 import Top1
from resq_deploy.faults.judges.values import Values

_WIDE_INTEGERS = ("int32", "int64", "uint32", "uint64")  # narrower ones are how quantizers store real numbers
_MOST_CLASSES = 256
_EMBEDDING = re.compile(r"embed|feature|descriptor|latent", re.IGNORECASE)
_SCORES = re.compile(r"logit|tag|token|ctc|prob|score", re.IGNORECASE)
_MASK = re.compile(r"mask|valid|allowed|padding", re.IGNORECASE)
_HIDDEN = re.compile(r"hidden|state|encod|embed|feature", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Value:
    """An input or output of a file, as far as it is known.

    Attributes:
        name: its name.
        shape: of one sample, without the first axis; None where the file leaves a size open.
        values: what it holds for a few samples, [N, ...]; None for what is no tensor, and for inputs.
        type: of an input, as numpy names it; an output's is that of its values.
        maker: of an output, the operator that makes it, as far as known.
    """

    name: str
    shape: tuple[int | None, ...] = ()
    values: NDArray[Any] | None = None
    type: str = ""
    maker: str = ""


class Guess(NamedTuple):
    """A judge and why it was chosen, a sentence for the user."""

    judge: Judge
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Seen:
    """One output and what is known around it."""

    name: str
    values: NDArray[Any]
    maker: str
    inputs: Sequence[Value]
    labels: NDArray[Any] | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape[1:]

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(size for size in self.shape if size != 1)

    @property
    def told(self) -> str:
        return f"output {self.name!r} [N{''.join(f', {size}' for size in self.shape)}]"

    @property
    def integer(self) -> bool:
        return self.values.dtype.kind in "iub"

    def finite(self) -> NDArray[np.float64]:
        """Return the samples that are finite throughout, in float64."""
        numbers = self.values.astype(np.float64)
        good = np.isfinite(numbers.reshape(len(numbers), -1)).all(axis=1)
        return numbers[good]

    def inside(self) -> bool:
        """Whether all values are in [0, 1], as probabilities are."""
        numbers = self.finite()
        return bool(numbers.size) and not self.integer and bool(((numbers >= 0) & (numbers <= 1)).all())

    def competing(self, axis: int) -> bool:
        """Whether values along an axis are probabilities that sum to 1, or their logarithms; 8-bit ones, too."""
        numbers = self.finite()
        if self.integer or not numbers.size:
            return False
        if self.inside():
            return bool(np.abs(numbers.sum(axis=axis) - 1.0).max() < 0.02)
        return bool((numbers <= 0).all() and np.abs(np.exp(numbers).sum(axis=axis) - 1.0).max() < 1e-3)


def guess(outputs: Sequence[Value], inputs: Sequence[Value] = (), labels: NDArray[Any] | None = None) -> Guess:
    """Return the judge that fits the outputs of a file.

    Args:
        outputs: all outputs, with the values that the fault-free file gives for a few samples.
        inputs: the file's inputs, to know states, tokens, and outputs that are like an input.
        labels: what is right for these samples, if that is known.

    Raises:
        ModelError: if none of the outputs is a tensor.
    """
    tensors = [one for one in outputs if one.values is not None]
    if not tensors:
        raise ModelError(f"none of the model's outputs is a tensor that can be judged: {_names(outputs)}")
    left_out = [one for one in outputs if one.values is None]
    kept, aside = _without(tensors, lambda one: _is_state(one, inputs))
    inputs = [given for given in inputs if not any(_is_state(one, [given]) for one in aside)]
    left_out += aside
    kept, aside = _without(kept, lambda one: bool(re.search(r"(^|[^a-z])aux", one.name.lower())))
    left_out += aside
    judge, reason = _chosen(kept, inputs, labels)
    rest = [*left_out, *(one for one in kept if one.name not in judge.outputs)]
    return Guess(judge, f"{reason}; left out: {_names(rest)}" if rest else reason)


def _chosen(kept: Sequence[Value], inputs: Sequence[Value], labels: NDArray[Any] | None) -> Guess:
    known = [(one.name, one.values) for one in kept if one.values is not None]
    found = detector(known, [one.shape for one in inputs])
    if found:
        return Guess(*found)
    if any(is_ragged(values) for _, values in known):
        return _fallback([name for name, _ in known], "sizes change from sample to sample")
    seen = [_Seen(one.name, values, one.maker, inputs, labels) for one, (_, values) in zip(kept, known, strict=True)]
    if len(seen) == 1:
        for rule in _RULES:
            judge = rule(seen[0])
            if judge:
                return judge
        return _fallback([seen[0].name], f"{seen[0].told} could be anything")
    classes = [one for one in seen if _is_label(one)]
    scores = [one for one in seen if not _is_label(one)]
    if classes and (not scores or (len(classes) == 1 and all(len(one.sizes) == 1 for one in scores))):
        told = " and ".join(one.told for one in classes)
        return Guess(ClassLabels(outputs=tuple(one.name for one in classes)), f"{told} holds a class a sample")
    rows = [one for one in scores if _labels_are_classes(one) and one.values.dtype.kind == "f"]
    if rows and len(rows) == len(scores):
        one = min(rows, key=lambda row: row.sizes)  # of a classifier that gives its features, too, the classes
        return Guess(Top1(outputs=(one.name,)), f"{one.told} is a row of scores a sample, labelled by class: classes")
    numbers = [one.name for one in seen if one.values.dtype.kind not in "OU"]
    return _fallback(numbers, f"of {len(seen)} outputs no rule tells what they are together")


def _fallback(names: Iterable[str], why: str) -> Guess:
    judge = Values(outputs=tuple(names))
    return Guess(judge, f"no task is told ({why}): an error beyond {judge.bound:g} of the golden values counts as sdc1")


# Rules about the one output, in the order in which they are asked.


def _labels(one: _Seen) -> Guess | None:
    if _is_label(one):
        kind = "text" if one.values.dtype.kind in "OU" else f"one {one.values.dtype.name} a sample"
        return Guess(ClassLabels(outputs=(one.name,)), f"{one.told} holds {kind}: classes")
    return None


def _is_label(one: _Seen) -> bool:
    classes = one.values.dtype.name in _WIDE_INTEGERS or one.values.dtype.kind == "b"
    return one.values.dtype.kind in "OU" or (classes and not one.sizes)


def _like_an_input(one: _Seen) -> Guess | None:
    """What is put in comes out: as large as the main input. A mask or condition beside that is a look-alike."""
    twin = next((given for given in one.inputs if one.sizes and given.shape and tuple(given.shape) == one.shape), None)
    if twin is None or one.integer != _is_integer_type(twin.type) or not _is_main(twin, one.inputs):
        return None
    pixels = (one.shape[1:], one.shape[:-1])
    if any(one.competing(axis) for axis in (1, -1)) or any(_labels_fit(one, positions) for positions in pixels):
        return None
    if _labels_are_classes(one) or (len(one.sizes) == 1 and _SCORES.search(one.name)):
        return None
    return Guess(
        Values(outputs=(one.name,)), f"{one.told} has the shape of input {twin.name!r}: what is put in comes out"
    )


def _class_map(one: _Seen) -> Guess | None:
    """Integers at positions: classes, unless a narrow type has the many values of a picture."""
    if not one.integer or not one.sizes:
        return None
    wide = one.values.dtype.name in _WIDE_INTEGERS
    if (len(one.sizes) == 1 and not wide) or one.values.min() < (-1 if wide else 0):
        return None
    if not wide and (len(one.sizes) != 2 or len(np.unique(one.values)) > _MOST_CLASSES // 4):
        return None
    return Guess(Map(outputs=(one.name,), axis=0), f"{one.told} holds an integer a position: a class each")


def _one_score(one: _Seen) -> Guess | None:
    if one.sizes:
        return None
    sigmoid = one.inside() or one.maker in ("Sigmoid", "HardSigmoid") or one.values.dtype.kind == "u"
    asked = one.labels is not None and one.labels.dtype.kind in "iub" and bool(np.isin(one.labels, (0, 1)).all())
    if sigmoid or asked:
        what = "in [0, 1], a sigmoid" if sigmoid else "labelled 0 or 1, a logit"
        return Guess(Binary(outputs=(one.name,)), f"{one.told} is one score a sample {what}: yes or no")
    return Guess(Values(outputs=(one.name,)), f"{one.told} is one number a sample outside [0, 1]: a regression")


def _row(one: _Seen) -> Guess | None:
    """One row a sample: classes, answers that are independent, an embedding, or numbers."""
    if len(one.sizes) != 1:
        return None
    size, names = one.sizes[0], (one.name,)
    rows = one.finite().reshape(-1, size)
    if one.competing(one.shape.index(size) + 1):
        return Guess(Top1(outputs=names), f"{one.told} is a row of {size} scores a sample that sum to 1: classes")
    if _labels_are_classes(one):
        return Guess(Top1(outputs=names), f"{one.told} is a row of {size} scores a sample, labelled by class: classes")
    if len(rows) and not one.integer and np.abs(np.linalg.norm(rows, axis=1) - 1.0).max() < 1e-2:
        return Guess(Embedding(outputs=names), f"{one.told} is a vector of length 1 a sample: an embedding")
    if _EMBEDDING.search(one.name):
        return Guess(Embedding(outputs=names), f"{one.told} is called so and does not sum to 1: an embedding")
    if one.labels is not None and one.labels.dtype.kind == "f" and one.labels[0].size == size:
        return Guess(Values(outputs=names), f"{one.told} is labelled by {size} numbers a sample: a regression")
    if one.inside() and (rows > 0).any():
        return Guess(
            Binary(outputs=names), f"{one.told} is {size} scores in [0, 1] that do not sum to 1: yes or no each"
        )
    other = "" if size < 64 else "; if it is an embedding, give --judge embedding"
    return Guess(Top1(outputs=names), f"{one.told} is one row of {size} scores a sample: classes{other}")


def _plane(one: _Seen) -> Guess | None:
    """Two sizes: a row of scores a position, or a picture."""
    if len(one.sizes) != 2 or one.integer:
        return None
    for axis in (-1, 1):
        if len(one.shape) == 2 and one.competing(axis):
            return _positions(one, axis, "that sum to 1")
    if len(one.shape) == 2:
        tokens = [given for given in one.inputs if given.shape[:1] == one.shape[:1] and _is_integer_type(given.type)]
        if _labels_fit(one, one.shape[:1]):
            return _positions(one, -1, "labelled by class")
        if not one.inside() and not _HIDDEN.search(one.name) and (tokens or _SCORES.search(one.name)):
            return _positions(one, -1, f"as many as input {tokens[0].name!r} has tokens" if tokens else "by its name")
        return None
    if len(one.shape) == 3 and one.shape[0] == 1 and one.inside() and _is_decided(one):
        judge = Map(outputs=(one.name,), axis=1)
        return Guess(
            judge, f"{one.told} is a plane of scores that are nearly all close to 0 or 1: yes or no a position"
        )
    return None


def _volume(one: _Seen) -> Guess | None:
    """Three sizes: a row of scores a pixel, unless it is a picture, as large as one that is put in or larger."""
    if len(one.shape) != 3 or len(one.sizes) != 3:
        return None
    for axis in (1, -1):
        if one.competing(axis):
            return _positions(one, axis, "that sum to 1")
    first, second, third = one.shape
    axis = 1 if first < min(second, third) else -1 if third < min(first, second) else 0
    classes = one.shape[axis - 1 if axis > 0 else axis]
    if not axis or classes > _MOST_CLASSES:
        return None
    pixels = one.shape[1:] if axis == 1 else one.shape[:2]
    picture = any(len(given.shape) == 3 and classes in (given.shape[0], given.shape[-1]) for given in one.inputs)
    if _labels_fit(one, pixels):
        return _positions(one, axis, "labelled by class")
    return None if picture or one.inside() else _positions(one, axis, "over the pixels of a map")


def _positions(one: _Seen, axis: int, why: str) -> Guess:
    size = one.shape[axis - 1 if axis > 0 else axis]
    return Guess(
        Map(outputs=(one.name,), axis=axis), f"{one.told} is a row of {size} scores a position {why}: a class each"
    )


_RULES: tuple[Callable[[_Seen], Guess | None], ...] = (
    _labels,
    _like_an_input,
    _class_map,
    _one_score,
    _row,
    _plane,
    _volume,
)


# What rules ask.


def _is_main(given: Value, inputs: Sequence[Value]) -> bool:
    """Whether an input is what a network works on: no mask, and no input of another shape is larger.

    A row is nothing to go by beside other inputs: as many classes, or positions, are often hidden by a row of numbers.
    An open size may be large.
    """
    if _MASK.search(given.name) or given.type == "bool":
        return False
    others = [other.shape for other in inputs if other.shape != given.shape]
    most = 1 if len([size for size in given.shape if size != 1]) == 1 else _numbers(given.shape)
    return all(_numbers(shape) <= most for shape in others)


def _numbers(shape: Sequence[int | None]) -> float:
    """Return how many numbers a sample has; an open size makes them infinite."""
    return float("inf") if None in shape else float(np.prod([size or 0 for size in shape]))


def _is_decided(one: _Seen) -> bool:
    numbers = one.finite()
    return bool((np.minimum(numbers, 1.0 - numbers) < 0.1).mean() > 0.9)


def _labels_are_classes(one: _Seen) -> bool:
    """Whether a row of scores is labelled by one class a sample, each of them among the scores."""
    labels = one.labels
    if labels is None or labels.dtype.kind not in "iu" or labels.ndim != 1 or len(one.sizes) != 1:
        return False
    return bool((labels >= 0).all() and (labels < one.sizes[0]).all())


def _labels_fit(one: _Seen, positions: tuple[int, ...]) -> bool:
    return one.labels is not None and one.labels.dtype.kind in "iu" and one.labels.shape[1:] == positions


def _is_integer_type(name: str) -> bool:
    return bool(re.search(r"int", name))


def _without(values: Sequence[Value], aside: Callable[[Value], bool]) -> tuple[list[Value], list[Value]]:
    """Part values into those to keep and those to put aside, unless nothing would be kept."""
    kept = [one for one in values if not aside(one)]
    return (kept, [one for one in values if aside(one)]) if kept else (list(values), [])


_DIRECTIONS = {"in", "input", "out", "output", "prev", "previous", "past", "present", "next", "new", "old", "cur"}


def _stem(name: str) -> str:
    """Return a name without what tells an input from an output of one state: h0 and hn, state_in and state_out."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", re.sub(r"(?<=[a-z])N(?![a-zA-Z])", "", name))
    kept = [word.lower() for word in words if word.lower() not in _DIRECTIONS]
    return "".join(word[0] if len(word) == 2 and word[1] == "n" else word for word in kept)


def _is_state(one: Value, inputs: Sequence[Value]) -> bool:
    """Whether an output is what goes in again at the next step: as large as an input that is called alike."""
    if one.values is None or is_ragged(one.values):
        return False
    shape = sample_shape(one.values)
    return any(
        _stem(given.name) == _stem(one.name) and _fits(given.shape, shape) and not _is_integer_type(given.type)
        for given in inputs
    )


def _fits(known: tuple[int | None, ...], shape: tuple[int, ...]) -> bool:
    return len(known) == len(shape) and all(want in (None, have) for want, have in zip(known, shape, strict=True))


def _names(values: Iterable[Value]) -> str:
    return ", ".join(repr(one.name) for one in values)
