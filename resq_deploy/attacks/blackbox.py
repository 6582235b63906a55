"""Black-box attacks: an attacker who sees the scores of the deployed file, and nothing else of it.

The attack is that of the Adversarial Robustness Toolbox, which is imported when one is run; it belongs to the extra
`attacks`. Three things are ours, since the toolbox has them otherwise: the loss is the margin of the paper (the
toolbox's own is 0 where the right class comes second, so that an image whose scores tie, as those of int8 files do, is
never fooled), no image is sent twice (it would send each one three times), and numpy's global random state, which it
draws from, is put back as it was.
"""

import contextlib
import dataclasses
import hashlib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.deployed.session import Session
from resq_deploy.errors import DataError, MissingExtraError, OptionError
from resq_deploy.faults.outcomes import top1
from resq_deploy.faults.statistics import Estimate, share

Flags = NDArray[np.bool_]
Images = NDArray[Any]
Labels = NDArray[np.int64]
Scores = NDArray[np.float32]

LEAST_QUERIES = 3
"""The image itself, the stripes the attack begins with, and one square."""

_P_INIT = 0.8  # share of an image that the first square covers, as in AutoAttack (Croce and Hein, ICML 2020)
_WHITE = 255


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BlackBoxResult:
    """The result of one black-box attack.

    Attributes:
        epsilon: Linf radius in units of [0, 1] pixels; of uint8 inputs as it was used, in whole levels.
        budget: queries allowed an image.
        adversarial: the images as the attack left them, of the type and shape that the model takes, [N, ...].
        right: which images the model answers right before the attack, shape [N].
        robust: which of these it still answers right after it, shape [N].
        queries: images sent to the model, a mean over the images; one sent again counts once.
        accuracy: robust accuracy, with Wilson's interval over images.
    """

    epsilon: float
    budget: int
    adversarial: Images
    right: Flags
    robust: Flags
    queries: float
    accuracy: Estimate

    @property
    def fooled(self) -> Flags:
        """Where the attack succeeded: answered right before it and wrong after it, shape [N]."""
        return self.right & ~self.robust


def square(
    session: Session, images: Images, labels: Labels, *, epsilon: float, queries: int, seed: int
) -> BlackBoxResult:
    """Attack with the Square attack under an Linf bound (Andriushchenko et al., "Square Attack", ECCV 2020).

    Vertical stripes first, then squares of +-2 epsilon that shrink as the budget is spent; a change stays if it
    lowers the margin. All images share the places and colours of a step's square. An image that the model answers
    wrong, by itself or since an earlier step, is sent no more.

    A model with uint8 inputs is attacked on its grid: the radius is rounded down to whole levels, so that every image
    sent is one that the deployed file can be given.

    The toolbox draws from numpy's global random state, which is seeded and put back: do not run two attacks at a time
    in threads of one process.

    Args:
        session: the file under attack.
        images: images as `session.input.prepare` gives them, shape [N, C, H, W] or [N, H, W, C]; float32 in [0, 1],
            or uint8.
        labels: right classes, shape [N].
        epsilon: radius in units of [0, 1] pixels.
        queries: budget of each image, 3 or more.
        seed: of stripes and squares.

    Raises:
        MissingExtraError: if the Adversarial Robustness Toolbox is not installed.
        OptionError: if radius or budget make no sense.
        DataError: if there are no images, or their shape or pixels are not those of images.
    """
    toolbox()
    if not 0.0 <= epsilon <= 1.0:
        raise OptionError(f"radius {epsilon}: give one from 0 to 1, pixels being in [0, 1]")
    if queries < LEAST_QUERIES:
        raise OptionError(f"{queries} queries: the Square attack needs {LEAST_QUERIES} or more an image")
    check_pixels(images)
    radius = epsilon if images.dtype == np.float32 else _whole_levels(epsilon)
    pixels = _as_pixels(images)
    oracle = _Oracle(session, images.dtype, len(images))
    right = _is_right(oracle(pixels), labels)
    if radius > 0.0 and right.any():
        with _seeded(seed):
            pixels = _attack(oracle, pixels, labels, radius, queries)
    adversarial = _as_sent(pixels, images.dtype)
    robust = right & _is_right(session.run(adversarial), labels)
    return BlackBoxResult(
        epsilon=radius,
        budget=queries,
        adversarial=adversarial,
        right=right,
        robust=robust,
        queries=oracle.sent / len(images),
        accuracy=share(int(robust.sum()), len(robust)),
    )


