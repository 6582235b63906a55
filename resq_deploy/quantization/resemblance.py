"""Does an int8 file compute what its float model computes? Layer by layer and output by output, on calibration images.

The measure is the signal-to-quantization-noise ratio, 10 log10 of the variance of the float values (within channels)
over the mean squared difference. At 0 dB a constant would be as near. Outputs that are no nearer than that, and whose
top-1 agrees hardly more often than by chance, are those of another network: such a file is wrong, whatever made it so.
Outputs of plain exports lay above 18 dB (a ResNet-8 after three epochs, 7-bit weights included), every layer of random
ResNet-8, EfficientNet-B0 and Swin-T above 8 dB; files with a scale of the quantizer's taken for one of the file's, or
with a weight scale ten times too small or too large, between -8 and -1 dB.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.quantization.quant_utils import DEQUANT_OUTPUT_SUFFIX, TENSOR_NAME_QUANT_SUFFIX

from resq_deploy.deployed.deployment import create
from resq_deploy.deployed.graph import in_order, node_label
from resq_deploy.deployed.inputs import InputSpec
from resq_deploy.errors import ModelError
from resq_deploy.faults.outcomes import top1
from resq_deploy.quantization.calibrate import Images, StreamedImages
from resq_deploy.quantization.fidelity import every_core, logits, running

IMAGES = 128
"""Most images that a file is compared on."""

LEAST_DB = 0.0
"""Ratio of the outputs below which they stray: a constant would be nearer."""

LEAST_LAYER_DB = 3.0
"""Ratio below which a layer strays: half of what it says is noise. A scale that is ten times too small leaves 0.9."""

LEAST_KAPPA = 0.4
"""Cohen's kappa of the top-1 below which outputs that stray are those of another network: no more than fair agreement
in the words of Landis and Koch, "The Measurement of Observer Agreement for Categorical Data" (Biometrics 1977)."""

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FOLLOWING = ("Relu", "Clip")
_HELD = 64 * 2**20
"""Bytes of values held at a time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layer:
    """A layer's value, after the activation that is fused with it.

    Attributes:
        label: what the layer is called.
        value: its name in the float model.
        axis: of its channels.
        probe: its name in the int8 file.
    """

    label: str
    value: str
    axis: int
    probe: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resemblance:
    """How much of the float model is left in an int8 file.

    Attributes:
        images: compared on.
        output: the ratio of the outputs in dB; None where they have no variance or are not finite.
        agreement: share of images with the same top-1.
        kappa: Cohen's, of the top-1: the agreement beyond chance; None where the float model gives all images one
            class, so that there is nothing to agree on.
        layers: the ratio of each layer in dB by name, in the order they run; None likewise.
    """

    images: int
    output: float | None
    agreement: float
    kappa: float | None
    layers: Mapping[str, float | None]

    @property
    def strays(self) -> list[str]:
        """The layers more than half of whose values is noise, in the order they run."""
        return straying(self.layers)

    def as_dict(self) -> dict[str, Any]:
        """Return what the sidecar says."""
        outputs = {"sqnr_db": self.output, "agreement": self.agreement, "kappa": self.kappa}
        return {"images": self.images, "output": outputs, **described(self.layers)}


def straying(layers: Mapping[str, float | None]) -> list[str]:
    """Return the layers more than half of whose values is noise, of ratios in dB by name, in the order given."""
    return [name for name, ratio in layers.items() if ratio is not None and ratio < LEAST_LAYER_DB]


def described(layers: Mapping[str, float | None]) -> dict[str, Any]:
    """Return what the sidecar says of the layers' ratios."""
    warnings = [f"layer {name} strays from the float model's; later ones recover" for name in straying(layers)]
    return {"layers": [{"layer": name, "sqnr_db": ratio} for name, ratio in layers.items()], "warnings": warnings}


