"""The check a device carries: what it finds and heals, held against the codes' own room, bit by bit."""

import ast
import functools
import hashlib
import pathlib
import subprocess
import sys

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.codes.known import KNOWN, known_code
from resq_deploy.codes.words import Status, correct
from resq_deploy.deployed.coded import function_name
from resq_deploy.deployed.graph import read_model
from resq_deploy.deployed.votes import find_votes
from resq_deploy.protection import check
from resq_deploy.protection.guards import guard
from resq_deploy.protection.protect import protect

CODES = [pytest.param(known_code(*kind), id=f"{kind[0]}-{kind[1]}") for kind in KNOWN]


@functools.cache
def protected_file(kind, rows=3, columns=6, health=False, opset=13):
    """x [N, rows] times stored weights [rows, columns], under a code, with votes on what scales and biases them."""
    code, random = known_code(*kind), np.random.default_rng(0)
    values = random.integers(-code.largest - 1, code.largest + 1, (rows, columns)).astype(np.int8)
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["w", "scale"], ["weights"]),
            helper.make_node("MatMul", ["x", "weights"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["y"]),
        ],
        "gemm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", columns])],
        [
            numpy_helper.from_array(values, "w"),
            numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
            numpy_helper.from_array(np.linspace(-1, 1, columns, dtype=np.float32), "bias"),
        ],
    )
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    guarded = onnx.ModelProto.FromString(guard(plain.SerializeToString(), ["scale", "bias"]))
    return protect(guarded, ["w"], code, health=health).SerializeToString()


def covered(data):
    """Where bits lie that codes or votes cover: name of the tensor, and its first byte in the file."""
    names = [name for each in check.examine(data) for name in each.stored]
    tensors = {tensor.name: tensor.raw_data for tensor in onnx.ModelProto.FromString(data).graph.initializer}
    places = {}
    for name in names:
        head = name.encode()
        start = data.index(tensors[name], data.index(b"\x42" + bytes([len(head)]) + head))
        assert data[start : start + len(tensors[name])] == tensors[name]
        places[name] = start, len(tensors[name])
    return places


