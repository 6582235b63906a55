"""White-box attacks on any differentiable classifier: the twin of a file, or a float network.

PGD and Auto-PGD under an Linf or L2 bound, untargeted, on the cross-entropy. They are ours and not those of the
Adversarial Robustness Toolbox (1.20), whose Auto-PGD takes a third more time (on ResNet-20, 1.3 of what its gradients
alone take, to 1.0 here: it runs the network again for the loss of every step) and gives the last point it came to
where the best one may have been an earlier one. On the same machinery PGD is a few lines, draws from no global random
state, and was as strong as the toolbox's.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resq_deploy.errors import DataError, OptionError

Images = NDArray[np.float32]
Labels = NDArray[np.int64]
Network = Callable[[Tensor], Tensor]
"""Images float32 [N, ...] in [0, 1] to logits [N, classes]."""

Norm = Literal["linf", "l2"]

_BATCH = 100
_MOMENTUM = 0.75  # Auto-PGD, Croce and Hein 2020: alpha of equation (2) and rho of condition 1
_RISING_SHARE = 0.75
_FIRST_CHECK, _SHORTEN, _SHORTEST = 0.22, 0.03, 0.06  # when the step size is judged, in shares of the steps
_TINY = 1e-30


def pgd(
    network: Network,
    images: Images,
    labels: Labels,
    *,
    epsilon: float,
    norm: Norm,
    steps: int,
    seed: int,
    restarts: int = 1,
) -> Images:
    """Return images made by projected gradient ascent from random starts (Madry et al. 2018).

        x <- project(x + 2.5 epsilon / steps * d),  d = sign(g) (Linf) or g / ||g||_2 (L2),  g = grad_x CE(f(x), y)

    Args:
        network: the classifier; put it in evaluation mode before.
        images: float32 [N, ...] in [0, 1].
        labels: right classes, [N].
        epsilon: radius in units of [0, 1] pixels.
        norm: which ball the radius is of.
        steps: gradients an image and restart.
        seed: of the random starts.
        restarts: random starts of an image that the earlier ones did not fool.

    Returns:
        float32 of the shape of `images`, in [0, 1] and within `epsilon` of them: of all points tried, the one of the
        highest loss among those that are answered wrong, or else among all.

    Raises:
        DataError: if there are no images, or pixels are not in [0, 1].
        OptionError: if an option makes no sense.
    """
    return _attack(_pgd, network, images, labels, _Options(epsilon, norm, steps, seed, restarts))


def apgd(
    network: Network,
    images: Images,
    labels: Labels,
    *,
    epsilon: float,
    norm: Norm,
    steps: int,
    seed: int,
    restarts: int = 1,
) -> Images:
    """Return images made by Auto-PGD (Croce and Hein, ICML 2020, algorithm 1), which sets its step size by itself.

    The step begins at 2 epsilon, with momentum; at given steps, it is halved for the images whose loss stopped to
    rise, which go back to their best point. A step costs one forward and one backward pass. Arguments, result and
    errors as of `pgd`.
    """
    return _attack(_apgd, network, images, labels, _Options(epsilon, norm, steps, seed, restarts))


def attack_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return what the attacks raise, `L = log sum_{j != y} exp z_j - z_y` for logits z: [N, C], [N] -> [N].

    The cross-entropy is `log(1 + exp L)`: it rises with L and its gradient has the same direction, but vanishes in
    float32 where answers are confident.
    """
    places = labels[:, None]
    return torch.logsumexp(logits.scatter(1, places, -torch.inf), 1) - logits.gather(1, places)[:, 0]


@dataclasses.dataclass(frozen=True)
class _Options:
    epsilon: float
    norm: Norm
    steps: int
    seed: int
    restarts: int


class _Best:
    """The best point of each image so far: one answered wrong before one answered right, then the highest loss.

    Args:
        images: where to begin.

    Attributes:
        points: the best points.
        fooled: where they are answered wrong.
    """

    def __init__(self, images: Tensor) -> None:
        self.points = images.clone()
        self.fooled = torch.zeros(len(images), dtype=torch.bool)
        self._loss = torch.full((len(images),), -torch.inf)

    def update(self, places: Tensor, points: Tensor, loss: Tensor, fooled: Tensor) -> None:
        """Take over what is better, of the images at some places."""
        better = torch.where(fooled == self.fooled[places], loss > self._loss[places], fooled)
        taken = places[better]
        self.points[taken], self.fooled[taken], self._loss[taken] = points[better], fooled[better], loss[better]


class _Answer(NamedTuple):
    """The losses of some points, and the directions in which they rise fastest."""

    loss: Tensor
    direction: Tensor


