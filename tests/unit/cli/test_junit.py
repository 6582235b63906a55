"""Gates as JUnit XML: what is written is read back by a parser."""

import xml.etree.ElementTree as ElementTree

import pytest

from resq_deploy.api import GateVerdict, junit
from resq_deploy.cli.gates import print_gates
from resq_deploy.errors import FailedError, InputError, OptionError

GOOD = GateVerdict(name="sdc1=0.01", passed=True, told="0.50 % [0.30, 0.90], bound 1 %")
BAD = GateVerdict(name="due<0.1 & more", passed=False, told='2 % [1, 3], bound 0.1 %; "above"\x00\n')
OPEN = GateVerdict(name="audit", passed=None, told="no fault was audited")


def read(path):
    suites = ElementTree.parse(path).getroot()
    assert suites.tag == "testsuites"
    (suite,) = suites
    assert suite.tag == "testsuite"
    return suite


def test_every_gate_is_a_test(tmp_path):
    with junit(tmp_path / "gates.xml", "faultcamp net.onnx") as cases:
        cases += [GOOD, BAD, OPEN]
    suite = read(tmp_path / "gates.xml")
    assert suite.attrib == {
        "name": "faultcamp net.onnx",
        "tests": "3",
        "failures": "1",
        "errors": "0",
        "skipped": "1",
    }
    good, bad, unseen = suite
    assert [case.get("name") for case in suite] == ["sdc1=0.01", "due<0.1 & more", "audit"]
    assert good.find("failure") is None
    assert good.findtext("system-out") == GOOD.told
    assert bad.find("failure").get("message") == '2 % [1, 3], bound 0.1 %; "above"\\x00\\n'
    assert unseen.find("skipped").get("message") == OPEN.told


def test_failed_work_is_a_failed_test(tmp_path):
    path = tmp_path / "gates.xml"
    path.write_text("of an earlier run")
    with pytest.raises(FailedError), junit(path, "faultcamp"):
        raise FailedError("audit: 1 of 20 faults differ")
    (case,) = read(path)
    assert case.find("failure").get("message") == "audit: 1 of 20 faults differ"


def test_a_failed_gate_is_told_once(tmp_path):
    with pytest.raises(FailedError, match=r"^--fail-above due<0.1 & more: 2 % "):  # noqa: PT012, SIM117
        with junit(tmp_path / "gates.xml", "faultcamp") as cases:
            cases += [GOOD, BAD]
            print_gates("--fail-above", cases)
    assert len(read(tmp_path / "gates.xml")) == 2


def test_refused_work_leaves_no_verdict_of_an_earlier_run(tmp_path):
    path = tmp_path / "gates.xml"
    path.write_text("all passed")
    with pytest.raises(InputError), junit(path, "faultcamp"):
        raise InputError("no such file")
    assert not path.exists()


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(OptionError, match=r"is a folder: give a file, such as .*gates\.xml"), junit(tmp_path, "x"):
        pass


def test_no_file_is_asked_for():
    with junit(None, "faultcamp") as cases:
        cases.append(GOOD)
