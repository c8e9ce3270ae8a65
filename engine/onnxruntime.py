"""onnxruntime as a target: the engine is the graph as onnxruntime optimized it."""

from __future__ import annotations

import errno
import importlib.util
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxgraft.errors import InputError, ModelError
from onnxgraft.files import atomic
from onnxgraft.graph.tensors import Feeds, TensorSpec
from onnxgraft.optional import optional
from onnxgraft.run.engine import Writing
from onnxgraft.run.layers import Layer, LayerTimes
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.engine.options import BuildOptions, Built
from onnxgraft.stages.engine.passport import Flags, Passport, refuse

if TYPE_CHECKING:
    from onnxgraft.graph.model import Model

__all__ = ["OnnxRuntimeEngine", "build", "check", "load", "runs_here"]


def runs_here() -> bool:
    """Tell whether onnxruntime is installed."""
    return importlib.util.find_spec("onnxruntime") is not None


def check(inputs: Sequence[TensorSpec], options: BuildOptions) -> None:
    """Take whatever fits the inputs."""


def build(model: Model, path: Path, options: BuildOptions) -> Built:
    """Write the optimized graph to ``path``; shapes make no difference to it."""
    from onnxgraft.graph.quantized import PRECISE

    ort = _onnxruntime()
    graph = model.to_onnx()
    configure = _configure(options.threads, precise=PRECISE in model.metadata)
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
        try:
            super().__init__(path, name=passport.name, configure=self._configured)
        except ModelError as error:
            raise InputError(f"{path}: {error}; build it again") from error
        self._path = path
        for found, told in ((self.inputs, passport.inputs), (self.outputs, passport.outputs)):
            names, wanted = [s.name for s in found], [s.name for s in told]
            if told and names != wanted:
                raise InputError(f"{path}: has {names} where its passport says {wanted}")

    def layers(self) -> list[Layer]:
        """Return the nodes that run: onnxruntime fuses the saved graph's once more."""
        from onnxgraft.run.session_layers import optimized_layers

        return optimized_layers(self._path, self._configured)

    def time_layers(self, feeds: Feeds, runs: int) -> LayerTimes:
        """Return what the nodes take, of ``runs`` inferences."""
        from onnxgraft.run.session_layers import timed

        return timed(self._path, self._configured, self, feeds, runs)


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