@dataclasses.dataclass(frozen=True)
class _Ascent:
    """Gradient ascent on `attack_loss` within the balls around some images."""

    network: Network
    images: Tensor
    labels: Tensor
    options: _Options
    report: Callable[[Tensor, Tensor, Tensor], None]

    def judge(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses of some points, and which are answered wrong."""
        logits = self.network(points)
        loss = attack_loss(logits, self.labels)
        fooled = (logits.detach().argmax(1) != self.labels) | ~logits.detach().isfinite().all(1)
        self.report(points.detach(), torch.nan_to_num(loss.detach(), nan=torch.inf), fooled)
        return loss, fooled

    def ask(self, points: Tensor) -> "_Answer":
        """Return the losses of some points and the directions in which they rise fastest."""
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            loss, _ = self.judge(points)
            (gradient,) = torch.autograd.grad(loss.sum(), points)
        gradient = torch.nan_to_num(gradient)
        linf = self.options.norm == "linf"
        return _Answer(
            loss=torch.nan_to_num(loss.detach(), nan=torch.inf),
            direction=gradient.sign() if linf else gradient / _lengths(gradient).clamp(min=_TINY),
        )

    def start(self, generator: torch.Generator) -> Tensor:
        """Return random points, uniform in the balls, cut to [0, 1]."""
        epsilon, shape = self.options.epsilon, self.images.shape
        if self.options.norm == "linf":
            return self.project(self.images + (2 * torch.rand(shape, generator=generator) - 1) * epsilon)
        direction = torch.randn(shape, generator=generator)
        radius = torch.rand(len(direction), generator=generator) ** (1 / direction[0].numel())
        away = direction / _lengths(direction) * radius.reshape(-1, *[1] * (direction.ndim - 1))
        return self.project(self.images + away * epsilon)

    def project(self, points: Tensor) -> Tensor:
        """Return points brought back into the balls (for L2 along the radius) and into [0, 1]."""
        epsilon = self.options.epsilon
        if self.options.norm == "linf":
            return torch.clamp(points, self.images - epsilon, self.images + epsilon).clamp(0, 1)
        change = points - self.images
        # the images lie in [0, 1], so that the cut to it shortens the way to them
        return (self.images + change * (epsilon / _lengths(change).clamp(min=epsilon))).clamp(0, 1)


_Method = Callable[[_Ascent, Tensor], None]


def _pgd(ascent: _Ascent, points: Tensor) -> None:
    step = 2.5 * ascent.options.epsilon / ascent.options.steps
    for _ in range(ascent.options.steps):
        points = ascent.project(points + step * ascent.ask(points).direction)
    with torch.no_grad():
        ascent.judge(points)


def _apgd(ascent: _Ascent, points: Tensor) -> None:
    steps = ascent.options.steps
    sides = [1] * (points.ndim - 1)
    size = torch.full((len(points), *sides), 2 * ascent.options.epsilon)
    previous, last, peak = points, ascent.ask(points), points
    top = last
    rises, halved, reached = torch.zeros(len(points)), torch.zeros(len(points)) > 0, top.loss
    check = interval = max(1, math.ceil(_FIRST_CHECK * steps))
    points = ascent.project(points + size * last.direction)
    for step in range(1, steps):
        answer = ascent.ask(points)
        rises += answer.loss > last.loss
        higher = answer.loss > top.loss
        peak = torch.where(higher.reshape(-1, *sides), points, peak)
        top = _merged(higher, answer, top)
        last = answer
        if step == check:
            stuck = (rises < _RISING_SHARE * interval) | (~halved & (reached == top.loss))
            size = torch.where(stuck.reshape(-1, *sides), size / 2, size)
            points = torch.where(stuck.reshape(-1, *sides), peak, points)
            last = _merged(stuck, top, last)
            rises, halved, reached = torch.zeros(len(points)), stuck, top.loss
            interval = max(interval - max(1, round(_SHORTEN * steps)), max(1, round(_SHORTEST * steps)))
            check += interval
        ahead = ascent.project(points + size * last.direction)
        ahead = points + _MOMENTUM * (ahead - points) + (1 - _MOMENTUM) * (points - previous)
        previous, points = points, ascent.project(ahead)
    with torch.no_grad():
        ascent.judge(points)


def _merged(chosen: Tensor, one: _Answer, other: _Answer) -> _Answer:
    """Return one answer where chosen, else the other."""
    return _Answer(
        *(torch.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(one, other, strict=True))
    )


def _attack(method: _Method, network: Network, images: Images, labels: Labels, options: _Options) -> Images:
    """Run an attack in batches; images that one start fooled get no other."""
    _check(images, labels, options)
    generator = torch.Generator().manual_seed(options.seed)
    pixels, classes = torch.from_numpy(images), torch.from_numpy(labels)
    best = _Best(pixels)
    for _ in range(options.restarts):
        left = torch.nonzero(~best.fooled).flatten()
        for places in torch.split(left, _BATCH):
            report = functools.partial(best.update, places)
            ascent = _Ascent(network, pixels[places], classes[places], options, report)
            method(ascent, ascent.start(generator))
    found: Images = best.points.numpy()
    return found


def _check(images: Images, labels: Labels, options: _Options) -> None:
    if not len(images) or len(images) != len(labels):
        raise DataError(f"an attack needs images with labels, and was given {len(images)} and {len(labels)}")
    if images.dtype != np.float32 or not (images.min() >= 0.0 and images.max() <= 1.0):
        raise DataError("an attack needs float32 pixels in [0, 1]: its radius would mean nothing with others")
    if options.norm not in get_args(Norm):
        raise OptionError(f"norm {options.norm!r}: give linf or l2")
    if not 0.0 < options.epsilon < math.inf:
        raise OptionError(f"radius {options.epsilon}: give one above 0")
    if options.steps < 1 or options.restarts < 1:
        raise OptionError(f"{options.steps} steps, {options.restarts} restarts: give one or more of both")


def _lengths(values: Tensor) -> Tensor:
    """Return the L2 norm of each image, shaped to broadcast."""
    lengths: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return lengths.reshape(-1, *[1] * (values.ndim - 1))
