"""An FMEDA against a truth that was enumerated: every fault of some bits of a voted file, and of the plain one."""

import csv
import dataclasses
import io
import json
import zipfile
from collections import Counter

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from resq_deploy import api
from resq_deploy.campaign.drawing import drawing
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.plan import make_plan
from resq_deploy.campaign.run import Campaign
from resq_deploy.cli.report import command
from resq_deploy.deployed.graph import read_model
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.surfaces import Role, find_surfaces
from resq_deploy.errors import OptionError, RunFolderError
from resq_deploy.faults.cells import Direction, TrueCells
from resq_deploy.faults.fmeda import CLASSES, fmeda
from resq_deploy.protection.guards import guard
from resq_deploy.report.fmeda import Asked, _memory, analyse, injected
from resq_deploy.report.runs import load_runs

BITS = (6, 12, 23, 29, 30)
ROLES = tuple(role for role in Role if role is not Role.WEIGHT)
SEEDS = 100
ENOUGH = 92
FEW = 5
RATES = {"weight-scale": 50.0, "bias": 700.0, "": 300.0}
ASKED = Asked(by="role", rates=RATES)


@dataclasses.dataclass(frozen=True)
class World:
    """A campaign over all faults of a file's population."""

    run: object
    surfaces: list
    options: dict
    protections: dict
    rows: list

    def sampled(self, dangerous="share", **values):
        """What a campaign finds that draws from this population."""
        plan = make_plan(self.surfaces, CampaignOptions(**self.options, **values))
        while (more := plan.continued(np.array([self._rate(place) for place in plan.positions]))) is not None:
            plan = more
        rows = [self.rows[int(place)] for place in plan.positions]
        stopped = values.get("margin") is not None
        return injected(drawing(plan, self.protections), rows, dangerous=dangerous, stopped=stopped)

    def _rate(self, place):
        row = self.rows[int(place)]
        return int(row["sdc1"]) / max(int(row["images"]), 1)


def _files(path):
    """A file with its scales in three copies, and the plain one."""
    plain, _ = read_model(path)
    scales = [surface.tensor for surface in find_surfaces(plain) if "scale" in surface.role]
    return onnx.ModelProto.FromString(guard(plain.SerializeToString(), scales)), plain


@pytest.fixture(scope="module")
def worlds(digits_int8, digits, tmp_path_factory):
    return _worlds(digits_int8, digits, tmp_path_factory.mktemp("fmeda"))


@pytest.fixture(scope="module")
def struck(digits_int8, digits, tmp_path_factory):
    """The same files in a memory of which most strikes discharge a cell, true and anti cells half of each."""
    folder = tmp_path_factory.mktemp("struck")
    asked = {"flip_direction": Direction(0.8), "true_cells": TrueCells(share=0.5)}
    return _worlds(digits_int8, digits, folder, **asked)


def _worlds(path, digits, folder, **values):
    found = []
    for name, proto in zip(("guarded", "plain"), _files(path), strict=True):
        onnx.save(proto, folder / f"{name}.onnx")
        options = {"roles": ROLES, "bits": BITS, "images": 10, "workers": 1, **values}
        model = DeployedModel.load(folder / f"{name}.onnx")
        campaign = Campaign(model, digits, CampaignOptions(**options, exhaustive=True))
        campaign.run(folder / name)
        with (folder / name / "faults.csv").open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        positions = campaign.plan.positions.tolist()
        rows = [row for _, row in sorted(zip(positions, rows, strict=True), key=lambda pair: pair[0])]
        (run,) = load_runs([folder / name])
        found.append(World(run, model.surfaces, options, campaign._protected, rows))
    return found


