"""Stage 3's adjustments around the writing, in order: equalization, weight ranges, activation ranges, biases."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import onnx
from onnx import numpy_helper

from resq_deploy.data.dataset import Split
from resq_deploy.deployed.inputs import InputSpec
from resq_deploy.quantization import activations, bias, reconstruct
from resq_deploy.quantization.activations import Distribution
from resq_deploy.quantization.answers import Labelled
from resq_deploy.quantization.calibrate import ActivationRanges, activation_ranges
from resq_deploy.quantization.equalize import equalize
from resq_deploy.quantization.fidelity import Fidelity, Referee, Reference
from resq_deploy.quantization.names import with_given_names
from resq_deploy.quantization.scheme import Scheme
from resq_deploy.quantization.weight_ranges import Written, with_chosen_ranges, write_clipped, write_with_ranges
from resq_deploy.quantization.weights import check_channels

JUDGED = 500
"""Most calibration images that an adjustment is judged on."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Adjusted:
    """An int8 file with its adjustments.

    Attributes:
        int8: the file, serialised.
        model: the float model with the adjustments that were kept: what the file is the int8 form of.
        record: the sidecar's `adjustments`.
    """

    int8: bytes
    model: onnx.ModelProto
    record: dict[str, Any]


def write_adjusted(
    model: onnx.ModelProto,
    calibration: Split | Labelled,
    spec: InputSpec | None,
    scheme: Scheme,
    *,
    report: Callable[[str], None] = lambda _: None,
) -> tuple[bytes, dict[str, Any]]:
    """Return the int8 file, and the sidecar's `adjustments`, of what `adjust` makes."""
    made = adjust(model, calibration, spec, scheme, report=report)
    return made.int8, made.record


