"""How long a stranger's path takes: own weights and a folder of photos to a hardened, protected file and its page.

Makes a folder of generated photos and a small residual network for them, trains its weights in float, and then runs the
commands of `resq-deploy guide own`, one after the other, each as a process of its own. Prints the seconds of each, on
the clock and on the processor; run it on a machine that does nothing else.

    python tools/measure_own.py --out own
    python tools/measure_own.py --out own --demo      (all of it by one command)
"""

import argparse
import importlib.resources
import json
import pathlib
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from command_line import with_one_line_errors
from PIL import Image

from resq_deploy.errors import FailedError

NETWORK = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, inside, outside, stride):
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)
        )
        self.second = nn.Sequential(nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside))
        self.short = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, images):
        return torch.relu(self.second(self.first(images)) + self.short(images))


def build(num_classes):
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
    stages = [Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)]
    return nn.Sequential(stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))
"""
CLASSES = ("bolt", "nut", "pin", "ring", "washer")
SIZE = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photos(folder: pathlib.Path, count: int, seed: int) -> None:
    """Write photos of round parts, told apart by their shape, on an uneven ground, at any place and in any light.

    Args:
        folder: gets `CLASS/*.png`.
        count: of all classes together.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for number in range(count):
        label = number % len(CLASSES)
        row, column = rng.uniform(24, 40, 2)
        height, width = rows - row, columns - column
        turn = rng.uniform(0, np.pi)
        along, across = height * np.cos(turn) + width * np.sin(turn), width * np.cos(turn) - height * np.sin(turn)
        away, reach = np.hypot(along, across), rng.uniform(15, 20)
        part = (
            (np.maximum(abs(along), 3 * abs(across)) < reach) | ((away < reach / 2) & (along > 0)),
            (np.maximum(abs(along) + abs(across) / 2, abs(across)) < reach) & (away > reach / 2),
            (abs(along) < reach) & (abs(across) < reach / 4),
            (away < reach) & (away > 0.8 * reach),
            (away < reach) & (away > 0.4 * reach),
        )[label]
        ground = rng.uniform(60, 120, 3) + rng.uniform(-1, 1, 3) * (columns + rows)[..., None] / 4
        pixels = np.where(part[..., None], rng.uniform(130, 230, 3), ground) + rng.normal(0, 12, (SIZE, SIZE, 3))
        place = folder / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(place / f"{number:04}.png")


def weights(folder: pathlib.Path, epochs: int, seed: int) -> float:
    """Train the network in float on the photos in a folder; write its `state_dict`; return its test accuracy."""
    import torch

    from resq_deploy.data import load_dataset, to_model_input

    torch.manual_seed(seed)
    names: dict[str, object] = {}
    exec(NETWORK, names)
    network = names["build"](len(CLASSES))  # type: ignore[operator]
    data = load_dataset(str(folder / "photos"))
    mean, std = (torch.tensor(part)[:, None, None] for part in (MEAN, STD))
    images, labels = (torch.from_numpy(each) for each in (to_model_input(data.train.images), data.train.labels))
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(32):  # type: ignore[no-untyped-call]
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(network((images[batch] - mean) / std), labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    network.eval()
    torch.save(network.state_dict(), folder / "my.pth")
    with torch.no_grad():
        answers = network((torch.from_numpy(to_model_input(data.test.images)) - mean) / std).argmax(1).numpy()
    return float((answers == data.test.labels).mean())


def steps() -> list[list[str]]:
    """Return the commands of the page, as it has them."""
    text = (importlib.resources.files("resq_deploy") / "guide" / "own.md").read_text(encoding="utf-8")
    block = text.partition("## Step by step")[2].partition("```sh\n")[2].partition("```")[0]
    return [shlex.split(line)[1:] for line in block.splitlines()]


def at_once() -> list[list[str]]:
    """Return the one command that does all of it."""
    network = ["--network", "my_module:build", "--weights", "my.pth", "--preprocess", "imagenet"]
    return [["demo", *network, "--dataset", "photos", "--clean-budget", "1", "--out", "mine"]]


def timed(folder: pathlib.Path, arguments: list[str]) -> dict[str, Any]:
    """Run a command in a folder; return what it took."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([sys.executable, "-m", "resq_deploy", *arguments], cwd=folder, capture_output=True, text=True)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - begin
    if done.returncode:
        raise FailedError(f"{' '.join(arguments)}: status {done.returncode}: {done.stderr[-500:]}")
    spent = sum(getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime"))
    return {"command": " ".join(arguments), "seconds": round(seconds, 1), "cpu_seconds": round(spent, 1)}


def told(step: Mapping[str, Any]) -> str:
    """Return what a step took, in a line."""
    return f"{step['seconds']:8.1f} s  {step['cpu_seconds']:8.1f} s of CPU  {step['command']}"


@with_one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write `own.json`; return an exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write; must be new")
    parser.add_argument("--photos", type=int, default=600, help="how many (default 600)")
    parser.add_argument("--epochs", type=int, default=12, help="of the weights to start from (default 12)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--demo", action="store_true", help="all of it by one command")
    given = parser.parse_args(argv)
    given.out.mkdir(parents=True)
    (given.out / "my_module.py").write_text(NETWORK, encoding="utf-8")
    photos(given.out / "photos", given.photos, given.seed)
    accuracy = weights(given.out, given.epochs, given.seed)
    print(f"float accuracy of the weights {100 * accuracy:.1f} %", flush=True)
    taken: list[dict[str, Any]] = []
    for arguments in at_once() if given.demo else steps():
        taken.append(timed(given.out, arguments))
        print(told(taken[-1]), flush=True)
    total = {key: round(sum(step[key] for step in taken), 1) for key in ("seconds", "cpu_seconds")}
    print(told({"command": "in all", **total}))
    record = {"photos": given.photos, "float_accuracy": accuracy, "steps": taken, "in_all": total}
    (given.out / "own.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
