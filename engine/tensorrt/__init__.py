"""TensorRT as a target: built through its own parser and builder, run through the driver.

The precision is in the graph: float layers as they are, INT8 where QuantizeLinear and
DequantizeLinear stand. How TensorRT's versions differ is in `builder` alone.
"""

from __future__ import annotations

import importlib.util
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxgraft.errors import InputError, ModelError
from onnxgraft.files import atomic, cache_folder, write_bytes
from onnxgraft.files.locks import locked
from onnxgraft.graph.tensors import Array, Feeds, Outputs, TensorSpec
from onnxgraft.optional import optional
from onnxgraft.run.engine import Computing, Writing, check_feeds
from onnxgraft.run.layers import WARM_UP, Layer, LayerTimes, Role
from onnxgraft.stages.engine.buffers import Buffers
from onnxgraft.stages.engine.options import BuildOptions, Built, Shape
from onnxgraft.stages.engine.passport import Flags, Passport, refuse
from onnxgraft.stages.engine.tensorrt import builder
from onnxgraft.stages.engine.tensorrt.cuda import Cuda, Memory
from onnxgraft.targets.tensorrt import TENSORRT

if TYPE_CHECKING:
    import onnx

    from onnxgraft.graph.model import Model

__all__ = ["TensorRt", "Writing", "build", "check", "load", "profiles", "runs_here", "settings"]

_MOST_ERRORS = 3
_FP8 = TENSORRT.fp8
# What moves or converts a tensor, and computes nothing.
_MOVES = ("Reformat", "Cast", "Quantize", "Dequantize")

# What leaves an operator behind that TensorRT can't run, and the pass of surgery that removes it.
_HELPS = {
    "Bernoulli": "freeze_training",
    "Dropout": "freeze_training",
    "Multinomial": "freeze_training",
    "RandomNormalLike": "freeze_training",
    "RandomUniformLike": "freeze_training",
    "BatchNormalization": "freeze_training",
    "If": "remove_select",
    "Where": "remove_select",
    "Concat": "remove_shape_chain",
    "Gather": "remove_shape_chain",
    "Reshape": "remove_shape_chain",
    "Shape": "remove_shape_chain",
    "Slice": "remove_shape_chain",
    "Range": "fold_constants",
    "ConstantOfShape": "fold_constants",
    "NonZero": "fold_constants",
}
_QUANTIZED = ("DequantizeLinear", "QuantizeLinear", "QLinear", "ConvInteger", "MatMulInteger",
              "DynamicQuantizeLinear", "MatMulNBits")  # fmt: skip


def runs_here() -> bool:
    """Tell whether there is an NVIDIA GPU, and TensorRT."""
    return builder.gpu() is not None and importlib.util.find_spec("tensorrt") is not None


def check(inputs: Sequence[TensorSpec], options: BuildOptions) -> None:
    """Raise InputError if the profiles of a graph with ``inputs`` can't be made."""
    profiles(inputs, options)


def build(model: Model, path: Path, options: BuildOptions) -> Built:
    """Build ``model`` and write the serialized engine to ``path``.

    Raises:
        ModelError: TensorRT's parser or builder refuses the graph; its errors are told by node.
    """
    from onnxgraft.progress import steps

    trt = _tensorrt()
    timing = _timing_file(trt, options)
    try:
        how = settings(model, options)
        with _kept(timing, options) as kept, steps(f"TensorRT builds {model.title}") as bar:
            how = replace(how, timing=kept)
            plan = builder.build_plan(trt, model.to_onnx().SerializeToString(), how, bar)
            if plan.timing:
                _keep(timing, plan.timing)
    except builder.ParseError as error:
        raise ModelError(f"{model.file}: {_told(model, error)}") from error
    except builder.BuildError as error:
        raise ModelError(f"{model.file}: {error}") from error
    write_bytes(path, plan.engine)
    flags = Flags(
        profiles=builder.plain(how.profiles),
        workspace=how.workspace,
        level=how.level,
        version_compatible=how.version_compatible,
        calibration="" if how.calibration is None else "implicit",
    )
    return Built({"tensorrt": trt.__version__}, flags, builder.gpu() or {})