def _truth(worlds, by, rate_of, dangerous="share", changes=lambda _: True):
    """Every figure, added up fault by fault as the definitions say; by loops of its own.

    `changes` says of a row whether it is a fault at all, or a strike on a bit that has that value already.
    """
    guarded, plain = worlds

    def harm(row):
        images, wrong = int(row["images"]), int(row["sdc1"])
        share = wrong / max(images, 1) if dangerous == "share" else float(wrong > 0)
        return 1.0 if row["outcome"] == "due" else share

    bare, bits = Counter(), Counter()
    for row in plain.rows:
        bare[row["tensor"]] += harm(row)
        bits[row["tensor"]] += 1
    tensors = guarded.run.summary["drawing"]["tensors"]
    mean_bare = {}
    for name, entry in tensors.items():
        known = [one for one in entry["plain"] if one in bits]
        mean_bare[name] = sum(bare[one] for one in known) / sum(bits[one] for one in known) if known else 1.0
    sums = {}
    for row in guarded.rows:
        entry = tensors[row["tensor"]]
        lost, seen = row["outcome"] == "due", row.get("detected") == "1"
        wrong = 0.0 if lost else harm(row)
        kept = 1.0 - wrong - lost
        of = sums.setdefault((row[by], entry["protection"]), Counter())
        rate = rate_of(row["role"]) / 1e6
        of["raw"] += rate * changes(row)
        of["wrong"] += rate * wrong
        of["wrong_seen"] += rate * wrong * seen
        of["dangerous"] += rate * (wrong + lost)
        of["undetected"] += rate * wrong * (not seen)
        of["quiet"] += rate * kept * (not seen) * changes(row)
        of["bare"] += rate * mean_bare[row["tensor"]]
    for (_, protection), of in sums.items():
        of["bare"] = min(of["bare"], of["raw"])
        of["controlled"] = max(0.0, of["bare"] - of["dangerous"]) if protection else 0.0
        of["latent"] = min(of["controlled"], of["quiet"])
    total = Counter()
    for of in sums.values():
        total.update(of)
    found = {
        "undetected": total["undetected"],
        "latent": total["latent"],
        "spfm": 1.0 - total["undetected"] / total["raw"],
        "lfm": 1.0 - total["latent"] / (total["raw"] - total["undetected"]),
    }
    for name in ("votes",):
        mine = [of for (_, protection), of in sums.items() if protection == name]
        of_bare = sum(of["bare"] for of in mine)
        found[f"coverage/{name}"] = 1.0 - sum(of["dangerous"] for of in mine) / of_bare if of_bare else None
    return found, sums


def _figures(found):
    return {
        "undetected": found.undetected,
        "latent": found.latent,
        "spfm": found.spfm,
        "lfm": found.lfm,
        **{f"coverage/{name}": one for name, one in found.coverage.items()},
    }


def _check_values(found, truth, sums):
    """Check that the values of an analysis, figures and rows, are those of an enumeration."""
    for name, estimate in _figures(found.found).items():
        if truth[name] is not None:
            assert estimate.value == pytest.approx(truth[name], abs=1e-9), name
    for element, row in zip(found.elements, found.found.rows, strict=True):
        of = sums[element.name, element.mechanism or None]
        assert row.raw == pytest.approx(of["raw"])
        assert row.latent.value == pytest.approx(of["latent"], abs=1e-9)
        assert sum(getattr(row, name).value for name in CLASSES) == pytest.approx(row.raw)


@pytest.mark.parametrize("dangerous", ["share", "any"])
def test_all_faults_give_the_truth_itself(worlds, dangerous):
    guarded, plain = worlds
    asked = dataclasses.replace(ASKED, dangerous=dangerous)
    found = analyse(guarded.run, plain.run, asked)
    truth, sums = _truth(worlds, "role", lambda role: RATES.get(role, RATES[""]), dangerous)
    assert truth["latent"] > 0.0 < truth["undetected"]
    _check_values(found, truth, sums)
    for element, row in zip(found.elements, found.found.rows, strict=True):
        of = sums[element.name, element.mechanism or None]
        assert row.undetected.low == pytest.approx(of["undetected"], abs=1e-9)
        assert row.undetected.high == pytest.approx(of["undetected"], abs=1e-9)
    assert sum(row.raw for row in found.found.rows) == pytest.approx(found.found.raw)
    assert found.found.spfm.low == pytest.approx(found.found.spfm.high)


def _changes(world):
    """Whether a row of a campaign turns its bit, by what the file stores."""
    path = world.run.path.with_suffix(".onnx")
    stored = {one.name: numpy_helper.to_array(one).reshape(-1) for one in onnx.load(path).graph.initializer}

    def told(row):
        held = int.from_bytes(stored[row["tensor"]][int(row["index"])].tobytes(), "little") >> int(row["bit"]) & 1
        return held != (row["op"] == "set1")

    return told


