"""Where stored tensors lie in a file: the bytes there are theirs, in every way a file can store them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from resq_deploy.deployed.digests import compare, files_named
from resq_deploy.deployed.graph import read_model
from resq_deploy.deployed.layout import digests_of, record_of
from resq_deploy.deployed.surfaces import find_surfaces


def as_stored(tensor):
    """Return the bytes that hold a tensor: its raw ones, or its whole message where it has typed fields."""
    return tensor.raw_data or tensor.SerializeToString()


def test_every_stored_bit_of_a_surface_lies_in_a_range_of_its_tensor(digits_int8):
    data = digits_int8.read_bytes()
    proto, _ = read_model(digits_int8)
    found = {held["tensor"]: held for held in digests_of(data, "net.onnx")["tensors"]}
    raw = {tensor.name: as_stored(tensor) for tensor in onnx.load(digits_int8).graph.initializer}
    for surface in find_surfaces(proto):
        held = found[surface.tensor]
        assert data[held["begin"] : held["end"]] == raw[surface.tensor]
        assert (held["role"], held["layer"], held["file"]) == (str(surface.role), surface.layer, 0)


def test_a_file_has_the_digests_that_it_was_written_with(digits_int8):
    record = record_of(digits_int8)
    assert record["digests"] == digests_of(digits_int8.read_bytes(), digits_int8.name)
    assert (record["schema"], record["command"]) == (1, "inspect")
    assert record["model"]["bytes"] == digits_int8.stat().st_size


@pytest.mark.parametrize(
    "name", ["typed_storage", "subgraphs", "sparse", "functions", "constants", "shared", "four_bits", "guarded"]
)
def test_files_of_any_form(models, tmp_path, name):
    path = models.save(getattr(models, name)(), tmp_path / "m.onnx")
    data = path.read_bytes()
    digests = record_of(path)["digests"]
    assert compare(digests, [data]).sound
    assert digests["tensors"]
    for held in digests["tensors"]:
        hit = bytearray(data)
        hit[held["end"] - 1] ^= 0x10
        assert held["tensor"] in {each.tensor for each in compare(digests, [bytes(hit)]).damaged}


def test_a_tensor_in_typed_fields_is_all_of_its_message(models, tmp_path):
    path = models.save(models.typed_storage(), tmp_path / "m.onnx")
    data, proto = path.read_bytes(), onnx.load(path)
    found = {held["tensor"]: held for held in record_of(path)["digests"]["tensors"]}
    typed = [tensor for tensor in proto.graph.initializer if not tensor.raw_data]
    assert typed
    for tensor in typed:
        held = found[tensor.name]
        assert data[held["begin"] : held["end"]] == tensor.SerializeToString()


def test_external_data_has_digests_of_its_own(digits_int8, tmp_path):
    proto = onnx.load(digits_int8)
    convert_model_to_external_data(proto, all_tensors_to_one_file=True, location="w.bin", size_threshold=64)
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    digests = record_of(path)["digests"]
    assert files_named(digests) == ["m.onnx", "w.bin"]
    contents = [path.read_bytes(), (tmp_path / "w.bin").read_bytes()]
    assert compare(digests, contents).sound
    stored = {tensor.name: as_stored(tensor) for tensor in onnx.load(path).graph.initializer}
    away = [held for held in digests["tensors"] if held["file"] == 1]
    here = [held for held in digests["tensors"] if held["file"] == 0]
    assert away
    assert here
    for held in (*away, *here):
        if held["tensor"] in stored:
            assert contents[held["file"]][held["begin"] : held["end"]] == stored[held["tensor"]]
    hit = bytearray(contents[1])
    hit[away[3]["begin"]] ^= 1
    (damaged,) = compare(digests, [contents[0], bytes(hit)]).damaged
    assert (damaged.tensor, damaged.role, damaged.file) == (away[3]["tensor"], away[3]["role"], "w.bin")


def test_a_tensor_that_is_no_surface_is_named_without_role(models, tmp_path):
    proto = models.float_cnn()
    proto.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(proto.graph.initializer[0]), "idle"))
    path = models.save(proto, tmp_path / "m.onnx")
    held = {one["tensor"]: one for one in record_of(path)["digests"]["tensors"]}["idle"]
    assert (held["role"], held["layer"]) == ("", "")


def test_text_is_no_stretch_of_bytes_but_counts(models, tmp_path):
    proto = models.float_cnn()
    proto.graph.initializer.append(
        TensorProto(name="words", data_type=TensorProto.STRING, dims=[1], string_data=[b"a"])
    )
    path = models.save(proto, tmp_path / "m.onnx")
    data, digests = path.read_bytes(), record_of(path)["digests"]
    held = {one["tensor"]: one for one in digests["tensors"]}["words"]
    assert b"a" in data[held["begin"] : held["end"]]


def test_numbers_of_nodes_are_named_by_node_and_attribute(models, tmp_path):
    proto = models.float_cnn()
    count = proto.graph.node[0].output[0]
    scale, bias, mean, variance = (
        numpy_helper.from_array(np.ones(proto.graph.initializer[0].dims[0], np.float32), name) for name in "sbmv"
    )
    proto.graph.initializer.extend([scale, bias, mean, variance])
    norm = onnx.helper.make_node("BatchNormalization", [count, *"sbmv"], ["normed"], "norm", momentum=0.75, epsilon=0.5)
    for reader in proto.graph.node[1:]:
        for place, name in enumerate(reader.input):
            reader.input[place] = "normed" if name == count else name
    proto.graph.node.insert(1, norm)
    path = models.save(proto, tmp_path / "m.onnx")
    data, found = path.read_bytes(), {held["tensor"]: held for held in record_of(path)["digests"]["tensors"]}
    epsilon, momentum = found["norm.epsilon"], found["norm.momentum"]
    assert data[epsilon["begin"] : epsilon["end"]] == np.float32(0.5).tobytes()
    assert data[momentum["begin"] : momentum["end"]] == np.float32(0.75).tobytes()
    assert (epsilon["role"], epsilon["layer"]) == ("constant", "norm")
    assert (momentum["role"], momentum["layer"]) == ("", "")  # training alone reads it


def test_each_external_file_has_digests_of_its_own(digits_int8, tmp_path):
    proto = onnx.load(digits_int8)
    convert_model_to_external_data(proto, all_tensors_to_one_file=False, size_threshold=64)
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    digests = record_of(path)["digests"]
    names = files_named(digests)
    contents = [(tmp_path / name).read_bytes() for name in names]
    assert len(names) > 3
    assert compare(digests, contents).sound
    for held in digests["tensors"]:
        if held["file"]:
            assert (held["begin"], held["end"]) == (0, len(contents[held["file"]]))
            spoilt = [data if at != held["file"] else bytes(len(data)) for at, data in enumerate(contents)]
            if spoilt != contents:
                assert held["tensor"] in {each.tensor for each in compare(digests, spoilt).damaged}
