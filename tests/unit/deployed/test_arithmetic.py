import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.deployed import deployment as deployed
from resq_deploy.deployed import kernels
from resq_deploy.deployed.arithmetic import Arithmetic, has_integers, made_exact
from resq_deploy.deployed.deployment import Deployment, create
from resq_deploy.deployed.session import Session
from resq_deploy.errors import ModelError

ALL = frozenset(kernels.FORMS)
SOURCE = np.random.default_rng(0)
CODES = SOURCE.choice(np.array([-128, 127], np.int8), (24, 10))
LEFT = SOURCE.integers(200, 256, (5, 24)).astype(np.uint8)
SUMS = LEFT.astype(np.int64) @ CODES.astype(np.int64)


@pytest.fixture
def forced(monkeypatch):
    monkeypatch.setenv(kernels.FORCE, "1")


def model(nodes, stored, *, inputs=(("a", TensorProto.UINT8),), outputs=("y",), opset=17, **graph):
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in inputs],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
        **graph,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=9)


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), f"{op} of {outputs}", **attributes)


def exact(proto):
    return made_exact(proto, ALL, lambda _: {})


def answers(proto, feeds, **deployment):
    return create(proto.SerializeToString(), Deployment(**deployment)).run(None, feeds)


def products(proto):
    """Type of the right operand of each integer product of a model that is run as it is."""
    stored = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    return [stored.get(each.input[1]) for each in proto.graph.node if each.op_type == "MatMulInteger"]


def test_a_stored_weight_is_moved_once_and_nothing_else_changes():
    proto = model([node("MatMulInteger", "a w", "y"), node("MatMulInteger", "a w", "z")], {"w": CODES}, outputs="yz")
    before = proto.SerializeToString()
    found = exact(proto)
    assert proto.SerializeToString() == before
    assert products(found) == [TensorProto.UINT8] * 2
    moved = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.graph.initializer}
    assert len([value for value in moved.values() if value.shape == CODES.shape and value.dtype == np.uint8]) == 1
    np.testing.assert_array_equal(moved["w"], CODES)
    for found in answers(proto, {"a": LEFT}):
        np.testing.assert_array_equal(found, SUMS)


def test_codes_of_seven_bits_stay_as_they_are():
    small = np.clip(CODES, -64, 64)
    assert exact(model([node("MatMulInteger", "a w", "y")], {"w": small})) is None
    assert exact(model([node("MatMulInteger", "a w", "y")], {"w": np.where(CODES > 0, 65, 0).astype(np.int8)}))


def test_what_multiplies_no_integers_is_left_alone():
    proto = model([node("MatMul", "a w", "y")], {"w": np.zeros((3, 3), np.float32)}, inputs=[("a", TensorProto.FLOAT)])
    assert exact(proto) is None
    assert not has_integers(proto.SerializeToString())
    assert has_integers(model([node("MatMulInteger", "a w", "y")], {"w": CODES}).SerializeToString())


def test_other_domains_keep_their_operators():
    """An operator of the same name in a domain of the user's is not onnxruntime's."""
    assert exact(model([node("MatMulInteger", "a w", "y", domain="mine")], {"w": CODES})) is None


BEHIND = {
    "transpose": ([node("Transpose", "t", "w", perm=[1, 0])], {"t": np.ascontiguousarray(CODES.T)}),
    "reshape": ([node("Reshape", "t shape", "w")], {"t": CODES.reshape(-1), "shape": np.array([24, 10])}),
    "vote": (
        [node("Equal", "t u", "e"), node("Where", "e t v", "w")],
        {"t": CODES, "u": CODES, "v": np.zeros_like(CODES)},
    ),
    "constant": ([helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(CODES))], {}),
    "sum": ([node("Cast", "t", "c", to=TensorProto.INT32), node("Cast", "c", "w", to=TensorProto.INT8)], {"t": CODES}),
}


@pytest.mark.parametrize("optimization", ["all", "none"])
@pytest.mark.parametrize("behind", BEHIND)
def test_weights_behind_other_nodes(forced, behind, optimization):
    nodes, stored = BEHIND[behind]
    proto = model([*nodes, node("MatMulInteger", "a w", "y")], stored)
    np.testing.assert_array_equal(answers(proto, {"a": LEFT}, optimization=optimization)[0], SUMS)


