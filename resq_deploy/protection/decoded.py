"""What onnxruntime decodes of a protected file's weights, held against what their code words hold."""

import itertools
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from resq_deploy.codes.code import WORDS, Code
from resq_deploy.codes.layout import Bytes, byte_of
from resq_deploy.codes.words import Status, decode, encode
from resq_deploy.deployed.arithmetic import Arithmetic
from resq_deploy.deployed.coded import DOMAIN, Coded
from resq_deploy.deployed.deployment import Deployment, create
from resq_deploy.deployed.nesting import captured
from resq_deploy.deployed.runtime_errors import RUNTIME_ERRORS, first_line
from resq_deploy.errors import ModelError

_REFUSALS: tuple[type[Exception], ...] = (ModelError, *RUNTIME_ERRORS)
_AS_DEVICES_DO = Deployment(arithmetic=Arithmetic.NATIVE)  # a decoder adds bits, no more than a block's
_TRIED = "resq.tried"
_MOST_TRIED = 4000  # sets of flips that no code corrects


def decoded_weights(model: onnx.ModelProto, coded: Sequence[Coded]) -> dict[str, NDArray[Any]]:
    """Return the weights that onnxruntime decodes, by name.

    Args:
        model: the file; self-contained.
        coded: its weights under a code.

    Raises:
        ModelError: if onnxruntime cannot decode them, or gives others than the code words hold, so that nodes or
            tables of the decoder are damaged; the message names the first such weight.
    """
    values = _run(model, model.graph, [each.weight for each in coded])
    stored = {tensor.name: tensor.raw_data for tensor in model.graph.initializer}
    for each in coded:
        words = np.frombuffer(b"".join(stored[name] for name in each.stored), dtype=np.uint8)
        held = _weights(each, words)[each.start : each.start + each.count]
        if not np.array_equal(values[each.weight].reshape(-1), held):
            raise ModelError(
                f"weight {each.weight!r} is decoded to other values than its code words hold: what decodes is damaged, "
                "and no code covers it; take the file anew"
            )
    return values


def check_decoder(model: onnx.ModelProto, coded: Sequence[Coded]) -> None:
    """Try what decodes a file's words on words of our own, with all flips that the code corrects and some more.

    A decoder that no longer corrects gives sound words as they are.

    Args:
        model: the file; self-contained.
        coded: its weights under a code.

    Raises:
        ModelError: if onnxruntime cannot run it, or it decodes otherwise than its code says.
    """
    for one in {(each.code.name, each.unsigned): each for each in coded}.values():
        words, graph = _trial_words(one.code), onnx.GraphProto()
        graph.CopyFrom(model.graph)
        node = next(node for node in graph.node if node.domain == DOMAIN and node.input[0] == one.stored[0])
        kind = next(tensor.data_type for tensor in graph.initializer if tensor.name == node.input[0])
        blocks = words.view(onnx.helper.tensor_dtype_to_np_dtype(kind)).reshape(-1, 1, one.code.block // 8, 8)
        graph.initializer.append(numpy_helper.from_array(blocks, _TRIED))
        node.input[0] = _TRIED
        found = _run(model, graph, [name for name in node.output if name])
        wanted = {node.output[0]: _weights(one, words)}
        if len(node.output) > 1:
            status = decode(one.code, words).status
            wanted[node.output[1]] = np.array(
                [(status == kind).sum() for kind in (Status.CORRECTED, Status.UNCORRECTABLE)]
            )
        if any(not np.array_equal(found[name].reshape(-1), values) for name, values in wanted.items()):
            raise ModelError(
                f"its decoder does not correct what {one.code.name} corrects: its tables or nodes are damaged, and no "
                "code covers them; take the file anew"
            )


def _weights(coded: Coded, words: Bytes) -> NDArray[Any]:
    """Return what code words hold, int8, or uint8 where they are unsigned, [bytes]."""
    weights = decode(coded.code, words).weights
    return weights.view(np.uint8) & np.uint8(coded.code.data_mask) if coded.unsigned else weights


def _trial_words(code: Code) -> Bytes:
    """Return code words with each set of flips that is corrected, and some larger ones, in all words of a block."""
    random = np.random.default_rng(0)
    bits = np.flatnonzero(np.array(code.columns))
    sets = [flips for size in range(code.corrects + 1) for flips in itertools.combinations(bits, size)]
    sets += [tuple(random.choice(bits, code.corrects + 1, replace=False)) for _ in range(_MOST_TRIED)]
    weights = random.integers(-code.largest - 1, code.largest + 1, len(sets) * code.block).astype(np.int8)
    stored = encode(code, weights)
    block = np.repeat(np.arange(len(sets)), [WORDS * len(flips) for flips in sets])
    bit = np.array([bit for flips in sets for bit in flips for _ in range(WORDS)], dtype=np.int64)
    word = np.tile(np.arange(WORDS), len(bit) // WORDS)
    mask = (1 << bit % 8).astype(np.uint8)
    np.bitwise_xor.at(stored, block * code.block + byte_of(bit, word), mask)
    return stored


def _run(model: onnx.ModelProto, graph: onnx.GraphProto, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return values that a graph makes of stored ones alone, by name; functions and opsets are those of the model.

    Raises:
        ModelError: if onnxruntime cannot compute them.
    """
    if not names:
        return {}
    kept = [graph.node[place] for place in needed(graph, names)]
    _check_names([*kept, *(node for function in model.functions for node in function.node)])
    read = {name for node in kept for name in node.input}
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    part.metadata_props.extend(model.metadata_props)  # which say what onnxruntime it takes
    part.graph.name = "weights"
    part.graph.node.extend(kept)
    part.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in read)
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    try:
        values = create(part.SerializeToString(), _AS_DEVICES_DO).run(list(names), {})
    except _REFUSALS as error:
        raise ModelError(f"onnxruntime does not decode its weights ({first_line(error)})") from error
    return dict(zip(names, values, strict=True))


def _check_names(nodes: Iterable[onnx.NodeProto]) -> None:
    """Refuse names that are not UTF-8: protocol buffers give bytes for them, and onnxruntime prints what it thinks."""
    for node in nodes:
        attributes = (attribute.name for attribute in node.attribute)
        for name in (node.name, node.op_type, node.domain, *node.input, *node.output, *attributes):
            if isinstance(name, bytes):
                raise ModelError(f"what decodes its weights is damaged: the name {name!r} is not UTF-8")


def needed(graph: onnx.GraphProto, wanted: Collection[str], known: Collection[str] = ()) -> list[int]:
    """Return the places of the nodes that wanted values depend on, ascending, where some values are known."""
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    waiting, places = list(wanted), set[int]()
    while waiting:
        name = waiting.pop()
        place = makers.get(name)
        if place is None or place in places or name in known:
            continue
        places.add(place)
        waiting += [*graph.node[place].input, *captured(graph.node[place])]
    return sorted(places)
