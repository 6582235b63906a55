"""`resq-deploy export-int8`: stage 3."""

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from resq_deploy import api
from resq_deploy.api.gates import of_export
from resq_deploy.api.words import percent, printable
from resq_deploy.cli.gates import junit_option
from resq_deploy.cli.preprocessing import preprocessing_options, read_preprocessing
from resq_deploy.cli.sections import SectionedCommand
from resq_deploy.cli.shared import (
    PATH,
    arithmetic_option,
    data_dir_option,
    dataset_option,
    out_option,
    print_table,
    say,
    seed_option,
    split_option,
)
from resq_deploy.cli.task_options import TASK_OPTIONS, print_task, read_wish, task_options
from resq_deploy.errors import GateError

if TYPE_CHECKING:
    from resq_deploy.api import ExportOptions, GateOptions

SECTIONS = {
    "Source and file": ("out", "dataset", "data_dir", "split", "network", "weights"),
    "How the network takes its images": ("channels", "input_layout", "scale", "mean", "std", "preprocess"),
    "Detectors, segmentation, sequences": TASK_OPTIONS,
    "Ranges and adjustments": (
        "ranges",
        "design_ber",
        "reconstruct",
        "activation_percentile",
        "bias_correction",
        "equalize",
        "calibration_images",
        "seed",
    ),
    "Form of the file": ("granularity", "form", "opset", "weight_type", "weight_bits", "reduce_range"),
    "Protection against its own faults": (
        "guard",
        "weight_code",
        "health",
        "guard_budget",
        "guard_campaign",
    ),
    "Accuracy and gates": ("test_images", "arithmetic", "gates", "no_gate", "junit"),
}
"""Headings of the help, and what is under them."""


@click.command(cls=SectionedCommand, sections=SECTIONS)
@click.argument("source", type=PATH, required=False)
@out_option("The int8 ONNX file to write; the sidecar goes beside it as .json.")
@dataset_option
@data_dir_option
@split_option
@task_options
@preprocessing_options
@click.option(
    "--network",
    metavar="N",
    help="What --weights, or a checkpoint of a network of your own, is of: a name, or module:function, whose code is "
    "imported and run.",
)
@click.option(
    "--weights",
    type=PATH,
    metavar="FILE",
    help="In place of SOURCE: a state_dict (torch.save) or .safetensors of --network, as train takes it.",
)
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
    "--reconstruct/--no-reconstruct",
    default=None,
    help="Fit each layer's weights inside narrowed ranges, so that its outputs stay, instead of cutting them off.  "
    "[default: with fault-aware ranges]",
)
@click.option(
    "--activation-percentile",
    metavar="auto|Q",
    default="100",
    show_default=True,
    help="Percentile that activation ranges reach up to; auto tries some under bit errors at the design rate.",
)
@click.option(
    "--bias-correction/--no-bias-correction",
    default=False,
    show_default=True,
    help="Correct biases by the mean error that int8 makes in each channel.",
)
@click.option(
    "--equalize/--no-equalize",
    default=False,
    show_default=True,
    help="Equalize the channels' ranges of layers with a ReLU between them.",
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
    type=click.Choice(["qdq", "qoperator", "dynamic"]),
    default="qdq",
    show_default=True,
    help="Float operators between (de)quantizing nodes, or integer operators; dynamic: int8 weights alone, for "
    "recurrent networks.",
)
@click.option(
    "--opset",
    type=int,
    metavar="N",
    help="ONNX opset of the file.  [default: the source's, from 13 up, from 18 under a code]",
)
@click.option(
    "--weight-type",
    type=click.Choice(["int8", "uint8"]),
    default="int8",
    show_default=True,
    help="How weights are stored: int8, or uint8 about a zero point: slower with VNNI, and exact on every CPU.",
)
@click.option(
    "--reduce-range",
    is_flag=True,
    help="int8 weights up to 64, exact without VNNI and as fast; a flipped bit moves them twice as far.",
)
@click.option(
    "--guard",
    type=click.Choice(["none", "parameters", "weights", "all", "auto"]),
    default="none",
    show_default=True,
    help="What heals itself at load: parameters but weights, by votes over three copies; weights, by a code in bits "
    "they leave spare; all that is stored; or what pays most.",
)
@click.option(
    "--weight-code",
    type=click.Choice(["secded", "dected"]),
    help="Code of weights: corrects a flip in 64 bits, or two in 128 (in 64 of 6-bit weights).  [default: secded]",
)
@click.option(
    "--weight-bits",
    type=click.Choice(["8", "7", "6"]),
    help="Bits of a weight; 6 with dected only.  [default: 7 under a code, else 8]",
)
@click.option("--health", is_flag=True, help="One more output: words that were corrected, and that could not be.")
@click.option(
    "--guard-budget",
    type=float,
    metavar="SHARE",
    help="Bytes that auto may add, as a share of the file's.  [default: 0.05]",
)
@click.option(
    "--guard-campaign", type=PATH, help="faultcamp run of single flips in this file, unguarded, that auto plans by."
)
@click.option("--calibration-images", type=int, default=500, show_default=True, help="Training images for the ranges.")
@click.option("--test-images", type=int, help="Test images the accuracies are measured on.  [default: all]")
@seed_option
@arithmetic_option
@click.option(
    "--gate",
    "gates",
    multiple=True,
    metavar="NAME=BOUND",
    help="Largest drop in points, or off.  [default: clean=1 faults=0 transfer-pgd=1 square=1]",
)
@click.option("--no-gate", is_flag=True, help="Export even if a gate fails, and record it.")
@junit_option
def command(
    source: pathlib.Path | None,
    out: pathlib.Path,
    dataset: str,
    data_dir: pathlib.Path | None,
    junit: pathlib.Path | None,
    **given: Any,
) -> None:
    """Turn SOURCE, a checkpoint, a train folder or a float ONNX file, into a static int8 ONNX file.

    What a network of your own must be is said by train --help. A float ONNX file that does not normalise by itself is
    told with --mean and --std how its images are made ready; the sidecar keeps it for all later commands.

    \b
    Examples:
      resq-deploy export-int8 run/ --out net.int8.onnx --dataset cifar10 --data-dir data
      resq-deploy export-int8 run/baseline.pt --out baseline.int8.onnx --dataset digits --gate clean=2
      resq-deploy export-int8 run/ --out hard.int8.onnx --dataset cifar10 --ranges fault-aware --design-ber 1e-3
      resq-deploy export-int8 run/ --out healing.int8.onnx --dataset cifar10 --guard all
      resq-deploy export-int8 run/ --out anywhere.int8.onnx --dataset cifar10 --weight-type uint8
      resq-deploy export-int8 float.onnx --out net.int8.onnx --dataset images.npz      (needs no torch)
      resq-deploy export-int8 yolo.onnx --out yolo.int8.onnx --dataset pictures.npz    (see guide tasks)
      resq-deploy export-int8 float.onnx --out net.int8.onnx --dataset photos --preprocess imagenet
      resq-deploy export-int8 --network my_module:build --weights my.pth --preprocess none \\
          --out net.int8.onnx --dataset photos
    """
    where = {name: given.pop(name) for name in ("split", "network", "weights")}
    asked, task = read_preprocessing(given), read_wish(given)
    options, gates = _read(given)
    with api.junit(junit, f"export-int8 {out.name}") as verdicts:
        try:
            sidecar = api.export_int8(
                source,
                dataset,
                out,
                options,
                gates=gates,
                data_dir=data_dir,
                **where,
                preprocessing=asked,
                task=task,
                say=say,
            )
        except GateError as error:
            verdicts += map(of_export, error.gates)
            raise
        verdicts += map(of_export, sidecar["gates"])
    _print(sidecar, out)


