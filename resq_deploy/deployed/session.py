"""Running an ONNX file as deployed: what it takes and gives, in fixed batches, and no longer than a limit."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from resq_deploy.deployed.coded import HEALTH
from resq_deploy.deployed.deployment import Deployment, create
from resq_deploy.deployed.health import Health, read_health
from resq_deploy.deployed.inputs import Batch, Given, Inputs, InputSpec, State, image_input, input_specs
from resq_deploy.deployed.outputs import Form, OutputSpec, find, joined
from resq_deploy.errors import ModelError

Runs = Callable[[Sequence[Batch], Sequence[str], Callable[[Batch], Sequence[Any]]], Sequence[Sequence[Any]]]
"""Gives outputs of batches, given these, the outputs' names, and what runs one of them with the session itself."""


class Session:
    """A session over a serialised model, one thread, with a clear error for what it cannot be used for.

    Samples are given as `Inputs`, or as one array of prepared images where the model takes nothing else.

    Args:
        model: the serialised model, self-contained.
        deployment: how to run it.

    Attributes:
        deployment: how it is run.
        inputs: what the model takes.
        outputs: its outputs that are tensors, but for the one of `reports`.
        others: the names of those that are none: sequences, maps.
        reports: whether the model has an output that says what became of its code words.

    Raises:
        ModelError: if onnxruntime refuses the model, an input cannot be fed, or no output is a tensor.
    """

    def __init__(self, model: bytes, deployment: Deployment) -> None:
        self._session = create(model, deployment)
        self.deployment = deployment
        self.inputs = input_specs(self._session, deployment.preprocessing)
        given = self._session.get_outputs()
        self.outputs = tuple(_output_spec(value) for value in given if value.name != HEALTH and _is_tensor(value))
        self.others = tuple(str(value.name) for value in given if not _is_tensor(value))
        self.reports = any(value.name == HEALTH for value in given)
        if not self.outputs:
            kinds = ", ".join(f"{value.name!r} ({value.type})" for value in given if value.name != HEALTH)
            raise ModelError(f"the model has no outputs that are tensors{f', but {kinds}' if kinds else ''}")

    @property
    def input(self) -> InputSpec:
        """What a model takes that takes images and nothing else.

        Raises:
            ModelError: if it is another.
        """
        return image_input(self.inputs)

    @property
    def output(self) -> str:
        """The name of the output that holds a classifier's scores: the first one of floats.

        Raises:
            ModelError: if there is none.
        """
        floats = [output.name for output in self.outputs if output.type in ("float", "float16", "double")]
        if not floats:
            first = self.outputs[0]
            raise ModelError(f"the model's output {first.name!r} is tensor({first.type}); class scores are needed")
        return floats[0]

    @property
    def batch(self) -> int:
        """Images a run, of a model that takes nothing else."""
        return self.input.shape[0] or self.deployment.batch

    @property
    def fixed_batch(self) -> int:
        """How many images the model takes at a time, no more and no fewer; 1 where it leaves that open."""
        return self.input.shape[0] or 1

    def run(self, samples: Given, terminate: ort.RunOptions | None = None) -> NDArray[np.float32]:
        """Return a classifier's scores for samples, [N, ...] -> [N, C], in batches of fixed size.

        A model with a fixed batch gets its last batch filled up with copies of the last sample.

        Raises:
            ModelError: if the model is no classifier.
            Exception: whatever onnxruntime raises; its types have no common base.
        """
        parts = []
        name, given = self.output, self.given(samples)
        for batch in self.batches(given):
            (output,) = self._run([name], batch, given.states, terminate)
            parts.append(as_scores(output, batch.rows)[: batch.count])
        return np.concatenate(parts)

    def answers(
        self, samples: Given, forms: Mapping[str, Form], terminate: ort.RunOptions | None = None
    ) -> dict[str, NDArray[Any]]:
        """Return outputs of any type and shape for samples, by name, in the batches of `run`.

        Args:
            samples: one or more.
            forms: which outputs, and how each is told apart by sample.
            terminate: stops the run.

        Returns:
            For each output an array whose first axis is that of the samples.

        Raises:
            ModelError: if an output cannot be told apart as its form says.
            ValueError: if its sizes differ though they must not.
            Exception: whatever onnxruntime raises; its types have no common base.
        """
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in forms}
        given = self.given(samples)
        for batch in self.batches(given):
            values = self._run(list(forms), batch, given.states, terminate)
            for (name, form), value in zip(forms.items(), values, strict=True):
                parts[name].append(form.by_sample(name, np.asarray(value), batch.rows)[: batch.count])
        return {name: joined(of) for name, of in parts.items()}

    def first_answers(
        self, pieces: Sequence[Given], names: Sequence[str] = (), run: Runs | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Form]]:
        """Return outputs as `answers` does, and the form of each, which is told by what they are.

        Args:
            pieces: samples, each piece run in batches of its own.
            names: which outputs; for none all but states, unless there are no others.
            run: gives them in the session's place; None for the session.

        Raises:
            ModelError: if the model has no such output, or an output cannot be told apart by sample.
            Exception: whatever onnxruntime raises; its types have no common base.
        """
        given = [self.given(piece) for piece in pieces]
        specs = find(self.outputs, names or self._judged(given[0]), self.others)
        wanted = [spec.name for spec in specs]
        batches = [batch for piece in given for batch in self.batches(piece)]

        def own(batch: Batch) -> list[Any]:
            return self._run(wanted, batch, given[0].states)

        runs = [own(batch) for batch in batches] if run is None else run(batches, wanted, own)
        outputs, forms = dict[str, NDArray[Any]](), dict[str, Form]()
        for place, spec in enumerate(specs):
            parts = [np.asarray(values[place]) for values in runs]
            form = Form.of(spec, parts, [batch.rows for batch in batches])
            each = zip(parts, batches, strict=True)
            outputs[spec.name] = joined(
                [form.by_sample(spec.name, part, batch.rows)[: batch.count] for part, batch in each]
            )
            forms[spec.name] = form
        return outputs, forms

    def as_given(self, samples: Given) -> list[NDArray[Any]]:
        """Return what runs give for samples, output by output and batch by batch, whatever its axes are.

        Raises:
            Exception: whatever onnxruntime raises.
        """
        given, names = self.given(samples), [output.name for output in self.outputs]
        runs = [self._run(names, batch, given.states) for batch in self.batches(given)]
        return [np.asarray(value) for values in runs for value in values]

    def health(self, samples: Given) -> Health | None:
        """Return what the model says of its code words; None where it says nothing.

        It depends on no sample, but none is a run without one: the first serves.

        Raises:
            ModelError: if it says anything else than two whole numbers.
            Exception: whatever onnxruntime raises.
        """
        if not self.reports:
            return None
        (said,) = self._session.run([HEALTH], next(self.batches(samples[:1])).first)
        return read_health(np.asarray(said))

    def batches(self, samples: Given) -> Iterator[Batch]:
        """Yield the batches that are run for samples."""
        return self.given(samples).batches(self.deployment.batch)

    def _judged(self, given: Inputs) -> list[str]:
        """Return the names of the outputs but for states; of all where there are no others."""
        states = {state.output for state in given.states}
        names = [spec.name for spec in self.outputs]
        return [name for name in names if name not in states] or names

    def _run(
        self,
        names: Sequence[str],
        batch: Batch,
        states: Sequence[State],
        terminate: ort.RunOptions | None = None,
    ) -> list[Any]:
        """Return outputs of a batch; of a sequence those of all steps, along an axis behind that of the samples.

        Raises:
            ValueError: if the sizes differ from step to step.
            Exception: whatever onnxruntime raises.
        """
        if not batch.steps:
            return list(self._session.run(list(names), batch.feeds, terminate))
        wanted = list(dict.fromkeys((*names, *(state.output for state in states))))
        carried, found = batch.start, list[dict[str, Any]]()
        for step in batch.steps:
            made = dict(zip(wanted, self._session.run(wanted, {**step, **carried}, terminate), strict=True))
            carried = {state.input: made[state.output] for state in states}
            found.append(made)
        return [_over_steps([np.asarray(made[name]) for made in found], batch.rows) for name in names]

    def given(self, samples: Given) -> Inputs:
        """Return samples as inputs by name.

        Raises:
            ModelError: if they are an array, and the model takes more than images.
        """
        return samples if isinstance(samples, Inputs) else Inputs.of(self.input, samples)


