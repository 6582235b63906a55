import numpy as np
import pytest

from resq_deploy.campaign.options import FaultModel
from resq_deploy.campaign.store import FILE, SCHEMA, Store
from resq_deploy.report.fault_table import STORE_SCHEMAS, golden_right, read_faults, right_answers
from resq_deploy.report.runs import load_runs


def records(folder):
    with Store(folder / FILE) as store:
        return list(store.records())


@pytest.fixture(params=["single", "curve", "burst", "word", "list"])
def folder(request, faultcamp, tmp_path):
    if request.param in ("single", "curve"):
        return request.getfixturevalue(request.param)
    if request.param == "list":
        listed = tmp_path / "faults.csv"
        rows = ["a,fc.weight_quantized,3,7", "a,fc.weight_quantized,9,6", "b,conv.weight_quantized,0,5"]
        listed.write_text("\n".join(["fault,tensor,index,bit", *rows]))
        return faultcamp("list", faults=FaultModel.LIST, fault_list=listed)
    return faultcamp(request.param, faults=FaultModel(request.param), samples=20)


def test_the_schema_version_read_is_the_one_written():
    assert max(STORE_SCHEMAS) == SCHEMA


def test_the_table_holds_what_the_store_holds(folder):
    (run,) = load_runs([folder])
    table, kept = read_faults(run, worst=3), records(folder)
    assert len(table) == len(kept)
    assert len(np.unique(table.key)) == len(kept)
    judged = [record.counts["sdc1"] / record.images if record.images else np.nan for record in kept]
    assert table.sdc1 == pytest.approx(judged, nan_ok=True)
    assert table.quality == pytest.approx([record.quality for record in kept], abs=1e-6)
    if "curve" in run.summary:
        assert len(table.mask) == len(kept)
    else:
        harm = np.where(np.isnan(judged), 1.0, judged)
        assert [fault.sdc1 for fault in table.worst] == sorted(harm, reverse=True)[:3]


def test_answers_are_counted_image_by_image(folder):
    (run,) = load_runs([folder])
    kept = records(folder)
    images = run.summary["golden"]["images"]
    chosen = np.arange(len(kept)) % 2 == 0
    expected = np.zeros(images, dtype=int)
    for record in kept:
        if chosen[record.number] and record.images:
            expected += np.unpackbits(np.frombuffer(record.right, np.uint8), count=images)
    assert (right_answers(run, chosen) == expected).all()


def test_the_golden_answers_are_those_of_a_masked_fault(single):
    (run,) = load_runs([single])
    right = golden_right(run)
    assert right.sum() == round(run.summary["golden"]["accuracy"]["value"] * run.summary["golden"]["images"])


def test_faults_of_several_bits_count_as_mixed(faultcamp, tmp_path):
    (run,) = load_runs([faultcamp("burst", faults=FaultModel.BURST, samples=20)])
    names, codes = read_faults(run).groups["bit"]
    summary = {bit: rates["sdc1"]["n"] for bit, rates in run.summary["by_bit"].items() if rates["sdc1"]}
    found = {name: int((codes == place).sum()) for place, name in enumerate(names)}
    assert {bit: n for bit, n in found.items() if bit in summary} == pytest.approx(
        summary, abs=run.summary["faults"]["due"]
    )
