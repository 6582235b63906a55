"""The whole line on a small data set: baseline, hardened, and hardened and protected side by side."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset
from resq_deploy.data.dataset import Dataset
from resq_deploy.deployed.arithmetic import Arithmetic
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import Role
from resq_deploy.hardening.checkpoint import load_checkpoint
from resq_deploy.hardening.events import Event
from resq_deploy.hardening.loop import train
from resq_deploy.hardening.options import with_recipe
from resq_deploy.pipeline.export import export_source
from resq_deploy.pipeline.float_source import FloatSource
from resq_deploy.pipeline.gates import GateOptions
from resq_deploy.pipeline.transfer import transfer_pgd
from resq_deploy.quantization.options import ExportOptions
from resq_deploy.records import RunFolder, write_json

SCHEMA = 1
FILES = {"baseline": "baseline", "resq": "fault", "protected": "fault"}
"""What is compared, and the stage whose checkpoint it comes from."""

GUARDS = {"protected": "all"}
"""What files carry against their own faults; the others nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Options of the demo; the defaults fit three minutes on two cores.

    Attributes:
        seed: of everything.
        train_epsilon: Linf radius of stage 1, in 1/255.
        training: further options of the training, by the field names of `TrainOptions`.
        epsilons: Linf radii of the attack, in 1/255.
        attack_steps: PGD steps.
        ber: bit error rates, of the weights.
        chips: simulated chips a rate.
        samples: single faults, over all roles.
        fault_images: test images a single fault is judged by.
        arithmetic: in which the int8 files are run.
    """

    seed: int = 0
    train_epsilon: float = 8.0
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    epsilons: tuple[float, ...] = (2.0, 4.0, 8.0)
    attack_steps: int = 10
    ber: tuple[float, ...] = (1e-4, 1e-3, 3e-3, 1e-2, 2e-2)
    chips: int = 10
    samples: int = 300
    fault_images: int = 300
    arithmetic: Arithmetic = Arithmetic.EXACT

    @property
    def deployment(self) -> Deployment:
        """How the int8 files are run."""
        return Deployment(arithmetic=self.arithmetic)


_GATES = GateOptions(gates=("clean",), enforce=False)
"""The demo reports what quantization costs, and does not stop for it; attacks and faults it measures by itself."""

Say = Callable[[str], None]


def run_demo(
    out: pathlib.Path,
    options: DemoOptions,
    *,
    resume: bool = False,
    say: Say = lambda _: None,
    report: Callable[[Event], None] = lambda _: None,
) -> dict[str, Any]:
    """Run the demo and return its summary.

    Args:
        out: run folder; gets the int8 files with sidecars, the train folder, the campaigns and summary.json.
        options: seed and sizes.
        resume: go on with the demo in `out`.
        say: told each step as it begins.
        report: takes the training's events.

    Raises:
        ResqError: if a step fails.
    """
    dataset = load_dataset("digits")
    asked, sha256 = (
        {**dataclasses.asdict(options), "deployment": options.deployment.identity()},
        {"data": dataset.digest("test")},
    )
    with RunFolder.open(out, command="demo", options=asked, sha256=sha256, resume=resume) as folder:
        say("training resnet8 on digits: baseline, then stages 1 and 2")
        _train(dataset, out / "train", options, resume, report)
        summary: dict[str, Any] = {
            "schema": SCHEMA,
            "dataset": dataset.name,
            "arithmetic": options.deployment.arithmetic_used(),
            "network": "resnet8",
            "test_images": len(dataset.test),
            "attack_steps": options.attack_steps,
            "fault_images": options.fault_images,
            "files": {name: _prove(name, dataset, out, options, resume, say) for name in FILES},
        }
        write_json(folder.path / "summary.json", summary)
    return summary


def _train(
    dataset: Dataset, out: pathlib.Path, demo: DemoOptions, resume: bool, report: Callable[[Event], None]
) -> None:
    given = {"network": "resnet8", "seed": demo.seed, "epsilon": demo.train_epsilon / 255, **demo.training}
    options = with_recipe(dataset.name, given)
    sha256 = {"train": dataset.digest("train"), "test": dataset.digest("test")}
    with RunFolder.open(out, command="train", options=options.identity(), sha256=sha256, resume=resume) as folder:
        train(options, dataset, folder.path, report)


def _prove(
    name: str, dataset: Dataset, out: pathlib.Path, options: DemoOptions, resume: bool, say: Say
) -> dict[str, Any]:
    """Export one checkpoint and measure what attacks and faults do to the file."""
    checkpoint = out / "train" / f"{FILES[name]}.pt"
    path = out / f"{name}.int8.onnx"
    say(f"{name}: export to int8{', protected by votes and codes' if name in GUARDS else ''}")
    export = ExportOptions(seed=options.seed, arithmetic=options.arithmetic, guard=GUARDS.get(name, "none"))
    sidecar = export_source(FloatSource(source=checkpoint), dataset, path, export, _GATES)
    model = DeployedModel.load(path)
    say(f"{name}: PGD on the float network, transferred to the int8 file")
    network = load_checkpoint(checkpoint).build()
    session = Session(path.read_bytes(), options.deployment)
    attacks = [
        transfer_pgd(
            network,
            session,
            dataset.evaluation(None),
            epsilon=epsilon / 255,
            steps=options.attack_steps,
            seed=options.seed,
        )
        for epsilon in options.epsilons
    ]
    say(f"{name}: bit errors in the weights")
    curve = _campaign(model, dataset, _bit_errors(options, len(dataset.test)), out / f"{name}-ber", resume)
    say(f"{name}: single flips in all roles")
    single = _campaign(model, dataset, _single_flips(options), out / f"{name}-single", resume)
    return {
        "sha256": model.digest,
        "accuracy": sidecar["accuracy"],
        "pgd": [attack.as_dict() for attack in attacks],
        "curve": curve["curve"],
        "sdc1": single["rates"]["sdc1"],
        "single": {key: single[key] for key in ("population", "faults", "rates", "by_role")},
    }


def _bit_errors(demo: DemoOptions, images: int) -> CampaignOptions:
    return CampaignOptions(
        faults=FaultModel.BER,
        roles=(Role.WEIGHT,),
        ber=demo.ber,
        chips=demo.chips,
        images=images,
        seed=demo.seed,
        deployment=demo.deployment,
    )


def _single_flips(demo: DemoOptions) -> CampaignOptions:
    return CampaignOptions(samples=demo.samples, images=demo.fault_images, seed=demo.seed, deployment=demo.deployment)


def _campaign(
    model: DeployedModel, dataset: Dataset, options: CampaignOptions, out: pathlib.Path, resume: bool
) -> dict[str, Any]:
    return Campaign(model, dataset, options).run(out, resume=resume)
