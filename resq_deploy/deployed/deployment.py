"""How an ONNX file is deployed: one onnxruntime session, created with fixed options in a known arithmetic."""

import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import onnx
import onnxruntime as ort

from resq_deploy.data.preprocessing import AS_IS, Preprocessing
from resq_deploy.deployed import kernels
from resq_deploy.deployed.arithmetic import Arithmetic, has_integers, made_exact
from resq_deploy.deployed.inlining import written_out
from resq_deploy.deployed.runtime_errors import first_line
from resq_deploy.deployed.versions import why_refused
from resq_deploy.errors import ModelError

BATCH = 100
"""Images a run. Fixed, since float kernels may round differently for another batch size."""

_TYPES = {
    f"tensor({name})": number
    for name, number in (
        ("float", onnx.TensorProto.FLOAT),
        ("float16", onnx.TensorProto.FLOAT16),
        ("bfloat16", onnx.TensorProto.BFLOAT16),
        ("double", onnx.TensorProto.DOUBLE),
        ("int8", onnx.TensorProto.INT8),
        ("uint8", onnx.TensorProto.UINT8),
        ("int16", onnx.TensorProto.INT16),
        ("uint16", onnx.TensorProto.UINT16),
        ("int32", onnx.TensorProto.INT32),
        ("uint32", onnx.TensorProto.UINT32),
        ("int64", onnx.TensorProto.INT64),
        ("uint64", onnx.TensorProto.UINT64),
        ("bool", onnx.TensorProto.BOOL),
    )
}
OPTIMIZATIONS = ("all", "extended", "basic", "none")
"""Graph optimisation levels of onnxruntime."""

_LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deployment:
    """How the file is run; recorded in the manifest, since it is part of what was tested.

    Attributes:
        providers: onnxruntime execution providers, in order of preference.
        optimization: graph optimisation level: all, extended, basic or none.
        batch: images a run, where the model leaves it open.
        threads: threads within one session; campaigns run several sessions of one thread instead.
        arithmetic: `exact`: integer sums are those of int32 on any CPU; `native`: those of this CPU's kernels, which
            saturate on x86 without VNNI.
        preprocessing: what stands between the pixels of images and what the file is fed.
    """

    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    optimization: str = "all"
    batch: int = BATCH
    threads: int = 1
    arithmetic: Arithmetic = Arithmetic.EXACT
    preprocessing: Preprocessing = AS_IS

    def __post_init__(self) -> None:
        missing = [name for name in self.providers if name not in ort.get_available_providers()]
        if missing:
            available = ", ".join(ort.get_available_providers())
            raise ModelError(f"onnxruntime has no provider {missing[0]!r} here; available: {available}")

    @property
    def on_cpu(self) -> bool:
        """Whether onnxruntime's own kernels for CPUs run all of the file."""
        return self.providers == ("CPUExecutionProvider",)

    @property
    def saturates(self) -> bool:
        """Whether this CPU's own kernels saturate sums of products; tried out, not looked up."""
        return bool(kernels.measured(self.providers))

    def identity(self) -> dict[str, Any]:
        """Return, as JSON values, what of this decides figures; of native arithmetic that includes the kind of CPU."""
        values = dataclasses.asdict(self)
        del values["preprocessing"]
        if self.preprocessing != AS_IS:
            values["preprocessing"] = self.preprocessing.as_dict()
        if self.arithmetic == Arithmetic.NATIVE:
            values["cpu_saturates"] = self.saturates
        return {**values, "arithmetic": str(self.arithmetic), "providers": list(self.providers)}

    def arithmetic_used(self) -> dict[str, Any]:
        """Return how sums of products were computed, for summaries: by which arithmetic, and on what kind of CPU."""
        return {"name": str(self.arithmetic), "cpu_saturates": self.saturates}


def create(model: bytes, deployment: Deployment) -> ort.InferenceSession:
    """Create an onnxruntime session that prints nothing and computes in the deployment's arithmetic.

    Args:
        model: the serialised model, self-contained.
        deployment: how to run it.

    Raises:
        ModelError: if onnxruntime refuses the model, the message is the first line of its own; or if a layer cannot be
            computed exactly on this CPU.
    """
    return _create(*_in_arithmetic(model, deployment))


def optimised_file(model: bytes, deployment: Deployment) -> onnx.ModelProto:
    """Return the model as onnxruntime's optimiser leaves it, for this CPU's own kernels.

    Raises:
        ModelError: if onnxruntime refuses the model.
    """
    with tempfile.TemporaryDirectory(prefix="resq-") as folder:
        path = pathlib.Path(folder, "optimised.onnx")
        _create(model, deployment, optimised=path)
        optimised: onnx.ModelProto = onnx.ModelProto.FromString(path.read_bytes())
    return optimised


def as_is(deployment: Deployment) -> Deployment:
    """Return the deployment for a graph that is optimised already."""
    return dataclasses.replace(deployment, optimization="none")


def _in_arithmetic(model: bytes, deployment: Deployment) -> tuple[bytes, Deployment]:
    """Return what to run for a model, and how: the model itself where its sums are those that are wanted here."""
    if deployment.arithmetic == Arithmetic.NATIVE or not has_integers(model):
        return model, deployment
    saturating = kernels.saturating(deployment.providers)
    if not saturating:
        return model, deployment
    optimised = deployment.optimization != "none"
    # What onnxruntime writes has its functions written out; a product inside of one would not be seen here.
    proto = optimised_file(model, deployment) if optimised else written_out(onnx.ModelProto.FromString(model))

    def ask(values: Sequence[str]) -> dict[str, int]:
        return element_types(proto, values, deployment)

    exact = made_exact(proto, saturating, ask)
    return (model, deployment) if exact is None else (exact.SerializeToString(), as_is(deployment))


def element_types(model: onnx.ModelProto, values: Iterable[str], deployment: Deployment) -> dict[str, int]:
    """Return the ONNX element types of values of a graph that is run as it is, as onnxruntime tells them.

    Values that are no tensors of a type that can be fed are left out.

    Raises:
        ModelError: if onnxruntime refuses the model.
    """
    probe = onnx.ModelProto.FromString(model.SerializeToString())
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=value) for value in values)
    session = _create(probe.SerializeToString(), as_is(deployment))
    return {value.name: _TYPES[value.type] for value in session.get_outputs() if value.type in _TYPES}


def _create(model: bytes, deployment: Deployment, *, optimised: pathlib.Path | None = None) -> ort.InferenceSession:
    """Create a session with this CPU's own kernels; `optimised` is where to write the optimised graph."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = deployment.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = _LEVELS[deployment.optimization]
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    options.log_severity_level = 4  # errors reach the user as exceptions, once
    _share_memory()
    options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        return ort.InferenceSession(model, options, providers=list(deployment.providers))
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise ModelError(why_refused(model) or f"onnxruntime refuses the model: {first_line(error)}") from error


@functools.cache
def _share_memory() -> None:
    """Let all sessions take their memory from one pool.

    Each has one of its own otherwise, as large as its largest run, and a campaign holds a dozen sessions.
    """
    pool = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(pool, None)
