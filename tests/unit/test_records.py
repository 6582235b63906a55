import errno
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from resq_deploy.errors import DataError, RunFolderError
from resq_deploy.records import RunFolder, read_json, read_manifest, write_atomic, write_json


def opened(path, *, command="faultcamp", resume=False, **options):
    return RunFolder.open(path, command=command, options={"seed": 0, **options}, resume=resume)


def test_a_run_leaves_its_status_and_provenance(tmp_path):
    with opened(tmp_path / "run") as folder:
        assert read_manifest(folder.path)["status"] == "running"
    manifest = read_manifest(tmp_path / "run")
    assert manifest["status"] == "done"
    assert manifest.keys() >= {"schema", "command", "options", "seed", "versions", "cpu_flags", "sha256"}
    assert {"resq-deploy", "numpy", "onnxruntime"} <= manifest["versions"].keys()


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "interrupted"), (ValueError, "failed")])
def test_how_a_run_ended_is_recorded(tmp_path, error, status):
    with pytest.raises(error), opened(tmp_path / "run"):
        raise error
    assert read_manifest(tmp_path / "run")["status"] == status


def test_what_is_refused_at_once_does_not_hold_the_folder(tmp_path):
    with pytest.raises(DataError), opened(tmp_path / "run", chips=3):
        raise DataError("no images")
    assert not (tmp_path / "run").exists(), "nor is an empty folder left"
    (tmp_path / "kept").mkdir()
    with pytest.raises(DataError), opened(tmp_path / "kept"):
        raise DataError("no images")
    assert (tmp_path / "kept").is_dir(), "a folder that was there stays"
    with opened(tmp_path / "kept", chips=4):
        pass
    with pytest.raises(DataError), opened(tmp_path / "later") as folder:
        raise DataError(write_json(folder.path / "some.json", {}))
    assert read_manifest(tmp_path / "later")["status"] == "failed", "what was written is not given up"


def test_what_a_kill_left_half_written_is_no_run_and_goes(tmp_path):
    part = tmp_path / ".manifest.json.abc.part"
    part.write_text("{")
    with opened(tmp_path) as folder:
        assert not folder.resumed
        assert not part.exists()


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "something").touch()
    with pytest.raises(RunFolderError, match="not empty"):
        opened(tmp_path)


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(RunFolderError, match="cannot use"):
        opened(tmp_path / "run")


def test_resuming_takes_the_same_run_up_and_names_what_differs(tmp_path):
    with opened(tmp_path / "run", margin=0.1):
        pass
    with opened(tmp_path / "run", resume=True, margin=0.1) as folder:
        assert folder.resumed
    with pytest.raises(RunFolderError, match=r"margin was 0\.1 and is now 0\.2"):
        opened(tmp_path / "run", resume=True, margin=0.2)
    with pytest.raises(RunFolderError, match="is a run of 'faultcamp', not of 'train'"):
        opened(tmp_path / "run", command="train", resume=True, margin=0.1)


def test_resuming_from_another_input_is_refused(tmp_path):
    with RunFolder.open(tmp_path / "run", command="train", options={}, sha256={"data": "ab"}):
        pass
    with pytest.raises(RunFolderError, match="data was 'ab' and is now 'cd'"):
        RunFolder.open(tmp_path / "run", command="train", options={}, sha256={"data": "cd"}, resume=True)


def test_resuming_nothing_starts(tmp_path):
    with opened(tmp_path / "run", resume=True) as folder:
        assert not folder.resumed


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 99}'])
def test_a_broken_manifest_is_one_clear_error(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(RunFolderError):
        opened(tmp_path, resume=True)


def test_two_runs_cannot_share_a_folder(tmp_path):
    with opened(tmp_path / "run"), pytest.raises(RunFolderError, match="in use"):
        opened(tmp_path / "run", resume=True)


def test_a_killed_run_leaves_no_lock_and_no_half_written_file(tmp_path):
    script = textwrap.dedent("""
        import os, pathlib, sys
        from resq_deploy.records import RunFolder, write_json
        folder = RunFolder.open(pathlib.Path(sys.argv[1]), command="faultcamp", options={"seed": 0})
        for number in range(10**6):
            write_json(folder.path / "summary.json", {"numbers": list(range(number, number + 2000))})
            if number == 20:
                print("ready", flush=True)
    """)
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "run")], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(read_json(tmp_path / "run" / "summary.json")["numbers"]) == 2000
    with opened(tmp_path / "run", resume=True) as folder:
        assert folder.resumed


def test_a_full_disk_is_one_clear_error_and_keeps_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "x.json"
    write_atomic(target, "old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match="No space left on device"):
        write_atomic(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path):
    target, link = tmp_path / "deep" / "target.md", tmp_path / "link.md"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to(target)
    write_atomic(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_a_link_to_nothing_makes_its_target_and_a_link_to_itself_is_one_clear_error(tmp_path):
    (tmp_path / "link").symlink_to("made")
    write_atomic(tmp_path / "link", "new")
    assert (tmp_path / "made").read_text() == "new"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(RunFolderError, match=r"cannot write .*loop"):
        write_atomic(tmp_path / "loop", "new")
    assert (tmp_path / "loop").is_symlink()


def test_a_named_pipe_is_written_through(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_atomic(pipe, b"x" * 200_000)  # more than a pipe holds
    reader.join(timeout=600)
    assert read == [b"x" * 200_000]
    assert pipe.is_fifo()


@pytest.mark.skipif(not pathlib.Path("/dev/full").is_char_device(), reason="this system has no /dev/full")
def test_an_error_of_a_device_is_one_clear_error(tmp_path):
    link = tmp_path / "full"
    link.symlink_to("/dev/full")  # the old code would have replaced no more than this link
    with pytest.raises(RunFolderError, match=r"cannot write .*full: No space left on device"):
        write_atomic(link, "new")
    assert link.is_symlink()
    assert pathlib.Path("/dev/full").is_char_device()


def test_json_refuses_what_json_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"rate": float("nan")})
    assert not (tmp_path / "x.json").exists()
