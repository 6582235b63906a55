#!/usr/bin/env python3
"""Feed mutated data files to the readers: each must be used, or refused in one line, within a second and 1 GB.

Mutates `.npz` files, image-folder trees and fault lists. A child process reads each file; this one watches it.

Example:
  python tools/fuzz_data.py --count 2000 --seed 1
"""

import argparse
import io
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

_SECONDS = 1.0
_BYTES = 1 << 30

SURFACE: dict[str, Any] = {"tensor": "w", "layer": "conv", "dtype": "int8", "shape": (4, 4), "width": 8}


def sound_npz() -> bytes:
    """Return a sound `.npz`: 6 test and 6 training images of 3 classes."""
    stream = io.BytesIO()
    images = np.arange(6 * 8 * 8 * 3, dtype=np.uint8).reshape(6, 8, 8, 3)
    labels = np.arange(6) % 3
    np.savez(stream, images=images, labels=labels, images_train=images, labels_train=labels, classes=["a", "b", "c"])
    return stream.getvalue()


def sound_image(suffix: str) -> bytes:
    """Return a sound image file of 16x16 pixels."""
    stream = io.BytesIO()
    pixels = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    Image.fromarray(pixels).save(stream, {".jpg": "JPEG"}.get(suffix, suffix[1:].upper()))
    return stream.getvalue()


def sound_list() -> bytes:
    """Return a sound fault list."""
    rows = [f"{number // 2},w,{number},{number % 8},flip," for number in range(16)]
    return "\n".join(["fault,tensor,index,bit,op,value", *rows, "9,w,0,0,word,200", ""]).encode()


def truncated(rng: random.Random, data: bytes) -> bytes:
    """Cut the end off."""
    return data[: rng.randrange(len(data))]


def random_bytes(rng: random.Random, data: bytes) -> bytes:
    """Overwrite some bytes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 30)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def inserted(rng: random.Random, data: bytes) -> bytes:
    """Put noise in the middle."""
    place = rng.randrange(len(data))
    return data[:place] + rng.randbytes(rng.randint(1, 400)) + data[place:]


def numbers(rng: random.Random, data: bytes) -> bytes:
    """Write extreme numbers where digits stand: shapes in array headers, indices in lists."""
    places = [place for place, byte in enumerate(data) if 48 <= byte <= 57]
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.choice(places)
        text = rng.choice([b"-1", b"99999999999999999999", b"4294967296", b"1e9", b"nan", b"", b"\x00"])
        changed[place : place + len(text)] = text
    return bytes(changed)


def swapped_ends(rng: random.Random, data: bytes) -> bytes:
    """Exchange two halves."""
    place = rng.randrange(len(data))
    return data[place:] + data[:place]


MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    truncated,
    random_bytes,
    inserted,
    numbers,
    swapped_ends,
)


def write_mutants(folder: pathlib.Path, count: int, seed: int) -> list[pathlib.Path]:
    """Write `count` mutated inputs below a folder; return what to hand to the readers."""
    rng = random.Random(seed)
    paths = []
    for number in range(count):
        kind = rng.choice([".npz", ".csv", ".png", ".jpg", ".webp"])
        sound = {".npz": sound_npz, ".csv": sound_list}.get(kind, lambda kind=kind: sound_image(kind))()
        data = rng.choice(MUTATIONS)(rng, sound)
        if kind in (".npz", ".csv"):
            path = folder / f"{number}{kind}"
            path.write_bytes(data)
        else:
            path = folder / f"tree-{number}"
            for split, label, content in (("train", "a", sound), ("test", "a", sound), ("test", "b", data)):
                (path / split / label).mkdir(parents=True)
                (path / split / label / f"0{kind}").write_bytes(content)
            (path / "train" / "b").mkdir()
            (path / "train" / "b" / f"0{kind}").write_bytes(sound)
        paths.append(path)
    return paths


def read(path: pathlib.Path) -> str:
    """Read one input as the commands do; return `used`, or `refused:` with the message."""
    from resq_deploy.campaign.fault_list import read_fault_list
    from resq_deploy.data import load_dataset, to_model_input
    from resq_deploy.deployed.surfaces import Role, Surface
    from resq_deploy.errors import ResqError

    try:
        if path.suffix == ".csv":
            read_fault_list(path, [Surface(role=Role.WEIGHT, **SURFACE)])
        else:
            dataset = load_dataset(str(path))
            to_model_input(dataset.evaluation(None).images)
            dataset.calibration(4, 0)
            dataset.digest("test")
    except ResqError as error:
        lines = str(error).splitlines()
        return f"refused: {lines[0]}" if len(lines) == 1 and lines[0] else f"not one line: {error!r}"
    except Exception as error:  # what a user would see as a traceback
        return f"traceback: {type(error).__name__}: {error}"
    return "used"


def _peak_bytes() -> int:
    """Return the largest resident size since this program began; `ru_maxrss` would count its parent's, too."""
    status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def check(paths: list[pathlib.Path]) -> None:
    """Child process: print `name, seconds, peak bytes, verdict` for each input."""
    for path in paths:
        begin = time.perf_counter()
        verdict = read(path).replace("\n", " ")
        seconds = time.perf_counter() - begin
        peak = _peak_bytes()
        print(f"{path.name}\t{seconds:.3f}\t{peak}\t{verdict}", flush=True)


def judge(paths: list[pathlib.Path]) -> list[tuple[str, float, int, str]]:
    """Read all inputs in a child process; return name, seconds, peak bytes and verdict of each."""
    command = [sys.executable, "-W", "error", __file__, "--check", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + len(paths))
    rows = [line.split("\t", 3) for line in done.stdout.splitlines()]
    results = [(name, float(seconds), int(peak), verdict) for name, seconds, peak, verdict in rows]
    if done.returncode != 0:
        guilty = paths[len(results)].name if len(results) < len(paths) else "the end"
        results.append((guilty, 0.0, 0, f"died with {done.returncode}: {done.stderr[-300:]}"))
    return results


def is_clean(result: tuple[str, float, int, str]) -> bool:
    """Return whether an input was used or refused as it should be."""
    _, seconds, peak, verdict = result
    return verdict.startswith(("used", "refused: ")) and seconds < _SECONDS and peak < _BYTES


def main() -> int:
    """Mutate, judge and print the findings; return 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="how many mutated inputs (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument("--check", nargs="+", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.check:
        check(arguments.check)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        results = judge(write_mutants(pathlib.Path(folder), arguments.count, arguments.seed))
    verdicts = Counter(verdict.split(":")[0] for *_, verdict in results)
    findings = [result for result in results if not is_clean(result)]
    for finding in findings:
        print(*finding, sep="  ")
    peak = max(peak for _, _, peak, _ in results)
    slowest = max(seconds for _, seconds, _, _ in results)
    print(f"{len(results)} inputs: {dict(verdicts)}; {len(findings)} findings; peak {peak >> 20} MB, {slowest:.2f} s")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
