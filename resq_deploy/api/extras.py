"""Optional parts of the package: whether they are installed, told before any work is done."""

import importlib.util

from resq_deploy.errors import MissingExtraError


def need_extra(what: str, extra: str, *modules: str) -> None:
    """Check that an optional part of the package is installed, without importing it.

    Args:
        what: what needs it, as the message begins.
        extra: its name.
        modules: what it installs.

    Raises:
        MissingExtraError: naming the install command.
    """
    if not all(map(_installed, modules)):
        raise MissingExtraError(what, extra)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # an import hook that forbids it counts as not installed, as does a stub
        return False
