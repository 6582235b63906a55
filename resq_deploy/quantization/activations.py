"""Activation ranges: where each activation saturates.

A static int8 graph saturates at every QuantizeLinear, so the range of an activation bounds what a fault upstream can
make of it, in the manner of Ranger (Chen et al., "A Low-cost Fault Corrector for Deep Neural Networks through Range
Restriction", DSN 2021). A range that leaves out the outermost values rounds more finely and bounds more tightly, but
cuts off what fault-free images reach. How much to leave out is measured: under bit errors, on calibration images.
"""

import collections
import math
import pathlib
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy import stats

from resq_deploy.deployed.inputs import InputSpec
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.surfaces import Role
from resq_deploy.faults.bit_errors import FIRST_CHIP, flipped_bits
from resq_deploy.faults.fault import Edit, Fault, Op
from resq_deploy.faults.statistics import cluster
from resq_deploy.quantization.calibrate import ActivationRanges, Images, observed

CHIPS = range(FIRST_CHIP - 8, FIRST_CHIP)
"""The chips a percentile is chosen on: none that a campaign then measures the file on."""

IMAGES = 200
"""How many calibration images it is chosen on."""

Right = Callable[[bytes], NDArray[np.bool_]]
"""Returns which of some images a file answers right, shape [images]."""

_INFINITY = 0x7F80
"""The upper half of float32's infinity; what lies above it, up to the sign bit, is not a number."""


class Distribution:
    """The values of one activation: both ends, and how often each upper half of a float32 occurred.

    The bins are the float32 numbers that agree in sign, exponent and 7 bits of the mantissa: at most 1/128 of a value
    wide, and the same for every batch, so that batches add up without the range being known before.

    onnxruntime 1.32 has a PercentileCalibrater. It holds the activations of all batches before it counts; given one
    batch at a time it adds bins of the first batch's width, without bound (153 GB where that reached 1e-7 and the next
    one 3); it takes the lower end of the bin that holds the upper percentile; and it prints to standard output.

    Attributes:
        lowest: smallest value, shape [1]; NaN where there is none.
        highest: largest value, shape [1].
        counts: int64, shape [65536], by the unsigned pattern of the upper half.
    """

    def __init__(self) -> None:
        self.lowest = np.full(1, np.nan, np.float32)
        self.highest = np.full(1, np.nan, np.float32)
        self.counts = np.zeros(2**16, np.int64)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count further values, of any shape."""
        flat = np.ascontiguousarray(values, dtype="<f4").reshape(-1)
        found = np.bincount(flat.view("<u2")[1::2])
        self.counts[: len(found)] += found
        self.lowest = np.fmin(self.lowest, np.fmin.reduce(flat, initial=np.nan, keepdims=True))
        self.highest = np.fmax(self.highest, np.fmax.reduce(flat, initial=np.nan, keepdims=True))

    def range(self, percentile: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the range that leaves out (100 - percentile) / 2 percent of the values at each end, shapes [1].

        Zero is always inside. Everything is at 100, and where nothing but zero would be left.
        """
        tail = (100.0 - percentile) / 200.0
        low = np.clip(self._quantile(tail), self.lowest, 0.0)
        high = np.clip(self._quantile(1.0 - tail), 0.0, np.maximum(self.highest, 0.0))
        if percentile == 100 or not high - low >= np.finfo(np.float32).tiny:
            return self.lowest, self.highest
        return low.astype(np.float32), high.astype(np.float32)

    def _quantile(self, share: float) -> float:
        """Return what a share of the finite values lies below, interpolated within its bin; 0 if there are none."""
        counts = np.concatenate([self.counts[0x8000 + _INFINITY - 1 : 0x7FFF : -1], self.counts[:_INFINITY]])
        cumulative = np.cumsum(counts)
        rank = share * float(cumulative[-1])
        place = int(np.searchsorted(cumulative, rank))
        if not counts[place]:
            return 0.0
        inside = (rank - float(cumulative[place] - counts[place])) / float(counts[place])
        return float(_EDGES[place] + inside * (_EDGES[place + 1] - _EDGES[place]))


def _edges() -> NDArray[np.float64]:
    """Return where the bins of a distribution begin and end, from the lowest to the highest finite number."""
    positive = (np.arange(_INFINITY + 1, dtype=np.uint32) << 16).view(np.float32).astype(np.float64)
    positive[-1] = np.finfo(np.float32).max
    return np.concatenate([-positive[:0:-1], positive])


_EDGES = _edges()


