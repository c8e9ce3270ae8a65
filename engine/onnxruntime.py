"""onnxruntime as a target: the engine is the graph as onnxruntime optimized it.

With a provider it is the graph as it stands: onnxruntime gives it to the provider when it is
loaded, and that compiles what it takes.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import platform
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxgraft.errors import EngineWarning, InputError, ModelError, NotSupportedError
from onnxgraft.files import atomic, write_bytes
from onnxgraft.graph.tensors import Feeds, TensorSpec
from onnxgraft.optional import optional
from onnxgraft.run.engine import Writing
from onnxgraft.run.layers import Layer, LayerTimes
from onnxgraft.run.providers import Running, running
from onnxgraft.run.session import OnnxRuntime, without_bfloat16
from onnxgraft.stages.engine.options import BuildOptions, Built
from onnxgraft.stages.engine.passport import Flags, Passport, refuse
from onnxgraft.words import several

if TYPE_CHECKING:
    from onnxgraft.graph.model import Model

__all__ = ["OnnxRuntimeEngine", "build", "check", "load", "runs_here"]


def runs_here() -> bool:
    """Tell whether onnxruntime is installed."""
    return importlib.util.find_spec("onnxruntime") is not None


def check(inputs: Sequence[TensorSpec], options: BuildOptions) -> None:
    """Take whatever fits the inputs, with a provider that is here."""
    if options.provider is not None:
        running(_onnxruntime(), options.provider)


def build(model: Model, path: Path, options: BuildOptions) -> Built:
    """Write the optimized graph to ``path``; shapes make no difference to it."""
    from onnxgraft.graph.quantized import PRECISE, is_quantized

    ort = _onnxruntime()
    graph = model.to_onnx()
    configure = _configure(options.threads, precise=PRECISE in model.metadata)
    if options.provider is not None:
        provider = running(ort, options.provider, int8=is_quantized(model))
        if provider is not None:
            return _for_provider(ort, model, path, options, provider)
    with atomic(path) as temporary:
        try:
            OnnxRuntime(
                graph, name=model.title, save_optimized=temporary, configure=configure
            ).close()
        except ModelError as error:
            # It says the same of a graph that it does not take and of a disk that is full.
            OnnxRuntime(graph, name=model.title, configure=configure).close()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
    flags = Flags(threads=options.threads)
    machine = {"cpu": platform.processor() or platform.machine()}
    return Built({"onnxruntime": ort.__version__}, flags, machine)


def _for_provider(
    ort: Any, model: Model, path: Path, options: BuildOptions, provider: Running
) -> Built:
    """Write the graph to ``path``, once it has run with a provider."""
    graph, _ = without_bfloat16(model.to_onnx(), model.title, None)
    name, configure = model.title, _configure(options.threads)
    with OnnxRuntime(graph, name=name, configure=configure, provider=provider) as session:
        placed = session.placed()
    write_bytes(path, graph.SerializeToString())
    machine = {"provider": provider.provider.title}
    if provider.device:
        machine["device"] = provider.device
    flags = Flags(threads=options.threads, provider=options.provider or "")
    versions = {"onnxruntime": ort.__version__, **provider.versions}
    return Built(versions, flags, machine, placed)


def load(
    path: Path, passport: Passport, threads: int | None, streams: int | None = None
) -> Writing:
    """Return the engine at ``path``; it needs no word of how many inferences run at once."""
    refuse(path, passport, "onnxruntime", "onnxruntime", _onnxruntime().__version__)
    return OnnxRuntimeEngine(path, passport, threads)


class OnnxRuntimeEngine(OnnxRuntime):
    """A graph in onnxruntime; it may be used from several threads."""

    def __init__(self, path: Path, passport: Passport, threads: int | None = None) -> None:
        """Load the graph.

        Raises:
            InputError: onnxruntime refuses it, or it is not the one that the passport describes.
        """
        self._configured = _configure(threads or passport.flags.threads)
        given = passport.flags.provider
        try:
            int8 = passport.precision == "int8"
            self._running = running(_onnxruntime(), given, int8=int8) if given else None
            for package, here in (self._running.versions if self._running else {}).items():
                refuse(path, passport, package, package, here)
            super().__init__(
                path, name=passport.name, configure=self._configured, provider=self._running
            )
        except ModelError as error:
            raise InputError(f"{path}: {error}; build it again") from error
        except InputError as error:
            if not given or str(error).startswith(str(path)):
                raise
            raise InputError(f"{path}: was built for {given}. {error}") from error
        self._path = path
        self._tell_others(passport)
        for found, told in ((self.inputs, passport.inputs), (self.outputs, passport.outputs)):
            names, wanted = [s.name for s in found], [s.name for s in told]
            if told and names != wanted:
                raise InputError(f"{path}: has {names} where its passport says {wanted}")

    def _tell_others(self, passport: Passport) -> None:
        """Warn where the provider takes less of the graph here than where it was built."""
        if self._running is None:
            return
        name = self._running.provider.name
        here = sum(node.where != name for node in self.placed())
        built = sum(share.nodes for share in passport.divided if share.where != name)
        if passport.engine and here > built:
            warnings.warn(
                f"{self._path}: {name} leaves {several(here, 'node')} to others here, and {built} "
                "where it was built: it may be slower, and compute something else",
                EngineWarning, stacklevel=2,
            )  # fmt: skip

    def layers(self) -> list[Layer]:
        """Return the nodes that run: onnxruntime fuses the saved graph's once more."""
        from onnxgraft.run.session_layers import optimized_layers

        self._check_told()
        return optimized_layers(self._path, self._configured)

    def time_layers(self, feeds: Feeds, runs: int) -> LayerTimes:
        """Return what the nodes take, of ``runs`` inferences."""
        from onnxgraft.run.session_layers import timed

        self._check_told()
        return timed(self._path, self._configured, self, feeds, runs)

    def _check_told(self) -> None:
        if self._running is not None:
            title = self._running.provider.title
            raise NotSupportedError(
                f"{self.name}: onnxruntime does not tell what {title} makes of the nodes that it "
                "takes, or when they have run"
            )


def _configure(threads: int | None, *, precise: bool = False) -> Callable[[Any], None]:
    """Return what sets onnxruntime's options.

    Its arena keeps memory from run to run, so that a run takes none from the system. Operators
    run one after the other, each on all the threads: as many as physical cores, each pinned to
    its own, if no number is given. The mode that is ``precise`` replaces signed weights by unsigned
    ones where a CPU's kernels for signed ones saturate; the saved graph holds what it made of them.
    """

    def configure(options: Any) -> None:
        options.enable_cpu_mem_arena = True
        options.enable_mem_pattern = True
        if threads is not None:
            options.intra_op_num_threads = threads
        if precise:
            options.add_session_config_entry("session.x64quantprecision", "1")

    return configure


def _onnxruntime() -> Any:
    with optional("onnxruntime as a target", "onnxruntime"):
        import onnxruntime as ort
    return ort