def test_strikes_that_change_nothing_are_no_faults(struck):
    guarded, plain = struck
    rows = guarded.rows
    changes = _changes(guarded)
    truth, sums = _truth(struck, "role", lambda role: RATES.get(role, RATES[""]), changes=changes)
    found = analyse(guarded.run, plain.run, ASKED)
    assert truth["latent"] > 0.0 < truth["undetected"]
    assert 0.3 < guarded.run.summary["population"]["changed"] < 0.7
    assert guarded.run.summary["population"]["changed"] == pytest.approx(np.mean([changes(row) for row in rows]))
    idle = Counter(row["tensor"] for row in rows if not changes(row))
    assert {name: one["idle"] for name, one in guarded.run.summary["drawing"]["tensors"].items() if one["idle"]} == idle
    _check_values(found, truth, sums)
    whole = sum(of["raw"] for of in _truth(struck, "role", lambda _: 1.0)[1].values())
    assert found.found.raw < whole * RATES[""]


@pytest.mark.slow
@pytest.mark.parametrize("drawn", [{"samples": 300}, {"margin": 0.1}], ids=["simple", "in-phases"])
@pytest.mark.parametrize("kind", ["worlds", "struck"], ids=["flips", "strikes"])
def test_intervals_hold_the_truth(request, kind, drawn):
    worlds = request.getfixturevalue(kind)
    guarded, plain = worlds
    changes = _changes(guarded) if kind == "struck" else lambda _: True
    truth, _ = _truth(worlds, "role", lambda role: RATES.get(role, RATES[""]), changes=changes)
    memory, _, _ = _memory(guarded.run, plain.run, ASKED)
    held, missing = Counter(), Counter()
    for seed in range(SEEDS):
        present, bare = (world.sampled(seed=seed + 1000 * number, **drawn) for number, world in enumerate(worlds))
        found = fmeda(present, memory, bare, 0.95)
        assert sum(row.raw for row in found.rows) == pytest.approx(found.raw)
        for row in found.rows:
            assert sum(getattr(row, name).value for name in CLASSES) == pytest.approx(row.raw)
        for name, estimate in _figures(found).items():
            if truth[name] is not None:
                missing[name] += estimate is None
                held[name] += estimate is not None and estimate.low - 1e-12 <= truth[name] <= estimate.high + 1e-12
    assert set(held) >= {"spfm", "lfm", "latent", "undetected", "coverage/votes"}
    # A seed that sampled no harm of what is voted tells no coverage, and counts for nothing.
    assert set(+missing) <= {"coverage/votes"}
    assert missing["coverage/votes"] <= FEW, missing
    assert all(held[name] >= ENOUGH / SEEDS * (SEEDS - missing[name]) for name in held), (held, missing)


def test_rows_as_csv_add_up(worlds, tmp_path):
    guarded, plain = worlds
    out = tmp_path / "fmeda.csv"
    for by in api.FMEDA_BY:
        api.fmeda(guarded.run.path, plain.run.path, by=by, fit_per_mbit="weight-scale=50,bias=700,300").write(out)
        rows = list(csv.DictReader(io.StringIO(out.read_text(encoding="utf-8"))))
        elements = [row for row in rows if row["element"] not in ("", "total")]
        (total,) = [row for row in rows if row["element"] == "total"]
        for name in ("raw", *CLASSES):
            assert sum(float(row[f"{name}_fit"]) for row in elements) == pytest.approx(float(total[f"{name}_fit"]))
        for row in elements:
            assert sum(float(row[f"{name}_fit"]) for name in CLASSES) == pytest.approx(float(row["raw_fit"]))
        assert sum(int(row["bits"]) for row in elements) == int(total["bits"])
        assert {row["metric"] for row in rows if row["metric"]} >= {"spfm", "lfm", "coverage/votes"}


