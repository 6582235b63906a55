"""No stored bit is missed and none is counted twice, wherever a file stores it; what is left out is no value."""

import collections

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.deployed.model import DeployedModel
from resq_deploy.errors import InjectionError, ModelError
from resq_deploy.faults.fault import Edit, Fault, Op

WEIGHTS = {"W": ("weight", "c", (4, 3, 3, 3), 1), "fc": ("weight", "y", (4, 5), 1)}
CONV = {**WEIGHTS, "W": ("weight", "c0", (4, 3, 3, 3), 1)}
IF = {"fc": WEIGHTS["fc"], "limit": ("constant", "cd", (), 1)}
INTEGERS = {
    **WEIGHTS,
    "scale": ("activation-scale", "q", (), 1),
    "zero": ("activation-zero-point", "q", (), 1),
    "s__1": ("activation-scale", "convolution__1", (), 2),
    "z__1": ("activation-zero-point", "convolution__1", (), 2),
    "ws__1": ("weight-scale", "convolution__1", (), 2),
    "wz__1": ("weight-zero-point", "convolution__1", (), 2),
}
VARINT = "varint-coded attribute: a flip changes the file's framing"
SURFACES = {  # role, layer, shape, places that hold it
    "if_initializers": {**IF, **dict.fromkeys(("wt", "we"), ("weight", "c", (4, 3, 3, 3), 1))},
    "if_constants": {**IF, **dict.fromkeys(("wt", "we"), ("weight", "c", (4, 3, 3, 3), 1))},
    "if_same_name": {
        **IF,
        **dict.fromkeys(("w0", "choice.then_branch/w0"), ("weight", "c", (4, 3, 3, 3), 1)),
    },
    "returned_by_graph": {
        **CONV,
        "anchors": ("float", "anchors", (2, 3), 1),
        "temperature": ("constant", "temperature", (), 1),
        "labels": ("constant", "labels", (3,), 1),
    },
    "constant_of_shape": {**CONV, "k.value": ("constant", "c", (1,), 1)},
    "int64_table": {**CONV, "tab": ("constant", "c", (1, 4, 1, 1), 1)},
    "int32_table": {**CONV, "small": ("constant", "c", (1, 4, 1, 1), 1), "ints": ("constant", "c1", (4,), 1)},
    "bool_mask": {**CONV, "mask": ("constant", "c", (1, 4, 1, 1), 1), "lo": ("constant", "c", (), 1)},
    "ml_attributes": {
        **{f"g.{name}": ("constant", "g", (192,), 1) for name in ("offset", "scale")},
        "y.coefficients": ("constant", "y", (960,), 1),
        "y.intercepts": ("constant", "y", (5,), 1),
    },
    "trees": {
        "forest.nodes_values": ("constant", "forest", (3,), 1),
        "forest.target_weights": ("constant", "forest", (2,), 1),
    },
    "standard_attributes": {
        **CONV,
        "fc": ("weight", "last", (4, 5), 1),
        "b": ("bias", "last", (5,), 1),
        "leaky.alpha": ("constant", "leaky", (), 1),
        "last.alpha": ("constant", "last", (), 1),
        "last.beta": ("constant", "last", (), 1),
    },
    "counted_twice": {
        **WEIGHTS,
        "w__1": ("weight", "b0__1", (3, 3, 3, 3), 2),
        "leaky__1.alpha": ("constant", "leaky__1", (), 2),
    },
    "function_defaults": {
        **CONV,
        "b__1.alpha": ("constant", "b__1", (), 2),
        "d__1.alpha": ("constant", "d__1", (), 2),
        "d__2.alpha": ("constant", "d__2", (), 2),
    },
    "integer_table_of_shapes": CONV,
    "loop": {
        **WEIGHTS,
        "fc": ("weight", "m", (4, 5), 1),
        "factor": ("float", "next", (4, 3, 3, 3), 1),
        "extra": ("float", "o", (5,), 1),
    },
    "integers_twice": {**INTEGERS, "w__1": ("weight", "convolution__1", (3, 3, 3, 3), 2)},
    "votes_twice": {
        **INTEGERS,
        **{f"w{copy}__1": ("weight", "convolution__1", (3, 3, 3, 3), 2) for copy in "123"},
    },
}
LEFT_OUT = {  # bits, reason
    "constant_of_shape": {"shape": (256, "shape")},
    "int32_table": {"as": (256, "shape")},
    "ml_attributes": {"y.targets": (8, VARINT)},
    "trees": {
        **{
            f"forest.{name}": (bits, VARINT)
            for name, bits in {
                "n_targets": 8,
                "nodes_falsenodeids": 24,
                "nodes_featureids": 24,
                "nodes_nodeids": 24,
                "nodes_treeids": 24,
                "nodes_truenodeids": 24,
                "target_ids": 16,
                "target_nodeids": 16,
                "target_treeids": 16,
            }.items()
        },
        "forest.nodes_modes": (8 * len("BRANCH_LEQLEAFLEAF"), "text"),
    },
    "integer_table_of_shapes": {
        "first": (64, "index"),
        "one": (64, "shape"),
        "rest": (128, "shape"),
        "axes": (64, "axis"),
        "ratio": (32, "read in training only"),
        "training": (8, "switch"),
    },
    "loop": {"turns": (64, "switch"), "start": (8, "switch"), "axis": (64, "axis")},
}


