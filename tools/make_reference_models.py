#!/usr/bin/env python3
"""Remake the reference files in models/: train, export and measure them, and write their sidecars and cards.

Example:
  python tools/make_reference_models.py resnet8-digits --work runs/reference
"""

import argparse
import pathlib
from typing import Any

from resq_deploy.data import load_dataset
from resq_deploy.pipeline.demo import FILES, DemoOptions, run_demo
from resq_deploy.pipeline.export import export_source
from resq_deploy.pipeline.gates import GateOptions
from resq_deploy.quantization.export import ExportOptions
from resq_deploy.report.demo import demo_table

MODELS = pathlib.Path(__file__).parents[1] / "models"

CARD = """# {name}

A ResNet-8 (He et al. 2016, with 1x1 convolutions as shortcuts) that reads handwritten digits:
{stages}.
Static int8 ONNX (QDQ), weights int8 per channel, activations uint8 with MinMax ranges. It takes float32
images `[batch, 3, 32, 32]` in [0, 1] and returns 10 logits.

- **Made by** `OMP_NUM_THREADS=1 python tools/make_reference_models.py resnet8-digits`, seed {seed}, with {versions}.
- **Data**: `digits` of scikit-learn, a copy of the test set of *Optical Recognition of Handwritten Digits*
  (Alpaydin and Kaynak, UCI, 1998; CC BY 4.0), upscaled to 32x32. {test_images} of its 1,797 images are the test set.
- **Licence** of the file: that of the project (MIT).
- **SHA-256** `{sha256}`

Figures on the test images, with 95 % intervals:

{table}

PGD: {attack_steps} steps on the float network, its images run on this file. Bit errors: every stored weight bit flips
with the given probability, {chips} chips. SDC-1: one flip anywhere in the file, {fault_images} images a flip.
One training run with one seed; the numbers of epochs in the recipe were chosen with these test images in view.
"""

STAGES = {
    "baseline": "stage 0 only, no hardening",
    "resq": "hardened by stage 1 (feature desensitization) and stage 2 (fault-aware fine-tuning)",
}


def make_resnet8_digits(work: pathlib.Path) -> None:
    """Run the demo in `work` and turn its two files into reference files."""
    options = DemoOptions()
    summary = run_demo(work, options, resume=True, say=print)
    for key, stage in FILES.items():
        name = f"resnet8-digits-{key}.int8"
        path = MODELS / f"{name}.onnx"
        export = ExportOptions(seed=options.seed)
        source = work / "train" / f"{stage}.pt"
        sidecar = export_source(source, load_dataset("digits"), path, export, GateOptions(gates=("clean",)))
        if sidecar["model"]["sha256"] != summary["files"][key]["sha256"]:
            raise SystemExit(f"{name} is not the file that was measured: equal inputs gave other bytes")
        (MODELS / f"{name}.md").write_text(_card(name, key, summary, sidecar, options), encoding="utf-8")
        print(f"{path}: {path.stat().st_size:,} bytes")


def _card(name: str, key: str, summary: dict[str, Any], sidecar: dict[str, Any], options: DemoOptions) -> str:
    table = demo_table(summary)
    column = 1 + list(FILES).index(key)
    rows = "\n".join(f"| {row[0]} | {row[column]} |" for row in table.rows)
    versions = sidecar["provenance"]["versions"]
    return CARD.format(
        name=name,
        stages=STAGES[key],
        seed=options.seed,
        versions=", ".join(f"{package} {versions[package]}" for package in ("torch", "onnx", "onnxruntime")),
        sha256=sidecar["model"]["sha256"],
        table=f"| figure | value |\n|---|---|\n{rows}",
        test_images=summary["test_images"],
        attack_steps=summary["attack_steps"],
        chips=options.chips,
        fault_images=summary["fault_images"],
    )


def main() -> None:
    """Parse the command line and remake one set of reference files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["resnet8-digits"], help="which reference files to remake")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/reference"), help="run folder")
    arguments = parser.parse_args()
    make_resnet8_digits(arguments.work)


if __name__ == "__main__":
    main()
