"""Recipes: read as a whole, checked as a whole."""

import importlib.resources
import json
import re

import pytest

from resq_deploy.cli.study import check_options
from resq_deploy.errors import OptionError
from resq_deploy.pipeline.study_format import VARIANTS
from resq_deploy.pipeline.study_recipe import Cell, arguments, read_recipe, shipped_recipes

GRID = '[grid]\nnetwork = ["resnet8"]\ndataset = ["digits"]\n'


def written(folder, text):
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", shipped_recipes())
@pytest.mark.parametrize("profile", [None, "cpu"])
def test_shipped_recipes_are_sound(name, profile):
    if name == "demo" and profile:
        with pytest.raises(OptionError, match="has no profile 'cpu': it has none"):
            read_recipe(name, profile, check_options)
        return
    recipe = read_recipe(name, profile, check_options)
    cells = list(recipe.cells())
    assert len(cells) == len(set(cells)) == {"demo": 8, "ablation": 30, "paper": 60}[name]


def test_a_profile_a_data_set_and_a_network_are_laid_over_the_rest(tmp_path):
    text = GRID.replace('["resnet8"]', '["resnet8", "resnet20"]') + (
        "[train]\nepochs-attack = 7\nepochs-fault = 7\nbatch-size = 32\n"
        "[dataset.digits.train]\nepochs-fault = 5\nbatch-size = 16\n"
        "[network.resnet20.train]\nbatch-size = 8\n"
        "[profile.short.train]\nepochs-attack = 1\n[profile.short.grid]\nseed = [3]\n"
    )
    recipe = read_recipe(written(tmp_path, text), "short", check_options)
    assert recipe.seeds == (3,)
    small, large = (
        recipe.options(Cell(network=network, dataset="digits", variant="attack", seed=3))["train"]
        for network in ("resnet8", "resnet20")
    )
    assert small == {"epochs-attack": 1, "epochs-fault": 5, "batch-size": 16}
    assert large == {"epochs-attack": 1, "epochs-fault": 5, "batch-size": 8}


def test_a_variant_may_be_exported_in_a_way_of_its_own(tmp_path):
    text = GRID + "[export-int8]\nopset = 17\n[variant.fault.export-int8]\nranges = 'mse'\n"
    recipe = read_recipe(written(tmp_path, text), None, check_options)
    exports = {cell.variant: recipe.options(cell)["export-int8"] for cell in recipe.cells()}
    assert exports["fault"] == {"opset": 17, "ranges": "mse"}
    assert exports["baseline"] == exports["attack"] == {"opset": 17}


