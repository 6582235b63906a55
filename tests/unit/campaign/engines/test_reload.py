"""A fault is `due` only for what it does itself: not for a machine that is short of time or memory."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from resq_deploy.campaign.engines import reload
from resq_deploy.campaign.engines.injection import Injector
from resq_deploy.campaign.engines.reload import ReloadEngine
from resq_deploy.campaign.golden import golden_of
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.deployed.patch import Patcher
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.surfaces import find_surfaces
from resq_deploy.errors import FailedError, OutOfMemoryError
from resq_deploy.faults.fault import Edit, Fault

TURNS = "turns"
"""A stored float: how often the loop of `looping` turns, how much `asking` asks for."""


def looping():
    """Adds 1 to the logits `turns` times."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
            helper.make_node("Add", ["sum_in", "one"], ["sum_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_in", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_out", TensorProto.FLOAT, None),
        ],
    )
    loop = helper.make_node("Loop", ["count", "", "product"], ["y"], body=body)
    return _classifier([helper.make_node("Cast", [TURNS], ["count"], to=TensorProto.INT64), loop])


def asking():
    """Adds the mean of as many ones as 1,000 to the power of `turns`."""
    return _classifier(
        [
            helper.make_node("Pow", ["thousand", TURNS], ["size"]),
            helper.make_node("Cast", ["size"], ["count"], to=TensorProto.INT64),
            helper.make_node("Unsqueeze", ["count", "first"], ["shape"]),
            helper.make_node("Expand", ["one", "shape"], ["ones"]),
            helper.make_node("ReduceMean", ["ones"], ["mean"], keepdims=0),
            helper.make_node("Add", ["product", "mean"], ["y"]),
        ],
        thousand=np.float32(1000),
        first=np.array([0]),
    )


def _classifier(nodes, **constants):
    stored = {
        "weight": np.random.default_rng(4).standard_normal((192, 3)).astype(np.float32),
        TURNS: np.float32(2.0),
        "one": np.float32(1.0),
        **constants,
    }
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Flatten", ["x"], ["flat"]),
                helper.make_node("MatMul", ["flat", "weight"], ["product"]),
                *nodes,
            ],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )


@pytest.fixture
def engine(models):
    """Return a function that makes the truth engine for a model."""

    def build(model, **options):
        surfaces = {surface.tensor: surface for surface in find_surfaces(model)}
        assert {TURNS, "weight"} <= surfaces.keys()
        patcher, asked = Patcher(model, list(surfaces.values())), CampaignOptions(**options)
        images = models.images(4)
        golden = golden_of(Session(patcher.golden, asked.deployment), images, np.zeros(len(images), np.int64))
        return ReloadEngine(Injector(patcher, surfaces, "none"), golden, asked)

    return build


def flip(tensor, bit):
    return Fault(0, (Edit.of(tensor, [0], [bit]),))


def only(records):
    (record,) = records
    return record


def test_a_fault_that_never_ends_is_due_and_one_that_ends_is_not(engine):
    bed = engine(looping(), time_limit=1.0)
    endless = only(bed.evaluate([flip(TURNS, 28)]))  # 2 becomes 2^33
    assert (endless.outcome, endless.reason) == ("due", "no answer in 1.0 s")
    assert only(bed.evaluate([flip(TURNS, 23)])).outcome == "benign"  # 2 becomes 4


def test_a_limit_that_the_golden_file_does_not_keep_ends_the_campaign(engine):
    bed = engine(looping(), time_limit=1e-6)
    with pytest.raises(FailedError, match=r"the golden file fails, too \(no answer in 1e-06 s\): .* --resume"):
        bed.evaluate([flip("weight", 30)])


def test_a_file_that_asks_for_more_than_there_is_is_due(engine):
    record = only(engine(asking()).evaluate([flip(TURNS, 23)]))  # 2 becomes 4: 4 terabytes
    assert record.outcome == "due"
    assert "allocate memory" in record.reason


class Troubled:
    """A session as a machine in trouble has it: some of its runs fail."""

    failures: list[Exception]

    def __init__(self, model, deployment):
        self._session = Session(model, deployment)

    def answers(self, *arguments):
        if self.failures:
            raise self.failures.pop(0)
        return self._session.answers(*arguments)

    def health(self, images):
        return self._session.health(images)


@pytest.fixture
def trouble(monkeypatch):
    """Return a function that lets the next runs of sessions fail."""

    def begin(*failures):
        monkeypatch.setattr(Troubled, "failures", list(failures), raising=False)
        monkeypatch.setattr(reload, "Session", Troubled)

    return begin


def test_a_failure_that_does_not_come_again_is_none_of_the_faults(engine, trouble):
    bed = engine(looping())
    truth = only(bed.evaluate([flip("weight", 30)]))
    trouble(RuntimeError("no thread could be started"))
    assert only(bed.evaluate([flip("weight", 30)])) == truth
    assert Troubled.failures == []


@pytest.mark.parametrize(
    "failure",
    [
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        RuntimeError("Failed to allocate memory for requested buffer of size 4096"),
    ],
    ids=["numpy", "c++", "onnxruntime"],
)
def test_memory_that_runs_out_ends_the_campaign(engine, trouble, failure):
    bed = engine(looping())
    trouble(failure)
    with pytest.raises(OutOfMemoryError, match=r"memory ran out .*: give fewer --workers or --images"):
        bed.evaluate([flip("weight", 30)])


def test_a_golden_file_that_fails_or_answers_otherwise_ends_the_campaign(engine, trouble, monkeypatch):
    bed = engine(looping())
    trouble(*[RuntimeError("no kernel")] * 2)
    with pytest.raises(FailedError, match=r"due \(no kernel\), but the golden file fails, too \(no kernel\)"):
        bed.evaluate([flip("weight", 30)])
    trouble(RuntimeError("no kernel"))
    monkeypatch.setattr(Session, "answers", lambda *_: {"y": np.zeros((4, 3), np.float32)})
    with pytest.raises(FailedError, match="does not answer as it did"):
        bed.evaluate([flip("weight", 30)])


def test_an_error_of_our_own_is_not_put_down_to_a_fault(engine, trouble):
    bed = engine(looping())
    trouble(TypeError("a mistake in our code"))
    with pytest.raises(TypeError, match="a mistake"):
        bed.evaluate([flip("weight", 30)])