def answer(model, images):
    """Every output of a serialised model, or None where onnxruntime refuses it."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, {"x": images})
    except Exception:
        return None


def alike(first, second):
    return (first is None) == (second is None) and (
        first is None or all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))
    )


def holders(message):
    """Every tensor and every attribute with floats of a model, functions included; walked by field, not by kind."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in value if field.is_repeated else [value]:
            if isinstance(inner, TensorProto) or (
                isinstance(inner, onnx.AttributeProto) and (inner.HasField("f") or inner.floats)
            ):
                yield inner
            yield from holders(inner)


def held(holder):
    """The bytes of a tensor or of an attribute's floats."""
    if isinstance(holder, TensorProto):
        return numpy_helper.to_array(holder).tobytes()
    return np.array(list(holder.floats) or [holder.f], np.float32).tobytes()


def put(holder, data):
    """Replace the bytes of a tensor or of an attribute's floats; as bytes, since Python quietens signalling NaNs."""
    if isinstance(holder, TensorProto):
        for name in ("raw_data", "float_data", "int32_data", "int64_data"):
            holder.ClearField(name)
        holder.raw_data = data
        return
    key = b"\x3d" if holder.floats else b"\x15"
    holder.ClearField("floats")
    holder.ClearField("f")
    for at in range(0, len(data), 4):
        holder.MergeFromString(key + data[at : at + 4])


@pytest.mark.parametrize("name", SURFACES)
def test_every_stored_value_is_a_surface_or_listed(name, case_file):
    model = DeployedModel.load(case_file(name))

    found = {s.tensor: (str(s.role), s.layer, s.shape, len(s.sites)) for s in model.surfaces}
    assert found == SURFACES[name]
    assert {left.tensor: (left.bits, left.reason) for left in model.left_out} == LEFT_OUT.get(name, {})


@pytest.mark.parametrize("name", SURFACES)
def test_surfaces_and_what_is_left_out_are_all_bits_that_the_file_stores(name, case_file):
    model, proto = DeployedModel.load(case_file(name)), onnx.load(case_file(name))

    bits = sum(8 * len(held(holder)) for holder in holders(proto))
    bits += 64 * sum(len(a.ints) for node in proto.graph.node for a in node.attribute if a.name == "value_ints")
    bits += sum(size for size, reason in LEFT_OUT.get(name, {}).values() if reason in (VARINT, "text"))
    assert sum(surface.bits for surface in model.surfaces) + sum(left.bits for left in model.left_out) == bits


@pytest.mark.parametrize("name", SURFACES)
def test_what_is_read_answers_as_the_file_does(name, case_file, stored_cases):
    images = stored_cases.images()
    golden = DeployedModel.load(case_file(name)).patcher().golden

    answered = answer(golden, images)
    assert answered is not None
    assert alike(answered, answer(case_file(name).read_bytes(), images))