def test_the_command_writes_a_page_and_rows(worlds, tmp_path):
    runs = [str(world.run.path) for world in worlds]
    for name in ("fmeda.csv", "fmeda.html"):
        done = CliRunner().invoke(command, [*runs, "--format", "fmeda", "--out", str(tmp_path / name), "--by", "layer"])
        assert done.exit_code == 0, done.output
    page = (tmp_path / "fmeda.html").read_text(encoding="utf-8")
    assert "Single-point fault metric" in page
    assert "A fault is dangerous by the share" in page


def test_one_campaign_of_a_protected_file_tells_no_latent_faults(worlds):
    guarded, plain = worlds
    found = api.fmeda(guarded.run.path)
    assert found.metrics["lfm"] is None
    assert found.metrics["coverage/votes"] is None
    assert "not known from one campaign" in found.html
    assert api.fmeda(plain.run.path).metrics["lfm"].value == 1.0  # nothing controls, so that nothing is latent


def test_a_self_test_counts_where_it_was_made_for_the_file(worlds, tmp_path):
    guarded, plain = worlds

    def bundle(digest):
        header = {
            "model": {"sha256": digest},
            "self_test": {"coverage": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 50, "confidence": 0.95}},
        }
        with zipfile.ZipFile(tmp_path / "test.npz", "w") as archive:
            archive.writestr("bundle.json", json.dumps(header))
        return tmp_path / "test.npz"

    found = api.fmeda(guarded.run.path, plain.run.path, selftest=bundle(guarded.run.model)).metrics
    assert found["coverage/selftest"].value == 0.9
    assert 1.0 - found["spfm_with_selftest"].value == pytest.approx(0.1 * (1.0 - found["spfm"].value))
    assert 1.0 - found["spfm_with_selftest"].low == pytest.approx(0.2 * (1.0 - found["spfm"].low))
    with pytest.raises(OptionError, match="another file"):
        api.fmeda(guarded.run.path, selftest=bundle("0" * 64))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"by": "bit"}, "--by bit"),
        ({"dangerous": "never"}, "--dangerous never"),
        ({"fit_per_mbit": "weights"}, "no number"),
        ({"fit_per_mbit": "-1"}, "0 or more"),
        ({"fit_per_mbit": "weigth=1,2"}, "'weigth'"),
        ({"fit_per_mbit": "bias=1"}, "name them as well"),
        ({"selftest": "missing.npz"}, "--selftest missing.npz"),
    ],
    ids=["by", "dangerous", "no-number", "negative", "unknown-role", "missing-role", "selftest"],
)
def test_wrong_options_are_told_in_one_line(worlds, given, told):
    with pytest.raises(OptionError, match=told):
        api.fmeda(worlds[0].run.path, **given)


def test_runs_that_are_no_pair_are_refused(worlds, curve, single):
    guarded, plain = (world.run.path for world in worlds)
    with pytest.raises(RunFolderError, match="is protected as well"):
        api.fmeda(plain, guarded)
    with pytest.raises(RunFolderError, match="faults of one bit"):
        api.fmeda(curve)
    with pytest.raises(RunFolderError, match="run both campaigns alike"):
        api.fmeda(guarded, single)


def test_strikes_that_go_one_way_are_told_and_are_no_pair_of_flips(worlds, struck):
    told = api.fmeda(struck[0].run.path).html
    assert "Bits flip in true cells from 1 to 0 with a probability of 0.8, else from 0 to 1" in told
    with pytest.raises(RunFolderError, match="another way in which bits flip than"):
        api.fmeda(worlds[0].run.path, struck[1].run.path)


