import dataclasses

import numpy as np
import pytest

from resq_deploy.campaign import cluster_worker
from resq_deploy.campaign.engines.testbed import Kit
from resq_deploy.campaign.golden import golden_run
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.data import load_dataset
from resq_deploy.deployed.arithmetic import Arithmetic
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.errors import InputError

EXACT, NATIVE = Deployment(), Deployment(arithmetic=Arithmetic.NATIVE)
HERE = cluster_worker.provenance()


def test_in_exact_arithmetic_workers_may_have_another_kind_of_cpu(monkeypatch):
    wanted = cluster_worker.terms(EXACT)
    monkeypatch.setattr(Deployment, "saturates", property(lambda _: True))
    monkeypatch.setattr(cluster_worker, "provenance", lambda: {**HERE, "cpu_flags": ["another"]})
    cluster_worker.compare(wanted, cluster_worker.terms(EXACT), "a worker")


@pytest.mark.parametrize(
    ("saturates", "flags", "said"),
    [(True, None, "has saturation of sums True"), (None, ["another"], "has CPU features another")],
    ids=["saturation", "features"],
)
def test_native_arithmetic_refuses_a_mixture_of_cpus(monkeypatch, saturates, flags, said):
    monkeypatch.setattr(Deployment, "saturates", property(lambda _: False))
    wanted = cluster_worker.terms(NATIVE)
    if saturates:
        monkeypatch.setattr(Deployment, "saturates", property(lambda _: True))
    if flags:
        monkeypatch.setattr(cluster_worker, "provenance", lambda: {**HERE, "cpu_flags": flags})
    with pytest.raises(InputError, match=f"Dask worker here {said}, this campaign .*: the figures could differ"):
        cluster_worker.compare(wanted, cluster_worker.terms(NATIVE), "here")


def test_a_worker_shows_that_it_gives_the_golden_outputs(digits_int8):
    model, options = DeployedModel.load(digits_int8), CampaignOptions(images=30)
    patcher = model.patcher()
    golden = golden_run(patcher.golden, options.deployment, load_dataset("digits"), 30)
    surfaces = {surface.tensor: surface for surface in model.surfaces}
    kit = Kit(patcher=patcher, surfaces=surfaces, golden=golden, options=options)
    assert cluster_worker._built(kit, "here").engine.name == "replay"
    ((name, scores),) = golden.outputs.items()
    scores = scores.copy()
    scores[29, 3] = np.nextafter(scores[29, 3], np.float32(np.inf))
    other = dataclasses.replace(kit, golden=dataclasses.replace(golden, outputs={name: scores}))
    with pytest.raises(InputError, match="Dask worker here does not give the outputs of the golden run bit by bit"):
        cluster_worker._built(other, "here")
