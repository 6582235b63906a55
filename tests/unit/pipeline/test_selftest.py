"""Self-tests: which inputs qualify, what is held out, what coverage is told, and bundles of files of all kinds."""

import ast
import dataclasses
import importlib.util
import io
import json
import pathlib
import re
import shutil
import sqlite3
import subprocess
import sys
import zipfile

import numpy as np
import onnx
import pytest

import resq_deploy as rd
from resq_deploy.campaign.finished import Finished
from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset
from resq_deploy.data.sources import load_samples
from resq_deploy.deployed import known_answers
from resq_deploy.deployed.arithmetic import Arithmetic
from resq_deploy.deployed.deployment import Deployment, create
from resq_deploy.deployed.known_answers import Bundle, differences, main
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.errors import FailedError, ModelError, OptionError
from resq_deploy.faults.cells import Direction
from resq_deploy.faults.cover import covered
from resq_deploy.faults.gaps import least
from resq_deploy.pipeline.selftest import (
    LEAST_TOLERANCE,
    Evidence,
    SelfTestOptions,
    marked,
    settled_tolerance,
    share_of,
    usable_run,
)
from resq_deploy.pipeline.selftest_bundle import check, packed

ASKED = {"images": 60, "workers": 1, "audit": 0.0, "samples": 600, "bits": (6, 7, 20, 22)}


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def run(digits_int8, digits, tmp_path_factory):
    """A campaign, and a second one on other faults."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        Campaign(DeployedModel.load(digits_int8), digits, CampaignOptions(**ASKED, seed=seed)).run(folder / str(seed))
    return folder / "0", folder / "1"


@pytest.fixture(scope="module")
def made(run, digits_int8, tmp_path_factory):
    """A bundle, and what is said of it."""
    out = tmp_path_factory.mktemp("bundle") / "selftest.npz"
    return out, rd.selftest(digits_int8, "digits", campaign=run[0], out=out, images=4)


@pytest.fixture(scope="module")
def task_files():
    """The builders of task_files.py."""
    path = pathlib.Path(__file__).parents[1] / "task_files.py"
    spec = importlib.util.spec_from_file_location("task_files", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def evidence(run, digits_int8, digits):
    return Evidence.read(Finished.read(run[0]), DeployedModel.load(digits_int8), digits)


def flipped(path, target, bit=7, tensor=None):
    """A copy of a file with one bit of a weight flipped."""
    model = DeployedModel.load(path)
    surface = next(one for one in model.surfaces if one.role == "weight" and tensor in (None, one.tensor))
    proto = onnx.ModelProto.FromString(path.read_bytes())
    stored = next(one for one in proto.graph.initializer if one.name == surface.tensor)
    values = bytearray(stored.raw_data)
    values[3] ^= 1 << bit
    stored.raw_data = bytes(values)
    target.write_bytes(proto.SerializeToString())
    return target


class TestTolerance:
    def test_bit_equal_everywhere_gives_the_least(self):
        tolerance, qualified = settled_tolerance(np.zeros(10), None, 3)
        assert tolerance == LEAST_TOLERANCE
        assert qualified.all()

    def test_it_is_twice_what_half_of_the_samples_stay_within(self):
        tolerance, qualified = settled_tolerance(np.array([0.0, 0.3, 0.1, 0.2, 0.4]), None, 1)
        assert tolerance == 0.4
        assert qualified.tolist() == [True, False, True, True, False]

    def test_as_many_qualify_as_are_chosen(self):
        tolerance, qualified = settled_tolerance(np.array([0.0, 0.3, 0.1, 0.2, 0.4]), None, 4)
        assert tolerance == 0.6
        assert qualified.sum() == 4

    def test_what_is_asked_for_is_kept(self):
        tolerance, qualified = settled_tolerance(np.array([0.0, 0.3, 0.1]), 0.2, 2)
        assert tolerance == 0.2
        assert qualified.tolist() == [True, False, True]

    @pytest.mark.parametrize(
        ("spread", "asked", "count", "told"),
        [
            ([0.1, 0.1, 0.0], 0.1, 2, "--tolerance 0.1: .* on 1 samples alone"),
            ([0.0, 0.0], None, 3, "--images 3: the campaign was run on 2 samples alone"),
            ([np.inf, np.inf, 0.0], None, 1, "--tolerance inf"),
        ],
        ids=["too small", "too few samples", "never finite"],
    )
    def test_what_cannot_be_had_is_refused(self, spread, asked, count, told):
        with pytest.raises(OptionError, match=told):
            settled_tolerance(np.array(spread), asked, count)


class TestHeldOut:
    def test_a_fault_is_held_out_in_every_campaign_or_in_none(self):
        names = [f"fault {number}" for number in range(4000)]
        first = marked(names, 0.3, 0)
        assert (marked(names[::-1], 0.3, 0)[::-1] == first).all()
        assert 0.26 < first.mean() < 0.34
        assert (first <= marked(names, 0.5, 0)).all()
        assert (marked(names, 0.3, 1) != first).any()

    def test_faults_that_chose_the_inputs_measure_nothing(self, run, digits_int8, tmp_path):
        """A second campaign that is the first leaves no fault to measure by."""
        with pytest.raises(FailedError, match="takes some to choose inputs by and others to measure them on"):
            rd.selftest(digits_int8, "digits", campaign=run[0], out=tmp_path / "b.npz", held_out=run[0])
        assert not (tmp_path / "b.npz").exists()

    def test_a_campaign_that_was_judged_otherwise_is_refused(self, run, digits_int8, digits, tmp_path):
        options = CampaignOptions(**{**ASKED, "images": 50, "samples": 20})
        Campaign(DeployedModel.load(digits_int8), digits, options).run(tmp_path / "other")
        with pytest.raises(OptionError, match="both campaigns must differ in their faults alone"):
            rd.selftest(
                digits_int8, "digits", campaign=run[0], out=tmp_path / "b.npz", held_out=str(tmp_path / "other")
            )


class TestCoverage:
    def test_a_part_of_a_simple_sample_has_clopper_pearsons_interval(self, evidence):
        domain, revealed = np.zeros(600, bool), np.zeros(600, bool)
        domain[:20], revealed[:15], revealed[30:] = True, True, True
        found = share_of(evidence, revealed, domain, 0.95)
        assert (found.value, found.n) == (0.75, 20)
        assert found.low == pytest.approx(0.5090, abs=1e-4)
        assert found.high == pytest.approx(0.9134, abs=1e-4)
        assert share_of(evidence, revealed, np.zeros(600, bool), 0.95) is None

    def test_faults_drawn_in_strata_are_weighed_by_what_they_stand_for(self, digits_int8, digits, tmp_path):
        model = DeployedModel.load(digits_int8)
        asked = {"images": 30, "workers": 1, "audit": 0.0, "margin": 0.15, "images_per_fault": "all"}
        Campaign(model, digits, CampaignOptions(**asked)).run(tmp_path / "run")
        evidence = Evidence.read(Finished.read(tmp_path / "run"), model, digits)
        weights, domain = evidence.weights(), evidence.harm > 0
        assert len(set(weights)) > 1
        revealed = least(evidence.codes)[:, 0] > 1e-3
        found = share_of(evidence, revealed, domain, 0.95)
        assert found.value == pytest.approx(weights[domain & revealed].sum() / weights[domain].sum())
        assert found.low < found.value <= found.high
        assert found.n == domain.sum()

    def test_what_is_said_is_what_the_held_out_faults_show(self, made, evidence):
        _, said = made
        held = marked(evidence.digests(), 0.5, 0) & (evidence.harm > 0)
        training = ~marked(evidence.digests(), 0.5, 0) & (evidence.harm > 0)
        seen = covered(least(evidence.codes) >= 2 * said["tolerance"], said["chosen"])
        assert said["held_out"]["harmful"] == held.sum() > 10
        assert said["campaign"]["harmful"] == training.sum() > 10
        for point, revealed in zip(said["curve"], seen, strict=True):
            assert point["held_out"]["value"] == pytest.approx(revealed[held].mean())
            assert point["training"] == pytest.approx(revealed[training].mean())
            assert point["held_out"]["n"] == held.sum()
        assert said["coverage"] == said["curve"][-1]["held_out"]
        harm = evidence.harm * held
        assert said["of_wrong_answers"] == pytest.approx(harm[seen[-1]].sum() / harm.sum())
        assert sum(one["n"] for one in said["by_role"].values()) == held.sum()
        assert said["all_qualified"]["value"] >= said["coverage"]["value"]
        assert [point["images"] for point in said["curve"]] == [1, 2, 3, 4]

    def test_which_way_bits_flipped_is_said(self, made, digits_int8, digits, tmp_path):
        asked = CampaignOptions(**{**ASKED, "flip_direction": Direction(0.8)})
        Campaign(DeployedModel.load(digits_int8), digits, asked).run(tmp_path / "run")
        said = rd.selftest(digits_int8, "digits", campaign=tmp_path / "run", out=tmp_path / "b.npz", images=4)
        assert said["campaign"]["flip_direction"] == said["held_out"]["flip_direction"] == "1to0:0.8"
        assert "flip_direction" not in made[1]["campaign"]

    def test_what_counts_as_harm_can_be_asked_for(self, run, digits_int8, evidence, tmp_path):
        said = rd.selftest(
            digits_int8, "digits", campaign=run[0], out=tmp_path / "b.npz", harm_above=0.05, held_out=run[1]
        )
        assert said["campaign"]["harmful"] == (evidence.harm > 0.05).sum() < (evidence.harm > 0).sum()
        assert said["held_out"]["by"] == "campaign"

    def test_revealed_faults_are_found_by_the_check_itself(self, made, evidence, digits_int8):
        """A fault that is said to be revealed fails the bundle, and one that moves no chosen output passes it."""
        out, said = made
        bundle, patcher = Bundle(out), DeployedModel.load(digits_int8).patcher()
        gap = least(evidence.codes[:, said["chosen"]]).max(axis=1)
        shown = np.flatnonzero(gap >= 2 * said["tolerance"])[:8]
        hidden = np.flatnonzero(gap == 0)[:8]
        assert len(shown) == len(hidden) == 8
        for number in (*shown, *hidden):
            file = patcher.apply(patcher.masks(evidence.plan.fault(int(number))))
            found = list(differences(bundle, create(file, Deployment(batch=1))))
            assert bool(found) == (number in shown), number


class TestBundle:
    def test_the_fault_free_file_passes_in_either_arithmetic(self, made, digits_int8):
        out, _ = made
        for arithmetic in (None, Arithmetic.EXACT):
            checked = check(out, digits_int8, arithmetic)
            assert checked.passed
            assert checked.same_file
            assert checked.runs == 4
            assert checked.arithmetic == "exact"

    def test_native_arithmetic_passes_or_says_that_it_cannot(self, made, digits_int8):
        out, _ = made
        if Deployment().saturates:
            with pytest.raises(OptionError, match="this CPU \\(x86 without VNNI\\) saturates"):
                check(out, digits_int8, Arithmetic.NATIVE)
            assert main([str(out), str(digits_int8)]) == 2
        else:
            assert check(out, digits_int8, Arithmetic.NATIVE).passed
            assert main([str(out), str(digits_int8)]) == 0

    def test_a_trial_that_fails_tells_that_this_cpu_saturates(self, made, digits_int8, tmp_path, capsys):
        """As on a CPU without VNNI: neither a pass nor a false alarm, but a line."""
        header, arrays = unpacked(made[0])
        assert (header["sums"], len(header["trials"])) == ("int32", 4)  # of two operators
        arrays["trial1.out"] = arrays["trial1.out"] ^ 1
        (tmp_path / "b.npz").write_bytes(packed(header, arrays))
        assert main([str(tmp_path / "b.npz"), str(digits_int8)]) == 2
        assert "saturates sums of 8-bit products" in capsys.readouterr().err
        assert check(tmp_path / "b.npz", digits_int8).passed  # in exact arithmetic

    def test_answers_of_a_cpu_that_saturates_are_for_such_alone(self, made, digits_int8, tmp_path):
        header, arrays = unpacked(made[0])
        (tmp_path / "b.npz").write_bytes(packed({**header, "sums": "saturating"}, arrays))
        with pytest.raises(OptionError, match="leave --arithmetic exact out"):
            check(tmp_path / "b.npz", digits_int8, Arithmetic.EXACT)
        if not Deployment().saturates:
            with pytest.raises(OptionError, match="and this one does not"):
                check(tmp_path / "b.npz", digits_int8)

    def test_a_flipped_bit_fails_with_the_output_that_shows_it(self, made, digits_int8, tmp_path):
        checked = check(made[0], flipped(digits_int8, tmp_path / "f.onnx"))
        assert not checked.passed
        assert not checked.same_file
        assert "output 'y' differs by up to" in checked.differences[0] or "differs by up to" in checked.line
        assert json.loads(json.dumps(checked.as_dict()))["passed"] is False

    def test_a_file_that_cannot_be_loaded_fails(self, made, digits_int8, tmp_path, capsys):
        (tmp_path / "half.onnx").write_bytes(digits_int8.read_bytes()[:2000])
        checked = check(made[0], tmp_path / "half.onnx")
        assert "cannot be loaded" in checked.line
        if not Deployment().saturates:
            assert main([str(made[0]), str(tmp_path / "half.onnx")]) == 1
            assert "cannot be loaded" in capsys.readouterr().out

    @pytest.mark.parametrize("what", ["no file", "no bundle", "broken", "newer"])
    def test_what_is_missing_or_broken_is_one_line(self, made, digits_int8, tmp_path, what, capsys):
        bundle, model = made[0], digits_int8
        if what == "no file":
            model = tmp_path / "none.onnx"
        elif what == "no bundle":
            bundle = tmp_path / "none.npz"
        else:
            bundle = tmp_path / "b.npz"
            header, arrays = unpacked(made[0])
            bundle.write_bytes(b"PK" if what == "broken" else packed({**header, "schema": 99}, arrays))
        with pytest.raises(ModelError):
            check(bundle, model)
        assert main([str(bundle), str(model)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1

    def test_the_same_campaign_gives_the_same_bundle(self, made, run, digits_int8, tmp_path):
        rd.selftest(digits_int8, "digits", campaign=run[0], out=tmp_path / "b.npz", images=4)
        assert (tmp_path / "b.npz").read_bytes() == made[0].read_bytes()

    @pytest.mark.parametrize("blocked", [("torch",), ("torch", "resq_deploy", "onnx", "scipy")], ids=["torch", "all"])
    def test_python_runs_it_with_numpy_and_onnxruntime_alone(self, made, digits_int8, tmp_path, blocked):
        """The bundle as a program, where nothing else can be imported."""
        if Deployment().saturates:
            pytest.skip("its answers are those of exact sums")
        code = (
            "import runpy, sys\n"
            f"sys.modules |= dict.fromkeys({blocked!r})\n"
            "sys.argv = sys.argv[1:]\n"
            "sys.path.insert(0, sys.argv[0])\n"
            "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        )
        for model, status in ((digits_int8, 0), (flipped(digits_int8, tmp_path / "f.onnx"), 1)):
            call = [sys.executable, "-c", code, made[0], model]
            done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=tmp_path)
            assert done.returncode == status, done.stderr
        call = [sys.executable, made[0], digits_int8]
        assert subprocess.run(call, capture_output=True, check=False, cwd=tmp_path).returncode == 0
        assert subprocess.run(call[:2], capture_output=True, check=False, cwd=tmp_path).returncode == 2


def unpacked(path):
    """Header and arrays of a bundle."""
    bundle = Bundle(path)
    return bundle.header, dict(bundle.arrays)


def test_the_program_is_one_that_python_38_reads():
    ast.parse(pathlib.Path(known_answers.__file__).read_text(encoding="utf-8"), feature_version=(3, 8))


class _Drifting:
    """A session whose outputs are off by a little, or are others altogether."""

    def __init__(self, session, change):
        self._session, self._change = session, change

    def run(self, names, feeds):
        return [self._change(value) for value in self._session.run(names, feeds)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda value: value, None),
        (lambda value: value + np.float32(0.9) * EDGE, None),
        (lambda value: value + np.float32(1.1) * EDGE, "differs by up to"),
        (lambda value: value * np.float32(np.nan), "differs by up to nan"),
        (lambda value: value[:, :-1], r"is float32 \[1, 9\], not float32 \[1, 10\]"),
        (lambda value: value.astype(np.float64), "is float64"),
    ],
    ids=["same", "within", "beyond", "nan", "shape", "type"],
)
def test_answers_are_held_to_the_tolerance(made, digits_int8, change, told):
    bundle = Bundle(made[0])
    bundle.header["outputs"][0]["tolerance"] = float(EDGE)
    session = create(digits_int8.read_bytes(), Deployment(batch=1))
    found = list(differences(bundle, _Drifting(session, change)))
    assert len(found) == (0 if told is None else 4)
    if told is not None:
        assert re.search(told, found[0])


EDGE = np.float32(0.25)


def test_the_archive_is_deterministic_and_holds_the_program():
    one = packed({"schema": 1}, {"run0.0.in0": np.arange(3)})
    assert one == packed({"schema": 1}, {"run0.0.in0": np.arange(3)})
    with zipfile.ZipFile(io.BytesIO(one)) as archive:
        assert archive.namelist() == ["__main__.py", "known_answers.py", "bundle.json", "run0.0.in0.npy"]


class TestRefused:
    def test_faults_judged_on_some_images(self, digits_int8, digits, tmp_path):
        options = CampaignOptions(**{**ASKED, "samples": 20, "images_per_fault": 20})
        Campaign(DeployedModel.load(digits_int8), digits, options).run(tmp_path / "run")
        with pytest.raises(OptionError, match="run it with --images-per-fault all"):
            rd.selftest(digits_int8, digits, campaign=tmp_path / "run", out=tmp_path / "b.npz")

    def test_random_bit_errors(self, digits_int8, digits, tmp_path):
        options = CampaignOptions(images=20, workers=1, audit=0.0, faults=FaultModel.BER, ber=(1e-4,), chips=2)
        Campaign(DeployedModel.load(digits_int8), digits, options).run(tmp_path / "run")
        with pytest.raises(OptionError, match="rates are never pooled"):
            usable_run(tmp_path / "run", DeployedModel.load(digits_int8))

    def test_a_campaign_of_an_earlier_version(self, run, digits_int8, tmp_path):
        shutil.copytree(run[0], tmp_path / "run")
        with sqlite3.connect(tmp_path / "run" / "campaign.sqlite") as database:
            database.execute("ALTER TABLE faults DROP COLUMN gaps")
            database.execute("PRAGMA user_version = 5")
        database.close()
        with pytest.raises(OptionError, match="an earlier version ran that campaign"):
            usable_run(tmp_path / "run", DeployedModel.load(digits_int8))

    def test_a_bundle_is_an_archive_and_lies_in_a_folder_that_is_there(self, run, digits_int8, tmp_path):
        for out in (digits_int8, tmp_path / "none" / "b.npz"):
            with pytest.raises(OptionError, match=r"must end in \.npz|there is no folder"):
                rd.selftest(digits_int8, "digits", campaign=run[0], out=out)

    @pytest.mark.parametrize(
        ("values", "told"),
        [
            ({"images": 0}, "--images 0"),
            ({"held_out": 1.0}, "--held-out 1"),
            ({"held_out": 0.0}, "--held-out 0"),
            ({"tolerance": 0.0}, "--tolerance 0"),
            ({"tolerance": np.inf}, "--tolerance inf"),
            ({"harm_above": 1.0}, "--harm-above 1"),
            ({"confidence": 1.0}, "--confidence 1"),
        ],
        ids=str,
    )
    def test_numbers_that_make_no_sense(self, values, told):
        with pytest.raises(OptionError, match=told):
            SelfTestOptions(**values)


def _kind(kinds, task_files, models, name, folder):
    """A file of some task, and samples for it."""
    rng = np.random.default_rng(0)
    path = folder / "file.onnx"
    extra = {}
    if name == "states":
        proto = kinds.five_states()
        arrays = {"x": rng.normal(size=(12, 3, 6)).astype(np.float32)}
        extra = {"state": {f"{state}_out": state for state in kinds.STATES}}
        extra["feed"] = {state: np.zeros((1, 6), np.float32) for state in kinds.STATES}
    elif name == "words":
        proto = task_files.words()
        arrays = {"words": rng.integers(0, 20, 12), "more": rng.normal(size=(12, 4)).astype(np.float32)}
    elif name == "boxes":
        proto = task_files.detector()
        arrays = {"images": rng.random((12, 1, 16, 16)).astype(np.float32)}
    else:
        proto = models.fixed_batch()
        arrays = {"x": models.images(12)}
    onnx.save(proto, path)
    np.savez(folder / "samples.npz", **arrays)
    return path, folder / "samples.npz", extra


@pytest.mark.parametrize("name", ["states", "words", "boxes", "fixed_batch"])
def test_files_of_other_tasks(kinds, task_files, models, name, tmp_path):
    """Sequences, several inputs and outputs, a detector, fixed batches: the same campaign, bundle and check."""
    path, samples, extra = _kind(kinds, task_files, models, name, tmp_path)
    asked = {"images": 12, "samples": 110, "workers": 1, "audit": 0.0}
    asked["bits"] = (5, 6, 7) if name == "states" else range(23, 31)
    run = rd.faultcamp(path, samples, out=tmp_path / "run", **asked, **extra)
    said = rd.selftest(path, samples, campaign=run.path, out=tmp_path / "b.npz", images=3, **extra)
    assert said["coverage"]["n"] > 1
    assert rd.check_selftest(tmp_path / "b.npz", path).passed
    model = DeployedModel.load(path)
    patcher = model.patcher()
    evidence = Evidence.read(Finished.read(run.path), model, _loaded(samples, extra, path))
    gap = least(evidence.codes[:, said["chosen"]]).max(axis=1)
    shown = np.flatnonzero(np.isfinite(gap) & (gap >= 2 * said["tolerance"]))[:5]
    assert len(shown) == 5
    for number in shown:
        (tmp_path / "f.onnx").write_bytes(patcher.apply(patcher.masks(evidence.plan.fault(int(number)))))
        assert not rd.check_selftest(tmp_path / "b.npz", tmp_path / "f.onnx").passed


def _loaded(samples, extra, path):
    inputs = [port.name for port in onnx.load(path).graph.input]
    found = load_samples(str(samples), None, inputs)
    states = {taken: given for given, taken in extra.get("state", {}).items()}
    return dataclasses.replace(found, once=extra.get("feed", {}), states=states)
