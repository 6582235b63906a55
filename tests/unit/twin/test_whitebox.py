"""White-box attacks stay within their balls, find what there is to find, and give the same images for a seed."""

import pathlib

import numpy as np
import pytest
import torch

from resq_deploy.data import load_dataset
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.errors import DataError, OptionError
from resq_deploy.twin import read_twin, whitebox

REFERENCE = pathlib.Path(__file__).parents[3] / "models" / "resnet8-digits-baseline.int8.onnx"
ATTACKS = {"pgd": whitebox.pgd, "apgd": whitebox.apgd}
RADII = {"linf": 0.1, "l2": 1.0}
ROOM = 1e-5  # a float32 sum in [0, 1] may be off by its last bit


@pytest.fixture(scope="module")
def digits():
    """The twin of a reference model with 12 images it answers right."""
    model = DeployedModel.load(REFERENCE)
    twin = read_twin(model)
    test = load_dataset("digits").evaluation(30)
    images = twin.input.prepare(test.images)
    right = answers(twin, images) == test.labels
    return twin, images[right][:12], test.labels[right][:12]


def answers(network, images):
    with torch.no_grad():
        return network(torch.from_numpy(images)).argmax(1).numpy()


def length(change, norm):
    flat = change.reshape(len(change), -1)
    return np.abs(flat).max() if norm == "linf" else np.linalg.norm(flat, axis=1).max()


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_on_an_int8_file(attack, norm, digits):
    twin, images, labels = digits
    before = images.copy()
    found = ATTACKS[attack](twin, images, labels, epsilon=RADII[norm], norm=norm, steps=5, seed=0)
    assert found.dtype == np.float32
    assert found.shape == images.shape
    assert 0.0 <= found.min() <= found.max() <= 1.0
    assert 0.5 * RADII[norm] < length(found - images, norm) <= RADII[norm] + ROOM
    assert (answers(twin, found) == labels).mean() < 0.7
    np.testing.assert_array_equal(images, before)
    again = ATTACKS[attack](twin, images, labels, epsilon=RADII[norm], norm=norm, steps=5, seed=0)
    np.testing.assert_array_equal(found, again)


@pytest.mark.parametrize("attack", ATTACKS)
def test_global_random_state_and_gradients_are_left_alone(attack, digits):
    _, images, labels = digits
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - the state that must stay
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images[0].size, 10))
    ATTACKS[attack](network, images, labels, epsilon=0.1, norm="linf", steps=2, seed=3)
    torch.set_rng_state(state)  # the layer's own initialisation drew from it
    ATTACKS[attack](network, images, labels, epsilon=0.1, norm="linf", steps=2, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numbers)  # noqa: NPY002 - as above
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("attack", ATTACKS)
def test_the_optimum_of_a_linear_classifier_is_found(attack, norm):
    """Two classes and one direction: the margin shrinks by the radius times the weight's dual norm."""
    weight = torch.tensor([0.3, -0.2, 0.1, 0.4])

    def network(images):
        score = images.flatten(1) @ weight
        return torch.stack([score, -score], dim=1)

    images, labels = np.full((3, 1, 2, 2), 0.5, np.float32), np.zeros(3, np.int64)
    found = ATTACKS[attack](network, images, labels, epsilon=0.05, norm=norm, steps=20, seed=1)
    drop = (images - found).reshape(3, -1) @ weight.numpy()
    best = 0.05 * float(weight.abs().sum() if norm == "linf" else weight.norm())
    np.testing.assert_allclose(drop, best, rtol=0.02)


def test_confident_answers_do_not_hide_the_gradient():
    """Logits so far apart that a float32 softmax is exactly 0 and 1."""

    def network(images):
        score = 400 * (images.flatten(1).mean(1) - 0.4)
        return torch.stack([score, -score], dim=1)

    images, labels = np.full((2, 1, 2, 2), 0.5, np.float32), np.zeros(2, np.int64)
    found = whitebox.pgd(network, images, labels, epsilon=0.2, norm="linf", steps=10, seed=0)
    assert (answers(network, found) != labels).all()


def test_restarts_go_on_with_what_is_left():
    """A classifier that only gives way near one corner, which a start must be close to."""
    calls = []

    def network(images):
        calls.append(len(images))
        inside = (images.flatten(1) > 0.56).float().mean(1)
        score = torch.where(inside > 0.7, -1.0, 1.0) + 0 * images.flatten(1).sum(1)
        return torch.stack([score, -score], dim=1)

    images, labels = np.full((20, 1, 1, 2), 0.5, np.float32), np.zeros(20, np.int64)
    one = whitebox.pgd(network, images, labels, epsilon=0.1, norm="linf", steps=1, seed=0, restarts=1)
    calls.clear()
    many = whitebox.pgd(network, images, labels, epsilon=0.1, norm="linf", steps=1, seed=0, restarts=60)
    fooled = [int((answers(network, found) != labels).sum()) for found in (one, many)]
    assert fooled[0] < fooled[1]
    assert calls[-1] == 20  # the judgement above
    assert min(calls) < 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 0.0}, "radius 0.0: give one above 0"),
        ({"norm": "l1"}, "norm 'l1': give linf or l2"),
        ({"steps": 0}, "0 steps, 1 restarts"),
        ({"restarts": 0}, "5 steps, 0 restarts"),
    ],
    ids=["radius", "norm", "steps", "restarts"],
)
@pytest.mark.parametrize("attack", ATTACKS)
def test_options_that_make_no_sense(attack, changes, message):
    images, labels = np.zeros((1, 1, 2, 2), np.float32), np.zeros(1, np.int64)
    options = {"epsilon": 0.1, "norm": "linf", "steps": 5, "seed": 0, **changes}
    with pytest.raises(OptionError, match=message):
        ATTACKS[attack](torch.nn.Flatten(), images, labels, **options)


@pytest.mark.parametrize(
    "images",
    [np.zeros((0, 1, 2, 2), np.float32), np.full((1, 1, 2, 2), 255.0, np.float32), np.zeros((1, 1, 2, 2), np.uint8)],
    ids=["none", "levels", "bytes"],
)
def test_images_that_are_none(images):
    with pytest.raises(DataError, match=r"^an attack needs [^\n]+$"):
        whitebox.pgd(torch.nn.Flatten(), images, np.zeros(len(images), np.int64), epsilon=1, norm="l2", steps=1, seed=0)
