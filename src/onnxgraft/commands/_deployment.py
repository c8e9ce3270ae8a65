"""One run of the whole road, every stage verified."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from onnxgraft.commands._assumed import assumed, is_given, of_images
from onnxgraft.commands._bench import BenchTarget, record_latency
from onnxgraft.commands._bench import measure as measure_latency
from onnxgraft.commands._blame import guilty_pass
from onnxgraft.commands._budget import read_budget
from onnxgraft.commands._calibrate import measured
from onnxgraft.commands._evidence import engine_row, evidence, record_accuracy
from onnxgraft.commands._int8 import QuantizeOptions, int8_graph
from onnxgraft.commands._layers import layers_of_engine
from onnxgraft.commands._opening import open_reference
from onnxgraft.commands._recipe import Recipe, check_build, class_names
from onnxgraft.commands._validate import layer_rows, open_selector, write_report
from onnxgraft.data.ranges import Ranges
from onnxgraft.data.samples import Data, Sample, Samples, as_samples
from onnxgraft.data.split import split, without
from onnxgraft.data.streams import is_data
from onnxgraft.errors import InputError
from onnxgraft.files import atomic_folder
from onnxgraft.graph.lift import halves
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Outputs
from onnxgraft.progress import status
from onnxgraft.run.answers import adapted, answers, partners
from onnxgraft.run.depth import depths
from onnxgraft.run.difference import Difference
from onnxgraft.run.engine import Engine
from onnxgraft.run.exact import exact
from onnxgraft.run.feeds import fixed_batches
from onnxgraft.run.saturation import ends, unresolved
from onnxgraft.run.selections import Selector
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.run.tolerances import HALF_TOLERANCE
from onnxgraft.run.verdicts import Verdict, check_pair, hold, other_boxes
from onnxgraft.stages import engine, quantize, surgery
from onnxgraft.stages.convert import Original
from onnxgraft.stages.validate import (
    Candidate,
    Labels,
    Scoring,
    Tolerance,
    bisect,
    check_labels,
    find_divergence,
    fit_metric,
    make_metric,
    measure,
    measured_tolerance,
    read_labels,
    rows,
)
from onnxgraft.stages.validate.report import LatencyRow, Report, StageRow
from onnxgraft.stages.validate.views.gallery import gallery_rows, range_rows
from onnxgraft.targets import Floats, Precision, find_target

__all__ = ["run_recipe", "slower"]

T = TypeVar("T")

# A stage is compared on so many samples; the engines are validated on all of them afterwards.
STAGE_SAMPLES = 4
# Float noise is measured on so many samples.
NOISE_SAMPLES = 2
# An engine that is slower than the float graph by more than noise is told.
_SLOWER = 1.05
# In the names of engines that are to be faster, or smaller.
_INTEGERS = ("int8", "int4")


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


def slower(latency: Sequence[LatencyRow], reference: str) -> list[str]:
    """Return a sentence for each engine that is slower than the float graph.

    Args:
        latency: Of all that was timed, by name and batch.
        reference: The name of the float graph.
    """
    floats = {row.batch: row.median_ms for row in latency if row.name == reference}
    return [
        f"{row.name} is slower here than {reference}: {row.median_ms:.2f} ms against "
        f"{floats[row.batch]:.2f} for a batch of {row.batch}"
        for row in latency
        if any(kind in row.name for kind in _INTEGERS)
        and row.median_ms > _SLOWER * floats.get(row.batch, math.inf)
    ]


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
        self.engines: dict[str, Engine] = {}
        self.kept: dict[str, Ranges] = {}
        self.lowered: Model | None = None

    def run(self) -> Report:
        try:
            self._run()
        except _Broken as broken:
            self.report.notes.append(
                f"stopped after the stage {broken}, which exceeds its tolerance; --keep-going "
                "continues"
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
        if section.metric is not None:
            make_metric(section.metric, section.classes)  # an unknown name is told first
        names = self.names = class_names(section.classes, recipe.postprocess)
        labels = Labels() if section.labels is None else read_labels(section.labels, names)
        report.notes += labels.notes
        self.labels = labels
        early = self._assume(opened)
        recipe = self.recipe
        calibration, validation = self._open_data(labels)
        self.probe = list(validation.head(STAGE_SAMPLES))
        self.expected = [answers(self.original, sample.feeds) for sample in self.probe]
        scoring = self._scoring(validation)
        with status("measuring float noise"), self._otherwise() as other:
            self.tolerance = measured_tolerance(
                self.original, self.probe[:NOISE_SAMPLES], other=other
            )

        start = time.perf_counter()
        lowered, notes, before = early or self._lower(opened)
        start -= before if early else 0.0
        report.notes += notes
        nodes = sum(opened.inspect().operators.values())
        opened.forget()
        self.lowered = lowered
        if halves(lowered):
            value = max(self.tolerance.value, HALF_TOLERANCE)
            self.tolerance = replace(self.tolerance, value=value)
        self._graph_stage("converted", nodes, lowered, self.tolerance, start)

        start = time.perf_counter()
        with status("cleaning the graph"):
            cleaned, operation = surgery.run(lowered)
        report.operators_before, report.operators_after = operation.before, operation.after
        self._save(cleaned, "model.onnx", "clean graph")
        nodes = sum(lowered.operators().values())
        reference = self._graph_stage("cleaned", nodes, cleaned, self.tolerance, start)
        reference.name = "onnxruntime fp32"

        check_build(recipe, cleaned)
        # The graph may have another layout than the original (io_layout).
        fitting = calibration.fed_to(cleaned.inputs)
        ranges = None
        if recipe.quantize.weights is None:
            ranges = self._ranges(cleaned, fitting)
            report.notes += [*ranges.notes, *filter(None, (ranges.choice, ranges.advice))]
            ranges.save(self._path("ranges.json", "ranges"))
        self.evidence = evidence(
            ranges=None if ranges is None else self.work / "ranges.json",
            data=self.calibrated_on, recipe=recipe.file,
            tables=(recipe.preprocess, recipe.postprocess),
        )  # fmt: skip

        limits = self._named(ends(cleaned), cleaned)
        candidates = [
            Candidate(reference, self.tolerance.value, floors=self.tolerance.floors, ends=limits)
        ]
        for target in recipe.targets:
            built = self._target(cleaned, ranges, target, fitting, validation)
            if built is not None:
                candidates.append(replace(self._held_to(target, built), ends=limits))

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
            None if scoring is None else scoring.make,
            section.output if scoring is None else scoring.output,
            labels=labels,
            workers=self.workers,
            openers=openers,
            selector=partial(Selector, lowered)
            if self.workers == 1
            else partial(open_selector, opened),
        )
        report.notes += [*validation.notes, *tally.notes()]
        report.candidates = rows(self.original, candidates, tally)
        for (name, _), row in zip(self.built, report.candidates[2:], strict=True):
            record_accuracy(self.work / name, row, report.samples, self.judged_on, section.metric)
        report.gallery = gallery_rows(tally, report.candidates, validation, section.classes)
        inside = self.stands_in or opened.framework == "onnx"
        self._look_inside(lowered if inside else self.original)
        report.ranges = [] if ranges is None else range_rows(ranges, self.kept)
        self.stack.close()  # an open runtime would disturb the timing
        report.latency = self._latency()
        report.notes += slower(report.latency, reference.name)

    def _lower(self, opened: Original) -> tuple[Model, list[str], float]:
        """Return the converted graph, what was decided, and the seconds that it took."""
        start = time.perf_counter()
        with status("converting"):
            lowered, notes = opened.lower(
                self.recipe.opset, self.recipe.io_layout, oldest=quantize.OLDEST_OPSET
            )
        return lowered, notes, time.perf_counter() - start

    def _assume(self, opened: Original) -> tuple[Model, list[str], float] | None:
        """Take what the model tells of its images, where the recipe says nothing of them.

        Returns:
            The conversion, where it had to be made for that.
        """
        recipe = self.recipe
        sources = (recipe.calibrate.source, recipe.validation.source)
        images = [source for source in sources if source is not None and of_images(source)]
        if is_given(recipe.preprocess) or not images:
            return None
        early = self._lower(opened)
        before, self.report.assumed = assumed(
            None, images[0], early[0].metadata, self.original.inputs
        )
        self.recipe = recipe.model_copy(update={"preprocess": before})
        return early

    def _scoring(self, validation: Samples) -> Scoring | None:
        """Return the metric, tried on the first sample; that of the budget is tried as well."""
        recipe, section = self.recipe, self.recipe.validation
        fit = partial(
            fit_metric, samples=validation, first=self.probe[0], outputs=self.expected[0],
            classes=section.classes, output=section.output, how=recipe.postprocess,
            labels=self.labels,
        )  # fmt: skip
        budget = None if recipe.quantize.budget is None else read_budget(recipe.quantize.budget)
        if budget is not None and budget.needs_labels:
            fit(budget.metric)
        if section.metric is None:
            return None
        scoring = fit(section.metric)
        self.report.notes += scoring.notes
        return scoring

    def _open_data(self, labels: Labels) -> tuple[Samples, Samples]:
        """Return samples to calibrate on, and others to validate on."""
        recipe, inputs = self.recipe, self.original.inputs
        first, second = recipe.calibrate, recipe.validation
        open_ = partial(as_samples, inputs=inputs, preprocess=recipe.preprocess, names=self.names)
        if second.data is None or _same(first.source, second.source):
            # Of what never ends no more is read than what both take of it.
            most = None if None in (first.images, second.images) else 4 * max(
                first.images or 0, second.images or 0
            )  # fmt: skip
            everything = open_(first.source, images=most if is_data(first.source) else None)
            calibration, validation = split(
                everything, first.seed, calibrate=first.images, validate=second.images
            )
            named = "no validation data were named" if second.data is None else "both are one"
            self.report.data = (
                f"calibrated on {len(calibration)} samples of {first.data}, validated on "
                f"{len(validation)} others of it ({named}, so they were split)"
            )
        else:
            calibration = open_(first.source, images=first.images, seed=first.seed)
            found = open_(second.source, images=second.images)
            validation = without(found, calibration)
            if len(validation) < len(found):
                self.report.data = (
                    f"validated on {len(validation)} of {len(found)} samples of {second.data}: the "
                    "others were calibrated on"
                )
        self.report.calibrated = len(calibration)
        given = first.source if second.source is None else second.source
        self.judged_on = validation if is_data(given) else os.fspath(given)
        self.calibrated_on = calibration if is_data(first.source) else first.data
        source = second.data or first.data
        if second.labels is not None:
            check_labels(validation, labels, second.labels)
        elif second.metric and not validation.labelled:
            raise InputError(
                f"{source}: the metric {second.metric} needs labels, and there are none"
            )
        return calibration, validation

    def _target(
        self,
        cleaned: Model,
        ranges: Ranges | None,
        target: str,
        calibration: Samples,
        validation: Samples,
    ) -> Engine | None:
        """Quantize and build for one target; return its engine, or None if it can't run here."""
        start = time.perf_counter()
        section, how = self.recipe.quantize, self.recipe.build
        precision, in_int8, cpu = how.precision_of(target), how.in_int8(target), how.cpu_of(target)
        floats = self._floats(target)
        done = int8_graph(
            cleaned, ranges,
            QuantizeOptions(
                table=quantize.placement(target, cpu),
                int8=in_int8,
                floats=floats,
                cpu=cpu,
                keep_float=self.recipe.keep_float,
                weights=section.weights,
                block=section.block,
                improvements=section.improve if in_int8 and section.weights is None else (),
                calibration=calibration,
                budget=read_budget(section.budget) if section.budget and in_int8 else None,
                validation=validation.fed_to(cleaned.inputs),
                classes=self.recipe.validation.classes,
                postprocess=self.recipe.postprocess,
                labels=self.labels,
                metric_output=self.recipe.validation.output,
                trials=section.trials,
            ),
        )  # fmt: skip
        quantized = done.model
        if done.ranges is not None:
            self.kept[target] = done.ranges
        self.report.float_layers += [
            (target, layer.name, str(layer)) for layer in done.report.float_layers
        ]
        self.report.notes += [f"{target}: {note}" for note in done.notes]
        if done.search is not None:
            where = self.report.notes if done.passed else self.report.missed
            where.append(f"{target}: {done.search}")
        kind = section.weights or precision
        self._save(quantized, f"model.{kind}.{target}.onnx", f"{kind.upper()} graph for {target}")
        nodes = sum(cleaned.operators().values())
        self._graph_stage(f"{kind} graph for {target}", nodes, quantized, None, start)
        start = time.perf_counter()
        path = self._path(f"engine.{target}", f"{target} engine")
        with status(f"building for {target}"):
            asked = find_target(target).floats.get(floats) == "engine"
            whole: Precision | None = precision if section.weights is None else None
            passport = engine.build(
                quantized, path, target, precision=floats if asked else whole,
                options=how.options(target), evidence=self.evidence,
                samples=(sample.feeds for sample in calibration), cpu=cpu,
            )  # fmt: skip
        if passport.proven is False:
            self.report.missed.append(f"{target}: the engine does not compute what its graph says")
        self.report.engines.append(engine_row(f"{target} engine", passport))
        try:
            built = self.stack.enter_context(engine.load(path))
        except InputError as error:
            told = str(error).replace(os.fspath(self.work), os.fspath(self.out))
            self.report.notes.append(f"not validated: {told}")
            return None
        self._stage(f"{target} engine", built, None, start)
        self.built.append((f"engine.{target}", (built.name, quantized)))
        self.engines[built.name] = built
        return built

    def _ranges(self, cleaned: Model, calibration: Samples) -> Ranges:
        """Return the ranges; of a recipe without INT8, what FP16 has to hold."""
        recipe = self.recipe
        method, in_int8 = recipe.calibrate.method, [*filter(recipe.build.in_int8, recipe.targets)]
        if method == quantize.AUTO and not in_int8 and recipe.targets:
            method = "minmax"
        half = any(find_target(t).floats.get(self._floats(t)) == "graph" for t in recipe.targets)
        form = next(iter(in_int8 or recipe.targets), "tensorrt")
        return measured(cleaned, calibration, method, form, tensors="all" if half else "targets")

    def _held_to(self, target: str, built: Engine) -> Candidate:
        """Return an engine with what it is held against: INT8, or the noise of its precision."""
        if self.recipe.build.in_int8(target):
            graph = dict(self.built)[f"engine.{target}"][1]
            deep = self._named(depths(graph), graph)
            return Candidate(built, None, self.recipe.validation.drop, depths=deep)
        probe, floats = self.probe[:NOISE_SAMPLES], self._floats(target)
        found = measured_tolerance(self.original, probe, floats)
        return Candidate(built, found.value, floors=found.floors)

    def _floats(self, target: str) -> Floats:
        """Return what a target's layers that are not INT8 run in."""
        precision = self.recipe.build.precision_of(target)
        return self.recipe.quantize.float.get(target, "fp32") if precision == "int8" else precision

    def _look_inside(self, original: Engine | Model) -> None:
        """Note what each layer of the INT8 graphs that were built does, on one sample."""
        with status("comparing every layer"):
            for _, (name, model) in self.built:
                found = bisect(original, model, self.probe[0].feeds)
                if found is not None:
                    layers, self.report.layers_from[name], apart = layers_of_engine(
                        layer_rows(name, found), model, self.engines[name], self.probe[0].feeds,
                        self.expected[0],
                    )  # fmt: skip
                    self.report.layers += layers
                    self.report.notes += apart
                    self.report.notes += [
                        f"{name}: {divergence}" for divergence in found.divergences[:3]
                    ]

    def _otherwise(self) -> AbstractContextManager[Engine | None]:
        """Return the original as its runtime optimizes it otherwise, where it can be asked to."""
        opened = self.recipe.original
        if self.stands_in or opened.framework != "onnx":
            return nullcontext()
        return opened.run(optimize=False)

    def _named(self, found: Mapping[str, T], model: Model) -> dict[str, T]:
        """Return what is known of a graph's outputs under the original's names."""
        wanted = [spec.name for spec in self.original.outputs]
        names = partners(wanted, [spec.name for spec in model.outputs])
        return {mine: found[theirs] for mine, theirs in names.items() if theirs in found}

    def _graph_stage(
        self, stage: str, before: int, model: Model, tolerance: Tolerance | None, start: float
    ) -> OnnxRuntime:
        session = self.stack.enter_context(exact(model, name=stage))
        self._stage(stage, session, tolerance, start, before, sum(model.operators().values()))
        if not self.report.stages[-1].passed:
            self._explain(stage, model)
            if not self.keep_going:
                raise _Broken(stage)
        return session

    def _explain(self, stage: str, model: Model) -> None:
        """Note the layer, and for the clean-up the pass, at which a stage begins to differ."""
        feeds = self.probe[0].feeds
        divergence = find_divergence(self.original, model, feeds)
        if divergence is not None:
            self.report.notes.append(f"{stage}: first {divergence}")
        if stage == "cleaned" and self.lowered is not None:
            guilty = guilty_pass(self.original, self.lowered, feeds)
            if guilty is not None:
                self.report.notes.append(f"{stage}: caused by the pass {guilty}")

    def _stage(
        self,
        stage: str,
        candidate: Engine,
        tolerance: Tolerance | None,
        start: float,
        before: int | None = None,
        after: int | None = None,
    ) -> None:
        """Hold a stage against the original and note the row; ``start`` is when it began."""
        seconds = time.perf_counter() - start
        worst = _worst(self.probe, self.expected, candidate)
        allowed, passed = None, True
        if tolerance is not None:
            allowed, passed = tolerance.value, self._held(candidate, tolerance)
        self.report.stages.append(
            StageRow(stage, before, after, worst.max_abs, worst.relative, allowed, passed, seconds)
        )

    def _held(self, candidate: Engine, tolerance: Tolerance) -> bool:
        """Tell whether a stage gives the original's answers on the samples that stages see."""
        verdicts: list[Verdict] = []
        graph = self.lowered
        limits = {} if graph is None else self._named(ends(graph), graph)
        with nullcontext() if graph is None else Selector(graph) as selector:
            for sample, right in zip(self.probe, self.expected, strict=True):
                resolved = unresolved(right, limits)
                floors = {n: max(v, tolerance.floors.get(n, 0.0)) for n, v in resolved.items()}
                actual = answers(candidate, sample.feeds, right)
                found = hold(right, actual, tolerance.value, floors=floors)
                if selector is not None and not all(verdict.passed for verdict in found):
                    chosen = selector.at(adapted(sample.feeds, self.original), right)
                    found = hold(right, actual, tolerance.value, floors=floors, chosen=chosen)
                verdicts += found
        return all(verdict.passed for verdict in verdicts)

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
        fixed = () if self.lowered is None else fixed_batches(self.lowered.inputs)
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


def _same(one: Data, other: Data) -> bool:
    """Tell whether two paths are one place, or data of Python one object."""
    if is_data(one) or is_data(other):
        return one is other
    return Path(one).resolve() == Path(other).resolve()


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
            if name in actual and (
                other_boxes(right[name], actual[name])
                or (not floats and right[name].shape != actual[name].shape)
            ):
                difference.max_abs = math.inf
                continue
            check_pair(name, right[name], actual)
            difference.add(right[name], actual[name])
    return max(found.values(), key=lambda difference: difference.relative)
