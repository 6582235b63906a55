import re

import pytest
import torch
import torchvision
from torch import nn

from resq_deploy.errors import CheckpointError
from resq_deploy.networks.fitting import fit
from resq_deploy.networks.registry import build_network

NEUTRAL = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def network(name="resnet8", classes=10, size=32):
    torch.manual_seed(1)
    return build_network(name, num_classes=classes, image_size=size, **NEUTRAL)


def fitted(given, built, **options):
    return fit(given, built.body, built.head, **{"origin": "my.pth", "adapt": False, **options})


def trained(classes=10):
    """A state_dict with other values than a fresh network's."""
    return {
        name: tensor + 0.5 if tensor.is_floating_point() else tensor + 7
        for name, tensor in network(classes=classes).body.state_dict().items()
    }


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.model."], ids=["none", "1", "2", "3"]
)
@pytest.mark.parametrize("entry", [None, "state_dict", "model"])
def test_weights_are_taken_whatever_wraps_them(prefix, entry):
    state = {prefix + name: tensor for name, tensor in trained().items()}
    found = fitted({"epoch": 3, entry: state} if entry else state, network())
    assert not found.new_head
    assert [note for note in found.notes if "taken off" in note] == (
        [f"'{prefix}' taken off the names"] if prefix else []
    )
    for name, tensor in trained().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(found.state[name], tensor), name


def test_a_prefix_that_is_a_module_of_the_network_stays():
    body = nn.Sequential()
    body.add_module("model", nn.Linear(4, 2))
    found = fit({"model.weight": torch.ones(2, 4), "model.bias": torch.ones(2)}, body, "model", origin="x", adapt=False)
    assert torch.equal(found.state["model.weight"], torch.ones(2, 4))
    assert not found.notes


def test_a_head_of_another_size_is_replaced_and_said():
    built = network(classes=7)
    found = fitted(trained(classes=10), built)
    assert found.new_head
    assert found.notes == ("the head is a new one, for 7 classes: it has to be trained",)
    assert torch.equal(found.state["fc.weight"], built.body.state_dict()["fc.weight"])
    assert torch.equal(found.state["conv1.weight"], trained()["conv1.weight"])


def test_a_headless_backbone_gets_a_head():
    state = {name: tensor for name, tensor in trained().items() if not name.startswith("fc.")}
    assert fitted(state, network()).new_head


def test_missing_and_surplus_weights_are_named_in_one_line():
    state = trained()
    del state["conv1.weight"]
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as error:
        fitted(state, network())
    assert "\n" not in str(error.value)
    assert "my.pth does not fit the network: it lacks conv1.weight; it has besides extra.weight" in str(error.value)


def test_long_lists_are_cut_short():
    with pytest.raises(CheckpointError, match=r"it lacks .* and \d+ more"):
        fitted(trained(), network("resnet20"))


def test_a_counter_of_batch_norm_may_be_missing():
    state = {name: tensor for name, tensor in trained().items() if not name.endswith("num_batches_tracked")}
    assert torch.equal(fitted(state, network()).state["conv1.weight"], trained()["conv1.weight"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "holds no weights by name"),
        ({"epoch": 3}, "holds no weights by name"),
        ({"conv1.weight": torch.full((1,), float("nan"))}, "'conv1.weight' holds a number that is not finite"),
        ({"conv1.weight": torch.zeros(2, 2).to_sparse()}, "'conv1.weight' is no dense tensor"),
        (dict(trained(), **{"conv1.weight": torch.zeros(16, 3, 5, 5)}), "has shape [16, 3, 5, 5] for 'conv1.weight'"),
    ],
    ids=["empty", "no tensors", "NaN", "sparse", "shape"],
)
def test_what_is_no_state_dict_of_the_network_is_one_line(given, message):
    with pytest.raises(CheckpointError, match=re.escape(message)):
        fitted(given, network())


def test_half_precision_weights_become_float32():
    state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in trained().items()}
    assert fitted(state, network()).state["conv1.weight"].dtype == torch.float32


class TestImageNetWeights:
    @pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "swin_t"])
    def test_those_of_torchvision_fit_networks_for_small_images(self, name):
        torch.manual_seed(0)
        state = getattr(torchvision.models, name)().state_dict()
        built = network(name, classes=10)
        found = fitted(state, built, adapt=True)
        assert found.new_head
        built.body.load_state_dict(found.state)
        taken = [key for key, tensor in state.items() if torch.equal(built.body.state_dict().get(key), tensor)]
        assert len(taken) > 0.9 * len(state) - 15  # all but stem, head and position tables
        assert built(torch.zeros(1, 3, 32, 32)).shape == (1, 10)

    def test_a_large_kernel_gives_its_middle(self):
        state = torchvision.models.resnet18().state_dict()
        found = fitted(state, network("resnet18"), adapt=True)
        assert torch.equal(found.state["conv1.weight"], state["conv1.weight"][:, :, 2:5, 2:5])
        assert "'conv1.weight' [64, 3, 7, 7] made [64, 3, 3, 3]" in found.notes

    def test_a_patch_answers_a_flat_image_as_before(self):
        state = torchvision.models.swin_t().state_dict()
        found = fitted(state, network("swin_t"), adapt=True)
        kernel = "features.0.0.weight"
        torch.testing.assert_close(found.state[kernel].sum((2, 3)), state[kernel].sum((2, 3)))

    def test_position_tables_keep_their_corners_of_a_constant(self):
        state = torchvision.models.swin_t().state_dict()
        tables = [name for name in state if name.endswith("relative_position_bias_table")]
        for place, name in enumerate(tables):
            state[name] = torch.full_like(state[name], float(place))
        found = fitted(state, network("swin_t"), adapt=True)
        for place, name in enumerate(tables):
            torch.testing.assert_close(found.state[name], torch.full_like(found.state[name], float(place)))

    def test_nothing_is_resized_unasked(self):
        with pytest.raises(CheckpointError, match="has shape"):
            fitted(torchvision.models.resnet18().state_dict(), network("resnet18"))
