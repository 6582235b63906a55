import csv
import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.run import Campaign, crowded
from resq_deploy.campaign.store import FILE, Store
from resq_deploy.data import load_dataset, to_model_input
from resq_deploy.deployed.arithmetic import Arithmetic
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.errors import InjectionError, RunFolderError
from resq_deploy.faults.outcomes import COUNTS

IMAGES = 60


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture
def campaign(digits_int8, digits, tmp_path):
    """Run a campaign on the digits file; return its summary and its table of faults."""

    def run(name="run", *, resume=False, report=lambda _: None, model=digits_int8, **values):
        options = CampaignOptions(**{"images": IMAGES, **values})
        prepared = Campaign(DeployedModel.load(model), digits, options)
        summary = prepared.run(tmp_path / name, resume=resume, report=report)
        with (tmp_path / name / "faults.csv").open(encoding="utf-8", newline="") as stream:
            return summary, list(csv.DictReader(stream))

    return run


def outputs(model, images):
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact sums on any CPU, onnxruntime's own way
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": images})[0]


def test_every_row_is_what_flipping_that_bit_in_the_file_does(campaign, digits_int8, digits):
    summary, rows = campaign(samples=40)
    test = digits.evaluation(IMAGES)
    images = to_model_input(test.images)
    golden = outputs(onnx.load(digits_int8), images)
    assert summary["golden"]["accuracy"]["value"] == np.mean(golden.argmax(1) == test.labels) > 0.8
    for row in rows:
        model = onnx.load(digits_int8)
        tensor = next(t for t in model.graph.initializer if t.name == row["tensor"])
        values = numpy_helper.to_array(tensor).copy()
        patterns = values.reshape(-1).view(f"u{values.dtype.itemsize}")
        patterns[int(row["index"])] ^= patterns.dtype.type(1) << patterns.dtype.type(int(row["bit"]))
        tensor.CopyFrom(numpy_helper.from_array(patterns.view(values.dtype).reshape(values.shape), tensor.name))
        faulty = outputs(model, images)
        assert int(row["masked"]) == (faulty.view(np.uint32) == golden.view(np.uint32)).all(axis=1).sum()
        assert float(row["accuracy"]) == pytest.approx(np.mean(faulty.argmax(1) == test.labels), abs=1e-6)
        if np.isfinite(faulty).all():
            assert int(row["sdc1"]) == (faulty.argmax(1) != golden.argmax(1)).sum()


def test_rates_are_means_over_faults_and_groups_add_up(campaign):
    summary, rows = campaign(samples=60)
    judged = [row for row in rows if row["outcome"] != "due"]
    for name in COUNTS:
        assert summary["rates"][name]["value"] == pytest.approx(np.mean([int(row[name]) / IMAGES for row in judged]))
        assert summary["rates"][name]["n"] == len(judged)
    for key in ("by_role", "by_layer", "by_bit"):
        assert sum(figures["sdc1"]["n"] for figures in summary[key].values()) == len(judged)
    assert summary["faults"]["evaluated"] == 60
    assert summary["population"]["faults"] == summary["population"]["bits"]
    assert summary["population"]["left_out"] == []


def test_figures_do_not_depend_on_the_number_of_workers(campaign):
    one, rows_one = campaign("one", samples=30, workers=1)
    four, rows_four = campaign("four", samples=30, workers=4)
    assert rows_one == rows_four
    assert {**one, "throughput": 0} == {**four, "throughput": 0}


def test_figures_do_not_depend_on_the_batch_size(campaign):
    _, rows = campaign("hundred", samples=30)
    _, small = campaign("seven", samples=30, deployment=Deployment(batch=7))
    assert small == rows


def test_bit_error_rates_wear_the_accuracy_down(campaign):
    summary, rows = campaign(faults=FaultModel.BER, ber=(1e-5, 5e-2), chips=4)
    low, high = summary["curve"]
    assert low["accuracy"]["value"] > high["accuracy"]["value"] + 0.2
    assert high["worst"] <= high["accuracy"]["value"]
    assert low["chips"] == high["chips"] == 4
    spread = high["spread"]["accuracy"]
    assert spread["least"] == high["worst"]
    assert spread["least"] <= spread["quarter"] <= spread["three_quarters"]
    # Four chips bound further ones by no less than 1 - 0.025^(1/4) = 60 points, however alike they are.
    assert all(point["accuracy"]["high"] - point["accuracy"]["low"] > 0.6 for point in (low, high))
    assert len({row["mask"] for row in rows}) == len({row["mask"] for row in rows if int(row["flips"])}) + any(
        row["flips"] == "0" for row in rows
    )


def test_an_interrupted_campaign_ends_with_the_figures_of_one_that_was_not(campaign, tmp_path):
    whole, rows = campaign("whole", samples=30)

    def stop_after_ten(progress):
        if progress.done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        campaign("broken", samples=30, workers=1, report=stop_after_ten)
    assert json.loads((tmp_path / "broken" / "manifest.json").read_text())["status"] == "interrupted"
    with Store(tmp_path / "broken" / FILE) as store:
        assert 10 <= len(store.numbers()) < 30
    resumed, rows_resumed = campaign("broken", samples=30, resume=True)
    assert rows_resumed == rows
    assert {**resumed, "throughput": 0} == {**whole, "throughput": 0}


