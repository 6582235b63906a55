"""The twin of a protected file, and what the bit-flip attack must pay on it."""

import csv
import itertools
import json
import pathlib

import numpy as np
import pytest
import torch

from resq_deploy.codes.words import Status, left_by_flips
from resq_deploy.data import load_dataset
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import OptionError
from resq_deploy.faults.fault import Edit, Fault
from resq_deploy.faults.outcomes import top1
from resq_deploy.pipeline.attack_options import AttackOptions
from resq_deploy.pipeline.bit_flip import BitFlipAttack
from resq_deploy.pipeline.bit_flip_options import BitFlipOptions
from resq_deploy.twin import agreement, read_twin
from resq_deploy.twin.bitflip import BitSearch, find_prey
from resq_deploy.twin.coded_flips import CodedFlips
from resq_deploy.twin.flip_gains import Flip
from resq_deploy.twin.flip_objective import AttackBatch

REFERENCE = pathlib.Path(__file__).parents[3] / "models" / "resnet8-digits-baseline.int8.onnx"
FORMS = {
    "QDQ": ("cnn-qdq-channel-s8", ("secded", 7)),
    "QOperator, dected": ("cnn-qoperator-channel-s8", ("dected", 7)),
    "6 bits": ("attention-qdq-channel-s8", ("dected", 6)),
    "uint8": ("cnn-qdq-tensor-u8", ("secded", 7)),
}


@pytest.fixture(params=FORMS)
def pair(request, protected_file):
    name, kind = FORMS[request.param]
    return tuple(map(DeployedModel.load, protected_file(name, kind)))


def bits(group, flips):
    return np.array([8 * (group.stored[flip.tensor] + flip.index) + flip.bit for flip in flips], dtype=np.int64)


def numbers(group, flips):
    """The weights of a group as numbers, with some stored bits flipped."""
    values, found = group.values.copy(), left_by_flips(group.code, bits(group, flips))
    values[found.index] ^= group.as_read(found.change)
    return (values if group.unsigned else values.view(np.int8)).astype(float)


def slopes_of(group, seed=0):
    random = np.random.default_rng(seed)
    return {weight.weight: random.standard_normal(weight.count) for weight in group.weights}


def gain(group, slopes, before, flips):
    """What flips gain beside others, to first order, by decoding."""
    change = numbers(group, [*before, *flips]) - numbers(group, before)
    return sum(
        float(slopes[weight.weight] @ change[weight.start : weight.start + weight.count])
        for weight in group.weights
        if weight.weight in slopes
    )


def test_the_twin_is_that_of_the_plain_file(pair, models):
    protected, plain = map(read_twin, pair)
    images = models.images(6)
    with torch.no_grad():
        ours, theirs = (twin(torch.from_numpy(images)) for twin in (protected, plain))
    assert torch.equal(ours, theirs)
    codes = pair[0].codes()
    assert codes.weights.keys() <= protected.stored.keys()
    assert not codes.words & protected.stored.keys()
    session = Session(pair[0].patcher().golden, Deployment())
    assert agreement(protected, session, images).top1_agreement.value == 1.0


def test_gradients_reach_decoded_weights(pair, models):
    twin = read_twin(pair[0])
    name = next(iter(pair[0].codes().weights))
    leaf = twin.stored[name].clone().requires_grad_()
    twin(torch.from_numpy(models.images(4)), stored={name: leaf}).square().sum().backward()
    assert leaf.grad.abs().sum() > 0


def test_the_first_flips_are_one_more_in_a_word_than_it_corrects(pair):
    for group in pair[0].codes().groups:
        slopes = slopes_of(group)
        found = CodedFlips(group, slopes, [])
        for weight in group.weights:
            flips = found.best(weight.weight, 1)
            assert len(flips) == group.code.corrects + 1
            status = left_by_flips(group.code, bits(group, flips)).status
            assert (status == Status.UNCORRECTABLE).sum() == 1
            assert (status == Status.CORRECTED).sum() == 0
            assert gain(group, slopes, [], flips) > 0


