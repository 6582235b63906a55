"""How much risk each stored tensor carries: rates of a campaign, or built-in ones."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.surfaces import Role, Surface
from resq_deploy.errors import OptionError, RunFolderError
from resq_deploy.protection.rates import BUILT_IN, GuardRates, Rate, expected_sdc1, read_rates

TYPES = {Role.WEIGHT: "int8", Role.BIAS: "int32", Role.WEIGHT_SCALE: "float", Role.ACTIVATION_ZERO_POINT: "uint8"}
WIDTHS = {"int8": 8, "uint8": 8, "int32": 32, "float": 32, "int4": 4}


def surface(role, layer, *shape, dtype=None):
    dtype = dtype or TYPES.get(role, "float")
    name = f"{layer}.{role}"
    return Surface(tensor=name, role=role, layer=layer, dtype=dtype, shape=shape, width=WIDTHS[dtype])


NETWORK = [
    surface(role, layer, *shape)
    for layer, channels in (("first", 8), ("second", 32), ("last", 10))
    for role, shape in (
        (Role.WEIGHT, (channels, 100)),
        (Role.WEIGHT_SCALE, (channels,)),
        (Role.BIAS, (channels,)),
        (Role.ACTIVATION_SCALE, ()),
        (Role.ACTIVATION_ZERO_POINT, ()),
    )
]


def rates(roles, layers=None, faults=10**9):
    """Rates over so many faults that they are taken as they are."""
    return GuardRates(
        by_role={role: Rate(value=value, faults=faults) for role, value in roles.items()},
        by_layer={layer: Rate(value=value, faults=faults) for layer, value in (layers or {}).items()},
        source="test",
    )


def by(surfaces, risks, key):
    totals = {}
    for one, risk in zip(surfaces, risks, strict=True):
        name = str(getattr(one, key))
        totals[name] = totals.get(name, 0.0) + risk
    return totals


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_sums_over_roles_and_layers_are_those_measured(seed):
    rng = np.random.default_rng(seed)
    truth = rng.random(len(NETWORK)) ** 3
    bits = np.array([one.bits for one in NETWORK])
    risks = bits * truth
    measured = {}
    for key in ("role", "layer"):
        sums, totals = by(NETWORK, risks, key), by(NETWORK, bits, key)
        measured[key] = {name: sums[name] / totals[name] for name in sums}
    by_role = {Role(role): rate for role, rate in measured["role"].items()}
    found = expected_sdc1(NETWORK, rates(by_role, measured["layer"]))
    assert by(NETWORK, found, "role") == pytest.approx(by(NETWORK, risks, "role"), rel=1e-6)
    assert by(NETWORK, found, "layer") == pytest.approx(by(NETWORK, risks, "layer"), rel=1e-2)
    assert ((found >= 0) & (found <= bits * (1 + 1e-9))).all()


def test_a_layer_with_few_faults_hardly_moves_its_tensors():
    roles, layers = {Role.WEIGHT: 0.01, Role.BIAS: 0.2}, {"first": 0.9, "second": 0.0, "last": 0.01}
    surfaces = [one for one in NETWORK if one.role in roles]
    suggested, few, many = (
        expected_sdc1(surfaces, measured)
        for measured in (rates(roles), rates(roles, layers, faults=1), rates(roles, layers, faults=1000))
    )
    first = [place for place, one in enumerate(surfaces) if one.layer == "first"]
    assert few[first].sum() < 4 * suggested[first].sum() < many[first].sum()
    for found in (few, many):
        assert by(surfaces, found, "role") == pytest.approx(by(surfaces, suggested, "role"))
    assert (few > 0).all()


def test_roles_the_campaign_did_not_hit_have_their_built_in_rate():
    found = by(NETWORK, expected_sdc1(NETWORK, rates({Role.BIAS: 0.5}, {"first": 0.5})), "role")
    bits = {str(role): sum(one.bits for one in NETWORK if one.role is role) for role in Role}
    assert found["bias"] == pytest.approx(0.5 * bits["bias"])
    assert found["weight-scale"] == pytest.approx(BUILT_IN[Role.WEIGHT_SCALE] * bits["weight-scale"])


def test_a_weight_left_in_float_is_riskier_than_an_int8_one():
    integer, real = (expected_sdc1([surface(Role.WEIGHT, "l", 5, dtype=dtype)])[0] for dtype in ("int8", "float"))
    assert real > 4 * integer


def test_rates_of_a_real_campaign(digits_int8, tmp_path):
    model = DeployedModel.load(digits_int8)
    options = CampaignOptions(images=50, samples=60, seed=1)
    summary = Campaign(model, load_dataset("digits"), options).run(tmp_path / "run")
    measured = read_rates(tmp_path / "run")
    assert measured == read_rates(tmp_path / "run" / "summary.json")
    assert str(tmp_path) not in measured.source
    for role, rate in measured.by_role.items():
        estimate = summary["by_role"][str(role)]["sdc1"]
        assert (rate.value, rate.faults) == (estimate["value"], estimate["n"])
    found = by(model.surfaces, expected_sdc1(model.surfaces, measured), "role")
    weights = sum(one.bits for one in model.surfaces if one.role is Role.WEIGHT)
    assert found["weight"] == pytest.approx(weights * summary["by_role"]["weight"]["sdc1"]["value"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds no SDC by role and layer"),
        ('{"curve": []}', "holds no SDC by role and layer"),
        ('{"by_role": {"mixed": {"sdc1": {"value": 0.5, "n": 3}}}, "by_layer": {}}', "no SDC of any role"),
        ('{"by_role": {"bias": {"sdc1": null}}, "by_layer": {}}', "no SDC of any role"),
        ('{"by_role": {"bias": {}}, "by_layer": {}}', "`by_role` is not as faultcamp writes it"),
        ('{"by_role": {"bias": {"sdc1": {"value": 2, "n": 3}}}, "by_layer": {}}', "a rate of 2.0 over 3 faults"),
        ('{"by_role": [], "by_layer": {}}', "`by_role` is not as faultcamp writes it"),
    ],
)
def test_a_summary_that_says_nothing(content, message, tmp_path):
    (tmp_path / "summary.json").write_text(content)
    manifest(tmp_path)
    with pytest.raises(RunFolderError, match=message):
        read_rates(tmp_path / "summary.json")


def manifest(folder, status="done", command="faultcamp", **options):
    """Write the manifest of a run."""
    options = {"faults": "single", "bits": [], "ecc": "none", **options}
    record = {"schema": 1, "command": command, "status": status, "options": options}
    (folder / "manifest.json").write_text(json.dumps(record))


RATES = {"sdc1": {"value": 0.2, "n": 30}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"faults": "burst"}, "was run with --faults burst: guards are planned by single flips"),
        ({"faults": "stuck-at-1"}, "was run with --faults stuck-at-1: guards"),
        ({"faults": "word"}, "was run with --faults word: guards"),
        ({"faults": "list"}, "was run with --faults list: guards"),
        ({"bits": [0, 7]}, "was run with --bits 0,7: guards"),
        ({"ecc": "secded"}, "was run with --ecc secded: guards"),
        (
            {"faults": "burst", "bits": [1]},
            "was run with --faults burst --bits 1: .*without --bits, --ecc and --flip-direction",
        ),
        ({"flip_direction": "1to0:0.8"}, "was run with --flip-direction 1to0:0.8: guards"),
        ({"status": "failed"}, "is not finished .status 'failed'.: --resume it first"),
        ({"command": "attackcamp"}, "is no run of faultcamp"),
    ],
    ids=str,
)
def test_figures_of_another_campaign_plan_no_guards(given, message, tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"by_role": {"bias": RATES}, "by_layer": {"fc": RATES}}))
    manifest(tmp_path)
    assert read_rates(tmp_path).by_role == {Role.BIAS: Rate(value=0.2, faults=30)}
    manifest(tmp_path, **given)
    for path in (tmp_path, tmp_path / "summary.json"):
        with pytest.raises(RunFolderError, match=message):
            read_rates(path)


def test_a_summary_alone_does_not_say_what_it_measured(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"by_role": {"bias": RATES}, "by_layer": {}}))
    with pytest.raises(RunFolderError, match=r"is not a run folder of resq-deploy: it holds no manifest\.json"):
        read_rates(tmp_path / "summary.json")


@pytest.mark.parametrize(
    "values",
    [{"faults": FaultModel.BURST}, {"bits": (7,)}, {"ecc": "secded"}],
    ids=["burst", "bits", "ECC"],
)
def test_a_real_campaign_of_other_faults_plans_no_guards(digits_int8, tmp_path, values):
    options = CampaignOptions(images=20, samples=10, **values)
    Campaign(DeployedModel.load(digits_int8), load_dataset("digits"), options).run(tmp_path / "run")
    with pytest.raises(RunFolderError, match="was run with --"):
        read_rates(tmp_path / "run")


def test_no_summary(tmp_path):
    with pytest.raises(RunFolderError, match="cannot read"):
        read_rates(tmp_path)


def test_rates_of_another_file():
    with pytest.raises(OptionError, match="they know the layer 'elsewhere'"):
        expected_sdc1(NETWORK, rates({Role.BIAS: 0.1}, {"elsewhere": 0.1}))
