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
