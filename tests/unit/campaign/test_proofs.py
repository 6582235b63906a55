"""The canary and the audit: what they look at, and that a wrong engine does not get past them."""

import json

import numpy as np
import pytest

from resq_deploy.campaign.engines.channels import ChannelLayer
from resq_deploy.campaign.engines.rest import Outputs
from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.proofs import LEAST_AUDITED
from resq_deploy.campaign.record import Way
from resq_deploy.campaign.run import Campaign
from resq_deploy.campaign.store import FILE, Audited, Store
from resq_deploy.data import load_dataset
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.surfaces import Role
from resq_deploy.deployed.votes import Vote
from resq_deploy.errors import FailedError
from resq_deploy.protection.guards import guard

IMAGES = 40


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def guarded(digits_int8, tmp_path_factory):
    """The file with all it stores stored three times."""
    names = [surface.tensor for surface in DeployedModel.load(digits_int8).surfaces]
    path = tmp_path_factory.mktemp("guarded") / "guarded.onnx"
    path.write_bytes(guard(digits_int8.read_bytes(), names))
    return path


@pytest.fixture
def prepare(digits_int8, digits):
    def build(*, model=digits_int8, **values):
        return Campaign(DeployedModel.load(model), digits, CampaignOptions(**{"images": IMAGES, **values}))

    return build


def stored(folder):
    with Store(folder / FILE) as store:
        return list(store.records()), store.audited()


# The canary.


def test_a_canary_goes_by_every_way_that_faults_go(prepare, tmp_path):
    summary = prepare(samples=200).run(tmp_path / "run")
    ways = {record.way for record in stored(tmp_path / "run")[0] if record.outcome != "due"}
    assert summary["canary"].keys() >= ways == {Way.CHANNELS, Way.VALUES, Way.REBUILD, Way.GOLDEN}
    outcomes = {way: seen["outcome"] for way, seen in summary["canary"].items()}
    assert outcomes.pop("golden") == "masked"
    assert outcomes.pop("values") != "masked"  # single flips alone go that way: they are seen in the outputs
    assert set(outcomes.values()) <= {"sdc1", "due"}
    assert prepare(samples=5, engine="reload").run(tmp_path / "reload")["canary"].keys() == {"reload"}


@pytest.mark.parametrize("method", ["overlay", "touched"])
def test_a_canary_is_seen_by_nobody_where_channels_are_not_computed(prepare, tmp_path, monkeypatch, method):
    """Until now all elements of a tensor were hit: more channels than are ever computed by themselves."""
    campaign = prepare(samples=5, audit=0.0)
    lame = {"overlay": lambda *_: lambda *_: None, "touched": lambda *_: np.arange(1)}
    monkeypatch.setattr(ChannelLayer, method, lame[method])
    with pytest.raises(FailedError, match=r"canary: replay \(channels\) differs from reload-and-run"):
        campaign.run(tmp_path / "run")


def test_a_canary_is_seen_by_nobody_where_the_rest_is_not_run(prepare, tmp_path, monkeypatch):
    campaign = prepare(samples=5, audit=0.0, roles=(Role.ACTIVATION_SCALE,))
    monkeypatch.setattr(Outputs, "add", lambda *_: None)
    with pytest.raises(FailedError, match=r"canary: replay \(rebuild\) differs from reload-and-run"):
        campaign.run(tmp_path / "run")


def test_a_canary_in_every_copy_is_seen_and_one_in_a_single_copy_is_outvoted(prepare, guarded, tmp_path):
    summary = prepare(model=guarded, samples=20).run(tmp_path / "run")
    assert summary["canary"]["votes"]["outcome"] == "masked"
    assert summary["canary"]["channels"]["outcome"] == "sdc1"
    assert summary["rates"]["masked"]["value"] == 1.0
    assert summary["audit"]["mismatches"] == 0 < summary["audit"]["checked"]


def test_a_vote_that_hides_what_gets_past_it_is_caught_by_a_canary(prepare, guarded, tmp_path, monkeypatch):
    campaign = prepare(model=guarded, samples=5, audit=0.0)
    voting = campaign.testbed.engine._protection.voting
    monkeypatch.setattr(Vote, "outcome", lambda vote, _: voting.stored(vote.output))
    with pytest.raises(FailedError, match=r"canary: replay \(votes\) differs from reload-and-run"):
        campaign.run(tmp_path / "run")


@pytest.mark.parametrize("role", [Role.WEIGHT, Role.BIAS, Role.WEIGHT_SCALE])
def test_a_canary_gets_past_the_memorys_code(prepare, tmp_path, role):
    """Two flips in a word, as two biases have it of one each, are detected: due, and nothing was tried."""
    summary = prepare(samples=5, ecc="secded", roles=(role,)).run(tmp_path / "run")
    assert {seen["outcome"] for seen in summary["canary"].values()} == {"sdc1"}
    assert all(seen["flips"] > 0 for seen in summary["canary"].values())