def distributions(model: onnx.ModelProto, images: Images, spec: InputSpec | None) -> dict[str, Distribution]:
    """Return the distribution of every activation, in one pass; half a megabyte each.

    Args:
        model: the float model, from `prepare_float_model`; not changed.
        images: calibration images as the data set holds them, shape [N, ...].
        spec: what the model takes.

    Raises:
        ModelError: if onnxruntime cannot run the model.
        DataError: if the images do not fit it.
    """
    found: dict[str, Distribution] = collections.defaultdict(Distribution)
    for values in observed(model, images, spec):
        for name, value in values.items():
            found[name].add(value)
    return dict(found)


def percentile_ranges(
    found: Mapping[str, Distribution], percentile: float, outputs: Collection[str] = ()
) -> ActivationRanges:
    """Return the range of every activation at a percentile.

    The model's outputs keep all their values: scores that saturate tie.

    Args:
        found: from `distributions`.
        percentile: how much of an activation its range holds, in percent, as in `Distribution.range`.
        outputs: names of the model's outputs.
    """
    return {name: values.range(100.0 if name in outputs else percentile) for name, values in found.items()}


def choose_percentile(
    candidates: Mapping[float, bytes], right: Right, ber: float, report: Callable[[str], None]
) -> tuple[float, dict[str, Any]]:
    """Choose the percentile whose file is right most often under bit errors in its weights.

    All files see the same faults: a mask depends on the chip and the name of the tensor alone. A lower percentile is
    chosen only where it is ahead of the highest by more than chance, in the 95 % intervals of the paired difference
    over chips and over images: on ResNet-20 the best of four means alone was a percentile that lost on test images.

    Args:
        candidates: int8 files by percentile.
        right: says which images of calibration a file answers right.
        ber: the bit error rate.
        report: told each file as it is measured.

    Returns:
        The percentile, and the record of the choice.
    """
    found = {}
    for percentile, int8 in candidates.items():
        report(f"measuring percentile {percentile:g} under bit errors at {ber:g}")
        found[percentile] = right_under_faults(int8, right, ber)
    highest_one = max(candidates)
    gains = {percentile: _paired_gain(answers, found[highest_one]) for percentile, answers in found.items()}
    ahead = {percentile: gain for percentile, (gain, margin) in gains.items() if gain > margin}
    chosen = max(ahead, key=lambda percentile: (ahead[percentile], percentile), default=highest_one)
    return chosen, {
        "bit_error_rate": ber,
        "first_chip": CHIPS.start,
        "images": found[highest_one].shape[1],
        "candidates": [
            {
                "percentile": percentile,
                "accuracy": cluster(answers.mean(axis=1), math.inf, 0.95).as_dict(),
                "gain": {"value": gains[percentile][0], "margin": gains[percentile][1]},
            }
            for percentile, answers in found.items()
        ],
    }


def _paired_gain(answers: NDArray[np.bool_], others: NDArray[np.bool_]) -> tuple[float, float]:
    """Return how much more often answers are right than others, [chips, images], and the margin of that at 95 %.

    The wider of Student's margins over chips and over images: both are samples.
    """
    difference = answers.astype(np.float64) - others
    margins = []
    for axis in (0, 1):
        means = difference.mean(axis=axis)
        n = len(means)
        margins.append(float(stats.t.ppf(0.975, n - 1) * means.std(ddof=1) / np.sqrt(n)) if n > 1 else 1.0)
    return float(difference.mean()), max(margins)


def right_under_faults(int8: bytes, right: Right, ber: float) -> NDArray[np.bool_]:
    """Return which images each of `CHIPS` gets right, with bit errors in the stored weights; shape [chips, images].

    Args:
        int8: the file.
        right: says which images a file answers right.
        ber: the probability that a stored bit is flipped.

    Raises:
        ModelError: if onnxruntime refuses the file.
    """
    with tempfile.TemporaryDirectory(prefix="resq-deploy-") as folder:
        path = pathlib.Path(folder) / "int8.onnx"
        path.write_bytes(int8)
        model = DeployedModel.load(path)
    found = [right(faulty) for faulty in faulty_files(model, ber, CHIPS, (Role.WEIGHT,))]
    return np.asarray(found, dtype=np.bool_)


def faulty_files(model: DeployedModel, ber: float, chips: Iterable[int], roles: Collection[Role]) -> Iterator[bytes]:
    """Yield a file as each chip holds it, with random bit errors in what it stores.

    Args:
        model: the file.
        ber: the probability that a stored bit is flipped.
        chips: their numbers, which decide the bits.
        roles: of the tensors that are hit.
    """
    patcher = model.patcher()
    for chip in chips:
        edits = tuple(
            Edit(surface.tensor, Op.FLIP, *np.divmod(places, surface.width))
            for surface in model.surfaces
            if surface.role in roles and len(places := flipped_bits(surface.tensor, surface.bits, ber, chip))
        )
        yield patcher.apply(patcher.masks(Fault(chip, edits, ber=ber, chip=chip)))
