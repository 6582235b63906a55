"""Going on with a finished campaign: its faults kept, its folder untouched, resumable, and refused where it differs."""

import csv
import hashlib

import pytest

from resq_deploy.campaign.options import CampaignOptions, FaultModel, Refinement
from resq_deploy.campaign.refine import Base
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.errors import OptionError, RunFolderError

ASKED = {"images": 40, "workers": 1, "audit": 0.0, "margin": 0.15}


def rows(folder):
    with (folder / "faults.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def base(digits_int8, digits, tmp_path_factory):
    """A campaign that is done."""
    out = tmp_path_factory.mktemp("base") / "run"
    Campaign(DeployedModel.load(digits_int8), digits, CampaignOptions(**ASKED)).run(out)
    return out


@pytest.fixture
def refine(digits_int8, digits, base, tmp_path):
    """Go on with a campaign, and return the summary and the folder."""

    def run(name="finer", *, of=base, resume=False, report=lambda _: None, **step):
        found = Base.read(of)
        asked = {**ASKED, "margin": None, **step}
        options = found.refined(CampaignOptions(**asked))
        campaign = Campaign(DeployedModel.load(digits_int8), digits, options, base=found)
        return campaign.run(tmp_path / name, resume=resume, report=report), tmp_path / name

    return run


def widths(summary):
    return {
        (key, name): max(rates["sdc1"]["high"] - rates["sdc1"]["value"], rates["sdc1"]["value"] - rates["sdc1"]["low"])
        for key in ("role", "layer")
        for name, rates in summary[f"by_{key}"].items()
        if rates["sdc1"]
    }


def test_faults_are_kept_and_as_many_added_as_asked_for(base, refine):
    before = digests(base)
    summary, folder = refine(samples=60)
    assert digests(base) == before
    first = rows(base)
    assert rows(folder)[: len(first)] == first
    assert summary["refined"] == {"kept": len(first) - 1, "added": 60}
    assert len(rows(folder)) == len(first) + 60
    assert len({tuple(row[2:7]) for row in rows(folder)}) == len(rows(folder))  # no fault twice
    assert summary["audit"]["mismatches"] == 0


def test_a_margin_is_reached_in_every_role(base, refine, digits_int8):
    finished = Base.read(base)
    summary, _ = refine(margin=0.3)
    assert max(width for (key, _), width in widths(summary).items() if key == "role") <= 0.3
    again = Base.read(base)
    assert len(again.records) == len(finished.records) == summary["refined"]["kept"]


def test_faults_go_where_intervals_are_wide(base, refine):
    summary, folder = refine(samples=60)
    kept = summary["refined"]["kept"]
    new = [row[3] for row in rows(folder)[1 + kept :]]
    old = [row[3] for row in rows(folder)[1 : 1 + kept]]
    assert new.count("weight") / len(new) < 0.5 * old.count("weight") / len(old)  # most bits, and known best


def test_a_killed_refinement_resumes_to_the_same_figures(refine):
    whole, folder = refine("whole", samples=40)

    def stop(progress):
        assert progress.done < len(rows(folder)) - 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refine("broken", samples=40, report=stop)
    resumed, again = refine("broken", samples=40, resume=True)
    assert rows(again) == rows(folder)
    assert {**resumed, "throughput": 0} == {**whole, "throughput": 0}


def test_a_refined_campaign_is_refined_again(refine):
    _, once = refine("once", samples=20)
    summary, twice = refine("twice", of=once, samples=15)
    assert summary["refined"] == {"kept": len(rows(once)) - 1, "added": 15}
    assert rows(twice)[: len(rows(once))] == rows(once)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"samples": 5, "seed": 1}, "seed was 0 there and is 1 here: a campaign goes on as it began"),
        ({"samples": 5, "images": 50}, "images was 40 there and is 50 here"),
        ({"samples": 5, "images_per_fault": "all"}, 'images-per-fault was not given there and is "all" here'),
        ({"samples": 5, "confidence": 0.9}, "confidence was 0.95 there and is 0.9 here"),
        ({}, "--refine takes --margin, wanted of every role and layer, or --samples"),
    ],
    ids=["seed", "images", "images a fault", "confidence", "nothing asked for"],
)
def test_what_must_not_differ_is_named(refine, step, message):
    with pytest.raises(OptionError, match=message):
        refine(**step)


def test_another_file_is_refused(base, digits, digits_int8, tmp_path):
    other = tmp_path / "other.onnx"
    other.write_bytes(digits_int8.read_bytes() + b"\x72\x00")  # an empty doc_string more
    found = Base.read(base)
    options = found.refined(CampaignOptions(**{**ASKED, "margin": None, "samples": 5}))
    with pytest.raises(OptionError, match="it was run on another file"):
        Campaign(DeployedModel.load(other), digits, options, base=found)


def test_faults_of_another_plan_are_refused(base, refine, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in base.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    text = (copy / "faults.csv").read_text().splitlines()
    (copy / "faults.csv").write_text("\n".join([text[0], *text[2:], text[1]]) + "\n")
    with pytest.raises(RunFolderError, match="not those that this version of resq-deploy draws"):
        refine(of=copy, samples=5)


def test_only_finished_campaigns_in_strata_are_refined(digits_int8, digits, refine, tmp_path):
    model = DeployedModel.load(digits_int8)
    even = {**ASKED, "margin": None, "samples": 5}
    Campaign(model, digits, CampaignOptions(**even)).run(tmp_path / "even")
    with pytest.raises(OptionError, match="not drawn in strata"):
        refine(of=tmp_path / "even", samples=5)

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Campaign(model, digits, CampaignOptions(**even)).run(tmp_path / "half", report=stop)
    with pytest.raises(RunFolderError, match="done, and not of faultcamp, interrupted"):
        refine(of=tmp_path / "half", samples=5)
    with pytest.raises(OptionError, match="drawn in strata"):
        CampaignOptions(faults=FaultModel.BER, refines=(Refinement(samples=3),))


@pytest.mark.parametrize("step", [{"margin": 0.0}, {"samples": 0}, {"margin": 0.1, "samples": 3}, {}])
def test_a_refinement_asks_for_one_thing(step):
    with pytest.raises(OptionError):
        Refinement(**step)


def test_campaigns_that_are_not_refined_are_recorded_as_before():
    assert "refines" not in CampaignOptions().identity()
    steps = CampaignOptions(refines=(Refinement(samples=3),)).identity()["refines"]
    assert [dict(step) for step in steps] == [{"margin": None, "samples": 3}]


def test_the_command_says_what_was_kept(resq, base, digits_int8, tmp_path):
    common = ("--dataset", "digits", "--images", 40, "--workers", 1, "--audit", 0, "--refine", base)
    code, said, _ = resq("faultcamp", digits_int8, *common, "--samples", 20, "--out", tmp_path / "finer")
    assert code == 0
    assert f"{len(rows(base)) - 1:,} faults were kept, and 20 added; the widest interval is now that of" in said
    code, _, error = resq("faultcamp", digits_int8, *common, "--out", tmp_path / "none")
    assert code == 2
    assert "--refine takes --margin" in error
    code, _, error = resq("faultcamp", digits_int8, *common[:-1], tmp_path, "--samples", 20, "--out", tmp_path / "none")
    assert (code, (tmp_path / "none").exists()) == (2, False)
