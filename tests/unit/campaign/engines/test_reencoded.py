"""Campaigns in exact arithmetic against files that are exact by themselves.

Each faulty file is written once more with its int8 weights as uint8, zero point 128 - which no CPU saturates - by code
of its own, and run by plain onnxruntime. Records must be equal fault by fault, whichever engine gave them.
"""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper

from resq_deploy.campaign.engines.testbed import Kit, Testbed
from resq_deploy.campaign.golden import golden_of
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.deployed import kernels
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.faults.fault import Edit, Fault
from resq_deploy.protection.guards import guard

FILES = {
    "QDQ": "cnn-qdq-channel-s8",
    "QOperator": "cnn-qoperator-channel-s8",
    "dynamic": "cnn-dynamic-tensor-s8",
    "attention, QDQ": "attention-qdq-channel-s8",
    "attention, dynamic": "attention-dynamic-tensor-s8",
}
WEIGHTS = {
    "QLinearConv": ((3, 5),),
    "QLinearMatMul": ((3, 5),),
    "QGemm": ((3, 5),),
    "ConvInteger": ((1, 3),),
    "MatMulInteger": ((1, 3),),
    "DequantizeLinear": ((0, 2),),
}
FAULTS, IMAGES, BATCH = 45, 6, 3


def stored_behind(model, value):
    """The int8 initializers that a value is made of, through votes and moves; none if it depends on an input."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    found, waiting = {}, [value]
    while waiting:
        name = waiting.pop()
        if name in stored:
            if stored[name].data_type == TensorProto.INT8:
                found[name] = stored[name]
        elif name in makers and makers[name].op_type in ("Equal", "Where", "Transpose", "Reshape", "Identity"):
            waiting += makers[name].input
        elif name:
            return {}
    return found


def as_uint8(data):
    """The same file with every int8 weight 128 higher, as uint8, and its zero point as well."""
    model = onnx.ModelProto.FromString(data)
    moved = {}
    for node in model.graph.node:
        for weight, zero in WEIGHTS.get(node.op_type, ()):
            tensors = stored_behind(model, node.input[weight])
            if not tensors:
                continue
            moved |= tensors
            if zero < len(node.input) and node.input[zero]:
                moved |= stored_behind(model, node.input[zero])
            else:
                node.input.extend([""] * (zero + 1 - len(node.input)))
                node.input[zero] = f"half {weight} {node.output[0]}"
                scales = [
                    t for t in model.graph.initializer if node.op_type == "DequantizeLinear" and t.name == node.input[1]
                ]
                shape = tuple(scales[0].dims) if scales else ()
                model.graph.initializer.append(numpy_helper.from_array(np.full(shape, 128, np.uint8), node.input[zero]))
    assert moved
    for name, tensor in moved.items():
        values = np.asarray(numpy_helper.to_array(tensor).view(np.uint8) ^ np.uint8(0x80))
        tensor.CopyFrom(numpy_helper.from_array(values, name))
    del model.graph.value_info[:]
    return model.SerializeToString()


def plain(data, images):
    """What onnxruntime alone makes of a file, or None where it raises."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        parts = [session.run(None, {name: images[at : at + BATCH]})[0] for at in range(0, len(images), BATCH)]
    except Exception:
        return None
    return np.concatenate(parts)


def drawn(surfaces):
    """Single flips in every tensor, and then anywhere."""
    source = np.random.default_rng(3)
    tensors = [*surfaces, *source.choice(np.array(surfaces, dtype=object), max(0, FAULTS - len(surfaces)))]
    return [
        Fault(number, (Edit.of(s.tensor, [int(source.integers(s.bits // s.width))], [int(source.integers(s.width))]),))
        for number, s in enumerate(tensors[:FAULTS])
    ]


@pytest.mark.parametrize("forced", ["0", "1"], ids=["as this CPU needs", "re-encoded"])
@pytest.mark.parametrize("guarded", [False, True], ids=["plain", "guarded"])
@pytest.mark.parametrize("name", FILES)
def test_records_are_those_of_a_file_that_is_exact_by_itself(
    models, model_file, tmp_path, monkeypatch, name, guarded, forced
):
    monkeypatch.setenv(kernels.FORCE, forced)
    path, images = model_file(FILES[name]), models.images(IMAGES, name)
    model = DeployedModel.load(path)
    if guarded:
        tensors = [surface.tensor for surface in model.surfaces if surface.dtype in ("int8", "int32", "float32")]
        path = tmp_path / "guarded.onnx"
        path.write_bytes(guard(model.path.read_bytes(), tensors))
        model = DeployedModel.load(path)
    patcher, deployment = model.patcher(), Deployment(batch=BATCH)
    session = Session(patcher.golden, deployment)
    assert session.run(images).tobytes() == plain(as_uint8(patcher.golden), images).tobytes()
    kit = Kit(
        patcher=patcher,
        surfaces={surface.tensor: surface for surface in model.surfaces},
        golden=golden_of(session, images, np.zeros(IMAGES, np.int64)),
        options=CampaignOptions(deployment=deployment),
    )
    testbed, faults = Testbed(kit), drawn(model.surfaces)
    for engine in (testbed.engine, testbed.truth):
        records = {record.number: record for record in engine.evaluate(faults)}
        for fault in faults:
            expected = plain(as_uint8(patcher.apply(patcher.masks(fault))), images)
            record = records[fault.number]
            if expected is None:
                assert record.outcome == "due"
            else:
                assert record.logits == kit.golden.record(0, {session.output: expected}, 1).logits
