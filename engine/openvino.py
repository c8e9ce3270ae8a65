"""OpenVINO as a target: the engine is the model compiled for a device of this machine, exported."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from onnxgraft.errors import InputError, ModelError
from onnxgraft.files import write_bytes
from onnxgraft.graph.tensors import Array, Feeds, Outputs, TensorSpec
from onnxgraft.run.engine import Computing, Writing, check_feeds, check_into, other_shape
from onnxgraft.run.layers import WARM_UP, Layer, LayerTimes, Role, median_ms
from onnxgraft.stages.engine.buffers import Buffers
from onnxgraft.stages.engine.devices import (
    AUTO,
    HETERO,
    candidates,
    check_device,
    full_names,
    openvino,
    placed,
    taken,
)
from onnxgraft.stages.engine.options import BuildOptions, Built
from onnxgraft.stages.engine.passport import Flags, Passport, refuse

if TYPE_CHECKING:
    from onnxgraft.graph.model import Model

__all__ = ["OpenVino", "build", "check", "config_of", "load", "runs_here"]

_CPU = "CPU"
# What OpenVINO computes in int32: its devices cut the numbers off. So the largest of int64, which
# says "to the last" where something is sliced, becomes -1.
_NARROWED = ("int64", "uint64")
# Of feeds, so many are remembered.
_MOST_SIZES = 64
_FLOATS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
_CAPABILITIES = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16"}

# What moves or converts a tensor, and computes nothing.
_MOVES = ("Convert", "Reorder")
# What it makes of several operations and calls after the last of them.
_BY_LAST = ("FullyConnected", "MHA", "MatMul", "Subgraph")

_NOT_A_REASON = (
    "Check '", "Exception from", "FrontEnd API", "Model wasn't fully", "Summary:", "To facilitate",
)  # fmt: skip


def runs_here() -> bool:
    """Tell whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


def check(inputs: Sequence[TensorSpec], options: BuildOptions) -> None:
    """Take whatever fits the inputs, for a device that is here."""
    if options.device is not None:
        check_device(openvino().Core(), options.device)


def build(model: Model, path: Path, options: BuildOptions) -> Built:
    """Compile ``model`` for its device and write it to ``path``.

    Free dimensions stay free unless ``options.shapes`` fixes them. Where only the batch is free,
    a second model for a batch of one stands beside the first: with its shapes known, OpenVINO
    drops transposes and plans its memory.
    """
    module = openvino()
    core = module.Core()
    device = options.device or _CPU
    check_device(core, device)
    fixed = {name: list(shape) for name, shape in options.shapes.items()}
    flags = Flags(hint=options.hint, floats=options.floats, threads=options.threads, shapes=fixed)
    try:
        network = core.read_model(model.to_onnx().SerializeToString())
        if options.shapes:
            network.reshape(fixed)
        if device.startswith(AUTO):
            flags = replace(flags, chosen=device)
            device = taken(core, network, candidates(core, device), options.hint)
        flags = replace(flags, device="" if device == _CPU else device)
        _check_able(core, device, options)
        config = _known(core, device, config_of(flags))
        divided = placed(core, network, device)
        parts = [_compiled(core, network, device, config)]
        if _made_single(network):
            parts.append(_compiled(core, network, device, config))
    except RuntimeError as error:
        raise ModelError(f"{model.file}: OpenVINO refuses the graph: {_reason(error)}") from error
    write_bytes(path, _joined(parts))
    flags, machine = replace(flags, models=len(parts)), full_names(core, device)
    return Built({"openvino": module.__version__}, flags, machine, divided)


def load(
    path: Path, passport: Passport, threads: int | None, streams: int | None = None
) -> Writing:
    """Return the engine at ``path``."""
    refuse(path, passport, "openvino", "OpenVINO", openvino().__version__)
    return OpenVino(path, passport, threads, streams)


def _check_able(core: Any, device: str, options: BuildOptions) -> None:
    """Refuse a precision or threads that a device has not: OpenVINO would take others."""
    wanted = _CAPABILITIES[options.floats]
    for name in device.removeprefix(f"{HETERO}:").split(","):
        able = core.get_property(name, "OPTIMIZATION_CAPABILITIES")
        if wanted not in able and name == _CPU:
            raise InputError(
                f"this machine's processor has no {wanted}; OpenVINO would run FP32 in its place"
            )
        if wanted not in able:
            others = [kind for kind, word in _CAPABILITIES.items() if word in able]
            cure = f"build it with --precision {' or '.join(others)}" if others else "take another"
            raise InputError(f"--device {name} has no {wanted}; {cure}")
    if options.threads is not None and _CPU not in re.split("[:,]", device):
        raise InputError(f"--threads is for the CPU; leave it out for --device {device}")


