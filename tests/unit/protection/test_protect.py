"""Protected files: the computation of the plain file, whatever its format, and no trace of a flip in a weight."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.codes.known import known_code
from resq_deploy.codes.words import Status, correct
from resq_deploy.deployed.coded import DOMAIN, HEALTH, coded_weights
from resq_deploy.deployed.deployment import Deployment, create
from resq_deploy.deployed.graph import read_model, stored_tensors
from resq_deploy.deployed.runtime_graph import optimise
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import Role, find_surfaces
from resq_deploy.deployed.versions import metadata
from resq_deploy.deployed.votes import find_votes, repeated
from resq_deploy.errors import ModelError
from resq_deploy.protection.guards import guard
from resq_deploy.protection.majority import LEAST_OPSET
from resq_deploy.protection.protect import obstacles, protect

DEPLOYMENT = Deployment(batch=4)
CODES = {"secded": ("secded", 7), "dected": ("dected", 7), "dected-6": ("dected", 6)}
KINDS = [
    "cnn-qdq-channel-s8",
    "cnn-qoperator-channel-s8",
    "attention-qoperator-tensor-s8-pre",
    "attention-qdq-channel-s8",
]


@pytest.fixture(params=CODES)
def code(request):
    return known_code(*CODES[request.param])


def narrowed(path, code, opset=None):
    """A quantised file whose int8 weights are cut to as many bits as a code leaves, and the names of these."""
    proto, _ = read_model(path)
    names = [s.tensor for s in find_surfaces(proto) if s.role is Role.WEIGHT and s.dtype == "int8"]
    for tensor in proto.graph.initializer:
        if tensor.name in names:
            values = numpy_helper.to_array(tensor) >> (8 - code.weight_bits)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    assert names
    return proto, names


def logits(proto, images):
    return Session(proto.SerializeToString(), DEPLOYMENT).run(images).tobytes()


def operators(proto):
    return sorted(node.op_type for node in optimise(proto.SerializeToString(), DEPLOYMENT).graph.node)


def coded(proto):
    """The tensors of a protected file that hold code words."""
    decoded = {node.input[0] for node in proto.graph.node if node.domain == DOMAIN}
    return [tensor for tensor in proto.graph.initializer if tensor.name in decoded]


def with_flips(proto, rate, seed):
    """A protected file with random flips in code words, at most one a word."""
    faulty, random = onnx.ModelProto(), np.random.default_rng(seed)
    faulty.CopyFrom(proto)
    for tensor in coded(faulty):
        values = np.frombuffer(tensor.raw_data, dtype=np.uint8).copy()
        length = 8 * tensor.dims[2]
        for block in values.reshape(-1, length):
            for word in np.flatnonzero(random.random(8) < rate):
                byte = random.integers(length)
                block[byte] ^= 1 << (word - byte) % 8
        assert values.tobytes() != tensor.raw_data
        tensor.raw_data = values.tobytes()
    return faulty


@pytest.mark.parametrize("kind", KINDS)
def test_a_protected_file_is_the_same_computation(kind, code, model_file, models):
    plain, names = narrowed(model_file(kind), code)
    before = plain.SerializeToString()
    protected = protect(plain, names, code)
    assert plain.SerializeToString() == before
    images = models.images(5, kind)
    assert logits(protected, images) == logits(plain, images)
    assert operators(protected) == operators(plain)
    assert len(coded(protected)) == 1
    stored = {tensor.name for tensor in protected.graph.initializer}
    assert stored.isdisjoint(names)
    onnx.checker.check_model(protected)
    opsets = [(entry.domain, entry.version) for entry in protected.opset_import]
    assert opsets == [*((entry.domain, entry.version) for entry in plain.opset_import), (DOMAIN, 1)]


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_flip_in_every_word_changes_nothing(kind, code, model_file, models):
    plain, names = narrowed(model_file(kind), code)
    protected, images = protect(plain, names, code), models.images(5)
    golden = logits(plain, images)
    for seed in range(3):
        assert logits(with_flips(protected, 1.0, seed), images) == golden


def test_two_flips_in_a_word_reach_the_outputs(model_file, models):
    code = known_code("secded")
    plain, names = narrowed(model_file("cnn-qdq-channel-s8"), code)
    protected, images = protect(plain, names, code), models.images(5)
    tensor = coded(protected)[0]
    values = bytearray(tensor.raw_data)
    values[0] ^= 1 << 6
    values[8] ^= 1 << 6
    tensor.raw_data = bytes(values)
    assert logits(protected, images) != logits(plain, images)


def gemm(values, opset=13, ir=7, **changes):
    """x [N, 3] times stored weights, int8 dequantized."""
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["w", "scale"], ["weights"]),
            helper.make_node("MatMul", ["x", "weights"], ["y"]),
        ],
        "gemm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", values.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", values.shape[1]])],
        [numpy_helper.from_array(values, "w"), numpy_helper.from_array(np.array(0.1, np.float32), "scale")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


@pytest.mark.parametrize("opset", [13, 14, 15, 17, 18, 21])
@pytest.mark.parametrize("shape", [(3, 1), (8, 8), (3, 50)], ids=str)
def test_any_opset_and_any_number_of_weights(opset, shape, code):
    values = np.random.default_rng(0).integers(-code.largest - 1, code.largest + 1, shape).astype(np.int8)
    plain = gemm(values, opset)
    protected = protect(plain, ["w"], code)
    x = np.random.default_rng(1).random((4, shape[0]), dtype=np.float32)
    assert logits(protected, x) == logits(plain, x)
    assert [entry.version for entry in protected.opset_import if entry.domain == ""] == [opset]


@pytest.mark.parametrize("shape", [(64, 64), (9, 70)], ids=str)
def test_a_large_tensor_is_decoded_in_pieces(shape, code, monkeypatch):
    monkeypatch.setattr("resq_deploy.protection.protect._PIECE", 256)
    values = np.random.default_rng(0).integers(-code.largest - 1, code.largest + 1, shape).astype(np.int8)
    plain = gemm(values)
    protected = protect(plain, ["w"], code)
    assert [len(tensor.raw_data) for tensor in coded(protected)][:2] == [256, 256]
    x = np.random.default_rng(1).random((4, shape[0]), dtype=np.float32)
    assert logits(with_flips(protected, 0.5, 0), x) == logits(plain, x)


def test_the_same_file_gives_the_same_bytes(model_file, code):
    plain, names = narrowed(model_file("cnn-qdq-channel-s8"), code)
    first = protect(plain, names, code).SerializeToString(deterministic=True)
    assert protect(plain, names[::-1], code).SerializeToString(deterministic=True) == first
    assert protect(plain, [], code).SerializeToString() == plain.SerializeToString()


def test_a_file_that_has_our_names_already(code):
    plain = gemm(np.ones((3, 5), np.int8))
    taken = protect(plain, ["w"], code)
    plain.graph.initializer.extend(tensor for tensor in taken.graph.initializer if tensor.name != "scale")
    protected = protect(plain, ["w"], code)
    names = [tensor.name for tensor in protected.graph.initializer]
    assert len(set(names)) == len(names)
    x = np.ones((2, 3), np.float32)
    assert logits(protected, x) == logits(plain, x)


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("bits", [6, 7])
@pytest.mark.parametrize("shape", [(3, 1), (8, 8), (3, 50)], ids=str)
def test_unsigned_weights_up_to_the_last_value(opset, bits, shape):
    code = known_code("dected" if bits == 6 else "secded", bits)
    values = np.random.default_rng(0).integers(0, 1 << bits, shape).astype(np.uint8)
    values.flat[:2] = 0, (1 << bits) - 1
    plain = gemm(values, opset)
    protected = protect(plain, ["w"], code)
    x = np.random.default_rng(1).random((4, shape[0]), dtype=np.float32)
    assert logits(protected, x) == logits(plain, x)
    assert logits(with_flips(protected, 1.0, 0), x) == logits(plain, x)


def several(shapes, opset=13, seed=0):
    """A file of stored weights, int8 or uint8 by turns, each dequantized, times the one pixel."""
    random = np.random.default_rng(seed)
    values = [random.integers(0, 32, shape).astype((np.int8, np.uint8)[at % 2]) for at, shape in enumerate(shapes)]
    nodes = [helper.make_node("DequantizeLinear", [f"w{at}", "scale"], [f"d{at}"]) for at in range(len(values))]
    nodes += [helper.make_node("Mul", [f"d{at}", "x"], [f"m{at}"]) for at in range(len(values))]
    nodes += [helper.make_node("Reshape", [f"m{at}", "flat"], [f"f{at}"]) for at in range(len(values))]
    nodes.append(helper.make_node("Concat", ["x", *(f"f{at}" for at in range(len(values)))], ["y"], axis=0))
    graph = helper.make_graph(
        nodes,
        "several",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M"])],
        [
            *(numpy_helper.from_array(value, f"w{at}") for at, value in enumerate(values)),
            numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
            numpy_helper.from_array(np.array([-1]), "flat"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7), values


def outputs(proto, feeds, optimization="all"):
    session = create(proto.SerializeToString(), Deployment(optimization=optimization))
    return {value.name: array for value, array in zip(session.get_outputs(), session.run(None, feeds), strict=True)}


SHAPES = [(), (7,), (3, 5), (2, 3, 4), (1, 1, 1, 300), (4, 2, 3, 3), (3, 5), (), (70_000,), (16_500, 2)]


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("optimization", ["all", "none"])
def test_tensors_of_every_shape_and_both_types_whether_folded_or_not(opset, optimization, code):
    plain, values = several(SHAPES, opset)
    feeds = {"x": np.ones(1, np.float32)}
    protected = protect(plain, [f"w{at}" for at in range(len(values))], code)
    expected = outputs(plain, feeds)["y"].tobytes()
    for proto in (protected, with_flips(protected, 0.5, 0)):
        assert outputs(proto, feeds, optimization)["y"].tobytes() == expected
    found = coded_weights(protected)
    assert {coded.weight: (coded.shape, coded.unsigned) for coded in found} == {
        f"w{at}": (value.shape, value.dtype == np.uint8) for at, value in enumerate(values)
    }


@pytest.mark.parametrize("name", ["", "a b", "w/1:0", "Gewicht_ä", "'", "k00000.1"], ids=ascii)
def test_names_with_any_characters(name):
    plain, code = gemm(np.arange(-7, 8, dtype=np.int8).reshape(3, 5)), known_code("secded")
    name = name or "x" * 1000
    plain.graph.initializer[0].name = plain.graph.node[0].input[0] = name
    protected = protect(plain, [name], code, health=True)
    x = np.ones((2, 3), np.float32)
    assert logits(protected, x) == logits(plain, x)
    assert [coded.weight for coded in coded_weights(protected)] == [name]


def test_equal_tensors_are_each_decoded(code):
    plain, values = several([(5, 7)] * 6)
    for tensor in plain.graph.initializer[2:6:2]:
        tensor.raw_data = plain.graph.initializer[0].raw_data
    protected = protect(plain, [f"w{at}" for at in range(len(values))], code)
    feeds = {"x": np.ones(1, np.float32)}
    assert outputs(protected, feeds)["y"].tobytes() == outputs(plain, feeds)["y"].tobytes()


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("stage", [256, 2048])
def test_decoding_in_stages(opset, stage, code, monkeypatch):
    monkeypatch.setattr("resq_deploy.protection.protect._STAGE", stage)
    plain, values = several([(64, 64), (30,), (2, 3), (40, 33), (9, 128), (7, 7)], opset)
    protected = protect(plain, [f"w{at}" for at in range(len(values))], code, health=True)
    stages = sum(node.op_type == "If" for node in protected.graph.node)
    assert 0 < stages < 8
    feeds = {"x": np.ones(1, np.float32)}
    faulty = with_flips(protected, 1.0, 0)
    found = outputs(faulty, feeds)
    assert found["y"].tobytes() == outputs(plain, feeds)["y"].tobytes()
    stored = np.concatenate([np.frombuffer(tensor.raw_data, dtype=np.uint8) for tensor in coded(faulty)])
    assert found[HEALTH].tolist() == [(correct(code, stored).status == Status.CORRECTED).sum(), 0]


def test_where_stages_make_a_difference_there_are_none(code, monkeypatch):
    monkeypatch.setattr("resq_deploy.protection.protect._STAGE", 256)
    plain, values = several([(64, 64), (40, 33)])
    for node in plain.graph.node:
        if node.op_type == "Reshape":  # behind what is dequantized, onnxruntime puts it before
            node.input[0] = node.input[0].replace("m", "d")
    protected = protect(plain, [f"w{at}" for at in range(len(values))], code)
    feeds = {"x": np.ones(1, np.float32)}
    assert outputs(with_flips(protected, 0.5, 0), feeds)["y"].tobytes() == outputs(plain, feeds)["y"].tobytes()
    assert operators(protected) == operators(plain)


def unprotected(proto):
    """Stored tensors of a file that are neither code words nor copies of something."""
    words = {name for coded in coded_weights(proto) for name in coded.stored}
    return {name for _, name in stored_tensors(proto.graph)} - words - repeated(proto)


@pytest.mark.parametrize("health", [False, True])
@pytest.mark.parametrize("opset", [13, 18])
def test_all_that_the_decoder_reads_is_voted(opset, health, code):
    plain, values = several(SHAPES, opset)
    protected = protect(plain, [f"w{at}" for at in range(len(values))], code, health=health)
    assert unprotected(protected) == {"scale", "flat"}


def guarded(opset=13):
    """A file every stored tensor of which is protected, and an input."""
    guards = guard(gemm(np.arange(-7, 8, dtype=np.int8).reshape(3, 5), opset).SerializeToString(), ["scale"])
    return onnx.ModelProto.FromString(guards), np.random.default_rng(1).random((4, 3), dtype=np.float32)


def stored_bits(proto):
    """Every stored bit of a file: place of the tensor, byte, bit."""
    for place, tensor in enumerate(proto.graph.initializer):
        assert len(tensor.raw_data) == numpy_helper.to_array(tensor).nbytes
        yield from itertools.product([place], range(len(tensor.raw_data)), range(8))


def flipped(proto, place, byte, bit):
    faulty = onnx.ModelProto()
    faulty.CopyFrom(proto)
    values = bytearray(faulty.graph.initializer[place].raw_data)
    values[byte] ^= 1 << bit
    faulty.graph.initializer[place].raw_data = bytes(values)
    return faulty


def check_flips(proto, x, bits, optimization="all"):
    expected = outputs(proto, {"x": x}, optimization)
    assert expected[HEALTH].tolist() == [0, 0]
    for place, byte, bit in bits:
        found = outputs(flipped(proto, place, byte, bit), {"x": x}, optimization)
        assert found["y"].tobytes() == expected["y"].tobytes(), (proto.graph.initializer[place].name, byte, bit)
        # A spare bit that is not decoded harms nothing, and is not counted.
        assert found[HEALTH].tolist() in ([1, 0], [0, 0])


@pytest.mark.parametrize("opset", [13, 18])
def test_no_flip_of_a_stored_bit_changes_an_output(opset, code):
    plain, x = guarded(opset)
    protected = protect(plain, ["w"], code, health=True)
    assert unprotected(protected) == set()
    bits = np.random.default_rng(0).permutation(list(stored_bits(protected)))
    check_flips(protected, x, bits[:60])


@pytest.mark.slow
@pytest.mark.parametrize("opset", [13, 18])
def test_no_flip_all_over_a_file_changes_an_output(opset, code):
    plain, x = guarded(opset)
    protected = protect(plain, ["w"], code, health=True)
    # One bit in 61 of tens of thousands, so that all bits of a byte take their turn; the same nodes as are folded,
    # without the time that folding takes.
    check_flips(protected, x, itertools.islice(stored_bits(protected), 0, None, 61), "none")


DENSE = [shape for width in range(64, 2000, 32) for shape in ((128, width, 1, 1), (32, 128, 3, 3))]
"""The shapes of a DenseNet: a new one every other layer, 61 in all."""


@pytest.mark.parametrize("health", [False, True])
@pytest.mark.parametrize("opset", [13, 18])
def test_tables_of_many_layers_stay_small(opset, health, code, monkeypatch):
    """At most 8 KiB under the default code from opset 18 on; logarithms, and nine copies before it, take more."""
    monkeypatch.setattr("resq_deploy.protection.protect._optimised_parts", lambda _: 0)
    plain, values = several(DENSE, opset)
    protected = protect(plain, [f"w{at}" for at in range(len(values))], code, health=health)
    words = {name for coded in coded_weights(protected) for name in coded.stored}
    tables = [t for t in protected.graph.initializer if t.name not in words | {"scale", "flat"}]
    most = 8 if code.corrects == 1 and opset >= LEAST_OPSET else 18
    assert sum(tensor.ByteSize() for tensor in tables) <= most * 1024


def test_the_health_of_a_sound_file_costs_nothing_at_run_time(model_file, models, code):
    plain, names = narrowed(model_file("cnn-qdq-channel-s8"), code)
    protected = protect(plain, names, code, health=True)
    assert [value.name for value in protected.graph.output] == [*(value.name for value in plain.graph.output), HEALTH]
    optimised = optimise(protected.SerializeToString(), DEPLOYMENT).graph
    assert operators(protected) == operators(plain)
    (health,) = (tensor for tensor in optimised.initializer if tensor.name == HEALTH)
    assert numpy_helper.to_array(health).tolist() == [0, 0]
    images = models.images(5)
    assert logits(protected, images) == logits(plain, images)


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("rate", [1e-4, 1e-3, 1e-2])
def test_health_is_what_correction_in_numpy_finds(opset, rate, code):
    plain, values = several([(60, 64), (60, 64), (64, 65)], opset)
    names = [f"w{at}" for at in range(len(values))]
    plain = onnx.ModelProto.FromString(guard(plain.SerializeToString(), ["scale"]))
    protected = protect(plain, names, code, health=True)
    random, expected = np.random.default_rng(3), np.zeros(2, dtype=int)
    for tensor in coded(protected):
        stored = np.frombuffer(tensor.raw_data, dtype=np.uint8)
        flips = np.packbits(random.random((stored.size, 8)) < rate, axis=1).reshape(-1)
        tensor.raw_data = (stored ^ flips).tobytes()
        status = correct(code, stored ^ flips).status
        expected += [(status == each).sum() for each in (Status.CORRECTED, Status.UNCORRECTABLE)]
    assert expected[0]
    assert expected[1] or rate < 1e-2
    found = outputs(protected, {"x": np.ones(1, np.float32)})
    assert found[HEALTH].tolist() == expected.tolist()
    (vote,) = (vote for vote in find_votes(protected) if vote.output == "scale")
    for copy in vote.copies:
        (place,) = (at for at, tensor in enumerate(protected.graph.initializer) if tensor.name == copy)
        again = outputs(flipped(protected, place, 0, 3), {"x": np.ones(1, np.float32)})
        assert again[HEALTH].tolist() == [expected[0] + 1, expected[1]]
        assert again["y"].tobytes() == found["y"].tobytes()


def test_the_file_names_its_code_and_the_onnxruntime_it_needs(tmp_path, code):
    plain = gemm(np.ones((3, 5), np.int8))
    plain.metadata_props.add(key="author", value="somebody")
    onnx.save(protect(plain, ["w"], code), tmp_path / "protected.onnx")
    found = metadata(onnx.load(tmp_path / "protected.onnx"))
    assert found == {"author": "somebody", "resq.code": code.name, "resq.least_onnxruntime": "1.22"}


def test_votes_on_int8_need_a_later_onnxruntime():
    plain = gemm(np.ones((3, 5), np.int8))
    zero = numpy_helper.from_array(np.array(0, np.int8), "zero")
    plain.graph.initializer.append(zero)
    plain.graph.node[0].input.append("zero")
    plain = onnx.ModelProto.FromString(guard(plain.SerializeToString(), ["zero"]))
    assert metadata(protect(plain, ["w"], known_code("secded")))["resq.least_onnxruntime"] == "1.31"


def _twice():
    proto = gemm(np.ones((3, 5), np.int8))
    return protect(proto, ["w"], known_code("secded"))


def _four_bits():
    proto = gemm(np.ones((3, 5), np.int8), 21, ir=10)
    proto.graph.initializer[0].CopyFrom(helper.make_tensor("w", TensorProto.INT4, [3, 5], [1] * 15))
    return proto


def _given():
    proto = gemm(np.ones((3, 5), np.int8))
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.INT8, [3, 5]))
    return proto


def _in_subgraph():
    """A file that stores its weights in both branches of an If."""
    proto = gemm(np.ones((3, 5), np.int8))
    weights = proto.graph.initializer[0]
    branches = {}
    for name in ("then_branch", "else_branch"):
        output = helper.make_tensor_value_info(f"{name}.w", TensorProto.INT8, [3, 5])
        node = helper.make_node("Identity", ["v"], [output.name])
        stored = numpy_helper.from_array(numpy_helper.to_array(weights), "v")
        branches[name] = helper.make_graph([node], name, [], [output], [stored])
    del proto.graph.initializer[0]
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "which"))
    proto.graph.node.insert(0, helper.make_node("If", ["which"], ["w"], **branches))
    return proto


def _external():
    proto = gemm(np.ones((3, 5), np.int8))
    proto.graph.initializer[0].data_location = TensorProto.EXTERNAL
    return proto


@pytest.mark.parametrize(
    ("proto", "tensor", "reason"),
    [
        pytest.param(lambda: gemm(np.full((3, 5), 64, np.int8)), "w", r"outside \[-64, 63\]", id="eight-bits"),
        pytest.param(lambda: gemm(np.full((3, 5), 128, np.uint8)), "w", r"outside \[0, 127\]", id="unsigned"),
        pytest.param(lambda: gemm(np.ones((3, 5), np.int16), 21), "w", "int8 and uint8, not int16", id="int16"),
        pytest.param(_four_bits, "w", "codes protect int8 and uint8, not int4", id="int4"),
        pytest.param(lambda: gemm(np.ones((3, 5), np.int8)), "scale", "int8 and uint8, not float", id="float"),
        pytest.param(lambda: gemm(np.ones((3, 5), np.int8)), "v", "stores no tensor of that name", id="unknown"),
        pytest.param(lambda: gemm(np.ones((0, 5), np.int8)), "w", "holds no values", id="empty"),
        pytest.param(lambda: gemm(np.ones((3, 5), np.int8), 12), "w", "opset 12, the decoder needs 13", id="opset"),
        pytest.param(_given, "w", "graph input too", id="overridable"),
        pytest.param(_external, "w", "external data", id="external"),
        pytest.param(_in_subgraph, "v", "stored elsewhere than as an initializer of the main graph", id="subgraph"),
        pytest.param(_twice, "scale", "carries a code already", id="twice"),
    ],
)
def test_what_cannot_be_protected(proto, tensor, reason):
    code = known_code("secded")
    with pytest.raises(ModelError, match=f"'{tensor}' cannot be protected: .*{reason}"):
        protect(proto(), [tensor], code)
    assert list(obstacles(proto(), [tensor], code)) == [tensor]


def test_a_file_whose_decoder_is_not_folded_is_refused(monkeypatch):
    import resq_deploy.protection.protect as room

    monkeypatch.setattr(room, "Deployment", lambda: Deployment(optimization="none"))
    with pytest.raises(ModelError, match="does not make of this file with a code what it makes without"):
        protect(gemm(np.ones((3, 5), np.int8)), ["w"], known_code("secded"))
