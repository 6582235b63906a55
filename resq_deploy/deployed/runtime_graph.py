"""The graph onnxruntime really runs: what is left of a file after its optimiser, cut into parts that can be run alone.

Parts are taken from the optimised graph and run without any further optimisation, so that every kernel is the one of
the whole session, fed with the same values.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from resq_deploy.deployed.coded import HEALTH
from resq_deploy.deployed.deployment import Deployment, as_is, create, element_types, optimised_file
from resq_deploy.deployed.graph import graphs, in_order
from resq_deploy.deployed.health import Health, read_health
from resq_deploy.errors import ModelError

_OF_SHAPES = ("Shape", "Size")

Signature = tuple[object, ...]


class RuntimeGraph:
    """An optimised graph, reduced to what some of its outputs depend on.

    Args:
        model: the optimised model, as `optimise` returns it.
        outputs: those that are judged.
        alike: inputs that are fed the same whatever the samples.

    Attributes:
        nodes: the nodes the outputs depend on, each after the nodes it reads from.
        parameters: the stored tensors they read, by name.
        varying: the values that depend on what is in the samples, and not on how many there are alone.
        contents: what the parameters hold, once `signatures` has looked.
        inputs: names of the graph's inputs.
        outputs: names of the outputs.

    Raises:
        KeyError: if no node makes an output.
    """

    def __init__(self, model: onnx.ModelProto, outputs: Sequence[str], alike: Collection[str] = ()) -> None:
        self._model = model
        self._alike = frozenset(alike)
        self.outputs = tuple(outputs)
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        given = [value for value in model.graph.input if value.name not in stored]
        self._overridable = {value.name: value for value in model.graph.input if value.name in stored}
        self.inputs = tuple(value.name for value in given)
        ordered = in_order(model.graph)
        self._reads = [_reads(node) for node in ordered]
        makers = {value: place for place, node in enumerate(ordered) for value in node.output if value}
        needed = _ancestors([makers[output] for output in outputs], self._reads, makers)
        self.nodes = [ordered[place] for place in needed]
        self._reads = [self._reads[place] for place in needed]
        self.makers = {value: place for place, node in enumerate(self.nodes) for value in node.output if value}
        self.parameters = {name: stored[name] for reads in self._reads for name in reads if name in stored}
        self._readers: dict[str, list[int]] = {}
        for place, reads in enumerate(self._reads):
            for value in reads:
                self._readers.setdefault(value, []).append(place)
        self.varying = self._find_varying()
        self.contents: dict[str, tuple[object, ...]] = {}
        self._types: dict[str, onnx.ValueInfoProto] = {value.name: value for value in given}

    def reads(self, place: int) -> list[str]:
        """Return the values a node reads, those its subgraphs take from outside included; never empty names."""
        return self._reads[place]

    def readers(self, value: str) -> list[int]:
        """Return the places of the nodes that read a value."""
        return self._readers.get(value, [])

    def _find_varying(self) -> frozenset[str]:
        varying = set(self.inputs).difference(self._alike)
        for place, node in enumerate(self.nodes):
            if node.op_type not in _OF_SHAPES and varying.intersection(self._reads[place]):
                varying.update(value for value in node.output if value)
        return frozenset(varying)

    def descendants(self, places: Iterable[int]) -> set[int]:
        """Return nodes and everything that depends on what they make."""
        found = set(places)
        for place, reads in enumerate(self._reads):
            if any(self.makers.get(value) in found for value in reads):
                found.add(place)
        return found

    def ancestors(self, places: Iterable[int]) -> set[int]:
        """Return nodes and everything they depend on."""
        return set(_ancestors(places, self._reads, self.makers))

    def between(self, known: Collection[str], wanted: Iterable[str]) -> set[int]:
        """Return the nodes that must run to get wanted values when some values are known."""
        waiting = [value for value in wanted if value not in known]
        found: set[int] = set()
        while waiting:
            place = self.makers.get(waiting.pop())
            if place is None or place in found:
                continue
            found.add(place)
            waiting += [value for value in self._reads[place] if value not in known]
        return found

    def part(
        self,
        places: Collection[int],
        outputs: Sequence[str],
        replaced: Mapping[str, onnx.TensorProto] | None = None,
        fed: Collection[str] = (),
    ) -> tuple[bytes, list[str]]:
        """Return some of the nodes as a model of its own.

        Args:
            places: which nodes.
            outputs: values that they make and that the part gives.
            replaced: stored tensors to put in the place of the graph's own.
            fed: stored tensors to take as inputs.

        Returns:
            The serialised model, and the values it takes as inputs.
        """
        chosen = sorted(places)
        made = {value for place in chosen for value in self.nodes[place].output}
        read = list(dict.fromkeys(value for place in chosen for value in self._reads[place]))
        kept = [name for name in read if name in self.parameters and name not in fed]
        inputs = [value for value in read if value not in made and value not in kept]
        tensors = [(replaced or {}).get(name, self.parameters[name]) for name in kept]
        overridable = [self._overridable[name] for name in kept if name in self._overridable]
        graph = onnx.GraphProto(name="part")
        graph.node.extend(self.nodes[place] for place in chosen)
        graph.initializer.extend(tensors)
        graph.input.extend(self._typed(value) for value in inputs)
        graph.input.extend(overridable)
        graph.output.extend(onnx.ValueInfoProto(name=value) for value in outputs)
        return self.as_model(graph).SerializeToString(), inputs

    def as_model(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        """Return a graph as a model of the same versions as this one."""
        return onnx.ModelProto(ir_version=self._model.ir_version, opset_import=self._model.opset_import, graph=graph)

    def signatures(self, known: "RuntimeGraph | None" = None) -> list[Signature]:
        """Return what each node computes: operator, attributes, inputs by name, parameters by content, outputs by name.

        Two nodes of equal signatures compute the same values from the same inputs.

        Args:
            known: a graph whose parameters' content need not be compared byte by byte twice.
        """
        self.contents = {name: self._content_of(name, known) for name in self.parameters}
        return [self._signature(place, self.contents) for place in range(len(self.nodes))]

    def signatures_with(self, signatures: Sequence[Signature], values: Mapping[str, bytes]) -> list[Signature]:
        """Return what the signatures are with other bytes in some of the parameters; names of no parameter are ignored.

        Args:
            signatures: those of this graph.
            values: the other bytes, by name.
        """
        new: dict[str, tuple[object, ...]] = {
            name: (*self.contents[name][:-1], value) for name, value in values.items() if name in self.parameters
        }
        contents, changed = {**self.contents, **new}, list(signatures)
        for place in {place for name in new for place in self.readers(name)}:
            changed[place] = self._signature(place, contents)
        return changed

    def _signature(self, place: int, contents: Mapping[str, tuple[object, ...]]) -> Signature:
        node = self.nodes[place]
        return (
            node.domain,
            node.op_type,
            tuple(sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)),
            tuple(contents.get(value, value) for value in (*node.input, *self._reads[place])),
            tuple(node.output),
        )

    def health(self) -> Health | None:
        """Return what the model reports of its health; None if it reports nothing, or has to be run for it.

        Raises:
            ModelError: if it is no such report.
        """
        said = self.constant(HEALTH)
        return None if said is None else read_health(said)

    def constant(self, output: str) -> NDArray[Any] | None:
        """Return what an output of the model is whatever its input; None if there is no such output, or it depends."""
        stored = (tensor for tensor in self._model.graph.initializer if tensor.name == output)
        tensor = next(stored, None)
        return None if tensor is None else np.asarray(onnx.numpy_helper.to_array(tensor))

    def learn_types(self, deployment: Deployment) -> None:
        """Find out the element type of every value, by asking onnxruntime.

        Raises:
            ModelError: if a value is no tensor of a type that can be fed.
        """
        for name, number in element_types(self._model, self.makers, deployment).items():
            self._types[name] = onnx.helper.make_tensor_value_info(name, number, None)

    def take_types(self, known: "RuntimeGraph") -> None:
        """Take over the types of values that another graph has under the same names."""
        self._types = {**known._types, **self._types}

    def element_type(self, value: str) -> int:
        """Return the element type of a value, as ONNX numbers it.

        Raises:
            ModelError: if it is no tensor of a type that can be fed.
        """
        return int(self._typed(value).type.tensor_type.elem_type)

    def _typed(self, value: str) -> onnx.ValueInfoProto:
        if value in self.parameters:
            return onnx.helper.make_tensor_value_info(
                value, self.parameters[value].data_type, list(self.parameters[value].dims)
            )
        if value not in self._types:
            raise ModelError(f"the value {value!r} of the optimised graph has a type that cannot be fed")
        return self._types[value]

    def _content_of(self, name: str, known: "RuntimeGraph | None") -> tuple[object, ...]:
        """Return what identifies a parameter whatever its name: type, shape, bytes; equal content is held once."""
        tensor = self.parameters[name]
        content = (tensor.data_type, tuple(tensor.dims), tensor.raw_data)
        twin = known.contents.get(name) if known else None
        return twin if twin == content else content


def optimise(model: bytes, deployment: Deployment) -> onnx.ModelProto:
    """Return the model as onnxruntime's optimiser leaves it, every parameter in `raw_data`.

    Raises:
        ModelError: if onnxruntime refuses the model.
    """
    optimised = optimised_file(model, deployment)
    optimised.graph.initializer.extend(_dense(sparse) for sparse in optimised.graph.sparse_initializer)
    del optimised.graph.sparse_initializer[:]
    for tensor in optimised.graph.initializer:
        if not tensor.HasField("raw_data"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    return optimised


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    """Return a sparse tensor as onnxruntime holds it: dense."""
    values, places = onnx.numpy_helper.to_array(sparse.values), onnx.numpy_helper.to_array(sparse.indices)
    whole = np.zeros(tuple(sparse.dims), values.dtype)
    whole[np.unravel_index(places, whole.shape) if places.ndim == 1 else tuple(places.T)] = values
    dense: onnx.TensorProto = onnx.numpy_helper.from_array(whole, sparse.values.name)
    return dense


class Part:
    """A part of a graph, ready to run.

    Args:
        model: the serialised part.
        inputs: the values it takes.
        outputs: the values it gives.
        deployment: how the whole file is run.
    """

    def __init__(self, model: bytes, inputs: Sequence[str], outputs: Sequence[str], deployment: Deployment) -> None:
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self._session = create(model, as_is(deployment))

    def run(self, values: Mapping[str, object], terminate: ort.RunOptions | None = None) -> list[object]:
        """Return the outputs for given inputs; others than this part's are ignored."""
        feeds = {name: values[name] for name in self.inputs}
        return list(self._session.run(self.outputs, feeds, terminate))

    def run_named(self, values: Mapping[str, object]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name."""
        return {name: np.asarray(value) for name, value in zip(self.outputs, self.run(values), strict=True)}


def _reads(node: onnx.NodeProto) -> list[str]:
    return list(dict.fromkeys(value for value in (*node.input, *_captured(node)) if value))


def _captured(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the values that the subgraphs of a node take from outside them."""
    for attribute in node.attribute:
        subgraphs = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
        for subgraph in subgraphs:
            parts = list(graphs(subgraph))
            own = {value.name for part in parts for value in (*part.input, *part.initializer)}
            own |= {value for part in parts for inner in part.node for value in inner.output}
            read = [value for part in parts for inner in part.node for value in inner.input]
            read += [value.name for part in parts for value in part.output]
            yield from (value for value in read if value not in own)


def _ancestors(places: Iterable[int], reads: Sequence[Sequence[str]], makers: Mapping[str, int]) -> list[int]:
    """Return nodes and everything they depend on, in the order of the graph."""
    found: set[int] = set()
    waiting = list(places)
    while waiting:
        place = waiting.pop()
        if place not in found:
            found.add(place)
            waiting += [makers[value] for value in reads[place] if value in makers]
    return sorted(found)
