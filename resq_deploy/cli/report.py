"""`resq-deploy report`: run folders as a page, a text, or data."""

import pathlib
from collections.abc import Sequence

import click

from resq_deploy import api
from resq_deploy.cli.shared import PATH


@click.command()
@click.argument("folders", metavar="DIR...", type=PATH, nargs=-1, required=True)
@click.option("--out", type=PATH, required=True, help="File to write.")
@click.option(
    "--format",
    "form",
    type=click.Choice(api.FORMATS),
    help="html: a page that needs no network; md: its words and tables; json: runs and comparisons; csv: every "
    "estimate, one a row.  [default: by the ending of --out, else html]",
)
@click.option(
    "--compare", is_flag=True, help="Refuse runs of faultcamp that cannot be compared with another one given."
)
def command(folders: Sequence[pathlib.Path], out: pathlib.Path, form: str | None, compare: bool) -> None:
    """Show what runs of train, faultcamp and attackcamp found, and which differences between them are real.

    Reads finished run folders and nothing else. Campaigns that judged the same faults on the same images are compared
    chip by chip, fault by fault and image by image, each with the first such run given; others are shown side by side.

    \b
    Examples:
      resq-deploy report run --out run.html
      resq-deploy report base-ber hardened-ber --compare --out both.html
      resq-deploy report run --format json --out run.json
      resq-deploy report train base-ber hardened-ber attacks --out all.html
    """
    written = api.write_report(folders, out, form=form, must_compare=compare)
    click.echo(f"{written}: {click.format_filename(out)}", err=not out.is_file())  # a pipe is to hold the report alone
