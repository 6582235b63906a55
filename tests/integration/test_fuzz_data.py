"""The short version of tools/fuzz_data.py: mutated data files are used or refused in one line."""

import fuzz_data
import pytest

pytestmark = pytest.mark.slow


def test_sound_files_are_used(tmp_path):
    (tmp_path / "a.npz").write_bytes(fuzz_data.sound_npz())
    (tmp_path / "a.csv").write_bytes(fuzz_data.sound_list())
    assert [verdict for *_, verdict in fuzz_data.judge([tmp_path / "a.npz", tmp_path / "a.csv"])] == ["used", "used"]


def test_mutated_files_are_used_or_refused(tmp_path):
    results = fuzz_data.judge(fuzz_data.write_mutants(tmp_path, 200, seed=0))
    assert len(results) == 200
    assert [result for result in results if not fuzz_data.is_clean(result)] == []
    assert sum(verdict.startswith("refused") for *_, verdict in results) > 50
