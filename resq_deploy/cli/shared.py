"""Options that several commands share, and how they show tables."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import click

from resq_deploy.api.extras import need_extra as need_extra

_PLAIN_WIDTH = 110

PATH = click.Path(path_type=pathlib.Path)

dataset_option = click.option(
    "--dataset",
    metavar="D",
    required=True,
    help="digits, cifar10, cifar100, gtsrb, an image-folder tree DIR/{train,val,test}/CLASS/* or DIR/CLASS/*, or an "
    ".npz file.",
)
data_dir_option = click.option(
    "--data-dir", type=PATH, help="Where named data sets are looked for, as NAME/{train,test}/CLASS/*, first."
)
split_option = click.option(
    "--split",
    type=float,
    metavar="SHARE",
    help="Of a folder DIR/CLASS/*: share of each class to test on; later commands know it.  [default: 0.2]",
)
seed_option = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed.")
arithmetic_option = click.option(
    "--arithmetic",
    type=click.Choice(["exact", "native"]),
    default="exact",
    show_default=True,
    help="Sums of 8-bit products as int32 gives them on any CPU, or as this very CPU's kernels do, which saturate on "
    "x86 without VNNI.",
)
resume_option = click.option("--resume", is_flag=True, help="Go on with the run in --out.")
workers_option = click.option("--workers", type=int, help="Faults evaluated at the same time.  [default: all cores]")


def out_option(what: str, *, required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the `--out` option; `what` says what is written there."""
    return click.option("--out", type=PATH, required=required, help=what)


def say(line: str) -> None:
    """Tell the user something on standard error; warnings in yellow."""
    click.secho(line, fg="yellow" if line.startswith("warning:") else None, err=True)


def print_table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on standard output; numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for place, header in enumerate(headers):
        table.add_column(header, justify="left" if place == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH  # a file or a pipe has no width: do not fold figures
    console.print(table)
