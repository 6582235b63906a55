"""Plans carried out: the outputs of the unprotected file, bit by bit, with any stored bit flipped, in every form."""

import itertools

import numpy as np
import onnx
import pytest

from resq_deploy.codes.code import WORDS
from resq_deploy.codes.known import KNOWN, known_code
from resq_deploy.data import load_dataset
from resq_deploy.deployed.coded import HEALTH, coded_weights
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.majority import find_majorities
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.votes import find_votes
from resq_deploy.protection.apply import apply
from resq_deploy.protection.code_bytes import CodeBytes
from resq_deploy.protection.guards import guard
from resq_deploy.protection.plan import plan
from resq_deploy.protection.protect import protect
from resq_deploy.quantization.adjust import write_adjusted
from resq_deploy.quantization.float_model import prepare_float_model
from resq_deploy.quantization.scheme import GRANULARITIES, STATIC_FORMATS, Scheme

IMAGES = 20


@pytest.fixture(scope="module")
def plain(digits_float):
    """Return a function that makes the digits model in a form with so many bits, unprotected."""
    made = {}

    def write(form="qdq", granularity="channel", weight_type="int8", bits=7, opset=18):
        key = form, granularity, weight_type, bits, opset
        if key not in made:
            model = prepare_float_model(digits_float, opset)
            spec = Session(model.SerializeToString(), Deployment()).input
            scheme = Scheme(format=form, granularity=granularity, weight_type=weight_type, weight_bits=bits)
            int8, _ = write_adjusted(model, load_dataset("digits").calibration(40, 0), spec, scheme)
            made[key] = onnx.ModelProto.FromString(int8)
        return made[key]

    return write


def outputs(model):
    """Logits for test images, as bytes; of the file as onnxruntime optimises it."""
    session = Session(model.SerializeToString(), Deployment())
    return session.run(session.input.prepare(load_dataset("digits").evaluation(IMAGES).images)).tobytes()


@pytest.fixture
def cheap_codes(monkeypatch):
    """Let codes cost next to nothing: in files as small as these votes would be smaller."""
    monkeypatch.setattr("resq_deploy.protection.plan.code_bytes", lambda *_, **__: CodeBytes(decoder=1, tensor=1))


