"""Replay against reload-and-run on protected files: codes, votes, tables and the report on health, bit by bit."""

import itertools

import numpy as np
import onnx
import pytest

from resq_deploy.campaign.engines import decoding
from resq_deploy.campaign.engines.majorities import Majorities
from resq_deploy.campaign.engines.testbed import Kit, Testbed
from resq_deploy.campaign.golden import golden_of
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.proofs import same
from resq_deploy.campaign.record import Way
from resq_deploy.codes.words import Left
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.health import Health
from resq_deploy.deployed.majority import find_majorities
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import Role
from resq_deploy.faults.bit_errors import flipped_bits
from resq_deploy.faults.fault import Edit, Fault, Op, Share

IMAGES = 10
FORMS = {
    "QDQ": ("cnn-qdq-channel-s8", ("secded", 7)),
    "QOperator": ("cnn-qoperator-channel-s8", ("secded", 7)),
    "QOperator, dected": ("cnn-qoperator-channel-s8", ("dected", 7)),
    "attention, QDQ, 6 bits": ("attention-qdq-channel-s8", ("dected", 6)),
    "attention, per tensor": ("attention-qoperator-tensor-s8-pre", ("secded", 7)),
    "uint8": ("cnn-qdq-tensor-u8", ("secded", 7)),
    "dynamic": ("cnn-dynamic-tensor-s8", ("secded", 7)),
}


@pytest.fixture
def testbed(protected_file, models):
    """Build the engines for a protected file; four images a batch, so that the last batch is not full."""

    def build(form, *, damage=None, health=True, **options):
        name, kind = FORMS[form]
        path, _ = protected_file(name, kind, health=health)
        if damage is not None:
            path = damage(path)
        images = models.images(IMAGES, name)
        model = DeployedModel.load(path)
        patcher = model.patcher()
        session = Session(patcher.golden, Deployment(batch=4))
        labels = np.zeros(IMAGES, np.int64)
        kit = Kit(
            patcher=patcher,
            surfaces={surface.tensor: surface for surface in model.surfaces},
            golden=golden_of(session, images, labels),
            options=CampaignOptions(deployment=Deployment(batch=4), **options),
        )
        return Testbed(kit), model

    return build


def compare(testbed, faults):
    """Evaluate faults by both engines; return the records of replay, all equal to the truth's."""
    assert not testbed.fallback
    replayed = {record.number: record for record in testbed.engine.evaluate(faults)}
    assert sorted(replayed) == sorted(fault.number for fault in faults)
    for truth in testbed.truth.evaluate(faults):
        assert same(truth, replayed[truth.number]), (truth, replayed[truth.number])
        assert truth.changed == replayed[truth.number].changed
    return [replayed[fault.number] for fault in faults]


def words(model):
    """The surfaces that hold code words."""
    codes = model.codes()
    return [surface for surface in model.surfaces if surface.tensor in codes.words]


def numbered(edits):
    return [Fault(number, tuple(parts)) for number, parts in enumerate(edits)]


