"""What is told of a protected file: by weights, whole words, with what decodes them tried out."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.codes.known import known_code
from resq_deploy.errors import ModelError
from resq_deploy.protection import check
from resq_deploy.protection.guards import guard
from resq_deploy.protection.protect import protect
from resq_deploy.protection.scrub import Scrub

SHAPES = {"a": (3, 40), "b": (40, 5), "c": (5, 64)}


@pytest.fixture(scope="module")
def data():
    """Three weights that share blocks (120, 200 and 320 values), and a bias that is voted."""
    code, random = known_code("secded"), np.random.default_rng(0)
    nodes, stored = [], [numpy_helper.from_array(np.array(0.1, np.float32), f"scale.{name}") for name in SHAPES]
    value = "x"
    for name, shape in SHAPES.items():
        weights = random.integers(-code.largest - 1, code.largest + 1, shape).astype(np.int8)
        stored.append(numpy_helper.from_array(weights, name))
        nodes.append(helper.make_node("DequantizeLinear", [name, f"scale.{name}"], [f"float.{name}"]))
        nodes.append(helper.make_node("MatMul", [value, f"float.{name}"], [f"y.{name}"]))
        value = f"y.{name}"
    nodes.append(helper.make_node("Add", [value, "bias"], ["y"]))
    stored.append(numpy_helper.from_array(np.linspace(-1, 1, 64, dtype=np.float32), "bias"))
    graph = helper.make_graph(
        nodes,
        "three",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64])],
        stored,
    )
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    guarded = onnx.ModelProto.FromString(guard(plain.SerializeToString(), ["bias"]))
    return protect(guarded, list(SHAPES), code, health=True).SerializeToString()


def words_at(data):
    """Where the code words begin in the file."""
    coded = next(each for each in check.examine(data) if each.code)
    return data.index(coded.stored[coded.name].tobytes())


def with_flips(data, *bits):
    faulty, start = bytearray(data), words_at(data)
    for byte, bit in bits:
        faulty[start + byte] ^= 1 << bit
    return bytes(faulty)


def found(scrub):
    return {each.tensor: (each.corrected, each.uncorrectable) for each in scrub.tensors if not each.sound}


def test_a_sound_file(data):
    scrub = Scrub.of(data)
    assert (scrub.status, scrub.decoder_flaw) == (check.SOUND, "")
    assert all(each.sound for each in scrub.tensors)
    # 120 values: blocks 0 and 1; 200 values from 120 on: 1 to 4; 320 from 320 on: 5 to 9
    by_name = {each.tensor: each for each in scrub.tensors}
    assert {name: by_name[name].units for name in SHAPES} == {"a": 16, "b": 32, "c": 40}
    assert {by_name[name].protection for name in SHAPES} == {"secded"}
    assert (by_name["bias"].protection, by_name["bias"].units) == ("votes", 64)
    assert scrub.totals["words"] == 80
    assert scrub.healed == data


def test_flips_are_told_by_weight(data):
    scrub = Scrub.of(with_flips(data, (5, 3), (5, 4), (200, 0)))  # of one byte, two bits are in two words
    assert found(scrub) == {"a": (2, 0), "b": (1, 0)}
    assert (scrub.status, scrub.totals["corrected"]) == (check.HEALABLE, 3)
    assert scrub.healed == data


def test_a_word_that_two_weights_share_counts_with_both_and_once_in_all(data):
    scrub = Scrub.of(with_flips(data, (64, 0)))
    assert found(scrub) == {"a": (1, 0), "b": (1, 0)}
    assert scrub.totals["corrected"] == 1
    assert scrub.status == check.HEALABLE
    assert scrub.healed == data


def test_what_cannot_be_corrected_is_left(data):
    faulty = with_flips(data, (64 * 6, 0), (64 * 6 + 8, 0), (3, 3))
    scrub = Scrub.of(faulty)
    assert found(scrub) == {"a": (1, 0), "c": (0, 1)}
    assert (scrub.status, scrub.totals["uncorrectable"]) == (check.DAMAGED, 1)
    assert scrub.healed == with_flips(data, (64 * 6, 0), (64 * 6 + 8, 0))
    assert scrub.decoder_flaw == ""  # onnxruntime leaves the word as it is, too


def test_damage_to_what_decodes_is_found(data):
    model = onnx.ModelProto.FromString(data)
    function = next(each for each in model.functions if each.domain == "resq.codes")
    mod = next(node for node in function.node if node.op_type == "Mod")
    mod.op_type = "Sub"
    mod.input[1] = mod.input[0]
    scrub = Scrub.of(model.SerializeToString())  # finds no block that is suspect: gives all words as they are
    assert "does not correct what secded corrects" in scrub.decoder_flaw
    last = next(node for node in function.node if function.output[0] in node.output)
    last.CopyFrom(helper.make_node("Identity", last.input[:1], last.output))
    flaw = Scrub.of(model.SerializeToString()).decoder_flaw
    assert "is decoded to other values than its code words hold" in flaw
    function.node[0].op_type = "NoSuch"
    assert "onnxruntime does not decode its weights" in Scrub.of(model.SerializeToString()).decoder_flaw


def test_an_onnxruntime_that_is_too_old_leaves_the_decoder_untried(data, monkeypatch):
    monkeypatch.setattr("onnxruntime.__version__", "1.20.1")
    scrub = Scrub.of(with_flips(data, (5, 3)))
    assert (scrub.decoder_flaw, scrub.status) == ("", check.HEALABLE)
    assert "needs onnxruntime 1.22 or later" in scrub.untried
    assert scrub.healed == data


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda data: data[:-50], "does not parse", id="cut"),
        pytest.param(lambda data: data.replace(b"decode_secded", b"decode_golay2"), "not known here", id="unknown"),
        pytest.param(lambda _: onnx.ModelProto().SerializeToString(), "neither codes nor votes", id="plain"),
    ],
)
def test_what_cannot_be_scrubbed(data, make, words):
    with pytest.raises(ModelError, match=words):
        Scrub.of(make(data))


def test_any_flip_outside_of_codes_and_votes_is_told_in_a_line_or_changes_nothing(data):
    """Names, attributes, sizes: whatever comes of them, never an error of Python's."""
    covered = {name: raw.tobytes() for each in check.examine(data) for name, raw in each.stored.items()}
    places = set(range(len(data)))
    for raw in covered.values():
        start = data.find(raw)
        while start >= 0:
            places -= set(range(start, start + len(raw)))
            start = data.find(raw, start + 1)
    random = np.random.default_rng(0)
    told = 0
    for byte in random.choice(sorted(places), 25, replace=False):
        faulty = bytearray(data)
        faulty[byte] ^= 1 << random.integers(8)
        try:
            scrub = Scrub.of(bytes(faulty))
        except ModelError:
            told += 1
        else:
            told += bool(scrub.decoder_flaw)
            assert "\n" not in scrub.decoder_flaw
    assert told > 12
