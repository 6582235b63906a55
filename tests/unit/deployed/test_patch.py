"""Patched files against a reload-and-run written apart, with onnx and numpy alone; and the proof of injection."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from resq_deploy.campaign.engines.injection import Injector
from resq_deploy.campaign.engines.reload import ReloadEngine
from resq_deploy.campaign.golden import golden_of
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.deployed.arithmetic import Arithmetic
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.errors import InjectionError
from resq_deploy.faults.fault import Edit, Fault, Op


def flipped_array(array, index, bit):
    """Flip a bit of an element through a numpy view; 4-bit elements are of their own type, one in a byte."""
    flat = array.reshape(-1).copy()
    view = flat.view(f"u{flat.dtype.itemsize}")
    view[index] ^= view.dtype.type(1 << bit)
    return view.view(array.dtype).reshape(array.shape)


def flip_float(attribute, bit):
    """Flip a bit of an attribute's float; written as bytes, as Python would quieten a signalling NaN."""
    pattern = np.float32([attribute.f]).view("<u4") ^ np.uint32(1 << bit)
    attribute.ClearField("f")
    attribute.MergeFromString(b"\x15" + pattern.tobytes())


def reference(path, tensor, index, bit):
    """Load a file, flip a bit, and return the changed model, serialised."""
    proto = onnx.load(path)
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    hits = 0

    def replace(stored):
        nonlocal hits
        hits += 1
        stored.CopyFrom(numpy_helper.from_array(flipped_array(numpy_helper.to_array(stored), index, bit), stored.name))

    def walk(graph):
        nonlocal hits
        for stored in [*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)]:
            if stored.name == tensor:
                replace(stored)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    walk(attribute.g)
                elif f"{node.name}.{attribute.name}" == tensor:
                    flip_float(attribute, bit)
                    hits += 1
                elif node.op_type != "Constant" or node.output[0] != tensor:
                    continue
                elif attribute.name == "value":
                    replace(attribute.t)
                elif attribute.name == "value_float":
                    attribute.f = flipped_array(np.float32([attribute.f]), 0, bit)[0]
                    hits += 1
                elif attribute.name == "value_floats":
                    attribute.floats[index] = flipped_array(np.float32(attribute.floats), index, bit)[index]
                    hits += 1

    walk(proto.graph)
    assert hits == 1
    return proto.SerializeToString()


