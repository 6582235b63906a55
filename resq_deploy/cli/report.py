"""`resq-deploy report`: run folders as a page, a text, or data."""

import pathlib
from collections.abc import Sequence

import click

from resq_deploy.cli.shared import PATH, need_extra
from resq_deploy.errors import OptionError

_FORMATS = ("html", "json", "csv", "md")


@click.command()
@click.argument("folders", metavar="DIR...", type=PATH, nargs=-1, required=True)
@click.option("--out", type=PATH, required=True, help="File to write.")
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
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
    need_extra("the report", "report", "jinja2", "jsonschema", "matplotlib")
    from resq_deploy.records import write_atomic
    from resq_deploy.report.build import document, gather
    from resq_deploy.report.text import counted

    form = form or (out.suffix[1:] if out.suffix[1:] in _FORMATS else "html")
    _check_out(out, folders, form)
    evidence = gather(folders, must_compare=compare)
    if form in ("json", "csv"):
        from resq_deploy.report.machine import as_csv, as_json

        text = as_json(evidence) if form == "json" else as_csv(evidence)
    elif form == "md":
        from resq_deploy.report.markdown import as_markdown

        text = as_markdown(document(evidence))
    else:
        from resq_deploy.report.page import render

        text = render(document(evidence))
    write_atomic(out, text)
    paired = f", {counted(len(evidence.comparisons), 'pair')} compared" if evidence.comparisons else ""
    said = f"{counted(len(evidence.runs), 'run')}{paired}: {click.format_filename(out)}"
    click.echo(said, err=not out.is_file())  # a pipe, such as /dev/stdout, is to hold the report alone


def _check_out(out: pathlib.Path, folders: Sequence[pathlib.Path], form: str) -> None:
    """Refuse, before anything is read, an output that cannot be written or that would cost a run its records."""
    from resq_deploy.report.runs import is_record

    try:
        folder = out.is_dir()
    except OSError as error:
        raise OptionError(f"cannot write --out {str(out)[:60]}...: {error.strerror}; give another name") from error
    if folder:
        raise OptionError(f"--out {out} is a folder: give a file, such as {out / f'report.{form}'}")
    if is_record(out, folders):
        raise OptionError(f"--out {out} would overwrite a file that the run consists of: give another name")
