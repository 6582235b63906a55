"""The short version of tools/fuzz_models.py: mutated files are used or refused in one line."""

import fuzz_models
import fuzz_sources
import pytest

pytestmark = pytest.mark.slow


def test_the_sound_models_are_used(tmp_path):
    (tmp_path / fuzz_sources.EXTERNAL).write_bytes(bytes(192 * fuzz_sources.CLASSES * 4))
    paths = []
    for make in fuzz_sources.SOUND:
        paths.append(tmp_path / f"{make.__name__}.onnx")
        paths[-1].write_bytes(make().SerializeToString())

    assert [result["verdict"] for result in fuzz_models.judge(paths)] == ["used"] * len(fuzz_sources.SOUND)


def test_mutated_files_are_used_or_refused(tmp_path):
    results = list(fuzz_models.judge(fuzz_models.write_mutants(tmp_path, 208, seed=0)))

    assert len(results) == 208
    assert [result for result in results if not fuzz_models.is_clean(result)] == []
    assert {result["verdict"].split(":")[0] for result in results} >= {"used", "refused"}


def test_the_judge_sees_crashes_and_tracebacks(tmp_path, monkeypatch):
    """The fuzzer itself can fail: a file that raises, and a process that dies."""
    path = tmp_path / "m.onnx"
    path.write_bytes(b"")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib, sys\n"
        "if '--check' in sys.argv:\n"
        "    import resq_deploy.deployed.graph as graph\n"
        "    def broken(path): raise KeyError('a bug')\n"
        "    graph._read = broken\n"
    )
    (result,) = fuzz_models.judge([path])
    assert result["verdict"].startswith("traceback: KeyError")
    (tmp_path / "sitecustomize.py").write_text("import os, sys\nif '--check' in sys.argv: os.abort()\n")
    (result,) = fuzz_models.judge([path])
    assert result["verdict"].startswith("died with -6")
    assert not fuzz_models.is_clean(result)
