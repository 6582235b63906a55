"""The short version of tools/fuzz_data.py: mutated data files are used or refused in one line."""

import pytest


@pytest.fixture(scope="module")
def fuzz(load_tool):
    return load_tool("fuzz_data")


def test_sound_files_are_used(fuzz, tmp_path):
    (tmp_path / "a.npz").write_bytes(fuzz.sound_npz())
    (tmp_path / "a.csv").write_bytes(fuzz.sound_list())
    assert [verdict for *_, verdict in fuzz.judge([tmp_path / "a.npz", tmp_path / "a.csv"])] == ["used", "used"]


def test_mutated_files_are_used_or_refused(fuzz, tmp_path):
    results = fuzz.judge(fuzz.write_mutants(tmp_path, 200, seed=0))
    assert len(results) == 200
    assert [result for result in results if not fuzz.is_clean(result)] == []
    assert sum(verdict.startswith("refused") for *_, verdict in results) > 50
