#!/usr/bin/env python3
"""Check the campaign engine against plain PyTorch: the same float32 weight faults, image by image.

Exports a checkpoint to a float ONNX file, draws single flips among its weights (32-bit positions), runs them as a
campaign on the file, and replays the campaign's own table of faults in PyTorch on the folded network. SDC-1 counts
of each fault must agree up to images whose two best logits lie closer together than float rounding.

Example:
  python tools/check_float_replay.py run/baseline.pt --dataset cifar10 --data-dir data --faults 30 --images 10000
"""

import argparse
import csv
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resq_deploy.campaign.option_text import parse_bits
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset, to_model_input
from resq_deploy.data.dataset import Dataset
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.surfaces import Role
from resq_deploy.hardening.checkpoint import Checkpoint, load_checkpoint
from resq_deploy.hardening.folding import find_pairs, fold_batchnorm
from resq_deploy.hardening.trace import export_float_onnx

_BATCH = 500


def compare(checkpoint: Checkpoint, dataset: Dataset, options: CampaignOptions) -> list[dict[str, Any]]:
    """Return, for each fault, SDC-1 counted by the campaign and by PyTorch.

    Args:
        checkpoint: the network.
        dataset: gives the images.
        options: which single flips to draw, and how many images to judge them by.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "float.onnx"
        export_float_onnx(checkpoint, path)
        Campaign(DeployedModel.load(path), dataset, options).run(pathlib.Path(folder) / "run")
        with (pathlib.Path(folder) / "run" / "faults.csv").open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    inputs = torch.from_numpy(to_model_input(dataset.evaluation(options.images).images))
    network = checkpoint.build()
    network = fold_batchnorm(network, find_pairs(network, inputs[:2]))
    golden = _top1(network, inputs)
    return [
        {
            "tensor": row["tensor"],
            "index": int(row["index"]),
            "bit": int(row["bit"]),
            "campaign": int(row["sdc1"]),
            "torch": _torch_sdc1(network, row, inputs, golden),
        }
        for row in rows
    ]


def _torch_sdc1(network: torch.nn.Module, row: dict[str, str], inputs: torch.Tensor, golden: NDArray[np.int64]) -> int:
    """Flip one bit of one parameter, count the images whose top-1 changes (or is not finite), and flip it back."""
    weight = dict(network.named_parameters())[row["tensor"]]
    codes = weight.detach().view(-1).view(torch.int32)
    bit = np.array(1 << int(row["bit"]), dtype=np.uint32).view(np.int32).item()
    codes[int(row["index"])] ^= bit
    try:
        faulty = _top1(network, inputs)
    finally:
        codes[int(row["index"])] ^= bit
    return int((faulty != golden).sum())


def _top1(network: torch.nn.Module, inputs: torch.Tensor) -> NDArray[np.int64]:
    """Return the winning class of each image; -1 where the logits are not finite. [N, C, H, W] -> [N]."""
    parts = []
    with torch.no_grad():
        for begin in range(0, len(inputs), _BATCH):
            logits = network(inputs[begin : begin + _BATCH])
            winner = logits.argmax(1)
            winner[~torch.isfinite(logits).all(1)] = -1
            parts.append(winner.numpy())
    return np.concatenate(parts)


def main() -> None:
    """Parse the command line, compare and print a line a fault; exit 1 if any count differs by more than allowed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data-dir", type=pathlib.Path)
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--bits", default="0-31", help="bit positions to hit (default: 0-31)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tolerance", type=int, default=1, help="images a fault that rounding may decide")
    arguments = parser.parse_args()
    dataset = load_dataset(arguments.dataset, arguments.data_dir)
    options = CampaignOptions(
        samples=arguments.faults,
        images=arguments.images,
        seed=arguments.seed,
        roles=(Role.WEIGHT,),
        bits=parse_bits(arguments.bits),
    )
    results = compare(load_checkpoint(arguments.checkpoint), dataset, options)
    for result in results:
        print(f"{result['tensor']}[{result['index']}] bit {result['bit']}: {result['campaign']} / {result['torch']}")
    apart = [abs(result["campaign"] - result["torch"]) for result in results]
    print(f"{len(apart)} faults: {apart.count(0)} counts equal, largest difference {max(apart)} images")
    sys.exit(max(apart) > arguments.tolerance)


if __name__ == "__main__":
    main()
