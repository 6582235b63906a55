"""The steps of a study: what is shared, in which order, and on which command lines."""

import pathlib

import pytest

from resq_deploy.errors import OptionError
from resq_deploy.pipeline.study import Study, StudyOptions, command_lines
from resq_deploy.pipeline.study_recipe import read_recipe
from resq_deploy.pipeline.study_steps import steps_of


def _anything(_command, _options, _line):
    """Find nothing wrong."""


RECIPE = """
[grid]
network = ["resnet8"]
dataset = ["digits"]
variant = ["baseline", "fault", "attack+fault"]
seed = [0, 1]
[train]
epochs-baseline = 2
epochs-fault = 3
[export-int8]
no-gate = true
[faultcamp.chips]
faults = "ber"
[attackcamp.pgd]
attacks = "twin-pgd"
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return read_recipe(str(path), None, _anything)


def test_chains_share_their_trainings(recipe):
    steps = steps_of(recipe, recipe.cells())
    names = [step.name for step in steps]
    assert len(names) == len(set(names))
    assert [name for name in names if "seed-0/train" in name] == [
        f"resnet8/digits/seed-0/train-{stages}" for stages in ("baseline", "fault", "attack", "attack+fault")
    ]


def test_all_three_stages_are_trained_as_both_and_exported_in_their_own_way(tmp_path):
    path = tmp_path / "recipe.toml"
    corners = 'variant = ["attack+fault", "resq"]'
    text = RECIPE.replace('variant = ["baseline", "fault", "attack+fault"]', corners)
    path.write_text(f"{text}[variant.resq.export-int8]\nranges = 'fault-aware'\n", encoding="utf-8")
    recipe = read_recipe(str(path), None, _anything)
    both, resq = ({step.name: step for step in steps_of(recipe, [cell])} for cell in recipe.cells() if cell.seed == 0)
    shared = [step for name, step in both.items() if "/train-" in name]
    assert shared == [step for name, step in resq.items() if "/train-" in name]
    exports = [
        steps[f"resnet8/digits/seed-0/{name}/net.int8.onnx"] for name, steps in (("attack+fault", both), ("resq", resq))
    ]
    assert exports[0].reads == exports[1].reads
    assert exports[1].arguments == (*exports[0].arguments, "--ranges", "fault-aware")


def test_every_step_reads_only_what_earlier_ones_wrote(recipe):
    written: set[str] = set()
    for step in steps_of(recipe, recipe.cells()):
        assert {path for _, path in step.reads} <= written
        assert not set(step.writes) & written
        written.update(step.writes)


def test_epochs_of_other_stages_do_not_matter_to_a_training(recipe):
    by_name = {step.name: step.arguments for step in steps_of(recipe, recipe.cells())}
    assert "--epochs-fault" not in by_name["resnet8/digits/seed-0/train-baseline"]
    assert "--epochs-baseline" not in by_name["resnet8/digits/seed-0/train-fault"]
    assert by_name["resnet8/digits/seed-0/train-fault"][-2:] == ("--epochs-fault", "3")


def test_under_a_budget_hardening_is_one_command_that_starts_from_the_baseline(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.replace("[train]", "[train]\nclean-budget = 1\nepochs-attack = 4"), encoding="utf-8")
    recipe = read_recipe(str(path), None, _anything)
    steps = {step.name: step for step in steps_of(recipe, recipe.cells()) if "seed-0" in step.name}
    home = "resnet8/digits/seed-0"
    assert [name for name in steps if "/train-" in name] == [
        f"{home}/train-{stages}" for stages in ("baseline", "fault", "attack+fault")
    ]
    assert "--clean-budget" not in steps[f"{home}/train-baseline"].arguments
    both = steps[f"{home}/train-attack+fault"]
    assert both.reads == (("--init", f"{home}/train-baseline/baseline.pt"),)
    assert both.writes[0] == f"{home}/train-attack+fault/budget.pt"
    line = " ".join(both.arguments)
    assert "--stages attack,fault" in line
    assert all(text in line for text in ("--clean-budget 1", "--epochs-attack 4", "--epochs-fault 3"))
    assert "--epochs-baseline" not in line
    assert steps[f"{home}/attack+fault/net.int8.onnx"].reads == (("", both.writes[0]),)


def test_command_lines(recipe):
    study = Study(recipe, StudyOptions(cells=("*/seed-1/fault",)))
    cell = "out/resnet8/digits/seed-1"
    common = "--dataset digits --seed 1"
    assert command_lines(study, pathlib.Path("out"), pathlib.Path("data")) == [
        f"resq-deploy train --network resnet8 {common} --stages baseline --epochs-baseline 2 "
        f"--out {cell}/train-baseline --data-dir data --resume",
        f"resq-deploy train --init {cell}/train-baseline/baseline.pt --network resnet8 {common} --stages fault "
        f"--epochs-fault 3 --out {cell}/train-fault --data-dir data --resume",
        f"resq-deploy export-int8 {cell}/train-fault/fault.pt {common} --no-gate "
        f"--out {cell}/fault/net.int8.onnx --data-dir data",
        f"resq-deploy faultcamp {cell}/fault/net.int8.onnx {common} --faults ber "
        f"--out {cell}/fault/faultcamp-chips --data-dir data --resume",
        f"resq-deploy attackcamp {cell}/fault/net.int8.onnx {common} "
        f"--attacks twin-pgd --out {cell}/fault/attackcamp-pgd --data-dir data --resume",
    ]


@pytest.mark.parametrize(
    ("attacks", "needed"), [("square, transfer-pgd", True), (None, True), ("square", False), ("twin-pgd", False)]
)
def test_an_attack_campaign_gets_the_float_network_only_where_it_uses_it(tmp_path, attacks, needed):
    path = tmp_path / "recipe.toml"
    given = "" if attacks is None else f'attacks = "{attacks}"'
    path.write_text(RECIPE.replace('attacks = "twin-pgd"', given), encoding="utf-8")
    recipe = read_recipe(str(path), None, _anything)
    attacked = [step for step in steps_of(recipe, recipe.cells()) if step.command == "attackcamp"]
    assert {"--surrogate" in dict(step.reads) for step in attacked} == {needed}


def test_every_pattern_of_cells_must_match(recipe):
    with pytest.raises(OptionError, match=r"no cell matches nope/\*: the recipe has"):
        Study(recipe, StudyOptions(cells=("*/fault", "nope/*")))


def test_no_cell_left(recipe):
    with pytest.raises(
        OptionError, match=r"no cell matches \*/gtsrb/\*: the recipe has resnet8/digits/seed-0/baseline"
    ):
        Study(recipe, StudyOptions(cells=("*/gtsrb/*",)))


def test_of_many_cells_the_nearest_are_named(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.replace("seed = [0, 1]", "seed = [0, 1, 2]"), encoding="utf-8")
    recipe = read_recipe(str(path), None, _anything)
    with pytest.raises(OptionError, match=r"the recipe has .*resnet8/digits/seed-2/fault\b.* and 5 more$"):
        Study(recipe, StudyOptions(cells=("resnet8/digit/seed-2/fault",)))


def test_native_arithmetic_is_handed_to_whatever_runs_int8_files(recipe):
    native = steps_of(recipe, recipe.cells(), "native")
    given = {step.command: step.arguments[-2:] for step in native}
    assert given["train"] != ("--arithmetic", "native")
    assert [given[name] for name in ("export-int8", "faultcamp", "attackcamp")] == [("--arithmetic", "native")] * 3
    assert "--arithmetic" not in " ".join(" ".join(step.arguments) for step in steps_of(recipe, recipe.cells()))


def test_a_recipe_that_names_its_arithmetic_is_left_alone(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.replace('faults = "ber"', 'faults = "ber"\narithmetic = "exact"'), encoding="utf-8")
    recipe = read_recipe(str(path), None, _anything)
    campaigns = [step for step in steps_of(recipe, recipe.cells(), "native") if step.command == "faultcamp"]
    assert all(step.arguments.count("--arithmetic") == 1 for step in campaigns)
    assert all("native" not in step.arguments for step in campaigns)


def test_whatever_builds_a_network_of_ones_own_is_told_its_name(tmp_path):
    """A checkpoint alone must not choose what code is run."""
    path = tmp_path / "recipe.toml"
    text = RECIPE.replace('"resnet8"', '"mine:network", "resnet8"').replace('"twin-pgd"', '"transfer-pgd"')
    path.write_text(text, encoding="utf-8")
    recipe = read_recipe(str(path), None, _anything)
    for step in steps_of(recipe, recipe.cells()):
        own = step.name.startswith("mine")
        named = step.command in (("train", "export-int8", "attackcamp") if own else ("train",))
        line = step.command_line(tmp_path, None)
        assert line.count("--network") == named
        assert not named or line[line.index("--network") + 1] == ("mine:network" if own else "resnet8")
