"""The command line, run in this process."""

import sys

import pytest

from resq_deploy import cli


@pytest.fixture
def resq(monkeypatch, capsys):
    """Run `resq-deploy` in this process; return exit status, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["resq-deploy", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run
