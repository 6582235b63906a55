"""What every stage works with: images on hand, the network, device and precision, and seeded randomness."""

import contextlib
import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from resq_deploy.data import Dataset, Split
from resq_deploy.errors import CheckpointError, DataError, OptionError
from resq_deploy.hardening.augment import augment
from resq_deploy.hardening.checkpoint import Checkpoint
from resq_deploy.hardening.compiling import Pass, check_compiler, compiled
from resq_deploy.hardening.events import Notice, Report
from resq_deploy.hardening.options import TrainOptions
from resq_deploy.hardening.ranks import Ranks
from resq_deploy.hardening.rehearsal import rehearse
from resq_deploy.networks.base import Network
from resq_deploy.networks.registry import build_network
from resq_deploy.records import cpu_features


@dataclasses.dataclass(frozen=True)
class Images:
    """Images with labels: pixels [N, H, W, C], uint8 (or float32 in [0, 1]); labels int64 [N]; both on the CPU."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, count: int | None) -> "Images":
        """Return the first `count` images, all for `None`."""
        return self if count is None else Images(self.pixels[:count], self.labels[:count])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """One training batch.

    Attributes:
        images: float32 [N, C, H, W] in [0, 1], channels last in memory, on the device.
        labels: int64 [N], on the device.
        generator: for what all processes of a run draw alike (faults), on the device.
        noise: for what each process draws for its own images, on the device.
        index: number of the step in its stage, counted from 0.
        progress: share of the stage's steps done before this one, in [0, 1).
    """

    images: Tensor
    labels: Tensor
    generator: torch.Generator
    noise: torch.Generator
    index: int
    progress: float


class Workbench:
    """The fixed surroundings of a training run.

    Attributes:
        options: what was asked for.
        dataset: where the images come from.
        folder: the run folder's path.
        report: takes events.
        ranks: the processes that share the work.
        device: where the network computes.
        bf16: whether training computes in bf16 (the final figures never do).
        network: the network being trained, on the device.
        train: training images.
        validation: held-out images, which choose the epochs.
        test: test images of the final figures.
        classes: number of classes.
        augmentation: what training does to images.
    """

    def __init__(
        self,
        options: TrainOptions,
        dataset: Dataset,
        folder: pathlib.Path,
        report: Report,
        *,
        init: Checkpoint | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.options = options
        self.dataset = dataset
        self.folder = folder
        self.ranks = ranks or Ranks()
        self.report = report
        self.classes = len(dataset.classes)
        self.augmentation = dataset.augmentation if options.augment == "auto" else options.augment
        self.device = _device(options.device, self.ranks)
        self.train = as_images(dataset.train.head(options.train_images), "training")
        self.validation = self._validation()
        self.test = self._test()
        self.mean, self.std = self._normalisation(init)
        self.image_size = self.train.pixels.shape[1]
        self.network = self._network()
        self.bf16 = _wants_bf16(options.precision, self.device, self.network)
        if options.compile:
            check_compiler(self.device)
        if len(self.train) < 2:
            raise DataError(f"{dataset.name} has {len(self.train)} training image: batch-norm needs at least 2")
        self._check_shares()
        if ":" in options.network:
            images, labels = self.train.pixels[: self.batch_size], self.train.labels[: self.batch_size]
            rehearse(options.network, self.network, self.model_input(images), labels.to(self.device))

    def _normalisation(self, init: Checkpoint | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation: of the weights to start from, as asked for, or of the images."""
        channels, mean, std = self.train.pixels.shape[3], self.options.mean, self.options.std
        if init is None:
            mean, std = (mean, std) if mean and std else self.dataset.mean_std()
            if len(mean) != channels:
                raise OptionError(
                    f"the mean has {len(mean)} numbers, images of {self.dataset.name} {channels} channels"
                )
            return mean, std
        if mean and (mean, std) != (init.mean, init.std):
            raise OptionError(
                f"the checkpoint normalises by mean {list(init.mean)}, std {list(init.std)}: leave --mean and --std out"
            )
        if len(init.mean) != channels:
            raise CheckpointError(
                f"the checkpoint is of images with {len(init.mean)} channels, those of {self.dataset.name} have "
                f"{channels}: give data of the kind it was trained on"
            )
        return init.mean, init.std

    def _check_shares(self) -> None:
        share, rest = divmod(self.batch_size, self.ranks.count)
        if rest or share < 2:
            raise OptionError(
                f"a batch of {self.batch_size} images cannot be shared evenly among {self.ranks.count} processes with "
                "2 or more for each: give another --batch-size, or start fewer processes"
            )

    def _validation(self) -> Images:
        if len(self.dataset.validation):
            # A run on a few images is meant to be quick: it is not checked on more than it trains on.
            return as_images(self.dataset.validation.head(self.options.train_images), "validation")
        self.report(Notice(message="no class can spare a validation image: epochs are chosen on training images"))
        return self.train

    def _test(self) -> Images:
        """Return the test images, read before the training that they are to judge."""
        test = as_images(self.dataset.evaluation(self.options.test_images), "test")
        (height, width, channels), found = self.train.pixels.shape[1:], tuple(test.pixels.shape[1:])
        if found != (height, width, channels):
            raise DataError(
                f"{self.dataset.name} has training images of {height}x{width} pixels and {channels} channels, test "
                f"images of {found[0]}x{found[1]} and {found[2]}: bring all to one size"
            )
        if height != width:
            raise DataError(f"images of {height}x{width} pixels: training takes square ones; crop or pad them")
        return test

    def _network(self) -> Network:
        with torch.random.fork_rng(devices=self.cuda_devices), torch.device("cpu"):
            torch.manual_seed(derived_seed(self.options.seed, "weights"))
            network = build_network(
                self.options.network,
                num_classes=self.classes,
                mean=self.mean,
                std=self.std,
                image_size=self.image_size,
            )
        network.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    @property
    def cuda_devices(self) -> list[int]:
        """Devices whose global random state has to be kept, for `torch.random.fork_rng`."""
        return [torch.cuda.current_device()] if self.device.type == "cuda" else []

    @property
    def own_key(self) -> tuple[int, ...]:
        """What a seed has to depend on, beside its key, where each process draws for itself."""
        return () if self.ranks.leads else (self.ranks.rank,)

    @property
    def batch_size(self) -> int:
        """Images a step: as asked for, or all there are."""
        return min(self.options.batch_size, len(self.train))

    @property
    def steps(self) -> int:
        """Full batches of an epoch; what is left over is drawn in other epochs."""
        return len(self.train) // self.batch_size

    def autocast(self, enabled: bool = True) -> torch.autocast:
        """Return the context in which the network computes during training."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled and self.bf16)

    def compiled(self, function: Pass) -> Pass:
        """Return a pass of training as it is, or compiled where the options ask for that."""
        return compiled(function) if self.options.compile else function

    def generator(self, *key: int | str) -> torch.Generator:
        """Return a generator on the device that depends on the run's seed and a key only."""
        return torch.Generator(self.device).manual_seed(derived_seed(self.options.seed, *key))

    def batches(self, *key: int | str, epochs: int, epoch: int) -> Iterator[Batch]:
        """Yield the batches of one epoch: shuffled, augmented, and a function of the seed and the key only.

        Several processes draw the same order and augmentation as one, and each yields its share of every batch.

        Args:
            key: names the epoch (stage, number, attempt).
            epochs: epochs of the stage.
            epoch: number of this one, counted from 0.
        """
        order_generator = torch.Generator().manual_seed(derived_seed(self.options.seed, *key, "order"))
        generator = self.generator(*key, "faults")
        noise = self.generator(*key, "noise", *self.own_key)
        order = torch.randperm(len(self.train), generator=order_generator)
        for step in range(self.steps):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            pixels = augment(self.train.pixels[chosen], self.augmentation, order_generator)
            yield Batch(
                images=self.model_input(self.ranks.share(pixels)),
                labels=self.ranks.share(self.train.labels[chosen]).to(self.device),
                generator=generator,
                noise=noise,
                index=epoch * self.steps + step,
                progress=(epoch + step / self.steps) / epochs,
            )

    def model_input(self, pixels: Tensor) -> Tensor:
        """Turn pixels [N, H, W, C] into float32 [N, C, H, W] in [0, 1] on the device, channels last in memory."""
        images = pixels.to(self.device).permute(0, 3, 1, 2)
        return images.float() / 255 if images.dtype == torch.uint8 else images


