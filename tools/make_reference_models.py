#!/usr/bin/env python3
"""Remake the reference files in models/: train, export and measure them, and write their sidecars and cards.

The digits take three minutes; the others are cells of the recipe `ablation`, hours on two cores. What is done already
in --work, perhaps by `resq-deploy study ablation`, is not done again.

With --weight-type uint8 the same networks are exported once more, with weights that are exact on every CPU, as files of
their own. They are not measured anew: they must give the logits of those with int8 weights bit by bit.

Examples:
  OMP_NUM_THREADS=1 python tools/make_reference_models.py resnet8-digits --work runs/reference
  python tools/make_reference_models.py resnet20-cifar10 --data-dir data --work runs/ablation --jobs 2
  python tools/make_reference_models.py resnet8-digits --work runs/reference --weight-type uint8
"""

import argparse
import dataclasses
import pathlib
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from command_line import with_one_line_errors

from resq_deploy.cli import export_int8
from resq_deploy.cli.study import check_options
from resq_deploy.data import load_dataset
from resq_deploy.data.dataset import Dataset
from resq_deploy.errors import FailedError
from resq_deploy.pipeline.demo import FILES, DemoOptions, run_demo
from resq_deploy.pipeline.study import Study, StudyOptions
from resq_deploy.pipeline.study_recipe import read_recipe
from resq_deploy.quantization.fidelity import logits
from resq_deploy.quantization.scheme import WEIGHT_TYPES
from resq_deploy.records import read_json, sha256_file, write_json
from resq_deploy.report.demo import demo_table
from resq_deploy.report.study_figures import Metric, read_study
from resq_deploy.report.text import percent

MODELS = pathlib.Path(__file__).parents[1] / "models"
RECIPE = "ablation"
DEMO_GATES = ("--gate", "transfer-pgd=off", "--gate", "square=off", "--gate", "faults=off")
"""The demo looks at clean accuracy alone."""

CARD = """# {name}

{network} that reads {inputs}:
{stages}.
Static int8 ONNX (QDQ): {form}.
It takes float32 images `[batch, 3, 32, 32]` in [0, 1] and returns {classes} logits.

- **Remade by** `{command}`, seed 0, with {versions}.
- **Data**: {data}
- **Licence** of the file: that of the project (MIT).
- **SHA-256** `{sha256}`

Figures on the test images, with 95 % intervals, in {arithmetic} arithmetic, measured on {cpu}:

{table}

{reading}
"""

AS_UINT8 = """
The figures are those of the file with int8 weights; this one holds the same codes as uint8, for CPUs that do not
multiply int8 exactly, and gives its logits, bit by bit, on all {images} test images."""

