import copy
import io
import shutil
import subprocess
import sys
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from resq_deploy.errors import MissingExtraError, ModelError, OptionError
from resq_deploy.networks import NETWORKS, build_network
from resq_deploy.networks.base import Network, TappedNetwork
from resq_deploy.networks.names import with_stem

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
PARAMETERS = {
    "resnet8": 78_042,
    "resnet20": 272_474,
    "resnet18": 11_173_962,
    "vgg16": 14_728_266,
    "efficientnet_b0": 4_020_358,
    "swin_t": 27_505_108,
}
SHAPES = {
    "resnet8": [(16, 32, 32), (32, 16, 16), (64, 8, 8), (64,)],
    "resnet20": [(16, 32, 32), (32, 16, 16), (64, 8, 8), (64,)],
    "resnet18": [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512,)],
    "vgg16": [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2), (512, 1, 1), (512,)],
    "efficientnet_b0": [
        (16, 32, 32),
        (24, 16, 16),
        (40, 8, 8),
        (80, 4, 4),
        (112, 4, 4),
        (192, 2, 2),
        (320, 2, 2),
        (1280,),
    ],
    "swin_t": [(16, 16, 96), (8, 8, 192), (4, 4, 384), (2, 2, 768), (768,)],
}


PLAIN = tuple(PARAMETERS)  # those with stems of stride 2 are the same but for one stride


def build(name: str, *, num_classes: int = 10, image_size: int = 32, seed: int = 0) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(name, num_classes=num_classes, mean=MEAN, std=STD, image_size=image_size)
        network(
            torch.rand(8, 3, image_size, image_size)
        )  # batch norm must have seen data, or logits may all but vanish
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        network(torch.rand(8, 3, image_size, image_size))
    return network


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    """Every network once, in eval mode; a test that changes one copies it."""
    return {name: build(name).eval() for name in PLAIN}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", PLAIN)
