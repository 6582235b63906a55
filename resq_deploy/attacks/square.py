"""The Square attack, for an attacker who sees the scores of the deployed file and nothing else of it.

Written from the paper (Andriushchenko, Croce, Flammarion, Hein, "Square Attack", ECCV 2020) and not taken from the
Adversarial Robustness Toolbox (1.20), for three measured reasons. Around the same int8 session of a ResNet-20, the
toolbox's costs 3.8 times the bare inference of the images that this one sends, and this one 1.05 to 1.11 times (CPU
seconds, tools/bench_attackcamp.py). It fools no more for that, as its own loss is 0 where the right class comes second.
And under L2 it divides by a norm that the paper multiplies by.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.attacks.ball import Norm, Pixels
from resq_deploy.attacks.target import Labels, Target, Tried, margin
from resq_deploy.errors import DataError, OptionError

LEAST_QUERIES = 3
"""The image itself, the pattern the attack begins with, and one square."""

_FIRST_SHARE = 0.8  # of the image, covered by the first square, as in AutoAttack (Croce and Hein, ICML 2020)
_HALVINGS = np.array([10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]) / 10_000  # of the budget; the share halves
_LEAST_SIDE = {Norm.LINF: 1, Norm.L2: 3}
_TILES = 5  # each way, of the pattern an L2 attack begins with

_Window = tuple[NDArray[np.int64], slice, NDArray[np.int64], NDArray[np.int64]]
_Values = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Square:
    """The attack: a random change of a square stays if it lowers the margin; squares shrink as the budget is spent.

    Under an Linf bound a square has one colour, at the bound; the attack begins with vertical stripes. Under an L2
    bound, what lies in one square is moved to another, together with what the bound has left. An image that is
    answered wrong is sent no more. Every image has squares of its own.

    Attributes:
        target: the file under attack.
        norm: of the bound.
        queries: budget an image.
    """

    target: Target
    norm: Norm
    queries: int

    def __post_init__(self) -> None:
        if self.queries < LEAST_QUERIES:
            raise OptionError(f"{self.queries} queries: the Square attack needs {LEAST_QUERIES} or more an image")

    def __call__(self, pixels: Pixels, labels: Labels, radius: float, seed: int) -> Tried:
        """Attack images, as `target.Attack` says.

        Raises:
            DataError: if the images are so small that no square can move.
        """
        last = self.target.channels_last
        start = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)) if last else pixels
        best, spent = self._search(start, labels, radius, np.random.default_rng(seed))
        return Tried(pixels=np.ascontiguousarray(best.transpose(0, 2, 3, 1)) if last else best, queries=spent)

    def _search(
        self, start: Pixels, labels: Labels, radius: float, rng: np.random.Generator
    ) -> tuple[Pixels, NDArray[np.int64]]:
        """Attack images [N, C, H, W]; return what became of them, and what was spent on each."""
        begin, change = _MOVES[self.norm]
        _check_room(start, self.norm)
        best, lowest = start.copy(), self._margins(start, labels)
        spent = np.ones(len(start), dtype=np.int64)
        for query in range(1, self.queries):
            left = np.flatnonzero(lowest >= 0)
            if not len(left) or radius <= 0:
                break
            if query == 1:
                tried = begin(start[left], radius, rng)
            else:
                side = _side((query - 2) / (self.queries - 2), start.shape[2:], self.norm)
                tried = change(best[left], start[left], side, radius, rng)
            found = self._margins(tried, labels[left])
            spent[left] += 1
            better = found < lowest[left]
            best[left[better]], lowest[left[better]] = tried[better], found[better]
        return best, spent

    def _margins(self, images: Pixels, labels: Labels) -> NDArray[np.float64]:
        sent = np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if self.target.channels_last else images
        return margin(self.target.scores(sent), labels)


def _side(progress: float, size: tuple[int, ...], norm: Norm) -> int:
    """Return the side of a square, in pixels, when a share `progress` of the budget is spent."""
    share = _FIRST_SHARE * 0.5 ** int(np.searchsorted(_HALVINGS, progress))
    side = max(round(math.sqrt(share * size[0] * size[1])), _LEAST_SIDE[norm])
    return min(side, min(size) - 1)


def _check_room(images: Pixels, norm: Norm) -> None:
    height, width = images.shape[2:]
    least = 2 if norm is Norm.LINF else 2 * _TILES
    if min(height, width) < least:
        raise DataError(
            f"images of {height}x{width} pixels leave the Square attack no room: {least} each way are needed"
        )


def _signs(rng: np.random.Generator, *shape: int) -> _Values:
    return rng.integers(0, 2, shape).astype(np.float32) * 2 - 1


def _windows(rng: np.random.Generator, images: Pixels, side: int) -> _Window:
    """Return an index that picks a random square of each image: [N, C, H, W] -> [N, side, side, C]."""
    count, _, height, width = images.shape
    top, left = rng.integers(0, height - side + 1, count), rng.integers(0, width - side + 1, count)
    rows, columns = top[:, None] + np.arange(side), left[:, None] + np.arange(side)
    return np.arange(count)[:, None, None], slice(None), rows[:, :, None], columns[:, None, :]


def _stripes(images: Pixels, radius: float, rng: np.random.Generator) -> Pixels:
    count, channels, _, width = images.shape
    return np.clip(images + np.float32(radius) * _signs(rng, count, channels, 1, width), 0.0, 1.0)


def _recolour(best: Pixels, start: Pixels, side: int, radius: float, rng: np.random.Generator) -> Pixels:
    """Give a random square of each image one colour, at the Linf bound (algorithm 2)."""
    tried, window = best.copy(), _windows(rng, best, side)
    colour = np.float32(radius) * _signs(rng, len(best), 1, 1, best.shape[1])
    tried[window] = np.clip(start[window] + colour, 0.0, 1.0)
    return tried


def _pyramid(height: int, width: int) -> _Values:
    """Return a hill of square rings that falls off with the distance from the middle (equation 2)."""
    middle = (height // 2, width // 2)
    steps = max(middle) + 1
    rings = np.cumsum(1.0 / np.arange(1, steps + 1)[::-1] ** 2)[::-1]  # of ring d: the sum over k > d of 1 / k^2
    rows, columns = np.abs(np.arange(height) - middle[0]), np.abs(np.arange(width) - middle[1])
    hill: _Values = rings[np.maximum(rows[:, None], columns[None, :])].astype(np.float32)
    return hill


def _pattern(side: int, rng: np.random.Generator, count: int) -> _Values:
    """Return a hill beside a valley of the same height, norm 1, lying or standing at random: [count, side, side, 1]."""
    half = side // 2
    whole = np.concatenate([_pyramid(half, side), -_pyramid(side - half, side)])
    whole /= np.linalg.norm(whole)
    stands = rng.integers(0, 2, count).astype(bool)[:, None, None]
    chosen: _Values = np.where(stands, whole.T, whole)[..., None]
    return chosen


def _tiles(images: Pixels, radius: float, rng: np.random.Generator) -> Pixels:
    """Cover images with patterns of random sign, scaled to the L2 bound."""
    count, channels, height, width = images.shape
    side = min(height, width) // _TILES
    change = np.zeros((count, height, width, channels), dtype=np.float32)
    for top in range(0, height - side + 1, side):
        for left in range(0, width - side + 1, side):
            signs = _signs(rng, count, 1, 1, channels)
            change[:, top : top + side, left : left + side] = _pattern(side, rng, count) * signs
    return _within(images, change.transpose(0, 3, 1, 2), radius)


def _move(best: Pixels, start: Pixels, side: int, radius: float, rng: np.random.Generator) -> Pixels:
    """Move what is in one random square of each image to another, up to the L2 bound (algorithm 3)."""
    side += 1 - side % 2  # the paper's squares have a middle
    change = best - start
    source, destination = _windows(rng, best, side), _windows(rng, best, side)
    unused = np.maximum(radius**2 - _energy(change, (1, 2, 3)), 0.0) / best.shape[1]
    held = change.copy()
    held[source] = held[destination] = 0.0
    freed = (_energy(change, (2, 3)) - _energy(held, (2, 3))).transpose(0, 2, 3, 1)
    there = change[destination]
    pattern = _pattern(side, rng, len(best)) * _signs(rng, len(best), 1, 1, best.shape[1])
    new = pattern + there / np.maximum(np.sqrt(_energy(there, (1, 2))), 1e-9)
    new *= np.sqrt(np.maximum(freed, 0.0) + unused) / np.maximum(np.sqrt(_energy(new, (1, 2))), 1e-9)
    held[destination] = new
    return _within(start, held, radius)


def _energy(values: NDArray[Any], axes: tuple[int, ...]) -> _Values:
    energy: _Values = (values**2).sum(axis=axes, keepdims=True)
    return energy


def _within(start: Pixels, change: _Values, radius: float) -> Pixels:
    """Return images changed by exactly the L2 radius, and then cut to [0, 1], which brings them nearer."""
    size = np.maximum(np.sqrt(_energy(change, (1, 2, 3))), 1e-9)
    return np.clip(start + change * (np.float32(radius) / size), 0.0, 1.0)


_MOVES = {Norm.LINF: (_stripes, _recolour), Norm.L2: (_tiles, _move)}