def as_images(split: Split, which: str) -> Images:
    """Turn a split into tensors.

    Args:
        split: the images.
        which: of the data set's splits, for the message.

    Raises:
        DataError: if the images are neither uint8 [N, H, W, C] nor float32 [N, C, H, W] in [0, 1].
    """
    pixels = split.images
    if pixels.dtype == np.float32 and pixels.ndim == 4:
        if pixels.size and not (pixels.min() >= 0 and pixels.max() <= 1):
            raise DataError(f"float {which} images must lie in [0, 1]: divide by 255, or give uint8")
        pixels = pixels.transpose(0, 2, 3, 1)
    elif pixels.dtype != np.uint8 or pixels.ndim != 4:
        raise DataError(
            f"{which} images are {pixels.dtype} {list(pixels.shape)}: training takes uint8 [N, H, W, C] or float32 "
            "[N, C, H, W]"
        )
    return Images(torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(split.labels.copy()))


def derived_seed(*key: int | str) -> int:
    """Return a 63-bit seed that depends on every part of a key."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


@contextlib.contextmanager
def seeded_globals(bench: Workbench, *key: int | str) -> Iterator[None]:
    """Seed torch's global generator for a while: dropout and stochastic depth can draw from no other."""
    with torch.random.fork_rng(devices=bench.cuda_devices):
        torch.manual_seed(derived_seed(bench.options.seed, *key, "layers", *bench.own_key))
        yield


def _device(name: str, ranks: Ranks) -> torch.device:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise OptionError("no CUDA device is available: give --device cpu")
    if name == "cpu" or not available:
        return torch.device("cpu")
    if ranks.local >= torch.cuda.device_count():
        raise OptionError(
            f"there are more processes than the {torch.cuda.device_count()} CUDA devices: start one process a device"
        )
    torch.cuda.set_device(ranks.local)
    return torch.device("cuda", ranks.local)


def _wants_bf16(precision: str, device: torch.device, network: torch.nn.Module) -> bool:
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if any(isinstance(module, torch.nn.Conv2d) and module.groups > 1 for module in network.modules()):
        return False  # grouped convolutions in bf16 take twice the time of float32 (EfficientNet-B0, oneDNN)
    return bool({"avx512_bf16", "amx_bf16"}.intersection(cpu_features()))
