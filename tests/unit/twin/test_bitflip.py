import dataclasses
import itertools
import pathlib

import numpy as np
import pytest

from resq_deploy.data import load_dataset
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import Role, Surface
from resq_deploy.errors import OptionError
from resq_deploy.faults.fault import Edit, Fault
from resq_deploy.faults.outcomes import top1
from resq_deploy.twin import read_twin
from resq_deploy.twin.bitflip import BitSearch, Prey, find_prey
from resq_deploy.twin.flip_objective import AttackBatch

QUANTIZED = (
    "cnn-qdq-channel-s8",
    "cnn-qdq-channel-s8-shifted",
    "cnn-qdq-tensor-u8",
    "cnn-qoperator-channel-s8",
    "cnn-qoperator-tensor-u8",
    "attention-qdq-tensor-u8",
    "constants",
)
REFERENCE = pathlib.Path(__file__).parents[3] / "models" / "resnet8-digits-baseline.int8.onnx"


def scores(file, images):
    return Session(file, Deployment()).run(images)


def cross_entropy(logits, labels, ceiling=np.inf):
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
    return float(np.minimum(losses, ceiling).mean())


@pytest.fixture
def attack(model_file, models):
    """Return a function that opens a file of the kinds of models.py for attack on its own answers."""

    def open_file(name, roles=(Role.WEIGHT,), **wanted):
        model = DeployedModel.load(model_file(name))
        images = models.images(24)
        answers = top1(scores(model.patcher().golden, images))
        twin = read_twin(model)
        prey = find_prey(model, twin, roles)
        batch = AttackBatch(images=images, labels=answers, **wanted)
        search = BitSearch(model, twin, prey, batch, deployment=Deployment(), workers=2)
        return model, search, images, answers

    return open_file


@pytest.mark.parametrize("name", QUANTIZED)
def test_each_step_raises_the_loss_that_the_session_has(attack, name):
    model, search, images, answers = attack(name, loss="cross-entropy")
    losses = [cross_entropy(scores(model.patcher().golden, images), answers)]
    done = []
    for step in itertools.islice(search.steps(), 4):
        done += step.flips
        losses.append(cross_entropy(scores(search.file(done), images), answers))
        assert step.loss == pytest.approx(losses[-1], rel=1e-6)
        assert step.twin_loss == pytest.approx(step.loss, rel=1e-3)
    assert len(losses) > 1
    assert losses == sorted(set(losses))
    assert len(set(done)) == len(done)
    flipped = {flip.tensor for flip in done}
    assert {surface.role for surface in model.surfaces if surface.tensor in flipped} == {Role.WEIGHT}


def digits_attack(path, loss):
    """A search on the digits file: with its images, their labels, and their scores without a flip."""
    model, batch = DeployedModel.load(path), load_dataset("digits").calibration(64, 0)
    session = Session(model.patcher().golden, Deployment())
    images, twin = session.input.prepare(batch.images), read_twin(model)
    sample = AttackBatch(images=images, labels=batch.labels, loss=loss)
    search = BitSearch(model, twin, find_prey(model, twin, (Role.WEIGHT,)), sample, deployment=Deployment())
    return search, images, batch.labels, session.run(images)


def test_an_image_that_is_lost_counts_up_to_a_uniform_answer(digits_int8):
    search, images, labels, before = digits_attack(digits_int8, "capped")
    done, fallen = [], 0
    for step in itertools.islice(search.steps(), 4):
        done += step.flips
        after, standing = scores(search.file(done), images), top1(before) == labels
        ceiling = np.where(standing, np.inf, np.log(10))
        assert cross_entropy(after, labels, ceiling) > cross_entropy(before, labels, ceiling)
        assert step.loss == pytest.approx(cross_entropy(after, labels), rel=1e-6)
        fallen += (standing & (top1(after) != labels)).sum()
        before = after
    assert fallen > 10


