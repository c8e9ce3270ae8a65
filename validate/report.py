"""The report: what was measured in one run, as plain data; all views are made of it."""

from __future__ import annotations

import functools
import math
import os
import platform
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from onnxgraft.files import write_json
from onnxgraft.notebook import section
from onnxgraft.stages.validate.metrics.metric import Curve
from onnxgraft.targets.cpu import this_cpu

__all__ = [
    "UNANSWERED",
    "BoxRow",
    "CandidateRow",
    "EngineRow",
    "GalleryRow",
    "HostRow",
    "LatencyRow",
    "LayerRow",
    "LayerTimeRow",
    "LayersTimedRow",
    "OutputRow",
    "RangeRow",
    "Report",
    "StageRow",
    "StageTime",
    "machine",
    "versions",
]

# The exit status of a command where what was measured is right, and a host did not answer.
UNANSWERED = 4


@dataclass
class StageRow:
    """One stage of the road, held against the original on a few samples.

    Attributes:
        stage: Such as ``converted`` or ``int8 graph for openvino``.
        before: Nodes before the stage; None for what is no graph.
        after: Nodes after it.
        max_abs: Largest difference from the original, over all float outputs.
        relative: The same as a fraction of that output's range.
        tolerance: What ``relative`` was held against; None where a task metric decides instead.
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
class StageTime:
    """What a part of the run took.

    Attributes:
        stage: Such as ``calibrate`` or ``build for openvino``.
        seconds: That it took in this run.
        kept: When it was made, in ISO 8601, where that was in an earlier run; empty where it was
            made in this one.
        before: Seconds that it took then.
    """

    stage: str
    seconds: float
    kept: str = ""
    before: float = 0.0


@dataclass
class OutputRow:
    """One output of a candidate against the original's, over all samples.

    Attributes:
        output: Its name in the original.
        max_abs: The largest absolute difference.
        mean_abs: The mean absolute difference.
        relative: ``max_abs`` as a fraction of the output's range.
        max_rel: The largest difference relative to the value itself, of values of at least a
            thousandth of their sample's largest.
        mean_rel: The mean of the same.
        cosine: Of the angle between the two.
        sqnr: Signal-to-quantization-noise ratio in dB.
        psnr: Peak signal-to-noise ratio in dB; the peak is the output's range.
        agreement: The fraction of positions whose argmax is the same; None without classes.
        nonfinite: How many values are NaN or infinite on either side.
        least_sqnr: What ``sqnr`` has to be, of a candidate in INT8.
        contrast: How far answers to different samples are apart, over the differences, in dB; None
            where that can't be told.
        overlap: The mean IoU between the class maps of both; None where there are none.
        differing: Of whole numbers, the fraction that differs.
    """

    output: str
    max_abs: float
    mean_abs: float
    relative: float
    max_rel: float
    mean_rel: float
    cosine: float
    sqnr: float
    psnr: float
    agreement: float | None
    nonfinite: int
    least_sqnr: float | None = None
    contrast: float | None = None
    overlap: float | None = None
    differing: float | None = None


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
        confusion: For a metric with classes: how often each labelled class was answered with each,
            and at the end with none of them.
        warnings: What nobody may miss about it, though it passes.
        agreement: How far its answers are the original's, by ``measure``.
        measure: ``mIoU`` between the class maps of both, ``same class`` as a fraction of places, or
            ``SQNR`` in dB; empty for the original.
        curves: Of a metric that has any: precision over recall, and the like.
        direction: Where its metrics are better: ``up`` or ``down``; empty where a function of the
            user's own does not say.
    """

    name: str
    outputs: list[OutputRow]
    metrics: dict[str, float]
    per_class: dict[str, float]
    passed: bool
    verdict: str
    confusion: dict[str, list[int]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    agreement: float | None = None
    measure: str = ""
    curves: list[Curve] = field(default_factory=list)
    direction: str = "up"

    @property
    def agrees(self) -> str:
        """The agreement for people; empty where there is none."""
        if self.agreement is None:
            return ""
        if self.measure == "SQNR":
            return f"{self.agreement:.1f} dB"
        return f"{100 * self.agreement:.2f} % {'mIoU' if self.measure == 'mIoU' else 'top-1'}"


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
        times_ms: Of each of them; empty where only the summary is known.
        first_ms: Milliseconds from opening the file to the first answer; 0 where that is not known.
        busy: How many tasks wanted each of the machine's cores when the timing began.
    """

    name: str
    batch: int
    median_ms: float
    p90_ms: float
    p99_ms: float
    runs: int
    times_ms: list[float] = field(default_factory=list)
    first_ms: float = 0.0
    busy: float = 0.0

    @property
    def images_per_second(self) -> float:
        """Images per second at the median."""
        return self.batch * 1000 / self.median_ms


@dataclass
class LayerRow:
    """One tensor that original and candidate share, looked at on one sample.

    Attributes:
        tensor: Its name in the candidate's ONNX graph.
        origin: The framework's name.
        operator: What makes it.
        precision: ``fp32``, ``fp16``, ``int8`` or ``fp8``: what it is made in.
        relative: The largest difference that its own layer adds, as a fraction of its range.
        sqnr: What its own layer leaves of the signal, in dB.
        arrived: What all layers up to it leave, in dB; None where that was not looked at.
        guilty: Why it is where the two differ first; empty where they do not.
        candidate: Whose it is; empty where that is clear.
        told: Whether the engine said what it runs in, and not the graph alone.
        graph: The precision that stands in the graph, where the engine's is another.
    """

    tensor: str
    origin: str
    operator: str
    precision: str
    relative: float
    sqnr: float
    arrived: float | None
    guilty: str = ""
    candidate: str = ""
    told: bool = False
    graph: str = ""


@dataclass
class LayerTimeRow:
    """What one layer of the network takes in one engine.

    What engines fuse otherwise is one layer here, so that they can be compared: rows with the same
    ``layer`` of several engines are the same nodes.

    Attributes:
        engine: Its name.
        layer: The framework's name, or that of the graph's node where there is none.
        node: The graph's node.
        operator: What it is; several where the engines fused them.
        precision: That the engine computes it in, as its library tells.
        graph: The precision that stands in the graph; empty where that is not known.
        milliseconds: That it takes, with what is moved and converted for it.
        moving: Of these, in reorders and conversions between precisions.
    """

    engine: str
    layer: str
    node: str
    operator: str
    precision: str
    graph: str
    milliseconds: float
    moving: float = 0.0


@dataclass
class LayersTimedRow:
    """What the layers of an engine take together.

    Attributes:
        engine: Its name.
        batch: Images in one inference.
        total: Milliseconds of an inference while nothing is counted.
        layers: Milliseconds in layers.
        lost: Of these, in layers that no node of the graph was found for.
        slow: What keeps it from being faster, in sentences; the costliest first.
    """

    engine: str
    batch: int
    total: float
    layers: float
    lost: float
    slow: list[str] = field(default_factory=list)


@dataclass
class EngineRow:
    """Whether an engine computes what its graph says, and on which processor that was seen.

    Attributes:
        name: Of the engine.
        cpu: That it is for, with the features that its arithmetic depends on; empty on a GPU.
        arithmetic: How that processor computes INT8; empty for engines without it.
        proven: None where the engine was not run when it was built.
        outputs: What was seen of each output, in words.
        forms: What was built in another form than the graph's, and why.
        size: Of its file, in bytes.
        threads: Of the CPU that it was built for; 0 takes all.
        candidate: What it is called where it is validated and timed.
        gpu: Or the other device that it is for; empty on a CPU.
    """

    name: str
    cpu: str
    arithmetic: str
    proven: bool | None
    outputs: list[str] = field(default_factory=list)
    forms: list[str] = field(default_factory=list)
    size: int = 0
    threads: int = 0
    candidate: str = ""
    gpu: str = ""

    @property
    def where(self) -> str:
        """The processor or GPU that it is for."""
        return self.gpu or self.cpu or "a GPU"


@dataclass
class HostRow:
    """Another machine that engines were run on.

    Attributes:
        name: As it was given.
        answered: Whether it did all that was asked of it.
        error: Why it did not, in a sentence.
        processor: With the features that its arithmetic depends on.
        cores: Of it.
        system: That runs there.
        versions: Of onnxgraft, Python and the runtimes.
        busy: How many tasks wanted each core when the work began.
        results: What the results from there are called.
        notes: What is to be said of the engine there.
    """

    name: str
    answered: bool
    error: str = ""
    processor: str = ""
    cores: int = 0
    system: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    busy: float = 0.0
    results: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class RangeRow:
    """The values that one quantized tensor took in calibration, and what each target keeps of them.

    Attributes:
        tensor: Its name in the ONNX graph.
        kept: (low, high) by target.
        minimum: Smallest value seen.
        maximum: Largest value seen.
        counts: Of values in bins of equal width from ``minimum`` to ``maximum``.
        chosen: The method that chose what is kept, and why, by target.
    """

    tensor: str
    kept: dict[str, tuple[float, float]]
    minimum: float
    maximum: float
    counts: list[float]
    chosen: dict[str, str] = field(default_factory=dict)


@dataclass
class BoxRow:
    """A box on a picture.

    Attributes:
        label: Its class.
        score: From 0 to 1; None of a label.
        edges: Left, top, right and bottom, as fractions of the picture.
        matched: Whether it is one of the label's, or of the original's where there is no label; of
            those themselves, whether the candidate has it.
    """

    label: str
    score: float | None
    edges: list[float]
    matched: bool = True


@dataclass
class GalleryRow:
    """One sample whose answers differ, with pictures as data URIs or answers in words.

    Attributes:
        candidate: Whose answer it is.
        sample: Name of the sample.
        apart: The fraction of positions where the answers differ, or of boxes without a partner.
        photograph: Empty where the samples are no images.
        expected: The original's answer; empty of boxes.
        actual: The candidate's answer; likewise.
        difference: Where they differ; empty for answers in words.
        label: The right answer in words, where it is known.
        truth: The right answer as a picture, where it is known.
        score: The first metric, of this sample alone; None where there is none.
        original_score: The same of the original.
        classes: What the sample is found by; those of which most differs first.
        colors: Of a map: the colour of each class in it, such as ``#804080``.
        boxes: Of a detector: of ``truth``, where it is known, ``original`` and ``candidate``.
    """

    candidate: str
    sample: str
    apart: float
    photograph: str
    expected: str
    actual: str
    difference: str
    label: str = ""
    truth: str = ""
    score: float | None = None
    original_score: float | None = None
    classes: list[str] = field(default_factory=list)
    colors: dict[str, str] = field(default_factory=dict)
    boxes: dict[str, list[BoxRow]] = field(default_factory=dict)


@dataclass
class Report:
    """Everything that a run measured and decided.

    Attributes:
        title: Of the model.
        source: Path of the original.
        samples: How many samples were validated on.
        calibrated: How many others were calibrated on; 0 where nothing was.
        data: A sentence on both, where they were parted by the deployment itself.
        assumed: What was assumed of the images, where no preprocessing was given.
        stages: In order.
        engines: What is known of each from when it was built.
        candidates: The original first.
        latency: By engine and batch.
        operators_before: Of the converted graph.
        operators_after: Of the cleaned graph.
        layers: Of each candidate that was looked into.
        layers_from: By candidate, where what is said of its layers is from.
        layer_times: What each layer takes in each engine, those of an engine in the graph's order.
        layers_timed: What they take together.
        ranges: Of the quantized tensors.
        gallery: The samples whose answers differ most, by candidate.
        float_layers: (target, layer, reason) of each layer that stayed in float.
        hosts: Other machines that engines were run on.
        notes: A sentence for each thing that was decided, or could not be measured.
        missed: A sentence for each thing that was asked for beyond tolerances and not reached.
        recipe: Of a deployment: every key, the defaults too.
        recipe_text: The same as TOML, without the defaults: it makes the run again.
        command: The command line; empty where Python called a function.
        hashes: SHA-256 of what was read and written, by what it is.
        seeds: By what they chose.
        machine: On which the run was made.
        artifacts: What was written, by role.
        times: What each part of the run took; they add up to ``seconds``.
        seconds: That the run took, but for writing the report.
    """

    title: str
    source: str
    samples: int = 0
    calibrated: int = 0
    data: str = ""
    assumed: str = ""
    stages: list[StageRow] = field(default_factory=list)
    engines: list[EngineRow] = field(default_factory=list)
    candidates: list[CandidateRow] = field(default_factory=list)
    latency: list[LatencyRow] = field(default_factory=list)
    operators_before: dict[str, int] = field(default_factory=dict)
    operators_after: dict[str, int] = field(default_factory=dict)
    layers: list[LayerRow] = field(default_factory=list)
    layers_from: dict[str, str] = field(default_factory=dict)
    layer_times: list[LayerTimeRow] = field(default_factory=list)
    layers_timed: list[LayersTimedRow] = field(default_factory=list)
    ranges: list[RangeRow] = field(default_factory=list)
    gallery: list[GalleryRow] = field(default_factory=list)
    float_layers: list[tuple[str, str, str]] = field(default_factory=list)
    hosts: list[HostRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    recipe: dict[str, Any] = field(default_factory=dict)
    recipe_text: str = ""
    command: str = ""
    hashes: dict[str, str] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=lambda: machine())
    artifacts: dict[str, str] = field(default_factory=dict)
    times: list[StageTime] = field(default_factory=list)
    seconds: float = 0.0
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    versions: dict[str, str] = field(default_factory=lambda: versions())

    @property
    def warnings(self) -> list[str]:
        """What nobody may miss of the candidates that pass."""
        return [f"{row.name}: {text}" for row in self.candidates for text in row.warnings]

    @property
    def passed(self) -> bool:
        """Whether all is within its tolerance, nothing was missed, and every host answered."""
        return self.held and all(host.answered for host in self.hosts)

    @property
    def held(self) -> bool:
        """Whether every stage and every candidate is within its tolerance, and nothing missed."""
        rows = [row.passed for row in self.stages] + [row.passed for row in self.candidates]
        return all(rows) and not self.missed

    @property
    def exit_status(self) -> int:
        """What a command ends with: 1 where something failed, 4 where only a host is missing."""
        return 0 if self.passed else UNANSWERED if self.held else 1

    def add(self, part: Report) -> None:
        """Take in what a stage noted in a report of its own."""
        for entry in fields(self):
            mine, more = getattr(self, entry.name), getattr(part, entry.name)
            if isinstance(mine, list):
                mine += more
            elif isinstance(mine, dict) and entry.name not in ("versions", "machine"):
                mine |= more

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values; written as JSON, infinities become null."""
        document = asdict(self)
        # Pictures are for people; how far the answers are apart is for everyone.
        for row in document["gallery"]:
            for name in ("photograph", "expected", "actual", "difference", "truth"):
                if row[name].startswith("data:"):
                    row[name] = ""
        return {"passed": self.passed, "warnings": self.warnings, **document}

    def _repr_html_(self) -> str:
        names = list(self.candidates[0].metrics) if self.candidates else []
        tables = [
            section(
                f"{self.title}: {'pass' if self.passed else 'FAIL'}",
                ("candidate", *names, "agreement", "passed", "held against"),
                [
                    (row.name, *(f"{row.metrics.get(name, math.nan):.2f}" for name in names),
                     row.agrees, row.passed if number else "", row.verdict)
                    for number, row in enumerate(self.candidates)
                ],
                [line for line in (self.assumed, self.data) if line],
            ),
            section(
                "Latency", ("engine", "batch", "median ms", "p90", "p99", "images/s"),
                [
                    (row.name, row.batch, f"{row.median_ms:.2f}", f"{row.p90_ms:.2f}",
                     f"{row.p99_ms:.2f}", f"{row.images_per_second:.1f}")
                    for row in self.latency
                ],
            ) if self.latency else "",
        ]  # fmt: skip
        told = [*self.missed, *self.warnings, *self.notes]
        return "".join(tables) + (section("Notes", lines=told) if told else "")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON."""
        write_json(path, self.to_json())


def machine() -> dict[str, str]:
    """Return what this machine is, as far as answers and times depend on it."""
    cpu = this_cpu()
    return {
        "processor": cpu.name,
        "features": ", ".join(sorted(cpu.features)),
        "cores": str(os.cpu_count() or ""),
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Return the versions of what is installed and matters, and of the machine."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    found = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": str(this_cpu()),
    }
    for name in (
        "onnxgraft", "numpy", "onnx", "onnx-graphsurgeon", "onnxruntime", "openvino",
        "polygraphy", "tensorflow", "tensorflow-cpu", "tf2onnx",
    ):  # fmt: skip
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