def read_options(given: dict[str, Any]) -> tuple["ExportOptions", "GateOptions"]:
    """Turn the command's options into those of the export and of its gates, as a study does to check them.

    Raises:
        OptionError: if one, or a combination of them, makes no sense.
    """
    read_preprocessing(given)
    for name in ("network", "weights", "split"):  # say what is exported, and nothing of how
        given.pop(name, None)
    read_wish(given)  # says what judges, and nothing of how to export
    return _read(given)


def _read(given: dict[str, Any]) -> tuple["ExportOptions", "GateOptions"]:
    bounds, enforce, form = given.pop("gates"), not given.pop("no_gate"), given.pop("form")
    given["weight_bits"] = int(given["weight_bits"]) if given["weight_bits"] else None
    options = api.export_options(**given, format=form)
    return options, api.gate_options(options, bounds, enforce=enforce)


def _print(sidecar: Mapping[str, Any], out: pathlib.Path) -> None:
    accuracy = sidecar["accuracy"]
    if accuracy is None:
        print_task(sidecar["task"])
    else:
        click.echo(f"accuracy float {percent(accuracy['float'])}, int8 {percent(accuracy['int8'])}")
    for gate in sidecar["gates"]:
        case = of_export(gate)
        verdict = {True: "passed", False: "FAILED", None: "not run"}[case.passed]
        click.echo(f"gate {case.name}: {verdict} ({case.told})")
    _print_protection(sidecar["guards"], sidecar["bit_cost"])
    _print_native(sidecar["native"])
    size = sidecar["model"]["bytes"]
    click.echo(f"{out}: {size:,} bytes ({sidecar['float_model']['bytes'] / size:.2f}x smaller), sidecar beside it")


def _print_protection(guards: Mapping[str, Any] | None, cost: Mapping[str, Any] | None) -> None:
    """Say what protects which tensors, what that costs, and what is left without."""
    if cost is not None:
        images = f"{cost['images']} {cost['images_from']} images"
        click.echo(f"weights of fewer than 8 bits cost {cost['points']:.2f} points on {images}")
    if guards is None:
        return
    rows: dict[tuple[str, str], list[int]] = {}
    for entry in guards["tensors"]:
        row = rows.setdefault((entry["role"], entry["by"]), [0, 0])
        row[0], row[1] = row[0] + 1, row[1] + entry["bits"]
    print_table(
        "protected",
        ["role", "by", "tensors", "bits"],
        [[role, by, str(count), f"{bits:,}"] for (role, by), (count, bits) in rows.items()],
    )
    click.echo(f"protection adds {guards['bytes_added']:,} bytes ({100 * guards['share_of_file']:.2f} %)")
    for name, reason in guards["left_out"].items():
        click.echo(f"not protected: {printable(name)} ({reason})")


def _print_native(native: Mapping[str, Any]) -> None:
    """Say what CPUs whose kernels saturate make of the file; nothing where that is nothing."""
    layers = native["layers"]
    if native["changed"] is not None:
        click.echo(
            f"in native arithmetic this CPU, which saturates, gives {percent(native['changed'])} of the test images "
            "another answer"
        )
    elif layers:
        click.echo(
            f"on x86 CPUs without VNNI {len(layers)} layers, the first is {layers[0]['layer']}, could saturate in "
            "native arithmetic: --weight-type uint8 makes a file that answers alike on all"
        )
