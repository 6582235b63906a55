"""What int8 form a file is to have."""

import dataclasses

from resq_deploy.errors import OptionError
from resq_deploy.quantization.ranges import check_ber

RANGES = ("minmax", "mse", "fault-aware")
GRANULARITIES = ("channel", "tensor")
FORMATS = ("qdq", "qoperator")
DESIGN_BER = 1e-3
"""The bit error rate fault-aware ranges are made for, unless told otherwise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scheme:
    """How weights become int8.

    Attributes:
        ranges: `minmax` (up to the largest weight), `mse` (least squares) or `fault-aware` (least squares under bit
            errors); see `resq_deploy.quantization.ranges`.
        design_ber: the bit error rate of `fault-aware`, 1e-3 if None; None for the other ranges.
        granularity: a range per output `channel`, or one per `tensor`.
        format: `qdq` (float operators between QuantizeLinear and DequantizeLinear, which onnxruntime fuses) or
            `qoperator` (integer operators, such as QLinearConv).
    """

    ranges: str = "minmax"
    design_ber: float | None = None
    granularity: str = "channel"
    format: str = "qdq"

    def __post_init__(self) -> None:
        for option, value, known in (
            ("--ranges", self.ranges, RANGES),
            ("--granularity", self.granularity, GRANULARITIES),
            ("--format", self.format, FORMATS),
        ):
            if value not in known:
                raise OptionError(f"{option} {value}: give one of {', '.join(known)}")
        if self.design_ber is not None:
            check_ber(self.design_ber)
            if self.ranges != "fault-aware":
                raise OptionError(
                    f"--design-ber is for --ranges fault-aware, not {self.ranges}: leave it out, or ask for fault-aware"
                )

    @property
    def expected_ber(self) -> float:
        """The bit error rate that ranges are chosen for: that of `fault-aware`, else 0."""
        if self.ranges != "fault-aware":
            return 0.0
        return DESIGN_BER if self.design_ber is None else self.design_ber
