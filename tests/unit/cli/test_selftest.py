"""What `selftest` and `inspect --selftest` refuse, each in one line."""

import pathlib

import pytest

MODEL = pathlib.Path(__file__).parents[3] / "models" / "resnet8-digits-resq.int8.onnx"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "--dataset is missing: to make a bundle takes it; to run one, give --check BUNDLE"),
        (("--dataset", "digits"), "--campaign is missing"),
        (("--dataset", "digits", "--campaign", "run"), "--out is missing"),
        (("--check", "b.npz", "--images", "3"), "--images makes a bundle, and --check runs one"),
        (("--check", "b.npz", "--held-out", "0.3"), "--held-out makes a bundle, and --check runs one"),
        (("--check", "none.npz"), "none.npz cannot be read"),
        (("--dataset", "digits", "--campaign", "none", "--out", "b.npz"), "none is not a run folder"),
        (
            ("--dataset", "digits", "--campaign", "run", "--out", "b.npz", "--arithmetic", "exact"),
            "--arithmetic goes with --check",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_slips_are_one_line(resq, arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = resq("selftest", MODEL, *arguments)
    assert (status, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [("--selftest", "b.npz"), ("--verify", "--dataset", "digits", "--selftest", "b")])
def test_inspect_takes_a_bundle_with_verify_alone(resq, arguments):
    status, _, err = resq("inspect", MODEL, *arguments)
    assert status == 2
    assert "--selftest goes with --verify, and without --dataset" in err
