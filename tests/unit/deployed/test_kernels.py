import os
import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto

from resq_deploy.deployed import kernels
from resq_deploy.deployed.deployment import Deployment

CPU = ("CPUExecutionProvider",)


def test_every_operator_is_tried_in_each_form_that_has_a_kernel():
    assert {form[0] for form in kernels.FORMS} == set(kernels.PRODUCTS)
    for form in kernels.FORMS:
        model, feeds = kernels._layer(form, 3, extreme=False)
        assert np.isfinite(kernels._run(model, feeds, CPU).astype(float)).all()


def test_the_environment_forces_every_form(monkeypatch):
    monkeypatch.setenv(kernels.FORCE, "1")
    assert kernels.saturating(CPU) == set(kernels.FORMS)
    monkeypatch.setenv(kernels.FORCE, "0")
    assert kernels.saturating(CPU) == kernels.measured(CPU)


def test_only_mixed_products_of_the_known_kinds_saturate():
    """Nothing on a CPU with VNNI; elsewhere uint8 x int8, and ConvInteger, whose kernel takes its operands in turn."""
    found = kernels.measured(CPU)
    mixed = (TensorProto.UINT8, TensorProto.INT8)
    known = {(op, *mixed) for op in kernels.PRODUCTS if op != "ConvInteger"} | {("ConvInteger", *mixed[::-1])}
    assert found in (frozenset(), frozenset(known))


def test_a_saturating_form_is_seen(monkeypatch):
    """Sums of two products capped at 16 bits, put in place of the kernel, are found out."""
    true = kernels._run

    def capped(model, feeds, providers):
        made = true(model, feeds, providers)
        (kind,) = (
            tensor.data_type for tensor in model.graph.initializer if tensor.name == model.graph.node[-1].input[1]
        )
        mixed = kind == TensorProto.INT8
        return np.minimum(made, 32_767) if mixed and made.dtype == np.int32 else made

    monkeypatch.setattr(kernels, "_run", capped)
    found = kernels.measured.__wrapped__(CPU)
    assert ("MatMulInteger", TensorProto.UINT8, TensorProto.INT8) in found


def test_products_of_uint8_that_are_wrong_end_it(monkeypatch):
    true = kernels._run
    monkeypatch.setattr(kernels, "_run", lambda *given: true(*given) + np.uint8(1))
    with pytest.raises(kernels.ModelError, match="products of uint8 operands are not exact on this CPU: --arithmetic"):
        kernels.measured.__wrapped__(CPU)


def test_figures_of_native_arithmetic_belong_to_a_kind_of_cpu():
    exact, native = (Deployment(arithmetic=kind).identity() for kind in ("exact", "native"))
    assert "cpu_saturates" not in exact
    assert native["cpu_saturates"] == Deployment().saturates
    assert (exact["arithmetic"], native["arithmetic"]) == ("exact", "native")


def test_float_files_need_no_trial():
    """The trial costs some milliseconds; a process that runs float models alone never pays them."""
    code = (
        "import onnx, numpy as np\n"
        "from onnx import helper, numpy_helper, TensorProto as T\n"
        "from resq_deploy.deployed import kernels\n"
        "from resq_deploy.deployed.deployment import Deployment, create\n"
        "graph = helper.make_graph([helper.make_node('Relu', ['x'], ['y'])], 'g',\n"
        "    [helper.make_tensor_value_info('x', T.FLOAT, None)], [onnx.ValueInfoProto(name='y')])\n"
        "create(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid('', 17)])"
        ".SerializeToString(), Deployment())\n"
        "print(kernels.measured.cache_info().currsize)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert run.stdout.strip() == "0"


def test_a_form_that_an_earlier_onnxruntime_lacks_cannot_saturate(monkeypatch):
    """Version 1.22 has no ConvInteger of int8 data: that must not keep all of its files from being run."""
    true = kernels._run

    def lacking(model, feeds, providers):
        types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        if model.graph.node[-1].op_type == "ConvInteger" and TensorProto.INT8 in types.values():
            raise kernels.NotImplemented("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : no implementation for ConvInteger")
        return true(model, feeds, providers)

    monkeypatch.setattr(kernels, "_run", lacking)
    found = kernels.measured.__wrapped__(CPU)
    assert not [form for form in found if form[0] == "ConvInteger"]
