import dataclasses
import json
import re
import sqlite3

import numpy as np
import pytest
from scipy import stats

from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.store import FILE, Store
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import RunFolderError
from resq_deploy.faults.cells import Direction, TrueCells
from resq_deploy.faults.statistics import Estimate, cluster, permutation_p, sign_test
from resq_deploy.report.build import document, gather
from resq_deploy.report.compare import compare, obstacle, pair_up
from resq_deploy.report.comparison_sections import comparison_sections
from resq_deploy.report.difference import Difference
from resq_deploy.report.fault_table import golden_right, read_faults
from resq_deploy.report.runs import load_runs


def bitmaps(folder, images):
    with Store(folder / FILE) as store:
        return np.array([np.unpackbits(np.frombuffer(r.right, np.uint8), count=images) for r in store.records()])


def test_chips_are_paired_by_rate_and_number(curve, coarse_curve):
    first, second = load_runs([curve, coarse_curve])
    found = compare(first, second)
    assert [one.figure for one in found.differences] == ["clean accuracy", "accuracy at 1e-3", "accuracy at 3e-2"]
    last = found.differences[-1]
    a, b = (bitmaps(folder, 60)[4:].mean(axis=1) for folder in (curve, coarse_curve))
    assert last.estimate.value == pytest.approx((b - a).mean(), abs=1e-6)
    assert (last.estimate.n, last.unit) == (4, "chips")
    assert last.first.value == pytest.approx(first.summary["curve"][-1]["accuracy"]["value"], abs=1e-6)
    assert any("all 4 chips at each of 2 rates flip the very same bits" in note for note in found.notes)


def test_swapping_two_runs_turns_the_sign_and_keeps_the_verdict(single, coarse_single):
    runs = load_runs([single, coarse_single])
    for one, other in zip(compare(*runs).differences, compare(*runs[::-1]).differences, strict=True):
        assert one.estimate.value == pytest.approx(-other.estimate.value)
        assert one.estimate.low == pytest.approx(-other.estimate.high)
        assert (one.p, one.real) == (pytest.approx(other.p), other.real)


def test_a_run_does_not_differ_from_itself(single, copied):
    found = compare(*load_runs([single, copied(single)]))
    assert all(one.estimate.value == 0.0 and not one.real for one in found.differences)


def test_shared_faults_are_compared_fault_by_fault_and_image_by_image(single, coarse_single):
    first, second = load_runs([single, coarse_single])
    found = {one.figure: one for one in compare(first, second).differences}
    assert found.keys() == {"clean accuracy", "SDC-1, shared faults", "accuracy, shared faults"}
    a, b = bitmaps(single, 60), bitmaps(coarse_single, 60)
    accuracy = found["accuracy, shared faults"]
    assert accuracy.estimate.value == pytest.approx((b.mean() - a.mean()), abs=1e-6)
    assert accuracy.estimate.n == 80
    d = b.sum(axis=0).astype(int) - a.sum(axis=0)
    assert accuracy.p_images == pytest.approx(stats.chi2.sf(d.sum() ** 2 / (d**2).sum(), 1))
    clean = found["clean accuracy"]
    assert clean.p_images is not None
    assert clean.first.value == first.summary["golden"]["accuracy"]["value"]


def test_samples_of_other_sizes_share_some_faults_only(single, faultcamp, coarse_int8):
    fewer = faultcamp("fewer", coarse_int8, samples=40)
    found = compare(*load_runs([single, fewer]))
    shared = [one for one in found.differences if one.unit == "shared faults"]
    assert [one.figure for one in found.differences[1:]] == ["SDC-1, shared faults", "accuracy, shared faults"]
    assert all(one.estimate.n <= 40 for one in shared)
    assert any("of 80 and 40" in note for note in found.notes)


def test_where_few_faults_are_shared_the_populations_are_compared_with_a_permutation_test(
    single, faultcamp, coarse_int8
):
    elsewhere = faultcamp("elsewhere", coarse_int8, samples=80, seed=5)
    found = compare(*load_runs([single, elsewhere]))
    whole = {one.figure: one for one in found.differences if one.unit == "faults, drawn independently"}
    assert whole.keys() == {"SDC-1", "accuracy under a fault"}
    a, b = (read_faults(run).sdc1 for run in load_runs([single, elsewhere]))
    assert whole["SDC-1"].p_units == permutation_p(a[~np.isnan(a)], b[~np.isnan(b)])
    assert any("permutation test" in note for note in found.notes)


