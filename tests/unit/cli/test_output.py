"""Standard output that is full, closed, or whose reader has gone: one line or none, never a traceback."""

import pathlib
import subprocess
import sys

import pytest

_CALL = (sys.executable, "-m", "resq_deploy", "--help")


def _ended(redirection):
    command = f'exec "$@" {redirection}'
    ended = subprocess.run(["sh", "-c", command, "sh", *_CALL], capture_output=True, text=True, check=False)
    return ended.returncode, ended.stderr


@pytest.mark.skipif(not pathlib.Path("/dev/full").is_char_device(), reason="this system has no /dev/full")
def test_a_full_output_is_one_line():
    status, err = _ended("> /dev/full")
    assert status == 2
    assert err == "resq-deploy: cannot write the output: No space left on device; make room, or give another place\n"


def test_a_closed_output_is_one_line():
    status, err = _ended(">&-")
    assert (status, err.count("\n")) == (2, 1)
    assert "standard output is closed" in err


def test_a_reader_that_has_gone_is_no_error_to_tell():
    process = subprocess.Popen(_CALL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1
    process.stderr.close()


@pytest.mark.parametrize(
    "given",
    [
        ("train", "--network", "resnt8", "--dataset", "digits"),
        ("train", "--network", "resnet8", "--dataset", "nowhere"),
        ("train", "--network", "resnet8", "--dataset", "digits", "--weights", "nowhere.pth"),
        ("train", "--network", "resnet8", "--dataset", "digits", "--init", "nowhere.pt"),
        ("faultcamp", "net.onnx", "--dataset", "digits"),
        ("attackcamp", "net.onnx", "--dataset", "digits"),
        ("demo",),
    ],
    ids=" ".join,
)
def test_what_is_wrong_at_first_sight_is_told_before_torch_is_loaded(given, tmp_path):
    occupied = given[0] != "train"
    (tmp_path / "out").mkdir()
    if occupied:
        (tmp_path / "out" / "mine.txt").touch()
    code = "import sys\nfrom resq_deploy.cli import main\ntry:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    call = [sys.executable, "-c", code, *given, "--out", str(tmp_path / "out")]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == "False\n"
    assert len(done.stderr.splitlines()) == 1, done.stderr
    if occupied:
        assert "is not empty" in done.stderr
