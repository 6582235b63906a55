"""What is planned for a file: what protects which tensor, what it costs, what is left, and what cannot be."""

import dataclasses
import itertools
import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from resq_deploy.codes.code import WORDS
from resq_deploy.codes.known import KNOWN, known_code
from resq_deploy.codes.words import decode, encode
from resq_deploy.deployed.coded import coded_weights
from resq_deploy.deployed.graph import read_model
from resq_deploy.deployed.surfaces import Role, find_surfaces
from resq_deploy.deployed.votes import Vote, find_votes
from resq_deploy.errors import OptionError
from resq_deploy.protection.apply import apply
from resq_deploy.protection.code_bytes import CodeBytes
from resq_deploy.protection.plan import MODES, STEERING, VOTE, plan
from resq_deploy.protection.rates import BUILT_IN, GuardRates, Rate

SECDED = known_code("secded")
SLACK = 8  # bytes: lengths that stand in front of what grows


def narrowed(path, bits=7):
    """A file whose int8 weights are cut to so many bits."""
    proto, _ = read_model(path)
    names = {one.tensor for one in find_surfaces(proto) if one.role is Role.WEIGHT and one.dtype == "int8"}
    for tensor in proto.graph.initializer:
        if tensor.name in names:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) >> (8 - bits), tensor.name))
    return proto


@pytest.fixture(scope="module")
def model(digits_int8):
    return narrowed(digits_int8)


def rates(roles):
    by_role = {role: Rate(value=value, faults=10**9) for role, value in roles.items()}
    return GuardRates(by_role=by_role, by_layer={}, source="test")


def by_role(model, *, weights):
    return {one.tensor for one in find_surfaces(model) if (one.role is Role.WEIGHT) == weights and not in_a_node(one)}


def in_a_node(surface):
    """Whether a surface is a number in an attribute."""
    return surface.tensor.endswith((".alpha", ".beta"))


def test_parameters_are_all_tensors_but_weights(model):
    found = plan(model, mode="parameters", code=SECDED)
    assert set(found.voted) == by_role(model, weights=False)
    assert (found.coded, found.code, found.budget) == ((), None, None)
    assert {role for role, risk in found.after.items() if risk} == {"weight"}
    assert all("a number in an attribute" in reason for reason in found.left_out.values())
    assert found.before["weight"] == pytest.approx(
        BUILT_IN[Role.WEIGHT] * sum(one.bits for one in find_surfaces(model) if one.role is Role.WEIGHT)
    )


def test_weights_are_coded(model):
    found = plan(model, mode="weights", code=SECDED)
    assert set(found.coded) == by_role(model, weights=True)
    assert found.voted == ()
    assert found.left_out == {}
    assert found.code == SECDED
    assert found.after["weight"] == 0.0
    assert found.after["bias"] == found.before["bias"] > 0


def test_all_is_all_that_is_stored(model):
    found = plan(model, mode="all", code=SECDED)
    assert set(found.coded) == by_role(model, weights=True)
    assert {entry.role for entry in found.protected} >= {"weight", "bias", "activation-scale"}
    assert sum(found.after.values()) == 0.0 < sum(found.before.values())
    assert found.left_out == {}


def test_small_weights_are_voted_where_the_decoder_is_dearer(models, tmp_path):
    small = narrowed(models.save(models.HAND_MADE["shared"](), tmp_path / "small.onnx"))
    weights = by_role(small, weights=True)
    total = sum(one.bits for one in find_surfaces(small) if one.tensor in weights) // 8
    assert total < 1000  # less than any decoder
    found = plan(small, mode="all", code=SECDED)
    assert found.coded == ()
    assert found.code is None
    assert set(found.voted) >= weights
    assert plan(small, mode="weights", code=SECDED).coded  # it was asked for
    assert plan(small, mode="all", code=SECDED, health=True).coded  # and health counts words


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("code", KNOWN, ids=str)
def test_bytes_added_are_nearly_those_of_the_file(digits_int8, mode, code):
    code = known_code(*code)
    model = narrowed(digits_int8, code.weight_bits)
    found = plan(model, mode=mode, code=code, budget=1.0)
    added = apply(model, found, code).ByteSize() - model.ByteSize()
    exact = not found.coded and mode != "all"
    assert found.bytes_added == pytest.approx(added, abs=SLACK if exact else 0.1 * added + 2 * code.block)
    if mode == "auto":
        assert added <= found.bytes_added + SLACK


@pytest.mark.parametrize("budget", [0.05, 0.3, 0.8])
def test_auto_keeps_to_its_budget_and_a_larger_one_leaves_less_risk(model, budget):
    found, more = (plan(model, mode="auto", code=SECDED, budget=share) for share in (budget, 2 * budget))
    assert found.budget == budget
    assert 0 < found.bytes_added <= budget * found.file_bytes
    assert apply(model, found, found.code).ByteSize() - model.ByteSize() <= budget * found.file_bytes + SLACK
    assert sum(more.after.values()) <= sum(found.after.values()) < sum(found.before.values())


def test_measured_rates_decide_between_code_and_votes(model):
    only_weights = dict.fromkeys(Role, 0.0) | {Role.WEIGHT: 0.1}
    only_biases = dict.fromkeys(Role, 0.0) | {Role.BIAS: 0.1}
    coded, voted = (
        plan(model, mode="auto", code=SECDED, budget=1.0, rates=rates(r)) for r in (only_weights, only_biases)
    )
    assert set(coded.coded) == by_role(model, weights=True)
    assert not coded.voted
    assert {entry.role for entry in voted.protected} == {"bias"}
    assert not voted.coded
    assert coded.rates == voted.rates == "test"


