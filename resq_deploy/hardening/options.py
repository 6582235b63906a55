"""What a training run is asked to do: one frozen object, checked as a whole; free of torch."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from resq_deploy.errors import OptionError
from resq_deploy.networks.names import STRIDE2

Stage = Literal["baseline", "attack", "fault"]
STAGES: tuple[Stage, ...] = ("baseline", "attack", "fault")

GIVEN = "given"
"""What a checkpoint of weights that were trained elsewhere has in place of a stage."""

RECIPES: dict[str, dict[str, Any]] = {
    # traffic signs collapse under full-strength perturbation from the first step on (specification, stage 1)
    # stage 2 of a ResNet-20 without stage 1 left 94.0 % clean accuracy at the general rate, 97.0 % at this (one seed)
    "gtsrb": {"epsilon_warmup": 0.3, "rate_baseline": 0.05, "rate_attack": 0.02, "rate_fault": 0.005},
    # 1,300 images of 8x8 pixels: an epoch is a few steps, so it takes more epochs of smaller batches
    "digits": {
        "batch_size": 64,
        "epochs_baseline": 12,
        "epochs_attack": 6,
        "epochs_fault": 8,
        "criticality_batches": 50,
        "robust_test_images": 300,
    },
}
"""Defaults that differ by data set; what the user gives goes before them."""

OPTIMIZERS: dict[str, Literal["sgd", "adamw"]] = {"swin_t": "adamw"}
"""The optimizer of networks that want another than SGD: transformers hardly train with it (Liu et al. 2021)."""

ADAMW: dict[str, Any] = {"rate_baseline": 1e-3, "rate_attack": 2e-4, "rate_fault": 1e-4, "weight_decay": 0.05}
"""Defaults that go with AdamW, whose rates have nothing to do with those of SGD."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of a training run. Symbols are those of the specification's equations (1) to (5).

    The epochs suit two CPU cores and a CIFAR-size network; on a GPU more of them raise every figure.

    Attributes:
        network: a name of `resq_deploy.networks.NETWORKS`, or `module:function`.
        dataset: name of the data set, for records.
        mean: mean of each channel that the network takes off, in units of [0, 1] pixels; `None` for the data set's.
        std: standard deviation of each channel that it divides by; given with `mean`, or not at all.
        channels: the order of the channels that it takes, or one grey one; None: as the images have them.
        stages: which stages to run, in the order baseline, attack, fault.
        epochs_baseline: epochs of stage 0.
        epochs_attack: epochs of stage 1.
        epochs_fault: epochs of stage 2.
        train_images: use only so many training images, and no more to validate; `None` for all.
        batch_size: images a step.
        seed: of weights, order, augmentation, perturbation and faults.
        device: `auto`, `cpu` or `cuda`.
        precision: `bf16` or `float32` arithmetic in training; `auto` takes bf16 where the processor gains by it.
        compile: run the passes of stages 0 and 1 through `torch.compile`.
        optimizer: `sgd` (with Nesterov's momentum) or `adamw` (Loshchilov and Hutter 2019).
        rate_baseline: peak learning rate of stage 0.
        rate_attack: peak learning rate of stage 1.
        rate_fault: peak learning rate of stage 2.
        momentum: of SGD; beta 1 of AdamW.
        weight_decay: of SGD, on every parameter; of AdamW, on none of biases, norms and position tables.
        warmup_share: share of a stage's steps in which the learning rate rises.
        label_smoothing: of the cross-entropies of stage 0.
        hardening_smoothing: of the cross-entropies of stages 1 and 2.
        ema: decay of the average of the weights that is judged and kept; 0 keeps the weights themselves.
        epsilon: Linf radius eps in units of [0, 1] pixels.
        epsilon_warmup: share of stage 1 in which eps rises linearly from 0.
        attack: how stage 1 perturbs, `n-fgsm` or `pgd`.
        noise: k of n-fgsm, whose noise is U(-k eps, k eps).
        attack_steps: steps K of pgd.
        attack_step: size of one pgd step, in units of [0, 1] pixels.
        adversarial_weight: w of (2).
        feature_weight: lambda_f of (2).
        consistency_weight: beta of (2).
        collapse_drop: drop of PGD-5 accuracy that counts as catastrophic overfitting.
        validation_images: validation images that are attacked or faulted after each epoch.
        test_images: test images of the final figures; `None` for all.
        robust_test_images: test images that are attacked for the final figures.
        fault_layers: `critical` injects into the top layers only, `all` everywhere.
        critical_layers: how many layers are critical.
        fault_rate: p_max, the highest bit error rate that training draws.
        criticality: rank by `gradient` (m_l) or `scaled` (s_l m_l).
        criticality_batches: training batches behind the ranking.
        criticality_memory: rho of (4).
        distill_weight: mu of (5).
        perturb_in_fault: after stage 1, train stage 2 on perturbed images, too.
        gradient_clamp: bound on each entry of the faulty branch's gradient.
        clip: `channel` clips each output channel to a share of its own largest weight, `layer` a layer to one of its.
        clip_final: tau at the end of the annealing.
        clip_share: share of stage 2 in which tau falls from 1.
        curriculum: injection starts once the clean loss is below this times ln C.
        fault_masks: masks behind the faulty accuracy of an epoch.
        augment: what training does to images; `auto`: what the data set is known to bear.
        keep: which epoch of a stage is kept, the `best` on validation images or the `last`.
        clean_budget: what hardening may cost of the validation accuracy it started from, a fraction; `None`: anything.
    """

    network: str
    dataset: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: Literal["rgb", "bgr", "gray"] | None = None
    stages: tuple[Stage, ...] = STAGES
    epochs_baseline: int = 30
    epochs_attack: int = 10
    epochs_fault: int = 6
    train_images: int | None = None
    batch_size: int = 128
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bf16"] = "auto"
    compile: bool = False
    optimizer: Literal["sgd", "adamw"] = "sgd"
    rate_baseline: float = 0.1
    rate_attack: float = 0.05
    rate_fault: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_share: float = 0.3
    label_smoothing: float = 0.0
    hardening_smoothing: float = 0.0
    ema: float = 0.0
    epsilon: float = 4 / 255
    epsilon_warmup: float = 0.0
    attack: Literal["n-fgsm", "pgd"] = "n-fgsm"
    noise: float = 2.0
    attack_steps: int = 7
    attack_step: float = 2 / 255
    adversarial_weight: float = 0.5
    feature_weight: float = 1.0
    consistency_weight: float = 1.0
    collapse_drop: float = 0.2
    validation_images: int = 500
    test_images: int | None = None
    robust_test_images: int = 1000
    fault_layers: Literal["critical", "all"] = "all"
    critical_layers: int = 10
    fault_rate: float = 1e-2
    criticality: Literal["gradient", "scaled"] = "gradient"
    criticality_batches: int = 200
    criticality_memory: float = 0.9
    distill_weight: float = 0.5
    perturb_in_fault: bool = True
    gradient_clamp: float = 0.05
    clip: Literal["channel", "layer"] = "channel"
    clip_final: float = 0.4
    clip_share: float = 0.5
    curriculum: float = 0.75
    fault_masks: int = 4
    augment: Literal["auto", "none", "crop", "crop-flip", "photo"] = "auto"
    keep: Literal["best", "last"] = "best"
    clean_budget: float | None = None

    def __post_init__(self) -> None:
        self._check_stages()
        self._check_numbers()
        self._check_normalisation()
        if self.attack == "pgd" and self.epsilon > 0 and self.attack_step * self.attack_steps < self.epsilon:
            raise OptionError(
                f"{self.attack_steps} pgd steps of {self.attack_step * 255:g}/255 cannot reach "
                f"epsilon {self.epsilon * 255:g}/255: give more steps or larger ones"
            )

    def _check_stages(self) -> None:
        if not self.stages:
            raise OptionError(f"no stage to run: give --stages with some of {','.join(STAGES)}")
        for stage in self.stages:
            if stage not in STAGES:
                raise OptionError(f"unknown stage '{stage}': give --stages with some of {','.join(STAGES)}")
        ordered = tuple(stage for stage in STAGES if stage in self.stages)
        if ordered != self.stages:
            raise OptionError(
                f"stages {','.join(self.stages)} are repeated or out of order: give --stages {','.join(ordered)}"
            )
        if "attack" in self.stages and self.epsilon == 0:
            raise OptionError("stage attack needs a perturbation: give --epsilon above 0, or leave the stage out")

    def _check_normalisation(self) -> None:
        mean, std = self.mean, self.std
        if mean is None and std is None:
            return
        if mean is None or std is None or not mean or len(mean) != len(std):
            raise OptionError("mean and std go together: give --mean and --std, as many numbers each as channels")
        if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise OptionError(
                f"cannot normalise by mean {list(mean)}, std {list(std)}: give finite numbers, std above 0"
            )

    def _check_numbers(self) -> None:
        counts = {
            name: getattr(self, name)
            for name in (
                *(f"epochs_{stage}" for stage in STAGES),
                *("batch_size", "attack_steps", "validation_images", "robust_test_images"),
                *("critical_layers", "criticality_batches", "fault_masks"),
            )
        }
        for name in ("train_images", "test_images"):
            if getattr(self, name) is not None:
                counts[name] = getattr(self, name)
        for name, value in counts.items():
            if value < 1:
                raise OptionError(f"{_spoken(name)} is {value}: give at least 1")
        for name, low, high in _BOUNDS:
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise OptionError(f"{_spoken(name)} is {value:g}: give a number from {low:g} to {high:g}")
        if self.batch_size < 2:
            raise OptionError("batch-size is 1, and batch-norm needs 2 images: give at least 2")
        if self.clean_budget is not None and not 0 <= self.clean_budget <= 1:
            raise OptionError(f"clean-budget is {100 * self.clean_budget:g} points: give a number from 0 to 100")
        if self.seed < 0:
            raise OptionError(f"seed is {self.seed}: give 0 or more")

    def epochs(self, stage: Stage) -> int:
        """Return how many epochs a stage runs."""
        return {"baseline": self.epochs_baseline, "attack": self.epochs_attack, "fault": self.epochs_fault}[stage]

    def rate(self, stage: Stage) -> float:
        """Return a stage's peak learning rate."""
        return {"baseline": self.rate_baseline, "attack": self.rate_attack, "fault": self.rate_fault}[stage]

    def identity(self) -> dict[str, Any]:
        """Return, as JSON values, every option that decides the figures; where it runs (`device`) is left out."""
        values = dataclasses.asdict(self)
        del values["device"]
        if self.channels is None:
            del values["channels"]  # as manifests were before there was a choice
        return {**values, "stages": list(self.stages)}


_BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("rate_baseline", 0, 100),
    ("rate_attack", 0, 100),
    ("rate_fault", 0, 100),
    ("momentum", 0, 0.9999),
    ("weight_decay", 0, 1),
    ("warmup_share", 0, 1),
    ("label_smoothing", 0, 1),
    ("hardening_smoothing", 0, 1),
    ("ema", 0, 0.99999),
    ("epsilon", 0, 1),
    ("epsilon_warmup", 0, 1),
    ("noise", 0, 100),
    ("attack_step", 0, 1),
    ("adversarial_weight", 0, 1),
    ("feature_weight", 0, 1e6),
    ("consistency_weight", 0, 1e6),
    ("collapse_drop", 0, 1),
    ("fault_rate", 1e-9, 0.5),
    ("criticality_memory", 0, 0.9999),
    ("distill_weight", 0, 1e6),
    ("gradient_clamp", 0, 1e6),
    ("clip_final", 0.01, 1),
    ("clip_share", 0, 1),
    ("curriculum", 0, 1e6),
)


def _spoken(name: str) -> str:
    return name.replace("_", "-")


def with_recipe(dataset: str, given: Mapping[str, Any]) -> TrainOptions:
    """Make the options of a run: what the user gave, else the recipe, else the general defaults.

    The recipe is that of the data set and, before it, that of the optimizer: the one given, or the network's own.

    Args:
        dataset: the data set's name.
        given: options by field name; entries that are `None` count as not given.

    Raises:
        OptionError: if an option, or a combination of them, makes no sense.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    optimizer = chosen.get("optimizer", OPTIMIZERS.get(chosen["network"].removesuffix(STRIDE2), "sgd"))
    recipe = RECIPES.get(dataset, {}) | (ADAMW if optimizer == "adamw" else {})
    return TrainOptions(**{"dataset": dataset, "optimizer": optimizer, **recipe, **chosen})
