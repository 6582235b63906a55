"""Protected files: the computation of the plain file, whatever its format, and no trace of a flip in a weight."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.codes.known import known_code
from resq_deploy.deployed.coded import DOMAIN
from resq_deploy.deployed.graph import read_model
from resq_deploy.deployed.runtime_graph import optimise
from resq_deploy.deployed.session import Deployment, Session
from resq_deploy.deployed.surfaces import Role, find_surfaces
from resq_deploy.errors import ModelError
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


def _twice():
    proto = gemm(np.ones((3, 5), np.int8))
    return protect(proto, ["w"], known_code("secded"))


def _given():
    proto = gemm(np.ones((3, 5), np.int8))
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.INT8, [3, 5]))
    return proto


def _external():
    proto = gemm(np.ones((3, 5), np.int8))
    proto.graph.initializer[0].data_location = TensorProto.EXTERNAL
    return proto


@pytest.mark.parametrize(
    ("proto", "tensor", "reason"),
    [
        pytest.param(lambda: gemm(np.full((3, 5), 64, np.int8)), "w", r"outside \[-64, 63\]", id="eight-bits"),
        pytest.param(lambda: gemm(np.ones((3, 5), np.uint8)), "w", "codes protect int8, not uint8", id="uint8"),
        pytest.param(lambda: gemm(np.ones((3, 5), np.int8)), "scale", "codes protect int8, not float", id="float"),
        pytest.param(lambda: gemm(np.ones((3, 5), np.int8)), "v", "stores no tensor of that name", id="unknown"),
        pytest.param(lambda: gemm(np.ones((0, 5), np.int8)), "w", "holds no values", id="empty"),
        pytest.param(lambda: gemm(np.ones((3, 5), np.int8), 12), "w", "opset 12, the decoder needs 13", id="opset"),
        pytest.param(_given, "w", "graph input too", id="overridable"),
        pytest.param(_external, "w", "external data", id="external"),
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
