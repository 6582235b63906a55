"""`resq-deploy attackcamp` with bit flips and faults, as a user meets it."""

import json
import re

import pytest

QUICK = ("--dataset", "digits", "--images", "60", "--workers", "1")


@pytest.fixture
def resq(resq):
    """Run `resq-deploy COMMAND`; what it prints is joined to one line."""

    def run(*arguments):
        status, printed, complaint = resq(*arguments)
        return status, " ".join(printed.split()), complaint

    return run


def test_chosen_flips_are_replayed_by_faultcamp_and_crossed_with_attacks(resq, digits_int8, tmp_path):
    out = tmp_path / "flips"
    flips = ("--bit-flip-batches", "2", "--bit-flip-limit", "2", "--bit-flip-loss", "cross-entropy")
    status, printed, err = resq("attackcamp", digits_int8, *QUICK, "--attacks", "bit-flip", *flips, "--out", out)
    assert status == 0, err
    assert "given up at the limit" in printed
    end = "at least 2.0 [2.0, -] over 2 attack batches, 2 of which did not get there"
    assert re.search(rf"flips to chance \+ 1 point \(1\d\.\d%\): {re.escape(end)}", printed)
    assert "may flip 64,032 stored bits in 2 tensors" in printed
    listed = out / "bitflips.csv"
    status, _, err = resq("faultcamp", digits_int8, *QUICK, "--fault-list", listed, "--out", tmp_path / "replayed")
    assert status == 0, err
    square = ("--attacks", "square", "--queries", "10", "--epsilon", "8")
    crossed = (*square, "--with-faults", listed, "--out", tmp_path / "crossed")
    status, printed, err = resq("attackcamp", digits_int8, *QUICK, *crossed)
    assert status == 0, err
    assert "Accuracy under 2 faults of a list" in printed
    replayed, matrix = (json.loads((tmp_path / run / "summary.json").read_text()) for run in ("replayed", "crossed"))
    assert matrix["fault_attack"]["clean"]["faulty"]["value"] == replayed["accuracy"]["value"]
    assert matrix["fault_attack"]["attacked"].keys() == {"square"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--attacks", "bit-flip", "--bit-flip-limit", "0"), "--bit-flip-limit 0: give a whole number from 1 up"),
        (("--attacks", "bit-flip", "--bit-flip-roles", "wieght"), "--bit-flip-roles: unknown role 'wieght'; roles are"),
        (("--attacks", "bit-flip", "--bit-flip-roles", "float"), "stores nothing to attack in float; it stores"),
        (("--attacks", "bit-flip", "--bit-flip-target", "cat"), "--bit-flip-target 'cat': digits has no such class"),
        (("--attacks", "bit-flip", "--with-faults", "1e-3"), "--with-faults crosses faults with attacks on images"),
        (("--attacks", "square", "--with-faults", "2"), "--with-faults 2: give a fault list, or a bit error rate"),
        (("--attacks", "square", "--with-faults", "none.csv"), "cannot read fault list none.csv"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(resq, digits_int8, tmp_path, arguments, said):
    status, printed, err = resq("attackcamp", digits_int8, *QUICK, *arguments, "--out", tmp_path / "run")
    assert status == 2, err
    assert printed == ""
    assert said in err
    assert len(err.splitlines()) == 1, err
    assert not (tmp_path / "run").exists()
