"""Which images each fault is judged on: its share, a few neighbouring parts of a fixed partition.

The images of a campaign lie in a fixed random order and are cut into parts of nearly the same size, which engines run
as batches. Parts are in a ring. A fault's share is `count` neighbouring parts, of which one number says all: the first.
It is drawn with a probability proportional to the share's size, by the seed and the fault's tensors, indices and bits
alone. Two files therefore meet the same faults on the same images, and neither order, resuming nor workers change them.

Unbiased: let x_i be what a fault does to image i of N, n_s the images of the share that begins at part s, and P the
number of parts. Each part lies in `count` shares, so that sum_s n_s = count N, and share s is drawn with probability
n_s / (count N). The mean over the share then has the expectation

    sum_s n_s / (count N) * (1 / n_s) sum_{i in s} x_i = sum_s sum_{i in s} x_i / (count N) = (1 / N) sum_i x_i,

each image being counted `count` times: the mean over all images, whatever the sizes of the parts, and in [0, 1].
Source: Cochran, Sampling Techniques (1977), ch. 9A and 10: clusters drawn with probability proportional to size.
"""

import dataclasses
import functools
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from resq_deploy.faults import draws
from resq_deploy.faults.fault import Edit, Share

_WORD = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Partition:
    """A row of images cut into parts of which no two differ by more than one image, the larger ones first.

    Attributes:
        images: how many there are.
        parts: into how many parts they are cut.

    Raises:
        ValueError: if there are more parts than images, or none.
    """

    images: int
    parts: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.parts <= self.images:
            raise ValueError(f"{self.images} images cannot be cut into {self.parts} parts")

    @classmethod
    def of(cls, images: int, size: int) -> "Partition":
        """Return the partition of so many images into the fewest parts of at most `size` images."""
        return cls(images=images, parts=-(-images // size))

    @property
    def size(self) -> int:
        """How many images the largest parts have."""
        return -(-self.images // self.parts)

    def part(self, number: int) -> slice:
        """Return which images a part holds."""
        small, larger = divmod(self.images, self.parts)
        start = number * small + min(number, larger)
        return slice(start, start + small + (number < larger))

    def whole(self) -> Share:
        """Return the share that holds all images."""
        return Share(0, self.parts)

    def numbers(self, share: Share) -> list[int]:
        """Return the parts of a share, in the order of the ring from its first."""
        return [(share.first + step) % self.parts for step in range(share.parts)]

    def rows(self, share: Share) -> NDArray[np.int64]:
        """Return the images of a share, in the order of its parts, shape [n]."""
        parts = [self.part(number) for number in self.numbers(share)]
        return np.concatenate([np.arange(part.start, part.stop) for part in parts])

    def sizes(self, count: int) -> NDArray[np.int64]:
        """Return how many images the share of `count` parts has that begins at each part, shape [parts]."""
        of_part = np.full(self.parts, self.images // self.parts, dtype=np.int64)
        of_part[: self.images % self.parts] += 1
        ring = np.concatenate([[0], np.cumsum(np.tile(of_part, 1 + -(-count // self.parts)))])
        starts = np.arange(self.parts)
        sizes: NDArray[np.int64] = ring[starts + count] - ring[starts]
        return sizes

    def draw(self, edits: Iterable[Edit], seed: int, count: int) -> Share:
        """Return the share of a fault, by what it hits: operation and value do not count.

        One random word w places the share: it begins at part s where floor(w count N / 2^64) lies among the images of
        s, were those of all shares laid end to end. Shares of more parts therefore begin where those of fewer do, but
        for faults next to a bound where parts are not all of one size. (A share's probability is off by 2^-64 at most.)

        Args:
            edits: of the fault.
            seed: of the campaign's drawing.
            count: parts of a share; all images where the partition has no more.
        """
        if count >= self.parts:
            return self.whole()
        places = [part for edit in edits for part in (edit.tensor, edit.index.tolist(), edit.bit.tolist())]
        word = int(draws.stream("images", seed, *places).random_raw(1)[0])
        ends = _ends(self, count)
        return Share(int(np.searchsorted(ends, (word * int(ends[-1])) >> _WORD, side="right")), count)


@functools.lru_cache(maxsize=64)
def _ends(partition: Partition, count: int) -> NDArray[np.int64]:
    """Return where the shares of `count` parts end, were they laid end to end; the same for all faults of a phase."""
    ends: NDArray[np.int64] = np.cumsum(partition.sizes(count))
    ends.flags.writeable = False
    return ends
