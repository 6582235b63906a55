"""The models of models.py as files, plain or put through onnxruntime's own quantizer."""

import importlib.util
import logging
import pathlib

import onnx
import onnxruntime as ort
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process

from resq_deploy.quantization.unsigned import store_as_uint8

FILES = (  # every kind of file that faults are injected into
    "cnn",
    "attention",
    "typed_storage",
    "shared",
    "constants",
    "passed_on",
    "four_bits",
    "uint4",
    "guarded",
    "subgraphs",
    "indices",
    "sparse",
    "functions",
    "overridable",
    "fixed_batch",
    "nhwc_uint8",
    "integer_bias",
    "matmul_nbits",
    "attention-dynamic-channel-u8-saved",
    "attention-qdq-channel-s8",
    "attention-qdq-tensor-u8",
    "attention-qoperator-tensor-s8-pre",
    "attention-qoperator-tensor-s8-pre-shifted",
    "cnn-dynamic-tensor-u8",
    "cnn-qdq-channel-s8",
    "cnn-qdq-channel-s8-shifted",
    "cnn-qdq-tensor-s8-a16",
    "cnn-qdq-tensor-u8",
    "cnn-qoperator-channel-s8",
    "cnn-qoperator-channel-s8-savedall",
    "cnn-qoperator-tensor-u8",
)
SOURCE = pathlib.Path(__file__).with_name("models.py")


class _Calibration(CalibrationDataReader):
    def __init__(self, images):
        self._rest = iter([{"x": images}])

    def get_next(self):
        return next(self._rest, None)


def optimised(source: pathlib.Path, path: pathlib.Path, level) -> pathlib.Path:
    """The file onnxruntime writes of its own optimised graph."""
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return path


def quantised(models, folder: pathlib.Path, mode: str) -> pathlib.Path:
    """A file of onnxruntime's own quantizer.

    Args:
        models: the builders.
        folder: where to write.
        mode: words joined by `-`: cnn|attention, qdq|qoperator|dynamic, tensor|channel, s8|u8 (weights), and optionally
            `pre` (optimised before), `saved`/`savedall` (onnxruntime's optimised graph, saved), `a16` (activations),
            `shifted` (its int8 codes stored as uint8 about 128, as we do).
    """
    kind, form, granularity, weights, *extra = mode.split("-")
    source = models.save(models.FLOATS[kind](), folder / "float.onnx")
    if "pre" in extra:
        quant_pre_process(str(source), str(folder / "pre.onnx"), skip_symbolic_shape=True)
        source = folder / "pre.onnx"
    target = folder / f"{mode}.onnx"
    weight_type = QuantType.QInt8 if weights == "s8" else QuantType.QUInt8
    per_channel = granularity == "channel"
    if form == "dynamic":
        quantize_dynamic(str(source), str(target), per_channel=per_channel, weight_type=weight_type)
    else:
        quantize_static(
            str(source),
            str(target),
            _Calibration(models.images(4)),
            quant_format=QuantFormat.QDQ if form == "qdq" else QuantFormat.QOperator,
            per_channel=per_channel,
            weight_type=weight_type,
            activation_type=QuantType.QUInt16 if "a16" in extra else QuantType.QUInt8,
        )
    if "shifted" in extra:
        model = onnx.load(target)
        store_as_uint8(model)
        onnx.save(model, target)
    levels = {
        "saved": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "savedall": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    }
    for word in extra:
        if word in levels:
            return optimised(target, folder / f"{mode}.optimised.onnx", levels[word])
    return target


def matmul_nbits(models, folder: pathlib.Path) -> pathlib.Path:
    """MatMulNBits: weights in blocks of 4 bits, two in a byte."""
    quantizer = MatMulNBitsQuantizer(models.float_attention(), block_size=16, is_symmetric=False, accuracy_level=0)
    quantizer.process()
    return models.save(quantizer.model.model, folder / "nbits.onnx")


def build(models, folder: pathlib.Path, name: str) -> pathlib.Path:
    """Write the model of that name: a float one, a hand-made one, `matmul_nbits`, or a mode of the quantizer."""
    if name == "matmul_nbits":
        return matmul_nbits(models, folder)
    maker = models.FLOATS.get(name) or models.HAND_MADE.get(name)
    return models.save(maker(), folder / f"{name}.onnx") if maker else quantised(models, folder, name)


@pytest.fixture(scope="session")
def models():
    """The builders of models.py, loaded by path since tests are no package."""
    spec = importlib.util.spec_from_file_location("deployed_models", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def kinds():
    """The builders of files of other kinds, in kinds.py."""
    spec = importlib.util.spec_from_file_location("kinds_of_files", SOURCE.with_name("kinds.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def stored_cases():
    """The builders of stored_cases.py: files that store values in every place a file has for them."""
    spec = importlib.util.spec_from_file_location("stored_cases", SOURCE.with_name("stored_cases.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def case_file(stored_cases, tmp_path_factory):
    """Return a function that writes the case of a name once and gives its path."""
    made = {}

    def write(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("case") / f"{name}.onnx"
            made[name].write_bytes(stored_cases.ALL[name]().SerializeToString())
        return made[name]

    return write


@pytest.fixture(scope="session")
def model_file(models, tmp_path_factory):
    """Return a function that writes the model of a name once and gives its path."""
    logging.getLogger().setLevel(logging.ERROR)  # the quantizer is talkative
    made = {}

    def write(name):
        if name not in made:
            made[name] = build(models, tmp_path_factory.mktemp("model"), name)
        return made[name]

    return write


@pytest.fixture(params=FILES)
def file_kind(request):
    """The name of every kind of file, one after the other."""
    return request.param


@pytest.fixture(scope="session")
def protected_files():
    """The builders of protected_files.py."""
    spec = importlib.util.spec_from_file_location("protected_files", SOURCE.with_name("protected_files.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def protected_file(protected_files, model_file, tmp_path_factory):
    """Return a function that protects the file of a name once and gives the paths of it and of the plain one."""
    made = {}

    def write(name, kind=("secded", 7), **wanted):
        key = (name, kind, *sorted(wanted.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("protected")
            source = name if isinstance(name, pathlib.Path) else model_file(name)
            protos = protected_files.protected(source, kind, **wanted)
            for place, proto in zip(("protected.onnx", "plain.onnx"), protos, strict=True):
                (folder / place).write_bytes(proto.SerializeToString())
            made[key] = folder / "protected.onnx", folder / "plain.onnx"
        return made[key]

    return write
