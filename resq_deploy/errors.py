"""One exception tree; the command line turns each into one line on standard error and an exit status.

Every message says what is wrong, where, and how to mend it, in one line.
"""

from collections.abc import Mapping, Sequence
from typing import Any


class ResqError(Exception):
    """Base of every error this package raises on purpose; `exit_status` is what a command ends with."""

    exit_status = 2


class InputError(ResqError):
    """What the user gave cannot be used: an option, a file, a data set, a model, a run folder."""


class OptionError(InputError):
    """An option, or a combination of options, that makes no sense."""


class DataError(InputError):
    """A data set that is missing, unreadable, empty or at odds with the model."""


class ModelError(InputError):
    """A file that is not a usable ONNX model, or a network that cannot be built."""


class CheckpointError(InputError):
    """A checkpoint that is missing, corrupt or belongs to another network."""


class RunFolderError(InputError):
    """A run folder that is in use, not empty, broken or made with other options."""


class MissingExtraError(InputError):
    """An optional part of the package is not installed; the message holds the install command."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra '{extra}': pip install 'resq-deploy[{extra}]'")


class FailedError(ResqError):
    """The work was done, and its result is a failure: a gate, an audit, a bound that was exceeded."""

    exit_status = 1


class GateError(FailedError):
    """A gate failed; the message names the gate, the figure and the bound.

    Attributes:
        gates: what became of the gates that were measured, the failed one last, as the sidecar would have it.
    """

    def __init__(self, message: str, gates: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.gates = list(gates)


class OutOfMemoryError(FailedError):
    """Memory ran out, so that nothing can be said about what was being evaluated."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: give fewer --workers or --images, or less --memory, then --resume")


class InjectionError(FailedError):
    """A fault injection did not change exactly the bits it was asked to change."""


class TrainingError(FailedError):
    """Training diverged; the last good checkpoint is kept."""