def adjust(
    model: onnx.ModelProto,
    calibration: Split | Labelled,
    spec: InputSpec | None,
    scheme: Scheme,
    *,
    referee: Callable[[slice], Referee] | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Adjusted:
    """Quantize a prepared float model with the adjustments of a scheme.

    Each adjustment is judged on calibration images against the float model as it was given, and undone where it does
    harm: where the logits come to lie farther from those of the float model; or, of narrower activation ranges, which
    are there for what faults do, where answers are lost besides. Its record says whether it was kept, and holds the
    figures before and after. Biases are corrected on other images than they are judged on.

    Args:
        model: the float model, from `prepare_float_model`; not changed.
        calibration: images as the data set holds them, shape [N, ...], and their labels; or samples of another task.
        spec: what a model of images takes.
        scheme: what to write.
        referee: of another task than to classify: holds files against the model on some of the samples.
        report: told each step as it begins.

    Raises:
        ModelError: if onnxruntime cannot quantize the model, or writes other weights or biases than were meant.
        DataError: if the images do not fit the model.
    """
    check_channels(model, scheme)
    shop = _Workshop(model, calibration, spec, scheme, referee, report)
    draft, said = shop.draft(model), {}
    for name, wanted, change in (
        ("equalization", scheme.equalize, shop.equalized),
        ("reconstruction", scheme.reconstructs, shop.reconstructed),
        ("activations", scheme.percentiles != (100.0,), shop.narrowed),
        ("bias_correction", scheme.bias_correction, shop.corrected),
    ):
        if wanted:
            draft, said[name] = change(draft)
    return Adjusted(
        int8=with_given_names(draft.written.int8, model),
        model=draft.model,
        record={"ranges": draft.written.record, **said},
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Draft:
    """An int8 file as far as it is adjusted, and what it was made from.

    `settled` says whether the weights of the model lie inside their ranges already; `found` is only there where
    percentiles are wanted.
    """

    model: onnx.ModelProto
    activations: ActivationRanges
    written: Written
    settled: bool
    found: Mapping[str, Distribution]


class _Workshop:
    """The adjustments: each takes a draft, and returns the next one and the record of what it changed and gained."""

    def __init__(
        self,
        model: onnx.ModelProto,
        calibration: Split | Labelled,
        spec: InputSpec | None,
        scheme: Scheme,
        referee: Callable[[slice], Referee] | None,
        report: Callable[[str], None],
    ) -> None:
        self._given = model
        self._calibration = calibration
        self._spec = spec
        self._scheme = scheme
        self._report = report
        half = len(calibration) // 2
        self._rest = slice(half, half + JUDGED)
        self._referee = self._of_classes if referee is None else referee
        self._estimating = calibration.images[: max(half, 1)]
        self._judgements: dict[bytes, Fidelity] = {}

    @functools.cached_property
    def _reference(self) -> Referee:
        return self._referee(self._rest)

    def _of_classes(self, rows: slice) -> Reference:
        if not isinstance(self._calibration, Split):
            raise TypeError("samples that are no images with classes need a referee of their own")
        images = self._calibration
        return Reference(self._given, Split(images=images.images[rows], labels=images.labels[rows]))

    def draft(self, model: onnx.ModelProto, *, settled: bool = False) -> _Draft:
        """Return a model with the scheme's weight ranges, and activation ranges that leave nothing out."""
        self._report(f"calibrating on {len(self._calibration)} images")
        calibrated = model if settled else with_chosen_ranges(model, self._scheme)
        images = self._calibration.images
        if self._scheme.percentiles == (100.0,):
            return self._written(model, activation_ranges(calibrated, images, self._spec), settled)
        found = activations.distributions(calibrated, images, self._spec)
        return self._written(model, activations.percentile_ranges(found, 100.0), settled, found)

    def equalized(self, draft: _Draft) -> tuple[_Draft, dict[str, Any]]:
        """Share weight ranges out between layers, if that brings the outputs nearer to those of the float model."""
        self._report("equalizing the weights of ReLU chains")
        model, record = equalize(draft.model, self._scheme.granularity, self._scheme.code_max)
        return self._better(draft, self.draft(model) if record["pairs"] else draft, record)

    def reconstructed(self, draft: _Draft) -> tuple[_Draft, dict[str, Any]]:
        """Move the weights inside their ranges, if that brings the outputs nearer to those of the float model."""
        self._report(f"fitting the weights of each layer on {min(len(self._estimating), reconstruct.IMAGES)} images")
        model, record = reconstruct.reconstruct(draft.model, self._estimating, self._spec, self._scheme)
        return self._better(draft, self.draft(model, settled=True), record)

    def narrowed(self, draft: _Draft) -> tuple[_Draft, dict[str, Any]]:
        """Narrow the activation ranges to a percentile: the one asked for, or the best under bit errors.

        That trades a little of the fault-free logits for less harm by faults, so that answers are what must not be
        lost.
        """
        outputs = {value.name for value in draft.model.graph.output}
        drafts = {100.0: draft}
        for percentile in self._scheme.percentiles:
            if percentile < 100:
                ranges = activations.percentile_ranges(draft.found, percentile, outputs)
                drafts[percentile] = self._written(draft.model, ranges, draft.settled)
        percentile, choice = self._scheme.percentiles[0], None
        if len(self._scheme.percentiles) > 1:
            files = {percentile: drafts[percentile].written.int8 for percentile in self._scheme.percentiles}
            right = functools.partial(self._reference.right, count=activations.IMAGES)
            percentile, choice = activations.choose_percentile(files, right, self._scheme.percentile_ber, self._report)
        after = drafts[percentile]
        record = {"percentile": percentile, "choice": choice, "tensors": _narrowed(draft, after)}
        return self._better(draft, after, record, trades=True)

    def corrected(self, draft: _Draft) -> tuple[_Draft, dict[str, Any]]:
        """Correct the biases, if that brings the outputs nearer to those of the float model."""
        self._report(f"correcting biases on {min(len(self._estimating), bias.IMAGES)} images")
        scheme = dataclasses.replace(self._scheme, format="qdq")
        quantized = write_clipped(bias.named(draft.model), draft.activations, scheme, draft.written.clips)
        model, record = bias.correct_biases(
            draft.model, onnx.ModelProto.FromString(quantized), self._estimating, self._spec
        )
        return self._better(draft, self._written(model, draft.activations, draft.settled), record)

    def _written(
        self,
        model: onnx.ModelProto,
        ranges: ActivationRanges,
        settled: bool,
        found: Mapping[str, Distribution] | None = None,
    ) -> _Draft:
        written = write_with_ranges(model, ranges, self._scheme, settled=settled)
        return _Draft(model=model, activations=ranges, written=written, settled=settled, found=found or {})

    def _better(
        self, before: _Draft, after: _Draft, record: dict[str, Any], *, trades: bool = False
    ) -> tuple[_Draft, dict[str, Any]]:
        """Return the new draft unless it does harm, else the one before; and the record with which it is."""
        given, found = self._judge(before), self._judge(after)
        kept = found.is_no_farther(given) or (trades and found.keeps_answers(given))
        return after if kept else before, {"kept": kept} | record | {
            "before": given.as_dict(),
            "after": found.as_dict(),
        }

    def _judge(self, draft: _Draft) -> Fidelity:
        int8 = draft.written.int8
        if int8 not in self._judgements:
            self._judgements[int8] = self._reference.judge(int8)
        return self._judgements[int8]


def _narrowed(before: _Draft, after: _Draft) -> list[dict[str, Any]]:
    """Return each activation whose step became smaller in the file, with the steps."""
    coarse, fine = (_activation_scales(draft) for draft in (before, after))
    return [
        {"tensor": name, "scale": {"before": coarse[name], "after": fine[name]}}
        for name in coarse
        if coarse[name] != fine[name]
    ]


def _activation_scales(draft: _Draft) -> dict[str, float]:
    """Return the stored scale of each activation."""
    graph = onnx.ModelProto.FromString(draft.written.int8).graph
    names = {f"{name}_scale": name for name in draft.activations}
    return {names[t.name]: float(numpy_helper.to_array(t)) for t in graph.initializer if t.name in names}
