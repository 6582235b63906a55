"""Options by name: text as on the command line, or the values themselves; what is wrong is told in one line."""

import pytest

import resq_deploy as rd
from resq_deploy.errors import OptionError


def test_text_and_values_say_the_same():
    said = rd.fault_options(roles="weight,bias", bits="0-3,7", ber="1e-3,1e-4", outputs="a, b", arithmetic="native")
    given = rd.fault_options(
        roles=said.roles, bits=[0, 1, 2, 3, 7], ber=(1e-4, 1e-3), outputs=["a", "b"], arithmetic=rd.Arithmetic.NATIVE
    )
    assert said == given
    attacks = rd.attack_options(attacks="square,twin-pgd", epsilon="2,4", norm="linf", bit_flip_roles="all")
    assert attacks == rd.attack_options(attacks=["square", "twin-pgd"], epsilon=[2, 4], bit_flip_roles=())


def test_what_is_named_stands_in_place_of_what_is_given():
    first = rd.fault_options(samples=50, images=20, arithmetic="native")
    second = rd.fault_options(first, images=30, optimization="none")
    assert (second.samples, second.images) == (50, 30)
    assert (second.deployment.arithmetic, second.deployment.optimization) == ("native", "none")
    flips = rd.attack_options(bit_flip_limit=5, bit_flip_batches=2)
    assert rd.attack_options(flips, bit_flip_limit=7).bit_flip.batches == 2
    assert rd.attack_options(flips, images=None) == flips, "None says nothing"


@pytest.mark.parametrize(
    ("make", "named", "words"),
    [
        (rd.fault_options, {"sample": 3}, "no option 'sample'"),
        (rd.fault_options, {"faults": "flip"}, "--faults 'flip': give one of single, ber"),
        (rd.fault_options, {"fault_list": "a.csv", "faults": "ber"}, "leave --faults out"),
        (rd.fault_options, {"arithmetic": "fast"}, "--arithmetic 'fast': give one of exact, native"),
        (rd.attack_options, {"norm": "l1"}, "--norm 'l1'"),
        (rd.attack_options, {"bit_flip_size": 3}, "no option 'size'"),
        (rd.attack_options, {"weights": "w.pth"}, "say with --network"),
        (rd.export_options, {"guards": "all"}, "no option 'guards'"),
        (rd.export_options, {"activation_percentile": "most"}, "give auto, or a number"),
        (rd.train_options, {"network": "resnet8", "epoch": 3}, "no option 'epoch'"),
        (rd.preprocessing, {"preprocess": "cifar"}, "give dataset, imagenet or none"),
        (rd.preprocessing, {"mean": 0.5}, "--mean and --std go together"),
        (rd.preprocessing, {"mean": 0.5, "std": [0.2, 0]}, "--std above 0"),
        (rd.task_wish, {"judge": "best"}, "no judge 'best'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_what_is_wrong_is_one_line(make, named, words):
    with pytest.raises(OptionError, match=words) as error:
        make(**named)
    assert "\n" not in str(error.value)


def test_numbers_are_text_or_numbers():
    assert rd.preprocessing(mean="0.5,0.4,0.3", std=0.25) == rd.preprocessing(mean=[0.5, 0.4, 0.3], std=[0.25])
    assert rd.preprocessing("imagenet").wish.mean == (0.485, 0.456, 0.406)
    assert rd.preprocessing("dataset").of_dataset


def test_gates_of_an_export_take_on_its_options():
    options = rd.export_options(guard="all", seed=3)
    gates = rd.gate_options(options, ["clean=2", "square=off"], enforce=False)
    assert gates == rd.gate_options(options, {"clean": 2.0, "square": None}, enforce=False)
    assert "square" not in gates.gates
    assert (gates.seed, gates.enforce, gates.bounds["clean"]) == (3, False, 2.0)
    with pytest.raises(OptionError, match="--gate 'clean': give NAME=POINTS"):
        rd.gate_options(options, ["clean"])


def test_stems_are_those_there_are():
    from resq_deploy.cli.train import command
    from resq_deploy.networks.names import STEMS

    (stem,) = (param for param in command.params if param.name == "stem")
    assert tuple(stem.type.choices) == STEMS


@pytest.mark.parametrize("layout", ["rows:64", "interleaved:4"])
def test_every_layout_that_a_message_recommends_can_be_given_by_name(layout):
    assert rd.fault_options(faults="cluster", memory_layout=layout).memory_layout == layout


@pytest.mark.parametrize("given", ["0.5", 0.5])
def test_true_cells_and_directions_by_name(given):
    found = rd.fault_options(flip_direction="1to0:0.8", true_cells=given)
    assert (str(found.flip_direction), str(found.true_cells)) == ("1to0:0.8", "0.5")
    rows = rd.fault_options(flip_direction="1to0", true_cells="rows:512", memory_layout="rows:64")
    assert (rows.true_cells.rows, rows.memory_layout) == (512, "rows:64")
    assert rd.fault_options(found, seed=3).true_cells == found.true_cells
    with pytest.raises(OptionError, match=r"--true-cells 1.5: give a share from 0 to 1"):
        rd.fault_options(flip_direction="1to0", true_cells=1.5)


def test_a_memory_with_rows_is_what_stuck_rows_ask_for():
    assert rd.fault_options(faults="stuck-row-0", memory_layout="rows:64").faults == "stuck-row-0"
    with pytest.raises(OptionError, match="give --memory-layout rows:BYTES, or a CSV file"):
        rd.fault_options(faults="stuck-row-0")
