"""Exposure against a truth that was enumerated: every fault of some bits of a small int8 file."""

import csv
import dataclasses

import numpy as np
import pytest

from resq_deploy.campaign.exposure import KINDS, exposure
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.plan import make_plan
from resq_deploy.campaign.run import Campaign
from resq_deploy.campaign.store import FILE, Store
from resq_deploy.campaign.summary import Figures
from resq_deploy.data import load_dataset
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.surfaces import Role
from resq_deploy.faults.outcomes import Outcome

IMAGES = 30
RATE = 200.0
SMALL = {
    "roles": tuple(role for role in Role if role is not Role.WEIGHT),
    "bits": (2, 7, 23, 30),
    "images": IMAGES,
    "fit_per_mbit": RATE,
}
REPLICATIONS = 60


@dataclasses.dataclass(frozen=True)
class Truth:
    """What every fault of the population does, by its number there."""

    surfaces: list
    rows: list
    records: dict
    exposure: dict

    def of(self, **values):
        """Return the exposure that a campaign finds which draws from this population, and its plan."""
        plan = make_plan(self.surfaces, CampaignOptions(**SMALL, **values))
        while (more := plan.continued(np.array([self.rate(place) for place in plan.positions]))) is not None:
            plan = more
        records = [
            dataclasses.replace(self.records[int(place)], number=number) for number, place in enumerate(plan.positions)
        ]
        return exposure(Figures(plan, records, 0.95)), plan

    def rate(self, place):
        record = self.records[int(place)]
        return record.counts["sdc1"] / record.images if record.images else 0.0