def test_a_weight_is_also_an_output_of_the_file(forced):
    """Whoever else reads the int8 tensor still gets it as it is stored."""
    proto = model(
        [node("MatMulInteger", "a w", "y"), node("Cast", "w", "z", to=TensorProto.FLOAT)], {"w": CODES}, outputs="yz"
    )
    total, plain = answers(proto, {"a": LEFT})
    np.testing.assert_array_equal(total, SUMS)
    np.testing.assert_array_equal(plain, CODES)


@pytest.mark.parametrize("inside", ["its own", "from outside", "made outside"])
def test_subgraphs(forced, inside):
    """The branches of an If multiply by a weight of their own, of the graph around them, or one computed there."""
    other = np.ascontiguousarray(CODES[::-1])
    branches = {}
    for name, codes in (("then", CODES), ("else", other)):
        own = [numpy_helper.from_array(codes, "w")] if inside == "its own" else []
        weight = "w" if inside == "its own" else f"w {name}"
        made = helper.make_node("MatMulInteger", ["a", weight], [f"y {name}"])
        branches[f"{name}_branch"] = helper.make_graph([made], name, [], [onnx.ValueInfoProto(name=f"y {name}")], own)
    nodes, stored = [helper.make_node("If", ["c"], ["y"], **branches)], {}
    if inside == "from outside":
        stored = {"w then": CODES, "w else": other}
    elif inside == "made outside":
        stored = {"t then": np.ascontiguousarray(CODES.T), "t else": np.ascontiguousarray(other.T)}
        turned = [helper.make_node("Transpose", [f"t {name}"], [f"w {name}"], perm=[1, 0]) for name in ("then", "else")]
        nodes = [*turned, *nodes]
    proto = model(nodes, stored, inputs=[("a", TensorProto.UINT8), ("c", TensorProto.BOOL)])
    for chosen, codes in ((True, CODES), (False, other)):
        for optimization in ("all", "basic", "none"):
            (found,) = answers(proto, {"a": LEFT, "c": np.array(chosen)}, optimization=optimization)
            np.testing.assert_array_equal(found, LEFT.astype(np.int64) @ codes.astype(np.int64))


@pytest.mark.parametrize("optimization", ["all", "none"])
def test_functions(forced, optimization, monkeypatch):
    body = [helper.make_node("MatMulInteger", ["left", "right"], ["sums"])]
    proto = model([helper.make_node("Product", ["a", "w"], ["y"], domain="own")], {"w": CODES})
    proto.opset_import.add(domain="own", version=1)
    proto.functions.append(
        helper.make_function("own", "Product", ["left", "right"], ["sums"], body, [helper.make_opsetid("", 17)])
    )
    run, made = [], deployed._create

    def create_and_keep(given, *rest, **options):
        run.append(onnx.ModelProto.FromString(given))
        return made(given, *rest, **options)

    monkeypatch.setattr(deployed, "_create", create_and_keep)
    (found,) = answers(proto, {"a": LEFT}, optimization=optimization)
    assert products(run[-1]) == [TensorProto.UINT8]  # wherever it runs, whatever this CPU does
    np.testing.assert_array_equal(found, SUMS)


def test_an_initializer_that_may_be_overridden_is_no_constant(forced):
    """As an input of the graph it can be fed: what counts is what is fed."""
    proto = model(
        [node("MatMulInteger", "a w", "y")],
        {"w": np.zeros_like(CODES)},
        inputs=[("a", TensorProto.UINT8), ("w", TensorProto.INT8)],
    )
    np.testing.assert_array_equal(answers(proto, {"a": LEFT, "w": CODES}, optimization="none")[0], SUMS)
    np.testing.assert_array_equal(answers(proto, {"a": LEFT}, optimization="none")[0], np.zeros_like(SUMS))


def test_names_that_are_taken(forced):
    stored = {"w": CODES, "w uint8": np.zeros((5, 10), np.int32), "half uint8": np.ones((5, 10), np.int32)}
    nodes = [node("MatMulInteger", "a w", "m")]
    nodes += [helper.make_node("Sum", ["m f", "w f"], ["y"])]
    casts = [helper.make_node("Cast", [name], [f"{short} f"], to=TensorProto.FLOAT) for name, short in (("m", "m"),)]
    casts += [helper.make_node("Cast", ["w uint8"], ["w f"], to=TensorProto.FLOAT)]
    proto = model([nodes[0], *casts, nodes[1]], stored)
    np.testing.assert_array_equal(answers(proto, {"a": LEFT}, optimization="none")[0], SUMS)


