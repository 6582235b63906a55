#!/usr/bin/env python3
"""Compare the quantization scales of two int8 files of one network, layer by layer: such as before and after stage 1.

A flip of bit b moves a weight by 2^b of its scale. Whether that is much depends on how large the layer's weights are,
so that two ratios are given, after over before, each the geometric mean over the output channels: of the weight scales,
and of scale over root mean square of the channel's weights, which does not change where a layer is merely scaled. A
third one is that of the scales of what the layer reads. Fasfous et al. ("Mind the Scaling Factors", DATE 2022) found
adversarially trained quantized networks more fault-prone by such scales: above 1 a flip does more than it did.

Example:
  python tools/compare_scales.py baseline.int8.onnx attack.int8.onnx --markdown scales.md
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from command_line import with_one_line_errors

from resq_deploy.errors import InputError
from resq_deploy.quantization.scales import LayerScales, layer_scales
from resq_deploy.records import write_atomic

HEADERS = ("layer", "weight scale", "scale / rms of the weights", "scale of the input")


def table(before: dict[str, LayerScales], after: dict[str, LayerScales]) -> list[list[str]]:
    """Return the ratios of each layer of both files, and their geometric means.

    Raises:
        InputError: if the files have no layer in common.
    """
    shared = [layer for layer in before if layer in after]
    if not shared:
        raise InputError("the files have no layer in common: give two files of one network")
    ratios = []
    for layer in shared:
        a, b = before[layer], after[layer]
        ratios.append([b.weight / a.weight, b.relative / a.relative, b.read / a.read if a.read and b.read else np.nan])
    means = np.exp(np.nanmean(np.log(ratios), axis=0))
    rows = [
        [name, *("-" if np.isnan(ratio) else f"{ratio:.2f}" for ratio in found)]
        for name, found in zip(shared, ratios, strict=True)
    ]
    return [*rows, ["geometric mean", *(f"{mean:.2f}" for mean in means)]]


@with_one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and write it where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=pathlib.Path, help="an int8 file")
    parser.add_argument("after", type=pathlib.Path, help="an int8 file of the same network")
    parser.add_argument("--markdown", type=pathlib.Path, help="where to write the table")
    given = parser.parse_args(argv)
    rows = [list(HEADERS), ["---"] * len(HEADERS), *table(layer_scales(given.before), layer_scales(given.after))]
    text = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    print(text, end="")
    if given.markdown is not None:
        write_atomic(given.markdown, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