@pytest.mark.parametrize("name", SURFACES)
def test_a_flip_is_one_flip_in_the_bytes_of_the_file(name, case_file, stored_cases):
    """The file itself is changed where it stores the value, once, and must answer as the patched model does."""
    model, images = DeployedModel.load(case_file(name)), stored_cases.images()
    patcher, rng = model.patcher(), np.random.default_rng(0)
    golden, changed = answer(patcher.golden, images), 0
    seen = collections.Counter()
    for surface in model.surfaces:
        stored = patcher.stored(surface.tensor).tobytes()
        for bit in {surface.width - 1, surface.width - 2, surface.width - 9, 0} & set(range(surface.width)):
            index = int(rng.integers(surface.elements))
            fault = Fault(0, (Edit.of(surface.tensor, [index], [bit]),))
            faulty = patcher.apply(patcher.masks(fault))
            assert patcher.prove(fault, faulty) == 1
            assert patcher.prove_values(fault, patcher.values(patcher.masks(fault))) == 1
            file = onnx.load(case_file(name))
            if surface.tensor == "ints":
                (constant,) = (a for node in file.graph.node for a in node.attribute if a.name == "value_ints")
                constant.ints[index] ^= (1 << bit) - (1 << 64 if bit == 63 else 0)
            else:
                # Of places with equal bytes, the surfaces come in the order of the file.
                holder = [holder for holder in holders(file) if held(holder) == stored][seen[stored]]
                address = index * surface.width + bit
                data = bytearray(stored)
                data[address // 8] ^= 1 << address % 8
                put(holder, bytes(data))
            expected = answer(file.SerializeToString(), images)
            assert alike(answer(faulty, images), expected), (surface.tensor, index, bit)
            changed += not alike(expected, golden)
        seen[stored] += 1
    assert changed


@pytest.mark.parametrize("name", [name for name in LEFT_OUT if name not in ("trees", "loop")])
def test_no_bit_of_what_is_left_out_changes_an_output_by_value(name, case_file, stored_cases):
    """Each flips once: the file is refused, or its outputs have another shape, or they stay as they were."""
    images = stored_cases.images()
    golden = answer(case_file(name).read_bytes(), images)
    tried = 0
    for tensor in LEFT_OUT[name]:
        names = [t.name for t in onnx.load(case_file(name)).graph.initializer]
        for place in range(LEFT_OUT[name][tensor][0]) if tensor in names else range(8):
            file = onnx.load(case_file(name))
            if tensor in names:
                stored = file.graph.initializer[names.index(tensor)]
                data = bytearray(numpy_helper.to_array(stored).tobytes())
                data[place // 8] ^= 1 << place % 8
                put(stored, bytes(data))
            else:
                (targets,) = (a for node in file.graph.node for a in node.attribute if a.name == "targets")
                targets.i ^= 1 << place
            answered = answer(file.SerializeToString(), images)
            tried += 1
            if answered is not None and [a.shape for a in answered] == [a.shape for a in golden]:
                assert alike(answered, golden), (tensor, place)
    assert tried


def test_copies_that_differ_are_no_injection(case_file):
    """A faulty model in which one call of a function kept the golden weight proves nothing."""
    patcher = DeployedModel.load(case_file("counted_twice")).patcher()
    fault = Fault(0, (Edit.of("w__1", [5], [30]),))
    golden, faulty = patcher.golden, bytearray(patcher.apply(patcher.masks(fault)))
    places = [at for at in range(len(golden)) if golden[at] != faulty[at]]
    assert len(places) == 2
    faulty[places[1]] = golden[places[1]]

    with pytest.raises(InjectionError, match="do not hold the same"):
        patcher.prove(fault, bytes(faulty))


@pytest.mark.parametrize("tensor", ["g.scale", "y.coefficients"])
@pytest.mark.parametrize("where", ["another element", "another attribute", "none"])
def test_the_proof_sees_what_else_changed_in_an_attribute(tensor, where, case_file):
    patcher = DeployedModel.load(case_file("ml_attributes")).patcher()
    fault = Fault(0, (Edit.of(tensor, [7], [3]),))
    spoilt = {
        "another element": (*fault.edits, Edit.of(tensor, [8], [0])),
        "another attribute": (*fault.edits, Edit.of("g.offset", [0], [0])),
        "none": (Edit.of(tensor, [7], [4]),),
    }[where]
    faulty = patcher.apply(patcher.masks(Fault(0, spoilt)))

    with pytest.raises(InjectionError):
        patcher.prove(fault, faulty)


def test_a_signalling_nan_in_an_attribute_is_kept_bit_by_bit(case_file):
    patcher = DeployedModel.load(case_file("standard_attributes")).patcher()
    fault = Fault(0, (Edit.of("leaky.alpha", [0], [0], Op.WORD, [0x7F800001]),))
    faulty = patcher.apply(patcher.masks(fault))

    patcher.prove(fault, faulty)
    assert np.uint32(0x7F800001).tobytes() in faulty


def test_weights_of_functions_that_nothing_calls_are_listed(stored_cases, tmp_path):
    proto = stored_cases.counted_twice()
    body = [helper.make_node("Constant", [], ["w"], value=stored_cases.normal("other", 7))]
    proto.functions.append(helper.make_function("local", "Idle", [], ["w"], body, [helper.make_opsetid("", 18)]))
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())

    (left,) = DeployedModel.load(path).left_out
    assert (left.tensor, left.bits) == ("w", 7 * 32)
    assert "nothing calls" in left.reason


def test_what_only_training_reads_and_what_nothing_reads_is_listed(stored_cases, tmp_path):
    proto = stored_cases.bool_mask()
    proto.graph.initializer.extend([stored_cases.normal("idle", 3), stored_cases.normal("", 2)])
    trained = proto.training_info.add()
    trained.algorithm.initializer.append(stored_cases.normal("step", 5))
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    model = DeployedModel.load(path)

    assert {left.tensor: (left.bits, left.reason) for left in model.left_out} == {
        "idle": (96, "read by no node"),
        "initializer[5]": (64, "read by no node"),
        "step": (160, "read in training only"),
    }
    assert {surface.tensor for surface in model.surfaces} == {"W", "fc", "mask", "lo"}


@pytest.mark.parametrize("training", [0, 1])
def test_the_momentum_of_a_normalisation_counts_where_it_is_trained(training, stored_cases, tmp_path):
    outputs = ["c", "mean", "variance"] if training else ["c"]
    normalised = helper.make_node(
        "BatchNormalization", ["c0", *"klmn"], outputs, name="norm", momentum=0.9, training_mode=training
    )
    stored = [stored_cases.normal(name, 4) for name in "klmn"]
    nodes = [stored_cases.CONV, normalised, *stored_cases.TAIL]
    path = tmp_path / "m.onnx"
    path.write_bytes(stored_cases.model(nodes, [stored_cases.W, stored_cases.FC, *stored]).SerializeToString())
    model = DeployedModel.load(path)

    assert ("norm.momentum" in {surface.tensor for surface in model.surfaces}) == bool(training)
    assert [left.reason for left in model.left_out] == ([] if training else ["read in training only"])


# Tensors on the same bytes of an external file.


def external(name, shape, offset, location="weights.bin", dtype=TensorProto.FLOAT, size=4):
    tensor = TensorProto(name=name, data_type=dtype, dims=shape, data_location=TensorProto.EXTERNAL)
    entries = {"location": location, "offset": offset, "length": int(np.prod(shape)) * size}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


@pytest.fixture
def outside(stored_cases, tmp_path):
    """Return a function that writes a model over stretches of one external file, and loads it."""

    def write(*tensors):
        data = np.random.default_rng(4).normal(size=64).astype(np.float32)
        data.tofile(tmp_path / "weights.bin")
        (tmp_path / "linked.bin").hardlink_to(tmp_path / "weights.bin")
        nodes = [
            *stored_cases.TAIL[:2],
            helper.make_node("MatMul", ["f", "a"], ["m"]),
            helper.make_node("MatMul", ["m", "b"], ["y"]),
        ]
        nodes[0] = helper.make_node("GlobalAveragePool", ["x"], ["p"])
        (tmp_path / "m.onnx").write_bytes(stored_cases.model(nodes, tensors).SerializeToString())
        return DeployedModel.load(tmp_path / "m.onnx")

    return write


@pytest.mark.parametrize("location", ["weights.bin", "linked.bin", "./weights.bin"])
def test_two_tensors_on_the_same_bytes_are_one_surface(location, outside, stored_cases):
    model, images = outside(external("a", [3, 3], 8), external("b", [3, 3], 8, location)), stored_cases.images()
    (surface,) = model.surfaces
    assert (surface.tensor, surface.shape, surface.bits, len(surface.sites)) == ("a", (3, 3), 288, 2)

    patcher = model.patcher()
    fault = Fault(0, (Edit.of("a", [4], [30]),))
    faulty = patcher.apply(patcher.masks(fault))
    assert patcher.prove(fault, faulty) == 1
    file = model.path.with_name("weights.bin")
    data = np.fromfile(file, np.uint32)
    data[2 + 4] ^= np.uint32(1 << 30)
    data.tofile(file)
    assert alike(answer(faulty, images), answer(str(model.path), images))


def test_a_tensor_within_another_is_part_of_it(outside):
    model = outside(external("b", [3, 2], 12 + 16), external("a", [3, 3], 16))
    (surface,) = model.surfaces
    assert (surface.tensor, surface.bits) == ("a", 288)

    patcher = model.patcher()
    fault = Fault(0, (Edit.of("a", [8, 0], [3, 31]),))
    assert patcher.prove(fault, patcher.apply(patcher.masks(fault))) == 2
    flipped = onnx.ModelProto.FromString(patcher.apply(patcher.masks(fault)))
    b, a = (numpy_helper.to_array(tensor).reshape(-1) for tensor in flipped.graph.initializer)
    assert np.array_equal(b, a[3:])


def test_tensors_that_overlap_are_one_surface_of_bytes(outside, stored_cases):
    model = outside(external("a", [3, 3], 0), external("b", [3, 3], 24))
    (surface,) = model.surfaces
    assert (surface.tensor, surface.dtype, surface.shape, surface.bits) == ("a", "uint8", (60,), 480)

    patcher, data = model.patcher(), np.fromfile(model.path.with_name("weights.bin"), np.uint8)
    assert np.array_equal(patcher.stored("a"), data[:60])
    for byte in (0, 30, 59):
        fault = Fault(0, (Edit.of("a", [byte], [6]),))
        faulty = patcher.apply(patcher.masks(fault))
        assert patcher.prove(fault, faulty) == 1
        spoilt = data.copy()
        spoilt[byte] ^= 64
        spoilt.tofile(model.path.with_name("weights.bin"))
        assert alike(answer(faulty, stored_cases.images()), answer(str(model.path), stored_cases.images()))


def test_tensors_side_by_side_are_two_surfaces(outside):
    model = outside(external("b", [3, 3], 36), external("a", [3, 3], 0))
    assert [(surface.tensor, surface.bits) for surface in model.surfaces] == [("b", 288), ("a", 288)]


def test_copies_of_one_range_of_bytes_are_no_vote(outside, stored_cases, tmp_path):
    """Three "copies" that are one stretch of a file: a fault is in all of them, and nothing outvotes it."""
    outside(external("a", [3, 3], 0), external("b", [3, 3], 36))
    copies = [external(f"a{copy}", [3, 3], 0) for copy in "123"]
    nodes = [
        helper.make_node("Equal", ["a1", "a2"], ["same"]),
        helper.make_node("Where", ["same", "a1", "a3"], ["a"]),
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "a"], ["y"]),
    ]
    (tmp_path / "v.onnx").write_bytes(stored_cases.model(nodes, copies).SerializeToString())
    model = DeployedModel.load(tmp_path / "v.onnx")

    assert not model.votes()
    (surface,) = model.surfaces
    assert (surface.tensor, surface.role, len(surface.sites)) == ("a1", "weight", 3)


