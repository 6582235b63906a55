"""What int8 form a file is to have."""

import dataclasses
from typing import Literal

from resq_deploy.codes.code import Code
from resq_deploy.codes.known import KNOWN, known_code
from resq_deploy.errors import OptionError
from resq_deploy.grid import REDUCED_CODE_MAX, largest_code, zero_point
from resq_deploy.quantization.ranges import STORED_BITS, check_ber, rate_left

RANGES = ("minmax", "mse", "fault-aware")
GRANULARITIES = ("channel", "tensor")
STATIC_FORMATS = ("qdq", "qoperator")
"""Forms whose activations have ranges of their own, found by calibration."""

FORMATS = (*STATIC_FORMATS, "dynamic")
WEIGHT_TYPES = ("int8", "uint8")
WEIGHT_BITS = (8, 7, 6)
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
        format: `qdq` (float operators between QuantizeLinear and DequantizeLinear, which onnxruntime fuses),
            `qoperator` (integer operators, such as QLinearConv), or `dynamic` (weights alone are stored as int8;
            activations become it as the file runs, and need no ranges: recurrent networks).
        activation_percentile: how much of each activation its range holds, in percent above 50; 100 (or None) is all,
            `auto` what keeps most accuracy under bit errors; see `resq_deploy.quantization.activations`.
        bias_correction: whether biases make up for the mean error; see `resq_deploy.quantization.bias`.
        reduce_range: whether weights stay within 64 steps, so that x86 CPUs without VNNI do not saturate; those of 7 or
            6 bits do in any case.
        weight_type: `int8`, or `uint8` with the zero point 128 (64 for 7 bits, 32 for 6): the same codes plus that,
            whose products with uint8 activations saturate on no CPU.
        weight_bits: bits of a weight, 8, 7 or 6, the others of its byte left spare; if None, what `code` takes, else 8.
        weight_code: the code, `secded` or `dected`, that will fill the spare bits, for fault-aware ranges to reckon
            with; None for none.
        equalize: whether ranges are shared out between layers; see `resq_deploy.quantization.equalize`.
        reconstruct: whether weights are moved inside narrowed ranges so that the layers' outputs stay, instead of cut
            off; see `resq_deploy.quantization.reconstruct`. If None, where ranges are `fault-aware`.
        float_nodes: names of the nodes that stay in float.
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
    weight_bits: int | None = None
    weight_code: str | None = None
    reconstruct: bool | None = None
    float_nodes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for option, value, known in (
            ("--ranges", self.ranges, RANGES),
            ("--granularity", self.granularity, GRANULARITIES),
            ("--format", self.format, FORMATS),
            ("--bias-correction", self.bias_correction, (True, False)),
            ("--equalize", self.equalize, (True, False)),
            ("--reduce-range", self.reduce_range, (True, False)),
            ("--weight-type", self.weight_type, WEIGHT_TYPES),
            ("--weight-bits", self.weight_bits, (*WEIGHT_BITS, None)),
            ("--weight-code", self.weight_code, (*dict(KNOWN), None)),
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
        if self.weight_code and (self.weight_code, self.bits) not in KNOWN:
            fitting = " or ".join(f"--weight-bits {bits}" for name, bits in KNOWN if name == self.weight_code)
            raise OptionError(
                f"--weight-code {self.weight_code} is not for weights of {self.bits} bits: give {fitting}"
                + (", or --weight-code dected" if ("dected", self.bits) in KNOWN else "")
            )
        self._check_dynamic()
        if self.reconstruct and self.ranges == "minmax":
            raise OptionError("--reconstruct is for narrowed ranges, not minmax: ask for --ranges fault-aware or mse")
        if self.activation_percentile not in (None, "auto"):
            _check_percentile(self.activation_percentile)

    def _check_dynamic(self) -> None:
        """Check that the dynamic form is not asked for what needs ranges of activations, or a layer's own steps.

        Raises:
            OptionError: if it is.
        """
        if self.format != "dynamic":
            return
        for option, wanted in (
            (f"--ranges {self.ranges}", self.ranges != "minmax"),
            ("--activation-percentile", self.percentiles != (100.0,)),
            ("--bias-correction", self.bias_correction),
            ("--equalize", self.equalize),
            (f"--weight-bits {self.weight_bits}", self.weight_bits not in (None, STORED_BITS)),
        ):
            if wanted:
                raise OptionError(
                    f"{option} is for static files: leave it out under --format dynamic, or ask for qdq or qoperator"
                )

    @property
    def bits(self) -> int:
        """Bits of a weight."""
        if self.weight_bits is None:
            return STORED_BITS if self.weight_code is None else 7
        return self.weight_bits

    @property
    def code(self) -> Code | None:
        """The code that will fill the spare bits of weights."""
        return None if self.weight_code is None else known_code(self.weight_code, self.bits)

    @property
    def storage_ber(self) -> float:
        """The bit error rate of storage that the file is made for: that of `fault-aware`, else 1e-3."""
        return DESIGN_BER if self.design_ber is None else self.design_ber

    @property
    def expected_ber(self) -> float:
        """The rate of flips in weights that ranges are chosen for: what of `fault-aware`'s a code leaves, else 0."""
        return self.percentile_ber if self.ranges == "fault-aware" else 0.0

    @property
    def flipped_bits(self) -> int:
        """The lowest bits of a weight that such flips hit: all that are stored, or those that a code leaves it."""
        return STORED_BITS if self.code is None else self.bits

    @property
    def reconstructs(self) -> bool:
        """Whether weights are moved inside their ranges instead of cut off."""
        return self.ranges == "fault-aware" if self.reconstruct is None else self.reconstruct

    @property
    def code_max(self) -> int:
        """The largest weight code: 127, 63 or 31 by the bits, and 64 at most with `reduce_range`."""
        largest = largest_code(self.bits)
        return min(largest, REDUCED_CODE_MAX) if self.reduce_range else largest

    @property
    def zero_point(self) -> int:
        """The zero point of weights: 0, or the middle of what their bits hold where they are stored as uint8."""
        return zero_point(self.bits) if self.weight_type == "uint8" else 0

    @property
    def percentiles(self) -> tuple[float, ...]:
        """The percentiles that activation ranges may have, ascending."""
        if self.activation_percentile == "auto":
            return PERCENTILES
        return (100.0 if self.activation_percentile is None else float(self.activation_percentile),)

    @property
    def percentile_ber(self) -> float:
        """The rate of flips in weights that `auto` chooses a percentile at: what a code leaves of `storage_ber`."""
        return self.storage_ber if self.code is None else rate_left(self.code, self.storage_ber)


def _check_percentile(percentile: object) -> None:
    """Check a percentile of the activations.

    Raises:
        OptionError: if it is no number above 50 and up to 100.
    """
    if not isinstance(percentile, (int, float)) or not 50 < percentile <= 100:  # refuses a NaN, too
        raise OptionError(
            f"--activation-percentile {percentile}: give auto, or a percentile above 50 and up to 100, such as 99.99"
        )