STAGES = {
    "baseline": "stage 0 only, no hardening",
    "resq": "hardened by stage 1 (feature desensitization) and stage 2 (fault-aware fine-tuning)",
}
FORMS = {"minmax": "MinMax ranges", "fault-aware": "fault-aware ranges"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """What a card says of a network and its data."""

    network: str
    inputs: str
    data: str


DIGITS = Subject(
    network="A ResNet-8 (He et al. 2016, with 1x1 convolutions as shortcuts)",
    inputs="handwritten digits",
    data="`digits` of scikit-learn, a copy of the test set of *Optical Recognition of Handwritten Digits*\n"
    "  (Alpaydin and Kaynak, UCI, 1998; CC BY 4.0), upscaled to 32x32. {test} of its 1,797 images are the test set.",
)
_RESNET20 = "A ResNet-20 (He et al. 2016, with 1x1 convolutions as shortcuts)"
SUBJECTS = {
    "cifar10": Subject(
        network=_RESNET20,
        inputs="the ten classes of CIFAR-10",
        data="CIFAR-10 (Krizhevsky 2009): {train} of its 50,000 training images, others to choose epochs; its whole\n"
        "  test set.",
    ),
    "gtsrb": Subject(
        network=_RESNET20,
        inputs="the 43 traffic signs of GTSRB",
        data="GTSRB (Stallkamp et al. 2011), its training images at 32x32, split by track: {train} to train,\n"
        "  others to choose epochs, and {test} to test.",
    ),
}

DIGITS_READING = """PGD: {attack_steps} steps on the float network, its images run on this file. Bit errors: every
stored weight bit flips with the given probability, {chips} chips. SDC-1: one flip anywhere in the file, {fault_images}
images a flip. Intervals are about further chips, for which these say little, and about further flips, on these images.
One training run with one seed; the numbers of epochs in the recipe were chosen with these test images in view."""

STUDY_READING = """Attack: the worst of {attacks} for each of {attack_images} images, made against this file.
Bit errors: every stored weight bit flips with the given probability, {chips} chips, {chip_images} images. SDC-1: one
flip anywhere in the file, {flips} flips, {flip_images} images each. Intervals are about further chips, for which these
say little, and about further flips, on these images. One training run with one seed."""


def make_digits(work: pathlib.Path, weight_type: str) -> None:
    """Run the demo in `work` and turn its two files, or those files with uint8 weights, into reference files."""
    summary = run_demo(work, DemoOptions(), resume=True, say=print)
    table, dataset = demo_table(summary), load_dataset("digits")
    reading = DIGITS_READING.format(chips=DemoOptions().chips, **summary)
    for column, key in enumerate(STAGES, start=1):
        stage = FILES[key]
        file = work / f"{key}.int8.onnx"
        if weight_type == "uint8":
            export = [str(work / "train" / f"{stage}.pt"), "--dataset", "digits", "--seed", "0", "--no-gate"]
            file = with_uint8_weights(file, [*export, *DEMO_GATES], dataset)
        _write(
            f"resnet8-digits-{key}",
            DIGITS,
            file=file,
            dataset=dataset,
            command="OMP_NUM_THREADS=1 python tools/make_reference_models.py resnet8-digits",
            rows=((row[0], row[column]) for row in table.rows),
            reading=reading,
            stages=STAGES[key],
        )


def make_resnet20(name: str, data_dir: pathlib.Path | None, work: pathlib.Path, jobs: int, weight_type: str) -> None:
    """Run two cells of the study in `work` and turn their files, or uint8 ones, into reference files."""
    recipe = read_recipe(RECIPE, None, check_options)
    patterns = tuple(f"resnet20/{name}/seed-0/{variant}" for variant in STAGES)
    study = Study(recipe, StudyOptions(data_dir=data_dir, cells=patterns, jobs=jobs))
    study.run(work, resume=True, report=print)
    exports = {step.out: step.command_line(work, data_dir)[1:] for step in study.steps if step.command == "export-int8"}
    _, corners = read_study(work)
    dataset = load_dataset(name, data_dir)
    options = recipe.options(next(cell for cell in recipe.cells() if cell.dataset == name))
    chips, flips, attack = options["faultcamp"]["chips"], options["faultcamp"]["flips"], options["attackcamp"]["linf"]
    reading = STUDY_READING.format(
        attacks=attack["attacks"].replace(",", ", "),
        attack_images=f"{attack['images']:,}",
        chips=chips["chips"],
        chip_images=f"{min(chips['images'], len(dataset.test)):,}",
        flips=f"{flips['samples']:,}",
        flip_images=f"{flips['images']:,}",
    )
    for key in STAGES:
        figures = next(one.seeds[0] for one in corners if (one.dataset, one.variant) == (name, key))
        out = f"resnet20/{name}/seed-0/{key}/net.int8.onnx"
        file = work / out
        if weight_type == "uint8":
            file = with_uint8_weights(file, exports[out], dataset)
        _write(
            f"resnet20-{name}-{key}",
            SUBJECTS[name],
            file=file,
            dataset=dataset,
            command=f"python tools/make_reference_models.py resnet20-{name} --data-dir data",
            rows=((_heading(metric), percent(value.as_dict())) for metric, value in figures.items()),
            reading=reading,
            stages=STAGES[key],
        )


def _cpu(sidecar: Mapping[str, Any]) -> str:
    """Name the kind of CPU that a file was exported and measured on."""
    kind = "saturate" if sidecar["native"]["cpu_saturates"] else "do not saturate"
    return f"a CPU ({sidecar['provenance']['machine']}) whose own kernels {kind}"


def _heading(metric: Metric) -> str:
    headings = {
        "clean": "clean accuracy, int8 file",
        "attack": f"accuracy under attack, epsilon {metric.level}",
        "fault": f"bit error rate {metric.level}, weights",
        "sdc": "SDC-1 of single flips, all roles",
    }
    return headings[metric.kind]


def _write(
    name: str,
    subject: Subject,
    *,
    file: pathlib.Path,
    dataset: Dataset,
    command: str,
    rows: Iterable[tuple[str, str]],
    reading: str,
    stages: str,
) -> None:
    """Copy a file that was measured, or answers as one that was, into models/ with its sidecar, and write its card."""
    sidecar = read_json(file.with_suffix(".json"))
    if sidecar["quantization"]["weights"] == "uint8":
        name, command = f"{name}-uint8", f"{command} --weight-type uint8"
        reading += AS_UINT8.format(images=f"{len(dataset.test):,}")
    name = f"{name}.int8"
    path = MODELS / f"{name}.onnx"
    shutil.copyfile(file, path)
    write_json(path.with_suffix(".json"), {**sidecar, "model": {**sidecar["model"], "file": path.name}})
    versions = sidecar["provenance"]["versions"]
    lines = "\n".join(f"| {heading} | {value} |" for heading, value in rows)
    card = CARD.format(
        name=name,
        network=subject.network,
        inputs=subject.inputs,
        stages=stages,
        form=_form(sidecar),
        arithmetic=sidecar["arithmetic"],
        cpu=_cpu(sidecar),
        classes=len(dataset.classes),
        command=command,
        versions=", ".join(f"{package} {versions[package]}" for package in ("torch", "onnx", "onnxruntime")),
        data=subject.data.format(train=f"{len(dataset.train):,}", test=f"{len(dataset.test):,}"),
        sha256=sha256_file(path),
        table=f"| figure | value |\n|---|---|\n{lines}",
        reading=reading,
    )
    (MODELS / f"{name}.md").write_text(card, encoding="utf-8")
    print(f"{path}: {path.stat().st_size:,} bytes")


def with_uint8_weights(measured: pathlib.Path, export: Sequence[str], dataset: Dataset) -> pathlib.Path:
    """Export with uint8 weights what a file was exported from; return the new file, which lies beside that.

    Args:
        measured: the file with int8 weights.
        export: the arguments of export-int8 that made it; an `--out` among them does not count.
        dataset: both must give the same logits on all its test images.

    Raises:
        FailedError: if they do not.
    """
    path = measured.with_name(f"{measured.name.removesuffix('.int8.onnx')}-uint8.int8.onnx")
    export_int8.command.main([*export, "--weight-type", "uint8", "--out", str(path)], standalone_mode=False)
    signed, unsigned = (logits(file.read_bytes(), dataset.test.images) for file in (measured, path))
    if signed.tobytes() != unsigned.tobytes():
        raise FailedError(
            f"{path} does not give the logits of {measured}: export both on one machine, whose CPU multiplies exactly"
        )
    return path


def _form(sidecar: Mapping[str, Any]) -> str:
    """Return how a file is quantized and guarded, in words."""
    ranges = sidecar["adjustments"]["ranges"]
    stored = sidecar["quantization"]["weights"]
    weights = f"weights {stored} per {ranges['granularity']} with {FORMS[ranges['mode']]}"
    if ranges["mode"] == "fault-aware":
        weights += f" for a bit error rate of {ranges['design_ber']:g} (stage 3)"
    guarded = ",\nbiases, scales and zero points stored three times and voted" if sidecar["guards"] else ""
    return f"{weights}, activations uint8 with MinMax ranges{guarded}"


@with_one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and remake one set of reference files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ["resnet8-digits", *(f"resnet20-{name}" for name in SUBJECTS)]
    parser.add_argument("what", choices=known, help="which reference files to remake")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/reference"), help="run folder")
    parser.add_argument("--data-dir", type=pathlib.Path, help="where named data sets lie")
    parser.add_argument("--weight-type", choices=WEIGHT_TYPES, default="int8", help="how weights are stored")
    parser.add_argument("--jobs", type=int, default=1, help="steps that run at once")
    arguments = parser.parse_args(argv)
    if arguments.what == "resnet8-digits":
        make_digits(arguments.work, arguments.weight_type)
    else:
        name = arguments.what.removeprefix("resnet20-")
        make_resnet20(name, arguments.data_dir, arguments.work, arguments.jobs, arguments.weight_type)
    return 0


if __name__ == "__main__":
    sys.exit(main())