# Names.


def test_names_are_made_unique_only_where_they_mean_two_values(stored_cases, tmp_path, case_file):
    names = [surface.tensor for surface in DeployedModel.load(case_file("if_initializers")).surfaces]
    assert names == ["fc", "limit", "we", "wt"]

    proto = stored_cases.if_same_name()
    proto.graph.initializer.append(stored_cases.normal("choice.then_branch/w0", 2))
    proto.graph.node.append(helper.make_node("Neg", ["choice.then_branch/w0"], ["z"]))
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    assert {surface.tensor for surface in DeployedModel.load(path).surfaces} == {
        "fc", "limit", "w0", "choice.then_branch/w0", "choice.then_branch/w0#2",
    }  # fmt: skip


def test_a_name_of_a_subgraph_hides_that_of_the_graph(stored_cases, tmp_path):
    """onnxruntime takes the innermost; a flip in either must be in the one it names."""
    proto = stored_cases.if_initializers("w0", "w0")
    proto.graph.initializer.append(stored_cases.normal("w0", 4, 3, 3, 3, seed=9))
    proto.graph.node.extend([helper.make_node("ReduceSum", ["w0"], ["z"], keepdims=0)])
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    model, images = DeployedModel.load(path), stored_cases.images()
    golden = answer(model.patcher().golden, images)
    assert alike(golden, answer(path.read_bytes(), images))

    moved = {}
    for surface in model.surfaces:
        if surface.shape == (4, 3, 3, 3):
            patcher = model.patcher()
            fault = Fault(0, (Edit.of(surface.tensor, [0], [30]),))
            scores, total = answer(patcher.apply(patcher.masks(fault)), images)
            moved[surface.tensor] = (not alike([scores], golden[:1]), not alike([total], golden[1:]))
    assert moved["w0"] == (False, True)
    assert sorted(moved.values()) == [(False, False), (False, True), (True, False)]  # one branch is not taken


