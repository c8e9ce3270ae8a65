"""One run of the whole road, every stage verified."""

from __future__ import annotations

import math
import os
import platform
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from onnxgraft.commands._assumed import assumed, is_given, of_images
from onnxgraft.commands._bench import BenchTarget, Counted, record_latency
from onnxgraft.commands._bench import measure as measure_latency
from onnxgraft.commands._blame import guilty_pass
from onnxgraft.commands._budget import read_budget
from onnxgraft.commands._calibrate import measured
from onnxgraft.commands._evidence import (
    engine_row,
    evidence,
    hash_of_data,
    record_accuracy,
    work_of,
)
from onnxgraft.commands._graphs import Aimed, Cleaning, Measured, layers_at, walk
from onnxgraft.commands._int8 import QuantizeOptions, int8_graph
from onnxgraft.commands._layer_times import Timed, layer_times
from onnxgraft.commands._layers import layers_of_engine
from onnxgraft.commands._opening import open_reference
from onnxgraft.commands._provenance import file_hashes, recipe_text
from onnxgraft.commands._reads import (
    file_reads,
    function_reads,
    model_files,
    model_reads,
    sample_reads,
)
from onnxgraft.commands._recipe import Recipe, check_build, class_names
from onnxgraft.commands._runs import written_by
from onnxgraft.commands._stages import (
    HIDDEN,
    Made,
    Stages,
    kept_folder,
    read_outputs,
    write_outputs,
)
from onnxgraft.commands._validate import layer_rows, open_selector, write_report
from onnxgraft.data.ranges import Ranges
from onnxgraft.data.samples import Data, Sample, Samples, as_samples
from onnxgraft.data.split import split, without
from onnxgraft.data.streams import is_data
from onnxgraft.errors import InputError
from onnxgraft.files import Kept, atomic_folder, read_json, sha256, write_json
from onnxgraft.graph.lift import halves
from onnxgraft.graph.model import Model
from onnxgraft.graph.quantized import is_quantized
from onnxgraft.graph.tensors import Outputs, TensorSpec
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
from onnxgraft.stages.engine.devices import devices_here
from onnxgraft.stages.engine.passport import record
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
from onnxgraft.stages.validate.views.graph import Drawn
from onnxgraft.targets import Floats, find_target
from onnxgraft.words import several

__all__ = ["run_recipe", "slower"]

T = TypeVar("T")

# A stage is compared on so many samples; the engines are validated on all of them afterwards.
STAGE_SAMPLES = 4
# Float noise is measured on so many samples.
NOISE_SAMPLES = 2
# The clean graph in onnxruntime.
_CLEAN = "onnxruntime fp32"
# What stages keep for later ones.
_FACTS, _ANSWERS = f"{HIDDEN}facts.json", f"{HIDDEN}answers.npz"
_RANGES = f"{HIDDEN}ranges.json"
_CLEANING, _GRAPHS = f"{HIDDEN}cleaning.json", f"{HIDDEN}graphs.json"
_SIDES = ("inputs", "outputs")
# An engine that is slower than the float graph by more than noise is told.
_SLOWER = 1.05
# In the names of engines that are to be faster, or smaller.
_INTEGERS = ("int8", "int4", "fp8")
# The engines and the graphs for them, whatever they are for.
_RESULT = re.compile(r"engine\.[a-z]+|model\.\w+\.[a-z]+\.onnx")


def run_recipe(
    recipe: Recipe,
    out: Path,
    *,
    keep_going: bool = False,
    workers: int = 1,
    begin: str | None = None,
    fresh: bool = False,
) -> Report:
    """Take a model all the way and write everything into the folder ``out``; see `deploy`."""
    with atomic_folder(out) as work, ExitStack() as stack:
        told = recipe.model_dump(mode="json", by_alias=True)
        report = Report(
            title=Path(recipe.model).name, source=recipe.model, recipe=told,
            recipe_text=recipe_text(recipe),
        )  # fmt: skip
        stages = Stages(Kept(kept_folder(out)), report, begin, fresh)
        return _Deployment(recipe, out, work, stack, stages, keep_going, workers).run()


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