def test_strata_are_compared_by_their_intervals(single, faultcamp, coarse_int8):
    strata = faultcamp("strata", coarse_int8, margin=0.3)
    found = compare(*load_runs([single, strata]))
    whole = [one for one in found.differences if one.unit == "faults, drawn independently"]
    assert [one.p_units for one in whole] == [None, None]

    by_strata = next(one for one in whole if one.figure == "accuracy under a fault")
    sure = dataclasses.replace(by_strata, estimate=dataclasses.replace(by_strata.estimate, value=-0.1, high=-0.01))
    assert sure.verdict == "lower, for further faults on these images"
    assert not sure.over_images


def test_pairs_are_described_and_decided_by_the_sign_test(curve, coarse_curve):
    last = compare(*load_runs([curve, coarse_curve])).differences[-1]
    a, b = (bitmaps(folder, 60)[4:].mean(axis=1) for folder in (curve, coarse_curve))
    assert (last.pairs["higher"], last.pairs["lower"]) == ((b > a).sum(), (b < a).sum())
    assert last.pairs["median"] == pytest.approx(np.median(b - a), abs=1e-6)
    assert last.p_units == pytest.approx(sign_test(b - a))
    assert last.as_dict()["pairs"] == last.pairs
    assert last.estimate.low < last.pairs["least"]  # four chips bound further ones by little


def difference_of(pairs, value=0.1, **values):
    apart = Estimate(value=value, low=-0.5, high=0.7, n=20, confidence=0.95)
    side = Estimate(value=0.5, low=0.2, high=0.8, n=20, confidence=0.95)
    given = {"figure": "accuracy", "first": side, "second": side, "estimate": apart, "unit": "chips", "pairs": pairs}
    return Difference(**{**given, "p_units": 0.001, "p_images": 0.001, "p": 0.002, **values})


def test_tests_decide_where_the_bound_is_wide():
    assert difference_of({"higher": 19, "lower": 1}).verdict == "higher, real"
    assert not difference_of({"higher": 19, "lower": 1}, p=0.06).real
    # Most chips are a little better, a few so much worse that the mean is lower: neither way is said.
    assert difference_of({"higher": 17, "lower": 3}, value=-0.1).verdict == "not beyond chance"
    assert difference_of(None, p=None, p_units=None, p_images=None).verdict == "not beyond chance"
    unsure = difference_of({"higher": 19, "lower": 1}, p_images=0.3, p=0.6)
    assert unsure.verdict == "not beyond chance for further images"


def test_populations_are_apart_by_the_furthest_that_surer_intervals_allow(single, faultcamp, coarse_int8):
    runs = load_runs([single, faultcamp("elsewhere", coarse_int8, samples=80, seed=5)])
    (sdc1,) = [one for one in compare(*runs).differences if one.figure == "SDC-1"]
    sizes = [run.summary["population"]["faults"] for run in runs]
    a, b = (cluster(read_faults(run).sdc1, size, 0.975) for run, size in zip(runs, sizes, strict=True))
    assert (sdc1.estimate.low, sdc1.estimate.high) == (b.low - a.high, b.high - a.low)
    assert sdc1.estimate.confidence == pytest.approx(0.95)


def test_faults_that_all_did_nothing_are_no_certainty(faultcamp, digits_int8, coarse_int8):
    calm = {"samples": 40, "roles": (Role.WEIGHT,), "bits": (0,)}
    runs = load_runs([faultcamp("calm", digits_int8, **calm), faultcamp("coarse-calm", coarse_int8, **calm)])
    (sdc1,) = [one for one in compare(*runs).differences if one.figure == "SDC-1, shared faults"]
    assert sdc1.first.value == 0.0
    assert sdc1.first.as_dict() == runs[0].summary["rates"]["sdc1"]  # the headline's interval
    assert sdc1.estimate.low < sdc1.estimate.value < sdc1.estimate.high
    assert not sdc1.real


