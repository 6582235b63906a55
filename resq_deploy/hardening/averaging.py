"""Averages of the weights over the steps of a stage, which generalise better than the last weights.

An exponential moving average (Polyak and Juditsky 1992; in adversarial training Rebuffi et al. 2021, arXiv
2103.01946). Batch-norm statistics are averaged along with the weights: those of stages 1 and 2 are of clean and
perturbed, or of quantized images, and measured anew on clean ones they would be others.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from resq_deploy.hardening.checkpoint import load_weights

_HEAD_START = 10

_Tensors = tuple[Tensor, ...] | list[Tensor]


class WeightAverage:
    """The average of a network's weights and buffers: `a <- d_t a + (1 - d_t) w`, started at the first weights.

    The decay grows as `d_t = min(d, (1 + t) / (10 + t))`, so that a short stage is not judged by where it started.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Start an average.

        Args:
            network: the network in training.
            decay: d, in (0, 1).
        """
        self._network = network
        self._decay = decay
        self._model = AveragedModel(network, multi_avg_fn=self._average, use_buffers=True)

    def update(self) -> None:
        """Take in the network's weights after a step."""
        self._model.update_parameters(self._network)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in the place of the network's weights for a while."""
        live = {name: tensor.clone() for name, tensor in self._network.state_dict().items()}
        self._network.load_state_dict(self._model.module.state_dict())
        try:
            yield
        finally:
            self._network.load_state_dict(live)

    def state(self) -> dict[str, Any]:
        """Return what has to survive a kill."""
        return {"steps": int(self._model.n_averaged), "model": self._model.module.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up a state.

        Raises:
            CheckpointError: if it is of another network.
        """
        load_weights(self._model.module, state["model"], origin="the average of the weights")
        self._model.n_averaged.fill_(state["steps"])

    @torch.no_grad()
    def _average(self, averages: _Tensors, values: _Tensors, steps: Tensor | int) -> None:
        if averages[0].is_floating_point():
            decay = min(self._decay, (1 + int(steps)) / (_HEAD_START + int(steps)))
            torch._foreach_lerp_(averages, values, 1 - decay)
        else:  # counters of batches
            torch._foreach_copy_(averages, values)