def resemblance(
    given: bytes, adjusted: onnx.ModelProto, int8: bytes, images: NDArray[Any], spec: InputSpec
) -> Resemblance:
    """Compare an int8 file with its float model, and refuse one that computes something else.

    Args:
        given: the float model as it was given, serialised: outputs are held against it.
        adjusted: the float model that was quantized in the end: layers are held against it.
        int8: the file.
        images: calibration images as the data set holds them, shape [N, ...]; the first `IMAGES` are used.
        spec: what the float model takes.

    Raises:
        ModelError: if the outputs do not resemble those of the float model, naming the first layer that strays; or if
            onnxruntime cannot run a model.
    """
    images = images[:IMAGES]
    outputs = [logits(model, images) for model in (given, int8)]
    winners = [top1(scores) for scores in outputs]
    total = _Noise(axis=1)
    total.add(*outputs)
    found = Resemblance(
        images=len(images),
        output=total.ratio,
        agreement=float((winners[0] == winners[1]).mean()),
        kappa=_kappa(*winners),
        layers=layer_ratios(adjusted, onnx.ModelProto.FromString(int8), images, spec),
    )
    finite = [bool(np.isfinite(scores).all()) for scores in outputs]
    strays = found.output is not None and found.output < LEAST_DB
    wrong = strays and found.kappa is not None and found.kappa < LEAST_KAPPA
    if wrong or (finite[0] and not finite[1]):
        raise ModelError(_complaint(found))
    return found