def test_without_a_code_auto_votes(model):
    found = plan(model, mode="auto", budget=5.0)
    assert set(found.voted) == by_role(model, weights=True) | by_role(model, weights=False)


def test_weights_that_no_code_holds_are_said_and_voted_where_all_is_wanted(digits_int8):
    wide, _ = read_model(digits_int8)
    found = plan(wide, mode="weights", code=SECDED)
    assert not found.protected
    assert set(found.left_out) == by_role(wide, weights=True)
    assert all("outside [-64, 63]" in reason for reason in found.left_out.values())
    everything = plan(wide, mode="all", code=SECDED)
    assert set(everything.voted) >= by_role(wide, weights=True)
    assert everything.left_out == {}


def test_what_is_given_by_the_caller_is_left_out(model):
    given = onnx.ModelProto()
    given.CopyFrom(model)
    bias = next(t for t in given.graph.initializer if t.name == "fc.bias_quantized")
    given.graph.input.append(onnx.helper.make_tensor_value_info(bias.name, bias.data_type, bias.dims))
    found = plan(given, mode="all", code=SECDED)
    assert "graph input" in found.left_out["fc.bias_quantized"]
    assert "fc.bias_quantized" not in found.voted


@pytest.mark.parametrize("mode", ["weights", "all", "parameters"])
def test_a_protected_file_needs_nothing_more(model, mode):
    protected = apply(model, plan(model, mode="all", code=SECDED), SECDED)
    again = plan(protected, mode=mode, code=SECDED)
    assert again.protected == ()
    assert apply(protected, again, None).SerializeToString() == protected.SerializeToString()


def test_votes_that_are_there_are_not_planned_again(model):
    guarded = apply(model, plan(model, mode="parameters"), None)
    found = plan(guarded, mode="all", code=SECDED)
    assert set(found.coded) == by_role(model, weights=True)
    assert {entry.role for entry in found.protected} <= {"weight", STEERING}
    protected = apply(guarded, found, SECDED)
    assert len(coded_weights(protected)) == 2
    assert {vote.output for vote in find_votes(guarded)} <= {vote.output for vote in find_votes(protected)}


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_second_order_of_a_vote_is_what_two_flips_do_to_it(model, dtype):
    width = 8 * np.dtype(dtype).itemsize
    vote = Vote(output="t", copies=("a", "b", "c"), dtype=np.dtype(dtype), bytes_added=0)
    golden = np.array([37], dtype)
    wrong = 0
    for pair in itertools.combinations(range(3 * width), 2):
        stored = {name: bytearray(golden.tobytes()) for name in vote.copies}
        for bit in pair:
            stored["abc"[bit // width]][bit % width // 8] ^= 1 << bit % 8
        wrong += vote.outcome({name: bytes(value) for name, value in stored.items()}) != golden.tobytes()
    assert wrong == width * (2 * width + 1)
    found = plan(model, mode="auto", budget=5.0, rates=rates(dict.fromkeys(Role, 0.0) | {Role.BIAS: 0.1}))
    assert found.second_order == pytest.approx(found.before["bias"] * 65)


def test_second_order_of_a_code_is_what_two_flips_do_to_a_word(model, monkeypatch):
    monkeypatch.setattr("resq_deploy.protection.plan.code_bytes", lambda *_, **__: CodeBytes(decoder=1, tensor=1))
    wrong = 0
    weights = np.arange(-4, 4, dtype=np.int8).repeat(SECDED.block // 8)
    stored = encode(SECDED, weights)
    places = [(byte, (0 - byte) % WORDS) for byte in range(SECDED.block)]  # the bits of word 0
    for pair in itertools.combinations(places, 2):
        faulty = stored.copy()
        for byte, bit in pair:
            faulty[byte] ^= np.uint8(1 << bit)
        left = (decode(SECDED, faulty).weights ^ weights).view(np.uint8)
        wrong += int(np.unpackbits(left & np.uint8(SECDED.data_mask)).sum())
    assert wrong == 56 * 63  # (weight bits of a word) * (n - 1)
    found = plan(model, mode="weights", code=SECDED)
    assert found.second_order == pytest.approx(found.before["weight"] * 7 / 8 * 63)
    assert plan(model, mode="weights", code=known_code("dected")).second_order == 0.0


def test_the_plan_as_json(model):
    found = plan(model, mode="all", code=SECDED)
    written = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert written["bytes_added"] == found.bytes_added
    assert written["code"] == {
        "name": "secded",
        "weight_bits": 7,
        "word_bits": 64,
        "check_bits": 8,
        "corrects": 1,
        "detects": 2,
    }
    assert {entry["by"] for entry in written["tensors"]} == {"secded", VOTE}
    assert written["tensors"] == [dataclasses.asdict(entry) for entry in found.protected]
    assert written["expected_sdc1_over_ber"]["after"]["total"] == 0.0
    assert "memory after loading are not" in written["note"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mode": "most"}, "--guard most: give one of none, parameters, weights, all, auto"),
        ({"mode": "weights"}, "--guard weights: weights are stored under a code: give secded or dected"),
        ({"mode": "auto", "budget": 0.0}, "--guard-budget 0.0"),
        ({"mode": "auto", "budget": float("nan")}, "--guard-budget nan"),
    ],
    ids=str,
)
def test_wrong_options(model, given, message):
    with pytest.raises(OptionError, match=message):
        plan(model, **given)
