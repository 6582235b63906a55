"""`module:function`: a judge of the user's own."""

import dataclasses
import functools
import hashlib
import importlib
import inspect
import pathlib
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from resq_deploy.errors import FailedError, OptionError
from resq_deploy.faults.judges.judge import Answers, Judge, Weighed
from resq_deploy.faults.judges.outputs import Labels, Outputs, Rows, count
from resq_deploy.faults.judges.quality import Contributions
from resq_deploy.user_code import importable_from_here, in_one_line


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own(Judge):
    """A function of golden outputs, faulty outputs and labels that says on which samples the answer is another one.

    It is called as `function(golden, faulty, labels)` with the outputs by name, arrays whose first axis is that of the
    samples; labels alike, or None. It returns flags, shape [N], or `(flags, quality)`, quality in [0, 1], shape [N],
    of which `quality` is the mean. It is asked about samples that differ and are finite in both, once also about golden
    outputs and themselves, and must be a pure function.
    """

    name: ClassVar[str] = "own"

    function: str = dataclasses.field(metadata={"unit": "module:function", "text": "the judge"})

    def __post_init__(self) -> None:
        super().__post_init__()
        user_function(self.function, "--judge")

    @property
    def figure(self) -> str:
        """The name of its quality figure with labels."""
        return "quality"

    def read(self, outputs: Outputs) -> Answers:
        """Return the outputs, and beside them which samples answer at all."""
        return {**{name: outputs[name] for name in self.outputs}, "": np.ones(count(outputs), dtype=bool)}

    def blanked(self, answers: Answers, rows: Rows) -> Answers:
        """Return answers in which some samples are known not to answer."""
        answered = answers[""].copy()
        answered[rows] = False
        return {**answers, "": answered}

    def weigh(self, golden: Answers, found: Answers, labels: Labels | None) -> Weighed:
        """Return what the function says.

        Raises:
            FailedError: if it raises, returns something else, or finds golden outputs to differ from themselves.
        """
        answered = np.flatnonzero(found[""])
        sdc1 = np.zeros(len(found[""]), dtype=bool)
        quality = np.zeros(len(sdc1))
        if not len(answered):
            return Weighed(sdc1=sdc1, contributions=Contributions.even(quality, np.ones(len(quality))))
        known, other = ({name: one[name][answered] for name in self.outputs} for one in (golden, found))
        flags, rating = self._asked(known, other, None if labels is None else labels[answered], len(answered))
        if golden is found and flags.any():
            raise FailedError(f"--judge {self.function} says that golden outputs differ from themselves")
        sdc1[answered] = flags
        if rating is None:
            return Weighed(sdc1=sdc1)
        quality[answered] = rating
        return Weighed(sdc1=sdc1, contributions=Contributions.even(quality, np.ones(len(quality))))

    def _asked(self, golden: Answers, found: Answers, labels: Labels | None, samples: int) -> tuple[Any, Any]:
        try:
            result = user_function(self.function, "--judge")(golden, found, labels)
        except (Exception, SystemExit) as error:
            raise FailedError(f"--judge {self.function} failed: {in_one_line(error)}") from error
        flags, quality = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
        flags = np.asarray(flags)
        if flags.dtype != np.bool_ or flags.shape != (samples,):
            raise FailedError(
                f"--judge {self.function} returned {flags.dtype.name} {list(flags.shape)}: it must return one truth "
                f"value for each of {samples} samples, and their quality beside it if it rates them"
            )
        if quality is None:
            return flags, None
        quality = np.asarray(quality, dtype=np.float64)
        if quality.shape != (samples,) or not ((quality >= 0) & (quality <= 1)).all():
            raise FailedError(f"--judge {self.function}: quality must be one number from 0 to 1 a sample")
        return flags, quality


@functools.cache
def user_function(spec: str, given_as: str) -> Callable[..., Any]:
    """Import `module`, from the current directory too, and return its `function`.

    Raises:
        OptionError: if there is none.
    """
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise OptionError(f"cannot read {given_as} {spec!r}: write module:function")
    with importable_from_here():
        try:
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:
            raise OptionError(f"cannot import {module_name!r} for {given_as} {spec}: {in_one_line(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise OptionError(f"the module {module_name!r} has no function {name!r}: see {given_as} {spec}")
    checked: Callable[..., Any] = function
    return checked


def source_digest(spec: str, given_as: str) -> str | None:
    """Return the SHA-256 of the file that holds the user's `function`; None where it comes from no file.

    What that file imports is not looked at.

    Raises:
        OptionError: if there is no such function.
    """
    function = user_function(spec, given_as)
    for holder in (inspect.unwrap(function), sys.modules[spec.partition(":")[0]]):
        try:
            path = inspect.getsourcefile(holder)
        except TypeError:  # no function but an object, or one that is built in
            continue
        if path is not None:
            return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    return None
