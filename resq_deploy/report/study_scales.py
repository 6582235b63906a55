"""What each stage did to the scales of the deployed file: by how much a flipped bit is worth more or less than before.

Fasfous et al. ("Mind the Scaling Factors: Resilience Analysis of Quantized Adversarially Robust CNNs", DATE 2022) found
adversarially trained quantized networks more fault-prone, by larger scales.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from resq_deploy.report.document import Section, Table
from resq_deploy.report.study_cells import Layered, of_pair
from resq_deploy.report.study_figures import CONTRASTS
from resq_deploy.report.text import NONE

TOPIC = "Scales"

_SCALES = {"weight": "weight scale", "relative": "scale / rms of the weights", "read": "scale of the input"}

_TEXT = (
    "After over before, the geometric mean over layers and seeds; in brackets the least and the largest layer. A flip "
    "of bit b moves a weight by 2^b of its scale, and does much where that is large beside the layer's own weights "
    "(their root mean square); the scale of what a layer reads says how wide its inputs are. Fasfous et al. (DATE "
    "2022) found adversarially trained quantized networks more fault-prone by larger scales: above 1, a flip is worth "
    "more than it was. What faults do is in the table of figures."
)

Layers = Mapping[str, Mapping[str, Any]]


def scales_section(pair: tuple[str, str], cells: Sequence[Layered]) -> Section | None:
    """Return the ratios of scales that each stage caused; None where no two files of one seed are known.

    Args:
        pair: network and data set.
        cells: those of the study that are done.
    """
    own = of_pair(cells, pair)
    rows, stage1 = [], ""
    for name, before, after in CONTRASTS:
        both = list(_both(own, before, after))
        if not both:
            continue
        told = {scale: _ratio(both, scale) for scale in _SCALES}
        rows.append([name, *told.values(), str(len(both))])
        stage1 = told["relative"] if name == "stage 1 alone" else stage1
    if not rows:
        return None
    found = (
        f"stage 1 alone changes the scales, beside the weights, {stage1}-fold" if stage1 else "scales, stage by stage"
    )
    table = Table(headers=["after over before", *_SCALES.values(), "seeds"], rows=rows)
    return Section(title=f"{pair[0]} on {pair[1]}: {found}", topic=TOPIC, blocks=[_TEXT, table])


def _both(own: Mapping[tuple[str, int], Layered], before: str, after: str) -> Iterator[tuple[Layers, Layers]]:
    """Yield the layers of two variants, seed by seed, where both are known and have some in common."""
    for (variant, seed), cell in own.items():
        other = own.get((after, seed))
        if variant == before and other is not None and cell.layers.keys() & other.layers.keys():
            yield cell.layers, other.layers


def _ratio(pairs: Sequence[tuple[Layers, Layers]], scale: str) -> str:
    found = [
        math.log(after[layer][scale] / before[layer][scale])
        for before, after in pairs
        for layer in before
        if layer in after and before[layer][scale] and after[layer][scale]
    ]
    if not found:
        return NONE
    mean, low, high = (math.exp(value) for value in (math.fsum(found) / len(found), min(found), max(found)))
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"