def in_one_word(model, flips, seed):
    """So many flips in one word of the first code words."""
    group, random = model.codes().groups[0], np.random.default_rng(seed)
    (surface, *_), block = words(model), group.code.block
    word, first = random.integers(8), block * random.integers(surface.elements // block)
    chosen = random.choice(block, flips, replace=False)
    places = [(int(first + p - p % 8 + (word - p % 8) % 8), int(p % 8)) for p in chosen]
    return (Edit.of(surface.tensor, [byte for byte, _ in places], [bit for _, bit in places]),)


@pytest.mark.parametrize("form", FORMS)
def test_single_flips_in_every_surface_change_nothing_and_are_reported(form, testbed):
    bed, model = testbed(form)
    random = np.random.default_rng(1)
    chosen = [*(surface for surface in model.surfaces if surface.role is not Role.WEIGHT)][::7]
    chosen += words(model) * 12
    hits = [(s, int(random.integers(s.elements)), int(random.integers(s.width))) for s in chosen]
    records = compare(bed, numbered([Edit.of(s.tensor, [i], [b])] for s, i, b in hits))
    copies = {copy for vote in model.votes() for copy in vote.copies}
    for (surface, _, _), record in zip(hits, records, strict=True):
        if surface in words(model):
            assert record.outcome == "masked"
            assert record.way is Way.CODES
            assert record.health in ((1, 0), (0, 0))  # a bit that is not decoded is none of a word
        elif surface.tensor in copies:
            assert (record.outcome, record.way, record.health) == ("masked", Way.VOTES, (1, 0))


@pytest.mark.parametrize("form", FORMS)
def test_flips_in_one_word_leave_what_the_code_cannot_correct(form, testbed):
    bed, model = testbed(form)
    corrects = model.codes().groups[0].code.corrects
    faults = numbered(in_one_word(model, flips, seed) for flips in (2, 3, 4, 5) for seed in range(5))
    records = compare(bed, faults)
    found = {(len(fault.edits[0].index), record.health) for fault, record in zip(faults, records, strict=True)}
    assert (corrects + 1, (0, 1)) in found  # detected, and kept
    assert {record.way for record in records} <= {Way.CODES, Way.CHANNELS, Way.REBUILD}
    assert any(record.logits != records[0].logits for record in records)


@pytest.mark.parametrize("form", FORMS)
def test_every_fault_model_on_code_words(form, testbed):
    bed, model = testbed(form)
    random, edits = np.random.default_rng(2), []
    for surface in words(model) * 4:
        index = int(random.integers(surface.elements))
        edits.append([Edit.of(surface.tensor, [index], [7], Op.SET0)])
        edits.append([Edit.of(surface.tensor, [index], [6], Op.SET1)])
        edits.append([Edit.of(surface.tensor, [index], [0], Op.WORD, [int(random.integers(256))])])
        edits.append([Edit.of(surface.tensor, [index] * 5, [2, 3, 4, 5, 6])])
    records = compare(bed, numbered(edits))
    assert {record.outcome for record in records} == {"masked"}  # one byte is one flip a word


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rate", [1e-3, 1e-2])
def test_random_bit_errors_in_all_that_is_stored(form, rate, testbed):
    bed, model = testbed(form)
    faults = []
    for chip in range(4):
        parts = []
        for surface in model.surfaces:
            if surface.role is Role.CODE and chip < 3:  # where these are hit twice, most files no longer load
                continue
            index, bit = np.divmod(flipped_bits(surface.tensor, surface.bits, rate, chip), surface.width)
            if len(index):
                parts.append(Edit(surface.tensor, Op.FLIP, index, bit))
        faults.append(Fault(chip, tuple(parts), ber=rate, chip=chip))
    compare(bed, faults)


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_the_memorys_own_code_comes_first(form, testbed):
    bed, model = testbed(form, ecc="secded")
    records = compare(bed, numbered(in_one_word(model, flips, seed) for flips in (1, 2, 3) for seed in range(4)))
    assert records[0].way is Way.UNCHANGED


@pytest.mark.parametrize("form", ["QDQ", "uint8"])
def test_faults_in_most_copies_of_a_table_are_run_and_others_are_outvoted(form, testbed):
    bed, model = testbed(form)
    surfaces = {surface.tensor: surface for surface in model.surfaces}
    tables = list(find_majorities(model.proto.graph))
    assert tables
    assert {surfaces[name].role for table in tables for name in table.copies} == {Role.CODE}
    counts = (1, len(tables[0].copies) // 2, len(tables[0].copies) // 2 + 1)
    faults = numbered(
        [Edit.of(name, [element], [0]) for name in table.copies[:count]]
        for table in tables
        for count in counts
        for element in (0, surfaces[table.copies[0]].elements - 1)
    )
    ways = {count: set() for count in counts}
    for record in compare(bed, faults):
        ways[len(faults[record.number].edits)].add(record.way)
    few, half, most = (ways[count] for count in counts)
    assert few == half == {Way.VOTES}
    assert most <= {Way.REBUILD, Way.RELOAD}


def test_copies_whose_bits_are_outvoted_are_neither_run_nor_reported(testbed, monkeypatch):
    """Bits of a byte in any three copies of seven, others in others; and beside them a word that is corrected."""
    bed, model = testbed("QDQ")
    (surface,) = words(model)
    random = np.random.default_rng(3)
    faults = []
    for table in find_majorities(model.proto.graph):
        wrong = [random.permutation(table.copies)[:3] for _ in range(8)]  # of each bit
        bits = {copy: [bit for bit in range(8) if copy in wrong[bit]] for copy in table.copies}
        faults.append([Edit.of(copy, [0] * len(of_copy), of_copy) for copy, of_copy in bits.items() if of_copy])
        faults.append([Edit.of(table.copies[0], [0], [1]), Edit.of(surface.tensor, [9], [2])])
    faults = numbered(faults)
    assert max(len(fault.edits) for fault in faults) > 3
    groups = {bed.engine.group([copy]) for table in find_majorities(model.proto.graph) for copy in table.copies}
    assert groups == {bed.engine.group([surface.tensor])}
    compare(bed, faults)
    monkeypatch.setattr(bed.truth, "run", lambda _: pytest.fail("a file was run"))
    monkeypatch.setattr(bed.engine, "_optimised", lambda _: pytest.fail("a file was optimised"))
    assert {record.way for record in bed.engine.evaluate(faults)} == {Way.VOTES, Way.CODES}


def test_that_majorities_leave_graph_and_report_is_tried_out(testbed, monkeypatch):
    tried = Majorities._leave_golden

    def without_damage(self, *given):
        *others, optimise = given
        return tried(self, *others, lambda _: optimise(self._patcher.golden))

    monkeypatch.setattr(Majorities, "_leave_golden", without_damage)
    bed, model = testbed("QDQ")
    table = next(find_majorities(model.proto.graph))
    (record,) = compare(bed, numbered([[Edit.of(table.copies[0], [0], [0])]]))
    assert record.way in (Way.REBUILD, Way.RELOAD)


def test_a_corrected_fault_creates_no_session(testbed, monkeypatch):
    bed, model = testbed("QDQ")
    (surface,) = words(model)
    monkeypatch.setattr(bed.engine, "_optimised", lambda _: pytest.fail("a file was optimised"))
    monkeypatch.setattr(bed.truth, "run", lambda _: pytest.fail("a file was run"))
    records = bed.engine.evaluate(numbered([Edit.of(surface.tensor, [n], [n % 8])] for n in range(50)))
    assert {record.way for record in records} == {Way.CODES}


def test_an_uncorrectable_fault_is_one_in_the_channels_it_decodes_to(testbed, monkeypatch):
    bed, model = testbed("QDQ")
    monkeypatch.setattr(bed.engine, "_optimised", lambda _: pytest.fail("a file was optimised"))
    group = model.codes().groups[0]
    weight = max(group.weights, key=lambda each: each.count)
    bits = group.broken(weight.start + np.arange(weight.count // weight.shape[0]))  # its first channel
    assert len(bits) >= 2
    records = compare(bed, numbered([group.as_edits(bits)]))
    assert [record.way for record in records] == [Way.CHANNELS]
    assert records[0].outcome != "masked"


def broken_file(path):
    """The file with flips in its code words: it is uncorrectable in places, and healed in others."""
    proto = onnx.load(path)
    model = DeployedModel.load(path)
    group = model.codes().groups[0]
    bits = np.concatenate([group.broken(np.arange(64)), [8 * 200]])
    flipped = {edit.tensor: edit for edit in group.as_edits(np.sort(bits))}
    for tensor in proto.graph.initializer:
        if tensor.name in flipped:
            stored = np.frombuffer(tensor.raw_data, np.uint8).copy()
            edit = flipped[tensor.name]
            np.bitwise_xor.at(stored, edit.index, (1 << edit.bit).astype(np.uint8))
            tensor.raw_data = stored.tobytes()
    damaged = path.with_name("damaged.onnx")
    damaged.write_bytes(proto.SerializeToString())
    return damaged


def test_a_file_that_is_damaged_already_is_not_decoded_by_what_sound_words_do(testbed):
    """Flips on top of flips leave something else than on sound words."""
    bed, model = testbed("QDQ", damage=broken_file)
    assert not bed.engine._protection.decoding.words
    assert bed.engine._golden.health.uncorrectable
    (surface,) = words(model)
    faults = [[Edit.of(surface.tensor, [index], [bit])] for index, bit in itertools.product((0, 3, 70, 200), (1, 6))]
    compare(bed, numbered(faults))


def test_what_numpy_says_is_tried_out_before_it_is_relied_on(testbed, monkeypatch):
    def nothing(code, bits):
        return Left(
            index=np.empty(0, np.int64),
            change=np.empty(0, np.uint8),
            block=np.empty(0, np.int64),
            status=np.empty((0, 8), np.uint8),
        )

    monkeypatch.setattr("resq_deploy.deployed.decoding.left_by_flips", nothing)
    bed, model = testbed("QDQ")
    assert not bed.engine._protection.decoding.words
    monkeypatch.undo()
    records = compare(bed, numbered(in_one_word(model, flips, 0) for flips in (1, 2)))
    assert {record.way for record in records} <= {Way.REBUILD, Way.RELOAD}


def test_what_numpy_counts_is_tried_out_too(testbed, monkeypatch):
    monkeypatch.setattr(decoding, "_reports", lambda *_: False)
    bed, _ = testbed("QDQ")
    assert not bed.engine._protection.decoding.words
    bed, _ = testbed("QDQ", health=False)
    assert bed.engine._protection.decoding.words


def test_votes_that_are_counted_otherwise_leave_the_report_to_the_file(testbed, monkeypatch):
    monkeypatch.setattr("resq_deploy.campaign.engines.voting.Voting.differing", lambda *_: 7)
    bed, model = testbed("QDQ")
    copy = next(v.copies[0] for v in model.votes() if "code" not in v.output)
    monkeypatch.undo()
    (record,) = compare(bed, numbered([[Edit.of(copy, [0], [0])]]))
    assert record.way in (Way.REBUILD, Way.RELOAD)
    assert record.health == Health(1, 0)


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_without_a_report_nothing_is_detected(form, testbed):
    bed, model = testbed(form, health=False)
    records = compare(bed, numbered(in_one_word(model, flips, seed) for flips in (1, 2, 3) for seed in range(3)))
    assert {(record.health, record.detected) for record in records} == {(None, False)}


@pytest.mark.parametrize("form", ["QDQ", "QOperator, dected", "dynamic"])
def test_faults_that_votes_and_codes_undo_are_known_to_do_nothing_on_any_image(form, testbed):
    bed, model = testbed(form)
    flips = [
        Fault(number, (Edit.of(surface.tensor, [surface.elements // 2], [surface.width - 2]),), share=Share(0, 1))
        for number, surface in enumerate(model.surfaces)
    ]
    records = bed.engine.evaluate(flips)
    inert = {record.number for record in records if record.inert}
    assert {record.way for record in records if record.inert} >= {Way.VOTES, Way.CODES}
    assert all(bed.engine.inert(flips[number]) for number in inert)
    graph = bed.engine._graph
    hit = Fault(0, tuple(Edit.of(copy, [0], [1]) for copy in bed.engine._protection.voting.votes[0].copies))
    assert graph.parameters
    assert not bed.engine.evaluate([hit])[0].inert
    assert not bed.engine.inert(hit)