def flipped(data, *bits):
    """The bytes of a file with some of its bits flipped."""
    faulty = bytearray(data)
    for bit in bits:
        faulty[bit // 8] ^= 1 << bit % 8
    return bytes(faulty)


@pytest.mark.parametrize("code", CODES)
def test_codes_are_those_of_their_room(code):
    made = check.make_code(function_name(code))
    assert made == (code.name, code.corrects, code.check_bits, code.columns)


@pytest.mark.parametrize(
    ("kind", "words", "votes"),
    [
        pytest.param(("secded", 7), 1, 47, id="secded-7"),
        pytest.param(("dected", 7), 9, 149, id="dected-7"),
        pytest.param(("dected", 6), 9, 149, id="dected-6"),
        *(pytest.param(kind, 1, 5, id=f"{kind[0]}-{kind[1]}-all", marks=pytest.mark.slow) for kind in KNOWN),
    ],
)
def test_every_single_flip_is_found_and_healed_to_the_original_bytes(kind, words, votes):
    """Of the words and the votes, one bit in so many: odd numbers, so that all bits of a byte take their turn."""
    data = protected_file(kind)
    assert check.verdict(check.examine(data)) == check.SOUND
    places = covered(data)
    assert len(places) == 1 + 3 * 2 + 9 * 2  # words; scale and bias; tables of the decoder, their sizes
    for number, (start, size) in enumerate(places.values()):
        for bit in range(8 * start, 8 * (start + size), votes if number else words):
            faulty = flipped(data, bit)
            found = check.examine(faulty)
            assert check.verdict(found) == check.HEALABLE
            touched = [each for each in found if each.status.any() or each.idle.any()]
            assert len(touched) == 1
            assert (touched[0].status == check.CORRECTED).sum() + touched[0].idle.sum() == 1
            assert check.heal(faulty, found) == data


@pytest.mark.parametrize("kind", KNOWN, ids="{0[0]}-{0[1]}".format)
@settings(max_examples=60)
@given(bits=st.sets(st.integers(0, 8 * 256 - 1), max_size=40))
def test_flips_are_judged_as_the_room_of_codes_does(kind, bits):
    data, code = protected_file(kind, rows=5, columns=50), known_code(*kind)
    name, (start, size) = next(iter(covered(data).items()))
    assert size == 256
    faulty = flipped(data, *(8 * start + bit for bit in bits))
    found = check.examine(faulty)
    wanted = correct(code, np.frombuffer(faulty[start : start + size], np.uint8))
    assert found[0].name == name
    assert found[0].healed[name].tobytes() == wanted.stored.tobytes()
    assert found[0].status.tolist() == wanted.status.tolist()
    assert found[0].idle.tolist() == wanted.idle.sum(1).tolist()
    healed = check.heal(faulty, found)
    assert healed[start : start + size] == wanted.stored.tobytes()
    assert (healed[:start], healed[start + size :]) == (faulty[:start], faulty[start + size :])
    lost = (wanted.status == Status.UNCORRECTABLE).any()
    some = wanted.status.any() or wanted.idle.any()
    assert check.verdict(found) == (check.DAMAGED if lost else check.HEALABLE if some else check.SOUND)


@pytest.mark.parametrize("kind", KNOWN, ids="{0[0]}-{0[1]}".format)
def test_one_flip_more_than_a_code_corrects_is_reported_and_left(kind):
    data, code = protected_file(kind), known_code(*kind)
    start, _ = next(iter(covered(data).values()))
    # Bit 0 of bytes 0, 8, 16 ... is in word 0 of the first block; another flip in word 1 is healed all the same.
    hit = [8 * (start + 8 * q) for q in range(code.corrects + 1)]
    faulty = flipped(data, *hit, 8 * (start + 1))
    found = check.examine(faulty)
    assert check.verdict(found) == check.DAMAGED
    assert found[0].status[0].tolist() == [check.UNCORRECTABLE, check.CORRECTED, *[check.SOUND] * 6]
    assert check.heal(faulty, found) == flipped(data, *hit)


@pytest.mark.parametrize("kind", KNOWN[:1], ids="{0[0]}-{0[1]}".format)
def test_three_copies_that_all_differ_are_reported_and_left(kind):
    data = protected_file(kind)
    places = covered(data)
    vote = next(each for each in check.examine(data) if each.name == "bias")
    first, second, third = (8 * places[name][0] for name in vote.stored)
    faulty = flipped(data, first + 5, second + 6, first + 32)  # the first value in three ways, the second one outvoted
    found = check.examine(faulty)
    assert check.verdict(found) == check.DAMAGED
    status = next(each.status for each in found if each.name == "bias")
    assert status.tolist() == [check.UNCORRECTABLE, check.CORRECTED, *[check.SOUND] * 4]
    assert check.heal(faulty, found) == flipped(data, first + 5, second + 6)
    assert check.verdict(check.examine(flipped(data, first + 5, third + 5))) == check.HEALABLE  # two agree: wrongly


@pytest.mark.parametrize("copy", range(3))
@pytest.mark.parametrize("value", [float("nan"), -0.0, float("inf")], ids=str)
def test_copies_are_compared_bit_for_bit(copy, value):
    data = protected_file(KNOWN[0])
    vote = next(each for each in check.examine(data) if each.name == "scale")
    start, _ = covered(data)[list(vote.stored)[copy]]
    faulty = data[:start] + np.float32(value).tobytes() + data[start + 4 :]
    found = check.examine(faulty)
    assert check.verdict(found) == check.HEALABLE
    assert check.heal(faulty, found) == data


def test_votes_are_those_that_campaigns_find(model_file, file_kind):
    """Of initializers of the main graph, which is where protection writes them."""
    proto, _ = read_model(model_file(file_kind))
    stored = {tensor.name for tensor in proto.graph.initializer}
    wanted = {vote.output: list(vote.copies) for vote in find_votes(proto) if stored.issuperset(vote.copies)}
    found = check.examine(proto.SerializeToString())
    assert {each.name: list(each.stored) for each in found} == wanted
    assert (file_kind == "guarded") <= bool(wanted)


@pytest.mark.parametrize("health", [False, True])
@pytest.mark.parametrize("kind", KNOWN, ids="{0[0]}-{0[1]}".format)
def test_votes_on_tables_are_found_whoever_counts_them(kind, health):
    data = protected_file(kind, health=health)
    votes = find_votes(onnx.ModelProto.FromString(data))
    found = {each.name: list(each.stored) for each in check.examine(data) if not each.code}
    assert found == {vote.output: list(vote.copies) for vote in votes}
    assert len(found) == 2 + 3 * 2  # scale, bias; for the tables of the decoder and their sizes three each


def test_uint8_weights():
    graph = helper.make_graph(
        [helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["y"])],
        "weights",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [100])],
        [
            numpy_helper.from_array(np.arange(100, dtype=np.uint8), "w"),
            numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
            numpy_helper.from_array(np.array(64, np.uint8), "zero"),
        ],
    )
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    for kind in KNOWN[:2]:
        data = protect(plain, ["w"], known_code(*kind)).SerializeToString()
        start, size = next(iter(covered(data).values()))
        assert size == 128
        faulty = flipped(data, 8 * start + 6, 8 * start + 1000)
        assert check.verdict(check.examine(data)) == check.SOUND
        assert check.heal(faulty, check.examine(faulty)) == data


def _unknown(proto):
    next(node for node in proto.graph.node if node.domain).op_type = "decode_golay"


