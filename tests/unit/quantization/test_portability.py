"""Exported files run at every optimisation level, tell nothing of the machine, and come out the same again."""

import getpass
import itertools
import json
import pathlib
import tempfile

import numpy as np
import onnx
import pytest

from resq_deploy.data import load_dataset
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.integer_share import integer_share
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.session import Session
from resq_deploy.deployed.verify import Verdict, verify
from resq_deploy.quantization.export import ExportOptions, export_int8
from resq_deploy.quantization.scheme import FORMATS, GRANULARITIES
from resq_deploy.records import sha256_file, write_json

KINDS = {
    **{
        f"{form}, {granularity}": {"format": form, "granularity": granularity}
        for form, granularity in itertools.product(FORMATS, GRANULARITIES)
    },
    "adjusted": {
        "ranges": "fault-aware",
        "equalize": True,
        "bias_correction": True,
        "activation_percentile": 99.99,
    },
    "guarded": {"guard": "parameters"},
    "opset 13": {"opset": 13},
    "7 bits": {"reduce_range": True},
    "uint8 weights": {"weight_type": "uint8"},
}
LEVELS = ("extended", "basic", "none")
AGREEMENT = 0.999


@pytest.fixture(scope="module")
def export(digits_float):
    """Export the digits classifier in a form, once; `again` does it a second time."""
    made = {}

    def run(kind, again=False):
        if (kind, again) not in made:
            options = ExportOptions(**KINDS[kind], calibration_images=60, test_images=60)
            made[kind, again] = export_int8(digits_float, load_dataset("digits"), options, described="test")
        return made[kind, again]

    return run


@pytest.fixture(scope="module")
def test_images():
    return load_dataset("digits").test.images


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def winners(data, images, **deployment):
    session = Session(data, Deployment(**deployment))
    return session.run(session.input.prepare(images)).argmax(axis=1)


def test_every_optimisation_level_gives_the_same_classes(export, test_images, kind):
    data = export(kind).int8_file
    expected = winners(data, test_images)
    for level in LEVELS:
        assert np.mean(winners(data, test_images, optimization=level) == expected) >= AGREEMENT, level


def test_batches_of_any_size_give_the_same_classes(export, test_images, kind):
    data = export(kind).int8_file
    expected = winners(data, test_images[:60])
    for batch in (1, 7, 60):
        np.testing.assert_array_equal(winners(data, test_images[:60], batch=batch), expected)


def test_the_file_is_valid_and_all_its_products_are_integer(export, test_images, kind):
    data = export(kind).int8_file
    plain = KINDS[kind].get("format") != "qoperator"  # QGemm is none of ONNX's operators
    onnx.checker.check_model(data, full_check=plain)
    images = Session(data, Deployment()).input.prepare(test_images[:1])
    assert integer_share(data, Deployment(), images).share == 1.0


def without_values(data):
    """What a file says besides the values of its tensors."""
    model = onnx.load_from_string(data)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
    return model.SerializeToString()


def test_no_path_and_no_user_is_in_the_file_or_its_sidecar(export, digits_float, kind):
    exported = export(kind)
    model = onnx.load_from_string(exported.int8_file)
    assert not model.metadata_props
    assert not model.doc_string
    home, user = str(pathlib.Path.home()), getpass.getuser()
    sidecar = {key: value for key, value in exported.sidecar.items() if key != "provenance"}  # names the platform
    told = without_values(exported.int8_file) + json.dumps(sidecar).encode()
    for word in {tempfile.gettempdir(), home, str(pathlib.Path.cwd()), str(digits_float.parent)} - {"/"}:
        assert word.encode() not in told, word
    if len(user) > 3:  # shorter ones occur by chance
        assert user.encode() not in told


def test_only_domains_that_are_used_are_imported(export, kind):
    model = onnx.load_from_string(export(kind).int8_file)
    used = {node.domain for node in model.graph.node} | {""}
    assert {entry.domain for entry in model.opset_import} == used


def test_equal_inputs_and_seeds_give_equal_files(export, kind):
    first, second = (export(kind, again) for again in (False, True))
    assert first.int8_file == second.int8_file
    assert json.dumps(first.sidecar) == json.dumps(second.sidecar)


def test_the_sidecar_verifies_the_file(export, tmp_path, kind):
    exported, path = export(kind), tmp_path / "net.onnx"
    path.write_bytes(exported.int8_file)
    write_json(path.with_suffix(".json"), {**exported.sidecar, "model": {"sha256": sha256_file(path)}})
    assert verify(DeployedModel.load(path)).verdict is Verdict.IDENTICAL