def settings(model: Model, options: BuildOptions) -> builder.Settings:
    """Return what the builder is told for a graph."""
    from onnxgraft.graph.quantized import eight_bits

    floats = "fp8" in eight_bits(model).values()
    return builder.Settings(
        profiles(model.inputs, options),
        options.workspace,
        options.calibration,
        level=options.level,
        version_compatible=options.version_compatible,
        tf32=options.floats == "tf32",
        capability=_FP8.capability if floats and _FP8 is not None else (0, 0),
    )


def profiles(inputs: Sequence[TensorSpec], options: BuildOptions) -> list[builder.Profile]:
    """Return the profiles: one for each of the batches, from the last one's end to itself.

    Raises:
        InputError: A dimension besides the batch is free and its shape is not given, a shape
            lies outside its bounds, or there are batches to tune for and the batch is not free.
    """
    free = {s.name for s in inputs if any(isinstance(dim, str) for dim in s.shape)}
    given = options.shapes
    if set(given) >= free:
        _no_other_batches(inputs, options)
        if not free:
            return []
        return [{spec.name: _bounds(spec, options) for spec in inputs}]
    for spec in inputs:
        unknown = [axis for axis, dim in enumerate(spec.shape) if isinstance(dim, str)]
        if spec.name not in given and unknown not in ([], [0]):
            raise InputError(f"the input {spec} has free dimensions; give its shape with --shapes")
    made: list[builder.Profile] = []
    first = 1
    for batch in sorted(set(options.batches)):
        made.append({
            spec.name: _bounds(spec, options)
            if spec.name in given
            else (_with_batch(spec, first), _with_batch(spec, batch), _with_batch(spec, batch))
            for spec in inputs
        })
        first = batch + 1
    return made


def _no_other_batches(inputs: Sequence[TensorSpec], options: BuildOptions) -> None:
    """Refuse batches that nothing would be tuned for."""
    if options.batches == BuildOptions().batches:
        return
    shapes = {spec.name: options.shapes.get(spec.name, spec.shape) for spec in inputs}
    if set(options.batches) - {shape[0] for shape in shapes.values() if shape}:
        told = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        batches = ",".join(map(str, options.batches))
        raise InputError(
            f"--batches {batches}: the shapes are fixed or given, {told}; leave it out, or "
            "build from a graph with a free batch and without --shapes"
        )


def _with_batch(spec: TensorSpec, batch: int) -> tuple[int, ...]:
    return tuple(batch if isinstance(dim, str) else dim for dim in spec.shape)


def _bounds(spec: TensorSpec, options: BuildOptions) -> builder.Shapes:
    usual = tuple(options.shapes.get(spec.name, spec.shape))
    low = tuple(options.smallest.get(spec.name, usual))
    high = tuple(options.largest.get(spec.name, usual))
    if not all(a <= b <= c for a, b, c in zip(low, usual, high, strict=True)):  # type: ignore[operator]
        raise InputError(
            f"the shapes of {spec.name} are {list(low)} at least, {list(usual)} usually and "
            f"{list(high)} at most; each has to be within the next"
        )
    return low, usual, high  # type: ignore[return-value]


def load(
    path: Path, passport: Passport, threads: int | None, streams: int | None = None
) -> Writing:
    """Return the engine at ``path``; running it needs an NVIDIA GPU.

    Raises:
        InputError: There is no GPU, it is another one than the engine was built for, or TensorRT
            refuses the file.
    """
    trt = _tensorrt()
    if not passport.flags.version_compatible:
        refuse(path, passport, "tensorrt", "TensorRT", trt.__version__)
    here = builder.gpu()
    if here is None:
        raise InputError(f"{path}: a TensorRT engine runs on an NVIDIA GPU, and there is none here")
    for what in ("gpu", "compute capability"):
        built = passport.machine.get(what)
        if built is not None and built != here[what]:
            raise InputError(
                f"{path}: was built for the {what} {built}, here is {here[what]}; build it again "
                "on this machine, from its ONNX file or its bundle"
            )
    return TensorRt(trt, path, passport)


