"""A network in training as it would be deployed: batch norm folded, weights and activations on the int8 grid."""

from collections.abc import Mapping

import torch
from torch import Tensor

from resq_deploy.hardening.evaluate import correct
from resq_deploy.hardening.fake_quant import ActivationGrid, Stored, WeightGrid
from resq_deploy.hardening.folding import FoldedNetwork, find_pairs
from resq_deploy.hardening.perturb import Classifier, evaluation_mode
from resq_deploy.hardening.workbench import Images, Workbench

_RANGE_BATCHES = 8


class AsDeployed:
    """The quantized view of a workbench's network; it follows the network's weights.

    Attributes:
        pairs: batch norms with the layers they are folded into.
        grid: the grid of the folded weights.
        folded: the network without batch norm.
        activations: ranges of what layers read; empty until learnt.
    """

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self.pairs = find_pairs(bench.network, bench.model_input(bench.train.pixels[:2]))
        self.grid = WeightGrid(bench.network, self.pairs)
        self.folded = FoldedNetwork(bench.network, self.pairs)
        self.activations = ActivationGrid(self.grid)

    def learn_ranges(self) -> None:
        """Learn the activation ranges from a few batches."""
        bench = self._bench
        with (
            evaluation_mode(bench.network),
            torch.no_grad(),
            self.activations.applied(bench.network, learn=True),
            bench.autocast(),
        ):
            for index, batch in enumerate(bench.batches("ranges", epochs=1, epoch=0)):
                bench.network(batch.images)
                if index + 1 == _RANGE_BATCHES:
                    break
        self.activations.agree(bench.ranks)

    def frozen(self, stored: Stored, flips: Mapping[str, Tensor] | None = None) -> Classifier:
        """Return the quantized network as a function of images alone.

        Args:
            stored: the codes of its weights.
            flips: what to flip of them.
        """
        with torch.no_grad():
            tensors = self.folded.tensors(self.grid.weights(stored, flips))

        def classify(images: Tensor) -> Tensor:
            with self.activations.applied(self.folded.module, learn=False):
                return self.folded.run(images, tensors)

        return classify

    def right_under_faults(self, stored: Stored, images: Images) -> Tensor:
        """Return, for each of `fault_masks` drawings of flips at the highest rate, which images are right.

        Every call draws the same flips.

        Args:
            stored: the codes of the weights.
            images: what to classify.

        Returns:
            bool [masks, images], on the CPU.
        """
        bench = self._bench
        generator = bench.generator("validation-faults")
        found = []
        for _ in range(bench.options.fault_masks):
            flips = self.grid.draw_flips(list(self.grid.layers), bench.options.fault_rate, generator)
            found.append(correct(bench, self.frozen(stored, flips), images))
        return torch.stack(found)
