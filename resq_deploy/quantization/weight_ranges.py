"""Writing an int8 file with the weight ranges of a scheme: choose, write, read back, mend, and say what was done."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from resq_deploy.errors import ModelError
from resq_deploy.quantization.calibrate import ActivationRanges
from resq_deploy.quantization.ranges import best_clip, expected_error
from resq_deploy.quantization.readback import written_scales
from resq_deploy.quantization.scheme import Scheme
from resq_deploy.quantization.weights import Clips, WeightTensor, clip_weights, range_overrides, step, weight_tensors
from resq_deploy.quantization.write import write_int8

_ATTEMPTS = 4
_SLACK = 1.01
"""How much wider a widened range is made than its bias asks for, against rounding."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Written:
    """An int8 file.

    Attributes:
        int8: the file.
        clips: by weight tensor, the clips it was written with; empty where the quantizer chose by itself (`minmax`).
        record: what the sidecar says of the weight ranges.
    """

    int8: bytes
    clips: Clips
    record: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Range:
    """The range of one tensor: as chosen, as given to the quantizer, and the scale it wrote; [channels] or []."""

    weight: WeightTensor
    code_max: int
    chosen: NDArray[np.float32]
    given: NDArray[np.float32]
    written: NDArray[np.float32]

    @property
    def enlarged(self) -> NDArray[np.bool_]:
        """Where the quantizer made the scale larger than that of the range it was given."""
        return np.not_equal(self.written, step(self.given, self.code_max))


def write_with_ranges(
    model: onnx.ModelProto, activations: ActivationRanges, scheme: Scheme, *, settled: bool = False
) -> Written:
    """Quantize a prepared float model with the weight ranges of a scheme.

    Where the int32 bias of a layer does not allow as small a step as was chosen, the range of its weights is widened
    to what it does allow (J is convex, so that is the best of the ranges allowed) and the file is written again.
    Under `minmax` the quantizer enlarges the scale alone, which cuts no weight off.

    Args:
        model: the float model, from `prepare_float_model`; not changed.
        activations: the range of every activation.
        scheme: what to write.
        settled: whether the weights lie inside those ranges already, and reach up to them.

    Raises:
        ModelError: if onnxruntime cannot quantize the model, or writes other weights or biases than were meant.
    """
    weights, left = weight_tensors(model, scheme.granularity)
    chosen = {weight.name: weight.largest if settled else _chosen(weight, scheme) for weight in weights}
    given = dict(chosen)
    for _ in range(_ATTEMPTS):
        clips = {} if scheme.ranges == "minmax" else dict(given)
        int8 = write_clipped(model, activations, scheme, clips)
        ranges = _read_back(int8, model, weights, chosen, given, scheme)
        enlarged = [entry for entry in ranges if entry.enlarged.any()]
        if scheme.ranges == "minmax" or not enlarged:
            in_float = [weight.name for weight in weights if all(entry.weight is not weight for entry in ranges)]
            return Written(int8=int8, clips=clips, record=_record(ranges, left + in_float, scheme))
        for entry in enlarged:
            wider = (entry.written * np.float32(scheme.code_max * _SLACK)).astype(np.float32)
            given[entry.weight.name] = np.where(entry.enlarged, wider, entry.given)
    raise ModelError(
        f"onnxruntime enlarges the scale of the weights {enlarged[0].weight.name!r}, whose bias is too large for it, "
        "however wide their range is made: export with --ranges minmax"
    )


def with_chosen_ranges(model: onnx.ModelProto, scheme: Scheme) -> onnx.ModelProto:
    """Return the float model with its weights limited to the ranges of a scheme: what calibration is to see.

    Raises:
        ModelError: if a weight is empty or not finite.
    """
    if scheme.ranges == "minmax":
        return model
    weights, _ = weight_tensors(model, scheme.granularity)
    return clip_weights(model, weights, {weight.name: _chosen(weight, scheme) for weight in weights})


def write_clipped(model: onnx.ModelProto, activations: ActivationRanges, scheme: Scheme, clips: Clips) -> bytes:
    """Quantize a prepared float model with given clips; without any, the quantizer chooses by itself.

    Raises:
        ModelError: if onnxruntime cannot quantize the model.
    """
    if not clips:
        return write_int8(model, activations, scheme)
    weights, _ = weight_tensors(model, scheme.granularity)
    return write_int8(clip_weights(model, weights, clips), activations, scheme, range_overrides(weights, clips))


def _read_back(
    int8: bytes,
    model: onnx.ModelProto,
    weights: Sequence[WeightTensor],
    chosen: Clips,
    given: Clips,
    scheme: Scheme,
) -> list[_Range]:
    """Return the ranges of the weights that a file holds as int8.

    Raises:
        ModelError: if it holds a weight in float that was narrowed, or anything else than was meant.
    """
    scales = written_scales(int8, model, weights, given, scheme)
    for weight in weights:
        if weight.name not in scales and np.less(given[weight.name], weight.largest).any():
            raise ModelError(
                f"onnxruntime leaves the weights {weight.name!r} in float, so that no range can be chosen for them: "
                "export with --ranges minmax"
            )
    return [
        _Range(
            weight=weight,
            code_max=scheme.code_max,
            chosen=chosen[weight.name],
            given=given[weight.name],
            written=scales[weight.name],
        )
        for weight in weights
        if weight.name in scales
    ]


def _chosen(weight: WeightTensor, scheme: Scheme) -> NDArray[np.float32]:
    if scheme.ranges == "minmax":
        return weight.largest
    return best_clip(
        weight.values,
        axis=weight.axis,
        ber=scheme.expected_ber,
        code_max=scheme.code_max,
        bits=scheme.flipped_bits,
    )


def _record(ranges: list[_Range], left: list[str], scheme: Scheme) -> dict[str, Any]:
    """Return what the sidecar says of the weight ranges."""
    return {
        "mode": scheme.ranges,
        "design_ber": scheme.storage_ber if scheme.ranges == "fault-aware" else None,
        "expected_ber": scheme.expected_ber if scheme.ranges == "fault-aware" else None,
        "granularity": scheme.granularity,
        "tensors": [_tensor_record(entry, scheme) for entry in ranges],
        "not_adjusted": left,
    }


def _tensor_record(entry: _Range, scheme: Scheme) -> dict[str, Any]:
    """Return the record of one tensor: lengths in units of the weights, expected errors in squared ones."""
    weight = entry.weight
    errors = {
        name: float(
            expected_error(
                weight.values,
                clip,
                axis=weight.axis,
                ber=scheme.expected_ber,
                code_max=scheme.code_max,
                bits=scheme.flipped_bits,
            ).mean()
        )
        for name, clip in (("minmax", weight.largest), ("chosen", entry.given))
    }
    intended, written = step(entry.chosen, entry.code_max).reshape(-1), entry.written.reshape(-1)
    return {
        "tensor": weight.name,
        "axis": weight.axis,
        "channels": int(written.size),
        "max_abs": float(weight.largest.max()),
        "clip": _spread(entry.given),
        "clipped_share": float(np.mean(weight.clipped(entry.given) != weight.values)),
        "expected_error": errors,
        "scales": {
            "intended": _spread(intended),
            "written": _spread(written),
            "differ": [
                {"channel": int(place), "intended": float(intended[place]), "written": float(written[place])}
                for place in np.flatnonzero(intended != written)
            ],
        },
    }


def _spread(values: NDArray[np.float32]) -> dict[str, float]:
    return {"min": float(values.min()), "median": float(np.median(values)), "max": float(values.max())}
