"""HopSkipJump, for an attacker who sees the class the deployed file answers, and no score.

The attack (Chen, Jordan, Wainwright, "HopSkipJumpAttack", IEEE S&P 2020) is that of the Adversarial Robustness Toolbox,
which is imported when it is run; it belongs to the extra `attacks`. Three things are ours: the budget, which the
toolbox does not know; that the search ends as soon as an image within the radius is answered wrong; and where it
begins, which the toolbox draws from the operating system's randomness.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.attacks.ball import Norm, Pixels, distance
from resq_deploy.attacks.target import Labels, Scores, Target, Tried, is_right
from resq_deploy.errors import MissingExtraError

_NOISE = 10  # random images among those an attack may begin with
_TOLERANCE = 1e-6
_FIRST_PROBES = 100  # directions tried for the first gradient, as in the paper
_ENDLESS = 10**6


@dataclasses.dataclass(frozen=True, kw_only=True)
class HopSkipJump:
    """The attack: from an image of another class along the boundary towards the image under attack.

    The toolbox draws from numpy's global random state, which is seeded and put back: do not run two of these at a time
    in threads of one process.

    Attributes:
        target: the file under attack.
        norm: of the bound.
        queries: budget an image.
    """

    target: Target
    norm: Norm
    queries: int

    def __call__(self, pixels: Pixels, labels: Labels, radius: float, seed: int) -> Tried:
        """Attack images, as `target.Attack` says; an image that is not fooled comes back as it was.

        Every image begins with the nearest of the others, and of some random ones, that is answered otherwise.

        Raises:
            MissingExtraError: if the toolbox is not installed.
        """
        toolbox()
        noise = np.random.default_rng(seed).random((_NOISE, *pixels.shape[1:]), dtype=np.float32)
        pool = np.concatenate([pixels, noise])
        answers = self.target.scores(pool)
        found, spent = pixels.copy(), np.ones(len(pixels), dtype=np.int64)
        with _seeded(seed):
            for place, label in enumerate(labels):
                others = pool[~is_right(answers, np.full(len(pool), label))]
                if not len(others):
                    continue
                sight = _Sight(self, pixels[place], int(label), answers.shape[1], radius)
                away = distance(self.norm, others, np.broadcast_to(pixels[place], others.shape))
                self._walk(sight, pixels[place], others[away.argmin()])
                spent[place] += sight.sent
                if sight.fooled is not None:
                    found[place] = sight.fooled
        return Tried(pixels=found, queries=spent)

    def _walk(self, sight: "_Sight", image: Pixels, begin: Pixels) -> None:
        """Let the toolbox search for an image, from one that is answered otherwise, until it is over."""
        wrapper, attack = toolbox()
        classifier = wrapper(
            sight,
            input_shape=image.shape,
            nb_classes=sight.classes,
            channels_first=not self.target.channels_last,
            clip_values=(0.0, 1.0),
            preprocessing=None,
        )
        search = attack(
            classifier,
            norm=np.inf if self.norm is Norm.LINF else 2,
            batch_size=_ENDLESS,
            max_iter=_ENDLESS,
            init_eval=_FIRST_PROBES,
            verbose=False,
        )
        with contextlib.suppress(_Over), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of divisions by the length of a gradient that is 0
            search.generate(image[None], x_adv_init=begin[None])


def toolbox() -> tuple[Any, Any]:
    """Return the toolbox's classes for a black-box classifier and for HopSkipJump.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        with warnings.catch_warnings():  # of the frameworks it supports, none of which is used here
            warnings.simplefilter("ignore")
            from art.attacks.evasion import HopSkipJump as Attack
            from art.estimators.classification import BlackBoxClassifierNeuralNetwork
    except ImportError as error:
        raise MissingExtraError("the attack hopskipjump", "attacks") from error
    return BlackBoxClassifierNeuralNetwork, Attack


class _Over(Exception):  # noqa: N818 - no error: the image is fooled, or its budget is spent
    """The attack on an image has ended."""


class _Sight:
    """What the attacker of one image sees: the class of each image sent; and the end, when it has come.

    Attributes:
        classes: how many there are.
        sent: images sent so far.
        fooled: the first of them that lies within the radius and is answered wrong; None until there is one.
    """

    def __init__(self, attack: HopSkipJump, origin: Pixels, label: int, classes: int, radius: float) -> None:
        self.sent = 0
        self.fooled: Pixels | None = None
        self._attack = attack
        self._origin = origin
        self._label = label
        self.classes = classes
        self._radius = radius
        self._left = attack.queries - 1  # the image itself has been sent

    def __call__(self, pixels: NDArray[Any]) -> Scores:
        """Return the answers to images [n, ...] as one-hot scores [n, C].

        Raises:
            _Over: when one of them has fooled the file, or the budget is spent.
        """
        if not self._left:
            raise _Over
        images = pixels[: self._left].astype(np.float32)
        scores = self._attack.target.scores(images)
        self.sent += len(images)
        self._left -= len(images)
        right = is_right(scores, np.full(len(images), self._label))
        away = distance(self._attack.norm, images, np.broadcast_to(self._origin, images.shape))
        success = np.flatnonzero(~right & (away <= self._radius + _TOLERANCE))
        if len(success):
            self.fooled = images[success[0]]
            raise _Over
        if len(images) < len(pixels):
            raise _Over
        answers = np.where(right, self._label, (self._label + 1) % self.classes)  # the class may not be finite
        one_hot: Scores = np.eye(self.classes, dtype=np.float32)[answers]
        return one_hot


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed numpy's global random state, which the toolbox draws from, and put it back."""
    state = np.random.get_state()  # noqa: NPY002 - the state it draws from
    np.random.seed(np.random.SeedSequence(seed).generate_state(4))  # noqa: NPY002 - as above
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002 - as above