def answer(model, inputs, batch):
    """What onnxruntime answers, run batch by batch, or None where it refuses the model."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        name = session.get_outputs()[0].name
        parts = [session.run([name], {"x": inputs[at : at + batch]})[0] for at in range(0, len(inputs), batch)]
        return np.concatenate(parts)
    except Exception:
        return None


def some_faults(surfaces, count):
    """At least one fault in every role, the rest anywhere: a seeded sample."""
    rng = np.random.default_rng(0)
    roles = list(dict.fromkeys(surface.role for surface in surfaces))
    for number in range(max(count, len(roles))):
        role = roles[number % len(roles)]
        surface = rng.choice([surface for surface in surfaces if surface.role is role])
        yield surface.tensor, int(rng.integers(surface.elements)), int(rng.integers(surface.width))


NATIVE = Deployment(arithmetic=Arithmetic.NATIVE)  # as `answer` runs the file: what is tried is the patch


def test_a_patched_file_answers_like_a_reloaded_one(file_kind, model_file, models):
    path, inputs = model_file(file_kind), models.images(6, file_kind)
    model = DeployedModel.load(path)
    patcher = model.patcher()
    batch = 2 if file_kind == "fixed_batch" else len(inputs)
    session = Session(patcher.golden, NATIVE)
    golden = golden_of(session, inputs, np.zeros(len(inputs), np.int64))
    logits = golden.outputs[session.output]
    surfaces = {surface.tensor: surface for surface in model.surfaces}
    engine = ReloadEngine(Injector(patcher, surfaces, "none"), golden, CampaignOptions(deployment=NATIVE))
    assert np.array_equal(logits, answer(path.read_bytes(), inputs, batch))

    changed = 0
    for tensor, index, bit in some_faults(model.surfaces, 16):
        fault = Fault(0, (Edit.of(tensor, [index], [bit]),))
        faulty = patcher.apply(patcher.masks(fault))
        assert patcher.prove(fault, faulty) == 1
        expected = answer(reference(path, tensor, index, bit), inputs, batch)
        (record,) = engine.evaluate([fault])
        if expected is None:
            assert record.outcome == "due"
            continue
        assert Session(faulty, NATIVE).run(inputs).tobytes() == expected.tobytes()
        equal = np.array([a.tobytes() == b.tobytes() for a, b in zip(expected, logits, strict=True)])
        finite = np.isfinite(expected).all(axis=1)
        wrong = ~equal & (~finite | (expected.argmax(axis=1) != logits.argmax(axis=1)))
        changed += int((~equal).sum())
        assert (record.counts["masked"], record.counts["sdc1"]) == (equal.sum(), wrong.sum())
        assert record.counts["benign"] == len(inputs) - equal.sum() - wrong.sum()
    # Each copy of a guarded tensor is outvoted by the other two; anywhere else faults must show.
    assert (changed == 0) == (file_kind == "guarded")


def test_low_nibble_first(model_file):
    """Elements 0 and 1 of a packed tensor share the first byte, element 0 in its low half."""
    patcher = DeployedModel.load(model_file("four_bits")).patcher()

    for index, bit, byte, value in ((0, 0, 0, 0x01), (1, 0, 0, 0x10), (1, 3, 0, 0x80), (14, 2, 7, 0x04)):
        (mask,) = patcher.masks(Fault(0, (Edit.of("w", [index], [bit]),))).values()
        assert mask[byte] == value
        assert mask.sum() == value


@pytest.mark.parametrize("op", [Op.SET0, Op.SET1])
def test_a_stuck_bit_changes_the_file_only_where_it_differs(op, model_file):
    patcher = DeployedModel.load(model_file("typed_storage")).patcher()
    stored = patcher.stored("w")
    fault = Fault(0, (Edit.of("w", range(15), [0] * 15, op),))
    faulty = patcher.apply(patcher.masks(fault))

    expected = int(((stored & 1) != (op is Op.SET1)).sum())
    assert 0 < expected < 15
    assert patcher.prove(fault, faulty) == expected


def test_edits_of_one_tensor_follow_each_other(model_file):
    patcher = DeployedModel.load(model_file("typed_storage")).patcher()
    fault = Fault(0, (Edit.of("w", [3], [0], Op.WORD, [0x5A]), Edit.of("w", [3], [0]), Edit.of("w_s", [0], [31])))
    faulty = patcher.apply(patcher.masks(fault))

    patcher.prove(fault, faulty)
    changed = onnx.ModelProto.FromString(faulty).graph.initializer
    assert numpy_helper.to_array(changed[0]).reshape(-1)[3] == 0x5B
    assert numpy_helper.to_array(changed[1]) == np.float32(-0.1)


def tamper(kind, patcher, faulty):
    """Spoil a faulty model; places are found by the bytes of the tensors, not by the package's own spans."""
    data = bytearray(faulty)
    start = faulty.index(bytes([0x77, 0x08]))  # elements 7, 7, -8, 0
    if kind == "inside":
        data[start + 1] ^= 0x04
    elif kind == "padding":
        data[start + 7] ^= 0x10
    elif kind == "outside":
        data[-1] ^= 0x01
    elif kind == "name":
        data[bytes(data).index(b"\x42\x06marked") + 2] ^= 0x02
    elif kind == "truncated":
        del data[-1]
    elif kind == "extended":
        data += b"\x00"
    return bytes(data)


@pytest.mark.parametrize("kind", ["inside", "padding", "outside", "name", "truncated", "extended"])
def test_the_proof_refuses_a_tampered_file(kind, models, tmp_path):
    values = [7, 7, -8, 0, 1, 2, 3, 4, 5, 6, -1, -2, -3, -4, -5]
    weight = onnx.helper.make_tensor("marked", onnx.TensorProto.INT4, [15], np.array(values))
    proto = models.four_bits()
    proto.graph.initializer[0].CopyFrom(weight)
    proto.graph.node[2].input[0] = "marked"
    patcher = DeployedModel.load(models.save(proto, tmp_path / "m.onnx")).patcher()
    fault = Fault(0, (Edit.of("marked", [4], [1]),))
    faulty = patcher.apply(patcher.masks(fault))

    assert patcher.prove(fault, faulty) == 1
    with pytest.raises(InjectionError, match=r"injection into '?marked"):
        patcher.prove(fault, tamper(kind, patcher, faulty))


def test_the_proof_refuses_a_fault_that_did_not_happen(model_file):
    patcher = DeployedModel.load(model_file("cnn")).patcher()

    with pytest.raises(InjectionError):
        patcher.prove(Fault(0, (Edit.of("w1", [0], [0]),)), patcher.golden)
