"""`resq-deploy scrub`: what a protected file's own codes and votes say of it, and the file healed or made plain."""

import hashlib
import json
import pathlib
from typing import TYPE_CHECKING, Any

import click

from resq_deploy.cli.shared import PATH, print_table, printable
from resq_deploy.errors import FailedError, ModelError, OptionError

if TYPE_CHECKING:
    from resq_deploy.protection.scrub import Scrub


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
        _write_checker(write_checker)
    if model is None:
        return 0
    _check_targets(model, repair, bake)
    from resq_deploy.protection.bake import bake as baked_of
    from resq_deploy.protection.scrub import Scrub
    from resq_deploy.records import write_atomic

    try:
        scrub = Scrub.of(_read(model))
        healed = scrub.healed
        plain = baked_of(scrub.model).SerializeToString(deterministic=True) if bake and not scrub.decoder_flaw else None
    except ModelError as error:
        raise ModelError(f"{model}: {error}") from error
    if repair is not None and not (_same(repair, model) and healed == scrub.data):
        write_atomic(repair, healed)
    if bake is not None and plain is not None:
        write_atomic(bake, plain)
    as_written = _as_written(model, healed)
    if as_json:
        click.echo(json.dumps(_report(scrub, as_written, repair, bake), indent=2))
    else:
        _print(scrub, repair, bake)
    if scrub.untried:
        click.echo(f"note: what decodes was not tried: {scrub.untried}", err=True)
    if as_written is False:
        click.echo(
            f"warning: even healed, {model} is not the file its sidecar names: bits are changed that neither codes nor "
            "votes cover, or the sidecar belongs to another file",
            err=True,
        )
    _check_damage(model, scrub)
    return scrub.status


def _check_targets(model: pathlib.Path, repair: pathlib.Path | None, bake: pathlib.Path | None) -> None:
    if bake is not None and _same(bake, model):
        raise OptionError(f"--bake {bake}: that is the protected file itself, which would be lost: name another")
    if bake is not None and repair is not None and _same(bake, repair):
        raise OptionError(f"--bake and --repair both name {bake}: give each a file of its own")


def _same(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Return whether two paths lead to one file, whether or not it is there."""
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def _read(model: pathlib.Path) -> bytes:
    try:
        if model.exists() and not model.is_file():
            raise ModelError("it is no regular file; name the .onnx file itself")
        return model.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ModelError(f"it cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _write_checker(target: pathlib.Path) -> None:
    from resq_deploy.protection import check
    from resq_deploy.records import write_atomic

    write_atomic(target, pathlib.Path(check.__file__).read_bytes())
    click.echo(f"written: {target}, which needs numpy and onnx: python {target} FILE.onnx [--repair HEALED.onnx]")


def _as_written(model: pathlib.Path, healed: bytes) -> bool | None:
    """Return whether the healed file is the one that the sidecar beside it names; None without such a sidecar."""
    from resq_deploy.deployed.sidecar import sidecar_of
    from resq_deploy.errors import RunFolderError
    from resq_deploy.records import read_json

    try:
        named = read_json(sidecar_of(model))["model"]["sha256"]
    except (RunFolderError, KeyError, TypeError):  # none, or some other JSON file
        return None
    return bool(named == hashlib.sha256(healed).hexdigest())


def _report(
    scrub: "Scrub", as_written: bool | None, repair: pathlib.Path | None, bake: pathlib.Path | None
) -> dict[str, Any]:
    return {
        "model": hashlib.sha256(scrub.data).hexdigest(),
        "verdict": scrub.verdict,
        "totals": scrub.totals,
        "tensors": [tensor.as_dict() for tensor in scrub.tensors],
        "decoder_flaw": scrub.decoder_flaw or None,
        "decoder_untried": scrub.untried or None,
        "as_written": as_written,
        "repaired": str(repair) if repair else None,
        "baked": str(bake) if bake and not scrub.decoder_flaw else None,
    }


def _print(scrub: "Scrub", repair: pathlib.Path | None, bake: pathlib.Path | None) -> None:
    rows = [
        (
            printable(tensor.tensor),
            tensor.protection,
            f"{tensor.units:,}",
            *(f"{count:,}" for count in (tensor.corrected, tensor.uncorrectable, tensor.idle_bits)),
        )
        for tensor in scrub.tensors
        if not tensor.sound
    ]
    if rows:
        headers = ("tensor", "protected by", "words or values", "corrected", "not correctable", "idle bits set")
        print_table("Flipped bits, by tensor", headers, rows)
    totals = scrub.totals
    click.echo(
        f"{totals['words']:,} code words: {totals['corrected']:,} corrected, {totals['uncorrectable']:,} not "
        f"correctable; {totals['idle_bits']:,} idle bits set"
    )
    click.echo(
        f"{totals['values']:,} values stored three times: {totals['outvoted']:,} outvoted, {totals['undecided']:,} "
        "with three different copies"
    )
    click.echo(f"verdict: {scrub.verdict}")
    if repair is not None:
        click.echo(f"written: {repair}, healed")
    if bake is not None and not scrub.decoder_flaw:
        click.echo(f"written: {bake}, plain")


def _check_damage(model: pathlib.Path, scrub: "Scrub") -> None:
    """Fail where something cannot be corrected.

    Raises:
        FailedError: naming the first tensor.
    """
    if scrub.decoder_flaw:
        raise FailedError(f"{model}: {scrub.decoder_flaw}")
    lost = [tensor for tensor in scrub.tensors if tensor.uncorrectable]
    if lost:
        raise FailedError(
            f"{model}: {scrub.totals['uncorrectable']:,} words and {scrub.totals['undecided']:,} values cannot be "
            f"corrected, the first in {lost[0].tensor!r}: take the file anew"
        )
