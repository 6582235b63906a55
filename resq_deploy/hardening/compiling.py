"""`torch.compile` for the passes of a training step, for `train --compile`.

They are those of stages 0 and 1, crafting included. Stage 2 is not compiled: its activation ranges are read off
between the layers.
"""

from collections.abc import Callable
from typing import TypeVar

import torch

from resq_deploy.errors import OptionError

Pass = TypeVar("Pass", bound=Callable[..., object])


def compiled(function: Pass) -> Pass:
    """Return a pass compiled for the shapes it is first called with; it is compiled anew for others."""
    return torch.compile(function)  # type: ignore[return-value]


def check_compiler(device: torch.device) -> None:
    """Compile something small for a device, or say what is missing, before the first epoch.

    Raises:
        OptionError: if torch cannot compile here.
    """
    try:
        compiled(_small)(torch.zeros(2, device=device))
    # the compiler, its headers, the driver: torch has no common exception for what may be missing
    except Exception as error:
        said, _, _ = str(error).partition("Set TORCH")  # from there on it is advice for torch's own developers
        reason = " ".join(said.split())[:200]
        raise OptionError(
            f"--compile: torch cannot compile here ({reason}): install a C++ compiler, or leave --compile out"
        ) from error


def _small(values: torch.Tensor) -> torch.Tensor:
    return values.exp() + 1
