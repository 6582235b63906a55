"""Names of networks, and functions of one's own that make them: what is wrong is told without torch."""

import subprocess
import sys

import pytest

from resq_deploy.errors import ModelError
from resq_deploy.networks.names import check_name, find_user_function


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module of the user's into the current directory."""
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")

    return write


def test_a_function_of_ones_own_is_found_in_the_current_directory(module):
    module("own_names_found", "def build(num_classes):\n    return num_classes\n")
    assert find_user_function("own_names_found:build")(3) == 3
    check_name("own_names_found:build")


@pytest.mark.parametrize(
    ("text", "spec", "message"),
    [
        ("import nothing_there\n", "own_names_{}:build", "ModuleNotFoundError: No module named 'nothing_there'"),
        ("build = 3\n", "own_names_{}:build", "has no function 'build'"),
        ("", "own_names_{}:", "write module:function"),
    ],
    ids=["an import that fails", "no function", "no name"],
)
def test_what_is_wrong_with_it_is_one_line(module, request, text, spec, message):
    name = {"an import that fails": "import", "no function": "function", "no name": "none"}[request.node.callspec.id]
    module(f"own_names_{name}", text)
    with pytest.raises(ModelError, match=message):
        check_name(spec.format(name))


def test_torch_is_not_loaded_to_tell(module, tmp_path):
    module("own_names_broken", "import nothing_there\n")
    code = (
        "import sys\nfrom resq_deploy.errors import ModelError\nfrom resq_deploy.networks.names import check_name\n"
        "try:\n    check_name('own_names_broken:build')\nexcept ModelError:\n    sys.exit('torch' in sys.modules)\n"
        "sys.exit(3)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0
