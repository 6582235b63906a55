"""What a fault and an image run cost, in counted work: the same on every machine, and whatever it is busy with.

How many images a fault is judged on decides figures, and the same seed must give the same figures everywhere. So costs
are not timed. They are counted from the file, and weighed by constants that were fitted once, to processor time on one
core (x86 with VNNI, onnxruntime 1.32), by

    tools/calibrate_effort.py resnet20=models/resnet20-cifar10-baseline.int8.onnx --dataset cifar10
    tools/calibrate_effort.py resnet8=models/resnet8-digits-baseline.int8.onnx --dataset digits

which prints how far they are off. The best number of images goes with the root of the ratio of both costs, and what it
saves is flat around it: constants that are wrong by a factor of two cost some per cent of the time, and no bound. A
campaign whose faults have other images by other constants is not resumed.
"""

import dataclasses

from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.inputs import Given
from resq_deploy.deployed.integer_share import integer_share
from resq_deploy.deployed.runtime_errors import RUNTIME_ERRORS
from resq_deploy.deployed.surfaces import Role, Surface
from resq_deploy.errors import ModelError

_UNCOUNTED: tuple[type[Exception], ...] = (*RUNTIME_ERRORS, ModelError, ValueError, LookupError)
"""What counting may end in, of files with nodes that it does not know."""

_LAYER_OF_A_FAULT = 0.1
"""Milliseconds a layer of the file, of a fault that needs no session of its own."""

_LAYER_REBUILT = 0.6
"""The same of one that may: the faulty file is optimised anew, where it is not proven what that leads to."""

_MEGABYTE_REBUILT = 2.0
"""Milliseconds a megabyte of stored values, of optimising the file anew."""

_LAYER_RUN = 0.0019
"""Milliseconds a layer of the file, of an image run; what lies before the fault is not run, nor what it leaves."""

_MACS_RUN = 3.3e-10
"""Milliseconds a multiply-accumulate of the file, of an image run."""

_RUN_REBUILT = 2.0
"""How many times more an image costs of a faulty file that was optimised anew: fewer are left as they were."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effort:
    """The work that a file is to run and to rebuild; a small network where it is not known.

    Attributes:
        layers: nodes that multiply by weights.
        macs: multiply-accumulates of an image.
        stored: bytes of the file.
    """

    layers: int = 20
    macs: int = 4 * 10**7
    stored: int = 3 * 10**5

    @classmethod
    def count(cls, model: bytes, deployment: Deployment, inputs: Given) -> "Effort":
        """Count the work of a file.

        Args:
            model: the serialised file.
            deployment: how it is run.
            inputs: samples as it takes them, of which one is run to learn the shapes.
        """
        try:
            found = integer_share(model, deployment, inputs)
        except _UNCOUNTED:
            return cls(stored=len(model))
        layers = sum(counted["nodes"] for counted in found.by_operator.values())
        return cls(layers=max(1, layers), macs=found.macs, stored=len(model))

    def of(self, surface: Surface) -> tuple[float, float]:
        """Return what a fault in a tensor costs however many its images, and each of these, in milliseconds."""
        image = _LAYER_RUN * self.layers + _MACS_RUN * self.macs
        if surface.role in (Role.WEIGHT, Role.BIAS) and "int" in surface.dtype:
            return _LAYER_OF_A_FAULT * self.layers, image
        rebuilt = _LAYER_REBUILT * self.layers + _MEGABYTE_REBUILT * self.stored / 2**20
        return rebuilt, _RUN_REBUILT * image
