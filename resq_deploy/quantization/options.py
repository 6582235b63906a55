"""How to export: the int8 form, its protection, and how it is measured."""

import dataclasses

from resq_deploy.codes.code import Code
from resq_deploy.codes.known import KNOWN, known_code
from resq_deploy.data.preprocessing import AS_IS, Preprocessing
from resq_deploy.deployed.arithmetic import Arithmetic
from resq_deploy.errors import OptionError
from resq_deploy.protection.plan import CODED_MODES, DEFAULT_BUDGET, check_options
from resq_deploy.protection.rates import GuardRates
from resq_deploy.quantization.opset import check_opset
from resq_deploy.quantization.ranges import STORED_BITS
from resq_deploy.quantization.scheme import Scheme

_HEALTHY = ("weights", "all")
_CODED_BITS = 7  # of a weight, unless told otherwise


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions(Scheme):
    """Options of an export: the int8 form, as `Scheme` has it, its protection, and how it is measured.

    Attributes:
        keep_float: patterns, as in a shell, of the names or operators of nodes that stay in float; what comes after the
            last layers stays in any case, where the file is no classifier.
        opset: ONNX opset to write; None for that of the source, 13 at least, and 18 where weights are coded.
        guard: what is protected: `none`; all `parameters` but weights, by votes; `weights`, by a code; `all` that is
            stored; or `auto`, what lowers the expected SDC most for each byte.
        weight_code: the code of weights; if None and weights are protected, the first there is for their bits.
        weight_bits: if None, 7 where weights are protected, else 8; with 8, `auto` chooses among votes.
        guard_budget: bytes that `auto` may add, as a share of the file; 0.05 if None.
        guard_rates: what a campaign measured, for `auto` to plan by; None for built-in figures.
        health: whether the file counts, as one more output, the words it corrects and those it cannot.
        calibration_images: how many training images the activation ranges are taken from.
        seed: of their choice.
        test_images: how many test images the accuracies are measured on; None for all.
        arithmetic: in which the int8 file is measured; adjustments are always chosen in exact arithmetic.
        preprocessing: what stands between images and what the float model, and so the int8 file, is fed.
    """

    keep_float: tuple[str, ...] = ()
    opset: int | None = None
    guard: str = "none"
    guard_budget: float | None = None
    guard_rates: GuardRates | None = None
    health: bool = False
    calibration_images: int = 500
    seed: int = 0
    test_images: int | None = None
    arithmetic: Arithmetic = Arithmetic.EXACT
    preprocessing: Preprocessing = AS_IS

    def __post_init__(self) -> None:
        if self.guard != "none":
            check_options(self.guard, DEFAULT_BUDGET if self.guard_budget is None else self.guard_budget)
        self._check_code()
        if self.format == "dynamic" and self.guard in CODED_MODES:
            raise OptionError(
                f"--guard {self.guard} is for static files: export with --format dynamic, then protect the file with "
                f"resq-deploy protect --guard {self.guard}"
            )
        super().__post_init__()
        if self.calibration_images < 1:
            raise OptionError(f"--calibration-images {self.calibration_images}: give a whole number from 1 up")
        for option, value in (("--guard-budget", self.guard_budget), ("--guard-campaign", self.guard_rates)):
            if value is not None and self.guard != "auto":
                raise OptionError(f"{option} is for --guard auto, not {self.guard}: leave it out, or ask for auto")
        check_opset(self.opset)

    def _check_code(self) -> None:
        """Check what is said of codes against what is to be protected.

        Raises:
            OptionError: if the two do not go together.
        """
        if self.weight_code is not None and self.guard not in CODED_MODES:
            raise OptionError(
                f"--weight-code is for protected weights, not --guard {self.guard}: leave it out, or ask for one of "
                f"{', '.join(CODED_MODES)}"
            )
        if self.health and self.guard not in _HEALTHY:
            raise OptionError(
                f"--health counts words of a code, and --guard {self.guard} has none: ask for weights or all"
            )
        if self.guard in _HEALTHY and self.bits == STORED_BITS:
            raise OptionError(
                f"--weight-bits {self.bits} leaves no bit of a byte for the code of --guard {self.guard}: give 7, or 6"
            )

    @property
    def bits(self) -> int:
        """Bits of a weight."""
        if self.weight_bits is None:
            return _CODED_BITS if self.guard in CODED_MODES else STORED_BITS
        return self.weight_bits

    @property
    def code(self) -> Code | None:
        """The code that weights may be stored under."""
        if self.guard not in CODED_MODES or self.bits == STORED_BITS:
            return None
        return known_code(self.weight_code or next(name for name, bits in KNOWN if bits == self.bits), self.bits)

    @property
    def is_plain(self) -> bool:
        """Whether the file is what onnxruntime's quantizer makes of the weights as they are, without a code."""
        plain = self.ranges == "minmax" and self.percentiles == (100.0,)
        return plain and not (self.bias_correction or self.equalize) and self.code is None