@pytest.mark.usefixtures("cheap_codes")
@pytest.mark.parametrize("form", STATIC_FORMATS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("mode", ["parameters", "weights", "all", "auto"])
@pytest.mark.parametrize("code", KNOWN, ids=str)
def test_outputs_are_those_of_the_unprotected_file(plain, form, granularity, mode, code):
    code = known_code(*code)
    model = plain(form, granularity, bits=code.weight_bits)
    planned = plan(model, mode=mode, code=code, budget=3.0)
    protected = apply(model, planned, code)
    assert outputs(protected) == outputs(model)
    assert {coded.weight for coded in coded_weights(protected)} == set(planned.coded)
    assert set(planned.voted) <= {vote.output for vote in find_votes(protected)}
    assert bool(planned.coded) == (mode != "parameters")
    onnx.checker.check_model(protected)


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("weight_type", ["int8", "uint8"])
def test_every_type_and_opset(plain, weight_type, opset):
    model, code = plain(weight_type=weight_type, opset=opset), known_code("secded")
    protected = apply(model, plan(model, mode="all", code=code), code)
    assert outputs(protected) == outputs(model)
    assert len(coded_weights(protected)) == 2


def test_the_same_file_every_time(plain):
    model, code = plain(), known_code("dected")
    before = model.SerializeToString()
    first, second = (apply(model, plan(model, mode="all", code=code), code) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    assert model.SerializeToString() == before


def test_votes_and_codes_work_whichever_is_written_first(plain):
    model, code = plain(), known_code("secded")
    planned = plan(model, mode="auto", code=code, budget=1.0)
    assert planned.coded
    assert planned.voted
    voted_last = onnx.ModelProto.FromString(
        guard(protect(model, planned.coded, code).SerializeToString(), planned.voted)
    )
    voted_first = apply(model, planned, code)
    assert outputs(voted_first) == outputs(voted_last) == outputs(model)
    size = {tensor.ByteSize() for tensor in voted_first.graph.initializer}
    assert size == {tensor.ByteSize() for tensor in voted_last.graph.initializer}


def test_another_code_than_was_planned_with(plain):
    model = plain()
    planned = plan(model, mode="weights", code=known_code("secded"))
    with pytest.raises(ValueError, match="planned for secded"):
        apply(model, planned, known_code("dected"))


@pytest.mark.usefixtures("cheap_codes")
def test_a_file_that_reports_its_health(plain):
    model, code = plain(), known_code("secded")
    protected = apply(model, plan(model, mode="all", code=code, health=True), code, health=True)
    assert [value.name for value in protected.graph.output][1:] == [HEALTH]
    assert outputs(protected) == outputs(model)


def flipped(model, change):
    """The model with each stored tensor's bytes changed by a function of its name and bytes."""
    faulty = onnx.ModelProto()
    faulty.CopyFrom(model)
    for tensor in faulty.graph.initializer:
        values = np.frombuffer(tensor.raw_data, dtype=np.uint8).copy()
        change(tensor.name, values)
        tensor.raw_data = values.tobytes()
    return faulty


class Whole:
    """A file that is protected as a whole: which tensors hold code words, and which are copies of what elements."""

    def __init__(self, model, code):
        self.code, self.model = code, apply(model, plan(model, mode="all", code=code), code)
        self.words = {name for coded in coded_weights(self.model) for name in coded.stored}
        votes = find_votes(self.model)
        self.copies = {name: (place, vote.dtype.itemsize) for vote in votes for place, name in enumerate(vote.copies)}
        for found in find_majorities(self.model.graph):  # at most three of seven at once
            self.copies |= {name: (place % 3, 1) for place, name in enumerate(found.copies)}

    def mask(self, name, size, position, copy, bit):
        """Flips of bit `position` of every word, and of one bit of every element of one of three copies, as bytes."""
        mask = np.zeros(size, np.uint8)
        if name in self.words:
            for word in range(WORDS):
                mask[position // 8 * 8 + (word - position) % 8 :: self.code.block] |= np.uint8(1 << position % 8)
        elif self.copies[name][0] == copy and bit < 8 * self.copies[name][1]:
            mask[bit // 8 :: self.copies[name][1]] = 1 << bit % 8
        return mask


@pytest.mark.slow
@pytest.mark.usefixtures("cheap_codes")
@pytest.mark.parametrize("code", KNOWN, ids=str)
def test_no_stored_bit_matters_in_a_file_that_is_protected_as_a_whole(plain, code):
    """Every bit of every tensor is flipped, as many at once as may: one a word, one of an element's three copies."""
    code = known_code(*code)
    model = plain(bits=code.weight_bits)
    whole, golden = Whole(model, code), outputs(model)
    hit = {tensor.name: np.zeros(len(tensor.raw_data), np.uint8) for tensor in whole.model.graph.initializer}
    assert hit.keys() == whole.words | whole.copies.keys()
    for number, (copy, bit) in enumerate(itertools.product(range(3), range(64))):

        def flip(name, values, at=(number % code.block, copy, bit)):
            mask = whole.mask(name, values.size, *at)
            values ^= mask
            hit[name] |= mask

        assert outputs(flipped(whole.model, flip)) == golden, (number, copy, bit)
    assert all((bits == 0xFF).all() for bits in hit.values())


@pytest.mark.usefixtures("cheap_codes")
def test_single_flips_anywhere_change_nothing(plain):
    model = plain()
    whole, golden, rng = Whole(model, known_code("secded")), outputs(model), np.random.default_rng(0)
    tensors = [tensor.name for tensor in whole.model.graph.initializer]
    for name in rng.choice(tensors, 40, replace=False):

        def flip(this, values, name=name):
            if this == name:
                values[rng.integers(values.size)] ^= np.uint8(1 << rng.integers(8))

        assert outputs(flipped(whole.model, flip)) == golden, name
