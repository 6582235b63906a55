"""`resq-deploy inspect`: what a file stores."""

import json
import pathlib

import click

from resq_deploy.cli.shared import PATH, print_table


@click.command()
@click.argument("model", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print surfaces and warnings as JSON.")
def command(model: pathlib.Path, as_json: bool) -> None:
    """List the stored parameters of an ONNX file: their roles, layers and bits, and what to beware of.

    \b
    Examples:
      resq-deploy inspect model.int8.onnx
      resq-deploy inspect model.int8.onnx --json | jq '.surfaces[] | select(.role == "bias")'
    """
    from resq_deploy.deployed.advice import warnings_for
    from resq_deploy.deployed.model import DeployedModel

    deployed = DeployedModel.load(model)
    warnings = warnings_for(deployed)
    if as_json:
        surfaces = [surface.as_dict() for surface in deployed.surfaces]
        click.echo(json.dumps({"model": deployed.digest, "surfaces": surfaces, "warnings": warnings}, indent=2))
        return
    total = sum(surface.bits for surface in deployed.surfaces)
    for key in ("role", "layer"):
        groups: dict[str, list[int]] = {}
        for surface in deployed.surfaces:
            groups.setdefault(str(getattr(surface, key)), []).append(surface.bits)
        rows = [
            (name, str(len(bits)), f"{sum(bits):,}", f"{100 * sum(bits) / total:.3f} %")
            for name, bits in groups.items()
        ]
        print_table(f"Stored bits by {key}", (key, "tensors", "bits", "share"), rows)
    click.echo(f"{len(deployed.surfaces)} tensors, {total:,} bits, SHA-256 {deployed.digest}")
    for warning in warnings:
        click.echo(f"warning: {warning}")
