"""Data frames and figures, of what is not part of the core install."""

from typing import Any

from resq_deploy.errors import MissingExtraError


def pandas_or_error() -> Any:
    """Return pandas.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise MissingExtraError("a data frame", "notebook") from error
    return pandas
