"""Evaluating faults on a Dask cluster: the campaign's values are sent once, this process alone writes the results.

Dask is imported when a cluster is used; it belongs to the extra `dask`.
"""

import functools
import threading

from resq_deploy.campaign.engines.testbed import Kit, Testbed
from resq_deploy.campaign.plan import Plan
from resq_deploy.campaign.record import Record

_AHEAD = 2
_RETRIES = 3
_WAIT = 60

_lock = threading.Lock()


@functools.lru_cache(maxsize=1)
def _testbed(token: str, kit: "Sent") -> Testbed:
    """Return the engines of a campaign in this worker, built once."""
    return Testbed(kit.kit)


class Sent:
    """A kit on its way; equal kits have equal tokens, so that it can be a key."""

    def __init__(self, token: str, kit: Kit) -> None:
        self.token, self.kit = token, kit

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sent) and other.token == self.token

    def __hash__(self) -> int:
        return hash(self.token)


def _evaluate(sent: Sent, plan: Plan, numbers: list[int], truth: bool) -> list[Record]:
    """Run in a worker: evaluate faults of the plan."""
    with _lock:
        testbed = _testbed(sent.token, sent)
    return testbed.evaluate(plan, numbers, truth=truth)