def test_the_heading_rests_on_figures_with_both_tests(single, coarse_single):
    found = compare(*load_runs([single, coarse_single]))
    one = found.differences[0]
    apart = dataclasses.replace(one.estimate, value=0.1, low=0.05, high=0.2)
    real = dataclasses.replace(one, figure="whole", estimate=apart, p_images=0.001, p=0.001)
    larger = dataclasses.replace(apart, value=0.9, low=0.8, high=0.95)
    part = dataclasses.replace(one, figure="part", estimate=larger, unit="shared faults", p_images=None, p=None)
    unsure = dataclasses.replace(real, figure="unsure", p_units=0.001, p_images=0.3, p=0.9)
    titles = []
    for differences in ([part, real, unsure], [part, unsure], [unsure]):
        (section,) = comparison_sections([dataclasses.replace(found, differences=differences)], [])
        titles.append(section.title.partition(": ")[2])
    assert titles == [
        "1 of 3 differences is real, the largest in whole (+10.0 [+5.0, +20.0] points)",
        "1 of 2 differences is beyond chance for further faults on these images, the largest in part "
        "(+90.0 [+80.0, +95.0] points)",
        "no difference is beyond chance",
    ]
    assert unsure.verdict == "not beyond chance for further images"


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("ber", {"faults": FaultModel.BER, "chips": 2, "ber": (1e-3,)}, "fault model: single in .*, ber in"),
        ("images", {"samples": 10, "images": 50}, "number of images: 60 in .*, 50 in"),
        ("roles", {"samples": 10, "roles": (Role.BIAS,)}, "roles: all in .*, bias in"),
        ("confidence", {"samples": 10, "confidence": 0.9}, "confidence: 0.95 in .*, 0.9 in"),
        ("way", {"samples": 10, "flip_direction": Direction(0.7)}, "which way bits flip: both in .*, 1to0:0.7 in"),
    ],
)
def test_runs_on_other_faults_or_images_are_not_paired_and_told_why(single, faultcamp, name, values, reason):
    first, second = load_runs([single, faultcamp(f"other-{name}", **values)])
    assert re.search(reason, obstacle(first, second))
    pairs, lonely = pair_up([first, second])
    assert pairs == []
    assert [one.run for one in lonely] == [first, second]


@pytest.mark.parametrize(
    ("values", "apart"),
    [
        ({"flip_direction": Direction.DOWN}, False),
        ({"flip_direction": Direction(0.7)}, True),
        ({"flip_direction": Direction(0.7), "faults": FaultModel.BER, "ber": (1e-3,), "chips": 2}, False),
        ({"flip_direction": Direction.DOWN, "true_cells": TrueCells(share=0.5)}, True),
        ({"flip_direction": Direction.DOWN, "true_cells": TrueCells(rows=2), "memory_layout": "rows:64"}, False),
    ],
    ids=["one way", "share", "share on chips", "true cells", "rows of true cells"],
)
def test_seeds_are_compared_where_they_decide_which_way_a_cell_turns(single, values, apart):
    (run,) = load_runs([single])
    options = CampaignOptions(**values)
    summary = {**run.summary, "fault_model": str(options.faults), "flip_direction": str(options.flip_direction)}
    if options.true_cells is not None:
        summary["true_cells"] = str(options.true_cells)
    one, other = (
        dataclasses.replace(run, summary=summary, manifest={**run.manifest, "options": {**run.options, "seed": seed}})
        for seed in (0, 1)
    )
    assert (obstacle(one, other) is not None) == apart
    if apart:
        assert "seed, by which cells turn one way or the other: 0 in" in obstacle(one, other)


