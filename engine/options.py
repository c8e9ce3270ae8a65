"""What targets are told when they build, and what they say of what they built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["BuildOptions", "Built", "Floats", "Hint", "Layer", "Shape"]

Shape = Sequence[int]
Floats = Literal["fp32", "tf32", "fp16", "bf16"]
Hint = Literal["latency", "throughput"]


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built. Each target takes what means something to it.

    Attributes:
        shapes: For inputs with free dimensions, the shape to optimize for.
        smallest: For inputs in ``shapes``, the smallest shape (TensorRT); as ``shapes`` if not
            given.
        largest: Likewise the largest.
        batches: For a free batch, the batches to tune for; any up to the largest can be run
            (TensorRT).
        hint: Answer a single image soon, or many images in little time (OpenVINO).
        threads: Of the CPU; None takes all (OpenVINO, onnxruntime).
        workspace: Bytes of GPU memory that a layer may use for scratch; None sets no limit
            (TensorRT).
        level: Of optimization, 0 to 5; None leaves it to the library (TensorRT).
        timing_cache: Where timings of layers are kept from build to build; None for a place in
            the user's cache folder (TensorRT).
        version_compatible: The engine runs in later versions of the library (TensorRT).
        calibration: A TensorRT calibration cache, for INT8 from a float graph (TensorRT 10).
        floats: What the layers that are not INT8 run in.
    """

    shapes: Mapping[str, Shape] = field(default_factory=dict)
    smallest: Mapping[str, Shape] = field(default_factory=dict)
    largest: Mapping[str, Shape] = field(default_factory=dict)
    batches: Sequence[int] = (1, 16)
    hint: Hint = "latency"
    threads: int | None = None
    workspace: int | None = None
    level: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    calibration: bytes | None = None
    floats: Floats = "fp32"


@dataclass(frozen=True)
class Built:
    """What a target says of an engine that it wrote.

    Attributes:
        versions: Of the libraries.
        flags: That it was built with.
        machine: That it was built for.
    """

    versions: dict[str, str]
    flags: dict[str, Any]
    machine: dict[str, str]


@dataclass(frozen=True)
class Layer:
    """A layer of an engine, as its library fused it.

    Attributes:
        name: In the library's words.
        kind: What it does.
        precision: Of its output; empty where the library does not say.
        nodes: The nodes of the graph that are in it, where the library says.
    """

    name: str
    kind: str
    precision: str
    nodes: tuple[str, ...]