class TensorRt(Computing):
    """An engine of TensorRT with its buffers on the GPU.

    It may be used from several threads; they take turns.
    """

    def __init__(self, trt: Any, path: Path, passport: Passport) -> None:
        """Deserialize the engine; host code in it is not run."""
        self.name = passport.name
        self.inputs = passport.inputs
        self.outputs = passport.outputs
        self._trt = trt
        self._lock = threading.Lock()
        self._cuda = Cuda()
        before = self._cuda.used()
        self._logger = builder.quiet(trt)
        self._runtime = trt.Runtime(self._logger)
        if passport.flags.dla is not None:
            self._runtime.DLA_core = passport.flags.dla
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        self._context: Any = self._engine and self._engine.create_execution_context()
        if not self._context:
            reason = self._logger.errors[0] if self._logger.errors else "it gives no reason"
            raise InputError(f"{path}: TensorRT {trt.__version__} can't load it: {reason}")
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        if not passport.engine:
            inputs = {trt.TensorIOMode.INPUT: True}
            specs = [
                (inputs.get(self._engine.get_tensor_mode(name), False), self._spec(name))
                for name in names
            ]
            self.inputs = tuple(spec for fed, spec in specs if fed)
            self.outputs = tuple(spec for fed, spec in specs if not fed)
        expected = [spec.name for spec in (*self.inputs, *self.outputs)]
        if sorted(names) != sorted(expected):
            raise InputError(f"{path}: its inputs and outputs are {names}, not {expected}")
        self._profiles = _ranges(passport.flags.profiles or self._own_profiles())
        self._profile = 0
        self._memory = {name: Memory(self._cuda) for name in names}
        self._staging = Buffers(self._cuda.pinned, most=2)
        self._results = Buffers(self._cuda.pinned)
        self._shapes: dict[str, Shape] = {}
        self._before = before

    def infer(self, feeds: Feeds) -> Outputs:
        """Return the outputs, by name, for ``feeds``, by name."""
        checked = check_feeds(self.name, self.inputs, feeds)
        with self._lock, self._device():
            self._prepare({name: value.shape for name, value in checked.items()})
            for name, value in checked.items():
                self._cuda.to_device(self._memory[name], self._staged(name, value))
            self._enqueue()
            answers = {}
            for spec in self.outputs:
                shape = tuple(self._context.get_tensor_shape(spec.name))
                answers[spec.name] = self._results.take(spec.name, shape, spec.dtype)
                self._cuda.to_host(answers[spec.name], self._memory[spec.name])
            self._cuda.wait()
        return answers

    def array(self, name: str, shape: Shape) -> Array:
        """Return an array for the input ``name`` that the GPU reads without a copy on the host."""
        dtype = next(spec.dtype for spec in self.inputs if spec.name == name)
        with self._device():
            return self._cuda.pinned(tuple(shape), dtype)

    def compute(self, shapes: Mapping[str, Shape], runs: int) -> list[float]:
        """Return the seconds that the GPU alone takes, without copies to and from it.

        The inputs are what is in the GPU's memory: those of the last inference of this shape.
        """
        with self._lock, self._device():
            self._prepare(shapes)
            return self._cuda.time(self._enqueue, runs)

    def memory(self) -> dict[str, int]:
        """Return the bytes on the GPU: all that were taken since loading, and for activations."""
        with self._lock, self._device():
            return {
                "device": self._cuda.used() - self._before,
                "activations": int(self._engine.device_memory_size_v2),
            }

    def layers(self) -> list[Layer]:
        """Return the engine's layers as TensorRT fused them."""
        text = self._engine.create_engine_inspector().get_engine_information(
            self._trt.LayerInformationFormat.JSON
        )
        return [_layer(entry) for entry in json.loads(text).get("Layers", [])]

    def time_layers(self, feeds: Feeds, runs: int) -> LayerTimes:
        """Return what the layers take, by TensorRT's profiler, of ``runs`` inferences.

        The whole is what the GPU takes without the profiler, which waits between layers.
        """
        self.infer(feeds)  # its shapes, and the feeds on the GPU
        taken: dict[str, list[float]] = {}

        class Profiler(self._trt.IProfiler):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                super().__init__()

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                taken.setdefault(layer_name, []).append(ms)

        with self._lock, self._device():
            whole = self._cuda.time(self._enqueue, WARM_UP + runs)[WARM_UP:]
            profiler = self._context.profiler = Profiler()
            counted = []
            for _ in range(WARM_UP + runs):
                began = time.perf_counter()
                self._enqueue()
                self._cuda.wait()
                counted.append(time.perf_counter() - began)
            # A context has its profiler for good.
            self._context = self._engine.create_execution_context()
            self._shapes, self._profile = {}, 0
            del profiler
        known = {layer.name: layer for layer in self.layers()}
        found = [
            replace(
                known.get(name) or Layer(name, "", "", ()),
                milliseconds=float(np.median(times[-runs:])),
            )
            for name, times in taken.items()
        ]
        totals = (1000 * float(np.median(times)) for times in (whole, counted[WARM_UP:]))
        return LayerTimes(tuple(found), next(totals), runs, next(totals))

    def close(self) -> None:
        """Give back the engine and its buffers."""
        with self._lock:
            if self._context is None:
                return
            self._cuda.attach()
            for memory in self._memory.values():
                memory.release()
            self._context = self._engine = self._runtime = None
            self._staging = self._results = Buffers()
            self._cuda.close()

    def _staged(self, name: str, value: Array) -> Array:
        """Return ``value`` where the GPU can read it: as it is, if it lies there already."""
        if value.flags.c_contiguous and self._cuda.is_pinned(value):
            return value
        staged = self._staging.take(name, value.shape, value.dtype.str)
        np.copyto(staged, value)
        return staged

    @contextmanager
    def _device(self) -> Iterator[None]:
        if self._context is None:
            raise InputError(f"{self.name}: is closed")
        self._cuda.attach()
        yield

    def _spec(self, name: str) -> TensorSpec:
        shape = (
            dim if dim >= 0 else f"{name}.{axis}"
            for axis, dim in enumerate(self._engine.get_tensor_shape(name))
        )
        kind = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        return TensorSpec(name, kind.name, tuple(shape))

    def _own_profiles(self) -> list[dict[str, list[Shape]]]:
        free = any(isinstance(dim, str) for spec in self.inputs for dim in spec.shape)
        numbers = range(self._engine.num_optimization_profiles if free else 0)
        return [
            {
                spec.name: [tuple(s) for s in self._engine.get_tensor_profile_shape(spec.name, n)]
                for spec in self.inputs
            }
            for n in numbers
        ]

    def _prepare(self, shapes: Mapping[str, Shape]) -> None:
        """Choose the profile for ``shapes`` and make room for inputs and outputs."""
        if shapes == self._shapes:
            return
        self._shapes = {}
        wanted = choose(self.name, self._profiles, shapes)
        if wanted != self._profile:
            self._context.set_optimization_profile_async(wanted, self._cuda.stream)
            self._profile = wanted
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise InputError(f"{self.name}: TensorRT refuses {name} of {tuple(shape)}")
        for spec in (*self.inputs, *self.outputs):
            shape = tuple(self._context.get_tensor_shape(spec.name))
            if min(shape, default=0) < 0:
                raise InputError(f"{self.name}: the output {spec} has a shape that depends on data")
            size = int(np.prod(shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize
            self._memory[spec.name].reserve(max(size, 1))
            self._context.set_tensor_address(spec.name, self._memory[spec.name].address)
        self._shapes = dict(shapes)

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            reason = self._logger.errors[-1] if self._logger.errors else "it gives no reason"
            raise InputError(f"{self.name}: TensorRT can't run it: {reason}")


@dataclass(frozen=True)
class _Range:
    """The shapes that a profile takes, by input."""

    bounds: dict[str, tuple[Shape, Shape]]

    def accepts(self, shapes: Mapping[str, Shape]) -> bool:
        return all(
            all(a <= b <= c for a, b, c in zip(low, shapes[name], high, strict=True))
            for name, (low, high) in self.bounds.items()
        )


def _ranges(stored: Sequence[Mapping[str, Sequence[Shape]]]) -> list[_Range]:
    return [
        _Range({name: (tuple(s[0]), tuple(s[2])) for name, s in profile.items()})
        for profile in stored
    ]


def choose(engine: str, stored: Sequence[_Range], shapes: Mapping[str, Shape]) -> int:
    """Return the number of the first profile that takes ``shapes``.

    Raises:
        InputError: None does.
    """
    for number, profile in enumerate(stored):
        if profile.accepts(shapes):
            return number
    if not stored:
        return 0
    told = "; or ".join(
        ", ".join(f"{n} from {list(low)} to {list(high)}" for n, (low, high) in p.bounds.items())
        for p in stored
    )
    fed = ", ".join(f"{name} of {list(shape)}" for name, shape in shapes.items())
    raise InputError(
        f"{engine}: was fed {fed}; it was built for {told}; build it again with --batches or "
        "--shapes that take it in"
    )


def _tensorrt() -> Any:
    with optional("TensorRT as a target", "tensorrt"):
        import tensorrt as trt
    return trt


def _told(model: Model, error: builder.ParseError) -> str:
    """Return the parser's errors with the framework's names and what may help."""
    nodes = model.to_onnx().graph.node
    told = []
    for entry in error.errors[:_MOST_ERRORS]:
        node = nodes[entry.index] if 0 <= entry.index < len(nodes) else None
        told.append(_one(model, entry, node))
    more = len(error.errors) - _MOST_ERRORS
    return (
        f"TensorRT's parser refuses {'; '.join(told)}"
        f"{f'; and {more} more' if more > 0 else ''}{_cure(error.errors)}"
    )


def _one(model: Model, entry: builder.Parsed, node: onnx.NodeProto | None) -> str:
    name = entry.node or (node.output[0] if node is not None and node.output else "")
    origin = next((model.names[o] for o in (node.output if node else ()) if o in model.names), None)
    framework = f" ({model.source.framework}: {origin.name})" if origin else ""
    return f"{entry.operator} {name!r}{framework}: {entry.reason}"


def _cure(errors: Sequence[builder.Parsed]) -> str:
    operators = [entry.operator for entry in errors]
    if any(operator.startswith(_QUANTIZED) for operator in operators):
        return "; quantize the float graph with onnxgraft quantize --target tensorrt"
    if "Compress" in operators:
        return (
            "; onnxgraft surgery --for tensorrt writes it otherwise where it can, and --explain "
            "says why if it does not"
        )
    passes = list(dict.fromkeys(_HELPS[op] for op in operators if op in _HELPS))
    if passes:
        return (
            f"; onnxgraft surgery --only {','.join(passes)} may remove what stands in the way, "
            "and --explain says why if it does not"
        )
    return "; cut the graph before it with onnxgraft convert --outputs"


def _timing_file(trt: Any, options: BuildOptions) -> Path:
    """Return where the timings of this TensorRT on this GPU are kept."""
    if options.timing_cache is not None:
        return options.timing_cache
    device = (builder.gpu() or {"gpu": "no GPU"})["gpu"].replace(" ", "-")
    return cache_folder() / f"tensorrt-{trt.__version__}-{device}.timing"


@contextmanager
def _kept(file: Path, options: BuildOptions) -> Iterator[bytes]:
    """Yield the timings so far, and keep other builds from them until the block ends.

    Two that ran at once would time each other's kernels, and the later one lose the other's.
    """
    with ExitStack() as stack:
        if options.timing_cache is not None or builder.gpu() is not None:
            with suppress(InputError, OSError):  # where it can't be written nothing is kept
                file.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(file.with_name(f".{file.name}.lock")))
        yield file.read_bytes() if file.is_file() else b""


def _keep(file: Path, data: bytes) -> None:
    """Write a timing cache; that it can't be written is no reason to fail a build."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic(file) as temporary:
            temporary.write_bytes(data)
    except (OSError, InputError):
        return


def _layer(entry: Any) -> Layer:
    """Return a layer of the inspector's JSON: a name alone, or a table of what it is."""
    if not isinstance(entry, dict):
        return Layer(str(entry), "", "", ())
    kind = str(entry.get("LayerType", ""))
    (reads, before), (makes, after) = (_tensors(entry.get(key)) for key in ("Inputs", "Outputs"))
    role: Role = "layer"
    change = f"{before} to {after}" if before != after else ""
    if kind in _MOVES:
        role = "conversion" if change else "reorder"
    nodes = tuple(re.findall(r"\[ONNX Layer: ([^\]]*)\]", str(entry.get("Metadata", ""))))
    return Layer(
        str(entry.get("Name", "")), kind, before or after, nodes, role, change, reads, makes,
        tactic=str(entry.get("TacticName") or entry.get("TacticValue") or ""),
    )  # fmt: skip


def _tensors(entries: Any) -> tuple[tuple[str, ...], str]:
    """Return the names of tensors that the inspector lists, and the type of the first."""
    listed = [entry for entry in entries or () if isinstance(entry, dict)]
    told = (listed or [{}])[0]
    kind = str(told.get("Datatype") or told.get("Format/Datatype") or "")
    return tuple(str(entry.get("Name", "")) for entry in listed), kind