def recurrent(dtype):
    """DynamicQuantizeLSTM with large codes, stored as int8 or as uint8 128 above."""
    source = np.random.default_rng(1)
    weights = {"w": source.choice(np.array([-128, 127], np.int8), (1, 16, 32)), "r": np.full((1, 8, 32), 5, np.int8)}
    stored = {name: codes if dtype is np.int8 else codes.view(np.uint8) ^ 0x80 for name, codes in weights.items()}
    zero = np.zeros(1, np.int8) if dtype is np.int8 else np.full(1, 128, np.uint8)
    stored |= {"b": np.zeros((1, 64), np.float32), "s": np.full(1, 1e-4, np.float32), "z": zero}
    inputs = ["x", "w", "r", "b", "", "", "", "", "s", "z", "s", "z"]
    lstm = helper.make_node("DynamicQuantizeLSTM", inputs, ["y"], domain="com.microsoft", hidden_size=8)
    return model([lstm], stored, inputs=[("x", TensorProto.FLOAT)]), {"x": 255 * source.random((6, 2, 16), np.float32)}


def attention(dtype):
    source = np.random.default_rng(1)
    codes = source.choice(np.array([-128, 127], np.int8), (16, 48))
    stored = {"w": codes if dtype is np.int8 else codes.view(np.uint8) ^ 0x80, "b": np.zeros(48, np.float32)}
    zero = np.int8(0) if dtype is np.int8 else np.uint8(128)
    stored |= {"s": np.array(1e-3, np.float32), "xz": np.array(0, np.uint8), "z": np.array(zero)}
    inputs = ["x", "w", "b", "s", "s", "", "xz", "z"]
    made = helper.make_node("QAttention", inputs, ["y"], domain="com.microsoft", num_heads=2)
    feeds = {"x": source.integers(200, 256, (2, 4, 16)).astype(np.uint8)}
    return model([made], stored, inputs=[("x", TensorProto.UINT8)]), feeds


@pytest.mark.parametrize("build", [recurrent, attention], ids=lambda build: build.__name__)
def test_layers_of_onnxruntime_that_end_in_floats(forced, build):
    proto, feeds = build(np.int8)
    (found,) = answers(proto, feeds)
    (expected,) = answers(build(np.uint8)[0], feeds, arithmetic=Arithmetic.NATIVE)
    assert found.tobytes() == expected.tobytes()
    assert len(np.unique(found)) > 4


def test_a_type_that_cannot_be_told_ends_the_run_with_the_layer(forced):
    """Inside a Loop's body onnxruntime cannot be asked for the type of a value, and not every operator tells."""
    carried = helper.make_tensor_value_info("carried", TensorProto.INT8, None)
    step = helper.make_tensor_value_info("step", TensorProto.INT64, [])
    condition = helper.make_tensor_value_info("condition", TensorProto.BOOL, [])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["condition"], ["go on"]),
            helper.make_node("Tile", ["carried", "once"], ["tiled"]),
            helper.make_node("MatMulInteger", ["a", "tiled"], ["m"], "inner product"),
            helper.make_node("Identity", ["carried"], ["kept"]),
        ],
        "body",
        [step, condition, carried],
        [onnx.ValueInfoProto(name=name) for name in ("go on", "kept", "m")],
    )
    loop = helper.make_node("Loop", ["count", "", "w"], ["last", "y"], body=body)
    proto = model([loop], {"w": CODES, "count": np.array(2), "once": np.array([1, 1])}, outputs=["y"])
    with pytest.raises(ModelError, match=r"MatMulInteger 'inner product': the type of 'tiled' cannot be told.*native"):
        answers(proto, {"a": LEFT}, optimization="none")
    assert answers(proto, {"a": LEFT}, optimization="none", arithmetic=Arithmetic.NATIVE)[0].shape == (2, 5, 10)


def test_every_kind_of_file_answers_alike_either_way(models, model_file, file_kind, monkeypatch):
    images = models.images(6, file_kind)
    file = model_file(file_kind).read_bytes()
    for optimization in ("all", "extended", "basic", "none"):
        deployment = Deployment(batch=3, optimization=optimization)
        monkeypatch.setenv(kernels.FORCE, "0")
        as_needed = Session(file, deployment).run(images)
        monkeypatch.setenv(kernels.FORCE, "1")
        assert Session(file, deployment).run(images).tobytes() == as_needed.tobytes()
