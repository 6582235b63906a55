"""What a judge is: it reads answers out of outputs, and says where a faulty answer is another one than the golden.

A campaign goes three steps. `Judge.settled` fixes what the golden outputs decide (probabilities or logits, a decoder's
reading), once, over all samples. `Judge.on` takes golden outputs and labels of all samples or of a chunk of them. The
`Bench` it returns is called with faulty outputs of the same samples and returns a `Verdict`; chunks' verdicts add up,
and `Contributions.joined` joins what they contribute to the quality figure.
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from resq_deploy.errors import FailedError, ModelError, OptionError
from resq_deploy.faults.gaps import BEYOND, Codes
from resq_deploy.faults.judges.outputs import Flags, Labels, Outputs, Rows, finite, same, take
from resq_deploy.faults.judges.quality import Contributions
from resq_deploy.faults.judges.verdict import Verdict

EXACT = ("accuracy", "within")
"""Figures made of right and wrong answers, one a sample."""

Answers = dict[str, NDArray[Any]]
"""What a judge reads out of outputs, by a name of its own; first axis: samples."""


def option(default: Any, unit: str, text: str) -> Any:
    """Declare an option of a judge: its default, its unit, and what it does, for `--help` and the manual."""
    return dataclasses.field(default=default, metadata={"unit": unit, "text": text})


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Weighed:
    """How answers differ from golden ones.

    Attributes:
        sdc1: where the task's answer is another one, shape [N].
        flags: further rungs of the judge's ladder, shape [N] each.
        amounts: how much of something happened, shape [N] each.
        contributions: what the answers contribute to the quality figure; None without labels for it.
    """

    sdc1: Flags
    flags: Mapping[str, Flags] = dataclasses.field(default_factory=dict)
    amounts: Mapping[str, NDArray[np.int64]] = dataclasses.field(default_factory=dict)
    contributions: Contributions | None = None


class Bench(Protocol):
    """Judges faulty outputs of some samples; thread-safe.

    Attributes:
        usable: samples whose golden outputs are finite, shape [N]; the others are set aside.
        golden: the verdict on the golden outputs themselves.
    """

    usable: Flags
    golden: Verdict

    def __call__(self, faulty: Outputs, codes: Codes | None = None) -> Verdict:
        """Judge faulty outputs of the same samples; others than the judge's are not looked at.

        Args:
            faulty: the outputs.
            codes: how far they lie from the golden ones, if that is known, as of `gaps`, shape [N].

        Raises:
            ValueError: if an output is not of the golden type or shape.
        """

    def among(self, samples: Rows) -> "Bench":
        """Return what judges faulty outputs of some of the samples, in the order given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
    """Base of the judges; their other fields are options.

    Attributes:
        name: what it is called.
        outputs: the outputs it judges, in the order in which it takes them.
        rungs: its ladder beside masked, benign, sdc1 and nonfinite.
        amounts: what it sums up over samples.
    """

    name: ClassVar[str]
    rungs: ClassVar[tuple[str, ...]] = ()
    amounts: ClassVar[tuple[str, ...]] = ()

    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.outputs or len(set(self.outputs)) < len(self.outputs):
            raise OptionError(f"judge {self.name}: name one or more different outputs")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata.get("unit", "").startswith("share") and not 0.0 <= value <= 1.0:
                raise OptionError(f"judge {self.name}: {field.name} is a share: give 0 to 1, not {value:g}")
            if field.name == "bound" and not 0.0 <= value < np.inf:
                raise OptionError(f"judge {self.name}: bound is 0 or more, not {value:g}")

    def one_of(self, name: str, choices: tuple[str, ...]) -> None:
        """Check an option that has a few values.

        Raises:
            OptionError: if it has another one.
        """
        if getattr(self, name) not in choices:
            raise OptionError(f"judge {self.name}: {name} is one of {', '.join(choices)}, not {getattr(self, name)!r}")

    @property
    def figure(self) -> str:
        """The name of its quality figure with labels, one of `quality.FIGURES`."""
        return "accuracy"

    def ladder(self, rated: bool) -> tuple[str, ...]:
        """Return the rungs that exist; `rated`: whether there are labels for its figure."""
        told = ("corrected", "corrupted") if rated and self.figure in EXACT else ()
        return ("masked", "benign", "sdc1", *self.rungs, "nonfinite", *told)

    def settled(self, golden: Outputs) -> Self:
        """Return the judge with everything fixed that the golden outputs decide.

        Raises:
            ModelError: if they are no outputs that it can judge.
        """
        self.chosen(golden)
        return self

    def on(self, golden: Outputs, labels: Labels | None) -> Bench:
        """Return what judges faulty outputs of these samples.

        Args:
            golden: their golden outputs.
            labels: what is right, first axis as the outputs'; None where nothing is known.

        Raises:
            ModelError: if they are no outputs that it can judge.
            DataError: if the labels do not fit.
        """
        return Comparison(self, golden, labels)

    def chosen(self, outputs: Outputs) -> dict[str, NDArray[Any]]:
        """Return the outputs it judges.

        Raises:
            ModelError: if one is missing, or they are not of the same samples.
        """
        missing = [name for name in self.outputs if name not in outputs]
        if missing:
            there = ", ".join(repr(name) for name in outputs)
            raise ModelError(f"judge {self.name}: the model has no output {missing[0]!r}; it has {there}")
        mine = {name: outputs[name] for name in self.outputs}
        if len({len(values) for values in mine.values()}) > 1:
            shapes = ", ".join(f"{name!r} {list(values.shape)}" for name, values in mine.items())
            raise ModelError(f"judge {self.name}: the first axis of every output must be that of the samples: {shapes}")
        return mine

    def only(self, outputs: Outputs) -> NDArray[Any]:
        """Return the one output that it judges.

        Raises:
            ModelError: if it was given several.
        """
        if len(self.outputs) > 1:
            raise ModelError(f"judge {self.name} reads one output: name it with --outputs, not {len(self.outputs)}")
        return outputs[self.outputs[0]]

    # What a judge of its own answers: `Comparison` asks these.

    def read(self, outputs: Outputs) -> Answers:
        """Return the answers that outputs give; of a sample that is not finite any, since it is blanked."""
        raise NotImplementedError

    def blanked(self, answers: Answers, rows: Rows) -> Answers:
        """Return answers in which some samples answer nothing, which is never right and never the golden answer."""
        raise NotImplementedError

    def weigh(self, golden: Answers, found: Answers, labels: Labels | None) -> Weighed:
        """Return how answers differ from the golden ones of the same samples.

        Raises:
            DataError: if the labels do not fit.
        """
        raise NotImplementedError


