"""Options of `export-int8` for files of other tasks than to classify, and what it says of them."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from resq_deploy import api
from resq_deploy.api.words import figure_name, percent, printable

if TYPE_CHECKING:
    from resq_deploy.api import TaskWish

TASK_OPTIONS = ("judge", "decode", "outputs", "feed", "keep_float")
"""Names of the options, in the order of the help."""

_OPTIONS = (
    click.option(
        "--judge",
        metavar="NAME[:OPTION=VALUE,...]",
        help="Which answers are the same: top1, binary, labels, map, boxes, embedding, values or module:function.  "
        "[default: guessed from the outputs, and said]",
    ),
    click.option(
        "--decode",
        metavar="NAME|MODULE:FUNCTION",
        help="How a detector's outputs become boxes: yolov5, yolov8, ssd, detr, decoded, or code of your own.  "
        "[default: told by the outputs]",
    ),
    click.option(
        "--outputs",
        multiple=True,
        metavar="NAMES",
        help="Outputs that are judged, with commas.  [default: all that the judge reads]",
    ),
    click.option(
        "--feed",
        multiple=True,
        metavar="NAME=VALUE",
        help="Value of an input that is the same for all samples: a number, a list, or an .npy file.",
    ),
    click.option(
        "--keep-float",
        multiple=True,
        metavar="PATTERNS",
        help="Nodes that stay in float, by name or operator, with commas: '/head/*,Softmax'.  [default: of other tasks "
        "than to classify, all behind the last layers]",
    ),
)


def task_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of tasks to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_wish(given: dict[str, Any]) -> "TaskWish":
    """Take what is said of the task out of a command's options; `keep_float` stays, as it says how to export.

    Raises:
        OptionError: if a value cannot be read.
    """
    said = {name: given.pop(name, None) for name in ("judge", "decode")}
    return api.task_wish(**said, outputs=given.pop("outputs", ()), feed=given.pop("feed", ()))


def print_task(task: Mapping[str, Any]) -> None:
    """Say who judged, and what the int8 file answers beside the float file."""
    click.echo(f"judge {task['judge']['name']}: {printable(task['reason'])}")
    quality = task["quality"]
    if quality is not None:
        drop = quality["drop"]
        low, high = (100 * drop[end] for end in ("low", "high"))
        click.echo(
            f"{figure_name(quality['figure'])} float {100 * quality['float']:.2f} %, "
            f"int8 {100 * quality['int8']:.2f} % (drop {100 * drop['value']:.2f} points [{low:.2f}, {high:.2f}])"
        )
    click.echo(f"the same answer as in float: {percent(task['agreement'])} of {task['samples']} samples")
    for output in task["outputs"]:
        error, cosine = output["relative_error"], output["cosine"]
        off = "is not finite" if error is None else f"is {100 * error:.2f} % off (relative L2)"
        near = "" if cosine is None else f", cosine {cosine:.5f}"
        click.echo(f"output {printable(output['output'])} {off}{near}")
