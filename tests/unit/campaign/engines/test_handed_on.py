"""Values that the optimiser hands on: whatever is called proven, optimising the one faulty file shows as well."""

import collections

import numpy as np
import pytest

from resq_deploy.campaign.engines.testbed import Kit, Testbed
from resq_deploy.campaign.golden import golden_of
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.faults.fault import Edit, Fault

KINDS = ["cnn-qdq-channel-s8", "cnn-qoperator-channel-s8", "attention-qdq-channel-s8"]


@pytest.fixture
def engine(model_file, models):
    def build(name):
        images, model, patcher = models.images(4, name), DeployedModel.load(model_file(name)), None
        patcher = model.patcher()
        surfaces = {surface.tensor: surface for surface in model.surfaces}
        golden = golden_of(Session(patcher.golden, Deployment()), images, np.zeros(4, np.int64))
        kit = Kit(patcher=patcher, surfaces=surfaces, golden=golden, options=CampaignOptions())
        return Testbed(kit).engine, model.surfaces

    return build


def flips(surfaces, bits):
    rng = np.random.default_rng(5)
    small = [surface for surface in surfaces if surface.role not in ("weight", "bias") and surface.width >= 8]
    return [
        (surface, Fault(0, (Edit.of(surface.tensor, [int(rng.integers(surface.elements))], [bit]),)))
        for surface in small
        for bit in bits
        if bit < surface.width
    ]


@pytest.mark.parametrize("name", KINDS)
def test_a_proven_fault_leaves_the_graph_that_optimising_it_alone_leaves(name, engine):
    engine, surfaces = engine(name)
    handed_on, told = engine._handed_on, collections.Counter()
    for surface, fault in flips(surfaces, (0, 3, 7, 17, 19, 22, 24, 30, 31)):
        injection = engine._injector.inject(fault)
        proven = handed_on.holds(injection)
        faulty = engine._optimised_or_none(engine._injector.patcher.apply(injection.masks))
        expected = engine._graph.signatures_with(handed_on._golden, injection.values)
        stays = faulty is not None and faulty.signatures(engine._graph) == expected
        assert stays or not proven, (surface, fault)
        told[proven, stays] += 1
    assert told[True, True] > told[False, True]  # most of what could be proven is


def test_what_is_called_proven_does_not_depend_on_the_order(engine):
    first, surfaces = engine("cnn-qdq-channel-s8")
    second, _ = engine("cnn-qdq-channel-s8")
    injections = [first._injector.inject(fault) for _, fault in flips(surfaces, (2, 6, 18, 21, 23, 29))]
    forward = [first._handed_on.holds(injection) for injection in injections]
    backward = [second._handed_on.holds(injection) for injection in injections[::-1]]
    assert forward == backward[::-1]
    assert True in forward
    assert False in forward


def test_an_optimiser_that_looks_at_the_value_is_noticed(engine, monkeypatch):
    """As if any change of a scale by more than a third led to another graph."""
    engine, surfaces = engine("cnn-qdq-channel-s8")
    handed_on, patcher = engine._handed_on, engine._injector.patcher
    scales = [surface.tensor for surface in surfaces if surface.role == "activation-scale"]
    optimise = handed_on._optimise

    def picky(model):
        for tensor in scales:
            start = patcher._parts[tensor][0][1].raw
            new, old = (np.frombuffer(data, np.uint8)[start].view(np.float32) for data in (model, patcher.golden))
            if (abs(new / old - 1) > 1 / 3).any():
                return None
        return optimise(model)

    monkeypatch.setattr(handed_on, "_optimise", picky)
    for bit, expected in ((3, True), (17, True), (22, False), (23, False), (25, False)):
        fault = Fault(0, (Edit.of(scales[0], [0], [bit]),))
        assert handed_on.holds(engine._injector.inject(fault)) == expected, bit


@pytest.mark.parametrize("bit", [31, 30])
def test_special_values_are_never_called_proven(bit, engine):
    engine, surfaces = engine("cnn-qdq-channel-s8")
    scale = next(surface for surface in surfaces if surface.role == "activation-scale")
    value = engine._injector.patcher.stored(scale.tensor).view(np.float32)[0]
    pattern = 0x7F800000 ^ int(np.float32(value).view(np.uint32)) if bit == 30 else 1 << 31  # infinity; negative
    bits = [place for place in range(32) if pattern >> place & 1]
    fault = Fault(0, (Edit.of(scale.tensor, [0] * len(bits), bits),))
    assert not engine._handed_on.holds(engine._injector.inject(fault))
