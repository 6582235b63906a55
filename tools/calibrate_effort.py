#!/usr/bin/env python3
"""Measure what faults and image runs cost, beside what the counted work says that `--images-per-fault auto` weighs.

Replays faults of a file on few images and on many, on one worker, and fits processor time as so much a fault and so
much an image: of integers of layers, and of values that take optimising the file anew. Prints both in milliseconds
beside the counted ones (resq_deploy/campaign/effort.py), and the factor that their ratio is off by; the number of
images that `auto` takes is off by its root.

Example:
  python tools/calibrate_effort.py resnet20=models/resnet20-cifar10-baseline.int8.onnx --dataset cifar10 --data-dir data
"""

import argparse
import pathlib
import statistics
import sys
import time
from collections.abc import Sequence

from command_line import with_one_line_errors

from resq_deploy.campaign.effort import Effort
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset
from resq_deploy.data.dataset import Dataset
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import OptionError

_KINDS = {
    "integers of layers": (Role.WEIGHT, Role.BIAS),
    "scales and zero points": (Role.WEIGHT_SCALE, Role.ACTIVATION_SCALE, Role.ACTIVATION_ZERO_POINT),
}


def seconds_a_fault(model: DeployedModel, dataset: Dataset, roles: Sequence[Role], images: int, faults: int) -> float:
    """Return the processor time of a fault on so many images, without the golden run and with what faults share."""
    options = CampaignOptions(
        roles=tuple(roles), samples=faults, images=images, images_per_fault="all", workers=1, audit=0.0
    )
    campaign = Campaign(model, dataset, options)
    portions = campaign.testbed.shards(campaign.plan, range(faults))
    campaign.testbed.evaluate(campaign.plan, portions[0])  # what is made once
    begin = time.process_time()
    for portion in portions:
        campaign.testbed.evaluate(campaign.plan, portion)
    return (time.process_time() - begin) / faults


@with_one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="NET=MODEL.onnx")
    parser.add_argument("--dataset", required=True, help="as for resq-deploy faultcamp")
    parser.add_argument("--data-dir", type=pathlib.Path)
    parser.add_argument("--few", type=int, default=20, help="images (default: 20)")
    parser.add_argument("--many", type=int, default=200, help="images (default: 200)")
    parser.add_argument("--faults", type=int, default=100, help="faults of each kind (default: 100)")
    parser.add_argument("--repeats", type=int, default=3, help="medians are printed (default: 3)")
    given = parser.parse_args(argv)
    dataset = load_dataset(given.dataset, given.data_dir)
    for text in given.networks:
        name, _, path = text.partition("=")
        if not path:
            raise OptionError(f"{text!r}: give a network as NET=MODEL.onnx")
        model = DeployedModel.load(pathlib.Path(path))
        options = CampaignOptions(images=1)
        campaign = Campaign(model, dataset, options)
        effort = Effort.count(model.patcher().golden, options.deployment, campaign.golden.inputs)
        print(f"{name}: {effort.layers} layers, {effort.macs:,} multiply-accumulates, {effort.stored:,} bytes")
        for kind, roles in _KINDS.items():
            few, many = (
                statistics.median(
                    seconds_a_fault(model, dataset, roles, images, given.faults) for _ in range(given.repeats)
                )
                for images in (given.few, given.many)
            )
            image = (many - few) / (given.many - given.few)
            fault = few - given.few * image
            surface = next(surface for surface in model.surfaces if surface.role == roles[0])
            counted, counted_image = effort.of(surface)
            off = counted / counted_image / (fault / image)
            print(
                f"  {kind}: {1e3 * fault:.2f} ms a fault and {1e3 * image:.4f} an image, counted {counted:.2f} and "
                f"{counted_image:.4f}; their ratio {fault / image:.0f}, off by a factor of {off:.2f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