def test_files_with_uint8_weights_may_be_asked_for(tmp_path):
    text = GRID + "[export-int8]\nweight-type = 'uint8'\n[variant.baseline.export-int8]\nweight-type = 'int8'\n"
    recipe = read_recipe(written(tmp_path, text), None, check_options)
    exports = {cell.variant: arguments(recipe.options(cell)["export-int8"]) for cell in recipe.cells()}
    assert exports["fault"] == ["--weight-type", "uint8"]
    assert exports["baseline"] == ["--weight-type", "int8"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[grid]\nnetwork = []\ndataset = ['digits']\n", "[grid] needs network = [...]"),
        ("[grid]\nnetwork = ['a']\n", "[grid] needs dataset = [...]"),
        ("[grid]\nnetwork = [1]\ndataset = ['digits']\n", "[grid] network: give names, each once"),
        (GRID + "seed = [0, 0]\n", "[grid] seed: give numbers, each once"),
        (GRID + "seed = ['x']\n", "[grid] seed: give numbers, each once"),
        (
            GRID + "variant = ['both']\n",
            "[grid] unknown variant 'both', known are baseline, attack, fault, attack+fault, resq",
        ),
        (GRID + "variant = 3\n", "[grid] needs variant = [...]"),
        (GRID + "variant = ['resq']\n", "say which under [variant.resq.export-int8]"),
        (GRID + "networks = ['a']\n", "[grid] has no 'networks'"),
        (GRID + "[trains]\n", "unknown table [trains]"),
        ("train = 3\n" + GRID, "'train' is no table"),
        (GRID + "[faultcamp]\nimages = 5\n", "[faultcamp] holds 'images' itself: name the campaign"),
        (GRID + "[dataset.digits]\nepochs = 3\n", "[dataset.digits] has no 'epochs'"),
        (GRID + "[variant.baseline.train]\nepochs = 3\n", "[variant.baseline] has no 'train', it has export-int8"),
        (GRID + "[variant.both.export-int8]\nopset = 17\n", "unknown variant 'both', known are baseline, attack,"),
        (GRID + "[train]\nepochs = 3\n", "[train] epochs: no such option"),
        (GRID + "[train]\nepochs-attack = 'many'\n", "[train] Invalid value for '--epochs-attack'"),
        (GRID + "[train]\nstages = 'baseline'\n", "[train] stages: the study gives this itself"),
        (GRID + "[faultcamp.a]\nfaults = 'none'\n", "[faultcamp.a] Invalid value for '--faults'"),
        (GRID + "[attackcamp.a]\nsurrogate = 'x.pt'\n", "[attackcamp.a] surrogate: the study gives this itself"),
        ("grid = [\n", "is not TOML"),
        (GRID + "variant = []\n", "[grid] needs variant = [...]"),
        (GRID + "variant = [['baseline']]\n", "[grid] variant: give names, each once"),
        (GRID + "seed = []\n", "[grid] needs seed = [...]"),
        (GRID + "seed = [-1]\n", "[grid] seed: -1 is below 0"),
        (GRID.replace("resnet8", "resnet99"), "[grid] unknown network 'resnet99': give one of resnet8, "),
        (GRID.replace("resnet8", ".."), "[grid] network '..' is no name"),
        (
            GRID.replace('["digits"]', '["a/x.npz", "a.x.npz"]'),
            "[grid] dataset 'a/x.npz' and 'a.x.npz' would share the folder a.x.npz: rename one",
        ),
        (GRID + "[faultcamp.'../evil']\nimages = 5\n", "[faultcamp.'../evil']: name it with letters, digits"),
        (GRID + "[study]\ntitel = 'x'\n", "[study] has no 'titel', it has title"),
        (GRID + "[study]\ntitle = 3\n", "[study] title: give a text"),
        (GRID + "[dataset]\ndigits = 3\n", "[dataset.digits] is no table"),
        (GRID + "[dataset.digit.train]\nepochs-fault = 3\n", "[dataset.digit]: not in [grid] dataset"),
        (GRID + "[dataset.digits]\ntrain = 3\n", "[dataset.digits.train] is no table"),
        (GRID + "[dataset.digits]\nfaultcamp = 3\n", "[dataset.digits.faultcamp] is no table"),
        (GRID + "[dataset.digits.faultcamp]\nchips = 3\n", "[dataset.digits.faultcamp] holds 'chips' itself"),
        (GRID + "variant = ['resq']\n[variant.resq.export-int8]\n", "say which under [variant.resq.export-int8]"),
        (GRID + "variant = ['baseline+stage3']\n", "variant 'resq' is 'attack+fault' with stage 3: say which under"),
        (
            GRID + "variant = ['protected']\n[variant.resq.export-int8]\nguard = 'parameters'\n",
            "variant 'protected' is 'resq' with votes and codes: say which under [variant.protected.export-int8]",
        ),
        ("profile = 3\n" + GRID, "'profile' holds something that is no table"),
        (GRID + "[profile]\ncpu = 3\n", "'profile' holds something that is no table"),
        (GRID + "[profile.cpu.trian]\nepochs-fault = 3\n", "[profile.cpu] unknown table [trian]"),
        (GRID + "[profile.cpu.train]\nepochs = 3\n", "[profile.cpu] [train] epochs: no such option"),
        (GRID + "[train]\nhelp = true\n", "[train] help: no such option"),
        (GRID + "[train]\nbogus = false\n", "[train] bogus: no such option"),
        (GRID + "[train]\nepochs-baseline = false\n", "[train] epochs-baseline: takes a value; false is for flags"),
        (GRID + "[train]\nepochs-baseline = [1, 2]\n", "[train] epochs-baseline: takes one value, not a list"),
        (GRID + "[train]\nepochs-baseline = -5\n", "[train] epochs-baseline is -5: give at least 1"),
        (GRID + "[export-int8]\ngate = ['speed=1']\n", "[export-int8] "),
        (GRID + "[export-int8]\nweight-type = 'int4'\n", "[export-int8] Invalid value for '--weight-type'"),
        (
            GRID + "[export-int8]\nweight-type = 'uint8'\nreduce-range = true\n",
            "[export-int8] --reduce-range is for int8 weights",
        ),
        (GRID + "[faultcamp.a]\nroles = 'wieght'\n", "[faultcamp.a] "),
        (GRID + "[attackcamp.a]\nattacks = 'sqare'\n", "[attackcamp.a] --attacks: unknown attack 'sqare'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, text, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        read_recipe(written(tmp_path, text), None, check_options)


def test_everything_wrong_is_said_at_once(tmp_path):
    text = GRID + "[train]\nepochs = 3\nstages = 'x'\n[export-int8]\nranges = 'wide'\n"
    with pytest.raises(OptionError) as caught:
        read_recipe(written(tmp_path, text), None, check_options)
    assert all(part in str(caught.value) for part in ("epochs: no such option", "stages", "--ranges"))


STAGE_3 = """
[variant.resq.export-int8]
ranges = "fault-aware"
guard = "parameters"
[variant.protected.export-int8]
guard = "all"
[variant."baseline+protected".export-int8]
opset = 17
"""


def test_what_is_not_hardened_is_exported_as_its_hardened_twin(tmp_path):
    variants = ["baseline", "resq", "protected", "baseline+stage3", "baseline+protected"]
    recipe = read_recipe(written(tmp_path, f"{GRID}variant = {variants}\n{STAGE_3}"), None, check_options)
    exports = {cell.variant: recipe.options(cell)["export-int8"] for cell in recipe.cells()}
    assert exports["baseline"] == {}
    assert exports["resq"] == exports["baseline+stage3"] == {"ranges": "fault-aware", "guard": "parameters"}
    assert exports["protected"] == {"ranges": "fault-aware", "guard": "all"}
    assert exports["baseline+protected"] == {**exports["protected"], "opset": 17}


def test_a_missing_recipe_names_those_that_come_with_the_package():
    with pytest.raises(OptionError, match="give a TOML file, or one of ablation, demo, paper"):
        read_recipe("nowhere.toml", None, check_options)


def test_arguments():
    options = {"no-gate": True, "equalize": False, "gate": ["clean=2", "square=off"], "ber": "1e-3", "images": 5}
    assert arguments(options) == [
        "--no-gate",
        "--gate",
        "clean=2",
        "--gate",
        "square=off",
        "--ber",
        "1e-3",
        "--images",
        "5",
    ]


def test_the_schema_of_a_study_knows_every_variant():
    """It had not known those with votes and codes: the tables of such a study were refused after hours of training."""
    text = (importlib.resources.files("resq_deploy") / "schemas" / "study.json").read_text(encoding="utf-8")
    assert set(json.loads(text)["$defs"]["variant"]["enum"]) == set(VARIANTS)
