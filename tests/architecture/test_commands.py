"""The commands are made of the API, so that whatever they do can be done from Python, and is tested with them."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[2] / "resq_deploy"
OPEN = {"cli", "api", "errors", "progress", "version"}


def imported(path):
    """The modules that a file imports, wherever in it; of `from a import b` both a and a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            if node.module == "resq_deploy":
                yield from (f"resq_deploy.{name.name}" for name in node.names)


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=lambda path: path.stem)
def test_a_command_imports_the_api_and_no_room_below_it(path):
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("resq_deploy.")}
    assert rooms <= OPEN


@pytest.mark.parametrize("path", sorted((PACKAGE / "api").glob("*.py")), ids=lambda path: path.stem)
def test_the_api_knows_no_command_line(path):
    assert not {name for name in imported(path) if name.split(".")[0] == "click" or name.startswith("resq_deploy.cli")}
