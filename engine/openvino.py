"""OpenVINO as a target: the engine is the compiled model for this machine's CPU, exported."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from onnxgraft.engine._buffers import Buffers
from onnxgraft.engine._options import BuildOptions, Built, Layer
from onnxgraft.engine.passport import Passport, refuse
from onnxgraft.errors import InputError, ModelError
from onnxgraft.files import write_bytes
from onnxgraft.model import Model
from onnxgraft.optional import optional
from onnxgraft.runtime import Array, Engine, Feeds, Outputs, Resource, TensorSpec, check_feeds

__all__ = ["OpenVino", "build", "load"]

_FLOATS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
_CAPABILITIES = {"fp16": "FP16", "bf16": "BF16"}

_NOT_A_REASON = (
    "Check '", "Exception from", "FrontEnd API", "Model wasn't fully", "Summary:", "To facilitate",
)  # fmt: skip


def build(model: Model, path: Path, options: BuildOptions) -> Built:
    """Compile ``model`` for the CPU and write it to ``path``.

    Free dimensions stay free unless ``options.shapes`` fixes them.
    """
    openvino = _openvino()
    core = openvino.Core()
    wanted = _CAPABILITIES.get(options.floats)
    if wanted is not None and wanted not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise InputError(
            f"this machine's processor has no {wanted}; OpenVINO would run FP32 in its place"
        )
    flags: dict[str, Any] = {"hint": options.hint, "floats": options.floats}
    if options.threads is not None:
        flags["threads"] = options.threads
    if options.shapes:
        flags["shapes"] = {name: list(shape) for name, shape in options.shapes.items()}
    try:
        network = core.read_model(model.to_onnx().SerializeToString())
        if options.shapes:
            network.reshape({name: list(shape) for name, shape in options.shapes.items()})
        compiled = core.compile_model(network, "CPU", _config(flags))
        exported = io.BytesIO()
        compiled.export_model(exported)
    except RuntimeError as error:
        raise ModelError(f"{model.file}: OpenVINO refuses the graph: {_reason(error)}") from error
    write_bytes(path, exported.getvalue())
    machine = {"cpu": str(core.get_property("CPU", "FULL_DEVICE_NAME"))}
    return Built({"openvino": openvino.__version__}, flags, machine)


def load(path: Path, passport: Passport, threads: int | None) -> Engine:
    """Return the engine at ``path``."""
    openvino = _openvino()
    refuse(path, passport, "openvino", "OpenVINO", openvino.__version__)
    return OpenVino(path, passport, threads)


def _config(flags: dict[str, Any]) -> dict[str, Any]:
    """Return OpenVINO's settings.

    For latency one stream uses all cores; for throughput OpenVINO chooses how many streams share
    them. Threads are pinned to cores, or times would not repeat. What is not INT8 runs in what
    was asked for: without a word OpenVINO takes BF16 where the processor has it.
    """
    config: dict[str, Any] = {
        "PERFORMANCE_HINT": str(flags.get("hint", "latency")).upper(),
        "INFERENCE_PRECISION_HINT": _FLOATS[flags.get("floats", "fp32")],
        "ENABLE_CPU_PINNING": True,
    }
    if flags.get("threads") is not None:
        config["INFERENCE_NUM_THREADS"] = flags["threads"]
    return config


class OpenVino(Resource):
    """An exported model in OpenVINO.

    It may be used from several threads: each inference takes a request of its own, so as many run
    at once as there are streams.
    """

    def __init__(self, path: Path, passport: Passport, threads: int | None = None) -> None:
        """Import the compiled model.

        Raises:
            InputError: OpenVINO refuses it, as it does one of another version or processor.
        """
        self._openvino = _openvino()
        flags = passport.flags if threads is None else {**passport.flags, "threads": threads}
        try:
            self._compiled: Any = self._openvino.Core().import_model(
                path.read_bytes(), "CPU", _config(flags)
            )
        except RuntimeError as error:
            raise InputError(
                f"{path}: OpenVINO can't load it: {_reason(error)}; build it again on this machine"
            ) from error
        self.name = f"openvino {passport.label}"
        self.inputs = passport.inputs or tuple(map(_spec, self._compiled.inputs))
        self.outputs = passport.outputs or tuple(map(_spec, self._compiled.outputs))
        self._check(path)
        self._requests: list[Any] = []
        self._lock = threading.Lock()
        self._results = Buffers()

    def infer(self, feeds: Feeds) -> Outputs:
        """Return the outputs, by name, for ``feeds``, by name."""
        checked = check_feeds(self.name, self.inputs, feeds)
        values = [np.ascontiguousarray(value) for value in checked.values()]
        request = self._request()
        try:
            request.infer(values, share_inputs=True)
            return {
                spec.name: self._copy(spec.name, request.get_output_tensor(index).data)
                for index, spec in enumerate(self.outputs)
            }
        except RuntimeError as error:
            raise ModelError(f"{self.name}: OpenVINO can't run it: {_reason(error)}") from error
        finally:
            with self._lock:
                self._requests.append(request)

    def layers(self) -> list[Layer]:
        """Return the model's layers as OpenVINO fused them."""
        found = []
        for operation in self._model().get_runtime_model().get_ordered_ops():
            about = operation.get_rt_info()
            said = {
                key: str(about[key].astype(str)) if hasattr(about[key], "astype") else about[key]
                for key in ("layerType", "runtimePrecision", "originalLayersNames")
                if key in about
            }
            nodes = tuple(name for name in said.get("originalLayersNames", "").split(",") if name)
            found.append(
                Layer(
                    operation.get_friendly_name(), said.get("layerType", ""),
                    said.get("runtimePrecision", ""), nodes,
                )
            )  # fmt: skip
        return found

    def setting(self, name: str) -> Any:
        """Return what OpenVINO made of a setting, such as ``NUM_STREAMS``."""
        return self._model().get_property(name)

    def close(self) -> None:
        """Give back the model and its memory."""
        with self._lock:
            self._requests = []
            self._compiled = None
            self._results = Buffers()

    def _model(self) -> Any:
        if self._compiled is None:
            raise InputError(f"{self.name}: is closed")
        return self._compiled

    def _request(self) -> Any:
        with self._lock:
            if self._requests and self._compiled is not None:
                return self._requests.pop()
        return self._model().create_infer_request()

    def _copy(self, name: str, value: Array) -> Array:
        result = self._results.take(name, value.shape, value.dtype.str)
        np.copyto(result, value)
        return result

    def _check(self, path: Path) -> None:
        """Refuse a model that is not the one the passport describes."""
        for specs, ports in (
            (self.inputs, self._compiled.inputs),
            (self.outputs, self._compiled.outputs),
        ):
            wanted = [spec.name for spec in specs]
            if len(ports) != len(wanted) or any(
                name not in port.get_names() for name, port in zip(wanted, ports, strict=True)
            ):
                found = [port.get_any_name() for port in ports]
                raise InputError(f"{path}: has {found} where its passport says {wanted}")


def _spec(port: Any) -> TensorSpec:
    shape = tuple(
        dim.get_length() if dim.is_static else f"{port.get_any_name()}.{axis}"
        for axis, dim in enumerate(port.get_partial_shape())
    )
    return TensorSpec(port.get_any_name(), np.dtype(port.get_element_type().to_dtype()).name, shape)


def _openvino() -> Any:
    with optional("OpenVINO as a target", "openvino"), _no_telemetry():
        import openvino
    return openvino


@contextlib.contextmanager
def _no_telemetry() -> Iterator[None]:
    """Keep OpenVINO from telling its makers that it was imported, as it does by itself.

    Where its package for that is missing, it goes without.
    """
    name = "openvino_telemetry"
    missing = name not in sys.modules
    if missing:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if missing:
            del sys.modules[name]


def _reason(error: BaseException) -> str:
    """Return the line that says what is wrong; the others say where in OpenVINO's source."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(_NOT_A_REASON)]
    return told[0] if told else type(error).__name__
