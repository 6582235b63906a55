"""Reading back where a protected file stores each weight."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.codes.known import KNOWN, known_code
from resq_deploy.codes.words import decode
from resq_deploy.deployed.coded import coded_weights
from resq_deploy.errors import ModelError
from resq_deploy.protection.protect import protect

SHAPES = {"a": (3, 40), "b": (40, 5), "c": (5, 64), "d": (64,), "e": (20, 128), "f": (2560,)}


def file_of(code):
    """Weights of several shapes, one of which is reshaped by the file's own node."""
    random = np.random.default_rng(0)
    values = {
        name: random.integers(-code.largest - 1, code.largest + 1, shape).astype(np.int8)
        for name, shape in SHAPES.items()
    }
    nodes = [
        helper.make_node("MatMulInteger", ["x", "a"], ["xa"]),
        helper.make_node("Reshape", ["d", "square"], ["d2"]),
        helper.make_node("MatMulInteger", ["z", "d2"], ["y"]),
        helper.make_node("Concat", ["b", "c2"], ["bc"], axis=0),
        helper.make_node("Reshape", ["c", "five"], ["c2"]),
        helper.make_node("Identity", ["e"], ["e2"]),
        helper.make_node("Identity", ["f"], ["f2"]),
    ]
    nodes[3:5] = nodes[4], nodes[3]
    kinds = {"xa": 6, "y": 6, "bc": 3, "e2": 3, "f2": 3}
    outputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
    graph = helper.make_graph(
        nodes,
        "weights",
        [helper.make_tensor_value_info(name, TensorProto.INT8, ["N", size]) for name, size in (("x", 3), ("z", 8))],
        outputs,
        [
            *(numpy_helper.from_array(value, name) for name, value in values.items()),
            numpy_helper.from_array(np.array([8, 8]), "square"),
            numpy_helper.from_array(np.array([-1, 5]), "five"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), values


@pytest.mark.parametrize("kind", KNOWN, ids="{0[0]}-{0[1]}".format)
@pytest.mark.parametrize("stage", [64, 300, 1 << 20])
@pytest.mark.parametrize("piece", [128, 1 << 26])
def test_every_weight_is_where_it_is_said_to_be(kind, stage, piece, monkeypatch):
    monkeypatch.setattr("resq_deploy.protection.protect._STAGE", stage)
    monkeypatch.setattr("resq_deploy.protection.protect._PIECE", piece)
    code = known_code(*kind)
    model, values = file_of(code)
    protected = protect(model, list(values), code)
    stored = {tensor.name: tensor.raw_data for tensor in protected.graph.initializer}
    found = coded_weights(protected)
    assert [coded.weight for coded in found] == list(values)
    for coded in found:
        assert coded.code == code
        whole = np.frombuffer(b"".join(stored[name] for name in coded.stored), dtype=np.uint8)
        weights = decode(code, whole).weights[coded.start : coded.start + coded.count]
        assert coded.shape == values[coded.weight].shape
        assert weights.tolist() == values[coded.weight].reshape(-1).tolist()


def test_a_file_without_code_stores_nothing_under_one():
    model, _ = file_of(known_code("secded"))
    assert coded_weights(model) == ()


def test_a_code_of_another_version():
    model, values = file_of(known_code("secded"))
    protected = protect(model, list(values), known_code("secded"))
    newer = onnx.ModelProto.FromString(protected.SerializeToString().replace(b"decode_secded", b"decode_golay2"))
    with pytest.raises(ModelError, match="'decode_golay2', which this version does not know"):
        coded_weights(newer)
