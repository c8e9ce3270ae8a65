"""What targets are told when they build, and what they say of what they built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from onnxgraft.graph.tensors import TensorSpec
from onnxgraft.run.engine import Writing
from onnxgraft.run.providers import Placed
from onnxgraft.stages.engine.passport import Flags, Passport
from onnxgraft.targets import Floats
from onnxgraft.targets.devices import on_cpu

if TYPE_CHECKING:
    from onnxgraft.graph.model import Model

__all__ = ["Backend", "BuildOptions", "Built", "Hint", "Shape"]

Shape = Sequence[int]
Hint = Literal["latency", "throughput"]


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built; which of it a target takes stands in `Target.options`.

    Attributes:
        shapes: For inputs with free dimensions, the shape to optimize for.
        smallest: For inputs in ``shapes``, the smallest shape; as ``shapes`` if not given.
        largest: Likewise the largest.
        batches: For a free batch, the batches to tune for; any up to the largest can be run.
        hint: Answer a single image soon, or many images in little time.
        threads: Of the CPU; None takes all.
        workspace: Bytes of GPU memory that a layer may use for scratch; None sets no limit.
        level: Of optimization, 0 to 5; None leaves it to the library.
        timing_cache: Where timings of layers are kept from build to build; None for a place in
            the user's cache folder.
        version_compatible: The engine runs in later versions of the library.
        calibration: A TensorRT calibration cache, for INT8 from a float graph.
        floats: What the layers that are not INT8 run in.
        device: That OpenVINO compiles for: None for the CPU, ``GPU``, ``GPU.1``, ``NPU``; ``AUTO``
            and ``AUTO:GPU,CPU`` for the one that OpenVINO chooses; ``HETERO:GPU,CPU`` for several.
        provider: That onnxruntime gives nodes to: None for the CPU's own, ``cuda``, ``cuda:1``.
    """

    shapes: Mapping[str, Shape] = field(default_factory=dict, metadata={"flag": "--shapes"})
    smallest: Mapping[str, Shape] = field(default_factory=dict, metadata={"flag": "--min-shapes"})
    largest: Mapping[str, Shape] = field(default_factory=dict, metadata={"flag": "--max-shapes"})
    batches: Sequence[int] = field(default=(1, 16), metadata={"flag": "--batches"})
    hint: Hint = field(default="latency", metadata={"flag": "--hint"})
    threads: int | None = field(default=None, metadata={"flag": "--threads"})
    workspace: int | None = field(default=None, metadata={"flag": "--workspace"})
    level: int | None = field(default=None, metadata={"flag": "--level"})
    timing_cache: Path | None = field(default=None, metadata={"flag": "--timing-cache"})
    version_compatible: bool = field(default=False, metadata={"flag": "--version-compatible"})
    calibration: bytes | None = field(default=None, metadata={"flag": "--calibration"})
    floats: Floats = field(default="fp32", metadata={"flag": "--precision"})
    device: str | None = field(default=None, metadata={"flag": "--device"})
    provider: str | None = field(default=None, metadata={"flag": "--provider"})

    @property
    def place(self) -> BuildOptions:
        """What is said of where the engine runs, and nothing else."""
        return BuildOptions(device=self.device, provider=self.provider)

    @property
    def on_cpu(self) -> bool:
        """Whether the engine's answers depend on the processor, as far as that is known before."""
        return on_cpu(self.device, self.provider)


@dataclass(frozen=True)
class Built:
    """What a target says of an engine that it wrote.

    Attributes:
        versions: Of the libraries.
        flags: That it was built with.
        machine: That it was built for.
        placed: Its nodes and where they run, where that may be in several places.
    """

    versions: dict[str, str]
    flags: Flags
    machine: dict[str, str]
    placed: Sequence[Placed] = ()


class Backend(Protocol):
    """What the module of a target has, see `Target.backend`."""

    def runs_here(self) -> bool:
        """Tell whether engines of the target can run on this machine, without loading much."""

    def check(self, inputs: Sequence[TensorSpec], options: BuildOptions) -> None:
        """Raise InputError if a graph with ``inputs`` can't be built with these options."""

    def build(self, model: Model, path: Path, options: BuildOptions) -> Built:
        """Write an engine of ``model`` to ``path``."""

    def load(
        self, path: Path, passport: Passport, threads: int | None, streams: int | None = None
    ) -> Writing:
        """Return the engine at ``path``, ready to infer; None leaves it as it was built."""
