"""How well a twin agrees with the deployed file: the check that comes before any figure made with its gradients."""

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resq_deploy.deployed.session import Session
from resq_deploy.faults.outcomes import top1
from resq_deploy.faults.statistics import Estimate, share
from resq_deploy.twin.twin import Twin


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well a twin agrees with the session of its file.

    Attributes:
        top1_agreement: share of the images that both give the same class, with Wilson's interval.
        max_logit_difference: the largest absolute difference of a logit.
    """

    top1_agreement: Estimate
    max_logit_difference: float


def agreement(twin: Twin, session: Session, images: NDArray[Any]) -> Agreement:
    """Compare a twin with the session of its file, batch by batch.

    Args:
        twin: the twin.
        session: the deployed file.
        images: one or more, as `session.input.prepare` gives them, [N, ...].
    """
    same, largest = 0, 0.0
    for each in session.batches(images):
        batch, count = each.feeds[session.input.name], each.count
        with torch.no_grad():
            ours = twin(torch.from_numpy(batch)).cpu().numpy()[:count]
        theirs = session.run(batch)[:count]
        same += int((top1(ours) == top1(theirs)).sum())
        different = ours != theirs  # infinities that agree would have a difference of NaN
        largest = max(largest, float(np.abs(ours[different] - theirs[different]).max(initial=0.0)))
    return Agreement(top1_agreement=share(same, len(images)), max_logit_difference=largest)
