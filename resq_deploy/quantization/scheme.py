"""What int8 form a file is to have."""

import dataclasses
from typing import Literal

from resq_deploy.errors import OptionError
from resq_deploy.grid import CODE_MAX, REDUCED_CODE_MAX
from resq_deploy.quantization.ranges import check_ber

RANGES = ("minmax", "mse", "fault-aware")
GRANULARITIES = ("channel", "tensor")
FORMATS = ("qdq", "qoperator")
WEIGHT_TYPES = ("int8", "uint8")
DESIGN_BER = 1e-3
"""The bit error rate fault-aware ranges are made for, unless told otherwise."""

PERCENTILES = (99.9, 99.99, 99.999, 100.0)
"""Percentiles that `auto` chooses from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scheme:
    """How weights and activations become int8.

    Attributes:
        ranges: `minmax` (up to the largest weight), `mse` (least squares) or `fault-aware` (least squares under bit
            errors); see `resq_deploy.quantization.ranges`.
        design_ber: the bit error rate of `fault-aware`, 1e-3 if None; None for the other ranges.
        granularity: a range per output `channel`, or one per `tensor`.
        format: `qdq` (float operators between QuantizeLinear and DequantizeLinear, which onnxruntime fuses) or
            `qoperator` (integer operators, such as QLinearConv).
        activation_percentile: how much of each activation its range holds, in percent above 50; 100 (or None) is all,
            `auto` what keeps most accuracy under bit errors; see `resq_deploy.quantization.activations`.
        bias_correction: whether biases make up for the mean error; see `resq_deploy.quantization.bias`.
        reduce_range: whether weights have 7 bits, so that x86 CPUs without VNNI do not saturate.
        weight_type: `int8`, or `uint8` with the zero point 128: the same codes plus 128, whose products with uint8
            activations saturate on no CPU.
        equalize: whether ranges are shared out between layers; see `resq_deploy.quantization.equalize`.
        reconstruct: whether weights are moved inside narrowed ranges so that the layers' outputs stay, instead of cut
            off; see `resq_deploy.quantization.reconstruct`. If None, where ranges are `fault-aware`.
    """

    ranges: str = "minmax"
    design_ber: float | None = None
    granularity: str = "channel"
    format: str = "qdq"
    activation_percentile: float | Literal["auto"] | None = None
    bias_correction: bool = False
    equalize: bool = False
    reduce_range: bool = False
    weight_type: str = "int8"
    reconstruct: bool | None = None

    def __post_init__(self) -> None:
        for option, value, known in (
            ("--ranges", self.ranges, RANGES),
            ("--granularity", self.granularity, GRANULARITIES),
            ("--format", self.format, FORMATS),
            ("--bias-correction", self.bias_correction, (True, False)),
            ("--equalize", self.equalize, (True, False)),
            ("--reduce-range", self.reduce_range, (True, False)),
            ("--weight-type", self.weight_type, WEIGHT_TYPES),
            ("--reconstruct", self.reconstruct, (True, False, None)),
        ):
            if value not in known:
                raise OptionError(f"{option} {value}: give one of {', '.join(map(str, known))}")
        if self.design_ber is not None:
            check_ber(self.design_ber)
            if self.ranges != "fault-aware":
                raise OptionError(
                    f"--design-ber is for --ranges fault-aware, not {self.ranges}: leave it out, or ask for fault-aware"
                )
        if self.reduce_range and self.weight_type == "uint8":
            raise OptionError(
                "--reduce-range is for int8 weights: uint8 ones saturate nowhere with all their 8 bits, so leave it "
                "out, or ask for --weight-type int8"
            )
        if self.reconstruct and self.ranges == "minmax":
            raise OptionError("--reconstruct is for narrowed ranges, not minmax: ask for --ranges fault-aware or mse")
        if self.activation_percentile not in (None, "auto"):
            _check_percentile(self.activation_percentile)

    @property
    def expected_ber(self) -> float:
        """The bit error rate that weight ranges are chosen for: that of `fault-aware`, else 0."""
        if self.ranges != "fault-aware":
            return 0.0
        return DESIGN_BER if self.design_ber is None else self.design_ber

    @property
    def reconstructs(self) -> bool:
        """Whether weights are moved inside their ranges instead of cut off."""
        return self.ranges == "fault-aware" if self.reconstruct is None else self.reconstruct

    @property
    def code_max(self) -> int:
        """The largest weight code: 127, or 64 where weights have 7 bits."""
        return REDUCED_CODE_MAX if self.reduce_range else CODE_MAX

    @property
    def percentiles(self) -> tuple[float, ...]:
        """The percentiles that activation ranges may have, ascending."""
        if self.activation_percentile == "auto":
            return PERCENTILES
        return (100.0 if self.activation_percentile is None else float(self.activation_percentile),)

    @property
    def percentile_ber(self) -> float:
        """The bit error rate that `auto` chooses a percentile at: that of `fault-aware`, else 1e-3."""
        return self.expected_ber if self.ranges == "fault-aware" else DESIGN_BER


def _check_percentile(percentile: object) -> None:
    """Check a percentile of the activations.

    Raises:
        OptionError: if it is no number above 50 and up to 100.
    """
    if not isinstance(percentile, (int, float)) or not 50 < percentile <= 100:  # refuses a NaN, too
        raise OptionError(
            f"--activation-percentile {percentile}: give auto, or a percentile above 50 and up to 100, such as 99.99"
        )