def test_a_branch_may_call_its_result_as_the_node_does(stored_cases, tmp_path):
    proto = stored_cases.if_initializers("w", "w")
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    model, images = DeployedModel.load(path), stored_cases.images()

    assert alike(answer(model.patcher().golden, images), answer(path.read_bytes(), images))
    names = ["fc", "limit", "choice.else_branch/w", "choice.then_branch/w"]
    assert [surface.tensor for surface in model.surfaces] == names
    assert [str(surface.role) for surface in model.surfaces] == ["weight", "constant", "weight", "weight"]


def test_a_value_computed_under_a_name_from_around_it_is_refused_as_onnxruntime_does(stored_cases, tmp_path):
    proto = stored_cases.if_same_name()
    proto.graph.initializer.append(stored_cases.normal("w0", 4))
    proto.graph.node.append(helper.make_node("Neg", ["w0"], ["z"]))
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())

    assert answer(path.read_bytes(), stored_cases.images()) is None
    with pytest.raises(ModelError, match="2 stored tensors are called 'w0'"):
        DeployedModel.load(path)


def test_two_stored_tensors_of_one_graph_with_one_name_are_refused(stored_cases, tmp_path):
    proto = stored_cases.if_initializers()
    branch = proto.graph.node[2].attribute[0].g
    branch.initializer.append(branch.initializer[0])
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="2 stored tensors are called"):
        DeployedModel.load(path)


