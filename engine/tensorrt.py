"""TensorRT as a target: built through its own parser and builder, strongly typed.

The precision is in the graph: float layers as they are, INT8 where QuantizeLinear and
DequantizeLinear stand. TensorRT 10.12 and later take such a graph as strongly typed, TensorRT 11
takes no other. All differences between versions are in this file.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxgraft.engine.passport import Passport
from onnxgraft.errors import InputError, ModelError
from onnxgraft.files import write_bytes
from onnxgraft.model import Model
from onnxgraft.optional import optional
from onnxgraft.progress import status
from onnxgraft.runtime import Engine, Feeds, Outputs, Resource, TensorSpec, check_feeds

__all__ = ["build", "load"]

WORKSPACE = 1 << 30
# The profile of a free batch; other free dimensions have to be given.
BATCHES = (1, 1, 16)
_MOST_ERRORS = 3


def build(model: Model, path: Path, shapes: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Build ``model`` and write the serialized engine to ``path``.

    Raises:
        ModelError: TensorRT's parser or builder refuses the graph; its errors are told by node.
    """
    trt = _tensorrt()
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.to_onnx().SerializeToString()):
        errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
        more = f"; and {len(errors) - _MOST_ERRORS} more" if len(errors) > _MOST_ERRORS else ""
        raise ModelError(
            f"{model.file}: TensorRT's parser refuses {'; '.join(errors[:_MOST_ERRORS])}{more}"
        )
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    profile = builder.create_optimization_profile()
    for spec in model.inputs:
        profile.set_shape(spec.name, *_profile(spec, shapes.get(spec.name)))
    config.add_optimization_profile(profile)
    with status(f"TensorRT builds {path.name}"):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        reason = logger.errors[0] if logger.errors else "no reason given"
        raise ModelError(f"{model.file}: TensorRT can't build the graph: {reason}")
    write_bytes(path, bytes(plan))
    return {"tensorrt": trt.__version__}


def load(path: Path, passport: Passport) -> Engine:
    """Return the engine at ``path``; running it needs an NVIDIA GPU.

    Raises:
        InputError: There is no GPU, or the engine was built with another TensorRT.
    """
    trt = _tensorrt()
    built = passport.versions.get("tensorrt")
    if built != trt.__version__:
        raise InputError(
            f"{path}: was built with TensorRT {built}, here is {trt.__version__}; build it again"
        )
    if not _gpu_present():
        raise InputError(f"{path}: a TensorRT engine runs on an NVIDIA GPU, and there is none here")
    return TensorRt(trt, path, passport)


class TensorRt(Resource):
    """A serialized engine in TensorRT, through Polygraphy's runner."""

    def __init__(self, trt: Any, path: Path, passport: Passport) -> None:
        """Deserialize the engine."""
        from polygraphy.backend.trt import EngineFromBytes, TrtRunner

        self.name = f"tensorrt {passport.precision}"
        self.inputs = passport.inputs
        self.outputs = passport.outputs
        self._runner = TrtRunner(EngineFromBytes(path.read_bytes()))
        self._runner.activate()

    def infer(self, feeds: Feeds) -> Outputs:
        """Return the outputs, by name, for ``feeds``, by name."""
        checked = check_feeds(self.name, self.inputs, feeds)
        return {name: np.array(value) for name, value in self._runner.infer(checked).items()}

    def close(self) -> None:
        """Give back the engine and its buffers."""
        self._runner.deactivate()


def _tensorrt() -> Any:
    with optional("TensorRT as a target", "tensorrt"):
        import tensorrt as trt
    return trt


def _network_flags(trt: Any) -> int:
    """Return the flags of a strongly typed network; TensorRT 11 has no other and no flag."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _logger(trt: Any) -> Any:
    """Return a logger that keeps errors for our own messages and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()


def _parser_error(error: Any) -> str:
    return f"{error.node_operator()} {error.node_name()!r}: {error.desc()}"


def _profile(
    spec: TensorSpec, shape: Sequence[int] | None
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return the smallest, the usual and the largest shape of an input."""
    if shape is not None:
        return tuple(shape), tuple(shape), tuple(shape)
    free = [axis for axis, dim in enumerate(spec.shape) if isinstance(dim, str)]
    if free not in ([], [0]):
        raise InputError(f"the input {spec} has free dimensions; give its shape with --shapes")
    low, usual, high = (
        tuple(batch if isinstance(dim, str) else dim for dim in spec.shape) for batch in BATCHES
    )
    return low, usual, high


def _gpu_present() -> bool:
    try:
        return bool(ctypes.CDLL("libcuda.so.1").cuInit(0) == 0)
    except OSError:
        return False
