"""Digests by block and tensor: every flip is found and told where it is, and damaged digests are told from that."""

import copy
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resq_deploy.deployed.digests import BLOCK, Held, compare, files_named, make_digests
from resq_deploy.errors import RunFolderError

DATA = np.random.default_rng(0).integers(0, 256, 3 * BLOCK + 100).astype(np.uint8).tobytes()
AWAY = np.random.default_rng(1).integers(0, 256, 2 * BLOCK).astype(np.uint8).tobytes()
TENSORS = [
    Held(tensor="a", role="weight", layer="conv", file=0, begin=50, end=5000),
    Held(tensor="b", role="bias", layer="conv", file=0, begin=5000, end=5040),
    Held(tensor="c", role="", layer="", file=0, begin=9000, end=3 * BLOCK + 60),
    Held(tensor="d", role="weight", layer="fc", file=1, begin=0, end=BLOCK),
    Held(tensor="e", role="weight", layer="fc2", file=1, begin=100, end=200),  # stored once, held twice
]
FILES = [("net.onnx", DATA), ("weights.bin", AWAY)]


@pytest.fixture
def digests():
    return make_digests(FILES, TENSORS)


def flipped(data, *bits):
    changed = bytearray(data)
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def told(found):
    return [(each.tensor, each.file, each.ranges) for each in found.damaged]


def test_digests_are_those_of_the_bytes(digests):
    assert files_named(digests) == ["net.onnx", "weights.bin"]
    first = digests["files"][0]
    assert first["bytes"] == len(DATA)
    assert len(first["blocks"]) == 4 * 8
    assert int(first["blocks"][8:16], 16) == zlib.crc32(DATA[BLOCK : 2 * BLOCK])
    assert int(first["blocks"][24:], 16) == zlib.crc32(DATA[3 * BLOCK :])
    outside = DATA[:50] + DATA[5040:9000] + DATA[3 * BLOCK + 60 :]
    assert int(first["outside"], 16) == zlib.crc32(outside)
    assert int(digests["files"][1]["outside"], 16) == zlib.crc32(AWAY[BLOCK:])
    assert int(digests["tensors"][1]["digest"], 16) == zlib.crc32(DATA[5000:5040])


def test_what_was_not_changed_is_sound(digests):
    found = compare(digests, [DATA, AWAY])
    assert found.sound
    assert (found.blocks, found.tensors, found.damaged_blocks) == (6, 5, 0)


@pytest.mark.parametrize(
    ("byte", "expected"),
    [
        (50, [("a", "net.onnx", ((50, 4096),))]),
        (4999, [("a", "net.onnx", ((4096, 5000),))]),
        (5000, [("b", "net.onnx", ((5000, 5040),))]),
        (49, [("", "net.onnx", ((0, 4096),))]),
        (5040, [("", "net.onnx", ((4096, 8192),))]),
        (3 * BLOCK + 99, [("", "net.onnx", ((3 * BLOCK, 3 * BLOCK + 100),))]),
        (3 * BLOCK + 59, [("c", "net.onnx", ((3 * BLOCK, 3 * BLOCK + 60),))]),
    ],
)
def test_a_flip_is_told_by_tensor_and_block(digests, byte, expected):
    found = compare(digests, [flipped(DATA, 8 * byte + 3), AWAY])
    assert told(found) == expected
    assert (found.damaged_blocks, found.sizes, found.record) == (1, (), "")
    assert not found.sound


