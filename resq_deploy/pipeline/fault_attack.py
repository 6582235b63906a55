"""The matrix of faults and attacks: clean and adversarial images, on the fault-free and on faulty files.

The adversarial images are those that were made for the fault-free file: the attacker does not know of the fault. All
cells have the same images, and all rows the same faults, so that differences are paired: by what a fault costs under
attack beyond what it costs on clean images, and by how many more answers it changes there.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_deploy.campaign.engines.testbed import Kit, Testbed
from resq_deploy.campaign.executors import Threads
from resq_deploy.campaign.golden import Golden, golden_of
from resq_deploy.campaign.options import CampaignOptions, FaultModel
from resq_deploy.campaign.plan import Plan, make_plan
from resq_deploy.campaign.record import Record
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import Role
from resq_deploy.errors import OptionError
from resq_deploy.faults.outcomes import Outcome
from resq_deploy.faults.statistics import cluster, paired_difference, share
from resq_deploy.pipeline.attack_scene import Adversarial, Progress, Scene
from resq_deploy.records import read_json, write_json

STATE = "fault_attack.json"

_CONFIDENCE = 0.95

Cell = dict[str, Any]


def plan_faults(model: DeployedModel, with_faults: str, chips: int, deployment: Deployment) -> Plan:
    """Return the faults that `--with-faults` means: those of a list, or chips at a bit error rate of the weights.

    Args:
        model: the file.
        with_faults: a path, or a number.
        chips: simulated chips, for a bit error rate.
        deployment: how the file is run.

    Raises:
        InputError: if the rate is none, or the list does not belong to the model.
    """
    try:
        rate = float(with_faults)
    except ValueError:
        listed = pathlib.Path(with_faults)
        options = CampaignOptions(faults=FaultModel.LIST, fault_list=listed, deployment=deployment)
        return make_plan(model.surfaces, options)
    if not 0.0 < rate <= 0.5:
        raise OptionError(f"--with-faults {with_faults}: give a fault list, or a bit error rate above 0 and up to 0.5")
    if chips < 2:
        raise OptionError(f"--fault-chips {chips}: give 2 or more, for an interval")
    options = CampaignOptions(
        faults=FaultModel.BER,
        ber=(rate,),
        chips=chips,
        roles=(Role.WEIGHT,),
        engine="reload",  # a mask of the whole file leaves nothing to replay
        deployment=deployment,
    )
    return make_plan(model.surfaces, options)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """What faults do to one set of images.

    Attributes:
        images: how many images there are.
        right: how many of them the fault-free file answers right.
        accuracy: share answered right under each fault, shape [faults]; 0 for one that is due.
        sdc1: share of images given another class than by the fault-free file, NaN for a fault that is due.
        corrupted: share of images answered right without the fault and wrong with it, likewise.
    """

    images: int
    right: int
    accuracy: NDArray[np.float64]
    sdc1: NDArray[np.float64]
    corrupted: NDArray[np.float64]

    @classmethod
    def of(cls, golden: Golden, records: Sequence[Record]) -> "Row":
        """Gather the records of all faults, in the order of the plan."""
        judged = [record if record.outcome is not Outcome.DUE else None for record in records]
        rates = {
            name: np.array([record.counts[name] / record.images if record else np.nan for record in judged])
            for name in ("sdc1", "corrupted")
        }
        accuracy = np.array([record.quality for record in records], dtype=np.float64)
        return cls(images=len(golden), right=golden.right or 0, accuracy=accuracy, **rates)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Row":
        """Read what `as_json` gave."""
        arrays = {name: np.array(value[name], dtype=np.float64) for name in ("accuracy", "sdc1", "corrupted")}
        return cls(images=value["images"], right=value["right"], **arrays)

    def as_json(self) -> dict[str, Any]:
        """Return the row as a JSON object; a fault that is due has no rates."""
        rates = {name: [_number(value) for value in getattr(self, name)] for name in ("accuracy", "sdc1", "corrupted")}
        return {"images": self.images, "right": self.right, **rates}

    @property
    def drop(self) -> NDArray[np.float64]:
        """Accuracy that each fault costs, shape [faults]."""
        return self.right / self.images - self.accuracy

    @property
    def lost(self) -> NDArray[np.float64]:
        """Share of the answers that are right without it that each fault turns wrong; NaN where there are none."""
        return self.corrupted * self.images / self.right if self.right else np.full_like(self.corrupted, np.nan)


def fault_attack(scene: Scene, adversarial: Adversarial, plan: Plan) -> dict[str, Any]:
    """Measure the matrix of a campaign, or go on with it; writes `fault_attack.json` after each row.

    Args:
        scene: the campaign.
        adversarial: its adversarial images.
        plan: the faults, of `plan_faults`.

    Returns:
        `fault_attack` of the summary: for clean images and for each attack and epsilon the accuracy of the fault-free
        file and under faults, the paired `drop` between them, `sdc1`, and `lost`, the share of right answers that
        faults turn wrong; and of adversarial images how far `drop`, `sdc1` and `lost` lie above those of clean ones.
        The intervals of figures under faults are over faults, given the images.

    Raises:
        InputError: if the images do not fit the model.
    """
    sets: dict[tuple[str, str], NDArray[Any]] = {("clean", ""): scene.test.images}
    sets |= {(attack, radius): images for attack, radii in adversarial.items() for radius, images in radii.items()}
    path = scene.folder / STATE
    done: dict[str, Any] = read_json(path) if path.exists() else {}
    rows = {}
    for number, ((attack, radius), images) in enumerate(sets.items()):
        name = f"{attack} {radius}".strip()
        if name not in done:
            done[name] = _row(scene, images, plan).as_json()
            write_json(path, done)
        rows[attack, radius] = Row.from_json(done[name])
        scene.report(Progress("fault-attack", number + 1, len(sets)))
    clean = rows.pop(("clean", ""))
    attacked: dict[str, dict[str, Cell]] = {}
    for (attack, radius), row in rows.items():
        attacked.setdefault(attack, {})[radius] = _cell(row) | _beyond(row, clean)
    due = int(np.isnan(clean.sdc1).sum())
    return {"faults": _described(plan) | {"due": due}, "images": clean.images, "clean": _cell(clean)} | {
        "attacked": attacked
    }


def _row(scene: Scene, images: NDArray[Any], plan: Plan) -> Row:
    """Run every fault over one set of images."""
    patcher = scene.model.patcher()
    session = Session(patcher.golden, plan.options.deployment)
    inputs = session.input.prepare(images)
    golden = golden_of(session, inputs, scene.test.labels, deployment=plan.options.deployment)
    surfaces = {surface.tensor: surface for surface in scene.model.surfaces}
    testbed = Testbed(Kit(patcher=patcher, surfaces=surfaces, golden=golden, options=plan.options))
    with Threads(testbed, scene.options.worker_count) as executor:
        runs = executor.run(plan, testbed.shards(plan, range(len(plan)), executor.workers))
        records = sorted((record for run in runs for record in run), key=lambda record: record.number)
    return Row.of(golden, records)


def _cell(row: Row) -> Cell:
    return {
        "fault_free": share(row.right, row.images, _CONFIDENCE).as_dict(),
        "faulty": cluster(row.accuracy, math.inf, _CONFIDENCE).as_dict(),
        "drop": paired_difference(row.drop, _CONFIDENCE).as_dict(),
        "sdc1": _rate(row.sdc1),
        "lost": _rate(row.lost),
    }


def _beyond(row: Row, clean: Row) -> Cell:
    """Return by how much faults do more to adversarial than to clean images, paired by fault."""
    return {
        "drop_beyond_clean": _difference(row.drop, clean.drop, reach=2.0),
        "sdc1_beyond_clean": _difference(row.sdc1, clean.sdc1),
        "lost_beyond_clean": _difference(row.lost, clean.lost),
    }


def _rate(values: NDArray[np.float64]) -> dict[str, float | int] | None:
    judged = values[~np.isnan(values)]
    return cluster(judged, math.inf, _CONFIDENCE).as_dict() if len(judged) else None


def _difference(
    attacked: NDArray[np.float64], clean: NDArray[np.float64], reach: float = 1.0
) -> dict[str, float | int] | None:
    differences = attacked - clean
    judged = differences[~np.isnan(differences)]
    return paired_difference(judged, _CONFIDENCE, reach).as_dict() if len(judged) else None


def _described(plan: Plan) -> dict[str, Any]:
    if plan.model is FaultModel.BER:
        rate = plan.options.ber[0]
        roles = [str(role) for role in plan.options.roles]
        return {"model": "ber", "ber": rate, "roles": roles, "faults": len(plan), "population": {"bits": plan.bits}}
    return {"model": "list", "sha256": plan.list_digest, "faults": len(plan)}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
