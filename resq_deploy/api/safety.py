"""Failure rates and diagnostic coverage for a safety case: an FMEDA from campaigns."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from resq_deploy.api.extras import need_extra
from resq_deploy.api.frames import pandas_or_error
from resq_deploy.api.given import PathLike, as_path
from resq_deploy.api.runs import Run
from resq_deploy.errors import OptionError
from resq_deploy.records import write_atomic

if TYPE_CHECKING:
    import pandas as pd

    from resq_deploy.faults.statistics import Estimate
    from resq_deploy.report.fmeda import Analysis

FMEDA_BY = ("role-layer", "role", "layer", "tensor")
"""What an element of an FMEDA can be."""

DANGEROUS = ("share", "any")
"""How dangerous a fault is: by the share of images that it gives another answer, or whether it does on any."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FmedaResult:
    """An FMEDA.

    Attributes:
        analysis: all of it.
    """

    analysis: "Analysis"

    @property
    def metrics(self) -> "dict[str, Estimate | None]":
        """`spfm`, `lfm`, and the diagnostic coverage of each mechanism, `coverage/` and its name; None: not known."""
        from resq_deploy.report.fmeda_table import metrics

        return metrics(self.analysis)

    @property
    def csv(self) -> str:
        """A row an element, one of the total and one a metric, as the command writes it."""
        from resq_deploy.report.fmeda_table import as_csv

        return as_csv(self.analysis)

    @property
    def html(self) -> str:
        """The report on its runs, with the FMEDA in front; the page needs no network."""
        from resq_deploy.report.build import document, gather
        from resq_deploy.report.fmeda_section import fmeda_sections
        from resq_deploy.report.page import render

        return render(document(gather(self._folders), fmeda_sections(self.analysis)))

    @property
    def _folders(self) -> list[pathlib.Path]:
        return [run.path for run in (self.analysis.run, self.analysis.without) if run is not None]

    def frame(self) -> "pd.DataFrame":
        """Return the rows of `csv`.

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        import io

        frame: pd.DataFrame = pandas_or_error().read_csv(io.StringIO(self.csv))
        return frame

    def write(self, out: PathLike) -> pathlib.Path:
        """Write the report where the file ends in .html, else the rows as CSV.

        Raises:
            OptionError: if it cannot be written, or would cost a run its records.
        """
        from resq_deploy.api.comparing import check_out

        path = as_path(out)
        check_out(path, self._folders, "csv")
        write_atomic(path, self.html if path.suffix == ".html" else self.csv)
        return path


def fmeda(
    run: PathLike | Run,
    without: PathLike | Run | None = None,
    *,
    by: str = "role-layer",
    dangerous: str = "share",
    fit_per_mbit: float | str | Mapping[str, float] | None = None,
    selftest: PathLike | None = None,
) -> FmedaResult:
    """Analyse failure modes, effects and diagnostics of a file's stored bits, as measured by injection.

    Args:
        run: a fault campaign of single bits on the file as it is deployed.
        without: one on the same file without its mechanisms: what `scrub --bake` writes, or without `--ecc`.
        by: one of `FMEDA_BY`.
        dangerous: one of `DANGEROUS`.
        fit_per_mbit: raw rate in FIT in 10^6 bits, of all memory or by role; as text such as `weight=50,700`, where a
            number alone is that of all other roles. None: that of the campaign, or else 1.
        selftest: bundle of a self-test for the file.

    Raises:
        RunFolderError: if a folder cannot be used.
        OptionError: if an option is wrong.
        MissingExtraError: if what a report needs is not installed.
    """
    for name, value, known in (("--by", by, FMEDA_BY), ("--dangerous", dangerous, DANGEROUS)):
        if value not in known:
            raise OptionError(f"{name} {value}: there are {', '.join(known)}")
    rates = _rates(fit_per_mbit)
    need_extra("the report", "report", "jinja2", "jsonschema", "matplotlib")
    from resq_deploy.report.fmeda import Asked, analyse, read_self_test
    from resq_deploy.report.runs import load_runs

    given = [one for one in (run, without) if one is not None]
    runs = load_runs([one.path if isinstance(one, Run) else as_path(one) for one in given])
    if len(runs) != len(given):
        raise OptionError("an FMEDA takes one run, or two of which the second is without mechanisms")
    test = None if selftest is None else read_self_test(as_path(selftest))
    asked = Asked(by=by, dangerous=dangerous, rates=rates, selftest=test)
    return FmedaResult(analysis=analyse(runs[0], runs[1] if len(runs) > 1 else None, asked))


def _rates(given: float | str | Mapping[str, float] | None) -> dict[str, float]:
    """Return raw rates by role, under the empty text that of all others."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        rates = {str(role): float(rate) for role, rate in given.items()}
    else:
        rates = {}
        for part in str(given).split(","):
            role, _, number = part.rpartition("=")
            try:
                rates[role.strip()] = float(number)
            except ValueError as error:
                raise OptionError(f"--fit-per-mbit {given}: {part!r} is no number, nor role=number") from error
    for rate in rates.values():
        if not (math.isfinite(rate) and rate >= 0.0):
            raise OptionError(f"--fit-per-mbit {given}: a rate is a number, 0 or more")
    return rates
