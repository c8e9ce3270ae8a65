"""From an ONNX graph to a serialized TensorRT engine, with the standard library and TensorRT alone.

A bundle carries this very file to its target, so of onnxgraft nothing but the calibrator, which it
carries too, is imported here. All differences between TensorRT's versions are in this file:

* 11 and RTX know strongly typed networks alone: the precision is in the graph.
* 10 takes the same graphs with a flag, and INT8 also the implicit way: a float graph and a
  calibration cache, read by a calibrator that has no data. A DLA takes no other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxgraft.targets.tensorrt_calibrator import cache_calibrator

__all__ = [
    "BuildError",
    "ParseError",
    "Parsed",
    "Plan",
    "Profile",
    "Settings",
    "build_plan",
    "gpu",
    "major",
    "plain",
    "quiet",
    "trtexec",
]

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
# For each input: the smallest, the usual and the largest shape.
Profile = Mapping[str, Shapes]
# Of a phase of the build: its name, how many steps are done, and how many there are.
Progress = Callable[[str, int, int], None]

_OLDEST = 10
_MOST_ERRORS = 3


class BuildError(Exception):
    """TensorRT refuses the graph or the settings."""


@dataclass(frozen=True)
class Parsed:
    """What TensorRT's parser says against a node.

    Attributes:
        operator: Its type.
        node: Its name; may be empty.
        index: Its place in the graph's list of nodes; -1 if the parser does not know it.
        reason: In the parser's words.
    """

    operator: str
    node: str
    index: int
    reason: str


class ParseError(BuildError):
    """The parser refuses nodes of the graph."""

    def __init__(self, errors: Sequence[Parsed]) -> None:
        self.errors = tuple(errors)
        told = "; ".join(f"{e.operator} {e.node!r}: {e.reason}" for e in errors[:_MOST_ERRORS])
        more = f"; and {len(errors) - _MOST_ERRORS} more" if len(errors) > _MOST_ERRORS else ""
        super().__init__(f"TensorRT's parser refuses {told}{more}")


@dataclass(frozen=True)
class Settings:
    """How an engine is built.

    Attributes:
        profiles: Ranges of shapes; none for a graph without free dimensions.
        workspace: Bytes of device memory that a layer may use for scratch; None sets no limit.
        calibration: A TensorRT calibration cache: INT8 the implicit way (TensorRT 10).
        timing: The bytes of a timing cache to begin with, empty for a new one; None keeps no cache.
        level: Of optimization, 0 to 5; None leaves it to TensorRT.
        version_compatible: The engine runs in later versions too; it carries no host code.
        tf32: Float32 layers may round their inputs to TF32's 10 bits of mantissa.
        capability: The least compute capability of a GPU that runs the graph: FP8 needs 8.9.
        dla: The core of the DLA that runs what it can of a float graph; the GPU runs the rest.
    """

    profiles: Sequence[Profile] = ()
    workspace: int | None = None
    calibration: bytes | None = None
    timing: bytes | None = None
    level: int | None = None
    version_compatible: bool = False
    tf32: bool = False
    capability: tuple[int, int] = (0, 0)
    dla: int | None = None

    @property
    def implicit(self) -> bool:
        """Whether TensorRT itself chooses precisions, as up to 10."""
        return self.calibration is not None or self.dla is not None


@dataclass(frozen=True)
class Plan:
    """What the builder made.

    Attributes:
        engine: The serialized engine.
        timing: The timing cache after the build; None if none was kept, or nothing was timed.
        warnings: In TensorRT's words.
        dla: How many layers the DLA takes, one by one.
        on_gpu: The layers that it does not take.
    """

    engine: bytes
    timing: bytes | None
    warnings: tuple[str, ...] = field(default=())
    dla: int = 0
    on_gpu: tuple[str, ...] = ()


def major(trt: Any) -> int:
    """Return the major version of the library; BuildError if it is older than 10."""
    number = int(trt.__version__.split(".")[0])
    if number < _OLDEST:
        raise BuildError(f"TensorRT {trt.__version__} is too old; {_OLDEST} or later is needed")
    return number


def build_plan(trt: Any, onnx: bytes, settings: Settings, progress: Progress | None = None) -> Plan:
    """Build the engine of an ONNX model.

    Args:
        trt: The module.
        onnx: The serialized model, weights included.
        settings: How.
        progress: Is told of each step; raise KeyboardInterrupt in it to end the build.

    Raises:
        BuildError: TensorRT refuses the graph; a `ParseError` names its nodes.
    """
    _check_gpu(settings)
    if settings.dla is not None and major(trt) > 10:
        raise BuildError(
            f"TensorRT {trt.__version__} can't choose precisions itself, as a DLA needs it here; "
            "build with TensorRT 10, which JetPack 6 has, or make the bundle without --dla"
        )
    if settings.implicit and major(trt) > 10:
        raise BuildError(
            f"TensorRT {trt.__version__} takes no calibration cache; build from a graph with "
            "QuantizeLinear and DequantizeLinear"
        )
    logger = quiet(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(0 if settings.implicit else _strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        raise ParseError([_parsed(parser.get_error(i)) for i in range(parser.num_errors)])
    config = builder.create_builder_config()
    if settings.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if settings.level is not None:
        config.builder_optimization_level = settings.level
    if not settings.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)  # TensorRT sets it by itself
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    for wanted in settings.profiles:
        profile = builder.create_optimization_profile()
        for name, shapes in wanted.items():
            profile.set_shape(name, *shapes)
        if config.add_optimization_profile(profile) < 0:
            raise BuildError(f"TensorRT refuses the profile {dict(wanted)}{_because(logger)}")
    if settings.implicit:
        # What is not INT8 runs in whichever of FP16 and FP32 is faster; on a DLA in FP16.
        config.set_flag(trt.BuilderFlag.FP16)
    if settings.calibration is not None:
        config.set_flag(trt.BuilderFlag.INT8)
        calibrator = cache_calibrator(trt, settings.calibration)
        config.int8_calibrator = calibrator
    taken, on_gpu = 0, tuple[str, ...]()
    if settings.dla is not None:
        taken, on_gpu = _onto_dla(trt, builder, config, network, settings.dla)
    # Without a GPU nothing is timed, and a cache makes the builder look for one.
    timed = settings.timing is not None and gpu() is not None
    if timed:
        _begin_timing(config, settings.timing or b"")
    monitor = None if progress is None else _monitor(trt, progress)
    if monitor is not None:
        config.progress_monitor = monitor
    engine = builder.build_serialized_network(network, config)
    if monitor is not None and monitor.stopped is not None:
        raise monitor.stopped
    if engine is None:
        cure = ""
        if any("OutOfMemory" in m or "workspace" in m for m in logger.errors):
            cure = "; give it smaller shapes or batches"
            if settings.workspace is not None:
                cure += f", or a larger workspace than {settings.workspace >> 20} MiB"
        raise BuildError(f"TensorRT can't build the graph{_because(logger)}{cure}")
    timing = bytes(config.get_timing_cache().serialize()) if timed else None
    return Plan(bytes(engine), timing, tuple(logger.warnings), taken, on_gpu)


def plain(profiles: Sequence[Profile]) -> list[dict[str, list[list[int]]]]:
    """Return profiles as JSON has them."""
    return [{name: [list(s) for s in shapes] for name, shapes in p.items()} for p in profiles]


def trtexec(onnx: str, engine: str, settings: Settings, version: int) -> str:
    """Return the line of TensorRT's own tool that builds the same engine with TensorRT ``version``.

    >>> trtexec("m.onnx", "m.engine", Settings(workspace=1 << 28), 11)
    'trtexec --onnx=m.onnx --saveEngine=m.engine --memPoolSize=workspace:256 \
--profilingVerbosity=detailed --noTF32'
    """
    words = ["trtexec", f"--onnx={onnx}", f"--saveEngine={engine}"]
    for number, profile in enumerate(settings.profiles):
        if len(settings.profiles) > 1:
            words.append(f"--profile={number}")
        for index, option in enumerate(("minShapes", "optShapes", "maxShapes")):
            shapes = ",".join(
                f"{name}:{'x'.join(map(str, shapes[index]))}" for name, shapes in profile.items()
            )
            words.append(f"--{option}={shapes}")
    if settings.workspace is not None:
        words.append(f"--memPoolSize=workspace:{settings.workspace >> 20}")
    words.append("--profilingVerbosity=detailed")
    if settings.level is not None:
        words.append(f"--builderOptimizationLevel={settings.level}")
    if not settings.tf32:
        words.append("--noTF32")
    if settings.version_compatible:
        words += ["--versionCompatible", "--excludeLeanRuntime"]
    if settings.dla is not None:
        words += [f"--useDLACore={settings.dla}", "--allowGPUFallback"]
    if settings.calibration is not None:
        words += ["--int8", "--calib=calibration.cache"]
    if settings.implicit:
        words.append("--fp16")
    elif version < 11:
        words.append("--stronglyTyped")
    return " ".join(words)


def gpu() -> dict[str, str] | None:
    """Return name, compute capability and driver of the first GPU, or None if there is none.

    The driver's version is the CUDA version that it offers, and its own where the system tells it.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, version, large, small = (ctypes.c_int() for _ in range(4))
    name = ctypes.create_string_buffer(256)
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return None
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h.
    cuda.cuDeviceGetAttribute(ctypes.byref(large), 75, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(small), 76, device)
    offered = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    module = Path("/sys/module/nvidia/version")
    own = f"{module.read_text().strip()}, " if module.is_file() else ""
    return {
        "gpu": name.value.decode(errors="replace"),
        "compute capability": f"{large.value}.{small.value}",
        "driver": own + offered,
    }