class Comparison:
    """A judge on golden outputs, whose answers are read once.

    A faulty output that is bit-equal is masked, and nothing else. One that is not finite answers nothing: it counts as
    sdc1 and, beside it, as nonfinite.
    """

    def __init__(self, judge: Judge, golden: Outputs, labels: Labels | None) -> None:
        self._judge = judge
        outputs = judge.chosen(golden)
        self.usable: Flags = finite(outputs)
        self._rows: Rows = np.flatnonzero(self.usable)
        self._golden = take(outputs, self._rows)
        self._labels = None if labels is None else labels[self._rows]
        self._answers = judge.read(self._golden)
        self._rating = judge.weigh(self._answers, self._answers, self._labels).contributions
        if self._rating is None:
            self._labels = None
        self._right = self._right_of(self._rating)
        self.golden: Verdict = self(outputs)

    def __call__(self, faulty: Outputs, codes: Codes | None = None) -> Verdict:
        """Judge faulty outputs of the same samples, whose differences from the golden ones may be known, [N].

        Raises:
            ValueError: if an output is not of the golden type or shape.
        """
        mine = take({name: faulty[name] for name in self._judge.outputs}, self._rows)
        known = None if codes is None else codes[self._rows]
        masked = same(self._golden, mine) if known is None else known == 0
        changed = np.flatnonzero(~masked)
        outputs = take(mine, changed)
        broken = np.ones(len(changed), dtype=bool) if known is None else known[changed] == BEYOND
        suspected = np.flatnonzero(broken)  # what lies a finite way from finite values is finite
        broken[suspected] = ~finite(take(outputs, suspected))
        with np.errstate(all="ignore"):  # what is not finite is blanked
            found = self._judge.read(outputs)
            if broken.any():
                found = self._judge.blanked(found, np.flatnonzero(broken))
            labels = None if self._labels is None else self._labels[changed]
            weighed = self._judge.weigh(take(self._answers, changed), found, labels)
        return self._verdict(masked, changed, broken, weighed).spread(self._rows, len(self.usable))

    def among(self, samples: Rows) -> "Comparison":
        """Return what judges faulty outputs of some of the samples, in the order given; no answer is read again."""
        part = copy.copy(self)
        part.usable = self.usable[samples]
        part._rows = np.flatnonzero(part.usable)
        mine = (np.cumsum(self.usable) - 1)[samples[part.usable]]
        part._golden, part._answers = take(self._golden, mine), take(self._answers, mine)
        part._labels = None if self._labels is None else self._labels[mine]
        part._rating = None if self._rating is None else self._rating.take(mine)
        part._right = part._right_of(part._rating)
        part.golden = self.golden.take(samples)
        return part

    def _verdict(self, masked: Flags, changed: Rows, broken: Flags, weighed: Weighed) -> Verdict:
        def placed(values: NDArray[Any]) -> NDArray[Any]:
            whole = np.zeros(len(masked), dtype=values.dtype)
            whole[changed] = values
            return whole

        sdc1 = placed(weighed.sdc1 | broken)
        rating = self._rating
        if rating is not None:
            if weighed.contributions is None:
                raise FailedError(f"judge {self._judge.name} rates golden outputs, but not faulty ones")
            rating = rating.replaced(changed, weighed.contributions)
        right = self._right_of(rating)
        flags = {"masked": masked, "benign": ~masked & ~sdc1, "sdc1": sdc1}
        flags |= {name: placed(weighed.flags[name]) for name in self._judge.rungs}
        flags["nonfinite"] = placed(broken)
        if right is not None and self._right is not None:
            flags["corrected"] = sdc1 & right & ~self._right
            flags["corrupted"] = sdc1 & ~right & self._right
        amounts = {name: placed(weighed.amounts[name]) for name in self._judge.amounts}
        return Verdict(flags=flags, amounts=amounts, contributions=rating, right=right)

    def _right_of(self, rating: Contributions | None) -> Flags | None:
        exact = rating is not None and self._judge.figure in EXACT
        return rating.rows[:, 0] > 0.5 if exact and rating is not None else None
