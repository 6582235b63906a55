import csv
import json
import math

import numpy as np
import pytest

from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import DataError, OptionError
from resq_deploy.pipeline.attack_options import AttackOptions
from resq_deploy.pipeline.bit_flip import BitFlipAttack
from resq_deploy.pipeline.bit_flip_options import BitFlipOptions

IMAGES = 200


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def attack(digits_int8, dataset):
    """Return a function that readies a bit-flip attack on the digits file of the tests."""
    model = DeployedModel.load(digits_int8)

    def make(data=dataset, **given):
        options = AttackOptions(attacks=("bit-flip",), images=IMAGES, bit_flip=BitFlipOptions(**given))
        return BitFlipAttack(model, data, options)

    return make


@pytest.fixture(scope="module")
def attacked(attack, tmp_path_factory):
    """Two attack batches of 64 images: summary and folder."""
    folder = tmp_path_factory.mktemp("attack")
    return attack(batches=2, batch_images=64, limit=40).run(folder, quiet), folder


def quiet(progress):
    assert 0 < progress.done <= progress.total


def rows(folder):
    with (folder / "bitflips.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_attack_ends_at_chance(attacked, dataset):
    summary, folder = attacked
    end = np.bincount(dataset.evaluation(IMAGES).labels).max() / IMAGES + 0.01
    assert summary["goal"]["chance"] + summary["goal"]["margin"] == pytest.approx(end)
    assert [batch["end"] for batch in summary["batches"]] == ["reached", "reached"]
    for number, batch in enumerate(summary["batches"]):
        assert batch["accuracy"]["value"] <= end
        assert batch["accuracy"]["n"] == IMAGES
        own = [row for row in rows(folder) if row["fault"] == str(number)]
        assert len(own) == batch["flips"]
        assert all(float(row["accuracy"]) > end for row in own if row["step"] != own[-1]["step"])
    flips = [batch["flips"] for batch in summary["batches"]]
    assert summary["flips"]["value"] == np.mean(flips)
    reach = 12.706 * np.std(flips, ddof=1) / math.sqrt(2)  # Student's quantile with one degree of freedom
    assert summary["flips"]["high"] == pytest.approx(np.mean(flips) + reach, rel=1e-4)
    assert summary["flips"]["low"] == pytest.approx(max(0, np.mean(flips) - reach), rel=1e-4)
    assert summary["golden"]["value"] > 0.8
    assert summary["max_loss_difference"] < 1e-2


def test_faultcamp_replays_the_list_to_the_image(attacked, digits_int8, dataset, tmp_path):
    summary, folder = attacked
    options = CampaignOptions(faults=FaultModel.LIST, fault_list=folder / "bitflips.csv", images=IMAGES)
    Campaign(DeployedModel.load(digits_int8), dataset, options).run(tmp_path / "run")
    with (tmp_path / "run" / "faults.csv").open(newline="") as stream:
        replayed = {row["fault"]: row["accuracy"] for row in csv.DictReader(stream)}
    last = {row["fault"]: row["accuracy"] for row in rows(folder)}
    assert replayed == last
    assert {float(value) for value in last.values()} == {
        round(batch["accuracy"]["value"], 6) for batch in summary["batches"]
    }


@pytest.mark.parametrize("killed_after", [1, 3])
def test_a_killed_attack_goes_on_to_the_same_end(attacked, attack, tmp_path, killed_after):
    _, folder = attacked
    told = []

    def kill(progress):
        told.append(progress)
        if len(told) == killed_after:
            raise KeyboardInterrupt

    options = {"batches": 2, "batch_images": 64, "limit": 40}
    with pytest.raises(KeyboardInterrupt):
        attack(**options).run(tmp_path, kill)
    kept = json.loads((tmp_path / "bitflips.json").read_text())["batches"][0]["steps"]
    attack(**options).run(tmp_path, quiet)
    assert (tmp_path / "bitflips.csv").read_text() == (folder / "bitflips.csv").read_text()
    assert json.loads((tmp_path / "bitflips.json").read_text())["batches"][0]["steps"][: len(kept)] == kept


def test_an_attack_that_is_given_up_is_censored_and_says_so(attack, tmp_path):
    summary = attack(batches=2, batch_images=32, limit=1).run(tmp_path, quiet)
    assert [batch["end"] for batch in summary["batches"]] == ["limit", "limit"]
    assert summary["flips"]["censored"] == 2
    assert summary["flips"]["value"] == 1.0
    assert summary["flips"]["high"] is None
    assert all(batch["accuracy"]["value"] > 0.2 for batch in summary["batches"])


def test_the_published_loss_can_be_had(attack, tmp_path):
    summary = attack(batches=1, batch_images=64, limit=3, loss="cross-entropy").run(tmp_path, quiet)
    steps = json.loads((tmp_path / "bitflips.json").read_text())["batches"][0]["steps"]
    assert summary["loss"] == "cross-entropy"
    assert [step["loss"] for step in steps] == sorted(step["loss"] for step in steps)


def test_one_class_can_be_wanted(attack, tmp_path):
    summary = attack(batches=1, batch_images=64, limit=40, target="7").run(tmp_path, quiet)
    (batch,) = summary["batches"]
    assert batch["end"] == "reached"
    assert batch["on_target"]["value"] >= 0.99
    assert summary["goal"]["target"] == "7"
    assert summary["flips"]["high"] is None  # one batch has no spread


def test_biases_scales_and_zero_points_can_be_attacked(attack, tmp_path):
    summary = attack(batches=1, batch_images=32, limit=3, roles=()).run(tmp_path, quiet)
    assert summary["attacked"]["roles"] == "all"
    assert summary["batches"][0]["accuracy"]["value"] < summary["golden"]["value"]


@pytest.mark.parametrize("target", ["seven", "10", "-1"])
def test_an_unknown_class_is_one_line(attack, target):
    with pytest.raises(OptionError, match=r"--bit-flip-target .*: digits has no such class; give a name, such as 0, 1"):
        attack(target=target)


def test_too_few_images_are_one_line(attack, tmp_path, dataset):
    test = dataset.evaluation(12)
    np.savez(tmp_path / "few.npz", images=test.images, labels=test.labels, classes=np.array(dataset.classes))
    with pytest.raises(DataError, match="2 images to attack with, fewer than the 5 batches"):
        attack(data=load_dataset(str(tmp_path / "few.npz")))


@pytest.mark.parametrize("given", [{"batches": 0}, {"limit": 0}])
def test_no_batches_or_flips_make_no_attack(given):
    with pytest.raises(OptionError, match=f"--bit-flip-{next(iter(given))} 0: give a whole number from 1 up"):
        BitFlipOptions(**given)


def test_the_options_are_part_of_what_is_resumed():
    options = AttackOptions(attacks=("bit-flip",), bit_flip=BitFlipOptions(roles=(Role.BIAS,)))
    assert json.loads(json.dumps(options.identity()))["bit_flip"] == {
        **BitFlipOptions().identity(),
        "roles": ["bias"],
    }


def test_a_template_of_flippable_bits_is_kept_to_and_known_by_what_is_in_it(attack, attacked, tmp_path):
    listed = tmp_path / "flippable.csv"
    bits = [(row["tensor"], row["index"], row["bit"]) for row in rows(attacked[1])]
    listed.write_text("tensor,index,bit\n" + "".join(f"{','.join(bit)}\n" for bit in sorted(set(bits))))
    summary = attack(batches=1, batch_images=64, limit=5, flippable=listed).run(tmp_path / "run", quiet)
    assert {(row["tensor"], row["index"], row["bit"]) for row in rows(tmp_path / "run")} <= set(bits)
    assert summary["attacked"]["bits"] == len(set(bits))
    one = BitFlipOptions(flippable=listed).identity()
    (tmp_path / "again.csv").write_bytes(listed.read_bytes())
    assert BitFlipOptions(flippable=tmp_path / "again.csv").identity() == one
    assert "flippable" not in BitFlipOptions().identity()
    with pytest.raises(OptionError, match=r"--flippable .*nowhere.csv: there is no such file"):
        BitFlipOptions(flippable=tmp_path / "nowhere.csv")
