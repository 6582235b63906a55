"""Writing functions out where they are called, as onnxruntime does, without losing sight of what is stored once.

A function that is called twice has its weights in the graph twice, and in the file once. What is stored is marked
before functions are written out, in the documentation strings of tensors and attributes, which every copy keeps.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import onnx
from onnx import inliner

from resq_deploy.deployed.coded import DOMAIN
from resq_deploy.deployed.nesting import graphs, inner_graphs
from resq_deploy.deployed.stored import (
    Form,
    LeftOut,
    Source,
    Stored,
    stored_in_attribute,
    stored_in_nodes,
    stored_values,
)
from resq_deploy.errors import ModelError

_MAX_INLINED = 1_000_000  # nodes; functions that call each other can multiply without end
_PREFIX = "stored value "
_NEVER_CALLED = "stored in a function that nothing calls, or in an attribute that it does not use"


def everything(model: onnx.ModelProto) -> Iterator[Stored]:
    """Yield every value that a model stores, in its graph and in its functions."""
    yield from stored_values(model.graph)
    for number, function in enumerate(model.functions):
        yield from stored_in_nodes(function.node, f"functions[{number}].")
        for at, attribute in enumerate(function.attribute_proto):
            here = f"functions[{number}].attribute_proto[{at}]"
            yield from stored_in_attribute(onnx.NodeProto(), attribute, here)


@dataclasses.dataclass(frozen=True)
class Mark:
    """What is known of a stored value before functions are written out.

    Attributes:
        name: what it is called.
        bits: how many bits it stores.
        documentation: the documentation string in whose place the mark stands.
        source: where its bytes lie in the file.
    """

    name: str
    bits: int
    documentation: str
    source: Source


Marks = Mapping[tuple[str, Form], Mark]
"""By what stands in the documentation string, and the form; an attribute may hold values in several forms."""


def mark(model: onnx.ModelProto, sources: Sequence[Source | None]) -> Marks:
    """Mark all that a model stores, in place.

    Args:
        model: the model.
        sources: where each stored value's bytes lie, in the order of `everything`; None where in the model itself.
    """
    marks: dict[tuple[str, Form], Mark] = {}
    holder, documentation, number = None, "", -1
    for stored, source in zip(list(everything(model)), sources, strict=True):
        if stored.holder is not holder:
            holder, number = stored.holder, number + 1
            text = holder.doc_string
            documentation = text if isinstance(text, str) else ""  # not UTF-8: nothing reads it
            holder.doc_string = f"{_PREFIX}{number}"
        name = stored.value or stored.holder.name or stored.place
        source = source or Source((number, stored.form))
        marks[f"{_PREFIX}{number}", stored.form] = Mark(name, stored.bits, documentation, source)
    return marks


def unmark(model: onnx.ModelProto, marks: Marks) -> tuple[dict[str, Source], list[LeftOut]]:
    """Take the marks off again, in place.

    Returns:
        Where the bytes of each stored value of the graph lie, by place; and what the graph does not hold any more.
    """
    known = {stored.place: (stored.holder.doc_string, stored.form) for stored in stored_values(model.graph)}
    sources = {place: marks[key].source for place, key in known.items() if key in marks}
    texts = {number: made.documentation for (number, _), made in marks.items()}
    for holder in list(_holders(model.graph)):
        text = texts.get(holder.doc_string)
        if text is not None:
            holder.ClearField("doc_string")
            if text:
                holder.doc_string = text
    kept = set(known.values())
    lost = [made for key, made in marks.items() if key not in kept and key[1] not in (Form.INTEGERS, Form.TEXT)]
    return sources, [LeftOut(tensor=made.name, bits=made.bits, reason=_NEVER_CALLED) for made in lost]


def _holders(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto | onnx.AttributeProto]:
    """Yield whatever may bear a mark."""
    yield from (stored.holder for stored in stored_values(graph))
    for part in graphs(graph):
        for node in part.node:
            yield from node.attribute


def written_out(model: onnx.ModelProto, *, decoders: bool = True) -> onnx.ModelProto:
    """Return the model with its functions written out where they are called.

    Args:
        model: the model.
        decoders: whether those that decode weights are written out too; False leaves those that store nothing as they
            are, so that one sees at a glance what is decoded.

    Raises:
        ModelError: if they call each other without end, or cannot be written out.
    """
    kept = [] if decoders else [made for made in model.functions if made.domain == DOMAIN and not _stores(made)]
    if len(kept) == len(model.functions):
        return model
    _check_size(model)
    _bind_defaults(model)
    try:
        names = [(made.domain, made.name) for made in kept]
        return inliner.inline_selected_functions(model, names, exclude=True)
    except Exception as error:  # onnx raises its own C++ types here
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"its functions cannot be inlined ({reason}): inline them on export") from error


def _stores(function: onnx.FunctionProto) -> bool:
    """Return whether a function holds values of its own."""
    defaults = (stored_in_attribute(onnx.NodeProto(), attribute) for attribute in function.attribute_proto)
    return any(itertools.chain(stored_in_nodes(function.node), *defaults))


def _check_size(model: onnx.ModelProto) -> None:
    sizes: dict[tuple[str, str, str], int] = {}
    for _ in range(len(model.functions) + 1):
        before = dict(sizes)
        for function in model.functions:
            called = ((node.domain, node.op_type, node.overload) for node in function.node)
            key = (function.domain, function.name, function.overload)
            sizes[key] = sum(before.get(name, 1) for name in called)
            if sizes[key] > _MAX_INLINED:
                raise ModelError(f"the function {function.name!r} calls others without end: inline it on export")
        if sizes == before:
            break


def _bind_defaults(model: onnx.ModelProto) -> None:
    """Give each call of a function the attributes it leaves to their defaults, which onnx's inliner forgets."""
    functions = {(made.domain, made.name, made.overload): made for made in model.functions if made.attribute_proto}
    if not functions:
        return
    bodies = [part.node for part in graphs(model.graph)]
    bodies += [part.node for function in model.functions for part in (function, *inner_graphs(function.node))]
    for node in (node for nodes in bodies for node in nodes):
        called = functions.get((node.domain, node.op_type, node.overload))
        given = {attribute.name for attribute in node.attribute}
        for default in called.attribute_proto if called else ():
            if default.name not in given:
                node.attribute.add().CopyFrom(default)
