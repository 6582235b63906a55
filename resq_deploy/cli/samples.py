"""Options that say what a file of any kind is run on: data, values fed once, states of sequences."""

import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from resq_deploy.data.samples import Data
    from resq_deploy.deployed.model import DeployedModel
    from resq_deploy.deployed.session import Deployment

_OPTIONS = (
    click.option(
        "--dataset",
        metavar="D",
        required=True,
        help="digits, cifar10, cifar100, gtsrb, an image-folder tree DIR/{train,val,test}/CLASS/* or DIR/CLASS/*, an "
        ".npz file (images and labels, or one array an input, named as the model's inputs, samples first), or "
        "synthetic: samples made up from the inputs' types and shapes, which say nothing of accuracy.",
    ),
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


def sample_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_data(
    model: "DeployedModel",
    spec: str,
    deployment: "Deployment",
    *,
    data_dir: pathlib.Path | None,
    feeds: tuple[str, ...],
    states: tuple[str, ...],
    sizes: tuple[str, ...],
) -> "Data":
    """Return what a model is run on; of made-up samples as many as `--images` says, if it says anything.

    Raises:
        InputError: if an option or the data cannot be used.
    """
    from resq_deploy.data.samples import parse_feeds, parse_sizes, parse_states
    from resq_deploy.pipeline.campaign_data import data_for

    context = click.get_current_context()
    said = context.get_parameter_source("images") is ParameterSource.COMMANDLINE
    return data_for(
        model,
        spec,
        deployment,
        data_dir=data_dir,
        count=context.params["images"] if said else None,
        once=parse_feeds(feeds),
        states=parse_states(states),
        sizes=parse_sizes(sizes),
    )
