"""The deployed model: file, surfaces, patcher."""

import dataclasses
import pathlib

import onnx

from resq_deploy.codes.layout import Bytes
from resq_deploy.deployed.coded import coded_weights
from resq_deploy.deployed.decoding import Codes
from resq_deploy.deployed.graph import open_model
from resq_deploy.deployed.patch import Patcher
from resq_deploy.deployed.stored import LeftOut
from resq_deploy.deployed.surfaces import Surface, survey
from resq_deploy.deployed.votes import Vote, find_votes
from resq_deploy.errors import ModelError


@dataclasses.dataclass(frozen=True, eq=False)
class DeployedModel:
    """An ONNX file, opened for inspection and fault injection.

    Attributes:
        path: the file.
        digest: SHA-256 of the file (with that of its external data, if it has any).
        proto: the parsed model, every parameter in `raw_data`.
        surfaces: what faults can hit, in the order of the file.
        left_out: what else the file stores, and why faults in it are left out.
    """

    path: pathlib.Path
    digest: str
    proto: onnx.ModelProto
    surfaces: tuple[Surface, ...]
    left_out: tuple[LeftOut, ...] = ()

    @classmethod
    def load(cls, path: pathlib.Path) -> "DeployedModel":
        """Read a model.

        Raises:
            ModelError: if the file is not a usable ONNX model.
        """
        opened = open_model(path)
        try:
            found = survey(opened.model, opened.sources)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        return cls(path, opened.digest, opened.model, found.surfaces, (*found.left_out, *opened.left_out))

    def patcher(self) -> Patcher:
        """Return a maker of faulty copies of this model."""
        return Patcher(self.proto, self.surfaces)

    def codes(self, patcher: Patcher | None = None) -> Codes:
        """Return what is stored under codes.

        Args:
            patcher: of this model, where there is one already.
        """
        coded = coded_weights(self.proto)
        return Codes(coded, (patcher or self.patcher()).stored) if coded else Codes((), dict[str, Bytes]().__getitem__)

    def votes(self) -> tuple[Vote, ...]:
        """Return the votes whose copies are surfaces of their own: not of one range of bytes, and not left out."""
        own = {surface.tensor for surface in self.surfaces}
        return tuple(vote for vote in find_votes(self.proto) if own.issuperset(vote.copies))