@pytest.mark.parametrize(
    ("changed", "named"), [({"seed": 5}, "seed"), ({"samples": 31}, "samples"), ({"images": 50}, "images")]
)
def test_resuming_another_campaign_is_refused_by_name(campaign, changed, named):
    campaign(samples=5)
    with pytest.raises(RunFolderError, match=f"{named} was"):
        campaign(resume=True, **{"samples": 5, **changed})


def test_resuming_with_another_model_is_refused(campaign, digits_int8, tmp_path):
    campaign(samples=5)
    model = onnx.load(digits_int8)
    model.producer_version = "other"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(RunFolderError, match="model was"):
        campaign(samples=5, resume=True, model=tmp_path / "other.onnx")


def test_a_finished_campaign_resumes_to_itself(campaign):
    before, rows = campaign(samples=8)
    after, rows_after = campaign(samples=8, resume=True)
    assert rows_after == rows
    assert after["rates"] == before["rates"]
    assert after["throughput"]["faults_per_s"] == 0.0


def test_an_injection_that_misses_fails_loudly(campaign, monkeypatch):
    patcher = DeployedModel.patcher

    def lame(model):
        made = patcher(model)
        monkeypatch.setattr(made, "apply", lambda _: made.golden)
        return made

    monkeypatch.setattr(DeployedModel, "patcher", lame)
    with pytest.raises(InjectionError, match="did not change exactly the bits"):
        campaign(samples=3)


def test_a_damaged_store_is_one_clear_error(campaign, tmp_path):
    campaign(samples=3)
    (tmp_path / "run" / FILE).write_bytes(b"no database" * 100)
    with pytest.raises(RunFolderError, match="cannot be used as a campaign store"):
        campaign(samples=3, resume=True)


def test_the_summary_lists_what_the_file_stores_and_no_fault_is_tried_in(campaign, digits_int8, tmp_path):
    model = onnx.load(digits_int8)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "idle"))
    onnx.save(model, tmp_path / "idle.onnx")
    summary, _ = campaign(samples=5, model=tmp_path / "idle.onnx")
    assert summary["population"]["left_out"] == [{"tensor": "idle", "bits": 96, "reason": "read by no node"}]


def test_the_table_of_a_file_with_line_ends_in_names_is_run_again_as_a_fault_list(campaign, digits_int8, tmp_path):
    model = onnx.load(digits_int8)
    names = {tensor.name: f"block 3\n*\r{tensor.name}" for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        node.name = f"layer\n{node.name}"
        node.input[:] = [names.get(value, value) for value in node.input]
    onnx.save(model, tmp_path / "odd.onnx")
    first, rows = campaign("first", samples=20, model=tmp_path / "odd.onnx")
    again, repeated = campaign(
        "again", faults=FaultModel.LIST, fault_list=tmp_path / "first" / "faults.csv", model=tmp_path / "odd.onnx"
    )

    assert again["faults"]["evaluated"] == first["faults"]["evaluated"] == 20
    kept = ("tensor", "index", "bit", "outcome", "masked", "sdc1")
    assert [[row[key] for key in kept] for row in repeated] == [[row[key] for key in kept] for row in rows]


def test_a_campaign_is_not_finished_in_another_arithmetic(campaign, monkeypatch):
    exact, native = Deployment(), Deployment(arithmetic=Arithmetic.NATIVE)
    summary, _ = campaign(samples=20, deployment=exact)
    assert summary["arithmetic"] == {"name": "exact", "cpu_saturates": exact.saturates}
    with pytest.raises(RunFolderError, match=r"cannot resume .*: deployment was .*exact.* and is now .*native"):
        campaign(samples=20, deployment=native, resume=True)
    summary, _ = campaign("native", samples=20, deployment=native)
    assert summary["arithmetic"]["name"] == "native"
    other = not native.saturates
    monkeypatch.setattr(Deployment, "saturates", property(lambda _: other))
    with pytest.raises(RunFolderError, match=r"cannot resume .*cpu_saturates"):
        campaign("native", samples=20, deployment=native, resume=True)
    campaign(samples=20, deployment=exact, resume=True)  # exact figures are those of any CPU


def test_samples_that_leave_replay_little_memory_are_told(digits_int8, digits):
    golden = Campaign(DeployedModel.load(digits_int8), digits, CampaignOptions(samples=1, images=IMAGES)).golden
    held = IMAGES * 4 * (3 * 32 * 32 + 10)  # what the network takes and ten scores, float32
    assert crowded(golden, 2 * held) is None
    assert f"{IMAGES} samples and their golden outputs take {held / 1e9:.3g} GB" in crowded(golden, 2 * held - 2)
