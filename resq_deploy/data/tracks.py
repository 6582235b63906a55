"""Tracks of traffic signs: photographs of one sign, taken one after the other from a car that drives up to it.

The frames of a track are nearly the same picture. Where some of them train a network and others choose its epochs, the
choice is made on what was learnt by heart; a track has to lie on one side (Stallkamp et al., "Man vs. computer", Neural
Networks 2012, split GTSRB itself in that way).
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_FRAMES = 30
"""Frames of a track of GTSRB, all but a few."""
_NAME = re.compile(r"(?:\d+_)?(?P<track>\d+)_\d+")
"""Names of frames: TRACK_FRAME, as they are published, or CLASS_TRACK_FRAME."""

UNTOLD = (
    f"the file names do not tell the tracks of the signs (TRACK_FRAME.png would): every {_FRAMES} files of a class, in "
    "the order of their names, are taken for one, so that validation may share a sign with training"
)
"""What to say where the names of files tell no tracks."""


def are_told(files: Sequence[Path]) -> bool:
    """Return whether every file's name tells which track of its class it belongs to."""
    return all(_NAME.fullmatch(file.stem) for file in files)


def tracks(files: Sequence[Path]) -> NDArray[np.int64]:
    """Return the number of the track that each file belongs to, numbered through all classes, shape [files].

    Args:
        files: folder by folder, each folder a class, sorted by name. Where the names tell no tracks, so many files as
            a track has frames are taken for one.
    """
    told = are_told(files)
    within: dict[Path, int] = defaultdict(int)
    numbers: dict[tuple[Path, int], int] = {}
    found = []
    for file in files:
        match = _NAME.fullmatch(file.stem) if told else None
        track = int(match["track"]) if match else within[file.parent] // _FRAMES
        within[file.parent] += 1
        found.append(numbers.setdefault((file.parent, track), len(numbers)))
    return np.array(found, dtype=np.int64)
