"""The deployed model: file, surfaces, patcher."""

import dataclasses
import pathlib

import onnx

from resq_deploy.deployed.graph import read_model
from resq_deploy.deployed.patch import Patcher
from resq_deploy.deployed.surfaces import Surface, find_surfaces
from resq_deploy.errors import ModelError


@dataclasses.dataclass(frozen=True, eq=False)
class DeployedModel:
    """An ONNX file, opened for inspection and fault injection.

    Attributes:
        path: the file.
        digest: SHA-256 of the file (with that of its external data, if it has any).
        proto: the parsed model, every parameter in `raw_data`.
        surfaces: the stored tensors that faults can hit, in the order of the file.
    """

    path: pathlib.Path
    digest: str
    proto: onnx.ModelProto
    surfaces: tuple[Surface, ...]

    @classmethod
    def load(cls, path: pathlib.Path) -> "DeployedModel":
        """Read a model.

        Raises:
            ModelError: if the file is not a usable ONNX model.
        """
        proto, digest = read_model(path)
        try:
            return cls(path, digest, proto, find_surfaces(proto))
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error

    def patcher(self) -> Patcher:
        """Return a maker of faulty copies of this model."""
        return Patcher(self.proto, self.surfaces)
