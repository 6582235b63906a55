"""`resq-deploy report`: run folders as a page, a text, or data."""

import pathlib
from collections.abc import Sequence
from typing import Any

import click

from resq_deploy import api
from resq_deploy.cli.shared import PATH
from resq_deploy.errors import OptionError


@click.command()
@click.argument("folders", metavar="DIR...", type=PATH, nargs=-1, required=True)
@click.option("--out", type=PATH, required=True, help="File to write.")
@click.option(
    "--format",
    "form",
    type=click.Choice([*api.FORMATS, "fmeda"]),
    help="html: a page that needs no network; md: its words and tables; json: runs and comparisons; csv: every "
    "estimate, one a row; fmeda: failure rates, SPFM and LFM by element, as CSV, or a page where --out ends in .html.  "
    "[default: by the ending of --out, else html]",
)
@click.option(
    "--compare", is_flag=True, help="Refuse runs of faultcamp that cannot be compared with another one given."
)
@click.option("--by", type=click.Choice(api.FMEDA_BY), help="fmeda: what a row is about.  [default: role-layer]")
@click.option(
    "--dangerous",
    type=click.Choice(api.DANGEROUS),
    help="fmeda: a fault is dangerous by the share of images that it gives another answer, or whole if it does on any. "
    " [default: share]",
)
@click.option(
    "--fit-per-mbit",
    metavar="RATES",
    help="fmeda: raw rate of the memory, FIT in 10^6 bits, such as 700, or weight=50,700 where a role has another.  "
    "[default: that of the campaign, else 1]",
)
@click.option("--selftest", type=PATH, help="fmeda: bundle of selftest, whose measured coverage counts.")
def command(folders: Sequence[pathlib.Path], out: pathlib.Path, form: str | None, compare: bool, **given: Any) -> None:
    """Show what runs of train, faultcamp and attackcamp found, and which differences between them are real.

    Reads finished run folders and nothing else. Campaigns that judged the same faults on the same images are compared
    chip by chip, fault by fault and image by image, each with the first such run given; others are shown side by side.

    \b
    Examples:
      resq-deploy report run --out run.html
      resq-deploy report base-ber hardened-ber --compare --out both.html
      resq-deploy report run --format json --out run.json
      resq-deploy report run run-baked --format fmeda --out fmeda.csv
      resq-deploy report train base-ber hardened-ber attacks --out all.html
    """
    asked = {name: value for name, value in given.items() if value is not None}
    if form == "fmeda":
        _write_fmeda(folders, out, compare, asked)
        return
    if asked:
        raise OptionError(f"--{next(iter(asked)).replace('_', '-')} is for --format fmeda")
    written = api.write_report(folders, out, form=form, must_compare=compare)
    click.echo(f"{written}: {click.format_filename(out)}", err=not out.is_file())  # a pipe is to hold the report alone


def _write_fmeda(folders: Sequence[pathlib.Path], out: pathlib.Path, compare: bool, asked: dict[str, Any]) -> None:
    if compare or len(folders) > 2:
        raise OptionError(
            "--format fmeda takes a run, and one of the file without mechanisms; --compare is for reports"
        )
    path = api.fmeda(*folders, **asked).write(out)
    click.echo(f"FMEDA: {click.format_filename(path)}", err=not path.is_file())
