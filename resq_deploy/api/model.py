"""An int8 ONNX file: what it stores, what protects it, whether this machine answers as the one it was exported on."""

import functools
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from resq_deploy.api.frames import pandas_or_error
from resq_deploy.api.given import PathLike, as_dataset, as_path

if TYPE_CHECKING:
    import os

    import onnx
    import pandas as pd

    from resq_deploy.api.inspection import Inspection
    from resq_deploy.data import Dataset
    from resq_deploy.deployed.arithmetic import Arithmetic
    from resq_deploy.deployed.model import DeployedModel
    from resq_deploy.deployed.verify import Verification
    from resq_deploy.protection.inspection import Protection


class Model:
    """An ONNX file as it is deployed, of any origin.

    Args:
        deployed: the file, opened.
    """

    def __init__(self, deployed: "DeployedModel") -> None:
        self.deployed = deployed

    @property
    def path(self) -> pathlib.Path:
        """The file."""
        return self.deployed.path

    @property
    def digest(self) -> str:
        """SHA-256 of the file (with that of its external data, if it has any)."""
        return self.deployed.digest

    @property
    def proto(self) -> "onnx.ModelProto":
        """The parsed model, every parameter in `raw_data`."""
        return self.deployed.proto

    @property
    def bits(self) -> int:
        """How many stored bits faults can hit."""
        return sum(surface.bits for surface in self.deployed.surfaces)

    def surfaces(self) -> "pd.DataFrame":
        """Return what faults can hit, in the order of the file.

        Returns:
            A row a stored tensor: `tensor`, `role` (weight, bias, weight-scale, activation-scale, zero points, code and
            so on), `layer` (the first node that computes with it), `dtype`, `shape`, `bits`, `protected` (by what, or
            None).

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        protected = self._protection.by_tensor if self._protection else {}
        rows = [{**each.as_dict(), "protected": protected.get(each.tensor)} for each in self.deployed.surfaces]
        columns = ["tensor", "role", "layer", "dtype", "shape", "bits", "protected"]
        frame: pd.DataFrame = pandas_or_error().DataFrame(rows, columns=columns)
        return frame

    def left_out(self) -> "pd.DataFrame":
        """Return what else the file stores, and why faults in it are not tried: `tensor`, `bits`, `reason`."""
        rows = [left.as_dict() for left in self.deployed.left_out]
        frame: pd.DataFrame = pandas_or_error().DataFrame(rows, columns=["tensor", "bits", "reason"])
        return frame

    def warnings(self) -> list[str]:
        """Return what a user of the file should beware of, a line each."""
        from resq_deploy.deployed.advice import warnings_for

        return [*warnings_for(self.deployed), *(self._protection.warnings if self._protection else [])]

    def protection(self) -> dict[str, Any] | None:
        """Return what protects the file, as `inspect --json` prints it; None where nothing does."""
        return self._protection.as_dict() if self._protection else None

    def inspect(self, *, providers: Sequence[str] = ("CPUExecutionProvider",)) -> "Inspection":
        """Return all that is known of the file without test data, as the command `inspect` shows it.

        Args:
            providers: of onnxruntime, that guards are tried with.
        """
        from resq_deploy.api.inspection import inspection_of

        return inspection_of(self.deployed, tuple(providers))

    def verify(
        self,
        data: "str | os.PathLike[str] | Dataset | None" = None,
        *,
        data_dir: PathLike | None = None,
        arithmetic: "str | Arithmetic" = "exact",
    ) -> "Verification":
        """Run the file on the inputs of its sidecar, and hold what it answers against what is kept there.

        Args:
            data: the data it was calibrated on, to take the calibration images from; None for synthetic inputs alone.
            data_dir: where named data sets lie.
            arithmetic: `exact`, or `native` for that of this CPU's kernels.

        Raises:
            InputError: if there is no sidecar, or the data set is another one.
        """
        from resq_deploy.deployed.arithmetic import Arithmetic
        from resq_deploy.deployed.verify import verify

        dataset = None if data is None else as_dataset(data, data_dir)
        return verify(self.deployed, dataset=dataset, arithmetic=Arithmetic(arithmetic))

    @functools.cached_property
    def _protection(self) -> "Protection | None":
        from resq_deploy.deployed.deployment import Deployment
        from resq_deploy.protection.inspection import protection_of

        return protection_of(self.path.read_bytes(), Deployment().providers)

    def __repr__(self) -> str:
        tensors = len(self.deployed.surfaces)
        return f"<{self.path.name}: {tensors} tensors, {self.bits:,} bits, SHA-256 {self.digest[:12]}...>"


def load(path: PathLike) -> Model:
    """Open an ONNX file.

    Raises:
        ModelError: if the file is not a usable ONNX model.
    """
    from resq_deploy.deployed.model import DeployedModel

    return Model(DeployedModel.load(as_path(path)))
