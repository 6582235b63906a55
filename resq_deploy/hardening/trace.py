"""Export to float ONNX: batch-norm folded, dynamic batch, readable names, and bytes that depend on the weights only."""

import collections
import contextlib
import io
import json
import logging
import pathlib
import warnings
from collections.abc import Iterator

import onnx
import torch
from torch import nn

from resq_deploy.errors import ModelError
from resq_deploy.hardening.checkpoint import Checkpoint
from resq_deploy.hardening.folding import find_pairs, fold_batchnorm
from resq_deploy.records import write_atomic
from resq_deploy.version import __version__

OPSET = 18
"""What torch's exporter writes natively; onnxruntime's static quantizer takes it."""

_SCOPES = "pkg.torch.onnx.name_scopes"


def export_float_onnx(
    source: Checkpoint | nn.Module, path: pathlib.Path, *, image_size: int = 32, channels: int = 3, opset: int = OPSET
) -> None:
    """Write a network as a float32 ONNX file with batch-norm folded into the convolutions.

    The file takes `input`, float32 [batch, C, H, W] in [0, 1], and returns `logits`, float32 [batch, classes].
    Nodes carry the path of their module, parameters the path of their tensor (`body.conv1.weight`). Equal weights
    give equal bytes (for one version of torch), and no path of the machine remains in the file.

    Args:
        source: a checkpoint, or a network whose forward pass takes images in [0, 1].
        path: the file to write.
        image_size: height and width in pixels, where `source` is a network; a checkpoint knows its own.
        channels: of the images, likewise.
        opset: the ONNX operator set, 18 or later.

    Raises:
        CheckpointError: if the checkpoint's weights do not fit its architecture.
        ModelError: if torch cannot export the network, or the result is not valid ONNX.
        RunFolderError: if the file cannot be written.
    """
    network = source.build() if isinstance(source, Checkpoint) else source
    size = source.image_size if isinstance(source, Checkpoint) else image_size
    channels = len(source.mean) if isinstance(source, Checkpoint) else channels
    example = torch.linspace(0, 1, 2 * channels * size * size).reshape(2, channels, size, size)
    folded = fold_batchnorm(network, find_pairs(network, example)).cpu()
    try:
        model = _export(folded, example, opset)
        _rename(model)
        _strip(model)
        model = onnx.shape_inference.infer_shapes(model)
        onnx.checker.check_model(model)
    except (RuntimeError, TypeError, ValueError, torch.onnx.OnnxExporterError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(f"cannot export the network to ONNX (opset {opset}): {reason}") from error
    write_atomic(path, model.SerializeToString(deterministic=True))


def _export(network: nn.Module, example: torch.Tensor, opset: int) -> onnx.ModelProto:
    with _silence():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=opset,
            input_names=["input"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    if program is None:
        raise ModelError("cannot export the network to ONNX: torch returned no program")
    return program.model_proto


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's progress lines, deprecation warnings and log records off the user's terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def _rename(model: onnx.ModelProto) -> None:
    """Name nodes, their outputs and their folded constants after the modules they come from."""
    graph = model.graph
    names = _node_names(graph)
    fixed = {value.name for value in [*graph.input, *graph.output]}
    constants = {tensor.name for tensor in graph.initializer}
    readers = collections.Counter(name for node in graph.node for name in node.input)
    new = {}
    for node, name in zip(graph.node, names, strict=True):
        node.name = name
        for index, output in enumerate(node.output):
            if output and output not in fixed:
                new[output] = f"{name}_{index}" if index else name
        # a weight that the exporter transposed (a linear layer on tokens) lost its name to constant folding
        weight = node.input[1] if node.op_type == "MatMul" else ""
        if weight in constants and weight.startswith("val_") and readers[weight] == 1:
            new[weight] = f"{name.removesuffix('.MatMul')}.weight"
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)


def _node_names(graph: onnx.GraphProto) -> list[str]:
    """Name each node by its module, with the operator added where a module has several, and a number if need be."""
    scopes = [_scope(node) for node in graph.node]
    population = collections.Counter(scopes)
    containers = {scope.rpartition(".")[0] for scope in scopes}
    stems = [
        scope
        if scope and population[scope] == 1 and scope not in containers
        else ".".join(filter(None, (scope, node.op_type)))
        for scope, node in zip(scopes, graph.node, strict=True)
    ]
    seen: collections.Counter[str] = collections.Counter()
    names = []
    for stem in stems:
        names.append(f"{stem}_{seen[stem]}" if seen[stem] else stem)
        seen[stem] += 1
    return names


def _scope(node: onnx.NodeProto) -> str:
    """Return the path of the innermost module that a node comes from; empty for the network itself."""
    scopes = next((json.loads(_quoted(entry.value)) for entry in node.metadata_props if entry.key == _SCOPES), [""])
    return str(next((scope for scope in reversed(scopes[:-1]) if scope), ""))


def _quoted(text: str) -> str:
    """Turn the exporter's Python list of names into JSON; module names hold no quotes."""
    return text.replace("'", '"')


def _strip(model: onnx.ModelProto) -> None:
    """Remove what names the machine (source files, stack traces) and what the renaming made stale."""
    model.producer_name, model.producer_version = "resq-deploy", __version__
    graph = model.graph
    del graph.value_info[:]
    entries = [model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output]
    for entry in entries:
        del entry.metadata_props[:]
        entry.ClearField("doc_string")
