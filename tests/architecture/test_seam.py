"""The ONNX half works where torch cannot be imported, and the rooms keep to their contracts."""

import pathlib
import subprocess
import sys
import textwrap

import pytest

BLOCK = """
import importlib.abc, sys

class NoTorch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "onnxscript", "matplotlib", "jinja2", "jsonschema"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch())
"""


def without_torch(code, *arguments):
    script = BLOCK + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True)


def test_the_onnx_half_imports_without_torch():
    done = without_torch("""
        import importlib, pkgutil, resq_deploy
        rooms = "errors records grid data codes faults deployed protection quantization attacks campaign".split()
        for module in pkgutil.walk_packages(resq_deploy.__path__, "resq_deploy."):
            if module.name.split(".")[1] in (*rooms, "api", "cli"):
                importlib.import_module(module.name)
        assert not {"torch", "torchvision"} & sys.modules.keys()
    """)
    assert done.returncode == 0, done.stderr


def test_export_and_campaign_run_without_torch(digits_float, tmp_path):
    done = without_torch(
        """
        from resq_deploy.cli import main
        source, out = sys.argv[1:]
        for arguments in (
            ["export-int8", source, "--dataset", "digits", "--out", f"{out}/net.onnx", "--calibration-images", "20"],
            ["inspect", f"{out}/net.onnx"],
            ["protect", f"{out}/net.onnx", "--out", f"{out}/healing.onnx", "--dataset", "digits", "--images", "50"],
            ["faultcamp", f"{out}/net.onnx", "--dataset", "digits", "--samples", "5", "--out", f"{out}/run"],
        ):
            sys.argv[1:] = arguments
            try:
                main()
            except SystemExit as ended:
                assert ended.code == 0, arguments
        assert "torch" not in sys.modules
        """,
        digits_float,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--network", "resnet8", "--dataset", "digits", "--out", "run"),
        ("demo", "--out", "run"),
        ("export-int8", "run.pt", "--dataset", "digits", "--out", "net.onnx"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_missing_extra_says_what_to_install(arguments, tmp_path):
    (tmp_path / "run.pt").write_bytes(b"a checkpoint")
    code = "from resq_deploy.cli import main; import os; os.chdir(sys.argv.pop(1)); main()"
    done = without_torch(code, tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'resq-deploy[train]'" in done.stderr


def test_import_contracts():
    root = pathlib.Path(__file__).parents[2]
    code = "from importlinter.cli import lint_imports; import sys; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
