"""The demo at a size that takes seconds: everything happens, nothing is good."""

import json

import onnx
import pytest

from resq_deploy.deployed.coded import coded_weights
from resq_deploy.pipeline.demo import DemoOptions, run_demo
from resq_deploy.report.build import document, gather
from resq_deploy.report.demo import demo_page, demo_table
from resq_deploy.report.document import Table

SMALL = DemoOptions(
    training={
        "epochs_baseline": 2,
        "epochs_attack": 1,
        "epochs_fault": 1,
        "criticality_batches": 2,
        "validation_images": 20,
        "robust_test_images": 20,
        "train_images": 300,
    },
    epsilons=(4.0,),
    attack_steps=2,
    ber=(1e-3, 1e-2),
    chips=2,
    samples=6,
    fault_images=20,
)


@pytest.mark.slow
def test_the_demo_compares_three_files_and_resumes(tmp_path):
    out = tmp_path / "demo"
    steps = []

    def stop_in_the_middle(step):
        steps.append(step)
        if step.startswith("resq: bit errors"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_demo(out, SMALL, say=stop_in_the_middle)
    assert json.loads((out / "manifest.json").read_text())["status"] == "interrupted"
    summary = run_demo(out, SMALL, resume=True)
    assert summary == json.loads((out / "summary.json").read_text())
    baseline, resq, protected = (summary["files"][name] for name in ("baseline", "resq", "protected"))
    assert len({baseline["sha256"], resq["sha256"], protected["sha256"]}) == 3
    assert protected["sdc1"]["value"] == 0
    assert len(coded_weights(onnx.load(out / "protected.int8.onnx"))) > 5
    assert [point["ber"] for point in resq["curve"]] == [1e-3, 1e-2]
    assert len(demo_table(summary).rows) == 2 + 2 + 2 + 1
    assert "<svg" in demo_page(summary)
    stages = next(s for s in document(gather([out])).sections if s.topic == "Stage by stage")
    table = next(block for block in stages.blocks if isinstance(block, Table))
    assert [row[:2] for row in table.rows] == [
        ["0 baseline, float", "-"],
        ["0 baseline, int8", "baseline.int8.onnx"],
        ["1 attack, float", "-"],
        ["2 fault, float", "-"],
        ["2 fault, int8 (1)", "protected.int8.onnx"],
        ["2 fault, int8 (2)", "resq.int8.onnx"],
    ]