def test_a_run_of_an_earlier_version_is_refused(single, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    for name in ("manifest.json", "faults.csv"):
        (old / name).write_bytes((single / name).read_bytes())
    summary = json.loads((single / "summary.json").read_text(encoding="utf-8"))
    del summary["drawing"]
    (old / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    with pytest.raises(RunFolderError, match="did not record how faults were drawn"):
        api.fmeda(old)


@pytest.fixture(scope="module")
def in_memory(digits_int8, digits, tmp_path_factory):
    """All faults of some bits of a file's scales, in a memory with ECC and in one without, and a sample of each."""
    folder, proto = tmp_path_factory.mktemp("ecc"), read_model(digits_int8)[0]
    onnx.save(proto, folder / "net.onnx")
    model = DeployedModel.load(folder / "net.onnx")
    options = {"roles": (Role.WEIGHT_SCALE, Role.ACTIVATION_SCALE), "bits": BITS, "images": 10, "workers": 1}
    runs = {}
    for name, values in (("all", {"exhaustive": True}), ("some", {"samples": 60})):
        for ecc in ("secded", "none"):
            Campaign(model, digits, CampaignOptions(**options, **values, ecc=ecc)).run(folder / f"{name}-{ecc}")
            runs[name, ecc] = folder / f"{name}-{ecc}"
    return runs


def test_ecc_controls_all_single_bits_and_tells_none(in_memory):
    found = api.fmeda(in_memory["all", "secded"], in_memory["all", "none"], by="role")
    with (in_memory["all", "none"] / "faults.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    harm = sum(1.0 if row["outcome"] == "due" else int(row["sdc1"]) / int(row["images"]) for row in rows)
    assert harm > 0.0
    metrics = found.metrics
    assert set(metrics) == {"spfm", "lfm", "coverage/memory-ecc", "coverage/health"}
    assert metrics["coverage/health"] is None
    for metric, truth in (("coverage/memory-ecc", 1.0), ("spfm", 1.0), ("lfm", 1.0 - harm / len(rows))):
        for end in ("low", "value", "high"):
            assert getattr(metrics[metric], end) == pytest.approx(truth, abs=1e-9), metric
    analysis = found.analysis
    assert {element.mechanism for element in analysis.elements} == {"memory-ecc"}
    for row in analysis.found.rows:
        assert row.latent.value == pytest.approx(row.raw - row.safe.value)
    assert analysis.found.latent.value == pytest.approx(harm / 1e6)  # 1 FIT in 10^6 bits where no rate is given
    bare = api.fmeda(in_memory["all", "none"])
    assert bare.metrics["lfm"].value == 1.0
    lost = sum(row["outcome"] == "due" for row in rows)  # which is detected, as the runtime says so
    assert bare.analysis.found.undetected.value == pytest.approx((harm - lost) / 1e6)
    assert bare.metrics["spfm"].value < 1.0


def test_samples_of_ecc_hold_what_all_faults_tell(in_memory):
    truth = api.fmeda(in_memory["all", "secded"], in_memory["all", "none"]).metrics
    found = api.fmeda(in_memory["some", "secded"], in_memory["some", "none"]).metrics
    for name in ("spfm", "lfm", "coverage/memory-ecc"):
        assert found[name].low <= truth[name].value <= found[name].high
        assert found[name].low < 1.0
    page = api.fmeda(in_memory["some", "secded"], in_memory["some", "none"]).html
    assert "corrects every flip of one bit" in page
    assert "are no mechanism" in page
    assert "leaves most of LFM open" in page


def test_the_target_of_each_metric_is_told_only_where_mechanisms_are_known(in_memory):
    both = api.fmeda(in_memory["all", "secded"], in_memory["all", "none"]).html
    assert "SPFM, 100 %, reaches the target value of ASIL D for this metric" in both
    assert "for the stored bits alone: the metric is of the whole item" in both
    few = api.fmeda(in_memory["some", "secded"], in_memory["some", "none"])
    few_told = few.metrics["coverage/memory-ecc"].low > 0.0
    assert ("for the stored bits alone" in few.html) == few_told
    assert "reaches" not in api.fmeda(in_memory["all", "secded"]).html.split("Targets by level")[1].split("</p>")[0]


def test_runs_with_ecc_are_no_second_and_strikes_no_first(in_memory, digits_int8, digits, tmp_path):
    with pytest.raises(RunFolderError, match="it ran with --ecc"):
        api.fmeda(in_memory["all", "none"], in_memory["all", "secded"])
    model = DeployedModel.load(digits_int8)
    options = CampaignOptions(faults="cluster", ecc="secded", samples=10, images=10, workers=1)
    Campaign(model, digits, options).run(tmp_path / "strikes")
    with pytest.raises(RunFolderError, match="faults of one bit"):
        api.fmeda(tmp_path / "strikes")
