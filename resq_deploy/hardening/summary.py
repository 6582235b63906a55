"""The final figures of a run: what `summary.json` holds."""

from typing import Any

from resq_deploy.hardening.checkpoint import Checkpoint, load_weights
from resq_deploy.hardening.criticality import ranked
from resq_deploy.hardening.evaluate import correct, correct_under_pgd, estimate
from resq_deploy.hardening.events import Notice
from resq_deploy.hardening.options import STAGES
from resq_deploy.hardening.workbench import Images, Workbench


def summarise(bench: Workbench, checkpoints: list[Checkpoint]) -> dict[str, Any]:
    """Measure each stage's best epoch, and what keeps to a budget, in float32, on validation and test images."""
    options = bench.options
    parts = {
        "validation": (bench.validation, bench.validation.head(options.validation_images)),
        "test": (bench.test, bench.test.head(options.robust_test_images)),
    }
    stages = {}
    for checkpoint in checkpoints:
        bench.report(Notice(message=f"judging stage {checkpoint.stage} on test images, clean and under PGD"))
        load_weights(bench.network, checkpoint.state, origin=f"{checkpoint.stage}.pt")
        stages[checkpoint.stage] = {
            "epoch": checkpoint.epoch,
            **{name: _figures(bench, plain, attacked) for name, (plain, attacked) in parts.items()},
        }
    last = [checkpoint for checkpoint in checkpoints if checkpoint.stage in STAGES][-1]
    if last.stage == "attack":  # whose effect on the ranking is recorded
        load_weights(bench.network, last.state, origin=f"{last.stage}.pt")
        ranked(bench, "after")
    attack = {"norm": "linf", "epsilon": options.epsilon, "steps": 10, "knowledge": "white box, float network"}
    return {
        "schema": 1,
        "network": options.network,
        "dataset": bench.dataset.name,
        "attack": attack,
        "stages": stages,
        "notes": list(bench.dataset.notes),
    }


def _figures(bench: Workbench, plain: Images, attacked: Images) -> dict[str, Any]:
    return {
        "clean": estimate(correct(bench, bench.network, plain, exact=True)),
        "robust": estimate(correct_under_pgd(bench, bench.network, attacked, exact=True)),
    }
