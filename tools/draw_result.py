#!/usr/bin/env python3
"""Draw the README's picture: the quality figure over the bit error rate, from campaigns of random bit errors.

Each RUN is the folder of `faultcamp --faults ber`, given with what its line is called. Lines are means over chips;
bands reach down to the worst chip drawn.

Example:
  python tools/draw_result.py "as trained=runs/base-ber" "protected=runs/safe-ber" --out resq_deploy/guide/result.svg
  python tools/draw_result.py "as exported=plain" "protected=safe" --figure mAP@50 --out resq_deploy/guide/detector.svg
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from command_line import with_one_line_errors

from resq_deploy.errors import MissingExtraError, OptionError
from resq_deploy.records import read_json
from resq_deploy.report.figures import PALETTE

_MARKERS = ("o", "s", "D", "^", "x", "*")


@with_one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--figure", default="accuracy", help="what it is called [default: accuracy]")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    given = parser.parse_args(argv)
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError("the picture", "report") from error
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "resq-deploy"  # the same picture has the same bytes
    from matplotlib import pyplot as plt

    hit = set()
    figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
    for place, entry in enumerate(given.runs):
        name, _, run = entry.partition("=")
        if not run:
            raise OptionError(f"{entry!r} is no NAME=RUN")
        curve = read_json(pathlib.Path(run) / "summary.json")["curve"]
        hit |= set(read_json(pathlib.Path(run) / "manifest.json")["options"]["roles"] or ["all"])
        rates, colour = [point["ber"] for point in curve], PALETTE[place % len(PALETTE)]
        means = [100 * (point.get("quality") or point["accuracy"])["value"] for point in curve]
        axes.plot(rates, means, marker=_MARKERS[place % len(_MARKERS)], label=name, color=colour)
        axes.fill_between(
            rates, [100 * point["worst"] for point in curve], means, alpha=0.15, linewidth=0, color=colour
        )
    axes.set_xscale("log")
    axes.set_xlabel(f"bit error rate of {'the stored weights' if hit == {'weight'} else 'all that is stored'}")
    axes.set_ylabel(f"{given.figure} (%)")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(given.out, metadata={"Date": None})
    return 0


if __name__ == "__main__":
    sys.exit(main())
