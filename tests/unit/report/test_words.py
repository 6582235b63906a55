"""The words of a report: levels, units, what stands beside what, and what is named as missing."""

import json

import pytest

from resq_deploy.campaign.options import FaultModel
from resq_deploy.errors import RunFolderError
from resq_deploy.records import write_json
from resq_deploy.report.build import document, gather
from resq_deploy.report.markdown import as_markdown
from resq_deploy.report.page import render
from resq_deploy.report.runs import load_runs
from resq_deploy.report.scope import not_tested


def edited(path, change):
    value = json.loads(path.read_text())
    change(value)
    write_json(path, value)


@pytest.fixture
def attacked(attack_folder, tmp_path):
    """Make an attackcamp folder, with other options or another number of images."""

    def make(name, images=100, radii=None, data=None, **options):
        folder = attack_folder(tmp_path / name, "0" * 64)

        def change(summary):
            summary["clean"]["n"] = images
            if radii:
                summary["worst_case"] = dict(zip(radii, summary["worst_case"].values(), strict=False))

        edited(folder / "summary.json", change)
        edited(folder / "manifest.json", lambda manifest: manifest["options"].update(options))
        if data:
            edited(folder / "manifest.json", lambda manifest: manifest["sha256"].update(data=data))
        return folder

    return make


def attack_titles(*folders):
    return [section.title for section in document(gather(folders)).sections if section.topic == "Attacks"]


def test_the_level_of_the_intervals_is_said_run_by_run_where_it_differs(single, curve, faultcamp):
    assert document(gather([single, curve])).lead.endswith("In brackets: 95 % intervals.")
    other = faultcamp("ninety", samples=10, confidence=0.9)
    lead = document(gather([single, curve, other])).lead
    assert lead.endswith("In brackets: intervals, of 95 % in single and curve and 90 % in ninety.")


def test_radii_have_their_unit_and_norm(attacked):
    (linf,) = attack_titles(attacked("linf"))
    assert linf.endswith("are answered right under square and twin-pgd within 4/255 Linf")
    (l2,) = attack_titles(attacked("l2", radii=("0.25", "0.5"), norm="l2"))
    assert l2.endswith("are answered right under square and twin-pgd within 0.5 L2")


def test_attacks_on_other_images_are_not_put_in_one_heading(attacked):
    folders = [attacked("a"), attacked("b"), attacked("few", images=40), attacked("l2", norm="l2", radii=("0.5",))]
    folders.append(attacked("mine", data="f" * 64))
    first, apart, *_ = attack_titles(*folders)
    assert first.startswith("Under the worst attack at 4/255 Linf, accuracy is ")
    assert first.endswith("(b)")
    assert apart == "Attacks on other data, other images or within another norm are not held against each other"
    text = as_markdown(document(gather(folders)))
    assert "Not among them, on other data, other images or within another norm: few, l2 and mine." in text
    assert "| few | digits" in text


def test_attacks_are_not_paired_and_that_is_said(attacked):
    folders = [attacked("a"), attacked("b")]
    assert "Attacks are not paired, since an attack searches anew on each file" in as_markdown(
        document(gather(folders))
    )
    with pytest.raises(RunFolderError, match=r"cannot compare a and b: attacks are not paired.*shown side by side"):
        gather(folders, must_compare=True)


def test_queries_and_steps_are_told_only_of_attacks_that_used_them(attacked):
    queries, steps = "queries an image", "steps for those with gradients"
    text = as_markdown(document(gather([attacked("black", attacks=["square"])])))
    assert queries in text
    assert steps not in text
    text = as_markdown(document(gather([attacked("white", attacks=["twin-pgd"])])))
    assert queries not in text
    assert steps in text


def test_markdown_does_not_tell_how_to_read_plots_it_has_not(everything):
    found = document(gather(everything))
    page, text = render(found), as_markdown(found)
    for words in ("pale dot", "Open dots", "by colour", "Bands: ", "Epsilon 0 is"):
        assert words in page
        assert words not in text


def test_layers_no_fault_fell_on_are_named(single, copied):
    folder = copied(single)

    def change(summary):
        assert set(summary["by_layer"]) <= set(summary["population"]["layers"])
        summary["population"]["layers"] = [*summary["by_layer"], *(f"other{number}" for number in range(12))]

    edited(folder / "summary.json", change)
    (said,) = not_tested(load_runs([folder]))[1:]
    named = ", ".join(f"other{number}" for number in range(10))
    assert f"in single, no fault fell on layers {named} and 2 more;" in said


def test_what_the_file_stores_and_no_fault_was_tried_in_is_said_by_reason(single, copied):
    folder = copied(single)
    assert "left out" not in " ".join(not_tested(load_runs([folder])))
    values = [("a", 64, "shape"), ("b", 64, "shape"), ("c", 8, "switch")]
    listed = [{"tensor": tensor, "bits": bits, "reason": reason} for tensor, bits, reason in values]
    edited(folder / "summary.json", lambda summary: summary["population"].update(left_out=listed))
    (said,) = not_tested(load_runs([folder]))[1:]
    assert "no faults in 3 stored values that are left out (shape, 128 bits; switch, 8 bits);" in said
    assert "left out (shape" in as_markdown(document(gather([folder])))


def test_layers_that_another_run_hit_are_known_to_exist(single, copied):
    folder = copied(single)
    edited(folder / "summary.json", lambda summary: summary["population"].pop("layers"))
    edited(folder / "summary.json", lambda summary: summary["by_layer"].pop("fc"))
    edited(folder / "manifest.json", lambda manifest: manifest["options"].update(seed=3))
    lost = next(one for one in not_tested(load_runs([folder, single])) if "in single" in one or "single" in one)
    assert "no fault fell on layer fc;" in lost


def test_why_there_is_no_exposure_is_said(faultcamp):
    folder = faultcamp("page-burst", faults=FaultModel.BURST, samples=20)
    (said,) = not_tested(load_runs([folder]))[1:]
    assert "in page-burst, no exposure: exposure adds up faults of one bit each, and a burst flips several" in said


def test_a_child_without_manifest_is_said(single, tmp_path):
    write_json(tmp_path / "manifest.json", {"schema": 1, "command": "demo"})
    (tmp_path / "single").symlink_to(single)
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "summary.json").write_text("{}")
    with pytest.raises(
        RunFolderError, match=r"lost holds a summary\.json and no manifest\.json: copy the whole folder"
    ):
        load_runs([tmp_path])
