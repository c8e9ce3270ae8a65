"""What an engine's library says of its layers: what they are, what they run in, what they take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from onnxgraft.graph.tensors import Feeds
from onnxgraft.run.engine import Engine

__all__ = [
    "WARM_UP", "Layer", "LayerPrecision", "LayerTimes", "Role", "Timing", "median_ms",
    "plain_precision",
]  # fmt: skip

# Inferences before those that count.
WARM_UP = 3
# What a layer is there for: the network's own work, or to move or convert what others made.
Role = Literal["layer", "reorder", "conversion"]

_PRECISIONS = {
    "i4": "int4", "u4": "int4", "i8": "int8", "u8": "int8", "int8": "int8", "uint8": "int8",
    "f32": "fp32", "fp32": "fp32", "float": "fp32", "float32": "fp32", "f16": "fp16",
    "fp16": "fp16", "half": "fp16", "float16": "fp16", "bf16": "bf16", "bfloat16": "bf16",
    "tf32": "tf32", "fp8": "fp8",
}  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """A layer of an engine, as its library fused it.

    Attributes:
        name: In the library's words.
        kind: What it does.
        precision: That it computes in; empty where the library does not say.
        nodes: The nodes of the graph that are in it, where the library says.
        role: What it is there for.
        change: Of what is no layer of the network: from what to what, such as ``u8 to f32``.
        reads: The tensors that it reads, by the library's names for them.
        makes: The tensors that it makes, likewise.
        milliseconds: That it took; None where that was not measured.
        by_last: Whether the library calls it after the last of its nodes alone, as far as it is
            known to; otherwise those that are fused behind may be missing.
        tactic: The kernel that the library chose for it; empty where it does not say.
    """

    name: str
    kind: str
    precision: str
    nodes: tuple[str, ...]
    role: Role = "layer"
    change: str = ""
    reads: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    milliseconds: float | None = None
    by_last: bool = False
    tactic: str = ""


@dataclass(frozen=True)
class LayerTimes:
    """What an engine's layers took, of inferences with the same feeds.

    Attributes:
        layers: In the order in which they run; each with the median over the inferences.
        total: Milliseconds of a whole inference while nothing is counted, likewise.
        runs: How many there were.
        counted: Milliseconds of a whole inference while layers are counted, which costs time, by
            the library's own account where it gives one.
    """

    layers: tuple[Layer, ...]
    total: float
    runs: int
    counted: float


@dataclass(frozen=True)
class LayerPrecision:
    """What a layer of the network runs in, in an engine.

    Attributes:
        layer: The framework's name for what it makes, or that of the graph's node.
        precision: As the engine's library tells it; empty where it does not.
        graph: In which it stands in the graph.
    """

    layer: str
    precision: str
    graph: str


@runtime_checkable
class Timing(Engine, Protocol):
    """An engine whose library tells what its layers take."""

    def layers(self) -> Sequence[Layer]:
        """Return its layers."""

    def time_layers(self, feeds: Feeds, runs: int) -> LayerTimes:
        """Return what they take, of ``runs`` inferences."""


def median_ms(engine: Engine, feeds: Feeds, runs: int) -> float:
    """Return the milliseconds of an inference, the median of ``runs`` after a few that warm up."""
    times = []
    for _ in range(WARM_UP + runs):
        began = time.perf_counter()
        engine.infer(feeds)
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[WARM_UP:])


def plain_precision(told: str) -> str:
    """Return a precision in our words; empty where it is none that layers compute in.

    >>> plain_precision("u8"), plain_precision("Row major Int8 format"), plain_precision("i64")
    ('int8', 'int8', '')
    """
    return next((_PRECISIONS[word] for word in told.lower().split() if word in _PRECISIONS), "")
