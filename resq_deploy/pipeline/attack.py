"""An attack campaign from options to run folder: units one by one, checks, summary; resumable at any moment."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.attacks.store import Store
from resq_deploy.attacks.summary import Figures, Results, query_figures, robust_figures, verdict
from resq_deploy.attacks.target import Target
from resq_deploy.campaign.golden import Golden, classifier_run
from resq_deploy.data.dataset import Dataset
from resq_deploy.data.preprocessing import Preprocessing
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.sidecar import normalisation_wish, source_checkpoint
from resq_deploy.errors import CheckpointError, DataError
from resq_deploy.faults.statistics import share
from resq_deploy.pipeline.attack_checks import judge_twin, run_checks, run_probes, try_unmasked
from resq_deploy.pipeline.attack_gates import AttackGate, check_reachable, held
from resq_deploy.pipeline.attack_kit import AttackKit
from resq_deploy.pipeline.attack_options import (
    CORRUPTIONS,
    KNOWLEDGE,
    ON_IMAGES,
    SURROGATE,
    TWIN,
    UNMASKED,
    AttackOptions,
)
from resq_deploy.pipeline.attack_scene import Progress, Report, Scene
from resq_deploy.pipeline.bit_flip_options import class_number
from resq_deploy.pipeline.corruptions import Corruptions
from resq_deploy.pipeline.fault_attack import fault_attack, plan_faults
from resq_deploy.pipeline.float_source import FloatSource
from resq_deploy.records import RunFolder, provenance, sha256_file, write_json

if TYPE_CHECKING:
    from resq_deploy.hardening.checkpoint import Checkpoint
    from resq_deploy.pipeline.bit_flip import BitFlipAttack

SCHEMA = 1
_CONFIDENCE = 0.95


class AttackCampaign:
    """A campaign that is ready to run: model, data and options have been checked against each other.

    Args:
        model: the file under attack.
        dataset: its test images are attacked.
        options: what to do.
        gates: bounds that the figures are held against; they decide no figure.

    Raises:
        InputError: if model, data or options cannot be used, or a gate cannot pass whatever is found.
    """

    def __init__(
        self, model: DeployedModel, dataset: Dataset, options: AttackOptions, gates: Sequence[AttackGate] = ()
    ) -> None:
        self.options = options
        self._gates = gates
        self._model = model
        self._dataset = dataset
        check_reachable(gates, options, options.images)  # at most so many
        # What needs no image comes first: a slip is not to wait for a data set to be decoded.
        self._attacks = tuple(name for name in options.chosen if name in ON_IMAGES)
        self._faults = (
            None
            if options.with_faults is None
            else plan_faults(model, options.with_faults, options.fault_chips, options.deployment)
        )
        class_number(options.bit_flip.target, dataset)  # told now if there is none
        self._surrogate = _surrogate(model, dataset, options) if set(SURROGATE) & set(self._attacks) else None
        self._test = dataset.evaluation(options.images)
        check_reachable(gates, options, len(self._test))
        self.golden = classifier_run(model.patcher().golden, options.deployment, dataset, self._test)
        self._bit_flip = _bit_flip(model, dataset, options) if "bit-flip" in options.chosen else None
        self._corruptions = Corruptions(model, dataset, self._test, options) if CORRUPTIONS in options.chosen else None
        self.notes = (
            *_of_outputs(model, options),
            *(self._surrogate.notes if self._surrogate else ()),
            *(self._corruptions.notes if self._corruptions else ()),
        )
        self._kit = self._made_kit() if self._attacks else None

    def _made_kit(self) -> AttackKit:
        """Return what runs the attacks, after a look at what they are run on."""
        options, file = self.options, self._model.patcher().golden
        target = Target(Session(file, options.deployment))
        pixels = target.prepared(self._test.images)
        size = pixels.shape[1:3] if target.channels_last else pixels.shape[2:]
        channels = pixels.shape[3 if target.channels_last else 1]
        if channels not in (1, 3):
            raise DataError(f"the images have {channels} channels: adversarial ones are kept as images of 1 or 3")
        if self._surrogate is not None:
            _check_surrogate(self._surrogate, self.golden, size, options.deployment.preprocessing)
        return AttackKit(
            path=self._model.path,
            model=file,
            deployment=options.deployment,
            images=self._test.images,
            labels=self._test.labels,
            norm=options.norm,
            queries=options.queries,
            steps=options.steps,
            seed=options.seed,
            surrogate=self._surrogate.path if self._surrogate else None,
            network=self._surrogate.checkpoint.network if self._surrogate else None,
            white_box=next((name for name in self._attacks if name in TWIN), ""),
        )

    def run(self, out: pathlib.Path, *, resume: bool = False, report: Report = lambda _: None) -> dict[str, Any]:
        """Run the campaign, or go on with one, and return its summary.

        Args:
            out: run folder; gets manifest.json, summary.json, adversarial/*.npz, and what further parts write.
            resume: go on with the campaign in `out`.
            report: called after every unit.

        Raises:
            RunFolderError: if the folder cannot be used.
            ResqError: what an attack raised.
        """
        with RunFolder.open(
            out,
            command="attackcamp",
            options=self._identity(),
            sha256=self._digests(),
            settings={
                "model_file": self._model.path.name,
                "workers": self.options.worker_count,
                "checkpoint": source_checkpoint(self._model),
            },
            resume=resume,
        ) as folder:
            scene = Scene(
                model=self._model,
                dataset=self._dataset,
                test=self._test,
                options=self.options,
                folder=folder.path,
                report=report,
            )
            clean = share(self.golden.right or 0, len(self.golden), _CONFIDENCE)
            summary: dict[str, Any] = {
                "schema": SCHEMA,
                "arithmetic": self.options.deployment.arithmetic_used(),
                "threat": self._threat(),
                "clean": clean.as_dict(),
            }
            results: Results = {}
            if self._kit is not None:
                results, figures = self._on_images(self._with_surrogate(self._kit, folder.path), scene)
                summary |= figures
                summary["threat"]["attacks"] |= {
                    name: f"{KNOWLEDGE[masked]}, passed through what saturates"
                    for masked, name in UNMASKED.items()
                    if name in results
                }
            else:
                summary |= robust_figures({}) | verdict({}, white_box=False)
            if self._corruptions is not None:
                summary["corruptions"] = self._corruptions.run(folder.path, report)
            if self._bit_flip is not None:
                summary["bit_flip"] = self._bit_flip.run(folder.path, report)
            if self._faults is not None:
                adversarial = {
                    attack: {epsilon: found.images for epsilon, found in radii.items()}
                    for attack, radii in results.items()
                }
                if self._corruptions is not None:
                    adversarial[CORRUPTIONS] = self._corruptions.mixed()
                summary["fault_attack"] = fault_attack(scene, adversarial, self._faults)
            summary["gates"] = held(self._gates, summary)
            write_json(folder.path / "summary.json", summary)
        return summary

    def _with_surrogate(self, kit: AttackKit, folder: pathlib.Path) -> AttackKit:
        """Write a float network of weights alone as a checkpoint, which the processes of the campaign read."""
        if self._surrogate is None or self._surrogate.path is not None:
            return kit
        path = folder / "surrogate.pt"
        self._surrogate.checkpoint.save(path)
        return dataclasses.replace(kit, surrogate=path)

    def _on_images(self, kit: AttackKit, scene: Scene) -> tuple[Results, Figures]:
        """Run the attacks on images and their checks; return what they did, and the figures."""
        radii, workers = self.options.radii, self.options.worker_count
        white_box = bool(kit.white_box)
        if white_box:
            scene.report(Progress("comparing the twin with the file", 0, 1))
        twin = judge_twin(kit) if white_box else None
        store = Store(scene.folder / "adversarial", kit.labels, self._extras())

        def tell(attack: str, done: int, total: int) -> None:
            scene.report(Progress(attack, done, total))

        results = store.attack(self._attacks, radii, kit, workers=workers, report=tell)
        probes: Results = {}
        straight = None
        if white_box:
            few = Store(scene.folder / "checks", kit.labels[: self.options.check_images], self._extras())
            straight = try_unmasked(kit, few, results, radii, workers, tell)
            if straight.reason:  # gradients that pass on fool more: the worse counts, and is what is checked
                kit = dataclasses.replace(kit, white_box=UNMASKED[kit.white_box])
                results |= store.attack((kit.white_box,), radii, kit, workers=workers, report=tell)
            probes = run_probes(kit, few, radii, workers, tell)
        checks = run_checks(results, probes, twin, straight, radii, self.golden.classes)
        figures = robust_figures(results) | {"queries": query_figures(results)} | verdict(checks, white_box)
        return results, figures | {"twin": twin.check.figures if twin else None}

    def _extras(self) -> dict[str, NDArray[Any]]:
        """Return what makes a file of adversarial images a data set like the one they are made from."""
        extras = {} if self._dataset.classes_inferred else {"classes": np.array(self._dataset.classes)}
        if self._dataset.channels != "rgb":
            extras["channels"] = np.array(self._dataset.channels)
        return extras

    def _threat(self) -> dict[str, Any]:
        """Return the threat model: what every figure is about."""
        options = self.options
        return {
            "norm": str(options.norm),
            "epsilon": options.radii,
            "attacks": {name: KNOWLEDGE[name] for name in options.chosen},
            "queries": options.queries,
            "steps": options.steps,
            "images": len(self.golden),
            "check_images": min(options.check_images, len(self.golden)),
        }

    def _identity(self) -> dict[str, Any]:
        # Another version of these may round or draw differently, so that a campaign must not be finished with it.
        versions = provenance()["versions"]
        decide = ("numpy", "onnxruntime", "torch", *(("scipy", "pillow") if self._corruptions else ()))
        runtime = {name: versions[name] for name in decide if name in versions}
        return {"dataset": self._dataset.name, "versions": runtime, **self.options.identity()}

    def _digests(self) -> dict[str, str | None]:
        return {
            "model": self._model.digest,
            "data": self._dataset.digest("test"),
            "surrogate": self._surrogate.sha256 if self._surrogate else None,
            "fault_list": self._faults.list_digest if self._faults else None,
        }


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Surrogate:
    """The float network whose gradients are used.

    Attributes:
        path: its checkpoint; None where it is one of weights that no file holds as such.
        checkpoint: the same, read.
        notes: what is to be said of it.
        sha256: digest of what the user gave.
    """

    path: pathlib.Path | None
    checkpoint: "Checkpoint"
    notes: tuple[str, ...]
    sha256: str


def _surrogate(model: DeployedModel, dataset: Dataset, options: AttackOptions) -> _Surrogate:
    """Read the float network: of weights alone it is taken to want its images as the file under attack does.

    Raises:
        InputError: if it cannot be read, or is of another network.
    """
    from resq_deploy.hardening.options import GIVEN

    source = FloatSource(source=options.surrogate, network=options.network)
    checkpoint, notes = source.load(dataset, normalisation_wish(model, options.deployment.preprocessing), tolerant=True)
    path = None if checkpoint.stage == GIVEN else source.path
    return _Surrogate(path=path, checkpoint=checkpoint, notes=notes, sha256=sha256_file(source.path))


def _check_surrogate(surrogate: _Surrogate, golden: Golden, size: Sequence[int], preprocessing: Preprocessing) -> None:
    """Check that a float network takes the same images and knows the same classes as the file under attack.

    Raises:
        CheckpointError: if not.
    """
    checkpoint, name = surrogate.checkpoint, surrogate.path or surrogate.checkpoint.network
    classes = golden.classes
    if len(checkpoint.classes) != classes:
        raise CheckpointError(
            f"--surrogate {name} knows {len(checkpoint.classes)} classes and the model {classes}: give the checkpoint "
            "that the model was made of"
        )
    if tuple(size) != (checkpoint.image_size, checkpoint.image_size):
        raise CheckpointError(
            f"--surrogate {name} takes images of {checkpoint.image_size}x{checkpoint.image_size} and the model of "
            f"{size[0]}x{size[1]}: give the checkpoint that the model was made of"
        )
    if checkpoint.channels != preprocessing.channels:
        taken = [each or "those of the images" for each in (checkpoint.channels, preprocessing.channels)]
        raise CheckpointError(
            f"--surrogate {name} takes the channels {taken[0]} and the model {taken[1]}: give the checkpoint that the "
            "model was made of, or say with --channels what the model takes"
        )


def _of_outputs(model: DeployedModel, options: AttackOptions) -> tuple[str, ...]:
    """Say which of several outputs is attacked."""
    session = Session(model.patcher().golden, options.deployment)
    others = [output.name for output in session.outputs if output.name != session.output]
    if not others:
        return ()
    return (
        f"the file has {len(others) + 1} outputs: {session.output!r} is attacked as its class scores, and "
        f"{', '.join(map(repr, others))} left alone; faultcamp judges any of them with --outputs",
    )


def _bit_flip(model: DeployedModel, dataset: Dataset, options: AttackOptions) -> "BitFlipAttack":
    from resq_deploy.pipeline.bit_flip import BitFlipAttack  # here, as the other attacks may do without torch

    return BitFlipAttack(model, dataset, options)
