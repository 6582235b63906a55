"""The attacks of a campaign by name, made where they run: in the worker processes, which load torch if they must."""

import contextlib
import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.attacks.ball import Norm
from resq_deploy.attacks.hopskipjump import HopSkipJump
from resq_deploy.attacks.square import Square
from resq_deploy.attacks.target import Attack, Labels, Target, Tried
from resq_deploy.attacks.units import SHARD, Attacked, Unit, evaluate
from resq_deploy.attacks.workers import Run
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.pipeline.attack_options import SURROGATE, UNMASKED

if TYPE_CHECKING:
    import torch

    Network = Callable[[torch.Tensor], torch.Tensor]

SINGLE_STEP = "single-step"
MORE_STEPS = "more-steps"
LARGE_RADIUS = "large-radius"

_LARGE = 64 / 255  # Linf; nothing can be told of an image that may change by so much


def large_radius(norm: Norm, pixels: int) -> float:
    """Return the radius, in [0, 1] pixels, at which robust accuracy must be that of guessing.

    Under L2 it is that of a change by 64/255 of every value of an image.

    Args:
        norm: of the radius.
        pixels: values of an image.
    """
    return _LARGE if norm is Norm.LINF else _LARGE * math.sqrt(pixels)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AttackKit:
    """All that a process needs to run units of a campaign.

    Attributes:
        path: the file under attack.
        model: the same, serialised and self-contained.
        deployment: how it is run.
        images: the images, uint8 [N, H, W, C] or as the file takes them.
        labels: right classes, shape [N].
        norm: of the radii.
        queries: budget an image of black-box attacks.
        steps: gradient steps.
        seed: of the campaign.
        surrogate: checkpoint of the float network, if there is one.
        white_box: the attack on the twin that the checks take; empty if there is none.
        network: what the user says that the surrogate is of.
    """

    path: pathlib.Path
    model: bytes
    deployment: Deployment
    images: NDArray[Any]
    labels: Labels
    norm: Norm
    queries: int
    steps: int
    seed: int
    surrogate: pathlib.Path | None
    white_box: str
    network: str | None = None

    def deployed(self) -> DeployedModel:
        """Open the file."""
        return DeployedModel.load(self.path)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Run]:
        """Load the file and, when they are first asked for, the attacks; gives what runs a unit, in one thread."""
        target = Target(Session(self.model, self.deployment))
        pixels = target.prepared(self.images)
        attacks: dict[str, Attack] = {}
        with contextlib.ExitStack() as stack:
            networks = _Networks(self, target, stack)

            def run(unit: Unit) -> Attacked:
                if unit.attack not in attacks:
                    attacks[unit.attack] = self._attack(unit.attack, target, networks)
                part = slice(unit.begin, unit.end)
                seed = int(np.random.SeedSequence((self.seed, unit.begin // SHARD)).generate_state(1)[0])
                return evaluate(
                    target,
                    attacks[unit.attack],
                    pixels[part],
                    self.labels[part],
                    norm=self.norm,
                    radius=unit.radius,
                    seed=seed,
                )

            yield run

    def _attack(self, name: str, target: Target, networks: "_Networks") -> Attack:
        """Return the attack of a name, those of the checks among them."""
        if name == "square":
            return Square(target=target, norm=self.norm, queries=self.queries)
        if name == "hopskipjump":
            return HopSkipJump(target=target, norm=self.norm, queries=self.queries)
        from resq_deploy.twin import whitebox

        steps = {SINGLE_STEP: 1, MORE_STEPS: 2 * self.steps}.get(name, self.steps)
        kind = self.white_box if name in (SINGLE_STEP, MORE_STEPS, LARGE_RADIUS) else name
        auto = kind in ("twin-apgd", UNMASKED["twin-apgd"]) and name != SINGLE_STEP
        search = whitebox.apgd if auto else whitebox.pgd
        network = networks.surrogate if kind in SURROGATE else networks.twin(masked=kind not in UNMASKED.values())

        def attack(pixels: NDArray[np.float32], labels: Labels, radius: float, seed: int) -> Tried:
            found = search(network, pixels, labels, epsilon=radius, norm=self.norm.value, steps=steps, seed=seed)
            return Tried(pixels=found, queries=np.zeros(len(pixels), dtype=np.int64))

        return attack


class _Networks:
    """The networks whose gradients are used, each loaded when it is first asked for.

    Args:
        kit: names them.
        target: the file under attack, in whose layout they take pixels in [0, 1].
        stack: puts torch back to as many threads as it had.
    """

    def __init__(self, kit: AttackKit, target: Target, stack: contextlib.ExitStack) -> None:
        self._kit = kit
        self._target = target
        self._stack = stack

    @functools.cache  # noqa: B019 - it lives as long as the process runs units
    def twin(self, *, masked: bool) -> "Network":
        """Return the twin of the file, with gradients that end where a code saturates, or pass on."""
        from resq_deploy.twin import read_twin

        self._stack.enter_context(one_thread())
        twin = read_twin(self._kit.deployed(), clip_gradient=masked)
        return lambda pixels: twin(self._target.fed(pixels))

    @functools.cached_property
    def surrogate(self) -> "Network":
        """The float network."""
        from resq_deploy.hardening.checkpoint import load_checkpoint

        self._stack.enter_context(one_thread())
        if self._kit.surrogate is None:
            raise ValueError("a transfer attack was asked for without a surrogate")
        network = load_checkpoint(self._kit.surrogate, network=self._kit.network).build().requires_grad_(False)
        if not self._target.channels_last:
            return network
        return lambda images: network(images.permute(0, 3, 1, 2))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread for a while, so that rounding does not depend on how many workers there are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
