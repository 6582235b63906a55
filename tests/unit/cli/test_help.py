"""Help of commands with many options is grouped by what one wants to say, and nothing is lost or told twice."""

import importlib

import click
import pytest

from resq_deploy.cli import _COMMANDS

MANY = 20
"""Options from which on nobody reads a list."""


def command(name):
    return importlib.import_module(f"resq_deploy.cli.{name.replace('-', '_')}")


def options(name):
    return [param for param in command(name).command.params if isinstance(param, click.Option)]


LONG = [name for name in _COMMANDS if len(options(name)) >= MANY]


def test_the_long_ones_are_known():
    assert {"faultcamp", "attackcamp", "train", "export-int8", "demo"} <= {*LONG}


@pytest.mark.parametrize("name", [name for name in LONG if hasattr(command(name), "SECTIONS")])
def test_every_option_is_under_one_heading(resq, name):
    sections = command(name).SECTIONS
    status, out, _ = resq(name, "--help")
    assert status == 0
    listed = [option for names in sections.values() for option in names]
    assert sorted(listed) == sorted(option.name for option in options(name))
    places = [out.index(f"\n{title}:\n") for title in sections]
    assert places == sorted(places)
    flags = [line.split()[0].strip(",") for line in out.splitlines() if line.startswith("  -")]
    for option in options(name):
        assert sum(flag in {each for opt in option.opts for each in (opt, opt.split("/")[0])} for flag in flags) == 1


@pytest.mark.parametrize("name", ["faultcamp", "attackcamp", "train", "export-int8", "demo"])
def test_help_is_grouped(name):
    assert len(command(name).SECTIONS) >= 5
