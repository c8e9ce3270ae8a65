"""One run of the whole road, every stage verified."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from onnxgraft.commands._bench import BenchTarget, record_latency
from onnxgraft.commands._bench import measure as measure_latency
from onnxgraft.commands._blame import guilty_pass
from onnxgraft.commands._budget import read_budget
from onnxgraft.commands._evidence import evidence, record_accuracy
from onnxgraft.commands._int8 import QuantizeOptions, int8_graph
from onnxgraft.commands._opening import open_reference
from onnxgraft.commands._recipe import Recipe
from onnxgraft.commands._validate import layer_rows, write_report
from onnxgraft.data.ranges import Ranges
from onnxgraft.data.samples import Sample, Samples, open_samples, overlap
from onnxgraft.errors import InputError
from onnxgraft.files import atomic_folder
from onnxgraft.graph.lift import halves
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import (
    Array,
    Outputs,
)
from onnxgraft.progress import status
from onnxgraft.run.answers import answers
from onnxgraft.run.difference import (
    Difference,
)
from onnxgraft.run.engine import (
    Engine,
)
from onnxgraft.run.feeds import fixed_batches
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.run.tolerances import (
    FLOAT_TOLERANCE,
    HALF_TOLERANCE,
)
from onnxgraft.run.verdicts import (
    check_pair,
    other_boxes,
)
from onnxgraft.stages import engine, quantize, surgery
from onnxgraft.stages.convert import Original
from onnxgraft.stages.validate import (
    Candidate,
    bisect,
    check_labels,
    find_divergence,
    make_metric,
    measure,
    read_labels,
    rows,
)
from onnxgraft.stages.validate.report import LatencyRow, Report, StageRow
from onnxgraft.stages.validate.views.gallery import gallery_rows, range_rows
from onnxgraft.targets import find_target

__all__ = ["run_recipe"]

# A stage is compared on so many samples; the engines are validated on all of them afterwards.
STAGE_SAMPLES = 4


def run_recipe(recipe: Recipe, out: Path, *, keep_going: bool = False, workers: int = 1) -> Report:
    """Take a model all the way and write everything into the folder ``out``; see `deploy`."""
    with atomic_folder(out) as work, ExitStack() as stack:
        return _Deployment(recipe, out, work, stack, keep_going, workers).run()


class _Broken(Exception):
    """A stage breaks its tolerance, and nothing after it is made."""


def _reference(original: Original) -> Engine:
    return open_reference(original)[0]


def _graph(path: str) -> Engine:
    return OnnxRuntime(Model.load(path).to_onnx(), name="onnxruntime fp32")


class _Deployment:
    """The state of one run: what was measured so far."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        work: Path,
        stack: ExitStack,
        keep_going: bool,
        workers: int,
    ) -> None:
        self.recipe = recipe
        self.keep_going, self.workers = keep_going, workers
        self.out = out
        self.work = work
        self.stack = stack
        self.report = Report(title=Path(recipe.model).name, source=recipe.model)
        # Engines that run here, and the graphs they were built from.
        self.built: list[tuple[str, tuple[str, Model]]] = []
        self.kept: dict[str, Ranges] = {}

    def run(self) -> Report:
        try:
            self._run()
        except _Broken as broken:
            self.report.notes.append(
                f"stopped after the stage {broken}, which breaks its tolerance; --keep-going goes "
                "on all the same"
            )
        self.stack.close()
        write_report(self.report, self.work, self.out)
        return self.report

    def _run(self) -> None:
        recipe, report = self.recipe, self.report
        opened = recipe.original
        with status(f"loading {recipe.model}"):
            reference, notes = open_reference(opened)
        self.original = self.stack.enter_context(reference)
        self.stands_in = bool(notes)
        report.notes += notes
        section = recipe.validation
        metric = None if section.metric is None else partial(
            make_metric, section.metric, section.classes
        )  # fmt: skip
        if metric is not None:
            metric()  # an unknown name is told before anything runs
        labels = {} if section.labels is None else read_labels(section.labels)
        calibration, validation = self._open_data(labels)
        self.probe = list(validation.head(STAGE_SAMPLES))
        self.expected = [answers(self.original, sample.feeds) for sample in self.probe]

        start = time.perf_counter()
        with status("converting"):
            lowered, notes = opened.lower(recipe.opset, recipe.io_layout)
        report.notes += notes
        nodes = sum(opened.inspect().operators.values())
        opened.forget()
        self.lowered = lowered
        held = HALF_TOLERANCE if halves(lowered) else FLOAT_TOLERANCE
        self._graph_stage("converted", nodes, lowered, held, start)

        start = time.perf_counter()
        with status("cleaning the graph"):
            cleaned, operation = surgery.run(lowered)
        report.operators_before, report.operators_after = operation.before, operation.after
        self._save(cleaned, "model.onnx", "clean graph")
        nodes = len(lowered.graph.nodes)
        reference = self._graph_stage("cleaned", nodes, cleaned, held, start)
        reference.name = "onnxruntime fp32"

        # The graph may have another layout than the original (io_layout).
        fitting = calibration.fed_to(cleaned.inputs)
        ranges = quantize.calibrate(cleaned, fitting, recipe.calibrate.method)
        both = overlap(ranges.samples, validation)
        if both:
            ranges.notes.append(
                f"{len(both)} of {ranges.images} calibration samples are in the validation data "
                f"too, such as {both[0]}"
            )
        report.notes += ranges.notes
        ranges.save(self._path("ranges.json", "ranges"))
        self.evidence = evidence(
            ranges=self.work / "ranges.json", data=recipe.calibrate.data, recipe=recipe.file,
            tables=(recipe.preprocess, recipe.postprocess),
        )  # fmt: skip

        candidates = [Candidate(reference, held)]
        for target in recipe.targets:
            built = self._target(cleaned, ranges, target, fitting, validation)
            if built is not None:
                candidates.append(Candidate(built, None, recipe.validation.drop))

        report.samples = len(validation)
        openers = [
            partial(_reference, recipe.original),
            partial(_graph, os.fspath(self.work / "model.onnx")),
            *(
                partial(engine.load, self.work / f"engine.{target}")
                for target in recipe.targets
                if f"engine.{target}" in {opened for opened, _ in self.built}
            ),
        ]
        tally = measure(
            self.original,
            [candidate.engine for candidate in candidates],
            validation,
            metric,
            section.output,
            labels=labels,
            workers=self.workers,
            openers=openers,
        )
        report.notes += [*validation.notes, *tally.notes()]
        report.candidates = rows(self.original, candidates, tally)
        for (name, _), row in zip(self.built, report.candidates[2:], strict=True):
            record_accuracy(self.work / name, row, report.samples, section.data)
        report.gallery = gallery_rows(tally, report.candidates, validation, section.classes)
        self._look_inside(lowered if self.stands_in else self.original)
        report.ranges = range_rows(ranges, self.kept)
        self.stack.close()  # an open runtime would disturb the timing
        report.latency = self._latency()

    def _open_data(self, labels: Mapping[str, Array]) -> tuple[Samples, Samples]:
        recipe, inputs = self.recipe, self.original.inputs
        calibration = open_samples(
            recipe.calibrate.data, inputs, recipe.preprocess,
            images=recipe.calibrate.images, seed=recipe.calibrate.seed,
        )  # fmt: skip
        validation = open_samples(
            recipe.validation.data, inputs, recipe.preprocess, images=recipe.validation.images
        )
        if recipe.validation.labels is not None:
            check_labels(validation, labels, recipe.validation.labels)
        elif recipe.validation.metric and not validation.labelled:
            raise InputError(
                f"{recipe.validation.data}: the metric {recipe.validation.metric} needs labels, "
                "and there are none"
            )
        return calibration, validation

    def _target(
        self,
        cleaned: Model,
        ranges: Ranges,
        target: str,
        calibration: Samples,
        validation: Samples,
    ) -> Engine | None:
        """Quantize and build for one target; return its engine, or None if it can't run here."""
        start = time.perf_counter()
        section = self.recipe.quantize
        floats = section.float.get(target, "fp32")
        done = int8_graph(
            cleaned, ranges,
            QuantizeOptions(
                table=quantize.placement(target),
                floats=floats,
                keep_float=self.recipe.keep_float,
                improvements=section.improve,
                calibration=calibration,
                budget=None if section.budget is None else read_budget(section.budget),
                validation=validation.fed_to(cleaned.inputs),
                classes=self.recipe.validation.classes,
                metric_output=self.recipe.validation.output,
                trials=section.trials,
            ),
        )  # fmt: skip
        quantized = done.model
        if done.ranges is not None:
            self.kept[target] = done.ranges
        self.report.float_layers += [
            (target, layer.name, layer.reason) for layer in done.report.float_layers
        ]
        self.report.notes += [f"{target}: {note}" for note in done.notes]
        if done.search is not None:
            where = self.report.notes if done.passed else self.report.missed
            where.append(f"{target}: {done.search}")
        self._save(quantized, f"model.int8.{target}.onnx", f"INT8 graph for {target}")
        nodes = len(cleaned.graph.nodes)
        self._graph_stage(f"int8 graph for {target}", nodes, quantized, None, start)
        start = time.perf_counter()
        path = self._path(f"engine.{target}", f"{target} engine")
        with status(f"building for {target}"):
            asked = find_target(target).floats.get(floats) == "engine"
            engine.build(
                quantized, path, target, precision=floats if asked else "int8",
                evidence=self.evidence,
            )  # fmt: skip
        try:
            built = self.stack.enter_context(engine.load(path))
        except InputError as error:
            told = str(error).replace(os.fspath(self.work), os.fspath(self.out))
            self.report.notes.append(f"not validated: {told}")
            return None
        self._stage(f"{target} engine", built, None, start)
        self.built.append((f"engine.{target}", (built.name, quantized)))
        return built

    def _look_inside(self, original: Engine | Model) -> None:
        """Note what each layer of the INT8 graphs that were built does, on one sample."""
        with status("looking into every layer"):
            for _, (name, model) in self.built:
                found = bisect(original, model, self.probe[0].feeds)
                if found is not None:
                    self.report.layers += layer_rows(name, found)
                    self.report.notes += [
                        f"{name}: {divergence}" for divergence in found.divergences[:3]
                    ]

    def _graph_stage(
        self, stage: str, before: int, model: Model, tolerance: float | None, start: float
    ) -> OnnxRuntime:
        session = self.stack.enter_context(OnnxRuntime(model.to_onnx(), name=stage))
        self._stage(stage, session, tolerance, start, before, len(model.graph.nodes))
        if not self.report.stages[-1].passed:
            self._explain(stage, model)
            if not self.keep_going:
                raise _Broken(stage)
        return session

    def _explain(self, stage: str, model: Model) -> None:
        """Note the layer, and for the clean-up the pass, at which a stage parts."""
        feeds = self.probe[0].feeds
        divergence = find_divergence(self.original, model, feeds)
        if divergence is not None:
            self.report.notes.append(f"{stage}: {divergence}")
        if stage == "cleaned":
            guilty = guilty_pass(self.original, self.lowered, feeds)
            if guilty is not None:
                self.report.notes.append(f"{stage}: made in the pass {guilty}")

    def _stage(
        self,
        stage: str,
        candidate: Engine,
        tolerance: float | None,
        start: float,
        before: int | None = None,
        after: int | None = None,
    ) -> None:
        """Hold a stage against the original and note the row; ``start`` is when it began."""
        seconds = time.perf_counter() - start
        worst = _worst(self.probe, self.expected, candidate)
        passed = tolerance is None or (worst.relative <= tolerance and not worst.nonfinite)
        self.report.stages.append(
            StageRow(
                stage, before, after, worst.max_abs, worst.relative, tolerance, passed, seconds
            )
        )

    def _latency(self) -> list[LatencyRow]:
        recipe = self.recipe
        original = BenchTarget(self.original.name, "original", recipe.original)
        graph = Original(os.fspath(self.work / "model.onnx"))
        clean = BenchTarget("onnxruntime fp32", "onnx", graph)
        targets = [clean] if self.stands_in else [original, clean]
        targets += [
            BenchTarget(name, "engine", Original(os.fspath(self.work / file)))
            for file, (name, _) in self.built
        ]
        section = recipe.bench
        fixed = fixed_batches(self.lowered.inputs)
        batches = section.batches
        if fixed and not set(batches) <= set(fixed):
            batches = fixed[:1]
            self.report.notes.append(
                f"timed with a batch of {fixed[0]}, which the model is made for"
            )
        timed = measure_latency(targets, batches=batches, rounds=section.rounds, runs=section.runs)
        record_latency(targets, timed)
        return timed

    def _path(self, name: str, role: str) -> Path:
        self.report.artifacts[role] = os.fspath(self.out / name)
        return self.work / name

    def _save(self, model: Model, name: str, role: str) -> None:
        model.save(self._path(name, role))


def _worst(probe: list[Sample], expected: list[Outputs], candidate: Engine) -> Difference:
    """Return the difference of the float output that is furthest off, relative to its range.

    Where there are only integer outputs they are compared as numbers; other numbers of boxes are
    an infinite difference.
    """
    found: dict[str, Difference] = {}
    for sample, right in zip(probe, expected, strict=True):
        actual = answers(candidate, sample.feeds, right)
        floats = {name for name, value in right.items() if value.dtype.kind == "f"}
        for name in floats or set(right):
            difference = found.setdefault(name, Difference())
            if name in actual and other_boxes(right[name], actual[name]):
                difference.max_abs = math.inf
                continue
            check_pair(name, right[name], actual)
            difference.add(right[name], actual[name])
    return max(found.values(), key=lambda difference: difference.relative)