def test_damage_of_several_tensors_blocks_and_files(digests):
    found = compare(digests, [flipped(DATA, 8 * 100, 8 * 4500, 8 * 12000, 0), flipped(AWAY, 8 * 150)])
    assert told(found) == [
        ("a", "net.onnx", ((50, 5000),)),
        ("c", "net.onnx", ((9000, 3 * BLOCK),)),
        ("", "net.onnx", ((0, 3 * BLOCK),)),  # blocks that hold bytes outside of tensors, one after the other
        ("d", "weights.bin", ((0, BLOCK),)),
        ("e", "weights.bin", ((100, 200),)),
    ]
    assert found.damaged_blocks == 4
    assert [(each.role, each.layer) for each in found.damaged][:2] == [("weight", "conv"), ("", "")]
    assert found.damaged[0].as_dict()["ranges"] == [[50, 5000]]


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 8 * len(DATA) - 1), min_size=1, max_size=3))
def test_up_to_three_flips_are_found_wherever_they_are(bits):
    digests = make_digests(FILES, TENSORS)
    found = compare(digests, [flipped(DATA, *bits), AWAY])
    assert found.damaged_blocks == len({bit // 8 // BLOCK for bit in bits})
    names = {each.tensor for each in found.damaged}
    hit = {
        next((held.tensor for held in TENSORS[:3] if held.begin <= bit // 8 < held.end), "") for bit in bits
    }  # three flips of a tensor beyond 91,607 bits would not have to be
    assert names == hit


@pytest.mark.parametrize(
    ("data", "words", "blocks"),
    [
        (DATA[:-1], "net.onnx holds 12,387 bytes, and held 12,388", 1),
        (DATA[: 2 * BLOCK], "net.onnx holds 8,192 bytes, and held 12,388", 2),
        (DATA + b"x", "net.onnx holds 12,389 bytes, and held 12,388", 1),
        (b"", "net.onnx holds 0 bytes", 4),
    ],
    ids=["one short", "cut off", "one more", "empty"],
)
def test_another_size_is_told(digests, data, words, blocks):
    found = compare(digests, [data, AWAY])
    assert not found.sound
    assert words in found.sizes[0]
    assert found.damaged_blocks == blocks
    assert "" not in {each.tensor for each in found.damaged}


def test_more_bytes_behind_whole_blocks_are_told():
    found = compare(make_digests([("n", AWAY)], []), [AWAY + b"x"])
    assert found.sizes == ("n holds 8,193 bytes, and held 8,192",)
    assert not found.sound
    assert not found.record


def test_a_missing_file_is_told(digests):
    found = compare(digests, [DATA, None])
    assert found.sizes == ("weights.bin is missing",)
    assert found.blocks == 6
    assert not found.sound


def changed(digests, **values):
    other = copy.deepcopy(digests)
    other["files"][0] |= values
    return other


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"blocks": "00000000" * 4}, "net.onnx has the SHA-256 that it had, and other blocks or tensors"),
        ({"outside": "00000000"}, "net.onnx has the SHA-256 that it had, and other blocks or tensors"),
        ({"sha256": "0" * 64}, "all blocks of net.onnx are as they were, and its SHA-256 is not"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_damaged_digests_accuse_no_tensor(digests, values, words):
    found = compare(changed(digests, **values), [DATA, AWAY])
    assert (found.record, found.damaged, found.damaged_blocks) == (words, (), 0)
    assert not found.sound


def test_a_damaged_digest_of_a_tensor_accuses_none(digests):
    digests["tensors"][0]["digest"] = "00000000"
    assert compare(digests, [DATA, AWAY]).record
    assert told(compare(digests, [DATA, flipped(AWAY, 8 * 5000)])) == [("", "weights.bin", ((BLOCK, 2 * BLOCK),))]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found.pop("algorithm"),
        lambda found: found.update(algorithm="md5"),
        lambda found: found.update(block_bytes=512),
        lambda found: found.update(files=[]),
        lambda found: found.update(tensors=None),
        lambda found: found["files"][0].update(blocks="00"),
        lambda found: found["files"][0].update(bytes=-4),
        lambda found: found["files"][0].update(bytes="many"),
        lambda found: found["tensors"][0].update(file=2),
        lambda found: found["tensors"][0].update(file=-1),
        lambda found: found["tensors"][0].update(begin=6000),
        lambda found: found["tensors"][0].update(begin=-1),
        lambda found: found["tensors"][0].update(digest="0"),
        lambda found: found["tensors"][0].pop("end"),
    ],
)
def test_what_cannot_be_read_is_one_line(digests, spoil):
    spoil(digests)
    with pytest.raises(RunFolderError, match="the digests cannot be read: "):
        files_named(digests)


def test_a_file_without_tensors_is_all_outside():
    digests = make_digests([("n", AWAY)], [])
    assert int(digests["files"][0]["outside"], 16) == zlib.crc32(AWAY)
    assert told(compare(digests, [flipped(AWAY, 3)])) == [("", "n", ((0, BLOCK),))]


def test_a_file_of_nothing_and_one_of_tensors_alone():
    nothing = make_digests([("n", b"")], [])
    assert compare(nothing, [b""]).sound
    assert compare(nothing, [b""]).blocks == 0
    whole = make_digests([("n", b"abc")], [Held(tensor="t", role="", layer="", file=0, begin=0, end=3)])
    assert whole["files"][0]["outside"] == "00000000"
    assert told(compare(whole, [b"abd"])) == [("t", "n", ((0, 3),))]
