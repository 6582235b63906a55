"""`labels`: outputs that are classes already."""

import dataclasses
from typing import ClassVar, Self

import numpy as np

from resq_deploy.errors import DataError, ModelError
from resq_deploy.faults.judges.judge import Answers, Judge, Weighed
from resq_deploy.faults.judges.outputs import Labels, Outputs, Rows, flat, is_ragged
from resq_deploy.faults.judges.quality import Contributions


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassLabels(Judge):
    """Classes as integers or text, one or more a sample; sdc1: any of them differs.

    Nothing is benign here, as an answer is the same or another one. With labels, `accuracy`: all of a sample are right.
    """

    name: ClassVar[str] = "labels"

    def settled(self, golden: Outputs) -> Self:
        """Return the judge itself: nothing is left open."""
        for name, values in self.chosen(golden).items():
            if is_ragged(values):
                raise ModelError(f"judge labels takes as many classes of every sample; output {name!r} has not")
        return self

    def read(self, outputs: Outputs) -> Answers:
        """Return the outputs, a row of classes a sample, [N, K] each."""
        return {name: flat(outputs[name]) for name in self.outputs}

    def blanked(self, answers: Answers, rows: Rows) -> Answers:
        """Return answers with NaN, no class, for some samples; only floats can lack one."""
        blank = {name: values.copy() for name, values in answers.items()}
        for values in blank.values():
            if np.issubdtype(values.dtype, np.floating):
                values[rows] = np.nan
        return blank

    def weigh(self, golden: Answers, found: Answers, labels: Labels | None) -> Weighed:
        """Return on which samples any class differs; labels [N] or [N, K], of the outputs' kind."""
        differs = [(found[name] != golden[name]).any(axis=1) for name in self.outputs]
        rating = None
        if labels is not None:
            answers = np.concatenate([found[name] for name in self.outputs], axis=1)
            known = flat(labels) if labels.ndim > 1 else labels[:, None]
            text = answers.dtype.kind in "OU"
            if known.shape != answers.shape or (known.dtype.kind in "OU") != text:
                raise DataError(
                    f"judge labels takes {answers.shape[1]} {'text' if text else 'number'}(s) a sample as labels; "
                    f"these are {labels.dtype.name} {list(labels.shape)}"
                )
            rating = Contributions.even((answers == known).all(axis=1), np.ones(len(answers)))
        return Weighed(sdc1=np.any(differs, axis=0), contributions=rating)
