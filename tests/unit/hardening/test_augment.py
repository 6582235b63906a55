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


def test_photographs_are_turned_zoomed_and_lit_each_in_its_own_way(numbered):
    found = augment(numbered, "photo", seeded())
    assert found.dtype == torch.uint8
    assert found.shape == numbered.shape
    assert torch.equal(found, augment(numbered, "photo", seeded()))
    assert not torch.equal(found[0], found[1])
    flat = torch.full((300, 16, 16, 3), 100, dtype=torch.uint8)
    light = augment(flat, "photo", seeded())
    assert (light == light[:, :1, :1]).all()  # moving changes nothing of a grey wall, light does, evenly
    assert 60 <= light.min() < 65
    assert 135 < light.max() <= 140


def test_a_photograph_is_never_the_mirror_image():
    images = torch.zeros(400, 32, 32, 1, dtype=torch.uint8)
    images[:, 12:20, 18:] = 200
    found = augment(images, "photo", seeded()).float()[..., 0]
    assert (found[:, :, 16:].sum((1, 2)) > found[:, :, :16].sum((1, 2))).all()


def test_light_needs_to_know_what_white_is(numbered):
    with pytest.raises(OptionError, match="needs uint8 images: these are floats; give crop"):
        augment(numbered.float(), "photo", seeded())