class TestEveryNetwork:
    def test_it_has_the_size_of_the_literature(self, networks, name):
        assert sum(parameter.numel() for parameter in networks[name].parameters()) == PARAMETERS[name]

    def test_features_of_every_stage(self, networks, images, name):
        network = networks[name]
        with torch.no_grad():
            logits, features = network.forward_with_taps(images)
            assert torch.equal(logits, network(images))
        assert logits.shape == (3, 10)
        assert logits.abs().max() > 1e-3
        assert list(features) == [*network.taps, "penultimate"]
        assert [tuple(value.shape[1:]) for value in features.values()] == SHAPES[name]
        assert torch.allclose(network.body.get_submodule(network.head)(features["penultimate"]), logits)

    def test_no_hook_is_left_behind(self, networks, images, name):
        network = networks[name]
        network.forward_with_taps(images)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())

    def test_a_tapped_network_gives_the_same_and_learns_for_the_network(self, networks, images, name):
        network = copy.deepcopy(networks[name])
        tapped = TappedNetwork(network).eval()
        for _ in range(2):
            (logits, features), (expected, wanted) = tapped(images), network.forward_with_taps(images)
            assert torch.equal(logits, expected)
            assert list(features) == list(wanted)
            assert all(torch.equal(features[key], wanted[key]) for key in wanted)
        logits.square().sum().backward()
        assert all(weight.grad is not None for weight in network.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
        tapped.train()(images)
        shared = dict(tapped.network.named_buffers())
        assert all(shared[key] is value for key, value in network.named_buffers())
        assert not any(module.training for module in network.modules())

    def test_features_lead_gradients_to_the_images(self, networks, images, name):
        _, features = networks[name].forward_with_taps(images.requires_grad_())
        first, *_, last = features.values()
        for feature in (first, last):
            (gradient,) = torch.autograd.grad(feature.square().sum(), images, retain_graph=True)
            assert gradient.abs().max() > 0

    def test_training_step_in_bfloat16_and_channels_last(self, networks, images, name):
        network = copy.deepcopy(networks[name]).train().to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits, features = network.forward_with_taps(images.contiguous(memory_format=torch.channels_last))
        loss = logits.float().logsumexp(1).sum() + sum(value.float().square().mean() for value in features.values())
        loss.backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())

    def test_functional_call_replaces_weights_for_the_features_too(self, networks, images, name):
        class WithTaps(nn.Module):
            def __init__(self, network: Network) -> None:
                super().__init__()
                self.network = network

            def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
                return self.network.forward_with_taps(x)

        network = networks[name]
        zeros = {f"network.{key}": torch.zeros_like(value) for key, value in network.named_parameters()}
        with torch.no_grad():
            logits, features = torch.func.functional_call(WithTaps(network), zeros, (images,))
            assert not logits.any()
            assert not features["penultimate"].any()
            assert network(images).any()

    def test_symbolic_tracing(self, networks, images, name):
        graph = torch.fx.symbolic_trace(networks[name])
        with torch.no_grad():
            assert torch.allclose(graph(images), networks[name](images), atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ("efficientnet_b0", "swin_t") else ())
        for name in PLAIN
        if name != "resnet8"  # which is resnet20's code
    ],
)
def test_the_exported_file_agrees_for_every_batch_size(networks, images, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.onnx.export(
            networks[name], (images[:2],), dynamo=True, dynamic_shapes=({0: "batch"},), verbose=False
        )
    stream = io.BytesIO()
    program.save(stream)
    session = onnxruntime.InferenceSession(stream.getvalue(), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        (logits,) = session.run(None, {session.get_inputs()[0].name: images[:batch].numpy()})
        with torch.no_grad():
            expected = networks[name](images[:batch]).numpy()
        np.testing.assert_allclose(logits, expected, atol=1e-4 * max(1, np.abs(expected).max()))


def test_weights_follow_the_seed():
    first, again, other = (build("resnet8", seed=seed).body.fc.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_new_network_is_in_training_mode():
    assert build_network("resnet8", num_classes=4, mean=MEAN, std=STD).training


def test_normalisation_is_inside(networks, images):
    network = networks["resnet8"]
    normal = (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    with torch.no_grad():
        assert torch.allclose(network.normalise(images), normal)
        assert torch.allclose(network(images), network.body(normal), atol=1e-5)
    assert {"normalise.mean", "normalise.std"} <= set(network.state_dict())


@pytest.mark.parametrize(
    ("name", "size", "shapes"),
    [
        ("resnet20", 48, [(16, 48, 48), (32, 24, 24), (64, 12, 12), (64,)]),
        ("swin_t", 48, [(24, 24, 96), (12, 12, 192), (6, 6, 384), (3, 3, 768), (768,)]),
        ("resnet18", 96, [(64, 24, 24), (128, 12, 12), (256, 6, 6), (512, 3, 3), (512,)]),
        ("vgg16", 224, [(64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7), (4096,)]),
        ("swin_t", 224, [(56, 56, 96), (28, 28, 192), (14, 14, 384), (7, 7, 768), (768,)]),
        ("resnet18-stride2", 32, [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2), (512,)]),
        ("vgg16-stride2", 32, [(64, 8, 8), (128, 4, 4), (256, 2, 2), (512, 1, 1), (512, 1, 1), (512,)]),
        ("swin_t-stride2", 32, [(8, 8, 96), (4, 4, 192), (2, 2, 384), (1, 1, 768), (768,)]),
    ],
)
def test_other_sizes(name, size, shapes):
    with torch.device("meta"):  # shapes alone, at no cost
        network = build_network(name, num_classes=5, mean=MEAN, std=STD, image_size=size)
        logits, features = network.forward_with_taps(torch.empty(2, 3, size, size))
    assert logits.shape == (2, 5)
    assert [tuple(value.shape[1:]) for value in features.values()] == shapes


def test_small_images_keep_their_size_in_the_stem_of_efficientnet():
    with torch.device("meta"):
        strides = [
            build_network(name, num_classes=5, mean=MEAN, std=STD, image_size=size).body.features[0][0].stride
            for name, size in (("efficientnet_b0", 64), ("efficientnet_b0", 65), ("efficientnet_b0-stride2", 64))
        ]
    assert strides == [(1, 1), (2, 2), (2, 2)]


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "efficientnet_b0", "swin_t"])
def test_a_stem_of_stride_2_is_part_of_the_name_and_for_small_images(name):
    assert with_stem(name, "stride2") == with_stem(f"{name}-stride2", None) == f"{name}-stride2"
    assert with_stem(name, "cifar") == name
    assert f"{name}-stride2" in NETWORKS
    with pytest.raises(OptionError, match=f"--stem cifar and .* contradict each other: give --network {name}"):
        with_stem(f"{name}-stride2", "cifar")
    with torch.device("meta"), pytest.raises(ModelError, match=f"images of up to 64 pixels, .* give {name}, whose"):
        build_network(f"{name}-stride2", num_classes=5, mean=MEAN, std=STD, image_size=96)


@pytest.mark.parametrize("name", ["resnet20", "module:function"])
def test_other_networks_have_no_such_stems(name):
    with pytest.raises(OptionError, match=f"and not for {name}: leave it out"):
        with_stem(name, "stride2")


def test_few_classes_do_not_start_with_wild_logits():
    """torchvision draws EfficientNet's last layer from +-1/sqrt(classes): ten classes began at a loss above 3."""
    torch.manual_seed(0)
    network = build_network("efficientnet_b0", num_classes=10, mean=MEAN, std=STD, image_size=32)
    assert network.body.classifier[1].weight.abs().max().item() <= 1280**-0.5


def test_names_come_without_torch():
    code = (
        "import sys; sys.modules.update(torch=None, torchvision=None)\n"
        "from resq_deploy.networks import NETWORKS, build_network\n"
        "from resq_deploy.errors import MissingExtraError\n"
        "try:\n    build_network('resnet8', num_classes=2, mean=[0.5], std=[0.5])\n"
        "except MissingExtraError as error:\n    print(len(NETWORKS), error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "10 training needs the extra 'train': pip install 'resq-deploy[train]'", done.stderr


def test_a_missing_torchvision_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'resq-deploy\[train\]'"):
        build_network("resnet8", num_classes=2, mean=MEAN, std=STD)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        pytest.param("resnet21", {}, "did you mean resnet20", id="nearly a name"),
        pytest.param("transformer-xl", {}, "give one of resnet8, resnet20", id="no name"),
        pytest.param("resnet8", {"num_classes": 0}, "for 0 classes", id="no classes"),
        pytest.param("resnet8", {"image_size": 0}, "0x0 images", id="no pixels"),
        pytest.param("vgg16", {"image_size": 8}, "cannot take images", id="image too small"),
        pytest.param(
            "resnet8", {"mean": (0.5,), "std": (0.5,)}, "images of 3 channels, these have 1", id="grey images"
        ),
        pytest.param("resnet8", {"std": (0.5, 0.5)}, "one of each a channel", id="mean and std of unlike length"),
        pytest.param("resnet8", {"std": (0.5, 0.5, 0.0)}, "std > 0", id="a deviation of zero"),
    ],
)
def test_what_cannot_be_built_is_one_line(name, options, message):
    arguments = {"num_classes": 10, "mean": MEAN, "std": STD} | options
    with pytest.raises(ModelError, match=message) as error:
        build_network(name, **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_tapped_network_does_not_take_code_that_was_compiled_without_taps():
    network = build("resnet8").train()
    plain = torch.compile(network.forward)
    for count in (8, 6):  # the second size compiles code for any size
        plain(torch.rand(count, 3, 32, 32))
    tapped = torch.compile(TappedNetwork(network), fullgraph=True)  # an error where a part stays eager
    network.eval()
    for count in (16, 12, 16):
        images = torch.rand(count, 3, 32, 32)
        (_, features), (_, wanted) = tapped.eval()(images), network.forward_with_taps(images)
        torch.testing.assert_close(features, wanted, rtol=1e-3, atol=1e-3)
