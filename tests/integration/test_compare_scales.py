"""tools/compare_scales.py on reference files, guarded ones too, and on a file whose scales are known."""

import pathlib

import compare_scales
import numpy as np
import onnx
from onnx import numpy_helper

from resq_deploy.quantization.scales import layer_scales

MODELS = pathlib.Path(__file__).parents[2] / "models"
BASELINE, GUARDED = (MODELS / f"resnet8-digits-{name}.int8.onnx" for name in ("baseline", "resq"))


def test_layers_of_guarded_files_are_compared(capsys):
    assert compare_scales.main([str(BASELINE), str(GUARDED)]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == 10 + 1
    assert rows[0].startswith("| body.conv1 |")
    assert rows[-1].startswith("| geometric mean | 0.")  # stage 2 clips weights: their scales became smaller


def test_a_scale_twice_as_large_is_told_and_no_matter_of_how_large_it_is_for_the_weights(tmp_path):
    model = onnx.load(BASELINE)
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == "body.fc.weight_scale")
    scale.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(scale), scale.name))
    onnx.save(model, tmp_path / "twice.onnx")
    rows = {row[0]: row[1:] for row in compare_scales.table(*map(layer_scales, (BASELINE, tmp_path / "twice.onnx")))}
    assert rows.pop("body.fc") == ["2.00", "1.00", "1.00"]
    rows.pop("geometric mean")
    assert all(row == ["1.00"] * 3 for row in rows.values())


def test_a_file_without_quantized_weights_is_one_line(tmp_path, capsys):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3])
    weight = numpy_helper.from_array(np.ones((3, 3), dtype=np.float32), "w")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3])
    graph = onnx.helper.make_graph([node], "g", [value], [out], [weight])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "float.onnx")
    assert compare_scales.main([str(tmp_path / "float.onnx"), str(BASELINE)]) == 2
    assert "has no layer with quantized weights" in capsys.readouterr().err