def test_text_and_types_that_nothing_computes_with_are_listed(stored_cases, tmp_path):
    proto = stored_cases.bool_mask()
    words = helper.make_tensor("words", TensorProto.STRING, [2], [b"cat", b"mouse"])
    waves = helper.make_tensor("waves", TensorProto.COMPLEX64, [3], np.ones(3, np.complex64))
    proto.graph.initializer.extend([words, waves])
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())

    assert {left.tensor: left.reason for left in DeployedModel.load(path).left_out} == {
        "words": "text",
        "waves": "onnxruntime computes with no such type",
    }
    bits = {left.tensor: left.bits for left in DeployedModel.load(path).left_out}
    assert bits == {"words": 8 * len("catmouse"), "waves": 3 * 64}


def test_a_float_that_a_shape_is_computed_from_is_a_surface(stored_cases, tmp_path):
    """Integers in such arithmetic are left out; of a float, that it is no value is not taken for proven."""
    nodes = [
        stored_cases.CONV,
        helper.make_node("Shape", ["c0"], ["sh"]),
        helper.make_node("Cast", ["sh"], ["sf"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["sf", "factor"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["si"], to=TensorProto.INT64),
        helper.make_node("Mul", ["si", "one"], ["to"]),
        helper.make_node("Reshape", ["c0", "to"], ["c"]),
        *stored_cases.TAIL,
    ]
    stored = [stored_cases.init("factor", 1.0, np.float32), stored_cases.init("one", 1, np.int64)]
    path = tmp_path / "m.onnx"
    path.write_bytes(stored_cases.model(nodes, [stored_cases.W, stored_cases.FC, *stored]).SerializeToString())
    model = DeployedModel.load(path)

    assert answer(model.patcher().golden, stored_cases.images()) is not None
    assert [(surface.tensor, surface.role) for surface in model.surfaces][2:] == [("factor", "constant")]
    assert [(left.tensor, left.reason) for left in model.left_out] == [("one", "shape")]


def test_bytes_that_are_left_out_are_counted_once_as_well(outside):
    model = outside(external("a", [3, 3], 0), external("b", [3, 3], 36), external("c", [2], 72), external("d", [3], 76))
    assert [(left.tensor, left.bits, left.reason) for left in model.left_out] == [("c", 128, "read by no node")]


def test_a_float_that_a_switch_is_cast_from_is_a_surface(stored_cases, tmp_path):
    proto = stored_cases.loop()
    (turns,) = (tensor for tensor in proto.graph.initializer if tensor.name == "turns")
    turns.CopyFrom(stored_cases.init("turns", 2.0, np.float32))
    proto.graph.node.insert(0, helper.make_node("Cast", ["turns"], ["count"], "cast", to=TensorProto.INT64))
    proto.graph.node[1].input[0] = "count"
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    found = {surface.tensor: (str(surface.role), surface.layer) for surface in DeployedModel.load(path).surfaces}
    assert found["turns"] == ("constant", "cast")
