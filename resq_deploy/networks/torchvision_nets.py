"""Architectures of torchvision, with stems and strides for small images; with fresh weights.

Up to 64x64 pixels the early reduction of the ImageNet architectures is taken out, as the CIFAR ports do; above, they
are torchvision's own. With a stem of stride 2 small images are halved in the first layer, so that all that follows
costs a quarter. Weights are drawn from torch's global generator: seed it before building.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torchvision.models
from torch import nn
from torchvision.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from torchvision.models.vgg import cfgs, make_layers

from resq_deploy.errors import ModelError
from resq_deploy.networks.names import STRIDE2
from resq_deploy.networks.resnet_cifar import initialise_convolutions

SMALL_IMAGE = 64
_STOCHASTIC_DEPTH = 0.1
_DROPOUT = 0.1
_SWIN_WIDTH = 96


def resnet18(num_classes: int, image_size: int, stride: int = 1) -> tuple[nn.Module, tuple[str, ...], str]:
    """ResNet-18 (He et al. 2016, arXiv 1512.03385); small images: 3x3 stem of that stride, no max-pooling."""
    body = torchvision.models.resnet18(num_classes=num_classes)
    if image_size <= SMALL_IMAGE:
        body.conv1 = nn.Conv2d(3, 64, 3, stride=stride, padding=1, bias=False)
        nn.init.kaiming_normal_(body.conv1.weight, mode="fan_out", nonlinearity="relu")
        body.maxpool = nn.Identity()
    return body, ("layer1", "layer2", "layer3", "layer4"), "fc"


def vgg16(num_classes: int, image_size: int, stride: int = 1) -> tuple[nn.Module, tuple[str, ...], str]:
    """VGG-16 (Simonyan and Zisserman 2015, arXiv 1409.1556) with batch norm; a tap after each of its five poolings.

    Small images: global average pooling and one linear layer in place of the three that hold 120 million weights. With
    stride 2 the first convolution halves them, and the last pooling, which would meet one pixel, is left out.
    """
    if image_size <= SMALL_IMAGE:
        features = make_layers(cfgs["D"], batch_norm=True)
        initialise_convolutions(features)
        if stride == 2:
            features[0].stride = (2, 2)
            features[-1] = nn.Identity()
        parts = OrderedDict(
            features=features,
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(512, num_classes),
        )
        body: Any = nn.Sequential(parts)
        head = "classifier"
    else:
        body = torchvision.models.vgg16_bn(num_classes=num_classes)
        head = "classifier.6"
    ends = (nn.MaxPool2d, nn.Identity)
    taps = (f"features.{index}" for index, layer in enumerate(body.features) if isinstance(layer, ends))
    return body, tuple(taps), head


def efficientnet_b0(num_classes: int, image_size: int, stride: int = 1) -> tuple[nn.Module, tuple[str, ...], str]:
    """EfficientNet-B0 (Tan and Le 2019, arXiv 1905.11946); a tap after each of its seven stages.

    Small images: that stride in the stem; with 1 an image of 32x32 ends at 2x2, with 2, torchvision's own, at 1x1. (A
    second stride taken out would end at 4x4 and cost 2.5 times the training time.)
    """
    body = torchvision.models.efficientnet_b0(
        num_classes=num_classes, dropout=_DROPOUT, stochastic_depth_prob=_STOCHASTIC_DEPTH
    )
    if image_size <= SMALL_IMAGE:
        body.features[0][0].stride = (stride, stride)
    body.classifier[1].reset_parameters()  # torchvision's own grow as classes get fewer: ten start at a loss above 3
    return body, tuple(f"features.{stage}" for stage in range(1, 8)), "classifier.1"


def swin_t(num_classes: int, image_size: int, stride: int = 1) -> tuple[nn.Module, tuple[str, ...], str]:
    """Swin-T (Liu et al. 2021, arXiv 2103.14030); a tap after each of its four stages, [N, H, W, C].

    Small images: patches of 2x2 and windows of 4x4, so that the stages of a 32x32 image are 16, 8, 4 and 2 wide; with
    stride 2 patches of 4x4, torchvision's own, and half those widths.
    """
    patch, window = (2 * stride, 4) if image_size <= SMALL_IMAGE else (4, 7)
    body = SwinTransformer(
        patch_size=[patch, patch],
        embed_dim=_SWIN_WIDTH,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=[window, window],
        stochastic_depth_prob=_STOCHASTIC_DEPTH,
        num_classes=num_classes,
        block=_block_for(image_size // patch),
    )
    return body, tuple(f"features.{stage}" for stage in (1, 3, 5, 7)), "head"


def _block_for(patches: int) -> Any:
    """Return the block that the paper's own code makes: its window never exceeds the feature map.

    torchvision would pad a 2x2 map to 4x4 and attend to the padding as well. `patches` is the width of the first stage;
    every later one doubles the channels, `dim`, and halves the width, rounding up.
    """

    def block(dim: int, num_heads: int, window_size: list[int], shift_size: list[int], **options: Any) -> nn.Module:
        width = -(-patches * _SWIN_WIDTH // dim)
        if width <= window_size[0]:
            window_size, shift_size = [width, width], [0, 0]
        built: nn.Module = SwinTransformerBlock(dim, num_heads, window_size, shift_size, **options)
        return built

    return block


BUILDERS: dict[str, Callable[[int, int, int], tuple[nn.Module, tuple[str, ...], str]]] = {
    "resnet18": resnet18,
    "vgg16": vgg16,
    "efficientnet_b0": efficientnet_b0,
    "swin_t": swin_t,
}

_PRETRAINED = {
    "resnet18": "ResNet18_Weights",
    "vgg16": "VGG16_BN_Weights",
    "efficientnet_b0": "EfficientNet_B0_Weights",
    "swin_t": "Swin_T_Weights",
}


def pretrained_weights(name: str) -> Any:
    """Return torchvision's entry of ImageNet weights for a built-in network: its `url`, `get_state_dict`, `meta`.

    Raises:
        ModelError: if there is none.
    """
    plain = name.removesuffix(STRIDE2)
    if plain not in _PRETRAINED:
        raise ModelError(
            f"there are no ImageNet weights of {name}: --pretrained takes {', '.join(_PRETRAINED)}; give your own with "
            "--weights FILE"
        )
    return torchvision.models.get_weight(f"{_PRETRAINED[plain]}.IMAGENET1K_V1")
