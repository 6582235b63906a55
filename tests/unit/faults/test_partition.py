"""Parts of the images: each image as likely as any other, drawn by what a fault hits alone."""

from fractions import Fraction

import numpy as np
import pytest

from resq_deploy.faults.fault import Edit, Op, Share
from resq_deploy.faults.partition import Partition


def flip(index: int, tensor: str = "weight", bit: int = 3, op: Op = Op.FLIP) -> list[Edit]:
    return [Edit.of(tensor, [index], [bit], op)]


@pytest.mark.parametrize(("images", "size", "parts"), [(100, 20, 5), (101, 20, 6), (7, 3, 3), (5, 5, 1), (3, 1, 3)])
def test_images_are_cut_into_the_fewest_parts_of_nearly_one_size(images, size, parts):
    partition = Partition.of(images, size)
    held = [partition.part(number) for number in range(partition.parts)]
    lengths = [part.stop - part.start for part in held]
    assert partition.parts == parts
    assert [row for part in held for row in range(images)[part]] == list(range(images))
    assert max(lengths) == partition.size <= size
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("parts", [0, 8])
def test_no_part_is_empty(parts):
    with pytest.raises(ValueError, match="7 images cannot be cut"):
        Partition(images=7, parts=parts)


@pytest.mark.parametrize("images", [7, 12, 101])
@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_mean_over_a_share_is_unbiased_exactly(images, size, count):
    """By enumeration over all shares, with whole numbers, for figures that differ from image to image."""
    partition = Partition.of(images, size)
    count = min(count, partition.parts)
    figures = np.random.default_rng(images).integers(0, 1000, images)
    sizes = partition.sizes(count)
    expected = Fraction(0)
    for first in range(partition.parts):
        rows = partition.rows(Share(first, count))
        assert len(rows) == len(set(rows.tolist())) == sizes[first]
        chance = Fraction(int(sizes[first]), int(sizes.sum()))
        expected += chance * Fraction(int(figures[rows].sum()), len(rows))
    assert expected == Fraction(int(figures.sum()), images)


def test_shares_are_drawn_as_often_as_they_have_images():
    partition, drawn = Partition(images=11, parts=4), 8000  # parts of 3, 3, 3 and 2
    firsts = [partition.draw(flip(index), 0, 2).first for index in range(drawn)]
    expected = drawn * partition.sizes(2) / partition.sizes(2).sum()
    found = np.bincount(firsts, minlength=4)
    assert (abs(found - expected) < 4 * np.sqrt(expected)).all()
    assert abs(found - drawn / 4).max() > 4 * np.sqrt(drawn / 4)  # and not as often as each other


def test_a_share_belongs_to_seed_and_fault_alone():
    partition = Partition(images=100_000, parts=50_000)
    share = partition.draw(flip(5), 0, 1)
    assert partition.draw(flip(5), 0, 1) == share
    assert partition.draw(flip(5, op=Op.SET1), 0, 1) == share
    others = [flip(6), flip(5, bit=2), flip(5, tensor="bias"), flip(5) + flip(6)]
    assert all(partition.draw(other, 0, 1) != share for other in others)
    assert partition.draw(flip(5), 1, 1) != share


def test_larger_shares_hold_the_smaller_ones():
    partition = Partition.of(1000, 20)
    for index in range(50):
        small, large = (partition.rows(partition.draw(flip(index), 0, count)) for count in (2, 5))
        assert set(small) <= set(large)


@pytest.mark.parametrize("count", [4, 5])
def test_as_many_parts_as_there_are_hold_all_images_in_their_order(count):
    partition = Partition(images=11, parts=4)
    share = partition.draw(flip(1), 0, count)
    assert share == partition.whole() == Share(0, 4)
    assert partition.rows(share).tolist() == list(range(11))


def test_a_share_goes_on_from_the_last_part_to_the_first():
    assert Partition(images=7, parts=3).rows(Share(2, 2)).tolist() == [5, 6, 0, 1, 2]


def test_a_partition_is_one_part_unless_said_otherwise():
    assert Partition(images=7).part(0) == slice(0, 7)
    assert Partition(images=7).whole() == Share(0, 1)
