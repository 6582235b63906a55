"""`resq-deploy train`: stages 0 to 2 of the hardening."""

import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from resq_deploy import api
from resq_deploy.api.images import unit_normalisation
from resq_deploy.api.training import first_tells
from resq_deploy.api.words import percent
from resq_deploy.cli.preprocessing import channels_option, mean_option, scale_option, std_option
from resq_deploy.cli.sections import SectionedCommand
from resq_deploy.cli.shared import (
    PATH,
    data_dir_option,
    dataset_option,
    out_option,
    print_table,
    resume_option,
    say,
    seed_option,
    split_option,
)

if TYPE_CHECKING:
    from resq_deploy.api import TrainOptions

_PIXEL = 255
_GIVEN_IN_PIXELS = ("epsilon", "attack_step")
_OF_START = ("stem", "init", "weights", "pretrained", "mean", "std", "scale", "preprocess", "split")
"""What the options say of where training starts, which depends on files and data."""

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _number(flag: str, text: str) -> _Decorator:
    """Return an option of the field's own type; the help names the general default, `None` lets the recipe decide."""
    field = flag.removeprefix("--").replace("-", "_")
    default = getattr(api.TrainOptions(network="-", dataset="-"), field)
    kind = int if isinstance(default, int) or default is None else float
    shown = "all" if default is None else f"{default * _PIXEL if field in _GIVEN_IN_PIXELS else default:g}"
    return click.option(flag, type=kind, help=f"{text}  [default: {shown}]")


def _choice(flag: str, values: tuple[str, ...], text: str) -> _Decorator:
    field = flag.removeprefix("--").replace("-", "_")
    default = getattr(api.TrainOptions(network="-", dataset="-"), field)
    return click.option(flag, type=click.Choice(values), help=f"{text}  [default: {default}]")


class _Command(SectionedCommand):
    """Of several processes that torchrun started, the first tells of options that cannot be read."""

    def make_context(self, *args: Any, **settings: Any) -> click.Context:
        with first_tells(click.UsageError):
            return super().make_context(*args, **settings)


SECTIONS = {
    "Network and data": ("network", "stem", "dataset", "data_dir", "split", "train_images", "out"),
    "What it starts from": ("init", "weights", "pretrained"),
    "How it takes its images": ("channels", "scale", "mean", "std", "preprocess"),
    "What is trained, and what is kept": ("stages", "keep", "clean_budget"),
    "All stages": (
        "augment",
        "batch_size",
        "optimizer",
        "weight_decay",
        "ema",
        "epochs_baseline",
        "rate_baseline",
        "label_smoothing",
        "hardening_smoothing",
    ),
    "Stage 1, attack resilience": (
        "epochs_attack",
        "rate_attack",
        "epsilon",
        "epsilon_warmup",
        "attack",
        "attack_steps",
        "attack_step",
        "adversarial_weight",
        "feature_weight",
        "consistency_weight",
    ),
    "Stage 2, fault resilience": (
        "epochs_fault",
        "rate_fault",
        "fault_rate",
        "fault_layers",
        "critical_layers",
        "criticality",
        "criticality_batches",
        "distill_weight",
        "perturb_in_fault",
        "clip",
        "clip_final",
    ),
    "How it is judged": ("validation_images", "test_images", "robust_test_images"),
    "How it runs": ("device", "precision", "compile", "seed", "resume"),
}
"""Headings of the help, and what is under them."""


