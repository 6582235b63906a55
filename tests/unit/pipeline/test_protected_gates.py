"""The gate of faults on protected files: code words and what decodes them are hit, and few faults are mended."""

import numpy as np
import pytest

from resq_deploy.data import load_dataset
from resq_deploy.pipeline.gates import Candidate, GateOptions, run_gates
from resq_deploy.quantization.export import export_int8
from resq_deploy.quantization.options import ExportOptions


@pytest.fixture(scope="module")
def gate(digits_float):
    """Return a function that gives the gate of faults of a protected export at a bit error rate."""
    dataset = load_dataset("digits")
    options = ExportOptions(calibration_images=60, test_images=50, guard="weights")
    export = export_int8(digits_float, dataset, options, described="test")
    candidate = Candidate(
        int8_file=export.int8_file,
        float_file=export.float_file,
        int8_right=export.int8_right,
        float_right=export.float_right,
        minmax_file=export.minmax_file,
    )

    def run(ber):
        found = run_gates(
            candidate, dataset, GateOptions(gates=("faults",), enforce=False, ber=ber, chips=50, fault_images=100)
        )
        return next(one for one in found if one["gate"] == "faults")

    return run


@pytest.mark.slow
def test_few_faults_are_mended_and_many_are_not(gate):
    few, many = gate(3e-5), gate(3e-2)
    assert few["int8"]["value"] >= few["minmax"]["value"]
    assert many["int8"]["value"] < few["int8"]["value"] - 0.1  # so that faults are proven to be there
    assert few["roles"] == many["roles"] == ["weight", "code"]
    assert np.isfinite(few["figure"])
