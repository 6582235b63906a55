"""Files of any kind protected without data: the same computation as the narrowed file, or one clear line."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.codes.known import known_code
from resq_deploy.deployed.binding import bound
from resq_deploy.deployed.coded import DOMAIN, coded_weights
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.graph import read_model
from resq_deploy.deployed.made_up import made_up
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import Role, find_surfaces
from resq_deploy.deployed.votes import find_votes
from resq_deploy.errors import ModelError, OptionError
from resq_deploy.protection.any_file import ProtectOptions, check_source, protect_file, starting_point
from resq_deploy.protection.companions import CompanionReader
from resq_deploy.protection.follow import check_followed
from resq_deploy.protection.narrow import narrow
from resq_deploy.protection.protect import protect

DEPLOYMENT = Deployment(batch=4)
EIGHT_BITS = [
    "attention-dynamic-channel-u8-saved",
    "attention-qdq-channel-s8",
    "attention-qdq-tensor-u8",
    "attention-qoperator-tensor-s8-pre",
    "attention-qoperator-tensor-s8-pre-shifted",
    "cnn-dynamic-tensor-u8",
    "cnn-qdq-channel-s8",
    "cnn-qdq-channel-s8-shifted",
    "cnn-qdq-tensor-s8-a16",
    "cnn-qdq-tensor-u8",
    "cnn-qoperator-channel-s8",
    "cnn-qoperator-channel-s8-savedall",
    "cnn-qoperator-tensor-u8",
    "constants",
    "guarded",
    "indices",
    "integer_bias",
    "shared",
    "typed_storage",
]
FLOAT = [
    "cnn",
    "attention",
    "passed_on",
    "subgraphs",
    "sparse",
    "functions",
    "overridable",
    "fixed_batch",
    "nhwc_uint8",
]


def logits(proto, images):
    return Session(proto.SerializeToString(), DEPLOYMENT).run(images)


def protected(proto, **options):
    start, weights = starting_point(proto)
    return protect_file(proto, start, weights, ProtectOptions(**options))


def test_every_kind_of_file_is_protected_or_refused(file_kind, model_file, models):
    proto, _ = read_model(model_file(file_kind))
    before, images = proto.SerializeToString(), models.images(8, file_kind)
    if file_kind in FLOAT:
        with pytest.raises(ModelError, match=r"stores no weights of 8 bits.*export-int8"):
            starting_point(proto)
        return
    made = protected(proto)
    assert proto.SerializeToString() == before
    assert logits(made.model, images).tobytes() == logits(made.plain, images).tobytes()
    assert {vote.output for vote in find_votes(made.model)} >= set(made.plan.voted)
    # Small weights are voted, and so are what they were.
    assert made.plan.coded == ()
    assert np.abs(logits(made.model, images) - logits(proto, images)).max() <= 1e-6
    bare = {surface.tensor for surface in find_surfaces(made.model)} - {
        copy for vote in find_votes(made.model) for copy in vote.copies
    }
    assert bare <= made.left_out.keys()


SIX_BITS = ["attention-dynamic-channel-u8-saved", "cnn-qdq-channel-s8", "cnn-qoperator-tensor-u8"]


@pytest.mark.parametrize(
    ("kind", "code"),
    [(kind, ("secded", 7)) for kind in EIGHT_BITS] + [(kind, ("dected", 6)) for kind in SIX_BITS],
    ids=lambda value: value if isinstance(value, str) else f"{value[0]}-{value[1]}",
)
def test_narrowed_weights_of_any_file_can_be_coded(kind, code, model_file, models):
    start, weights = starting_point(read_model(model_file(kind))[0])
    small, found = narrow(start, weights, code[1])
    assert all(each.fits for each in found)
    made = protect(small, weights, known_code(*code))
    assert {each.weight for each in coded_weights(made)} == set(weights)
    images = models.images(8, kind)
    assert logits(made, images).tobytes() == logits(small, images).tobytes()
    wide = logits(start, images)
    assert np.abs(logits(made, images) - wide).max() <= 0.05 * np.ptp(wide) * 2 ** (7 - code[1])


def wide_model(count=4, size=64, opset=18, **changes):
    """Some layers of 64 x 64 weights, QDQ; their last is returned."""
    random = np.random.default_rng(0)
    nodes, stored, value = [], {}, "x"
    for at in range(count):
        stored |= {
            f"w{at}": random.integers(-128, 128, (size, size)).astype(np.int8),
            f"s{at}": random.random(size).astype(np.float32) / 300,
        }
        nodes += [
            helper.make_node("DequantizeLinear", [f"w{at}", f"s{at}"], [f"f{at}"], axis=1),
            helper.make_node("MatMul", [value, f"f{at}"], [f"m{at}"], name=f"m{at}"),
        ]
        value = f"m{at}"
    stored |= changes.get("stored", {})
    graph = helper.make_graph(
        [*nodes, *changes.get("nodes", ())],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", size])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["N", size])],
        [numpy_helper.from_array(values, name) for name, values in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


X = np.random.default_rng(1).normal(size=(8, 64)).astype(np.float32)


def test_weights_are_narrowed_and_coded_and_the_rest_is_voted():
    made = protected(wide_model())
    assert made.plan.coded == ("w0", "w1", "w2", "w3")
    assert set(made.plan.voted) == {"s0", "s1", "s2", "s3"}
    assert [each.channels for each in made.coded] == [64] * 4
    assert all(1.9 < each.factor < 2.1 and 0 < each.error < 0.02 for each in made.coded)
    assert logits(made.model, X).tobytes() == logits(made.plain, X).tobytes()
    wide = logits(wide_model(), X)
    assert 0 < np.abs(logits(made.model, X) - wide).max() < 0.05 * np.ptp(wide)


def test_parameters_alone_leave_weights_as_they_are():
    made = protected(wide_model(), guard="parameters")
    assert (made.plan.coded, made.narrowed) == ((), ())
    assert logits(made.model, X).tobytes() == logits(wide_model(), X).tobytes()


def test_auto_that_finds_no_room_for_a_code_keeps_eight_bits():
    made = protected(wide_model(), guard="auto", guard_budget=0.1)
    assert made.plan.coded == ()
    assert made.plan.voted
    assert logits(made.model, X).tobytes() == logits(wide_model(), X).tobytes()
    roomy = protected(wide_model(), guard="auto", guard_budget=2.0)
    assert set(roomy.plan.coded) == {"w0", "w1", "w2", "w3"}


def test_a_weight_that_cannot_be_narrowed_keeps_its_bits_and_gets_votes():
    cast = helper.make_node("Cast", ["w1"], ["c"], to=TensorProto.FLOAT)
    proto = wide_model(nodes=[cast, helper.make_node("Relu", ["c"], ["r"])])
    proto.graph.output.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, None))
    made = protected(proto)
    assert set(made.plan.coded) == {"w0", "w2", "w3"}
    assert "w1" in made.plan.voted
    stored = {tensor.name: tensor for tensor in made.plain.graph.initializer}
    assert (numpy_helper.to_array(stored["w1"]) == numpy_helper.to_array(proto.graph.initializer[2])).all()
    weights_only = protected(proto, guard="weights")
    assert weights_only.left_out.keys() == {"w1"}
    assert "left as it is: Cast 'c' reads it; " in weights_only.left_out["w1"]


def test_votes_that_were_there_are_made_anew(model_file):
    made = protected(read_model(model_file("guarded"))[0])
    assert made.votes_before == 4
    assert {vote.output for vote in find_votes(made.model)} >= {"w", "b"}
    assert len({copy for vote in find_votes(made.model) for copy in vote.copies}) == 3 * len(find_votes(made.model))


def test_the_same_file_gives_the_same_bytes():
    first, second = (protected(wide_model()).model.SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_health_is_one_more_output():
    made = protected(wide_model(), health=True)
    assert [value.name for value in made.model.graph.output][1:] == ["resq_health"]
    assert logits(made.model, X).tobytes() == logits(made.plain, X).tobytes()


def test_a_file_under_a_code_is_refused(tmp_path):
    path = tmp_path / "twice.onnx"
    path.write_bytes(protected(wide_model()).model.SerializeToString())
    with pytest.raises(ModelError, match=r"carries a code already.*scrub --bake"):
        check_source(path)
    path.write_bytes(wide_model().SerializeToString())
    check_source(path)
    path.write_bytes(b"\xff\xff")
    with pytest.raises(ModelError, match="is not an ONNX model"):
        check_source(path)
    with pytest.raises(ModelError, match="cannot read"):
        check_source(tmp_path / "missing.onnx")


def test_an_old_opset_is_refused_with_the_remedy():
    proto = wide_model()
    proto.opset_import[0].version = 12
    with pytest.raises(ModelError, match="opset 12, votes and codes need 13: give --opset 13"):
        starting_point(proto)


def test_a_file_with_nothing_to_protect():
    proto = wide_model()
    proto.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in proto.graph.initializer
    )
    with pytest.raises(ModelError, match="nothing in the file can be protected: it is a graph input too"):
        protected(proto)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guard": "everything"}, "--guard everything: give one of"),
        ({"weight_bits": 6, "weight_code": "secded"}, "--weight-code secded --weight-bits 6: there is no such code"),
        ({"guard": "parameters", "weight_code": "secded"}, "--weight-code is about weights"),
        ({"guard": "parameters", "weight_bits": 7}, "--weight-bits is about weights"),
        ({"guard": "auto", "health": True}, "--health counts words of a code"),
        ({"guard_budget": 0.1}, "--guard-budget is for --guard auto"),
        ({"guard": "auto", "guard_budget": -1.0}, "--guard-budget -1.0"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(OptionError, match=message):
        ProtectOptions(**options)


def test_codes_by_the_bits_of_a_weight():
    assert ProtectOptions().code is known_code("secded", 7)
    assert ProtectOptions(weight_bits=6).code is known_code("dected", 6)
    assert ProtectOptions(weight_code="dected").code is known_code("dected", 7)
    assert ProtectOptions(guard="parameters").code is None


def test_a_reader_that_was_overlooked_is_found_in_onnxruntime(model_file, models, monkeypatch):
    """Biases of fused layers take the scale of the weight: a file that keeps them as they are answers otherwise."""
    start, weights = starting_point(read_model(model_file("cnn-qdq-channel-s8"))[0])
    check_followed(start, weights, models.images(4), DEPLOYMENT)
    found = CompanionReader.companions

    def without_biases(reader, weight):
        companions = found(reader, weight)
        return dataclasses.replace(companions, biases=()) if weight == weights[1] else companions

    monkeypatch.setattr(CompanionReader, "companions", without_biases)
    with pytest.raises(ModelError, match=f"onnxruntime reads '{weights[1]}' otherwise than its graph says"):
        check_followed(start, weights, models.images(4), DEPLOYMENT)


def test_metadata_stay():
    proto = wide_model()
    proto.metadata_props.add(key="author", value="somebody")
    proto.producer_name = "theirs"
    made = protected(proto).model
    assert {entry.key: entry.value for entry in made.metadata_props}["author"] == "somebody"
    assert made.producer_name == "theirs"
    assert any(function.domain == DOMAIN for function in made.functions)
    onnx.checker.check_model(made)
    assert {surface.role for surface in find_surfaces(starting_point(proto)[0])} == {Role.WEIGHT, Role.WEIGHT_SCALE}


def test_a_file_of_several_inputs_is_tried_on_samples_that_are_made_up(kinds, monkeypatch):
    model = kinds.scaled_boxes()
    start, weights = starting_point(model)
    session = Session(model.SerializeToString(), DEPLOYMENT)
    inputs = bound(made_up(model, DEPLOYMENT, count=4), session.inputs, ["boxes", "scores"])
    check_followed(start, weights, inputs, DEPLOYMENT)
    found = CompanionReader.companions
    monkeypatch.setattr(
        CompanionReader, "companions", lambda reader, weight: dataclasses.replace(found(reader, weight), biases=())
    )
    with pytest.raises(ModelError, match="otherwise than its graph says"):
        check_followed(start, weights, inputs, DEPLOYMENT)
