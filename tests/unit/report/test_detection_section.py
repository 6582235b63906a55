"""What reports say of a file that tells its own health: on all images of its faults, and on some of them."""

import json

import numpy as np
import pytest

from resq_deploy.campaign.options import FaultModel
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.surfaces import Role
from resq_deploy.report.build import document, gather
from resq_deploy.report.markdown import as_markdown


@pytest.fixture(scope="module")
def healing(protected_file, digits_int8):
    return protected_file(digits_int8, rescaled=True)[0]


@pytest.fixture
def told(faultcamp, healing):
    """Run a campaign on a file that reports its health; return its summary and the words of its report."""

    def run(name, **values):
        folder = faultcamp(f"health-{name}", healing, audit=0.0, **values)
        return json.loads((folder / "summary.json").read_text()), as_markdown(document(gather([folder])))

    return run


@pytest.fixture
def words_beyond_mending(healing, tmp_path):
    """A list of faults that no code word corrects, one in each weight and all over it."""
    (group, *_) = DeployedModel.load(healing).codes().groups
    rows = ["fault,tensor,index,bit"]
    for number, weight in enumerate(group.weights):
        (edit,) = group.as_edits(group.broken(weight.start + np.arange(weight.count)))
        rows += [f"{number},{edit.tensor},{index},{bit}" for index, bit in zip(edit.index, edit.bit, strict=True)]
    path = tmp_path / "list.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("images", [10, "all"])
def test_coverage_is_told_where_all_images_are_known(told, words_beyond_mending, images):
    values = {"faults": FaultModel.LIST, "fault_list": words_beyond_mending, "images_per_fault": images}
    summary, words = told(f"list-{images}", **values)
    found = summary["detection"]
    assert found["failing"]
    if images == "all":
        assert found["diagnostic_coverage"]["value"] > 0.0
        assert "of the failing faults are detected" in words
        assert f"at least {found['failing']}" not in words
    else:
        assert found["diagnostic_coverage"] is None
        assert f"at least {found['failing']}" in words
        assert "of the faults are detected" in words
        assert "no fault changed an answer" not in words
        assert "of the failing faults are detected" not in words


def test_a_curve_is_run_on_all_images_and_has_a_coverage_at_each_rate(told):
    summary, words = told("curve", faults=FaultModel.BER, ber=(3e-3, 3e-2), chips=4, roles=(Role.WEIGHT,))
    assert [point["detection"]["at_least"] for point in summary["curve"]] == [[], []]
    assert summary["curve"][-1]["detection"]["diagnostic_coverage"]
    assert "of the failing faults are detected at" in words