def _known(core: Any, device: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that a device knows; a ``HETERO`` one looks by itself."""
    if device.startswith(HETERO):
        return config
    known = core.get_property(device, "SUPPORTED_PROPERTIES")
    return {key: value for key, value in config.items() if key in known}


def _compiled(core: Any, network: Any, device: str, config: dict[str, Any]) -> bytes:
    exported = io.BytesIO()
    core.compile_model(network, device, config).export_model(exported)
    return exported.getvalue()


def _made_single(network: Any) -> bool:
    """Fix the batch at one, if nothing else is free and the graph can have such a batch."""
    shapes = {port.get_any_name(): port.get_partial_shape() for port in network.inputs}
    for shape in shapes.values():
        if shape.rank.is_dynamic or len(shape) == 0 or shape[0].is_static:
            return False
        if any(dim.is_dynamic for dim in list(shape)[1:]):
            return False
    try:
        network.reshape({
            name: [1, *(dim.get_length() for dim in list(shape)[1:])]
            for name, shape in shapes.items()
        })
    except RuntimeError:
        return False
    return bool(shapes)


# Behind two models stand the length of the first and this.
_END = struct.Struct("<Q8s")
_TWO = b"OVx2\r\n\x1a\n"


def _joined(parts: list[bytes]) -> bytes:
    return parts[0] if len(parts) == 1 else b"".join((*parts, _END.pack(len(parts[0]), _TWO)))


def _places(file: BinaryIO) -> list[tuple[int, int]]:
    """Return where the models are in an engine file, as (offset, bytes)."""
    size = file.seek(0, os.SEEK_END)
    if size > _END.size:
        file.seek(-_END.size, os.SEEK_END)
        first, mark = _END.unpack(file.read(_END.size))
        if mark == _TWO and first <= size - _END.size:
            return [(0, first), (first, size - _END.size - first)]
    return [(0, size)]


def config_of(flags: Flags) -> dict[str, Any]:
    """Return OpenVINO's settings.

    For latency one stream uses all cores; for throughput OpenVINO chooses how many streams share
    them. Threads are pinned to cores, or times would not repeat. What is not INT8 runs in what
    was asked for: without a word OpenVINO takes BF16 where the processor has it, and rounds what
    layers with stored weights read to 8 bits.
    """
    config: dict[str, Any] = {
        "PERFORMANCE_HINT": flags.hint.upper(),
        "INFERENCE_PRECISION_HINT": _FLOATS[flags.floats],
        "ENABLE_CPU_PINNING": True,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    if flags.threads is not None:
        config["INFERENCE_NUM_THREADS"] = flags.threads
    return config


@dataclass
class _Part:
    """One of the models in an engine file, and the requests that wait for work.

    Those that write into arrays of callers stand by the outputs that they write.
    """

    offset: int
    size: int
    compiled: Any = None
    requests: list[Any] = field(default_factory=list)
    writers: dict[frozenset[str], list[Any]] = field(default_factory=dict)
    # Of each output, shape and dtype; none where one is only known when it was computed.
    results: list[tuple[tuple[int, ...], str]] = field(default_factory=list)


class OpenVino(Computing):
    """An exported model in OpenVINO.

    It may be used from several threads: each inference takes a request of its own, so as many run
    at once as there are streams.
    """

    def __init__(
        self,
        path: Path,
        passport: Passport,
        threads: int | None = None,
        streams: int | None = None,
    ) -> None:
        """Import the model that is likely to be asked for; the other one waits for its turn.

        Raises:
            InputError: OpenVINO refuses it, as it does one of another version or processor.
        """
        self._openvino = openvino()
        flags = passport.flags
        if threads is not None:
            flags = replace(flags, threads=threads)
        self.name = passport.name
        self._path, self._device = path, flags.device or _CPU
        self._core: Any = self._openvino.Core()
        _check_same(self._core, path, passport)
        self._config = _known(self._core, self._device, config_of(flags))
        if streams is not None:
            self._config["NUM_STREAMS"] = streams
        self._lock = threading.Lock()
        # The shapes of the outputs, by those of the feeds.
        self._made: dict[tuple[tuple[int, ...], ...], dict[str, tuple[int, ...]]] = {}
        self._results = Buffers()
        # It stays open, so that a model is the one it was even if the path has another by then.
        self._file: BinaryIO | None = path.open("rb")
        self._parts: list[_Part] = []
        try:
            self._parts = [_Part(*place) for place in _places(self._file)]
            if passport.engine and len(self._parts) != passport.flags.models:
                raise InputError(f"{path}: OpenVINO can't load it: it ends early; build it again")
            ports = self._model(self._parts[-1] if passport.inputs else self._parts[0])
            self.inputs = passport.inputs or tuple(map(_spec, ports.inputs))
            self.outputs = passport.outputs or tuple(map(_spec, ports.outputs))
            self._check(ports)
        except BaseException:
            self.close()
            raise

    def infer(self, feeds: Feeds) -> Outputs:
        """Return the outputs, by name, for ``feeds``, by name."""
        checked = self._checked(feeds)
        values = [np.asarray(checked[name], order="C") for name in self._read]
        part = self._parts[-1] if _is_single(values) else self._parts[0]
        request = self._request(part)
        try:
            bound = self._bind(request, part)
            request.infer(values, share_inputs=True, share_outputs=True)
            found = bound or {
                spec.name: self._copy(spec, request.get_output_tensor(index).data)
                for index, spec in enumerate(self.outputs)
            }
            return {spec.name: _shaped(found[spec.name], spec) for spec in self.outputs}
        except RuntimeError as error:
            raise ModelError(f"{self.name}: OpenVINO can't run it: {_reason(error)}") from error
        finally:
            with self._lock:
                part.requests.append(request)

    def infer_into(self, feeds: Feeds, into: Mapping[str, Array]) -> None:
        """Write the outputs for ``feeds`` into arrays of the caller's, without a copy."""
        if any(spec.dtype == "bfloat16" for spec in self.outputs):
            return super().infer_into(feeds, into)  # numpy has no such array
        checked = self._checked(feeds)
        check_into(self.name, self.outputs, into, checked)
        values = [np.asarray(checked[name], order="C") for name in self._read]
        self._check_room(checked, into)
        part = self._parts[-1] if _is_single(values) else self._parts[0]
        # Requests of their own, by what they write: one that a caller's array was given to, and
        # none in its place, would write there again.
        waiting = part.writers.setdefault(frozenset(into), [])
        with self._lock:
            request = waiting.pop() if waiting and self._file is not None else None
        if request is None:
            request = self._model(part).create_infer_request()
        try:
            for index, spec in enumerate(self.outputs):
                if spec.name in into:
                    tensor = self._openvino.Tensor(into[spec.name], shared_memory=True)
                    request.set_output_tensor(index, tensor)
            request.infer(values, share_inputs=True, share_outputs=True)
            for index, spec in enumerate(self.outputs):
                shape = tuple(request.get_output_tensor(index).shape)
                if spec.name in into and shape != into[spec.name].shape:
                    raise other_shape(self.name, spec.name, into[spec.name], shape)
        except RuntimeError as error:
            self.check_shapes(checked, into)
            raise ModelError(f"{self.name}: OpenVINO can't run it: {_reason(error)}") from error
        with self._lock:  # not one that failed
            waiting.append(request)

    def _checked(self, feeds: Feeds) -> dict[str, Array]:
        """Return the feeds, with none that OpenVINO would cut off without a word."""
        checked = check_feeds(self.name, self.inputs, feeds)
        for name, value in checked.items():
            if value.dtype.name in _NARROWED and value.size:
                most = max(int(value.max()), -int(value.min()) - 1)
                if most > np.iinfo(np.int32).max:
                    raise InputError(
                        f"{self.name}: the input {name} holds whole numbers beyond those of int32, "
                        f"in which OpenVINO computes {value.dtype}; build it for another target"
                    )
        return checked

    def _check_room(self, feeds: Feeds, into: Mapping[str, Array]) -> None:
        """Raise InputError where an array has not the shape of an output for feeds of these sizes.

        OpenVINO does not tell it on every machine: on one processor it runs and writes elsewhere.
        What the shapes are is known from running once, for each new size of the feeds.
        """
        if all(
            isinstance(dim, int) for spec in self.outputs if spec.name in into for dim in spec.shape
        ):
            return  # `check_into` knows
        sizes = tuple(value.shape for value in feeds.values())
        found = self._made.get(sizes)
        if found is None:
            found = {name: value.shape for name, value in self.infer(feeds).items()}
            if len(self._made) == _MOST_SIZES:
                self._made.clear()
            self._made[sizes] = found
        for name, array in into.items():
            if found[name] != array.shape:
                raise other_shape(self.name, name, array, found[name])

    def layers(self) -> list[Layer]:
        """Return the model's layers as OpenVINO fused them."""
        return _layers(self._model(self._parts[-1]))

    def time_layers(self, feeds: Feeds, runs: int) -> LayerTimes:
        """Return what the layers take, by OpenVINO's counters, of ``runs`` inferences.

        The model is imported once more for it: counting costs time, and is chosen when a model is
        compiled.
        """
        total = median_ms(self, feeds, runs)
        checked = check_feeds(self.name, self.inputs, feeds)
        values = [np.asarray(checked[name], order="C") for name in self._read]
        part = self._parts[-1] if _is_single(values) else self._parts[0]
        with self._lock:
            compiled = self._imported(part, {**self._config, "PERF_COUNT": True})
        request = compiled.create_infer_request()
        taken: dict[str, list[float]] = {}
        wholes = []
        for run in range(WARM_UP + runs):
            began = time.perf_counter()
            try:
                request.infer(values)
            except RuntimeError as error:
                raise ModelError(f"{self.name}: OpenVINO can't run it: {_reason(error)}") from error
            whole = 1000 * (time.perf_counter() - began)
            if run < WARM_UP:
                continue
            wholes.append(whole)
            for entry in request.profiling_info:
                spent = 1000 * entry.real_time.total_seconds()
                taken.setdefault(entry.node_name, []).append(spent)
        found = [
            replace(layer, milliseconds=float(np.median(taken[layer.name])))
            for layer in _layers(compiled)
            if layer.name in taken
        ]
        return LayerTimes(tuple(found), total, runs, float(np.median(wholes)))

    def setting(self, name: str) -> Any:
        """Return what OpenVINO made of a setting, such as ``NUM_STREAMS``."""
        return self._model(self._parts[-1]).get_property(name)

    def close(self) -> None:
        """Give back the models and their memory."""
        with self._lock:
            for part in self._parts:
                part.compiled, part.requests, part.writers = None, [], {}
            self._results, self._core = Buffers(), None
            if self._file is not None:
                self._file.close()
                self._file = None

    def _model(self, part: _Part) -> Any:
        """Return a model, imported when it is first asked for."""
        with self._lock:
            if part.compiled is None:
                part.compiled = self._imported(part, self._config)
                part.results = _shapes(part.compiled.outputs)
            return part.compiled

    def _imported(self, part: _Part, config: Mapping[str, Any]) -> Any:
        if self._file is None:
            raise InputError(f"{self.name}: is closed")
        self._file.seek(part.offset)
        try:
            return self._core.import_model(self._file.read(part.size), self._device, config)
        except RuntimeError as error:
            raise InputError(
                f"{self._path}: OpenVINO can't load it: {_reason(error)}; build it again on this "
                "machine"
            ) from error

    def _request(self, part: _Part) -> Any:
        with self._lock:
            if part.requests and self._file is not None:
                return part.requests.pop()
        return self._model(part).create_infer_request()

    def _bind(self, request: Any, part: _Part) -> Outputs:
        """Let a request write to arrays of ours, where their shapes are known before."""
        bound: Outputs = {}
        if any(spec.dtype == "bfloat16" for spec in self.outputs):
            return bound  # numpy has no such array
        for index, (spec, known) in enumerate(zip(self.outputs, part.results, strict=False)):
            bound[spec.name] = self._results.take(spec.name, *known)
            tensor = self._openvino.Tensor(bound[spec.name], shared_memory=True)
            request.set_output_tensor(index, tensor)
        return bound

    def _copy(self, spec: TensorSpec, value: Array) -> Array:
        if spec.dtype == "bfloat16":  # its bits, which are the upper half of a float32's
            return (value.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        result = self._results.take(spec.name, value.shape, value.dtype.str)
        np.copyto(result, value)
        return result

    def _check(self, model: Any) -> None:
        """Refuse a model that is not the one the passport describes.

        OpenVINO leaves inputs out that nothing reads.
        """
        self._read = [
            spec.name
            for spec in self.inputs
            if any(spec.name in port.get_names() for port in model.inputs)
        ]
        outputs = [spec.name for spec in self.outputs]
        for wanted, ports in ((self._read, model.inputs), (outputs, model.outputs)):
            if len(ports) != len(wanted) or any(
                name not in port.get_names() for name, port in zip(wanted, ports, strict=True)
            ):
                found = [port.get_any_name() for port in ports]
                raise InputError(f"{self._path}: has {found} where its passport says {wanted}")


def _check_same(core: Any, path: Path, passport: Passport) -> None:
    """Refuse an engine for a device that is not here; of processors `load` tells by itself."""
    device = passport.flags.device
    if not device:
        return
    try:
        check_device(core, device)
    except InputError as error:
        raise InputError(f"{path}: was built for {passport.runs_on}. {error}") from error
    here = full_names(core, device)
    for kind, built in passport.machine.items():
        if kind != "cpu" and here.get(kind, built) != built:
            raise InputError(
                f"{path}: was built for the {kind.upper()} {built}, here is {here[kind]}; build it "
                "again on this machine"
            )


def _is_single(values: Sequence[Array]) -> bool:
    return all(value.shape[:1] == (1,) for value in values)


def _layers(compiled: Any) -> list[Layer]:
    """Return the layers of a compiled model, in the order in which they run."""
    operations = compiled.get_runtime_model().get_ordered_ops()
    return [_layer(operation) for operation in operations]


def _layer(operation: Any) -> Layer:
    about = _told(operation)
    kind = about.get("layerType", "")
    makes = about.get("outputPrecisions", "").split(",")[0].lower()
    reads = ""
    if operation.get_input_size():
        maker = operation.input_value(0)
        told = _told(maker.get_node()).get("outputPrecisions", "").lower().split(",")
        reads = told[min(maker.get_index(), len(told) - 1)]
    role: Role = "layer"
    change = ""
    if kind in _MOVES:
        role = "conversion" if reads != makes else "reorder"
        change = f"{reads} to {makes}" if reads != makes else _layouts(operation)
    return Layer(
        operation.get_friendly_name(), kind, about.get("runtimePrecision", ""),
        tuple(name for name in about.get("originalLayersNames", "").split(",") if name), role,
        change,
        tuple(source.get_node().get_friendly_name() for source in operation.input_values()),
        (operation.get_friendly_name(),),
        by_last=kind in _BY_LAST,
        tactic=about.get("primitiveType", ""),
    )  # fmt: skip


def _layouts(operation: Any) -> str:
    """Return from which layout to which an operation moves."""
    before = _told(operation.input_value(0).get_node()).get("outputLayouts", "")
    after = _told(operation).get("outputLayouts", "")
    return " to ".join(text.split(",")[0] for text in (before, after) if text)


def _told(operation: Any) -> dict[str, str]:
    """Return what OpenVINO tells of an operation, as text."""
    about = operation.get_rt_info()
    return {
        key: str(about[key].astype(str)) if hasattr(about[key], "astype") else str(about[key])
        for key in ("layerType", "runtimePrecision", "originalLayersNames", "outputPrecisions",
                    "outputLayouts", "primitiveType")
        if key in about
    }  # fmt: skip


def _shaped(value: Array, spec: TensorSpec) -> Array:
    """Return an output in its graph's shape: OpenVINO makes a row of an INT8 product of vectors."""
    if value.ndim != len(spec.shape) == 1 and value.shape[:-1] == (1,) * (value.ndim - 1):
        return value.reshape(-1)
    return value


def _shapes(ports: list[Any]) -> list[tuple[tuple[int, ...], str]]:
    if any(port.get_partial_shape().is_dynamic or 0 in port.shape for port in ports):
        return []
    return [(tuple(port.shape), np.dtype(port.get_element_type().to_dtype()).str) for port in ports]


def _spec(port: Any) -> TensorSpec:
    shape = tuple(
        dim.get_length() if dim.is_static else f"{port.get_any_name()}.{axis}"
        for axis, dim in enumerate(port.get_partial_shape())
    )
    kind = port.get_element_type()
    bfloat = kind.get_type_name() == "bf16"
    dtype = "bfloat16" if bfloat else np.dtype(kind.to_dtype()).name
    return TensorSpec(port.get_any_name(), dtype, shape)


def _reason(error: BaseException) -> str:
    """Return the lines that say what is wrong; the others say where in OpenVINO's source.

    What can't be converted is told operator by operator, and a summary follows.
    """
    lines = [line.strip(" -") for line in str(error).splitlines()]
    if "Summary:" in lines:
        summary = lines[lines.index("Summary:") + 1 :]
        return "; ".join(line for line in summary if line)
    told = [line for line in lines if line and not line.startswith(_NOT_A_REASON)]
    return told[0] if told else type(error).__name__