def test_once_half_of_the_margin_is_lost_images_are_gathered_in_one_class(digits_int8):
    search, images, labels, before = digits_attack(digits_int8, "gathered")
    done, gathered = [], 0
    half = ((top1(before) == labels).mean() + np.bincount(labels).max() / len(labels)) / 2
    for step in itertools.islice(search.steps(), 12):
        done += step.flips
        after = scores(search.file(done), images)
        if (top1(before) == labels).mean() <= half:
            commonest = np.full_like(labels, np.bincount(top1(before)).argmax())
            assert cross_entropy(after, commonest) < cross_entropy(before, commonest)
            gathered += 1
        else:
            assert cross_entropy(after, labels) > cross_entropy(before, labels)
        before = after
    assert gathered > 3
    assert np.bincount(top1(before)).max() > 0.9 * len(labels)


def test_the_flip_that_is_kept_is_the_worst_of_those_tried(attack):
    """With one bit a tensor, no other tensor's best bit would have done more."""
    model, search, images, answers = attack("cnn-qdq-channel-s8", loss="capped")
    first = next(search.steps())
    (flip,) = first.flips
    others = [surface for surface in model.surfaces if surface.role is Role.WEIGHT and surface.tensor != flip.tensor]
    assert first.trials == len(others) + 1
    assert others
    kept = cross_entropy(scores(search.file(first.flips), images), answers)
    for surface in others:
        twin = read_twin(model)
        (own,) = (prey for prey in find_prey(model, twin, (Role.WEIGHT,)) if prey.surface == surface)
        batch = AttackBatch(images=images, labels=answers, loss="capped")
        alone = BitSearch(model, twin, [own], batch, deployment=Deployment())
        assert next(alone.steps()).loss <= kept == pytest.approx(first.loss)


@pytest.mark.parametrize("name", ["cnn-qdq-channel-s8", "cnn-qoperator-channel-s8"])
def test_the_bits_of_uint8_codes_are_found_as_those_of_int8_codes_are(attack, name):
    steps = [list(itertools.islice(attack(kind)[1].steps(), 4)) for kind in (name, f"{name}-shifted")]
    assert steps[0] == steps[1]
    assert len(steps[0]) == 4


def test_going_on_is_the_same_as_never_having_stopped(attack):
    _, search, _, _ = attack("cnn-qoperator-tensor-u8")
    whole = list(itertools.islice(search.steps(), 4))
    head = [flip for step in whole[:2] for flip in step.flips]
    assert list(itertools.islice(search.steps(head), 2)) == whole[2:]


@pytest.mark.parametrize("role", [Role.BIAS, Role.WEIGHT_SCALE, Role.ACTIVATION_ZERO_POINT])
def test_other_roles_can_be_attacked(attack, role):
    model, search, _, _ = attack("cnn-qdq-channel-s8", roles=(role,))
    step = next(search.steps())
    roles = {surface.tensor: surface.role for surface in model.surfaces}
    assert {roles[flip.tensor] for flip in step.flips} == {role}


def test_all_images_can_be_sent_to_one_class(attack):
    model, search, images, _ = attack("cnn-qdq-tensor-u8", target=3)
    before = (top1(scores(model.patcher().golden, images)) == 3).mean()
    done = [flip for step in itertools.islice(search.steps(), 8) for flip in step.flips]
    assert (top1(scores(search.file(done), images)) == 3).mean() > max(before, 0.5)


def test_a_voted_bit_takes_two_flips(attack):
    """One copy alone is outvoted, whatever the gradient through the vote says."""
    model, search, images, _ = attack("guarded", roles=(Role.WEIGHT,))
    step = next(search.steps())
    one, two = step.flips
    assert {one.tensor, two.tensor} == {"w1", "w2"}
    assert (one.index, one.bit) == (two.index, two.bit)
    golden = scores(model.patcher().golden, images)
    patcher = model.patcher()
    single = Fault(0, (Edit.of(one.tensor, [one.index], [one.bit]),))
    np.testing.assert_array_equal(scores(patcher.apply(patcher.masks(single)), images), golden)
    assert (scores(search.file(step.flips), images) != golden).any()