@pytest.fixture(scope="module")
def truth(digits_int8, tmp_path_factory):
    model, out = DeployedModel.load(digits_int8), tmp_path_factory.mktemp("truth") / "run"
    campaign = Campaign(model, load_dataset("digits"), CampaignOptions(**SMALL, exhaustive=True))
    found = campaign.run(out)["exposure"]
    with (out / "faults.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    with Store(out / FILE) as store:
        records = dict(zip(campaign.plan.positions.tolist(), store.records(), strict=True))
    return Truth(model.surfaces, rows, records, found)


def harm(row):
    """Return what a row of the table of faults does, by kind of failure."""
    rate = int(row["sdc1"]) / IMAGES if row["outcome"] != "due" else 0.0
    return dict(zip(KINDS, (rate, rate > 0, rate > 0.01, row["outcome"] == "due"), strict=True))


def test_an_exhaustive_campaign_has_the_sums_of_its_table(truth):
    found, rows = truth.exposure, truth.rows
    assert found["complete"]
    assert found["bits"] == len(rows)
    for kind in KINDS:
        count = sum(harm(row)[kind] for row in rows)
        total = found[kind]["total"]
        assert total["low"] == pytest.approx(total["value"]) == pytest.approx(total["high"])
        assert total["value"] * len(rows) == pytest.approx(count)
        assert found["fit"][kind]["total"]["value"] == pytest.approx(count * RATE / 1e6)
        for at in found["at"]:
            assert at[kind]["total"]["value"] == pytest.approx(min(1.0, count * at["ber"]))
        for key in ("role", "layer"):
            for name, part in found["fit"][kind][f"by_{key}"].items():
                own = sum(harm(row)[kind] for row in rows if row[key] == name)
                assert part["value"] == pytest.approx(own * RATE / 1e6)
    assert 0.0 < found["wrong_answers"]["total"]["value"] < 0.7 * found["failing_faults"]["total"]["value"]


@pytest.mark.parametrize("values", [{"samples": 25}, {"samples": 120}, {"margin": 0.04}], ids=["25", "120", "strata"])
def test_totals_are_the_sum_of_their_parts(truth, values):
    for seed in range(5):
        found, plan = truth.of(seed=seed, **values)
        assert (plan.sample is not None) == ("margin" in values)
        for kind in KINDS:
            for figures in (found[kind], found["fit"][kind]):
                for key in ("by_role", "by_layer"):
                    parts = [part["value"] for part in figures[key].values()]
                    assert figures["total"]["value"] == pytest.approx(sum(parts), rel=1e-12)
                    assert figures[key].keys() == truth.exposure[kind][key].keys()
                for part in (figures["total"], *figures["by_role"].values(), *figures["by_layer"].values()):
                    assert part["low"] <= part["value"] <= part["high"]


def test_a_role_no_fault_fell_on_leaves_everything_open(truth):
    found, _ = next(one for seed in range(50) if not (one := truth.of(samples=12, seed=seed))[0]["complete"])
    unseen = [role for role, figures in found["roles"].items() if figures["wrong_answers"] is None]
    for kind in KINDS:
        for role in unseen:
            part = found[kind]["by_role"][role]
            assert (part["low"], part["n"]) == (0.0, 0)
            assert part["high"] == pytest.approx(found["roles"][role]["share_of_bits"])
            assert found["roles"][role]["share_of_risk"] is None


def test_samples_find_the_truth(truth):
    samples = [truth.of(samples=100, seed=seed)[0] for seed in range(REPLICATIONS)]
    for kind in ("wrong_answers", "failing_faults"):
        wanted = truth.exposure[kind]["total"]["value"]
        totals = [found[kind]["total"] for found in samples]
        values = np.array([total["value"] for total in totals])
        assert abs(values.mean() - wanted) < 4 * values.std(ddof=1) / np.sqrt(REPLICATIONS)
        assert np.mean([total["low"] <= wanted <= total["high"] for total in totals]) >= 0.92
    for role, part in truth.exposure["failing_faults"]["by_role"].items():
        found = [sample["failing_faults"]["by_role"][role] for sample in samples]
        assert np.mean([one["low"] <= part["value"] <= one["high"] for one in found]) >= 0.92


def due(record):
    """What it would be, had it left the file unusable."""
    counts, unusable = dict.fromkeys(record.counts, 0), {"outcome": Outcome.DUE, "images": 0, "quality": 0.0}
    return dataclasses.replace(record, counts=counts, logits="", right=b"", **unusable)


def test_due_faults_are_counted_and_not_conditioned_away(truth):
    plan = make_plan(truth.surfaces, CampaignOptions(**SMALL, exhaustive=True))
    records = [dataclasses.replace(truth.records[int(place)], number=n) for n, place in enumerate(plan.positions)]
    lost = [n for n, record in enumerate(records) if record.outcome is Outcome.SDC1][::2]
    for number in lost:
        records[number] = due(records[number])
    found, before = exposure(Figures(plan, records, 0.95)), truth.exposure
    count = {kind: found["bits"] * found[kind]["total"]["value"] for kind in KINDS}
    assert count["due"] == pytest.approx(len(lost) + before["bits"] * before["due"]["total"]["value"])
    assert count["failing_faults"] == pytest.approx(
        before["bits"] * before["failing_faults"]["total"]["value"] - len(lost)
    )
    wrong = sum(record.counts["sdc1"] / IMAGES for record in records)
    assert count["wrong_answers"] == pytest.approx(wrong)


def test_where_every_fault_is_due_nothing_else_is_counted(truth):
    plan = make_plan(truth.surfaces, CampaignOptions(**SMALL, samples=12))
    records = [dataclasses.replace(due(truth.records[0]), number=number) for number in range(len(plan))]
    found = exposure(Figures(plan, records, 0.95))
    assert found["due"]["total"]["value"] == pytest.approx(1.0)  # roles no fault fell on count as the others
    assert found["fit"]["due"]["total"]["value"] == pytest.approx(found["bits"] / 1e6 * RATE)
    for kind in KINDS[:3]:
        assert found[kind]["total"]["value"] == 0.0
        assert found[kind]["total"]["n"] == 12
