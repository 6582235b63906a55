"""Scores are one row an image, or refused."""

import numpy as np
import pytest

from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session, as_scores
from resq_deploy.errors import ModelError


def test_scores_along_another_axis_are_refused(models):
    """Numbers of [classes, images] would fit [images, classes] all the same."""
    proto = models.model(
        [
            models.node("GlobalAveragePool", "x", "pool"),
            models.node("Flatten", "pool", "flat"),
            models.node("Gemm", "flat w", "z", transB=1),
            models.node("Transpose", "z", "y", perm=[1, 0]),
        ],
        [models.stored("w", models.CLASSES, 3)],
    )
    session = Session(proto.SerializeToString(), Deployment())
    with pytest.raises(ModelError, match=r"shape \[5, 7\] for 7 images, which must be the first axis: [^\n]+$"):
        session.run(models.images(7))


@pytest.mark.parametrize("shape", [(6, 2), (3, 4, 1), ()], ids=str)
def test_any_number_of_rows_but_that_of_the_images_is_refused(shape):
    with pytest.raises(ModelError, match="must be the first axis"):
        as_scores(np.zeros(shape, np.float32), 4)


def test_further_axes_are_classes():
    assert as_scores(np.zeros((4, 5, 1, 1), np.float32), 4).shape == (4, 5)
