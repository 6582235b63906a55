from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def write_tree(tmp_path: Path) -> Callable[..., Path]:
    """Write DIR/{split}/{class}/*.png with a different grey level for every image."""

    def write(layout: dict[str, dict[str, int]], *, name: str = "signs", suffix: str = ".png", size: int = 8) -> Path:
        root = tmp_path / name
        level = 0
        for split, classes in layout.items():
            for label, count in classes.items():
                folder = root / split / label
                folder.mkdir(parents=True)
                for index in range(count):
                    level += 1
                    Image.new("RGB", (size, size), (level, 0, 255 - level)).save(folder / f"{index:03d}{suffix}")
        return root

    return write


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """A sound `.npz` content: 20 test and 30 training images of 3 classes."""
    rng = np.random.default_rng(0)
    return {
        "images": rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8),
        "labels": np.arange(20) % 3,
        "images_train": rng.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8),
        "labels_train": np.arange(30) % 3,
        "classes": np.array(["cat", "dog", "owl"]),
    }


@pytest.fixture
def write_npz(tmp_path: Path) -> Callable[..., Path]:
    def write(contents: dict[str, np.ndarray]) -> Path:
        path = tmp_path / "pets.npz"
        np.savez_compressed(path, **contents)
        return path

    return write
