"""`resq-deploy export-int8`: stage 3."""

import pathlib

import click

from resq_deploy.cli.shared import (
    PATH,
    data_dir_option,
    dataset_option,
    need_extra,
    out_option,
    percent,
    seed_option,
)
from resq_deploy.errors import OptionError


@click.command()
@click.argument("source", type=PATH)
@out_option("The int8 ONNX file to write; the sidecar goes beside it as .json.")
@dataset_option
@data_dir_option
@click.option(
    "--ranges",
    type=click.Choice(["minmax", "mse", "fault-aware"]),
    default="minmax",
    show_default=True,
    help="Weight ranges: up to the largest weight, of least squared error, or that under bit errors.",
)
@click.option(
    "--design-ber", type=float, metavar="P", help="Bit error rate fault-aware ranges are made for.  [default: 0.001]"
)
@click.option(
    "--granularity",
    type=click.Choice(["channel", "tensor"]),
    default="channel",
    show_default=True,
    help="A weight range per output channel, or per tensor.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["qdq", "qoperator"]),
    default="qdq",
    show_default=True,
    help="Float operators between (de)quantizing nodes, or integer operators.",
)
@click.option("--calibration-images", type=int, default=500, show_default=True, help="Training images for the ranges.")
@click.option("--test-images", type=int, help="Test images the accuracies are measured on.  [default: all]")
@seed_option
@click.option(
    "--gate", "gates", multiple=True, metavar="NAME=BOUND", help="Largest drop in points.  [default: clean=1]"
)
@click.option("--no-gate", is_flag=True, help="Export even if a gate fails, and record it.")
def command(
    source: pathlib.Path,
    out: pathlib.Path,
    dataset: str,
    data_dir: pathlib.Path | None,
    ranges: str,
    design_ber: float | None,
    granularity: str,
    form: str,
    calibration_images: int,
    test_images: int | None,
    seed: int,
    gates: tuple[str, ...],
    no_gate: bool,
) -> None:
    """Turn SOURCE, a checkpoint, a train folder or a float ONNX file, into a static int8 ONNX file.

    \b
    Examples:
      resq-deploy export-int8 run/ --out net.int8.onnx --dataset cifar10 --data-dir data
      resq-deploy export-int8 run/baseline.pt --out baseline.int8.onnx --dataset digits --gate clean=2
      resq-deploy export-int8 run/ --out hard.int8.onnx --dataset cifar10 --ranges fault-aware --design-ber 1e-3
      resq-deploy export-int8 float.onnx --out net.int8.onnx --dataset images.npz      (needs no torch)
    """
    if source.suffix == ".pt" or source.is_dir():
        need_extra("exporting a checkpoint", "train", "torch", "onnxscript")
    from resq_deploy.data import load_dataset
    from resq_deploy.pipeline.export import export_source
    from resq_deploy.quantization.export import DEFAULT_GATES, ExportOptions

    if out.suffix != ".onnx":
        raise OptionError(f"--out {out}: the file's name must end in .onnx")
    options = ExportOptions(
        ranges=ranges,
        design_ber=design_ber,
        granularity=granularity,
        format=form,
        calibration_images=calibration_images,
        seed=seed,
        test_images=test_images,
        gates=DEFAULT_GATES | dict(map(_gate, gates)),
        enforce=not no_gate,
    )
    data = load_dataset(dataset, data_dir)
    sidecar = export_source(source, data, out, options, report=lambda step: click.echo(step, err=True))
    accuracy = sidecar["accuracy"]
    click.echo(f"accuracy float {percent(accuracy['float'])}, int8 {percent(accuracy['int8'])}")
    for gate in sidecar["gates"]:
        verdict = "passed" if gate["passed"] else "FAILED"
        click.echo(f"gate {gate['gate']}: {verdict} (drop {gate['figure']:.2f} points, bound {gate['bound']:.2f})")
    size = sidecar["model"]["bytes"]
    click.echo(f"{out}: {size:,} bytes ({sidecar['float_model']['bytes'] / size:.2f}x smaller), sidecar beside it")


def _gate(text: str) -> tuple[str, float]:
    name, _, bound = text.partition("=")
    try:
        return name, float(bound)
    except ValueError as error:
        raise OptionError(f"--gate {text!r}: give NAME=POINTS, such as clean=2") from error
