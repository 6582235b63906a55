"""What runs in a worker of a Dask cluster: a campaign's engines, and the faults it is handed."""

import collections
import dataclasses
import threading
from collections.abc import Mapping
from typing import Any

from resq_deploy.campaign.answers import run_in_pieces
from resq_deploy.campaign.engines.testbed import Kit, Testbed
from resq_deploy.campaign.plan import Plan
from resq_deploy.campaign.record import Record
from resq_deploy.deployed.arithmetic import Arithmetic
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session
from resq_deploy.errors import InputError
from resq_deploy.faults.judges.outputs import same
from resq_deploy.records import provenance

_DECIDING = ("resq-deploy", "onnxruntime", "numpy")


@dataclasses.dataclass(frozen=True, eq=False)
class Values:
    """What a campaign's engines are built from, on its way to the workers.

    Attributes:
        token: tells campaigns apart.
        terms: what the figures are to be computed with, as `terms` returns it.
        kit: what a testbed is built from.
    """

    token: str
    terms: Mapping[str, str]
    kit: Kit


_HELD = 2  # so that two campaigns at a time do not take turns in throwing out each other's
_held: collections.OrderedDict[str, Testbed] = collections.OrderedDict()
_held_lock = threading.Lock()


def get_ready(values: Values) -> Testbed:
    """Return the engines of a campaign, built once a process; those of the campaigns used last are held.

    Raises:
        InputError: if this worker could come to other figures.
    """
    with _held_lock:
        if values.token not in _held:
            compare(values.terms, terms(values.kit.options.deployment), _address())
            while len(_held) >= _HELD:
                _held.popitem(last=False)
            _held[values.token] = _built(values.kit, _address())
        _held.move_to_end(values.token)
        return _held[values.token]


def evaluate(values: Values, plan: Plan, numbers: tuple[int, ...], truth: bool) -> list[Record]:
    """Return the records of faults of a plan.

    Raises:
        ResqError: whatever the engines raise.
    """
    return get_ready(values).evaluate(plan, numbers, truth=truth)


def warm_up(values: Values) -> None:
    """Build the engines, so that no fault waits for them."""
    get_ready(values)


def forget(token: str) -> None:
    """Let a campaign's engines go."""
    with _held_lock:
        _held.pop(token, None)


def as_it_is(value: Any) -> Any:
    """Return the value: as a task, what makes it one of Dask's results."""
    return value


def _built(kit: Kit, where: str) -> Testbed:
    """Return the engines, once this process has given the golden outputs bit by bit.

    CPU features may differ in exact arithmetic; float kernels then have to show that they do not.

    Raises:
        InputError: if they are others.
    """
    session = Session(kit.patcher.golden, kit.options.deployment)
    outputs = run_in_pieces(session, kit.golden.inputs, kit.golden.pieces(None), kit.golden.forms)
    if kit.golden.differs(outputs) or not same(kit.golden.outputs, outputs).all():
        raise InputError(
            f"Dask worker {where} does not give the outputs of the golden run bit by bit: use workers that are like "
            "this machine"
        )
    return Testbed(kit)


def terms(deployment: Deployment) -> dict[str, str]:
    """Return what decides a figure in this process; of native arithmetic that includes the kind of CPU."""
    made = provenance()
    found = {name: made["versions"].get(name, "none") for name in _DECIDING} | {"machine": made["machine"]}
    if deployment.arithmetic == Arithmetic.NATIVE:
        found["CPU features"] = " ".join(made["cpu_flags"]) or "none"
        found["saturation of sums"] = str(deployment.saturates)
    return found


def compare(wanted: Mapping[str, str], found: Mapping[str, str], where: str) -> None:
    """Check that a worker computes as the campaign does.

    Raises:
        InputError: naming the first difference.
    """
    for name, value in wanted.items():
        if found.get(name) != value:
            raise InputError(
                f"Dask worker {where} has {name} {found.get(name)}, this campaign {value}: the figures could differ; "
                "use workers that are like this machine"
            )


def _address() -> str:
    from distributed import get_worker

    return str(get_worker().address)
