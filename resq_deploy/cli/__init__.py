"""The `resq-deploy` command: a lazy group, and the one place where errors become lines and exit statuses."""

import contextlib
import importlib
import os
import sys

import click

from resq_deploy.errors import OptionError, ResqError
from resq_deploy.version import __version__

_COMMANDS = {
    "demo": "Train, export and test a small network on digits: the whole line in three minutes.",
    "train": "Harden a network: baseline, attack resilience, fault resilience.",
    "export-int8": "Turn a checkpoint or a float ONNX file into a static int8 ONNX file.",
    "protect": "Make any int8 file one that corrects its own flipped bits when it is loaded.",
    "inspect": "List what a file stores, bit by bit: roles, layers, warnings.",
    "scrub": "Check a protected file for flipped bits, heal it, or bake it into a plain one.",
    "faultcamp": "Flip stored bits of a deployed file and measure what happens.",
    "selftest": "Make the few inputs that reveal most faults of a campaign into a start-up test, or run it.",
    "attackcamp": "Attack a deployed file, and check that the figures can be trusted.",
    "report": "One page, table or file from run folders: figures with intervals, differences, what was not tested.",
    "study": "Run a grid of trainings, exports, campaigns and attacks, and write the paper's tables.",
    "guide": "Print a page of the manual.",
}
_INTERRUPTED = 130


class _LazyGroup(click.Group):
    """Imports a command when it is called, so that `--help` never waits for torch or onnxruntime."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"resq_deploy.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="resq-deploy")
def group() -> None:
    """Harden int8 networks against bit flips and attacks, export them to ONNX, and prove it on the file.

    \b
    A first campaign, on a file that comes with the sources:
      resq-deploy faultcamp models/resnet8-digits-resq.int8.onnx --dataset digits --samples 200 --out run
    """


def main() -> None:
    """Run the command line; every expected error is one line and an exit status, never a traceback."""
    try:
        _check_output()
        status = group.main(standalone_mode=False)
        sys.stdout.flush()  # here, where an error can still be told
    except ResqError as error:
        _complain(f"resq-deploy: {' '.join(str(error).split())}")
        status = error.exit_status
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "resq-deploy"
        _complain(f"{where}: {error.format_message()} (see '{where} --help')")
        status = 2
    except (click.Abort, KeyboardInterrupt):
        _complain("resq-deploy: interrupted; a run folder goes on with --resume")
        status = _INTERRUPTED
    except click.ClickException as error:
        _complain(f"resq-deploy: {error.format_message()}")
        status = 2
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        _drop_output()
        status = 1
    except OSError as error:
        what = f"cannot use {error.filename}" if error.filename else "cannot write the output"
        _complain(f"resq-deploy: {what}: {error.strerror or error}; make room, or give another place")
        _drop_output()
        status = 2
    except MemoryError:
        _complain("resq-deploy: out of memory; give fewer images or workers")
        status = 2
    sys.exit(status if isinstance(status, int) else 0)


def _check_output() -> None:
    """Refuse to work for a closed standard output: the first file opened would take its place and its text."""
    if sys.stdout is None:
        raise OptionError("standard output is closed: send it to a file, or to /dev/null")


def _drop_output() -> None:
    """Send what is still to be written nowhere, so that leaving raises no second error."""
    with contextlib.suppress(OSError, ValueError):  # tests, among others, have an output that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str) -> None:
    with contextlib.suppress(OSError):
        click.echo(message, err=True)