def _lost(proto):
    next(node for node in proto.graph.node if node.domain).input[0] = "elsewhere"


def _words(proto):
    coded = next(node for node in proto.graph.node if node.domain).input[0]
    return next(tensor for tensor in proto.graph.initializer if tensor.name == coded)


def _external(proto):
    _words(proto).data_location = TensorProto.EXTERNAL


def _cut(proto):
    _words(proto).raw_data = _words(proto).raw_data[:-1]


def _copy_cut(proto):
    copy = next(tensor for tensor in proto.graph.initializer if tensor.name.endswith(".2") and tensor.dims == [6])
    copy.raw_data = copy.raw_data[:-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_unknown, "'decode_golay', a code that is not known here"),
        (_lost, "'elsewhere', which it does not store"),
        (_external, "lies in external data"),
        (_cut, "whole blocks of 64 bytes and stores 63"),
        (_copy_cut, "do not store the bytes of their shape"),
    ],
)
def test_what_cannot_be_checked_is_said(change, words):
    proto = onnx.ModelProto.FromString(protected_file(KNOWN[0]))
    change(proto)
    with pytest.raises(check.CheckError, match=words):
        check.examine(proto.SerializeToString())


def test_a_file_that_does_not_parse():
    with pytest.raises(check.CheckError, match="does not parse as an ONNX model"):
        check.examine(protected_file(KNOWN[0])[:-100])


def test_copies_that_are_stored_as_numbers_are_checked_but_not_healed():
    proto = onnx.ModelProto.FromString(protected_file(KNOWN[0]))
    vote = next(each for each in check.examine(proto.SerializeToString()) if each.name == "bias")
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == next(iter(vote.stored)))
    values = numpy_helper.to_array(tensor).copy()
    values[3] = 7.0
    tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.FLOAT, [6], values))
    found = check.examine(proto.SerializeToString())
    assert check.verdict(found) == check.HEALABLE
    with pytest.raises(check.CheckError, match="not stored as onnx writes raw bytes"):
        check.heal(proto.SerializeToString(), found)


ALONE = """
import importlib.abc, runpy, sys

class Alone(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("resq_deploy", "onnxruntime", "scipy", "torch", "click", "rich"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Alone())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def alone(tmp_path):
    """Run a copy of the check where nothing but numpy and onnx can be imported; return status and output."""
    copy = tmp_path / "check.py"
    copy.write_bytes(pathlib.Path(check.__file__).read_bytes())

    def run(*arguments):
        command = [sys.executable, "-c", ALONE, copy, *arguments]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)
        return done.returncode, done.stdout, done.stderr

    return run


def test_the_module_runs_alone(alone, tmp_path):
    data = protected_file(KNOWN[1])
    start, _ = next(iter(covered(data).values()))
    path = tmp_path / "net.onnx"
    path.write_bytes(data)
    assert alone(path) == (0, f"{path}: sound\n", "")
    path.write_bytes(flipped(data, 8 * start, 8 * start + 64))
    status, printed, complaints = alone(path)
    assert (status, complaints) == (3, "")
    assert "1 corrected, 0 cannot be, 0 idle bits set" in printed
    assert printed.endswith(f"{path}: can be healed\n")
    assert alone(path, "--repair", path)[0] == 3
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(data).digest()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["check.py", "net.onnx"]
    path.write_bytes(flipped(data, 8 * start, 8 * start + 64, 8 * start + 128))
    assert alone(path)[::2] == (1, "")


def test_the_module_says_in_one_line_what_it_cannot_check(alone, tmp_path):
    nothing = tmp_path / "plain.onnx"
    nothing.write_bytes(onnx.ModelProto().SerializeToString())
    for path, words in ((nothing, "neither codes nor votes"), (tmp_path / "missing.onnx", "No such file")):
        status, printed, complaints = alone(path)
        assert (status, printed, complaints.count("\n")) == (2, "", 1)
        assert words in complaints


def test_the_module_is_small_and_of_python_3_8():
    source = pathlib.Path(check.__file__).read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 8))
    assert source.count("\n") < 300


@pytest.mark.parametrize("kind", KNOWN, ids="{0[0]}-{0[1]}".format)
def test_copies_of_tables_by_bit_are_healed_while_most_agree(kind):
    """From opset 18 on: three copies of one bit flipped are mended, four change what most say, and cannot be seen."""
    data = protected_file(kind, opset=18)
    most, _ = sorted(
        (each for each in check.examine(data) if len(each.stored) > 3),
        key=lambda each: -next(iter(each.stored.values())).size,
    )
    copies = list(most.stored)
    places = covered(data)
    for count in (1, len(copies) // 2):
        faulty = flipped(data, *(8 * places[name][0] + 5 for name in copies[:count]))
        found = check.examine(faulty)
        assert check.verdict(found) == check.HEALABLE
        assert check.heal(faulty, found) == data