def test_other_data_are_told_by_digest(single, copied):
    folder = copied(single)
    digests = json.loads((folder / "manifest.json").read_text())["sha256"]
    folder = folder.rename(folder.with_name("elsewhere"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"] = {**digests, "data": "0" * 64}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    evidence = gather([single, folder])
    assert evidence.comparisons == []
    assert [one.reason.partition(":")[0] for one in evidence.singles] == ["other data (SHA-256)"] * 2
    titles = [section.title for section in document(evidence).sections]
    assert "Not compared: single and elsewhere" in titles
    with pytest.raises(RunFolderError, match=r"cannot compare single: other data \(SHA-256\): 0{12} in elsewhere, "):
        gather([single, folder], must_compare=True)


def test_where_most_faults_are_not_shared_the_populations_are_compared_too(faultcamp, digits_int8, coarse_int8):
    few = {"roles": (Role.WEIGHT,), "layers": "conv", "bits": (7,), "samples": 100}
    runs = load_runs([faultcamp("conv", **few), faultcamp("coarse-conv", coarse_int8, **few, seed=1)])
    found = compare(*runs)
    shared = [one for one in found.differences if one.unit == "shared faults"]
    drawn = [one for one in found.differences if one.unit == "faults, drawn independently"]
    assert 30 <= shared[0].estimate.n < 50
    assert [one.figure for one in drawn] == ["SDC-1", "accuracy under a fault"]
    assert [one.figure for one in shared] == ["SDC-1, shared faults", "accuracy, shared faults"]
    assert drawn[0].first.n == 100
    assert "they are compared one by one; the populations are compared, as drawn independently" in found.notes[0]


def test_each_run_is_compared_with_the_first_of_its_kind(single, curve, coarse_single, coarse_curve, faultcamp):
    again = faultcamp("again", samples=30)
    runs = load_runs([single, curve, coarse_single, coarse_curve, again])
    pairs, lonely = pair_up(runs)
    assert [(a.label, b.label) for a, b in pairs] == [
        ("single", "coarse-single"),
        ("curve", "coarse-curve"),
        ("single", "again"),
    ]
    assert lonely == []


def test_a_single_campaign_cannot_be_compared(single):
    assert gather([single]).singles == []
    with pytest.raises(RunFolderError, match="cannot compare runs: give two or more"):
        gather([single], must_compare=True)


def test_runs_in_different_arithmetic_are_not_paired(faultcamp, copied):
    exact = load_runs([faultcamp("single", samples=80, fit_per_mbit=100.0)])[0]
    words = {
        ("native", True): "native, on a CPU that saturates",
        ("native", False): "native, on a CPU that does not saturate",
    }
    for (name, saturates), said in words.items():
        other = dataclasses.replace(
            exact, label="other", summary={**exact.summary, "arithmetic": {"name": name, "cpu_saturates": saturates}}
        )
        assert obstacle(exact, other) == f"arithmetic: exact in {exact.label}, {said} in other"
    elsewhere = {**exact.summary, "arithmetic": {"name": "exact", "cpu_saturates": True}}
    assert obstacle(exact, dataclasses.replace(exact, summary=elsewhere)) is None


FEW = {"samples": 80, "images_per_fault": 20}


@pytest.fixture(scope="module")
def few(faultcamp):
    """The faults of `single`, on 20 of its 60 images each."""
    return faultcamp("few", **FEW)


@pytest.fixture(scope="module")
def coarse_few(faultcamp, coarse_int8):
    return faultcamp("coarse-few", coarse_int8, **FEW)


def test_faults_are_paired_on_the_images_that_both_judged_them_on(few, coarse_few):
    """Two files meet the same faults on the same images, which bitmaps show part by part."""
    found = compare(*load_runs([few, coarse_few]))
    by_name = {one.figure: one for one in found.differences}
    assert by_name.keys() == {"clean accuracy", "SDC-1, shared faults", "accuracy, shared faults"}
    accuracy = by_name["accuracy, shared faults"]
    a, b = bitmaps(few, 20), bitmaps(coarse_few, 20)
    assert accuracy.estimate.value == pytest.approx(b.mean() - a.mean(), abs=1e-6)
    assert accuracy.estimate.n == 80
    assert accuracy.p_images is None
    assert not accuracy.over_images
    assert any("no test over images under faults" in note for note in found.notes)
    assert any("hit the same bits in both files, judged on the same images" in note for note in found.notes)


def test_faults_on_different_images_are_not_paired(single, few):
    found = compare(*load_runs([single, few]))
    assert [one.unit for one in found.differences][1:] == ["faults, drawn independently"] * 2
    assert [one.p_units for one in found.differences][1:] == [None, None]  # fewer images scatter more
    assert any(
        "80 further faults of both runs hit the same bits, but were judged on different" in n for n in found.notes
    )
    assert any("by their intervals" in note for note in found.notes)
    assert all(one.estimate.low <= 0.0 <= one.estimate.high for one in found.differences)  # it is the same file


def test_the_fault_free_answers_are_put_together_from_parts(single, few, coarse_few):
    whole, parts = (golden_right(run) for run in load_runs([single, few]))
    assert (whole == parts).all()
    assert golden_right(load_runs([coarse_few])[0]).mean() == pytest.approx(
        load_runs([coarse_few])[0].summary["golden"]["accuracy"]["value"]
    )


def test_parts_that_no_masked_fault_was_judged_on_leave_the_answers_open(few, copied):
    folder = copied(few)
    with sqlite3.connect(folder / FILE) as database:
        database.execute("UPDATE faults SET outcome = 'benign' WHERE share = 1")
    assert golden_right(load_runs([folder])[0]) is None


def test_the_page_says_what_some_images_leave_open(few, single):
    text = page_of([few])
    assert "Each fault was judged on about 20 of 60 images" in text
    assert "proven to leave every image as it is" in text
    assert "Failing faults therefore have two ends" in text
    assert "no fault on all images" in text
    assert "two ends" not in page_of([single])


def page_of(folders):
    found = document(gather(folders))
    return json.dumps(dataclasses.asdict(found), default=str)
