"""The notebooks run from the first cell to the last, as a user would run them."""

import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

TOP = pathlib.Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.mark.parametrize("name", ["prove", "harden"])
def test_a_notebook_runs(name):
    notebook = nbformat.read(TOP / "tools" / "notebooks" / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(TOP)}}).execute()
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    assert any("data" in out for out in last.outputs), "the last figure is shown"
