"""The API as a user meets it: names at the top of the package, text or paths, objects back."""

import pathlib
import subprocess
import sys

import pytest

import resq_deploy as rd
from resq_deploy.api.gates import of_attacks
from resq_deploy.errors import MissingExtraError, ModelError, OptionError, RunFolderError

FILES = pathlib.Path(__file__).parents[3] / "models"
PLAIN = FILES / "resnet8-digits-baseline.int8.onnx"
PROTECTED = FILES / "resnet8-digits-baseline-protected.int8.onnx"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api") / "run"
    told = []
    found = rd.faultcamp(
        str(PLAIN), "digits", out=str(folder), samples=40, images=20, workers=1, progress=lambda *now: told.append(now)
    )
    assert [done for done, _, _ in told][-1] == 40
    return found


def test_importing_costs_next_to_nothing():
    heavy = "numpy onnx onnxruntime scipy torch pandas matplotlib click rich"
    code = f"import sys, resq_deploy as rd; rd.load; print([name for name in '{heavy}'.split() if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_name_of_the_api_is_at_the_top():
    from resq_deploy import api

    assert all(getattr(rd, name) is getattr(api, name) for name in api.__all__)
    assert set(api.__all__) <= set(dir(rd))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rd.nothing  # noqa: B018


def test_surfaces_are_a_data_frame():
    model = rd.load(PROTECTED)
    frame = model.surfaces()
    assert frame["bits"].sum() == model.bits
    assert set(frame[frame["role"] == "weight"]["protected"]) == {"secded"}
    assert rd.load(PLAIN).surfaces()["protected"].isna().all()
    assert set(model.left_out().columns) == {"tensor", "bits", "reason"}
    assert model.protection()["verdict"] == "sound"


def test_a_campaign_gives_its_estimates_and_its_faults(run):
    assert run.sdc1.n == 40
    assert run.sdc1.low <= run.sdc1.value <= run.sdc1.high
    assert run.estimates["golden/accuracy"].n == 20
    faults = list(run)
    assert len(faults) == 40
    assert sum(fault.sdc1 for fault in faults) / 40 == pytest.approx(run.sdc1.value)
    (bit,) = faults[0].bits
    assert bit.op == "flip"
    assert bit.tensor in set(rd.load(PLAIN).surfaces()["tensor"])
    assert all(fault.counts["masked"] + fault.counts["benign"] + fault.counts["sdc1"] == 20 for fault in faults)


def test_faults_are_a_data_frame(run):
    frame = run.frame()
    assert len(frame) == 40
    assert (frame["sdc1"] / frame["images"]).mean() == pytest.approx(run.sdc1.value)
    assert frame["index"].dtype.kind == "i"


def test_a_run_is_opened_again(run):
    again = rd.open_run(str(run.path))
    assert isinstance(again, rd.FaultRun)
    assert again.sdc1 == run.sdc1
    assert {*again.by("role")} <= {*rd.load(PLAIN).surfaces()["role"]}
    with pytest.raises(RunFolderError, match="no figures by channel"):
        again.by("channel")


def test_figures_are_those_of_the_report(run):
    figures = run.figures()
    assert figures
    assert all(figure.axes for figure in figures.values())


def test_two_runs_are_compared(run, tmp_path):
    again = rd.faultcamp(PLAIN, "digits", out=tmp_path / "again", samples=40, images=20, workers=1)
    compared = rd.compare(run, again.path)
    assert all(one.estimate.value == 0 for one in compared.differences)
    assert len(compared.frame()) == len(compared.differences)
    chips = {"faults": "ber", "ber": 1e-3, "chips": 2, "roles": "weight"}
    other = rd.faultcamp(PLAIN, "digits", out=tmp_path / "other", images=20, workers=1, **chips)
    with pytest.raises(RunFolderError, match="cannot compare"):
        rd.compare(run, other)
    assert [fault.bits for fault in other] == [(), ()], "masks are drawn again by the seed"
    assert list(other.curve()) == [1e-3]
    assert other.sdc1 is None
    rd.write_report([run, again], tmp_path / "both.md")
    assert "SDC-1" in (tmp_path / "both.md").read_text()


def test_a_wrong_option_is_told_in_one_line(tmp_path):
    with pytest.raises(OptionError, match="no option 'sample'; there are faults, images"):
        rd.faultcamp(PLAIN, "digits", out=tmp_path / "run", sample=3)
    with pytest.raises(ModelError, match=r"none\.onnx"):
        rd.load(tmp_path / "none.onnx")
    with pytest.raises(RunFolderError):
        rd.open_run(tmp_path)


def test_attacks_are_silent_and_give_curves(tmp_path, capfd):
    run = rd.attackcamp(
        PLAIN, "digits", out=tmp_path / "run", attacks=["square"], epsilon=[4, 8], images=20, queries=100, workers=1
    )
    assert list(run.robust()) == [4.0, 8.0]
    assert run.robust("square")[4.0].value <= run.clean.value
    assert run.trustworthy is not True, "a black-box attack alone looks for no masked gradients"
    with pytest.raises(RunFolderError, match="no corruptions ran"):
        run.corruptions()
    assert capfd.readouterr() == ("", "")


def test_corruptions_are_no_attack_and_give_accuracy_by_severity(tmp_path, capfd):
    run = rd.attackcamp(
        PLAIN,
        "digits",
        out=tmp_path / "run",
        attacks=["corruptions"],
        images=16,
        workers=1,
        gates=["corruptions@3=0.1"],
    )
    assert list(run.corruptions()) == list(run.corruptions("fog")) == [1, 2, 3, 4, 5]
    assert run.corruptions("jpeg")[1].value > run.corruptions("fog")[5].value
    assert run.estimates["corruptions/mean"].value <= 1
    assert run.robust() == {}
    assert run.summary["gates"][0]["passed"]
    with pytest.raises(RunFolderError, match="no corruption 'snow' ran; there are gaussian-noise, "):
        run.corruptions("snow")
    assert list(run.figures())
    assert capfd.readouterr() == ("", "")


def test_a_file_is_protected_damaged_and_healed(tmp_path):
    out = tmp_path / "healing.onnx"
    outcome = rd.protect(PLAIN, out)
    assert outcome.sidecar["guards"]["bytes_added"] > 0
    data = bytearray(out.read_bytes())
    place = data.index(rd.load(out).proto.graph.initializer[0].raw_data[:64])
    data[place] ^= 1
    (tmp_path / "hit.onnx").write_bytes(data)
    found = rd.scrub(tmp_path / "hit.onnx", repair=tmp_path / "healed.onnx")
    assert found.status == 3
    assert (tmp_path / "healed.onnx").read_bytes() == out.read_bytes()
    with pytest.raises(OptionError, match="must end in"):
        rd.protect(PLAIN, tmp_path / "healing")


def test_an_extra_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match="notebook"):
        rd.load(PLAIN).surfaces()


@pytest.mark.parametrize(
    ("place", "name"),
    [({}, "clean=0.5"), ({"severity": 3}, "clean@3=0.5"), ({"epsilon": "4", "severity": None}, "clean@4=0.5")],
    ids=["of an older run", "at a severity", "at a radius"],
)
def test_gates_of_attacks_are_named_as_they_were_asked_for(place, name):
    gate = {"metric": "clean", "epsilon": None, "bound": 0.5, "estimate": None, "passed": False, "reason": "below"}
    assert of_attacks(gate | place).name == name
