import pytest
import torch

from resq_deploy.errors import OptionError
from resq_deploy.hardening.augment import augment


def seeded():
    return torch.Generator().manual_seed(1)


@pytest.fixture
def numbered():
    """Each pixel holds its own column and row."""
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    return torch.stack([rows, columns, rows * 0], -1).to(torch.uint8).repeat(200, 1, 1, 1)


@pytest.mark.parametrize(("kind", "largest"), [("crop", 4), ("crop-flip", 4), ("translate", 2)])
def test_images_are_shifted_within_bounds_and_mirrored_only_if_asked(numbered, kind, largest):
    found = augment(numbered, kind, seeded())
    assert found.dtype == torch.uint8
    assert found.shape == numbered.shape
    rows = found[:, 16, 16, 0].int() - 16
    assert rows.min() == -largest
    assert rows.max() == largest
    columns = found[:, 16, :, 1].int()
    mirrored = columns[:, 0] > columns[:, -1]
    assert mirrored.any() == (kind == "crop-flip")
    assert not mirrored.all()
    steps = torch.where(mirrored[:, None], -columns.diff(), columns.diff())
    assert set(steps[:, 5:-5].unique().tolist()) == {1}


def test_pixels_beyond_the_edge_repeat_it(numbered):
    found = augment(numbered, "crop", seeded())
    shift = found[:, 16, 16, 0].int() - 16
    lowest = found[int(shift.argmax()), :, 0, 0]
    assert lowest[-4:].tolist() == [31] * 4


def test_the_same_seed_gives_the_same_images_of_any_type(numbered):
    first = augment(numbered, "crop-flip", seeded())
    assert torch.equal(first, augment(numbered, "crop-flip", seeded()))
    assert torch.equal(first.float(), augment(numbered.float(), "crop-flip", seeded()))
    assert not torch.equal(first, augment(numbered, "crop-flip", torch.Generator().manual_seed(2)))


def test_none_changes_nothing_and_the_unknown_is_refused(numbered):
    assert augment(numbered, "none", seeded()) is numbered
    with pytest.raises(OptionError, match="unknown augmentation 'blur'"):
        augment(numbered, "blur", seeded())