@click.command(cls=_Command, sections=SECTIONS)
@click.option("--network", required=True, metavar="N", help="A network's name, or module:function of your own.")
@click.option(
    "--stem",
    type=click.Choice(["cifar", "stride2"]),
    help="First layer of torchvision's networks on images up to 64 pixels: cifar keeps their size, stride2 halves it, "
    "for about a quarter of the time and some accuracy, and is the network N-stride2.  [default: as N says]",
)
@dataset_option
@data_dir_option
@split_option
@out_option("Run folder to write: checkpoints, metrics.jsonl, criticality.json, summary.json, manifest.json.")
@click.option(
    "--stages",
    help="Which stages to run.  [default: baseline,attack,fault; with --weights that need no new head: attack,fault]",
)
@click.option("--init", type=PATH, metavar="CKPT", help="Checkpoint of this command to start from.")
@click.option(
    "--weights",
    type=PATH,
    metavar="FILE",
    help="Weights of your own to start from: a state_dict (torch.save) or .safetensors. A head for another number of "
    "classes is replaced.",
)
@click.option("--pretrained", is_flag=True, help="Start from torchvision's ImageNet weights of --network.")
@channels_option
@scale_option
@mean_option
@std_option
@click.option(
    "--preprocess",
    type=click.Choice(["dataset", "imagenet", "none"]),
    help="In place of --mean and --std: the data set's own, torchvision's, or none, for a network that normalises by "
    "itself.  [default: dataset; with --pretrained: imagenet]",
)
@_choice("--keep", ("best", "last"), "Which epoch of a stage is kept: the best on validation images, or the last.")
@_choice(
    "--augment",
    ("auto", "none", "crop", "crop-flip", "photo"),
    "What training does to images: auto shifts them, and mirrors those of cifar10 and cifar100 alone; photo turns, "
    "zooms and lights them anew.",
)
@_number("--epochs-baseline", "Epochs of plain training (digits: 12).")
@_number("--epochs-attack", "Epochs of stage 1, attack resilience (digits: 6).")
@_number("--epochs-fault", "Epochs of stage 2, fault resilience (digits: 8).")
@_number("--train-images", "Use only so many training images.")
@_number("--batch-size", "Images a step (digits: 64).")
@_choice("--optimizer", ("sgd", "adamw"), "What turns gradients into steps (swin_t: adamw).")
@_number("--rate-baseline", "Peak learning rate of stage 0 (gtsrb: 0.05, adamw: 0.001).")
@_number("--rate-attack", "Peak learning rate of stage 1 (gtsrb: 0.02, adamw: 2e-4).")
@_number("--rate-fault", "Peak learning rate of stage 2 (gtsrb: 0.005, adamw: 1e-4).")
@_number("--weight-decay", "Weight decay (adamw: 0.05).")
@_number("--label-smoothing", "Label smoothing of stage 0.")
@_number("--hardening-smoothing", "Label smoothing of stages 1 and 2.")
@_number("--ema", "Decay of the average of the weights that is judged and kept; 0: the weights themselves.")
@_number("--epsilon", "Radius of the perturbations, in 1/255.")
@_number("--epsilon-warmup", "Share of stage 1 in which epsilon rises from 0 (gtsrb: 0.3).")
@_choice("--attack", ("n-fgsm", "pgd"), "How stage 1 perturbs images.")
@_number("--attack-steps", "Steps of pgd.")
@_number("--attack-step", "Size of a pgd step, in 1/255.")
@_number("--adversarial-weight", "w of eq. 2: share of the perturbed images' cross-entropy.")
@_number("--feature-weight", "lambda_f of eq. 2: weight of the feature distance.")
@_number("--consistency-weight", "beta of eq. 2: weight of the KL term.")
@_choice("--fault-layers", ("critical", "all"), "Layers that stage 2 injects into.")
@_number("--critical-layers", "How many layers are critical.")
@_number("--fault-rate", "Highest bit error rate of stage 2.")
@_choice("--criticality", ("gradient", "scaled"), "Rank layers by gradient norm, or that times the int8 step.")
@_number("--criticality-batches", "Batches behind the ranking (digits: 50).")
@_number("--distill-weight", "mu of eq. 5: weight of staying close to stage 1.")
@click.option(
    "--perturb-in-fault/--no-perturb-in-fault",
    default=None,
    help="After stage 1, train stage 2 on perturbed images, too.  [default: on]",
)
@_choice("--clip", ("channel", "layer"), "What stage 2 clips to a share of its largest weight.")
@_number("--clip-final", "tau of stage 2 at its end: that share.")
@click.option(
    "--clean-budget",
    type=float,
    metavar="POINTS",
    help="What hardening may cost, in points of validation accuracy: budget.pt holds the weights between start and "
    "hardened network with the most resilience at that price; pareto.json tells of all tried.",
)
@_number("--validation-images", "Held-out images attacked or faulted after each epoch.")
@_number("--test-images", "Test images of the final figures.")
@_number("--robust-test-images", "Test images attacked for the final figures (digits: 300).")
@_choice("--precision", ("auto", "float32", "bf16"), "Arithmetic of the training; the final figures are float32.")
@click.option(
    "--compile/--no-compile",
    default=None,
    help="Run stages 0 and 1 through torch.compile: meant for GPUs; on CPUs nothing was gained.  [default: off]",
)
@_choice("--device", ("auto", "cpu", "cuda"), "Where to compute.")
@seed_option
@resume_option
def command(network: str, dataset: str, out: pathlib.Path, **given: Any) -> None:
    """Train a network in up to three stages: baseline, attack resilience, fault resilience.

    Each stage starts from the best epoch of the one before. A killed run goes on with --resume. Several processes
    share the work where torchrun starts them; each batch is then shared out among them.

    A network of your own is module:function, called with num_classes=N: it returns a torch.nn.Module from images
    [N, C, H, W] to logits [N, num_classes]; an attribute `taps` may list the modules whose outputs are its features.

    \b
    Examples:
      resq-deploy train --network resnet8 --dataset digits --out run
      resq-deploy train --network resnet20 --dataset cifar10 --data-dir data --out run --epsilon 8
      resq-deploy train --network resnet20 --dataset cifar10 --data-dir data --out fault-only \\
          --stages fault --init run/baseline.pt
      resq-deploy train --network my_module:build --weights my.pth --preprocess imagenet --dataset photos --out run
      torchrun --nproc-per-node 2 -m resq_deploy train --network resnet8 --dataset digits --out run
    """
    run = api.harden(network, dataset, out=out, progress=True, say=say, **_in_its_units(given))
    if run.leads:
        _print_summary(run.summary)


def read_options(given: Mapping[str, Any]) -> "TrainOptions":
    """Turn the command's options into those of a training, as a study does to check them.

    Raises:
        OptionError: if one, or a combination of them, makes no sense.
    """
    unit_normalisation(*(given.get(name) for name in ("preprocess", "mean", "std", "scale")))
    return api.train_options(**{name: value for name, value in _in_its_units(given).items() if name not in _OF_START})


def _in_its_units(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with radii in units of [0, 1] pixels, and a budget as a share."""
    unit = dict.fromkeys(_GIVEN_IN_PIXELS, _PIXEL) | {"clean_budget": 100}
    return {name: value / unit[name] if name in unit and value is not None else value for name, value in given.items()}


def _print_summary(summary: Mapping[str, Any]) -> None:
    epsilon = summary["attack"]["epsilon"] * _PIXEL
    rows = [
        [stage, str(figures["epoch"]), percent(figures["test"]["clean"]), percent(figures["test"]["robust"])]
        for stage, figures in summary["stages"].items()
    ]
    title = f"{summary['network']} on {summary['dataset']}, test images, float network"
    print_table(title, ["stage", "epoch", "clean accuracy", f"under PGD-10 at {epsilon:g}/255"], rows)
