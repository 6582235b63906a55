"""From a name to a trained network, its float file, and the data that go with it."""

import contextlib
import dataclasses
import io
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from resq_deploy.data import load_dataset
from resq_deploy.data.dataset import Split
from tasks.grammar import make_sentences
from tasks.scenes import make_scenes
from tasks.tags import Tagger, tagger_loss
from tasks.vision import Detector, Segmenter, detector_loss, segmenter_loss

Part = tuple[NDArray[Any], NDArray[Any]]
"""What goes in, and what is right."""

_OPSET = 18
_BATCH = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A network and its data.

    Attributes:
        network: makes the network, untrained.
        loss: of its outputs, against what is right.
        rate: highest learning rate.
        epochs: as many as it takes.
        samples: makes so many samples of the training or of the test part.
        input: name of its input in the file.
        output: name of its output.
        judge: what `--judge` is to be; what is guessed, too.
    """

    network: Callable[[], nn.Module]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    rate: float
    epochs: int
    samples: Callable[[bool, int, int], Part]
    input: str
    output: str
    judge: str


def _digits(training: bool) -> Split:
    digits = load_dataset("digits")
    return digits.train if training else digits.test


def _pictures(training: bool, count: int, seed: int, *, boxes: bool) -> Part:
    scenes = make_scenes(_digits(training), count, seed)
    return scenes.images, scenes.boxes if boxes else scenes.classes


def _words(_training: bool, count: int, seed: int) -> Part:
    sentences = make_sentences(count, seed)
    return sentences.tokens, sentences.tags


TASKS = {
    "detector": Task(
        network=Detector,
        loss=detector_loss,
        rate=4e-3,
        epochs=12,
        samples=lambda training, count, seed: _pictures(training, count, seed, boxes=True),
        input="images",
        output="found",
        judge="boxes",
    ),
    "segmenter": Task(
        network=Segmenter,
        loss=segmenter_loss,
        rate=4e-3,
        epochs=8,
        samples=lambda training, count, seed: _pictures(training, count, seed, boxes=False),
        input="images",
        output="scores",
        judge="map",
    ),
    "tagger": Task(
        network=Tagger,
        loss=tagger_loss,
        rate=1e-2,
        epochs=4,
        samples=_words,
        input="tokens",
        output="tags",
        judge="map",
    ),
}
"""By name."""


def make_parts(task: Task, training: int, test: int, seed: int) -> tuple[Part, Part]:
    """Return training and test samples: of other digits, or other sentences.

    Args:
        task: whose.
        training: how many to train on.
        test: how many to test on.
        seed: of both.
    """
    return task.samples(True, training, 2 * seed), task.samples(False, test, 2 * seed + 1)


def train(task: Task, part: Part, *, epochs: int, seed: int) -> nn.Module:
    """Return a trained network in evaluation mode; the same for the same seed.

    Args:
        task: what is trained.
        part: training samples.
        epochs: passes over them.
        seed: of the first weights and of the order of the samples.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = task.network()
        given, right = (torch.from_numpy(array) for array in part)
        steps = epochs * -(-len(given) // _BATCH)
        optimiser = torch.optim.AdamW(network.parameters(), lr=task.rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, task.rate, total_steps=steps)
        for _ in range(epochs):
            order = torch.randperm(len(given))
            for start in range(0, len(given), _BATCH):
                chosen = order[start : start + _BATCH]
                optimiser.zero_grad()
                task.loss(network(given[chosen]), right[chosen]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
    return network.eval()


def write_float(task: Task, network: nn.Module, example: NDArray[Any], path: pathlib.Path) -> None:
    """Write a network as a float ONNX file with an open batch.

    Args:
        task: names input and output.
        network: trained.
        example: two samples or more of its input.
        path: where to.
    """
    with _quiet():
        torch.onnx.export(
            network,
            (torch.from_numpy(np.ascontiguousarray(example)),),
            str(path),
            dynamo=True,
            opset_version=_OPSET,
            input_names=[task.input],
            output_names=[task.output],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
            external_data=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and its libraries' warnings off the terminal."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
