"""What int8 form may be asked for."""

import pytest

from resq_deploy.errors import OptionError
from resq_deploy.quantization.export import ExportOptions
from resq_deploy.quantization.scheme import Scheme


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranges": "percentile"}, "--ranges percentile: give one of minmax, mse, fault-aware"),
        ({"format": "qlinear"}, "--format qlinear: give one of qdq, qoperator"),
        ({"granularity": "layer"}, "--granularity layer: give one of channel, tensor"),
        ({"ranges": "fault-aware", "design_ber": 0.6}, "from 0 to 0.5"),
        ({"design_ber": 1e-3}, "--design-ber is for --ranges fault-aware, not minmax"),
        ({"ranges": "mse", "design_ber": 0.0}, "--design-ber is for --ranges fault-aware, not mse"),
        (
            {"activation_percentile": 50},
            "--activation-percentile 50: give auto, or a percentile above 50 and up to 100",
        ),
        ({"activation_percentile": 100.1}, "--activation-percentile 100.1: give auto"),
        ({"activation_percentile": float("nan")}, "--activation-percentile nan: give auto"),
        ({"activation_percentile": "best"}, "--activation-percentile best: give auto"),
        ({"bias_correction": "yes"}, "--bias-correction yes: give one of True, False"),
        ({"equalize": None}, "--equalize None: give one of True, False"),
    ],
    ids=[
        "ranges",
        "format",
        "granularity",
        "rate",
        "rate of minmax",
        "rate of mse",
        "low percentile",
        "high percentile",
        "no number",
        "no percentile",
        "bias correction",
        "equalization",
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(OptionError, match=message):
        ExportOptions(**options)


def test_percentiles_of_a_scheme():
    assert Scheme().percentiles == Scheme(activation_percentile=100).percentiles == (100.0,)
    assert Scheme(activation_percentile=99.5).percentiles == (99.5,)
    assert Scheme(activation_percentile="auto").percentiles == (99.9, 99.99, 99.999, 100.0)
    assert Scheme(activation_percentile="auto").percentile_ber == 1e-3
    assert Scheme(activation_percentile="auto", ranges="fault-aware", design_ber=2e-4).percentile_ber == 2e-4


def test_when_weights_are_fitted():
    assert Scheme(ranges="fault-aware").reconstructs
    assert not Scheme(ranges="fault-aware", reconstruct=False).reconstructs
    assert not Scheme(ranges="mse").reconstructs
    assert Scheme(ranges="mse", reconstruct=True).reconstructs
    assert not Scheme().reconstructs
    with pytest.raises(OptionError, match="--reconstruct is for narrowed ranges, not minmax"):
        Scheme(reconstruct=True)
