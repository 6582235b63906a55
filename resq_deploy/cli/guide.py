"""`resq-deploy guide`: the manual's pages, on the terminal."""

import difflib
import importlib.resources

import click

from resq_deploy.errors import OptionError

TOPICS = {
    "own": "your own network, from weights and images to a proven file: the whole way on one page",
    "figures": "what SDC-1, masked, a fault and an interval mean; how many faults to ask for",
    "memory": "the memory behind the file: neighbouring cells, layouts, flips that go one way",
    "judges": "what counts as wrong, task by task: classes, maps, boxes, numbers, a rule of your own",
    "hardening": "your weights or fresh ones through stages 1 and 2; what it costs; training at scale",
    "export": "float to int8: ranges, corrections, gates; votes and codes in the file",
    "attacks": "attacks on the deployed file, and whether their figures can be trusted",
    "compare": "one page of many runs; two files compared so that it holds",
    "data": "your own images and networks",
    "python": "the same from Python: files, campaigns and runs as objects, data frames and figures",
    "tasks": "detectors, segmentation, sequences: any network, and how it is judged",
    "studies": "grids of runs, the paper's tables, and what ours gave",
    "selftest": "few inputs that reveal most faults, as a test for start-up: chosen, measured, checked on the device",
    "safety": "from an int8 file to an FMEDA row and a self-test: what standards ask, what the evidence does not show",
    "exact": "why replay equals reload, why any CPU gives the same figures, and how fast it is",
    "cluster": "campaigns on Dask, SLURM, Kubernetes",
    "contributing": "the rooms of the house, and how to work in it",
}


@click.command()
@click.argument("topic", required=False, metavar="[TOPIC]")
def command(topic: str | None) -> None:
    """Print a page of the manual, or the list of its pages.

    \b
    Examples:
      resq-deploy guide
      resq-deploy guide figures
      resq-deploy guide export | less
    """
    if topic is None:
        width = max(map(len, TOPICS))
        for name, about in TOPICS.items():
            click.echo(f"{name:{width}}  {about}")
        return
    name = topic.removesuffix(".md")
    if name not in TOPICS:
        close = difflib.get_close_matches(name, TOPICS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise OptionError(f"no page {topic!r}: {hint}there are {', '.join(TOPICS)}")
    text = (importlib.resources.files("resq_deploy") / "guide" / f"{name}.md").read_text(encoding="utf-8")
    _show(text)


def _show(text: str) -> None:
    """Print Markdown, laid out where a person reads it and as it is where a program does."""
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        click.echo(text, nl=False)