def flippable(surfaces, share=0.02, seed=0):
    """A fault list of bits that can be flipped, some in every tensor."""
    rng = np.random.default_rng(seed)
    faults = []
    for surface in surfaces:
        index, bit = np.nonzero(rng.random((surface.elements, surface.width)) < share)
        faults.append(Fault(len(faults), (Edit.of(surface.tensor, index, bit),)))
    return faults


def test_an_attacker_with_a_template_flips_nothing_else(model_file, models):
    model = DeployedModel.load(model_file("cnn-qdq-channel-s8"))
    images = models.images(24)
    twin = read_twin(model)
    named = flippable(model.surfaces)
    prey = find_prey(model, twin, (Role.WEIGHT,), named)
    batch = AttackBatch(images=images, labels=top1(scores(model.patcher().golden, images)))
    search = BitSearch(model, twin, prey, batch, deployment=Deployment(), workers=1)
    flips = {(flip.tensor, flip.index, flip.bit) for step in itertools.islice(search.steps(), 4) for flip in step.flips}
    allowed = {
        (edit.tensor, int(index), int(bit))
        for fault in named
        for edit in fault.edits
        for index, bit in zip(edit.index, edit.bit, strict=True)
    }
    assert flips
    assert flips <= allowed


def test_of_a_vote_any_two_copies_do():
    three = ("a", "b", "c")
    surface = Surface(tensor="a", role=Role.BIAS, layer="l", dtype="int8", shape=(2,), width=8)
    template = {name: np.zeros((2, 8), dtype=bool) for name in three}
    template["a"][0, 1] = template["c"][0, 1] = True
    template["b"][1, 7] = template["c"][1, 7] = True
    template["a"][1, 3] = True  # one copy alone is outvoted
    prey = Prey(surface=surface, flipped=("a", "b"), read=three, template=template)
    assert np.argwhere(prey.allowed).tolist() == [[0, 1], [1, 7]]
    assert prey.places(0, 1) == ("a", "c")
    assert prey.places(1, 7) == ("b", "c")


@pytest.mark.parametrize(
    ("named", "message"),
    [([], "--flippable names no bit that the attack could use"), (None, "stores nothing to attack in float")],
)
def test_no_bit_to_flip_is_one_line(model_file, named, message):
    model = DeployedModel.load(model_file("cnn-qdq-tensor-u8"))
    with pytest.raises(OptionError, match=message):
        find_prey(model, read_twin(model), (Role.FLOAT if named is None else Role.WEIGHT,), named)


def test_nothing_to_attack_is_one_line(model_file):
    model = DeployedModel.load(model_file("cnn-qdq-tensor-u8"))
    with pytest.raises(OptionError, match=r"stores nothing to attack in float; it stores .*weight"):
        find_prey(model, read_twin(model), (Role.FLOAT,))


def test_a_few_chosen_flips_do_what_random_ones_do_not():
    dataset = load_dataset("digits")
    model = DeployedModel.load(REFERENCE)
    session = Session(model.patcher().golden, Deployment())
    batch, test = dataset.calibration(64, 0), dataset.evaluation(200)
    inputs = session.input.prepare(test.images)
    twin = read_twin(model)
    prey = find_prey(model, twin, (Role.WEIGHT,))
    sample = AttackBatch(images=session.input.prepare(batch.images), labels=batch.labels)
    search = BitSearch(model, twin, prey, sample, deployment=Deployment())
    done = [flip for step in itertools.islice(search.steps(), 6) for flip in step.flips]

    def accuracy(file):
        return (top1(scores(file, inputs)) == test.labels).mean()

    rng = np.random.default_rng(0)
    surfaces = {one.surface.tensor: one.surface for one in prey}
    random = [
        dataclasses.replace(flip, index=int(rng.integers(surfaces[flip.tensor].elements)), bit=7) for flip in done
    ]
    golden = accuracy(model.patcher().golden)
    assert accuracy(search.file(random)) > golden - 0.25
    assert accuracy(search.file(done)) < golden - 0.5