@pytest.mark.parametrize("form", ["QDQ", "uint8"])
def test_no_pair_of_flips_in_a_word_gains_more(form, protected_file):
    """Where pairs are not corrected; tried by decoding."""
    group = DeployedModel.load(protected_file(*FORMS[form])[0]).codes().groups[0]
    slopes, block = slopes_of(group), group.code.block
    (name,) = group.stored
    found = CodedFlips(group, slopes, [])
    best = max(gain(group, slopes, [], found.best(weight.weight, 1)) for weight in group.weights)
    random = np.random.default_rng(1)
    for _ in range(300):
        word, first = random.integers(8), block * random.integers(len(group.values) // block)
        places = random.choice(block, 2, replace=False)
        flips = [Flip(name, int(first + p - p % 8 + (word - p % 8) % 8), int(p % 8)) for p in places]
        assert gain(group, slopes, [], flips) <= best + 1e-9


def test_further_flips_gain_what_decoding_leaves_of_them(pair):
    """Step by step, with sets in fresh words and single flips in broken ones: no flip twice, and each promise kept."""
    group = pair[0].codes().groups[0]
    slopes, done, prices = slopes_of(group), [], []
    name = max(group.weights, key=lambda weight: weight.count).weight
    for _ in range(12):
        flips = CodedFlips(group, slopes, done).best(name, 1)
        if not flips:
            break
        assert not set(flips) & set(done)
        assert gain(group, slopes, done, flips) > 0
        prices.append(len(flips))
        done += flips
    assert group.code.corrects + 1 in prices
    assert len(done) == sum(prices)


def test_a_broken_word_may_take_one_flip_more(protected_file):
    """Where all fresh words are worth nothing, a third flip in a broken one is found."""
    path, _ = protected_file("cnn-qdq-channel-s8")
    group = DeployedModel.load(path).codes().groups[0]
    weight = max(group.weights, key=lambda each: each.count)
    slopes = {weight.weight: np.zeros(weight.count)}
    slopes[weight.weight][:8] = [1, -1, 1, -1, 1, -1, 1, -1]
    done, singles = [], 0
    for _ in range(20):
        flips = CodedFlips(group, slopes, done).best(weight.weight, 1)
        if not flips:
            break
        singles += len(flips) == 1
        assert gain(group, slopes, done, flips) > 0
        done += flips
    assert singles


def template_of(group, model, share, seed=0):
    """Bits of a group's words that can be flipped, and the same as a fault list."""
    random, surfaces = np.random.default_rng(seed), {surface.tensor: surface for surface in model.surfaces}
    found = {name: random.random((surfaces[name].elements, surfaces[name].width)) < share for name in group.stored}
    faults = [Fault(0, tuple(Edit.of(name, *np.nonzero(bits)) for name, bits in found.items()))]
    return found, faults


@pytest.mark.parametrize("share", [0.02, 0.05])
def test_with_a_template_the_best_of_its_bits_are_flipped_and_no_others(pair, share):
    """Against all words tried one by one: one more of the bits that can be flipped than the code corrects."""
    group = pair[0].codes().groups[0]
    template, _ = template_of(group, pair[0], share)
    slopes, wanted, block = slopes_of(group), group.code.corrects + 1, group.code.block
    weight = max(group.weights, key=lambda each: each.count)
    places = {}
    for name, bits in template.items():
        for index, bit in np.argwhere(bits).tolist():
            byte = group.stored[name] + index
            # The k-th place of a word is bit k mod 8 of the byte that gives it to this word.
            place = byte % block // 8 * 8 + bit
            if place not in group.code.idle:
                places.setdefault((byte // block, (byte + bit) % 8), []).append(Flip(name, index, bit))
    found = CodedFlips(group, slopes, [], template).best(weight.weight, 1)
    first, last = weight.start // block, (weight.start + weight.count - 1) // block
    sets = [
        each
        for (number, _), flips in places.items()
        if first <= number <= last
        for each in itertools.combinations(flips, wanted)
    ]
    gains = [gain(group, slopes, [], each) for each in sets]
    if max(gains, default=0.0) > 0.0:
        assert gain(group, slopes, [], found) == pytest.approx(max(gains))
        assert all(template[flip.tensor][flip.index, flip.bit] for flip in found)
    else:
        assert found == ()


@pytest.mark.parametrize("form", ["QDQ", "QOperator, dected", "6 bits"])
def test_a_search_keeps_to_a_template_of_words(form, search, protected_file):
    model = DeployedModel.load(protected_file(*FORMS[form])[0])
    named = [fault for group in model.codes().groups for fault in template_of(group, model, 0.2)[1]]
    allowed = {
        (edit.tensor, int(index), int(bit))
        for fault in named
        for edit in fault.edits
        for index, bit in zip(edit.index, edit.bit, strict=True)
    }
    model, attack, prey = search(*FORMS[form], flippable=named)
    assert {one.coded for one in prey} == {True}
    done, losses = [], []
    for step, _ in zip(attack.steps(), range(3), strict=False):
        done += step.flips
        losses.append(step.loss)
    assert len(done) > 3 * model.codes().groups[0].code.corrects
    assert {(flip.tensor, flip.index, flip.bit) for flip in done} <= allowed
    assert losses == sorted(losses)
    assert attack.file(done) != model.patcher().golden


def test_words_of_which_too_few_bits_can_be_flipped_are_no_prey(search, protected_file):
    """One bit of a word is corrected, whichever it is."""
    model = DeployedModel.load(protected_file(*FORMS["QDQ"])[0])
    group = model.codes().groups[0]
    (name,) = group.stored
    one_each = [
        Fault(
            0,
            (
                Edit.of(
                    name,
                    list(range(0, len(group.values), group.code.block)),
                    [0] * (len(group.values) // group.code.block),
                ),
            ),
        )
    ]
    with pytest.raises(OptionError, match=r"--flippable names no bit .* of a code's words more than it corrects"):
        search(*FORMS["QDQ"], flippable=one_each)


@pytest.fixture
def search(protected_file, models):
    def build(name, kind, flippable=None):
        model = DeployedModel.load(protected_file(name, kind)[0])
        images = models.images(24)
        answers = top1(Session(model.patcher().golden, Deployment()).run(images))
        twin = read_twin(model)
        prey = find_prey(model, twin, (Role.WEIGHT,), flippable)
        batch = AttackBatch(images=images, labels=answers, loss="cross-entropy")
        return model, BitSearch(model, twin, prey, batch, deployment=Deployment(), workers=1), prey

    return build


@pytest.mark.parametrize("form", ["QDQ", "QOperator, dected", "uint8"])
def test_a_search_makes_flips_that_the_session_sees(form, search):
    model, attack, prey = search(*FORMS[form])
    assert {one.coded for one in prey} == {True}
    assert {one.surface.tensor for one in prey} == model.codes().weights.keys()
    done, losses = [], []
    for step, _ in zip(attack.steps(), range(3), strict=False):
        done += step.flips
        losses.append(step.loss)
        assert step.loss == pytest.approx(step.twin_loss, abs=1e-4)
    assert losses == sorted(losses)
    assert {flip.tensor for flip in done} <= model.codes().words
    codes, patcher = model.codes(), model.patcher()
    fault = Fault(0, tuple(Edit.of(flip.tensor, [flip.index], [flip.bit]) for flip in done))
    assert codes.left(patcher.masks(fault)).uncorrectable
    assert attack.file(done) != patcher.golden


@pytest.mark.slow
def test_an_attack_pays_two_flips_a_word_and_is_detected(protected_file, tmp_path):
    paths = protected_file(REFERENCE, rescaled=True)
    options = AttackOptions(
        images=60, attacks=("bit-flip",), workers=1, bit_flip=BitFlipOptions(batches=1, limit=20, batch_images=64)
    )
    found = []
    for number, path in enumerate(paths):
        folder = tmp_path / str(number)
        folder.mkdir()
        attack = BitFlipAttack(DeployedModel.load(path), load_dataset("digits"), options)
        found.append(attack.run(folder, lambda _: None))
    protected, plain = found
    assert protected["attacked"]["coded_tensors"] == protected["attacked"]["tensors"] == 10
    assert plain["attacked"]["coded_tensors"] == 0
    assert protected["batches"][0]["flips"] >= 2 * plain["batches"][0]["flips"]
    assert plain["batches"][0]["health"] is None is plain["batches"][0]["detected"]
    told = protected["batches"][0]
    assert told["detected"] is told["uncorrectable"] is True
    with (tmp_path / "0" / "bitflips.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == told["flips"]
    assert len({(row["tensor"], row["index"], row["bit"]) for row in rows}) == len(rows)
    state = json.loads((tmp_path / "0" / "bitflips.json").read_text())
    assert state["batches"][0]["steps"][-1]["health"] == told["health"]