def toolbox() -> tuple[Any, Any]:
    """Return the toolbox's classes for a black-box classifier and for the Square attack.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        with warnings.catch_warnings():  # of the frameworks it supports, none of which is used here
            warnings.simplefilter("ignore")
            from art.attacks.evasion import SquareAttack
            from art.estimators.classification import BlackBoxClassifierNeuralNetwork
    except ImportError as error:
        raise MissingExtraError("the Square attack", "attacks") from error
    return BlackBoxClassifierNeuralNetwork, SquareAttack


def check_pixels(images: Images) -> None:
    """Check that a radius in units of [0, 1] pixels means something for images.

    Raises:
        DataError: if there are none, they are not [N, ., ., .], or they are float32 and not in [0, 1].
    """
    if images.ndim != 4 or not len(images):
        raise DataError(f"an attack needs images, one or more, and was given the shape {list(images.shape)}")
    if images.dtype == np.float32 and not (images.min() >= 0.0 and images.max() <= 1.0):
        raise DataError("an attack needs pixels in [0, 1], and these images have others: its radius would mean nothing")


class _Oracle:
    """The file under attack: images in, scores out. It remembers what the attack will ask for again.

    Args:
        session: the file.
        dtype: the type it takes images in.
        images: how many are under attack; twice as many scores are kept, of what each has become and of its last try.

    Attributes:
        session: the file.
        sent: images that were run.
    """

    def __init__(self, session: Session, dtype: np.dtype[Any], images: int) -> None:
        self.session = session
        self.sent = 0
        self._dtype = dtype
        self._room = 2 * images
        self._known: dict[bytes, Scores] = {}  # in the order in which they were last asked for

    def __call__(self, pixels: NDArray[np.float32]) -> Scores:
        """Return the scores of images in [0, 1], [N, ...] -> [N, C]."""
        images = _as_sent(pixels, self._dtype)
        keys = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]
        new = {key: place for place, key in enumerate(keys) if key not in self._known}
        if new:
            self._known.update(zip(new, self.session.run(images[list(new.values())]), strict=True))
            self.sent += len(new)
        for key in keys:
            self._known[key] = self._known.pop(key)
        scores = np.stack([self._known[key] for key in keys])
        for _ in range(len(self._known) - self._room):
            del self._known[next(iter(self._known))]
        return scores


def _attack(
    oracle: _Oracle, pixels: NDArray[np.float32], labels: Labels, radius: float, queries: int
) -> NDArray[np.float32]:
    """Return what the toolbox makes of images in [0, 1], in the layout the model takes."""
    channels_last = oracle.session.input.channels_last
    height, width = pixels.shape[1:3] if channels_last else pixels.shape[2:4]
    classes = oracle(pixels[:1]).shape[1]
    wrapper, attack = toolbox()
    classifier = wrapper(
        oracle,
        input_shape=pixels.shape[1:],
        nb_classes=classes,
        channels_first=not channels_last,
        clip_values=(0.0, 1.0),
        preprocessing=None,
    )
    attacked: NDArray[np.float32] = attack(
        classifier,
        adv_criterion=lambda scores, target: ~_is_right(scores, target.argmax(axis=1)),
        loss=lambda sent, target: _margin(oracle(sent), target.argmax(axis=1)),
        max_iter=queries - LEAST_QUERIES + 1,
        eps=radius,
        p_init=_first_share(height, width),
        batch_size=len(pixels),
        verbose=False,
    ).generate(pixels, np.eye(classes, dtype=np.float32)[labels])  # with two classes it refuses plain labels
    return attacked


def _first_share(height: int, width: int) -> float:
    """Return the share of an image that the first square covers, small enough to leave it room to move.

    Raises:
        DataError: if there is none.
    """
    side = min(height, width)
    if side < 2:
        raise DataError(f"images of {height}x{width} pixels leave the Square attack no room: two each way are needed")
    return min(_P_INIT, (side - 1) ** 2 / (height * width))


def _whole_levels(epsilon: float) -> float:
    return math.floor(epsilon * _WHITE + 1e-6) / _WHITE  # 4/255 is four levels, however it was rounded


def _as_pixels(images: Images) -> NDArray[np.float32]:
    """Return images as float32 in [0, 1]."""
    return images if images.dtype == np.float32 else (images / np.float32(_WHITE)).astype(np.float32)


def _as_sent(pixels: NDArray[np.float32], dtype: np.dtype[Any]) -> Images:
    """Return pixels in [0, 1] in the type the model takes; uint8 to the nearest level."""
    return pixels if dtype == np.float32 else np.rint(pixels * np.float32(_WHITE)).astype(dtype)


def _is_right(scores: Scores, labels: Labels) -> Flags:
    """Return which answers are right, shape [N]; scores that are not finite are no answer."""
    right: Flags = (top1(scores) == labels) & np.isfinite(scores).all(axis=1)
    return right


def _margin(scores: Scores, labels: Labels) -> NDArray[np.float64]:
    """Return the score of the right class less the best of the others, shape [N]; a wrong answer's is below 0."""
    lowest = float(np.finfo(np.float32).min)
    values = np.where(np.isfinite(scores), scores, lowest).astype(np.float64)
    own = np.take_along_axis(values, labels[:, None], axis=1)[:, 0]
    np.put_along_axis(values, labels[:, None], lowest, axis=1)
    margin = own - values.max(axis=1)
    below = np.minimum(margin, -np.finfo(np.float64).tiny)
    judged: NDArray[np.float64] = np.where(_is_right(scores, labels), margin, below)
    return judged


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed numpy's global random state, which the toolbox draws from, and put it back."""
    state = np.random.get_state()  # noqa: NPY002 - the state it draws from
    np.random.seed(np.random.SeedSequence(seed).generate_state(4))  # noqa: NPY002 - as above
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002 - as above