@dataclass(frozen=True)
class _Facts:
    """What is known of the original where it does not run."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    stands_in: bool


class _Deployment:
    """The state of one run: what was measured so far.

    What a stage made is in its folder and in the report; models, engines and the original are
    opened when a stage that is not taken over asks for them.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        work: Path,
        stack: ExitStack,
        stages: Stages,
        keep_going: bool,
        workers: int,
    ) -> None:
        self.recipe, self.opened = recipe, recipe.original
        self.keep_going, self.workers = keep_going, workers
        self.out = out
        self.work = work
        self.stack = stack
        self.stages, self.report = stages, stages.report
        # Targets whose engines run here, and the engines' names.
        self.built: dict[str, str] = {}
        self.engines: dict[str, Engine] = {}

    def run(self) -> Report:
        whole = True
        try:
            self._run()
        except _Broken as broken:
            whole = False
            self.report.notes.append(
                f"stopped after the stage {broken}, which exceeds its tolerance; --keep-going "
                "continues"
            )
        self.stack.close()
        with self.stages.stage("graphs"):
            graphs = self._graphs()
        self.stages.end(whole=whole)
        self._note_earlier()
        self._note_hashes()
        write_report(self.report, self.work, self.out, graphs)
        return self.report

    def _note_earlier(self) -> None:
        """Tell of engines and graphs that an earlier run left among the results."""
        mine = written_by({"artifacts": self.report.artifacts})
        earlier = [
            file.name
            for file in (sorted(self.out.iterdir()) if self.out.is_dir() else ())
            if _RESULT.fullmatch(file.name) and not mine(file)
        ]
        if earlier:
            self.report.notes.append(
                f"{self.out} has {', '.join(earlier)} of an earlier run, which this one did not "
                "make"
            )

    def _note_hashes(self) -> None:
        """Note the hashes of what was read and of what was written."""
        recipe, report = self.recipe, self.report
        for name, digest in model_files(self.opened) or ():
            report.hashes[name] = digest
        report.hashes["calibration data"] = hash_of_data(self.calibrated_on)
        report.hashes["validation data"] = self._judged_on
        labels = recipe.validation.labels
        if labels is not None and os.path.isdir(labels):
            report.hashes["labels"] = hash_of_data(labels)
        written = {role: self.work / Path(path).name for role, path in report.artifacts.items()}
        report.hashes |= file_hashes({"recipe": recipe.file, "labels": labels, **written})
        report.seeds["samples of [calibrate]"] = recipe.calibrate.seed
        report.seeds["positions in samples"] = QuantizeOptions.seed

    def _run(self) -> None:
        recipe, report, stage = self.recipe, self.report, self.stages.stage
        section = recipe.validation
        if section.metric is not None:
            make_metric(section.metric, section.classes)  # an unknown name is told first
        with stage("original"):
            self._open()
        names = self.names = class_names(section.classes, recipe.postprocess)
        labels = Labels() if section.labels is None else read_labels(section.labels, names)
        report.notes += labels.notes
        self.labels = labels
        self._assume()
        with stage("data"):
            self.calibration, self.validation = self._open_data(labels)
            self.probe = list(self.validation.head(STAGE_SAMPLES))
            function = function_reads(self.calibration.preprocess.function)
            whole = partial(self.validation.fingerprint, labelled=True)
            self.data = {
                "calibration": [
                    self.stages.watch("calibration data", self.calibration.fingerprint),
                    function,
                ],
                "validation": [
                    self.stages.watch("validation data", whole),
                    function,
                    labels.fingerprint,
                ],
                "probe": sample_reads(self.validation.head(STAGE_SAMPLES)),
            }
        with stage("original", ", run on samples"):
            self._refer()
            self.scoring = self._scoring(self.validation)
            self._tolerate()
        self._convert()
        with stage("convert", ", compared with the original"):
            self._compare("convert", "converted", "converted.onnx", self.facts_of_graph["nodes"])
        self.opened.forget()
        with stage("surgery"):
            self._clean()
        check_build(recipe, self.stages.graph("model.onnx"))
        if self._is_quantized:
            report.notes.append(
                "the model is quantized already: its own scales are taken, nothing is calibrated"
            )
        if self._calibrates:
            with stage("calibrate"):
                self._calibrate()
        for target in recipe.targets:
            with stage(f"quantize for {target}"):
                self._quantize(target)
            with stage(f"build for {target}"):
                self._build(target)
        report.samples = len(self.validation)
        with stage("validate"):
            self._validate()
        with stage("layers"):
            self._look_inside()
            if self._calibrates:
                report.ranges = range_rows(self._ranges, self._kept_ranges())
        self.stack.close()  # an open runtime would disturb the timing
        with stage("bench"):
            self._latency()
        report.notes += slower(report.latency, _CLEAN)

    # The original and the data --------------------------------------------------------------

    @cached_property
    def original(self) -> Engine:
        """The original, or what stands in for it, running."""
        with status(f"loading {self.recipe.model}"):
            reference, self._told = open_reference(self.opened)
        return self.stack.enter_context(reference)

    def _open(self) -> None:
        """Find out what the original takes and returns."""

        def make(folder: Path, part: Report) -> None:
            running = self.original
            part.notes += self._told
            sides = {side: list(map(asdict, getattr(running, side))) for side in _SIDES}
            write_json(folder / _FACTS, {"name": running.name, **sides})

        self.stages.watch("model", partial(model_files, self.opened))
        made = self.stages.made(
            "original", "facts", model_reads(self.opened), make, files=("model",)
        )
        told = read_json(made.folder / _FACTS)
        inputs, outputs = (
            tuple(TensorSpec(s["name"], s["dtype"], tuple(s["shape"])) for s in told[side])
            for side in _SIDES
        )
        self.facts = _Facts(told["name"], inputs, outputs, stands_in=bool(made.part.notes))

    def _refer(self) -> None:
        """Find out what the original answers."""

        def make(folder: Path, part: Report) -> None:
            found = [answers(self.original, sample.feeds) for sample in self.probe]
            write_outputs(folder / _ANSWERS, found)

        made = self.stages.made(
            "original", "answers", self.stages.of("facts", probe=self.data["probe"]), make
        )
        self.expected = read_outputs(made.folder / _ANSWERS)

    def _tolerate(self) -> None:
        """Find out how far the original is from itself."""

        def make(folder: Path, part: Report) -> None:
            with status("measuring float noise"), self._otherwise() as other:
                found = measured_tolerance(self.original, self.probe[:NOISE_SAMPLES], other=other)
            write_json(folder / _FACTS, asdict(found))

        made = self.stages.made("original", "noise", self.stages.of("answers"), make)
        self.tolerance = Tolerance(**read_json(made.folder / _FACTS))

    def _assume(self) -> None:
        """Take what the model tells of its images, where the recipe says nothing of them."""
        recipe = self.recipe
        sources = (recipe.calibrate.source, recipe.validation.source)
        images = [source for source in sources if source is not None and of_images(source)]
        if is_given(recipe.preprocess) or not images:
            return
        self._convert()
        metadata = self.stages.graph("converted.onnx").metadata
        before, self.report.assumed = assumed(None, images[0], metadata, self.facts.inputs)
        self.recipe = recipe.model_copy(update={"preprocess": before})

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
        recipe, inputs = self.recipe, self.facts.inputs
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
                f"calibrated on {several(len(calibration), 'sample')} of {first.data}, validated "
                f"on {several(len(validation), 'other')} of it ({named}, so they were split)"
            )
        else:
            calibration = open_(first.source, images=first.images, seed=first.seed)
            found = open_(second.source, images=second.images)
            validation = without(found, calibration)
            if len(validation) < len(found):
                self.report.data = (
                    f"validated on {len(validation)} of {several(len(found), 'sample')} of "
                    f"{second.data}: the others were calibrated on"
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

    # The stages -----------------------------------------------------------------------------

    def _convert(self) -> None:
        if "converted.onnx" in self.stages.keys:
            return

        def make(folder: Path, part: Report) -> None:
            with status("converting"):
                lowered, notes = self.opened.lower(
                    self.recipe.opset, self.recipe.io_layout, oldest=quantize.OLDEST_OPSET
                )
            part.notes += notes
            self.stages.save(lowered, folder / "converted.onnx")
            write_json(folder / _FACTS, {
                "nodes": sum(self.opened.inspect().operators.values()),
                "half": bool(halves(lowered)),
                "batches": fixed_batches(lowered.inputs),
            })  # fmt: skip

        with self.stages.stage("convert"):
            recipe = self.recipe
            reads = self.stages.of("facts", recipe=[recipe.opset, recipe.io_layout])
            made = self.stages.made("convert", "graph", reads, make, "converted.onnx", ("model",))
        self.facts_of_graph = read_json(made.folder / _FACTS)

    def _clean(self) -> None:
        def make(folder: Path, part: Report) -> None:
            with status("cleaning the graph"):
                cleaned, operation = surgery.run(self.stages.graph("converted.onnx"))
            part.operators_before, part.operators_after = operation.before, operation.after
            Cleaning.of(operation).save(folder / _CLEANING)
            self.stages.save(cleaned, folder / "model.onnx")

        made = self.stages.made(
            "surgery", "graph", self.stages.of("converted.onnx"), make, "model.onnx"
        )
        self._publish(made, {"model.onnx": "clean graph"})
        nodes = sum(made.part.operators_before.values())
        self._compare("surgery", "cleaned", "model.onnx", nodes)

    def _calibrate(self) -> None:
        recipe, targets = self.recipe, self.recipe.targets
        method, quantized = recipe.calibrate.method, [*filter(recipe.build.quantizes, targets)]
        if method == quantize.AUTO and targets and not quantized:
            method = "minmax"  # for what FP16 has to hold alone
        half = any(find_target(t).floats.get(self._floats(t)) == "graph" for t in targets)
        tensors = "all" if half else "targets"
        first = next(iter(quantized), "tensorrt") if method == quantize.AUTO else "tensorrt"
        form = quantize.placement(first, kind=recipe.build.format_of(first) or "int8")

        def make(folder: Path, part: Report) -> None:
            ranges = measured(
                self.stages.graph("model.onnx"), self._fitting, method, form, tensors=tensors
            )
            part.notes += [*ranges.notes, *filter(None, (ranges.choice, ranges.advice))]
            ranges.save(folder / "ranges.json")

        reads = self.stages.of(
            "model.onnx", data=self.data["calibration"], method=method, form=form.name,
            tensors=tensors,
        )  # fmt: skip
        made = self.stages.made(
            "calibrate", "ranges", reads, make, "ranges.json", ("calibration data",)
        )
        self._publish(made, {"ranges.json": "ranges"})

    @cached_property
    def _is_quantized(self) -> bool:
        """Whether the model has ranges of its own, by which each target's graph is made."""
        return self.recipe.quantize.weights is None and is_quantized(
            self.stages.graph("model.onnx")
        )

    @property
    def _calibrates(self) -> bool:
        """Whether ranges are measured."""
        return self.recipe.quantize.weights is None and not self._is_quantized

    @cached_property
    def _ranges(self) -> Ranges:
        return Ranges.load(self.stages.folders["ranges.json"] / "ranges.json", histograms=True)

    @cached_property
    def _fitting(self) -> Samples:
        # The graph may have another layout than the original (io_layout).
        return self.calibration.fed_to(self.stages.graph("model.onnx").inputs)

    def _quantize(self, target: str) -> None:
        recipe, section, how = self.recipe, self.recipe.quantize, self.recipe.build
        quantizes, cpu = how.quantizes(target), how.cpu_of(target)
        floats, kind, place = self._floats(target), self._kind(target), how.options(target).place
        table = quantize.placement(target, cpu, how.format_of(target) or "int8")
        budget = read_budget(section.budget) if section.budget and quantizes else None
        improve = section.improve if quantizes and self._calibrates else ()
        graph = self._integers(target)

        def make(folder: Path, part: Report) -> None:
            cleaned, ranges = self.stages.graph("model.onnx"), None
            given = quantize.retarget(cleaned, table) if self._is_quantized else None
            if given is not None:
                cleaned, ranges = given.model, given.ranges
                part.notes += [f"{target}: {note}" for note in given.notes]
            elif self._calibrates:
                ranges = self._ranges
            done = int8_graph(
                cleaned, ranges,
                QuantizeOptions(
                    table=table,
                    given=given,
                    int8=quantizes,
                    floats=floats,
                    cpu=cpu,
                    place=place,
                    keep_float=recipe.keep_float,
                    weights=section.weights,
                    block=section.block,
                    improvements=improve,
                    calibration=self._fitting,
                    budget=budget,
                    validation=self.validation.fed_to(cleaned.inputs),
                    classes=recipe.validation.classes,
                    postprocess=recipe.postprocess,
                    labels=self.labels,
                    metric_output=recipe.validation.output,
                    trials=section.trials,
                    state=self.stages.kept.folder / f"{target}.search",
                    fresh=self.stages.again("quantize"),
                ),
            )  # fmt: skip
            part.float_layers += [
                (target, layer.name, str(layer)) for layer in done.report.float_layers
            ]
            part.notes += [f"{target}: {note}" for note in done.notes]
            if done.search is not None:
                where = part.notes if done.passed else part.missed
                where.append(f"{target}: {done.search}")
            if done.ranges is not None:
                done.ranges.save(folder / _RANGES)
            self.stages.save(done.model, folder / graph)

        reads = self.stages.of(
            "model.onnx", *(("ranges.json",) if self._calibrates else ()),
            weights=[section.weights, section.block], target=target, cpu=cpu.to_json(),
            floats=floats, table=quantize.placement_text(table), keep_float=recipe.keep_float,
            int8=quantizes, improve=improve, data=self.data["calibration"],
            budget=None if budget is None else [
                function_reads(budget.metric), budget.drop, section.trials, repr(place),
                self.data["validation"], *self._scoring_reads(),
            ],
        )  # fmt: skip
        made = self.stages.made("quantize", target, reads, make, graph, ("calibration data",))
        self._publish(made, {graph: f"{kind.upper()} graph for {target}"})
        nodes = sum(self.report.operators_after.values())
        self._compare("quantize", f"{kind} graph for {target}", graph, nodes)

    def _kept_ranges(self) -> dict[str, Ranges]:
        """Return the ranges that each quantized graph was made with."""
        files = {t: self.stages.folders[self._integers(t)] / _RANGES for t in self.recipe.targets}
        return {target: Ranges.load(file) for target, file in files.items() if file.is_file()}

    def _build(self, target: str) -> None:
        how, floats, name = self.recipe.build, self._floats(target), f"engine.{target}"
        cpu, options = how.cpu_of(target), how.options(target)
        asked = find_target(target).floats.get(floats) == "engine"
        whole = how.precision_of(target) if self.recipe.quantize.weights is None else None
        precision = floats if asked else whole
        # The hash of the recipe is noted in the passport at the end: not all of it is read here.
        used = evidence(
            ranges=self.work / "ranges.json" if "ranges.json" in self.stages.keys else None,
            data=self.calibrated_on,
            tables=(self.recipe.preprocess, self.recipe.postprocess),
        )  # fmt: skip

        def make(folder: Path, part: Report) -> None:
            graph, feeds = self.stages.graph(self._integers(target)), self._fitting
            with status(f"building for {target}"):
                passport = engine.build(
                    graph, folder / name, target, precision=precision, options=options,
                    evidence=used, samples=(sample.feeds for sample in feeds),
                    cpu=cpu if options.on_cpu else None, work=work_of(graph, options),
                )  # fmt: skip
            part.notes += [f"{target}: {share}" for share in passport.divided]
            if passport.proven is False:
                part.missed.append(f"{target}: the engine does not compute what its graph says")
            part.engines.append(engine_row(f"{target} engine", passport, folder / name))

        reads = self.stages.of(
            self._integers(target), target=target, cpu=cpu.to_json(), precision=precision,
            options=repr(options), devices=None if options.device is None else devices_here(),
            evidence=asdict(used), data=self.data["calibration"],
        )  # fmt: skip
        made = self.stages.made("build", target, reads, make, name, ("calibration data",))
        self._publish(made, {name: f"{target} engine"})
        if self.recipe.file is not None:
            record(self.work / name, hashes={"recipe": sha256(self.recipe.file)})

        def compare(folder: Path, part: Report) -> None:
            try:
                built = self._engine(target)
            except InputError as error:
                told = str(error).replace(os.fspath(self.work), os.fspath(self.out))
                part.notes.append(f"not validated: {told}")
                return
            part.stages.append(self._row(f"{target} engine", built, None))
            part.title = built.name

        compared = self.stages.made(
            "build", f"{target}-compared", self.stages.of(name, "answers"), compare
        )
        if compared.part.stages:
            self.built[target] = compared.part.title

    def _engine(self, target: str) -> Engine:
        """Return the engine for a target, running.

        Raises:
            InputError: It can't run here.
        """
        if target not in self.engines:
            opened = engine.load(self.work / f"engine.{target}")
            self.engines[target] = self.stack.enter_context(opened)
        return self.engines[target]

    def _validate(self) -> None:
        section = self.recipe.validation

        def make(folder: Path, part: Report) -> None:
            cleaned, lowered = self.stages.graph("model.onnx"), self.stages.graph("converted.onnx")
            limits = self._named(ends(cleaned), cleaned)
            reference = self._reference
            candidates = [
                Candidate(reference, self._allowed.value, floors=self._allowed.floors, ends=limits)
            ]
            for target in self.built:
                candidates.append(replace(self._held_to(target), ends=limits))
            openers: list[Callable[[], Engine]] = [
                partial(_reference, self.opened),
                partial(_graph, os.fspath(self.work / "model.onnx")),
                *(partial(engine.load, self.work / f"engine.{target}") for target in self.built),
            ]
            scoring = self.scoring
            tally = measure(
                self.original,
                [candidate.engine for candidate in candidates],
                self.validation,
                None if scoring is None else scoring.make,
                section.output if scoring is None else scoring.output,
                labels=self.labels,
                workers=self.workers,
                openers=openers,
                selector=partial(Selector, lowered)
                if self.workers == 1
                else partial(open_selector, self.opened),
            )
            part.notes += [*self.validation.notes, *tally.notes()]
            part.candidates = rows(self.original, candidates, tally)
            part.gallery = gallery_rows(tally, part.candidates, self.validation, section.classes)

        reads = self.stages.of(
            "noise", "answers", "converted.onnx", "model.onnx", *map(_engine_of, self.built),
            data=self.data["validation"], metric=function_reads(section.metric),
            drop=section.drop, more=self._scoring_reads(),
        )  # fmt: skip
        made = self.stages.made(
            "validate", "candidates", reads, make, files=("model", "validation data")
        )
        for target, row in zip(self.built, made.part.candidates[2:], strict=True):
            record_accuracy(
                self.work / _engine_of(target), row, self.report.samples, self._judged_on,
                section.metric,
            )  # fmt: skip

    def _scoring_reads(self) -> list[object]:
        """Return what a metric is computed with."""
        section, how = self.recipe.validation, self.recipe.postprocess
        return [
            file_reads(section.classes), section.output, how.model_dump(mode="json"),
            function_reads(how.function),
        ]  # fmt: skip

    @cached_property
    def _judged_on(self) -> str:
        return hash_of_data(self.judged_on)

    def _held_to(self, target: str) -> Candidate:
        """Return an engine with what it is held against: a graph, or the noise of its precision."""
        built = self._engine(target)
        if self.recipe.build.quantizes(target):
            graph = self.stages.graph(self._integers(target))
            deep = self._named(depths(graph), graph)
            return Candidate(built, None, self.recipe.validation.drop, depths=deep)
        probe, floats = self.probe[:NOISE_SAMPLES], self._floats(target)
        found = measured_tolerance(self.original, probe, floats)
        return Candidate(built, found.value, floors=found.floors)

    def _floats(self, target: str) -> Floats:
        """Return what a target's layers that are not quantized run in."""
        precision = self.recipe.build.precision_of(target)
        if precision == "int8" or precision == "fp8":
            return self.recipe.quantize.float.get(target, "fp32")
        return precision

    def _look_inside(self) -> None:
        """Note what each layer of the quantized graphs that were built does, on one sample."""

        def make(folder: Path, part: Report) -> None:
            inside = self.facts.stands_in or self.opened.framework == "onnx"
            original = self.stages.graph("converted.onnx") if inside else self.original
            with status("comparing every layer"):
                for target, name in self.built.items():
                    model = self.stages.graph(self._integers(target))
                    found = bisect(original, model, self.probe[0].feeds)
                    if found is None:
                        continue
                    layers, part.layers_from[name], apart = layers_of_engine(
                        layer_rows(name, found), model, self._engine(target),
                        self.probe[0].feeds, self.expected[0],
                    )  # fmt: skip
                    part.layers += layers
                    part.notes += apart
                    part.notes += [f"{name}: {divergence}" for divergence in found.divergences[:3]]

        reads = self.stages.of("answers", "converted.onnx", *map(_engine_of, self.built))
        self.stages.made("validate", "layers", reads, make)

    def _otherwise(self) -> AbstractContextManager[Engine | None]:
        """Return the original as its runtime optimizes it otherwise, where it can be asked to."""
        if self.facts.stands_in or self.opened.framework != "onnx":
            return nullcontext()
        return self.opened.run(optimize=False)

    def _named(self, found: Mapping[str, T], model: Model) -> dict[str, T]:
        """Return what is known of a graph's outputs under the original's names."""
        wanted = [spec.name for spec in self.facts.outputs]
        names = partners(wanted, [spec.name for spec in model.outputs])
        return {mine: found[theirs] for mine, theirs in names.items() if theirs in found}

    @property
    def _allowed(self) -> Tolerance:
        """What float graphs are held against."""
        found = self.tolerance
        if self.facts_of_graph["half"]:
            return replace(found, value=max(found.value, HALF_TOLERANCE))
        return found

    @cached_property
    def _reference(self) -> OnnxRuntime:
        """The clean graph, running."""
        return self.stack.enter_context(exact(self.stages.graph("model.onnx"), name=_CLEAN))

    def _compare(self, stage: str, title: str, graph: str, before: int) -> None:
        """Hold a graph against the original; stop where it does not pass.

        Args:
            stage: That made it.
            title: In the report.
            graph: Its file.
            before: How many nodes there were before the stage.
        """
        tolerance = None if stage == "quantize" else self._allowed

        def make(folder: Path, part: Report) -> None:
            model = self.stages.graph(graph)
            after = sum(model.operators().values())
            with ExitStack() as closing:
                if graph == "model.onnx":
                    session = self._reference
                else:
                    session = closing.enter_context(exact(model, name=title))
                part.stages.append(self._row(title, session, tolerance, before, after))
                if not part.stages[-1].passed:
                    part.notes += self._explain(title, model)

        what = f"{graph.split('.')[2]}-compared" if stage == "quantize" else "compared"
        made = self.stages.made(
            stage, what, self.stages.of(graph, "noise", "answers", "converted.onnx"), make
        )
        if not made.part.stages[0].passed and not self.keep_going:
            raise _Broken(title)

    def _explain(self, stage: str, model: Model) -> list[str]:
        """Name the layer, and for the clean-up the pass, at which a stage begins to differ."""
        feeds, told = self.probe[0].feeds, []
        divergence = find_divergence(self.original, model, feeds)
        if divergence is not None:
            told.append(f"{stage}: first {divergence}")
        if stage == "cleaned":
            guilty = guilty_pass(self.original, self.stages.graph("converted.onnx"), feeds)
            if guilty is not None:
                told.append(f"{stage}: caused by the pass {guilty}")
        return told

    def _row(
        self,
        stage: str,
        candidate: Engine,
        tolerance: Tolerance | None,
        before: int | None = None,
        after: int | None = None,
    ) -> StageRow:
        """Hold a stage against the original."""
        worst = _worst(self.probe, self.expected, candidate)
        allowed, passed = None, True
        if tolerance is not None:
            allowed, passed = tolerance.value, self._held(candidate, tolerance)
        return StageRow(stage, before, after, worst.max_abs, worst.relative, allowed, passed, 0.0)

    def _held(self, candidate: Engine, tolerance: Tolerance) -> bool:
        """Tell whether a stage gives the original's answers on the samples that stages see."""
        verdicts: list[Verdict] = []
        graph = self.stages.graph("converted.onnx")
        limits = self._named(ends(graph), graph)
        with Selector(graph) as selector:
            for sample, right in zip(self.probe, self.expected, strict=True):
                resolved = unresolved(right, limits)
                floors = {n: max(v, tolerance.floors.get(n, 0.0)) for n, v in resolved.items()}
                actual = answers(candidate, sample.feeds, right)
                found = hold(right, actual, tolerance.value, floors=floors)
                if not all(verdict.passed for verdict in found):
                    chosen = selector.at(adapted(sample.feeds, self.original), right)
                    found = hold(right, actual, tolerance.value, floors=floors, chosen=chosen)
                verdicts += found
        return all(verdict.passed for verdict in verdicts)

    def _latency(self) -> None:
        section, batches, fixed = self.recipe.bench, self.recipe.bench.batches, ()
        original = BenchTarget(self.facts.name, "original", self.opened)
        clean = BenchTarget(_CLEAN, "onnx", Original(os.fspath(self.work / "model.onnx")))
        targets = [clean] if self.facts.stands_in else [original, clean]
        targets += [
            BenchTarget(name, "engine", Original(os.fspath(self.work / _engine_of(target))))
            for target, name in self.built.items()
        ]
        libraries = {name: target for target, name in self.built.items()}
        graphs = {name: self._integers(target) for name, target in libraries.items()}
        fixed = self.facts_of_graph["batches"]
        if fixed and not set(batches) <= set(fixed):
            batches = fixed[:1]

        def make(folder: Path, part: Report) -> None:
            if batches != section.batches:
                part.notes.append(
                    f"timed with a batch of {batches[0]}, which the model is made for"
                )
            counted: list[Counted] = []
            part.latency = measure_latency(
                targets, batches=batches, rounds=section.rounds, runs=section.runs,
                counted=counted,
            )  # fmt: skip
            part.layer_times, part.layers_timed = layer_times([
                Timed(name := one.target.name, libraries.get(name, "onnxruntime"), one.batch,
                      one.times, self.stages.graph(graphs.get(name, "model.onnx")))
                for one in counted
            ])  # fmt: skip

        reads = self.stages.of(
            "facts", "model.onnx", *map(_engine_of, self.built), layers=True,
            how=section.model_dump(mode="json"), machine=[platform.node(), os.cpu_count()],
        )  # fmt: skip
        record_latency(targets, self.stages.made("bench", "latency", reads, make).part.latency)

    def _graphs(self) -> Drawn | None:
        """Return the graphs of the run, as far as it came, with what was measured of them."""
        keys, report = self.stages.keys, self.report
        if "model.onnx" not in keys:
            return None
        targets = [target for target in self.recipe.targets if self._integers(target) in keys]

        def make(folder: Path, part: Report) -> None:
            aimed, notes = [], list[str]()
            for target in targets:
                file = self.work / _engine_of(target)
                floats = {layer: why for aim, layer, why in report.float_layers if aim == target}
                layers = layers_at(file, notes) if target in self.built else None
                name = self.built.get(target, f"{target} {self._kind(target)}")
                aimed.append(Aimed(name, self.stages.graph(self._integers(target)), layers, floats))
            found = walk(
                report.title, self.stages.graph("converted.onnx"), self.stages.graph("model.onnx"),
                Cleaning.load(self.stages.folders["model.onnx"] / _CLEANING), aimed,
                Measured(report.layers, report.layer_times, report.ranges, _CLEAN),
            )  # fmt: skip
            found.notes += notes
            found.drawn().save(folder / _GRAPHS)

        known = ("ranges.json", "layers", "latency", *map(_engine_of, targets))
        reads = self.stages.of(
            "converted.onnx", "model.onnx", *map(self._integers, targets),
            *(name for name in known if name in keys), built=self.built,
        )  # fmt: skip
        made = self.stages.made("bench", "graphs", reads, make)
        return Drawn.load(made.folder / _GRAPHS)

    def _kind(self, target: str) -> str:
        """Return what layers, or their weights alone, are to be in."""
        return self.recipe.quantize.weights or self.recipe.build.precision_of(target)

    def _integers(self, target: str) -> str:
        """Return the file of the graph that a target's engine is built from."""
        return f"model.{self._kind(target)}.{target}.onnx"

    # What stages make -----------------------------------------------------------------------

    def _publish(self, made: Made, roles: dict[str, str]) -> None:
        """Put what a stage made among the results."""
        for name, role in roles.items():
            self.report.artifacts[role] = os.fspath(self.out / name)
        for file in made.folder.iterdir():
            if not file.name.startswith(HIDDEN) and file.name != "kept.json":
                shutil.copyfile(file, self.work / file.name)


def _engine_of(target: str) -> str:
    return f"engine.{target}"


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