def _kappa(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> float | None:
    """Return Cohen's kappa of two classifications; None if the first knows one class only."""
    if len(set(ours.tolist())) == 1:
        return None
    expected = sum(float((ours == name).mean() * (theirs == name).mean()) for name in set(ours.tolist()))
    return (float((ours == theirs).mean()) - expected) / (1 - expected)


def _complaint(found: Resemblance) -> str:
    ratio = "they are not finite" if found.output is None else f"signal to noise {found.output:.1f} dB"
    first = found.strays[0] if found.strays else None
    where = f"the first layer that strays is {first!r}" if first else "no single layer strays"
    return (
        f"the int8 file does not compute what the float model computes: their top-1 agrees on {found.agreement:.0%} of "
        f"{found.images} calibration images ({ratio}), and {where}: give --granularity channel, --ranges minmax or the "
        "other --format, or leave out what narrows ranges"
    )


def layer_ratios(
    model: onnx.ModelProto, int8: onnx.ModelProto, images: Images, spec: InputSpec | None
) -> dict[str, float | None]:
    """Return the ratio in dB of each layer that both files have, by name, in the order they run.

    Args:
        model: the float model that was quantized in the end.
        int8: the file.
        images: of calibration.
        spec: what a model of images takes.

    Raises:
        ModelError: if onnxruntime cannot run a model.
    """
    layers, dequantized = _layers(model, int8)
    if not layers:
        return {}
    before, after = (
        _Probe(model, [layer.value for layer in layers]),
        _Probe(int8, [layer.probe for layer in layers], dequantized),
    )
    totals = [_Noise(axis=layer.axis) for layer in layers]
    for feeds in _batches(before, images, spec):
        pairs = zip(before.run(feeds), after.run(feeds), strict=True)
        for total, (expected, value) in zip(totals, pairs, strict=True):
            total.add(expected, value)
    return {layer.label: total.ratio for layer, total in zip(layers, totals, strict=True)}


def _batches(probe: "_Probe", images: Images, spec: InputSpec | None) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield what is fed, so many images at a time that what layers make of them can be held."""
    first = StreamedImages(images[:1], spec).get_next()
    size = sum(value.nbytes for value in probe.run(first)) if first else 1
    reader = StreamedImages(images, spec, max(1, min(50, _HELD // max(size, 1))))
    while feeds := reader.get_next():
        yield feeds


class _Noise:
    """The ratio of the variance of values, within channels, to the mean squared difference of others from them.

    Args:
        axis: of the channels.
    """

    def __init__(self, *, axis: int) -> None:
        self._axis = axis
        self._count = 0
        self._sum: NDArray[np.float64] | float = 0.0
        self._energy: NDArray[np.float64] | float = 0.0
        self._noise = 0.0

    def add(self, expected: NDArray[Any], found: NDArray[Any]) -> None:
        """Add values, of one shape."""
        rows = np.moveaxis(expected, self._axis, -1).reshape(-1, expected.shape[self._axis]).astype(np.float64)
        self._count += len(rows)
        self._sum = self._sum + rows.sum(axis=0)
        self._energy = self._energy + np.square(rows).sum(axis=0)
        self._noise += float(np.square(expected.astype(np.float64) - found).sum())

    @property
    def ratio(self) -> float | None:
        """The ratio in dB; None where values do not vary or are not finite, and infinite where all are met."""
        if not self._count:
            return None
        signal = float(np.maximum(self._energy - np.square(self._sum) / self._count, 0.0).sum())
        if not (math.isfinite(signal) and math.isfinite(self._noise)) or signal <= 0:
            return None
        return 10 * math.log10(signal / self._noise) if self._noise else None


class _Probe:
    """A model whose inner values are read.

    Args:
        model: not changed.
        values: names of what is read.
        extra: nodes that make some of them of what the model has.
    """

    def __init__(self, model: onnx.ModelProto, values: Sequence[str], extra: Sequence[onnx.NodeProto] = ()) -> None:
        probe = onnx.ModelProto()
        probe.CopyFrom(model)
        probe.graph.node.extend(extra)
        del probe.graph.output[:]
        self._values = list(dict.fromkeys(values))
        probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._values)
        self._wanted = list(values)
        self._session = create(probe.SerializeToString(), every_core())

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the values for what is fed.

        Raises:
            ModelError: if onnxruntime cannot run the model.
        """
        with running():
            made = dict(zip(self._values, self._session.run(self._values, dict(feeds)), strict=True))
        return [made[name] for name in self._wanted]


def _layers(model: onnx.ModelProto, int8: onnx.ModelProto) -> tuple[list[_Layer], list[onnx.NodeProto]]:
    """Return the layers whose values both files have, and the nodes that dequantize those of the int8 file."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name: place for place, value in enumerate(model.graph.output)}
    made = {name for node in int8.graph.node for name in node.output if name}
    stored = {tensor.name for tensor in int8.graph.initializer}
    layers, extra = list[_Layer](), dict[str, onnx.NodeProto]()
    for node in in_order(model.graph):
        if node.op_type not in _LAYERS:
            continue
        chain = [node.output[0]]
        while chain[-1] not in outputs and [reader.op_type in _FOLLOWING for reader in readers.get(chain[-1], [])] == [
            True
        ]:
            chain.append(readers[chain[-1]][0].output[0])
        value = chain[-1]
        probe = int8.graph.output[outputs[value]].name if value in outputs else _probe(chain, made, stored, extra)
        if probe:
            axis = 1 if node.op_type.startswith("Conv") else -1
            layers.append(_Layer(label=node_label(node), value=value, axis=axis, probe=probe))
    return layers, list(extra.values())


def _probe(chain: Sequence[str], made: set[str], stored: set[str], extra: dict[str, onnx.NodeProto]) -> str | None:
    """Return the int8 file's name for a value, None if it has none; add a node that dequantizes it if need be."""
    dequantized = f"{chain[-1]}{DEQUANT_OUTPUT_SUFFIX}"
    if dequantized in made:  # what is before it may be without the activation, which saturation does then
        return dequantized
    for name in reversed(chain):
        codes, scale, zero = f"{name}{TENSOR_NAME_QUANT_SUFFIX}", f"{name}_scale", f"{name}_zero_point"
        if codes in made and {scale, zero} <= stored:
            probe = f"{codes} compared"
            extra[probe] = helper.make_node("DequantizeLinear", [codes, scale, zero], [probe])
            return probe
    return chain[-1] if chain[-1] in made else None
