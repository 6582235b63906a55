"""`resq-deploy scrub`: what a protected file's own codes and votes say of it, and the file healed or made plain."""

import json
import pathlib
from typing import TYPE_CHECKING

import click

from resq_deploy import api
from resq_deploy.api.words import printable
from resq_deploy.cli.shared import PATH, print_table
from resq_deploy.errors import OptionError

if TYPE_CHECKING:
    from resq_deploy.api import Scrubbed


@click.command()
@click.argument("model", type=PATH, required=False)
@click.option(
    "--repair",
    type=PATH,
    metavar="HEALED",
    help="Write the file healed, byte for byte as it was written if all flips can be corrected; may be MODEL itself.",
)
@click.option(
    "--bake",
    type=PATH,
    metavar="PLAIN",
    help="Write the plain file: decoded and voted tensors, no code, no votes; for runtimes that do not fold these.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.option(
    "--write-checker",
    type=PATH,
    metavar="CHECK.py",
    help="Write the check as one Python file that needs numpy and onnx alone, for a device; then no MODEL is needed.",
)
def command(
    model: pathlib.Path | None,
    repair: pathlib.Path | None,
    bake: pathlib.Path | None,
    as_json: bool,
    write_checker: pathlib.Path | None,
) -> int:
    """Check a protected file for flipped bits, by its codes and votes; heal it, or bake it into a plain one.

    Exit status: 0 sound; 3 flips were found, and all of them can be corrected (with --repair: are); 1 some of them
    cannot; 2 wrong input, such as a file that is not protected. With --repair, flips that cannot be corrected are left
    as they are.

    \b
    Examples:
      resq-deploy scrub net.int8.onnx
      resq-deploy scrub net.int8.onnx --repair net.int8.onnx
      resq-deploy scrub net.int8.onnx --bake plain.int8.onnx
      resq-deploy scrub --write-checker check.py
    """
    if model is None and (write_checker is None or repair or bake or as_json):
        raise OptionError("scrub needs a MODEL: name the protected .onnx file")
    if write_checker is not None:
        api.write_checker(write_checker)
        how = f"python {write_checker} FILE.onnx [--repair HEALED.onnx]"
        click.echo(f"written: {write_checker}, which needs numpy and onnx: {how}")
    if model is None:
        return 0
    done = api.scrub(model, repair=repair, bake=bake)
    if as_json:
        click.echo(json.dumps(done.as_dict(), indent=2))
    else:
        _print(done)
    if done.found.untried:
        click.echo(f"note: what decodes was not tried: {done.found.untried}", err=True)
    if done.as_written is False:
        click.echo(
            f"warning: even healed, {model} is not the file its sidecar names: bits are changed that neither codes nor "
            "votes cover, or the sidecar belongs to another file",
            err=True,
        )
    done.check()
    return done.status


def _print(done: "Scrubbed") -> None:
    rows = [
        (
            printable(tensor.tensor),
            tensor.protection,
            f"{tensor.units:,}",
            *(f"{count:,}" for count in (tensor.corrected, tensor.uncorrectable, tensor.idle_bits)),
        )
        for tensor in done.tensors
        if not tensor.sound
    ]
    if rows:
        headers = ("tensor", "protected by", "words or values", "corrected", "not correctable", "idle bits set")
        print_table("Flipped bits, by tensor", headers, rows)
    totals = done.totals
    click.echo(
        f"{totals['words']:,} code words: {totals['corrected']:,} corrected, {totals['uncorrectable']:,} not "
        f"correctable; {totals['idle_bits']:,} idle bits set"
    )
    click.echo(
        f"{totals['values']:,} values stored three times: {totals['outvoted']:,} outvoted, {totals['undecided']:,} "
        "with three different copies"
    )
    click.echo(f"verdict: {done.verdict}")
    if done.repaired is not None:
        click.echo(f"written: {done.repaired}, healed")
    if done.baked is not None:
        click.echo(f"written: {done.baked}, plain")
