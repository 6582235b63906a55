"""The twin: a differentiable PyTorch reading of a deployed int8 file, on the same integers as the file.

```
model = DeployedModel.load(path)
twin = read_twin(model)                        # a torch module in evaluation mode
logits = twin(images)                          # float32 [N, classes]; gradients pass straight through rounding
codes = twin.stored["conv1.weight_quantized"]  # what the file stores, as exact floats, by the tensor's name
logits = twin(images, stored={"conv1.weight_quantized": codes.clone().requires_grad_()})
agreement(twin, session, images)               # top1_agreement, max_logit_difference
whitebox.pgd(twin, images, labels, epsilon=8 / 255, norm="linf", steps=20, seed=0)
```
"""

from resq_deploy.twin.agreement import Agreement, agreement
from resq_deploy.twin.reader import read_twin
from resq_deploy.twin.twin import Twin

__all__ = ["Agreement", "Twin", "agreement", "read_twin"]
