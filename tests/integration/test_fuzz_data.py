"""The short version of tools/fuzz_data.py: mutated data files are used or refused in one line."""

import importlib.util
import pathlib

import pytest

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "fuzz_data.py"


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz_data", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sound_files_are_used(fuzz, tmp_path):
    (tmp_path / "a.npz").write_bytes(fuzz.sound_npz())
    (tmp_path / "a.csv").write_bytes(fuzz.sound_list())
    assert [verdict for *_, verdict in fuzz.judge([tmp_path / "a.npz", tmp_path / "a.csv"])] == ["used", "used"]


def test_mutated_files_are_used_or_refused(fuzz, tmp_path):
    results = fuzz.judge(fuzz.write_mutants(tmp_path, 200, seed=0))
    assert len(results) == 200
    assert [result for result in results if not fuzz.is_clean(result)] == []
    assert sum(verdict.startswith("refused") for *_, verdict in results) > 50