def test_a_mask_over_many_tensors_has_a_canary_of_its_own(prepare, tmp_path):
    values = {"faults": FaultModel.BER, "ber": (1e-2,), "chips": 2, "roles": (Role.WEIGHT,)}
    assert prepare(**values).run(tmp_path / "run")["canary"]["rebuild"]["outcome"] == "sdc1"


@pytest.mark.parametrize(
    ("engine", "complaint"), [("reload", "faults do not arrive"), ("replay", "differs from reload-and-run")]
)
def test_a_blind_engine_is_caught(prepare, tmp_path, monkeypatch, engine, complaint):
    blind = prepare(samples=3, engine=engine)
    golden = blind.golden

    def masked(faults):
        return [golden.record(fault.number, golden.outputs, 1) for fault in faults]

    monkeypatch.setattr(blind.testbed.engine, "evaluate", masked)
    with pytest.raises(FailedError, match=complaint):
        blind.run(tmp_path / engine)


# The audit.


def test_an_audit_takes_twenty_and_visits_every_group(prepare, tmp_path):
    campaign = prepare(samples=150, seed=3)
    audit = campaign.run(tmp_path / "run")["audit"]
    records, audited = stored(tmp_path / "run")
    groups = {
        number: (record.way, campaign.plan.group(number, "role"), campaign.plan.group(number, "layer"))
        for number, record in enumerate(records)
        if record.way not in (Way.UNCHANGED, Way.RELOAD)
    }
    assert sum(one.evenly for one in audited) == LEAST_AUDITED == audit["evenly"]
    assert {groups[one.number] for one in audited} == set(groups.values())
    assert audit["groups"] == len(set(groups.values())) > 8
    assert audit["checked"] == len(audited) > LEAST_AUDITED
    assert audit["rules_out"] == pytest.approx(1 - 0.05 ** (1 / 20)) == pytest.approx(0.139108, abs=1e-6)


def test_a_share_above_twenty_is_taken_and_all_that_there_is_rules_out_everything(prepare, tmp_path):
    shared = prepare(samples=120, audit=0.5, confidence=0.9).run(tmp_path / "half")["audit"]
    replayed = sum(record.way not in (Way.UNCHANGED, Way.RELOAD) for record in stored(tmp_path / "half")[0])
    assert shared["evenly"] == -(-replayed // 2)
    assert shared["rules_out"] == pytest.approx(1 - 0.1 ** (1 / shared["evenly"]))
    few = prepare(samples=6).run(tmp_path / "few")["audit"]
    assert (few["checked"], few["rules_out"]) == (6, 0.0)
    nothing = prepare(samples=6, audit=0.0).run(tmp_path / "none")["audit"]
    assert nothing == {
        "checked": 0, "mismatches": 0, "first": None, "evenly": 0, "groups": 0, "rules_out": None,
    }  # fmt: skip


def test_faults_that_need_no_evaluation_are_not_audited(prepare, tmp_path):
    audit = prepare(samples=30, ecc="secded").run(tmp_path / "run")["audit"]
    assert audit["checked"] == 0
    assert audit["rules_out"] is None


def spoilt(folder, number):
    """Change a record, as a wrong engine would have written it."""
    with Store(folder / FILE) as store:
        store._database.execute("UPDATE faults SET right = x'00' WHERE number = ?", (number,))


def test_what_an_audit_found_cannot_be_washed_away(prepare, tmp_path):
    folder = tmp_path / "run"
    prepare(samples=6).run(folder)
    spoilt(folder, 2)
    for audit in (1.0, 0.0, None):
        with pytest.raises(FailedError, match=r"audit: 1 of 6 faults differ .* the first is fault 2") as failure:
            prepare(samples=6, audit=audit).run(folder, resume=True)
        assert failure.value.exit_status == 1
        assert json.loads((folder / "summary.json").read_text())["audit"]["mismatches"] == 1
        assert json.loads((folder / "manifest.json").read_text())["status"] == "failed"


def test_what_an_audit_found_is_kept_as_it_is_found(prepare, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    prepare(samples=6).run(folder)
    spoilt(folder, 2)
    with monkeypatch.context() as patch:
        patch.setattr("resq_deploy.campaign.run.audit_figures", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(samples=6, audit=1.0).run(folder, resume=True)
    with pytest.raises(FailedError, match="audit: 1 of 6"):
        prepare(samples=6, audit=0.0).run(folder, resume=True)


def test_a_fault_that_once_differed_stays_one(tmp_path):
    with Store(tmp_path / FILE) as store:
        for first in (True, False):
            store.add_audited([Audited(number=number, evenly=first, differs=first) for number in (1, 4)])
        store.add_audited([Audited(number=5, evenly=False, differs=False)])
        assert store.audited() == [
            Audited(number=1, evenly=True, differs=True),
            Audited(number=4, evenly=True, differs=True),
            Audited(number=5, evenly=False, differs=False),
        ]
