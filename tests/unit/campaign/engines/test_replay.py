"""Replay against reload-and-run, bit by bit, on every kind of file and fault."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.campaign.engines import replay, sweep
from resq_deploy.campaign.engines.channels import MOST
from resq_deploy.campaign.engines.rest import Outputs
from resq_deploy.campaign.engines.room import Room
from resq_deploy.campaign.engines.testbed import Kit, Testbed
from resq_deploy.campaign.golden import golden_of
from resq_deploy.campaign.options import LINES, CampaignOptions, FaultModel
from resq_deploy.campaign.plan import make_plan
from resq_deploy.campaign.proofs import same
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.graph import read_model
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.patch import Patcher
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import find_surfaces
from resq_deploy.deployed.votes import find_votes
from resq_deploy.faults.bit_errors import flipped_bits
from resq_deploy.faults.cells import Direction, TrueCells
from resq_deploy.faults.fault import Edit, Fault, Op
from resq_deploy.faults.upsets import Pattern
from resq_deploy.protection import guards
from resq_deploy.protection.guards import guard

IMAGES = 10
QUANTISED = [
    "cnn-qdq-channel-s8",
    "cnn-qoperator-channel-s8",
    "attention-qdq-channel-s8",
    "attention-qoperator-tensor-s8-pre",
]
HALF = {"flip_direction": Direction.DOWN, "true_cells": TrueCells(share=0.5)}


@pytest.fixture(autouse=True)
def _however_few_images(monkeypatch):
    """Optimise faulty files anew, though ten images alone would not be worth it."""
    monkeypatch.setattr(replay, "_FEW", 0)


@pytest.fixture
def testbed(model_file, models):
    """Build the engines for a file of the zoo; four images a batch, so that the last batch is not full."""

    def build(name, **options):
        images = models.images(IMAGES, name)
        model = DeployedModel.load(model_file(name))
        patcher = model.patcher()
        deployment = Deployment(batch=4)
        session = Session(patcher.golden, deployment)
        kit = Kit(
            patcher=patcher,
            surfaces={surface.tensor: surface for surface in model.surfaces},
            golden=golden_of(session, images, np.zeros(len(images), np.int64)),
            options=CampaignOptions(deployment=deployment, **options),
        )
        return Testbed(kit), model.surfaces

    return build


def compare(testbed, faults):
    """Evaluate faults by both engines; return the records of replay, all equal to the truth's."""
    assert not testbed.fallback
    replayed = {record.number: record for record in testbed.engine.evaluate(faults)}
    assert sorted(replayed) == sorted(fault.number for fault in faults)
    for truth in testbed.truth.evaluate(faults):
        assert same(truth, replayed[truth.number]), (truth, replayed[truth.number])
        assert truth.changed == replayed[truth.number].changed
    return list(replayed.values())


def singles(surfaces, each):
    """A seeded sample of single flips: some in every surface, so that every role and layer is hit."""
    rng = np.random.default_rng(1)
    hits = [
        (surface, rng.integers(surface.elements), rng.integers(surface.width))
        for surface in surfaces
        for _ in range(each)
    ]
    return [
        Fault(number, (Edit.of(surface.tensor, [int(index)], [int(bit)]),))
        for number, (surface, index, bit) in enumerate(hits)
    ]


def test_single_flips_in_every_surface(file_kind, testbed):
    bed, surfaces = testbed(file_kind)
    records = compare(bed, singles(surfaces, 4))
    due = sum(record.outcome == "due" for record in records)
    assert sum(record.reloaded for record in records) == due


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("op", [Op.SET0, Op.SET1, Op.WORD])
def test_stuck_bits_and_replaced_words(name, op, testbed):
    bed, surfaces = testbed(name)
    rng = np.random.default_rng(2)
    faults = []
    for surface in surfaces:
        index, value = int(rng.integers(surface.elements)), int(rng.integers(1 << min(surface.width, 31)))
        edit = Edit.of(surface.tensor, [index], [surface.width - 1], op, [value] if op is Op.WORD else [])
        faults.append(Fault(len(faults), (edit,)))
    compare(bed, faults)


