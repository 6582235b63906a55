"""The names of the networks that come with the package; importable without torch."""

NETWORKS: tuple[str, ...] = ("resnet8", "resnet20", "resnet18", "vgg16", "efficientnet_b0", "swin_t")
