"""The report: what was measured in one run, as plain data; all views are made of it."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from onnxgraft.files import write_json

__all__ = ["CandidateRow", "LatencyRow", "OutputRow", "Report", "StageRow", "versions"]


@dataclass
class StageRow:
    """One stage of the road, held against the original on a few samples.

    Attributes:
        stage: Such as ``converted`` or ``int8 graph for openvino``.
        before: Nodes before the stage; None for what is no graph.
        after: Nodes after it.
        max_abs: Largest difference from the original, over all float outputs.
        relative: The same as a fraction of that output's range.
        tolerance: What ``relative`` was held against; None where a task metric judges instead.
        passed: Whether it was within it.
        seconds: That the stage took.
    """

    stage: str
    before: int | None
    after: int | None
    max_abs: float
    relative: float
    tolerance: float | None
    passed: bool
    seconds: float


@dataclass
class OutputRow:
    """One output of a candidate against the original's, over all samples."""

    output: str
    max_abs: float
    mean_abs: float
    relative: float
    cosine: float
    sqnr: float
    agreement: float | None
    nonfinite: int


@dataclass
class CandidateRow:
    """One candidate over the validation samples.

    Attributes:
        name: Such as ``openvino int8``.
        outputs: Its outputs against the original's; empty for the original itself.
        metrics: Task metrics in percent, by name.
        per_class: For a metric with classes, the value of each.
        passed: Whether it is within its tolerance.
        verdict: What it was held against, in words.
    """

    name: str
    outputs: list[OutputRow]
    metrics: dict[str, float]
    per_class: dict[str, float]
    passed: bool
    verdict: str


@dataclass
class LatencyRow:
    """The latency of one engine, measured in a process of its own in turn with the others.

    Attributes:
        name: Of the engine.
        batch: Images in one inference.
        median_ms: Milliseconds for one inference.
        p90_ms: Likewise.
        p99_ms: Likewise.
        runs: How many inferences were timed.
    """

    name: str
    batch: int
    median_ms: float
    p90_ms: float
    p99_ms: float
    runs: int

    @property
    def images_per_second(self) -> float:
        """Images per second at the median."""
        return self.batch * 1000 / self.median_ms


@dataclass
class Report:
    """Everything that a run measured and decided.

    Attributes:
        title: Of the model.
        source: Path of the original.
        samples: How many samples were validated on.
        stages: In order.
        candidates: The original first.
        latency: By engine and batch.
        operators_before: Of the converted graph.
        operators_after: Of the cleaned graph.
        float_layers: (target, layer, reason) of each layer that stayed in float.
        notes: A sentence for each thing that was decided, or could not be measured.
        artifacts: What was written, by role.
    """

    title: str
    source: str
    samples: int = 0
    stages: list[StageRow] = field(default_factory=list)
    candidates: list[CandidateRow] = field(default_factory=list)
    latency: list[LatencyRow] = field(default_factory=list)
    operators_before: dict[str, int] = field(default_factory=dict)
    operators_after: dict[str, int] = field(default_factory=dict)
    float_layers: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    artifacts: dict[str, str] = field(default_factory=dict)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    versions: dict[str, str] = field(default_factory=lambda: versions())

    @property
    def passed(self) -> bool:
        """Whether every stage and every candidate is within its tolerance."""
        return all(row.passed for row in self.stages) and all(row.passed for row in self.candidates)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values; written as JSON, infinities become null."""
        return {"passed": self.passed, **asdict(self)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON."""
        write_json(path, self.to_json())


def versions() -> dict[str, str]:
    """Return the versions of what is installed and matters, and of the machine."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in (
        "onnxgraft", "numpy", "onnx", "onnx-graphsurgeon", "onnxruntime", "openvino",
        "polygraphy", "tensorflow", "tensorflow-cpu", "tf2onnx",
    ):  # fmt: skip
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
