"""Options that say what a file of any kind is run on: data, values fed once, states of sequences."""

from collections.abc import Callable
from typing import Any

import click

_DATASET = (
    "digits, cifar10, cifar100, gtsrb, an image-folder tree DIR/{train,val,test}/CLASS/* or DIR/CLASS/*, an .npz file "
    "(images and labels, or one array an input, named as the model's inputs, samples first), or synthetic: samples "
    "made up from the inputs' types and shapes, which say nothing of accuracy."
)
_OPTIONS = (
    click.option(
        "--feed",
        multiple=True,
        metavar="NAME=VALUE",
        help="Value of an input that is the same for all samples: a number, a list such as 640,640 or [[640, 640]], or "
        "an .npy file; of a --state what it begins with. May be given again.",
    ),
    click.option(
        "--state",
        multiple=True,
        metavar="OUT=IN",
        help="An output that is fed back as an input: a sample is a sequence then, the second axis of its arrays that "
        "of the steps, and figures are per sequence. May be given again.",
    ),
    click.option(
        "--size",
        multiple=True,
        metavar="AXIS=N",
        help="Of synthetic samples: how long an open dimension is, by its name (H=640) or place (image.2=640).  "
        "[default: one that the file runs on]",
    ),
)


def sample_options(command: Callable[..., Any], *, required: bool = True) -> Callable[..., Any]:
    """Add the options; `required`: whether the command can do nothing without `--dataset`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return click.option("--dataset", metavar="D", required=required, help=_DATASET)(command)