@pytest.mark.parametrize("name", QUANTISED)
def test_bursts_and_many_flips_in_one_tensor(name, testbed):
    bed, surfaces = testbed(name)
    faults = []
    for surface in surfaces:
        last = surface.elements - 1
        faults.append(Fault(len(faults), (Edit.of(surface.tensor, [last] * 3, [4, 5, 6]),)))
        everywhere = list(range(surface.elements))
        faults.append(Fault(len(faults), (Edit.of(surface.tensor, everywhere, [0] * len(everywhere)),)))
    compare(bed, faults)


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize(
    "asked",
    [
        {"faults": FaultModel.CLUSTER, "cluster_shares": (Pattern(1, 2, 0.5), Pattern(1, 4, 0.5))},
        {"faults": FaultModel.CLUSTER, "memory_layout": "interleaved:4", "flip_direction": Direction.UP},
        {"flip_direction": Direction.DOWN},
        {"faults": FaultModel.BURST, "burst": 4, "flip_direction": Direction.UP},
        {"faults": FaultModel.BER, "ber": (1e-3,), "flip_direction": Direction.DOWN},
        {"flip_direction": Direction(0.7)},
        HALF,
        {**HALF, "faults": FaultModel.BURST, "burst": 4},
        {**HALF, "faults": FaultModel.BER, "ber": (1e-3,)},
        {"faults": FaultModel.BER, "ber": (1e-3,), "flip_direction": Direction(0.3)},
        {
            "faults": FaultModel.CLUSTER,
            "cluster_shares": (Pattern(2, 2, 1.0),),
            "memory_layout": "rows:8",
            "flip_direction": Direction.DOWN,
            "true_cells": TrueCells(rows=1),
        },
        {"faults": FaultModel.STUCK_ROW_0, "memory_layout": "rows:16"},
        {"faults": FaultModel.STUCK_ROW_1, "memory_layout": "rows:16"},
        {"faults": FaultModel.STUCK_COLUMN_0, "memory_layout": "rows:8"},
        {"faults": FaultModel.STUCK_COLUMN_1, "memory_layout": "rows:8"},
    ],
    ids=[
        *("upsets", "upsets-interleaved-0to1", "single-1to0", "burst-0to1", "ber-1to0", "single-mostly-1to0"),
        *("single-true-and-anti", "burst-true-and-anti", "ber-true-and-anti", "ber-mostly-0to1"),
        *("upsets-rows-of-true-and-anti", "stuck-row-0", "stuck-row-1", "stuck-column-0", "stuck-column-1"),
    ],
)
def test_upsets_lines_and_flips_that_go_one_way(name, asked, testbed):
    bed, surfaces = testbed(name, **asked)
    drawn = {"chips": 4} if asked.get("faults") is FaultModel.BER else {"samples": 24}
    plan = make_plan(surfaces, CampaignOptions(**asked, **({} if asked.get("faults") in LINES else drawn)))
    step = -(-len(plan) // 24)
    records = compare(bed, [plan.fault(number) for number in range(0, len(plan), step)])
    assert len({record.logits for record in records}) > 2  # faults are seen


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("rate", [1e-4, 1e-3, 1e-2])
def test_random_bit_errors(name, rate, testbed):
    bed, surfaces = testbed(name)
    faults = []
    for chip in range(4):
        edits = []
        for surface in surfaces:
            index, bit = np.divmod(flipped_bits(surface.tensor, surface.bits, rate, chip), surface.width)
            if len(index):
                edits.append(Edit(surface.tensor, Op.FLIP, index, bit))
        faults.append(Fault(chip, tuple(edits), ber=rate, chip=chip))
    compare(bed, faults)


# Values wherever a file stores them: in subgraphs, functions called twice, attributes, tables of integers.

STORED = (
    "if_initializers",
    "if_constants",
    "if_same_name",
    "returned_by_graph",
    "constant_of_shape",
    "int64_table",
    "int32_table",
    "bool_mask",
    "ml_attributes",
    "trees",
    "standard_attributes",
    "counted_twice",
    "function_defaults",
    "integer_table_of_shapes",
    "loop",
    "integers_twice",
    "votes_twice",
)


@pytest.fixture
def case_bed(case_file, stored_cases):
    """Build the engines for a file of stored_cases.py."""

    def build(name, **options):
        model, images = DeployedModel.load(case_file(name)), stored_cases.images(IMAGES)
        options.setdefault("deployment", Deployment(batch=4))
        patcher = model.patcher()
        session = Session(patcher.golden, options["deployment"])
        kit = Kit(
            patcher=patcher,
            surfaces={surface.tensor: surface for surface in model.surfaces},
            golden=golden_of(session, images, np.zeros(len(images), np.int64)),
            options=CampaignOptions(**options),
        )
        return Testbed(kit), model.surfaces

    return build


@pytest.mark.parametrize("name", STORED)
def test_flips_wherever_a_value_is_stored(name, case_bed):
    bed, surfaces = case_bed(name)
    faults = singles(surfaces, 6)
    for surface in surfaces:  # the top bits of all elements, which nobody could miss
        everywhere = list(range(surface.elements))
        edit = Edit.of(surface.tensor, everywhere, [surface.width - 2] * len(everywhere))
        faults.append(Fault(len(faults), (edit,)))
    records = compare(bed, faults)
    assert len({record.logits for record in records}) > 2


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("rate", [1e-3, 1e-2])
def test_random_bit_errors_wherever_values_are_stored(name, rate, case_bed):
    bed, surfaces = case_bed(name)
    faults = []
    for chip in range(3):
        edits = []
        for surface in surfaces:
            index, bit = np.divmod(flipped_bits(surface.tensor, surface.bits, rate, chip), surface.width)
            if len(index):
                edits.append(Edit(surface.tensor, Op.FLIP, index, bit))
        if edits:
            faults.append(Fault(chip, tuple(edits), ber=rate, chip=chip))
    compare(bed, faults)


def test_a_weight_that_two_layers_hold_is_not_computed_by_the_channels_of_one(case_bed, monkeypatch):
    bed, surfaces = case_bed("integers_twice")
    monkeypatch.setattr(bed.engine, "_in_layer", lambda *_: pytest.fail("one of two layers was computed"))
    (weight,) = (surface for surface in surfaces if surface.dtype == "int8" and len(surface.shape) == 4)
    assert len(weight.sites) == 2
    records = compare(bed, singles([weight], 40))
    assert len({record.logits for record in records}) > 10


def test_a_vote_on_what_two_layers_hold_lets_through_what_it_does(case_bed):
    """Faults in two copies at one element pass both votes, not only the first."""
    bed, surfaces = case_bed("votes_twice")
    copies = [surface for surface in surfaces if surface.shape == (3, 3, 3, 3)]
    assert [len(surface.sites) for surface in copies] == [2, 2, 2]
    edits = [
        tuple(Edit.of(surface.tensor, [index], [bit]) for surface in pair)
        for pair in itertools.combinations(copies, 2)
        for index, bit in ((0, 6), (40, 5), (80, 6))
    ]
    records = compare(bed, [Fault(number, edit) for number, edit in enumerate(edits)])
    assert len({record.logits for record in records}) == 3
    assert "masked" not in {record.outcome for record in records}


def weights_and_biases(surfaces):
    return [surface for surface in surfaces if surface.role in ("weight", "bias") and surface.dtype != "float"]


@pytest.mark.parametrize(
    "name",
    [
        "cnn-qdq-channel-s8",
        "cnn-qdq-channel-s8-shifted",
        "cnn-qoperator-channel-s8",
        "cnn-qoperator-channel-s8-shifted",
        "cnn-qdq-tensor-u8",
    ],
)
def test_flips_in_the_integers_of_a_layer_need_no_session_each(name, testbed, monkeypatch):
    bed, surfaces = testbed(name)
    monkeypatch.setattr(bed.engine, "_rebuild", lambda injection: pytest.fail(f"{injection.fault} was rebuilt"))
    records = compare(bed, singles(weights_and_biases(surfaces), 12))
    assert len({record.logits for record in records}) > 10


@pytest.mark.parametrize("name", QUANTISED)
def test_a_bit_of_a_uint8_code_is_worth_what_that_of_the_int8_code_is(name, testbed):
    """Flip for flip the same surface, zero points included: the records of one file are those of the other."""
    pair = [testbed(name), testbed(f"{name}-shifted")]
    (_, signed), (_, unsigned) = pair
    assert [(s.tensor, s.role, s.layer, s.bits) for s in signed] == [
        (s.tensor, s.role, s.layer, s.bits) for s in unsigned
    ]
    changed = {(a.dtype, b.dtype) for a, b in zip(signed, unsigned, strict=True) if a.dtype != b.dtype}
    assert changed == {("int8", "uint8")}
    (_, ours), (_, theirs) = (
        (bed, {record.number: record for record in compare(bed, singles(surfaces, 4))}) for bed, surfaces in pair
    )
    assert ours.keys() == theirs.keys()
    assert [number for number in ours if not same(ours[number], theirs[number])] == []


def test_a_faulty_layer_is_found_by_its_node_and_others_come_last(testbed):
    bed, surfaces = testbed("cnn-qdq-channel-s8")
    groups = {surface.tensor: bed.engine.group([surface.tensor]) for surface in surfaces}
    assert bed.engine.group([surface.tensor for surface in surfaces]) is None
    weights = [groups[surface.tensor] for surface in surfaces if surface.role == "weight"]
    assert weights == sorted(weights)


@pytest.mark.parametrize("name", QUANTISED)
def test_nothing_changes_when_no_golden_value_can_be_held(name, testbed, monkeypatch):
    monkeypatch.setattr(Room, "of", lambda *_: Room(1, 1, 1))
    bed, surfaces = testbed(name)
    compare(bed, singles(surfaces, 2))
    assert not bed.engine._activations._held._bytes


def test_images_are_collected_only_where_they_do_not_depend_on_each_other(testbed):
    pooled = {}
    for name in ("cnn-qdq-channel-s8", "attention-dynamic-channel-u8-saved"):
        bed, surfaces = testbed(name)
        compare(bed, singles(weights_and_biases(surfaces) or surfaces, 2))
        pooled[name] = [rest.pooled for rest, _ in bed.engine._stage._rests._held.values()]
    assert all(pooled["cnn-qdq-channel-s8"])
    assert not all(pooled["attention-dynamic-channel-u8-saved"])


def test_an_optimised_graph_that_answers_otherwise_is_left_to_reload(testbed, monkeypatch):
    optimise = sweep.optimise

    def spoilt(model, deployment):
        optimised = optimise(model, deployment)
        weight = max(optimised.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        weight.raw_data = bytes(byte ^ 0x40 for byte in weight.raw_data)
        return optimised

    monkeypatch.setattr(sweep, "optimise", spoilt)
    bed, _ = testbed("cnn-qdq-channel-s8")
    assert bed.engine is bed.truth
    assert bed.fallback == "the optimised graph does not give the outputs of the file"


def test_a_fault_whose_replay_fails_is_evaluated_by_reload(testbed, monkeypatch):
    def fail(*_):
        raise RuntimeError("no such kernel")

    bed, surfaces = testbed("cnn-qdq-channel-s8")
    monkeypatch.setattr(Outputs, "add", fail)
    scales = [surface for surface in surfaces if surface.role == "activation-scale"]
    records = compare(bed, singles(scales, 1))
    assert any(record.reloaded for record in records)


@pytest.mark.parametrize(("seconds", "engine"), [(1e-9, "reload"), (3600.0, "replay")])
def test_under_a_time_limit_only_what_cannot_take_longer_is_replayed(seconds, engine, testbed):
    bed, surfaces = testbed("cnn-qdq-channel-s8", time_limit=seconds)
    assert bed.engine.name == engine
    if engine == "replay":
        records = compare(bed, singles([surface for surface in surfaces if surface.role == "activation-scale"], 2))
        assert all(record.reloaded for record in records)


# Files whose tensors are stored three times and voted.


def bed_of(model, images, **options):
    """The engines for a serialised model."""
    options.setdefault("deployment", Deployment(batch=4))
    surfaces = find_surfaces(model)
    patcher = Patcher(model, surfaces)
    session = Session(patcher.golden, options["deployment"])
    kit = Kit(
        patcher=patcher,
        surfaces={surface.tensor: surface for surface in surfaces},
        golden=golden_of(session, images, np.zeros(len(images), np.int64)),
        options=CampaignOptions(**options),
    )
    return Testbed(kit), surfaces


@pytest.fixture
def guarded(model_file, models):
    """Build the engines for a file of the zoo with every tensor guarded; return them with surfaces and votes."""

    def build(name, **options):
        plain, _ = read_model(model_file(name))
        names = [surface.tensor for surface in find_surfaces(plain)]
        numbers = guards.obstacles(plain, names)  # those in attributes, which cannot be voted
        model = onnx.ModelProto.FromString(
            guard(plain.SerializeToString(), [name for name in names if name not in numbers])
        )
        bed, surfaces = bed_of(model, models.images(IMAGES, name), **options)
        return (
            bed,
            {surface.tensor: surface for surface in surfaces if surface.tensor not in numbers},
            find_votes(model),
        )

    return build


def forbid(monkeypatch, bed, *methods):
    for method in methods:
        monkeypatch.setattr(bed.engine, method, lambda *_, method=method: pytest.fail(f"{method} was called"))


@pytest.mark.parametrize("name", QUANTISED)
def test_faults_in_one_copy_cost_no_session(name, guarded, monkeypatch):
    bed, surfaces, votes = guarded(name)
    assert len(votes) * 3 == len(surfaces)
    forbid(monkeypatch, bed, "_rebuild", "_in_layer", "_optimised")
    records = compare(bed, singles(list(surfaces.values())[:: 1 if name.startswith("cnn") else 3], 1))
    assert {record.outcome for record in records} == {"masked"}
    assert not any(record.reloaded for record in records)
    assert all(record.changed == 1 for record in records)


@pytest.mark.parametrize("name", QUANTISED[:2])
def test_a_copy_that_becomes_nan_or_anything_is_outvoted(name, guarded, monkeypatch):
    bed, surfaces, votes = guarded(name)
    forbid(monkeypatch, bed, "_rebuild")
    faults = []
    for vote in votes:
        for copy in vote.copies:
            width, last = surfaces[copy].width, surfaces[copy].elements - 1
            for value in (0x7FC00001, 0xFF800000, 0x80000000) if width == 32 else (0x80,):
                faults.append(Fault(len(faults), (Edit.of(copy, [last], [0], Op.WORD, [value]),)))
    records = compare(bed, faults)
    assert {record.outcome for record in records} == {"masked"}


def pairs(votes, surfaces, bits):
    """Faults in two copies at the same element, for each pair of copies and of bits (counted from the top)."""
    rng = np.random.default_rng(3)
    edits = []
    for vote in votes:
        surface = surfaces[vote.copies[0]]
        index = int(rng.integers(surface.elements))
        for two in itertools.combinations(vote.copies, 2):
            for chosen in bits:
                places = [surface.width - 1 - bit for bit in chosen]
                edits.append(tuple(Edit.of(copy, [index], [bit]) for copy, bit in zip(two, places, strict=True)))
    return [Fault(number, edit) for number, edit in enumerate(edits)]


@pytest.mark.parametrize("name", QUANTISED)
def test_faults_in_two_copies_are_those_of_the_voted_tensor(name, guarded):
    bed, surfaces, votes = guarded(name)
    some = votes[:: 1 if name.startswith("cnn") else 4]
    records = compare(bed, pairs(some, surfaces, [(0, 0), (0, 2)]))
    assert len({record.logits for record in records}) > len(some) / 3


@pytest.mark.parametrize("name", ["cnn-qdq-channel-s8", "cnn-qoperator-channel-s8"])
def test_what_gets_past_the_vote_of_a_layers_integers_needs_no_session(name, guarded, monkeypatch):
    bed, surfaces, votes = guarded(name)
    integers = [vote for vote in votes if surfaces[vote.copies[0]] in weights_and_biases(surfaces.values())]
    forbid(monkeypatch, bed, "_rebuild")
    records = compare(bed, pairs(integers, surfaces, [(0, 0), (0, 2)]))
    assert sum(record.outcome != "masked" for record in records) >= len(integers)


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("rate", [1e-4, 1e-3, 1e-2])
def test_random_bit_errors_in_guarded_files(name, rate, guarded):
    bed, surfaces, _ = guarded(name)
    faults = []
    for chip in range(3):
        edits = []
        for surface in surfaces.values():
            index, bit = np.divmod(flipped_bits(surface.tensor, surface.bits, rate, chip), surface.width)
            if len(index):
                edits.append(Edit(surface.tensor, Op.FLIP, index, bit))
        faults.append(Fault(chip, tuple(edits), ber=rate, chip=chip))
    compare(bed, faults)


def zeros():
    """Few features, plus the reciprocal of +0, -0 and 1, cut to finite values: the sign of a zero decides."""
    values = {
        "table": np.random.default_rng(5).choice([0.0, 1.0], (192, 3)).astype(np.float32),
        "low": np.float32(-50.0),
        "b": np.array([0.0, -0.0, 1.0], np.float32),
        "high": np.float32(50.0),
    }
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "table"], ["few"]),
        helper.make_node("Reciprocal", ["b"], ["r"]),
        helper.make_node("Clip", ["r", "low", "high"], ["clipped"]),
        helper.make_node("Add", ["few", "clipped"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "zeros",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("tensors", [["b"], ["low", "b"], ["table", "low", "b"], ["table", "low", "b", "high"]])
def test_zeros_of_either_sign_are_equal_to_a_vote_and_are_still_told_apart(tensors, models):
    """The vote on `b` holds a -0, which onnxruntime makes +0, but only as long as the first two copies agree."""
    model = onnx.ModelProto.FromString(guards._rewritten(zeros(), tensors))
    bed, surfaces = bed_of(model, models.images(IMAGES))
    elements = {surface.tensor: surface.elements for surface in surfaces}
    copies = [copy for vote in find_votes(model) for copy in vote.copies]
    signs, others = (
        [Edit.of(copy, [place], [bit]) for copy in copies for place in range(min(3, elements[copy]))]
        for bit in (31, 22)
    )
    edits = [(edit,) for edit in signs + others]
    edits += [pair for pair in itertools.combinations(signs[:18], 2) if pair[0].tensor != pair[1].tensor]
    records = compare(bed, [Fault(number, edit) for number, edit in enumerate(edits)])
    assert len({record.logits for record in records}) > 1


def test_faults_that_a_vote_hides_are_one_cheap_group(guarded):
    bed, surfaces, votes = guarded("cnn-qdq-channel-s8")
    alone = {bed.engine.group([name]) for name in surfaces}
    assert len(alone) == 1
    (hidden,) = alone
    assert hidden.portion > MOST
    assert bed.engine.group([vote.copies[0] for vote in votes]) == hidden
    weight = next(vote for vote in votes if surfaces[vote.copies[0]].role == "weight")
    layer = bed.engine.group(weight.copies[1:])
    assert layer < hidden
    assert layer == bed.engine.group([*weight.copies, votes[-1].copies[0]])
    assert bed.engine.group([]) is None


def test_without_folding_votes_are_ordinary_nodes(guarded):
    bed, surfaces, votes = guarded("cnn-qdq-channel-s8", deployment=Deployment(batch=4, optimization="none"))
    assert bed.engine._protection.voting.exposed([votes[0].copies[0]]) == [votes[0].copies[0]]
    compare(bed, singles(list(surfaces.values())[::5], 1))


def test_a_copy_that_is_faulty_in_the_file_already(model_file, models):
    plain, _ = read_model(model_file("cnn-qdq-channel-s8"))
    names = [surface.tensor for surface in find_surfaces(plain)]
    model = onnx.ModelProto.FromString(guard(plain.SerializeToString(), names))
    vote, *_ = (vote for vote in find_votes(model) if "w1_quantized" in vote.output)
    stored = next(tensor for tensor in model.graph.initializer if tensor.name == vote.copies[0])
    stored.raw_data = bytes([stored.raw_data[0] ^ 0x40]) + stored.raw_data[1:]
    bed, _ = bed_of(model, models.images(IMAGES))
    hidden = [other for other in find_votes(model) if not bed.engine._protection.voting.exposed(other.copies[:1])]
    assert len(hidden) == len(names) - 1
    faults = [Fault(number, (Edit.of(copy, [0], [7]),)) for number, copy in enumerate(vote.copies)]
    records = compare(bed, faults)
    assert {record.outcome for record in records} != {"masked"}
