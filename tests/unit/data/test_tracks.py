"""Frames of one traffic sign lie on one side of the split between training and validation."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from resq_deploy.data import load_dataset
from resq_deploy.data.splits import split_off
from resq_deploy.data.tracks import UNTOLD, are_told, tracks


def test_groups_stay_together_and_every_class_gives_its_share():
    labels = np.repeat([0, 1, 2], [600, 90, 30])
    groups = np.arange(720) // 30
    rest, part = split_off(labels, 0.1, 5, groups)
    assert not set(groups[rest]) & set(groups[part])
    assert [len(set(groups[part][labels[part] == label])) for label in range(3)] == [2, 1, 0]
    assert sorted([*rest, *part]) == list(range(720))


def test_without_groups_the_split_is_what_it_always_was():
    labels = np.arange(40) % 2
    _, part = split_off(labels, 0.1, 7)
    assert part.tolist() == [37, 6, 32, 23]
    for ours, theirs in zip(split_off(labels, 0.1, 7), split_off(labels, 0.1, 7, np.arange(40)), strict=True):
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize(
    ("names", "found"),
    [
        pytest.param(["00000_00000", "00000_00001", "00003_00000"], [0, 0, 1], id="as-published"),
        pytest.param(["00007_00000_00000", "00007_00001_00000", "00007_00001_00001"], [0, 1, 1], id="class-first"),
        pytest.param([f"{number:05d}" for number in range(65)], [0] * 30 + [1] * 30 + [2] * 5, id="untold"),
        pytest.param(["00000_00000", "00000_00001", "sign"], [0, 0, 0], id="told-by-some"),
    ],
)
def test_tracks_are_read_from_names(names, found):
    files = [pathlib.Path("train", label, f"{name}.png") for label in ("07", "08") for name in names]
    assert tracks(files).tolist() == found + [max(found) + 1 + track for track in found]
    assert are_told(files) is (names[-1].count("_") > 0)


def tree(root, names):
    """Four classes of signs; an image's colours tell its class and file."""
    for label in range(4):
        folder = root / "train" / f"{label:02d}"
        folder.mkdir(parents=True)
        for number, name in enumerate(names):
            Image.new("RGB", (4, 4), (label, number // 256, number % 256)).save(folder / f"{name}.png")
    return root


def track_numbers(split):
    """Class and track of each image of `tree`, whose tracks have 30 frames."""
    colours = split.images[:, 0, 0, :].astype(int)
    return {(label, (256 * high + low) // 30) for label, high, low in colours}


NAMES = {
    "told": [f"{track:05d}_{frame:05d}" for track in range(10) for frame in range(30)],
    "untold": [f"{number:05d}" for number in range(300)],
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("named", [True, False], ids=["named", "by-path"])
def test_a_tree_of_gtsrb_is_split_by_track(kind, named, tmp_path):
    root = tree(tmp_path / "gtsrb", NAMES[kind])
    data = load_dataset("gtsrb", tmp_path) if named else load_dataset(str(root))
    train, validation = track_numbers(data.train), track_numbers(data.validation)
    assert not train & validation
    assert len(validation) == 4
    assert len(data.validation) == 120
    assert data.notes == (() if kind == "told" else (UNTOLD,))


def test_other_trees_are_split_image_by_image(tmp_path):
    data = load_dataset(str(tree(tmp_path / "pets", NAMES["told"])))
    assert track_numbers(data.train) & track_numbers(data.validation)
    assert data.notes == ()


def test_torchvisions_layout_is_split_by_track(tmp_path):
    for label in range(43):
        folder = tmp_path / "gtsrb/GTSRB/Training" / f"{label:05d}"
        folder.mkdir(parents=True)
        for track in range(3):
            for frame in range(3):
                Image.new("RGB", (4, 4), (label, track, frame)).save(folder / f"{track:05d}_{frame:05d}.ppm")
    data = load_dataset("gtsrb", tmp_path)
    found = [
        {tuple(colour[:2]) for colour in split.images[:, 0, 0].tolist()} for split in (data.train, data.validation)
    ]
    assert not found[0] & found[1]
    assert len(found[1]) == 43
    assert data.notes == ()
