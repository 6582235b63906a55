"""What a campaign is run on: a data set of images, an array for each input, or samples that are made up."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from resq_deploy.data.samples import Data, as_samples
from resq_deploy.data.sources import load_samples
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.interface import inputs_of
from resq_deploy.deployed.made_up import made_up, sequence_note
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.errors import OptionError

SYNTHETIC = "synthetic"
"""What `--dataset` says for samples that are made up."""


def data_for(
    model: DeployedModel,
    data: str | Data,
    deployment: Deployment,
    *,
    data_dir: pathlib.Path | None = None,
    count: int | None = None,
    once: Mapping[str, NDArray[Any]] | None = None,
    states: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Data:
    """Return what a model is run on.

    Args:
        model: the file under test.
        data: as of `load_samples`, or `synthetic`; or what was loaded already.
        deployment: how the file is run.
        data_dir: as of `load_dataset`.
        count: how many samples are made up, where they are; None for as many as is usual.
        once: values that are the same for all samples, by input.
        states: input -> output: what a step of a sequence takes of the step before it.
        sizes: of open dimensions, where samples are made up, as of `made_up`.

    Raises:
        InputError: if there are no such data, or the model does not run on what is made up.
    """
    once, states = once or {}, states or {}
    if data == SYNTHETIC:
        return made_up(model.proto, deployment, count=count, once=once, states=states, sizes=sizes)
    if sizes:
        raise OptionError("--size says how large made-up samples are: leave it out, or give --dataset synthetic")
    inputs = [port.name for port in inputs_of(model.proto)]
    found = load_samples(data, data_dir, inputs) if isinstance(data, str) else data
    if not once and not states:
        return found
    samples = as_samples(found)
    steps = {values.shape[1] for values in samples.arrays.values() if values.ndim > 1} if states else set()
    notes = (*samples.notes, *map(sequence_note, steps))
    return dataclasses.replace(samples, once=once, states=states, notes=notes)
