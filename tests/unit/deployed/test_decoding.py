"""Decoding in numpy: what a file stores, what flips leave of it, and the same file without code."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from resq_deploy.codes.words import Status, decode, left_by_flips
from resq_deploy.deployed.coded import DOMAIN, HEALTH, coded_weights
from resq_deploy.deployed.decoding import Codes, bake, set_bits
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.patch import Patcher
from resq_deploy.deployed.runtime_graph import RuntimeGraph, optimise
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import ModelError

FORMS = {
    "QDQ": ("cnn-qdq-channel-s8", ("secded", 7)),
    "QOperator, dected": ("cnn-qoperator-channel-s8", ("dected", 7)),
    "attention, 6 bits": ("attention-qdq-channel-s8", ("dected", 6)),
    "uint8": ("cnn-qdq-tensor-u8", ("secded", 7)),
}
DEPLOYMENT = Deployment()


@pytest.fixture(params=FORMS)
def pair(request, protected_file):
    name, kind = FORMS[request.param]
    return tuple(map(DeployedModel.load, protected_file(name, kind)))


def values(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.proto.graph.initializer}


def test_weights_are_those_of_the_plain_file(pair):
    protected, plain = pair
    codes, stored = protected.codes(), values(plain)
    assert codes.weights
    assert codes.weights.keys() <= stored.keys()
    for name, weight in codes.weights.items():
        assert codes.value(name).tobytes() == stored[name].tobytes()
        assert weight.shape == stored[name].shape
    assert all(group.sound for group in codes.groups)


@pytest.mark.parametrize("rate", [1e-2, 0.05, 0.3])
def test_what_is_left_is_what_decoding_all_of_it_gives(pair, rate):
    protected, _ = pair
    patcher = protected.patcher()
    codes, random = protected.codes(patcher), np.random.default_rng(0)
    masks = {}
    for name in codes.words:
        flips = random.random((len(patcher.stored(name)), 8)) < rate
        masks[name] = np.packbits(flips, axis=1, bitorder="little")[:, 0]
    left = codes.left(masks)
    assert left.changes or rate < 0.05
    for group in codes.groups:
        stored = np.concatenate([patcher.stored(name) ^ masks[name] for name in group.stored])
        decoded = decode(group.code, stored)
        expected = decoded.weights.view(np.uint8) & (group.code.data_mask if group.unsigned else 255)
        for weight in group.weights:
            change = left.changes.get(weight.weight, np.zeros(weight.count, np.uint8))
            now = codes.value(weight.weight) ^ change
            assert now.tobytes() == expected[weight.start : weight.start + weight.count].tobytes()
    assert left.corrected + left.uncorrectable > 0


def test_addresses_of_set_bits_are_all_of_them():
    mask = np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8) * (np.arange(1000) % 7 == 0)
    mask = mask.astype(np.uint8)
    assert set_bits(mask).tolist() == np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist()


def test_changes_of_weights_are_made_from_code_words_to_code_words(pair):
    protected, _ = pair
    codes = protected.codes()
    changes = {}
    for name, weight in codes.weights.items():
        changes[name] = np.zeros(weight.count, np.uint8)
        changes[name][-1] = 1
    left = codes.left(codes.masks(changes))
    assert {name: change.tolist() for name, change in left.changes.items()} == {
        name: change.tolist() for name, change in changes.items()
    }
    assert (left.corrected, left.uncorrectable) == (0, 0)


def test_words_are_broken_by_one_flip_more_than_they_correct(pair):
    protected, _ = pair
    for group in protected.codes().groups:
        bits = group.broken(np.arange(len(group.values)))
        found = left_by_flips(group.code, bits)
        words = len(group.values) // group.code.block * 8
        assert len(bits) == words * (group.code.corrects + 1)
        assert set(found.status.reshape(-1).tolist()) == {Status.UNCORRECTABLE}
        assert np.bitwise_count(found.change & np.uint8(group.code.data_mask)).sum(dtype=int) == len(bits)
        assert not group.broken(np.arange(1)).size  # of one byte, no two bits share a word
        edits = group.as_edits(bits)
        again = [8 * group.stored[edit.tensor] + 8 * edit.index + edit.bit for edit in edits]
        assert np.concatenate(again).tolist() == bits.tolist()


def test_a_baked_file_is_optimised_to_the_same_graph(pair):
    protected, plain = pair
    patcher = protected.patcher()
    baked = bake(protected.proto, protected.codes(patcher), protected.surfaces)
    output = Session(patcher.golden, DEPLOYMENT).output
    graphs = [
        RuntimeGraph(optimise(data, DEPLOYMENT), [output]).signatures()
        for data in (patcher.golden, baked.model.SerializeToString(), plain.proto.SerializeToString())
    ]
    assert graphs[0] == graphs[1] == graphs[2]
    assert not baked.model.functions
    assert all(node.domain != DOMAIN for node in baked.model.graph.node)
    assert HEALTH not in {value.name for value in baked.model.graph.output}
    onnx.checker.check_model(baked.model)


def test_a_baked_file_has_every_other_surface_where_it_says(pair):
    protected, _ = pair
    patcher = protected.patcher()
    codes = protected.codes(patcher)
    baked = bake(protected.proto, codes, protected.surfaces)
    found = Patcher(baked.model, baked.surfaces)
    kept = {surface.tensor for surface in baked.surfaces} - codes.weights.keys()
    gone = {surface for surface in protected.surfaces if surface.tensor not in kept}
    assert {surface.role for surface in gone} <= {Role.WEIGHT, Role.CODE}
    assert {surface.tensor for surface in gone if surface.role is Role.WEIGHT} == codes.words
    for name in kept:
        assert found.stored(name).tobytes() == patcher.stored(name).tobytes()
    for name in codes.weights:
        assert found.stored(name).tobytes() == codes.value(name).tobytes()


def test_words_that_are_no_whole_blocks_are_refused(pair):
    protected, _ = pair
    patcher = protected.patcher()
    with pytest.raises(ModelError, match="no whole blocks: the file is damaged"):
        Codes(coded_weights(protected.proto), lambda name: patcher.stored(name)[:-8])
