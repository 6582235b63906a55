"""The decoder in onnxruntime: bit-equal to decoding in numpy, for every small fault, and folded away."""

import itertools

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.codes.known import known_code
from resq_deploy.codes.words import decode, encode
from resq_deploy.deployed.coded import DOMAIN
from resq_deploy.protection.decoder import make_decoder
from resq_deploy.protection.graph_parts import Pool
from resq_deploy.protection.majority import LEAST_OPSET

CODES = {"secded": ("secded", 7), "dected": ("dected", 7), "dected-6": ("dected", 6)}
OPSETS = [13, 14, 18, 21]


@pytest.fixture(params=CODES)
def code(request):
    return known_code(*CODES[request.param])


def file_of(code, stored, opset):
    """A file that decodes some stored bytes and gives the weights out."""
    pool = Pool("k", opset)
    decoder, tick = make_decoder(code, opset, pool), pool.table(np.array(1))
    tables = pool.written(set())
    blocks = stored.view(decoder.stored_type).reshape(-1, 1, code.block // 8, 8)
    graph = helper.make_graph(
        [
            *pool.nodes,
            decoder.call("stored", tick, "decoded"),
            helper.make_node("Identity", ["decoded"], ["weights"]),
        ],
        "decoding",
        [],
        [helper.make_tensor_value_info("weights", TensorProto.INT8, list(blocks.shape))],
        [numpy_helper.from_array(blocks, "stored"), *(copy for copies in tables.copies for copy in copies)],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, functions=[decoder.function], opset_imports=imports, ir_version=8)


def decoded_by_onnxruntime(code, stored, opset, optimised=None):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if optimised:
        options.optimized_model_filepath = str(optimised)
    model = file_of(code, stored, opset).SerializeToString()
    (weights,) = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, {})
    return weights.reshape(-1)


def weights_of(code, count, seed=0):
    return np.random.default_rng(seed).integers(-code.largest - 1, code.largest + 1, count).astype(np.int8)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("rate", [0, 1e-4, 1e-2, 0.3])
def test_it_decodes_as_numpy_does_and_is_folded(code, opset, rate, tmp_path):
    stored = encode(code, weights_of(code, 10_000))
    flips = np.random.default_rng(1).random((stored.size, 8)) < rate
    faulty = stored ^ np.packbits(flips, axis=1, bitorder="little").reshape(-1)
    found = decoded_by_onnxruntime(code, faulty, opset, tmp_path / "optimised.onnx")
    assert (found == decode(code, faulty).weights).all()
    assert [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node] == []


def with_each(code, masks):
    """Copies of one block, each with another fault; the weights of the block."""
    weights = weights_of(code, code.block)
    return (encode(code, weights) ^ masks).reshape(-1), weights


@pytest.mark.parametrize("opset", [13, 18])
def test_every_flip_is_corrected(code, opset):
    masks = np.zeros((8 * code.block, code.block), dtype=np.uint8)
    for number, (byte, bit) in enumerate(itertools.product(range(code.block), range(8))):
        masks[number, byte] = 1 << bit
    faulty, weights = with_each(code, masks)
    found = decoded_by_onnxruntime(code, faulty, opset)
    assert (found.reshape(-1, code.block) == weights).all()


@pytest.mark.parametrize("opset", [13, 18])
def test_whatever_happens_to_one_byte_is_corrected(code, opset):
    masks = np.zeros((code.block * 255, code.block), dtype=np.uint8)
    for number, (byte, change) in enumerate(itertools.product(range(code.block), range(1, 256))):
        masks[number, byte] = change
    faulty, weights = with_each(code, masks)
    found = decoded_by_onnxruntime(code, faulty, opset)
    assert (found.reshape(-1, code.block) == weights).all()


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("word", [0, 6])
def test_every_two_flips_of_a_word(code, opset, word):
    places = [(byte, bit) for byte in range(code.block) for bit in range(8) if (byte + bit) % 8 == word]
    pairs = list(itertools.combinations(places, 2))
    masks = np.zeros((len(pairs), code.block), dtype=np.uint8)
    for mask, pair in zip(masks, pairs, strict=True):
        for byte, bit in pair:
            mask[byte] ^= 1 << bit
    faulty, weights = with_each(code, masks)
    found = decoded_by_onnxruntime(code, faulty, opset)
    assert (found == decode(code, faulty).weights).all()
    assert (found.reshape(-1, code.block) == weights).all() == (code.corrects == 2)


def test_one_block_is_enough(code):
    weights = weights_of(code, code.block)
    assert (decoded_by_onnxruntime(code, encode(code, weights), 18) == weights).all()


@pytest.mark.parametrize("opset", OPSETS)
def test_copies_of_all_tables_fit_into_8_kib(code, opset):
    """But for `dected` before bitwise operators: nine copies of its logarithms take more."""
    pool = Pool("k", opset)
    make_decoder(code, opset, pool)
    size = sum(copy.ByteSize() for copies in pool.written(set()).copies for copy in copies)
    assert size <= (8 if opset >= LEAST_OPSET or code.corrects == 1 else 13) * 1024


@pytest.mark.parametrize("opset", OPSETS)
def test_files_are_valid_onnx(code, opset):
    onnx.checker.check_model(file_of(code, encode(code, weights_of(code, 300)), opset), full_check=True)
