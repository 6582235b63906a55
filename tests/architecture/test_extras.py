"""What a command says is missing is what the extra that it names would install."""

import ast
import pathlib
import re
import tomllib

import pytest

TOP = pathlib.Path(__file__).parents[2]
EXTRAS = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
DISTRIBUTIONS = {"art": "adversarial-robustness-toolbox"}


def needs():
    for path in sorted(path for room in ("api", "cli") for path in (TOP / "resq_deploy" / room).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "need_extra":
                words = [word.value for word in node.args if isinstance(word, ast.Constant)]
                if len(words) == len(node.args):
                    yield pytest.param(*words[1:2], words[2:], id=f"{path.stem}-{words[1]}")


@pytest.mark.parametrize(("extra", "modules"), [*needs()])
def test_an_extra_installs_what_it_is_named_for(extra, modules):
    installed = {re.match(r"[\w-]+", requirement)[0] for requirement in EXTRAS[extra]}
    assert {DISTRIBUTIONS.get(module, module) for module in modules} <= installed
