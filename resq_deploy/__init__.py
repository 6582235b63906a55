"""resq-deploy: harden int8 networks, export them to ONNX, and prove what bit flips and attacks do to the file.

`import resq_deploy as rd` gives the API of `resq_deploy.api`, imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from resq_deploy.version import __version__ as __version__

if TYPE_CHECKING:
    from resq_deploy.api import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """Return a name of the API."""
    if not name.startswith("_"):
        api = importlib.import_module("resq_deploy.api")
        if name in api.__all__:
            return getattr(api, name)
    raise AttributeError(f"module 'resq_deploy' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names of the API beside what is defined here."""
    return sorted({*globals(), *importlib.import_module("resq_deploy.api").__all__})
