"""tools/check_criticality.py on a campaign that was really run, and on tables whose correlation is known."""

import json
import pathlib

import check_criticality
import pytest

from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import InputError
from resq_deploy.records import write_json

MODEL = pathlib.Path(__file__).parents[2] / "models" / "resnet8-digits-baseline.int8.onnx"


def ranking(figures):
    return [{"layer": name, "gradient": -value, "scaled": value} for name, value in figures.items()]


@pytest.fixture(scope="module")
def campaigns(tmp_path_factory):
    """Campaigns on a reference file: evenly drawn over all roles, in strata of weights, and of all roles."""
    place = tmp_path_factory.mktemp("campaigns")
    digits = load_dataset("digits")
    for name, options in {
        "even": CampaignOptions(images=20, samples=150, bits=(5, 6, 7)),  # bits that do change answers
        "strata": CampaignOptions(images=20, margin=0.2, roles=(Role.WEIGHT,)),
        "mixed": CampaignOptions(images=20, margin=0.2),
    }.items():
        Campaign(DeployedModel.load(MODEL), digits, options).run(place / name)
    return place


@pytest.fixture
def train(campaigns, tmp_path):
    """A ranking that is, in mode scaled, the order of SDC-1 itself."""
    layers = check_criticality.layer_faults(campaigns / "even", MODEL)
    figures = ranking({name: of.sdc1 for name, of in layers.items()})
    write_json(tmp_path / "criticality.json", {"before": figures, "after": figures})
    return tmp_path


@pytest.mark.parametrize("name", ["even", "strata"])
def test_layers_of_a_campaign_are_those_of_the_network(campaigns, name):
    layers = check_criticality.layer_faults(campaigns / name, MODEL)
    assert {"body.conv1", "body.layer3.0.conv2"} & layers.keys()
    assert all(0 <= of.sdc1 <= 1 and of.faults >= 1 for of in layers.values())
    summary = json.loads((campaigns / name / "summary.json").read_text())
    assert sum(of.faults for of in layers.values()) <= summary["faults"]["evaluated"]


def test_a_ranking_by_sdc_itself_correlates_fully(train, campaigns, tmp_path, capsys):
    assert (
        check_criticality.main([str(train), str(campaigns / "even"), str(MODEL), f"--out={tmp_path / 'out.json'}"]) == 0
    )
    text = capsys.readouterr().out
    for when in ("before", "after"):
        assert f"| scaled, {when} stage 1 | 1.00 [1.00, 1.00] |" in text
        assert f"| gradient, {when} stage 1 | -1.00 [-1.00, -1.00] |" in text
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["unmatched"] == []
    assert found["faults"]["total"] == sum(of["faults"] for of in found["layers"].values())


def test_a_known_correlation():
    layers = {
        name: check_criticality.LayerFaults(sdc1=value, faults=9, bits=10 ** (2 * (4 - value)))
        for name, value in zip("abcde", range(1, 6), strict=True)
    }
    ranked = ranking(dict(zip("abcdef", (1, 0, 2, 4, 3, 9), strict=True)))
    found = check_criticality.correlate(ranked, layers, "scaled", "sdc1")
    assert found.value == pytest.approx(0.8)
    assert found.n == 5
    assert found.low < 0.8 < found.high
    assert check_criticality.correlate(ranked, layers, "scaled", "risk").value == pytest.approx(-0.8)


def test_the_file_must_be_the_one_of_the_campaign(campaigns):
    with pytest.raises(InputError, match=r"is no campaign on .*digits-resq"):
        check_criticality.layer_faults(campaigns / "even", MODEL.with_name("resnet8-digits-resq.int8.onnx"))


def test_strata_of_mixed_roles_are_refused(campaigns):
    with pytest.raises(InputError, match="mixes roles in its strata: give a campaign with --roles weight"):
        check_criticality.layer_faults(campaigns / "mixed", MODEL)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not valid JSON"), ('{"before": [{"layer": "a"}]}', "no ranking"), ('{"before": []}', "0 layers occur")],
)
def test_bad_input_is_one_line(campaigns, tmp_path, capsys, content, message):
    (tmp_path / "criticality.json").write_text(content)
    assert check_criticality.main([str(tmp_path), str(campaigns / "even"), str(MODEL)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("check_criticality: ")
    assert message in line