def _check_gpu(settings: Settings) -> None:
    """Refuse a graph that the GPU of this machine, if there is one, does not run."""
    here = gpu()
    have = "" if here is None else here["compute capability"]
    if here is not None and tuple(map(int, have.split("."))) < settings.capability:
        least = ".".join(map(str, settings.capability))
        raise BuildError(
            f"the graph is in FP8, which GPUs of compute capability {least} and later run, and "
            f"here is {here['gpu']} with {have}; quantize to INT8 for it"
        )


def _onto_dla(
    trt: Any, builder: Any, config: Any, network: Any, core: int
) -> tuple[int, tuple[str, ...]]:
    """Let a DLA run what it can, and the GPU the rest; tell how much, and what not."""
    cores = int(builder.num_DLA_cores)
    if core >= cores:
        there = f"its cores are 0 to {cores - 1}" if cores else "this machine has none"
        raise BuildError(
            f"there is no DLA core {core}: {there}; make the bundle for another one, or without "
            "--dla"
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    able = [layer for layer in layers if config.can_run_on_DLA(layer)]
    if not able:
        raise BuildError("the DLA takes none of the layers; make the bundle without --dla")
    taken = {id(layer) for layer in able}
    return len(able), tuple(str(layer.name) for layer in layers if id(layer) not in taken)


def _strongly_typed(trt: Any) -> int:
    """Return the flags of a strongly typed network; TensorRT 11 has no other, and no flag."""
    major(trt)
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _begin_timing(config: Any, data: bytes) -> None:
    """Begin with an earlier build's timings; those of another version or GPU begin anew."""
    for start in (data, b""):
        cache = config.create_timing_cache(start)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def quiet(trt: Any) -> Any:
    """Return a logger that keeps errors and warnings for our messages and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)
            elif severity == trt.ILogger.Severity.WARNING:
                self.warnings.append(message)

    return Logger()


def _because(logger: Any) -> str:
    return f": {logger.errors[0]}" if logger.errors else "; it gives no reason"


def _parsed(error: Any) -> Parsed:
    # The description is the assertion that failed, which may say nothing but "false".
    code = str(error.code()).rpartition(".")[2].replace("_", " ").lower()
    reason = code if error.desc() in ("", "false") else f"{error.desc()} ({code})"
    return Parsed(error.node_operator(), error.node_name(), error.node(), reason)


def _monitor(trt: Any, progress: Progress) -> Any:
    """Return TensorRT's progress monitor as calls of ``progress``, outermost phases alone."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.stopped: BaseException | None = None

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            self._tell(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            self._tell(phase, step + 1)
            return self.stopped is None

        def phase_finish(self, phase: str) -> None:
            self._tell(phase, self.steps.pop(phase, 0))

        def _tell(self, phase: str, done: int) -> None:
            # It is called from the builder's threads: an exception must not reach them.
            try:
                progress(phase, done, self.steps.get(phase, done))
            except BaseException as error:
                self.stopped = error

    return Monitor()
