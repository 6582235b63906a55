"""Transfer attacks: images perturbed with the float network's gradients, judged on the deployed file."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resq_deploy.data.dataset import Split, to_model_input
from resq_deploy.deployed.session import Session
from resq_deploy.faults.outcomes import top1
from resq_deploy.faults.statistics import Estimate, share
from resq_deploy.hardening.perturb import pgd

_BATCH = 200


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Transfer:
    """The result of one transfer attack.

    Attributes:
        epsilon: Linf radius in units of [0, 1] pixels.
        float_right: which of its own adversarial images the float network answers right, shape [N].
        int8_right: which of the same images the deployed file answers right, shape [N].
    """

    epsilon: float
    float_right: NDArray[np.bool_]
    int8_right: NDArray[np.bool_]

    @property
    def float_accuracy(self) -> Estimate:
        """Accuracy of the float network on its own adversarial images."""
        return share(int(self.float_right.sum()), len(self.float_right))

    @property
    def int8_accuracy(self) -> Estimate:
        """Accuracy of the deployed file on the same images."""
        return share(int(self.int8_right.sum()), len(self.int8_right))

    def as_dict(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return {
            "epsilon": self.epsilon,
            "float": self.float_accuracy.as_dict(),
            "int8": self.int8_accuracy.as_dict(),
        }


def transfer_pgd(
    network: Callable[[torch.Tensor], torch.Tensor],
    session: Session,
    test: Split,
    *,
    epsilon: float,
    steps: int,
    seed: int,
) -> Transfer:
    """Attack the float network with PGD under an Linf bound and run the images on the deployed file.

    The step is 2.5 eps / steps (Madry et al. 2018), so that every point of the ball can be reached.

    Args:
        network: the float network, in evaluation mode.
        session: the deployed file.
        test: the images, uint8 [N, H, W, 3].
        epsilon: radius in units of [0, 1] pixels.
        steps: gradient steps.
        seed: of the random starts.
    """
    generator = torch.Generator().manual_seed(seed)
    float_right: list[NDArray[np.bool_]] = []
    int8_right: list[NDArray[np.bool_]] = []
    for begin in range(0, len(test), _BATCH):
        part = test.take(range(begin, min(begin + _BATCH, len(test))))
        images = torch.from_numpy(to_model_input(part.images))
        labels = torch.from_numpy(part.labels)
        step = 2.5 * epsilon / steps
        attacked = pgd(network, images, labels, epsilon=epsilon, steps=steps, step_size=step, generator=generator)
        with torch.no_grad():
            float_right.append(top1(network(attacked).float().numpy()) == part.labels)
        int8_right.append(top1(session.run(session.input.prepare(attacked.numpy()))) == part.labels)
    return Transfer(epsilon=epsilon, float_right=np.concatenate(float_right), int8_right=np.concatenate(int8_right))