def _over_steps(values: Sequence[NDArray[Any]], rows: int) -> NDArray[Any]:
    """Return what the steps of sequences gave, [rows, ...] each, as [rows, steps, ...]; else as [steps, ...]."""
    if len({value.shape for value in values}) > 1:
        raise ValueError("an output has other sizes in other steps of a sequence")
    return np.stack(values, axis=1 if values[0].shape[:1] == (rows,) else 0)


def as_scores(output: object, images: int) -> NDArray[np.float32]:
    """Return what a model gave for a batch as class scores, shape [images, C].

    Raises:
        ModelError: if the first axis is not that of the images; the numbers would fit another shape all the same.
    """
    scores = np.asarray(output, dtype=np.float32)
    if scores.shape[:1] != (images,):
        raise ModelError(
            f"the model's scores have shape {list(scores.shape)} for {images} images, which must be the first axis: "
            "export it with outputs of shape [N, classes]"
        )
    return scores.reshape(images, -1)


def _is_tensor(value: ort.NodeArg) -> bool:
    return str(value.type).startswith("tensor(")


def _output_spec(value: ort.NodeArg) -> OutputSpec:
    sizes = None if value.shape is None else tuple(size if isinstance(size, int) else None for size in value.shape)
    return OutputSpec(name=str(value.name), type=str(value.type).removeprefix("tensor(").removesuffix(")"), shape=sizes)


class Watchdog:
    """Stops a run of onnxruntime that takes longer than a limit.

    Use it around `Session.run`, handing over `.options`; `expired` tells afterwards whether the limit was passed,
    be it that the run was stopped or that it ended too late by itself.
    """

    def __init__(self, seconds: float | None) -> None:
        self.options = ort.RunOptions()
        self.expired = False
        self._seconds = seconds
        self._timer = threading.Timer(seconds, self._strike) if seconds else None
        self._begin = 0.0

    def _strike(self) -> None:
        self.expired = True
        self.options.terminate = True

    def __enter__(self) -> "Watchdog":
        if self._timer:
            self._timer.daemon = True
            self._timer.start()
        self._begin = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer and self._seconds:
            self._timer.cancel()
            self.expired = self.expired or time.perf_counter() - self._begin > self._seconds
