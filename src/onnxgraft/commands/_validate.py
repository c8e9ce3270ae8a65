"""Validation of any two: an original, an ONNX file, an engine, a recorded run of Polygraphy."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from onnxgraft.commands._assumed import assumed, is_given, of_images
from onnxgraft.commands._baked import Answering, InIt, Rows, find_in_it
from onnxgraft.commands._blame import blame, differs
from onnxgraft.commands._called import command
from onnxgraft.commands._engine_recipe import recipe_of
from onnxgraft.commands._evidence import engine_row, hash_of_data, record_accuracy
from onnxgraft.commands._hosts import Host, Hosts, find_hosts
from onnxgraft.commands._layers import layers_of_engine
from onnxgraft.commands._opening import (
    ModelGiven,
    Place,
    graph_beside,
    is_engine,
    open_candidate,
    open_reference,
)
from onnxgraft.commands._order import MODEL, check_order
from onnxgraft.commands._outputs import check_output, check_report
from onnxgraft.commands._provenance import file_hashes
from onnxgraft.commands._recipe import (
    PostprocessGiven,
    PreprocessGiven,
    class_names,
    given_tables,
)
from onnxgraft.commands._validate_hosts import Described, answered_on
from onnxgraft.data.functions import Function, Given
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.samples import Data, Sample, Samples, as_samples
from onnxgraft.data.streams import is_data
from onnxgraft.errors import InputError
from onnxgraft.files import atomic_folder, check_folder
from onnxgraft.files.trust import Trust
from onnxgraft.graph.foreign import ENGINE, JSON
from onnxgraft.graph.model import Model
from onnxgraft.graph.quantized import stored_weights
from onnxgraft.graph.tensors import Feeds, Outputs
from onnxgraft.progress import status
from onnxgraft.run.answers import adapted, answers, partners
from onnxgraft.run.depth import depths
from onnxgraft.run.engine import Engine
from onnxgraft.run.saturation import Ends, ends
from onnxgraft.run.selections import Selecting, Selector
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.run.verdicts import check_pair, other_boxes
from onnxgraft.stages import engine, surgery
from onnxgraft.stages.convert import Original, written
from onnxgraft.stages.engine.passport import passport_path, read_passport
from onnxgraft.stages.validate import (
    Bisection,
    Candidate,
    Labels,
    MatchedGraph,
    Recorded,
    Scoring,
    Tally,
    Tolerance,
    bisect,
    check_labels,
    find_metric,
    find_mistake,
    fit_metric,
    is_recording,
    make_metric,
    measure,
    measured_tolerance,
    read_inputs,
    read_labels,
    rows,
    save_inputs,
    save_outputs,
    users_tolerance,
    write_html,
    write_junit,
)
from onnxgraft.stages.validate.report import CandidateRow, HostRow, LayerRow, Report
from onnxgraft.stages.validate.views.gallery import gallery_rows
from onnxgraft.stages.validate.views.graph import Drawn
from onnxgraft.targets import FORMATS, WEIGHT_TYPES
from onnxgraft.words import several

__all__ = ["layer_rows", "open_selector", "validate", "write_report"]

# Float noise is measured on so many samples.
_NOISE_SAMPLES = 2
_HALVES = ("fp16", "bf16")


def _reference(original: Original, in_it: InIt) -> Engine:
    return in_it.asked(open_reference(original)[0])


def _candidate(candidate: Original, in_it: InIt) -> Engine:
    return in_it.held(open_candidate(candidate))


def _answering(original: Original, in_it: InIt) -> Answering:
    return Answering(open_reference(original)[0], in_it)


def open_selector(original: Original) -> Selector:
    """Return the graph of an original, to be asked what its indices select."""
    return Selector(original.lower()[0])


def validate(
    original: ModelGiven,
    candidate: ModelGiven,
    data: Data,
    *,
    weights: Place | None = None,
    preprocess: PreprocessGiven = None,
    postprocess: PostprocessGiven = None,
    inputs: str | None = None,
    outputs: str | None = None,
    values: Sequence[str] = (),
    signature: str | None = None,
    freeze_batchnorm: bool = False,
    trust: Trust = False,
    metric: Given | None = None,
    classes: str | None = None,
    metric_output: str | None = None,
    labels: Place | None = None,
    drop: float | None = None,
    tolerance: float | None = None,
    images: int | None = None,
    bisect: bool = False,
    graph: ModelGiven = None,
    candidate_weights: Place | None = None,
    candidate_outputs: str | None = None,
    workers: int = 1,
    ray: str | None = None,
    save_inputs: Place | None = None,
    save_outputs: Place | None = None,
    hosts: Hosts | None = None,
    host_python: str = "python3",
    report: Place | None = None,
    force: bool = False,
) -> Report:
    """Compare a candidate with the original on data; an engine's passport takes the result.

    Args:
        original: The reference: a model in its own framework, as a file or as `convert` takes it,
            an ONNX file or an engine.
        candidate: An ONNX file or model, a built engine, another original, or the JSON of outputs
            that `polygraphy run --save-outputs` wrote.
        data: A folder, a list file, an ``.npz``, a JSON of inputs as Polygraphy writes it;
            samples; or arrays, an iterable, a dataset, a loader, or a function that returns one:
            see `open_samples`.
        weights: The weights of a Caffe network.
        preprocess: A TOML file with a ``[preprocess]`` table, or the recipe itself; or the name of
            a preset, or a function.
        postprocess: A TOML file with a ``[postprocess]`` table, which says how boxes stand in the
            outputs, or the table itself, or a function; None takes that of the file ``preprocess``,
            or the one in the candidate's passport.
        inputs: Where to cut the original's beginning, such as ``a:0,b:0[1,224,224,3]``.
        outputs: Where to cut its end, such as ``c:0,d:0``.
        values: Placeholders and constants to set, such as ``is_training=false``.
        signature: The signature of a SavedModel.
        freeze_batchnorm: Run batch normalizations that are in training mode with stored statistics.
        trust: Load a Keras file that brings code, or an engine without a passport, and run
            functions that TOML files and passports name: True, or names.
        metric: One of `onnxgraft.stages.validate.METRICS`, or a function of an output and its
            label: a callable or ``FILE.py:FUNCTION``; None compares outputs alone.
        classes: The classes of ``miou`` and ``map``: ``camvid``, ``cityscapes`` or a file; None
            takes those of ``postprocess``, or counts them by the output's channels, and numbers
            them.
        metric_output: The output that the metric is computed on; None takes that of
            ``postprocess``, or the first.
        labels: A file of labels by image, where they do not stand beside the images; or COCO's
            JSON, or a folder of VOC's XML or YOLO's text.
        drop: What the metric may lose in INT8, in its unit; None takes 1 % of its scale, or of the
            original's value.
        tolerance: Of float candidates, as a fraction of an output's range; None measures what
            noise of the candidate's precision explains.
        images: How many samples; None takes all.
        bisect: Look into both, and name the layer where they begin to differ.
        graph: The ONNX file that the candidate, an engine, was built from; None looks for the one
            that `deploy` leaves beside it.
        candidate_weights: The weights of a candidate that is a Caffe network.
        candidate_outputs: Where to cut a candidate that is a framework's model.
        workers: Processes that share the samples; with ``ray`` actors.
        ray: The address of a Ray cluster.
        save_inputs: Where to write what was fed, for `polygraphy run --load-inputs`.
        save_outputs: Where to write both sides' outputs, for `polygraphy run --load-outputs`.
        hosts: Run the candidate, an engine, on these machines, at the same time, and not here: as
            of `bench`. The original runs here, once.
        host_python: The Python there that has onnxgraft.
        report: A folder for the report.
        force: Replace an existing file of another kind, too.

    Raises:
        InputError: Something can't be read, or the two do not correspond.
    """
    check_order((original, (MODEL,)), (candidate, (ENGINE,)), "validate {0} {1} --data DATA")
    original, candidate = written(original), written(candidate)
    graph = None if graph is None else written(graph)
    if report is not None:
        check_folder(report)
        check_report(report, force=force)
    for place in (save_inputs, save_outputs):
        check_output(place, JSON, force=force)
    if Path(candidate).suffix == ".prototxt" and Path(original).suffix != ".prototxt":
        # There is one network that --weights can be meant for.
        weights, candidate_weights = None, candidate_weights or weights
    machines = None
    if hosts is not None:
        if bisect or workers != 1 or not (ray is save_inputs is save_outputs is None):
            raise InputError(
                "--hosts runs an engine there: leave out --bisect, --workers, --ray, --save-inputs "
                "and --save-outputs"
            )
        machines = find_hosts(hosts)
        read_passport(candidate)  # without one it would not be loaded there
    before, after = given_tables(preprocess, postprocess, trust)
    run = _Validation(
        Original.of(
            original, weights=weights, inputs=inputs, outputs=outputs, values=values,
            signature=signature, freeze_batchnorm=freeze_batchnorm, trust=trust,
        ),
        Original.of(
            candidate, weights=candidate_weights, outputs=candidate_outputs, trust=trust
        ),
        before,
        whole=(before, after),
    )  # fmt: skip
    if after is None:
        after = recipe_of(candidate, trust, after=metric is not None)[1]
    if not is_given(before) and of_images(data) and passport_path(candidate).is_file():
        known = recipe_of(candidate, trust, before=True, after=False)[0]
        if is_given(known):
            run.preprocess = known
            run.assumed = (
                f"no preprocessing was given: took that of the candidate's passport, {known.told}"
            )
    classes = classes or after.classes
    if metric is not None:
        metric = find_metric(metric)
        make_metric(metric, classes)  # what is wrong with it is reported before anything runs
        run.metric = metric
    run.open(here=machines is None)
    try:
        if run.in_it and (bisect or save_inputs is not None or save_outputs is not None):
            raise InputError(
                f"{candidate}: has parts of the recipe in it; leave out --bisect, --save-inputs "
                "and --save-outputs, or validate one that was built without --bake"
            )
        metric_output = run.in_it.output(metric_output)
        run.read(data, images, labels, class_names(classes, after))
        if metric is not None:
            run.fit(metric, classes, metric_output or run.in_it.output(after.output), after)
        run.set_tolerance(tolerance, drop, graph)
        if bisect:
            run.check_outputs(graph)
        if machines is None:
            found = run.compare(metric_output, workers, ray)
            run.record()
        else:
            found = run.compare_on(machines, host_python, metric_output)
            run.record_on()
        if bisect:
            run.look_inside(graph)
        if save_inputs is not None or save_outputs is not None:
            run.save(save_inputs, save_outputs)
        found.gallery = gallery_rows(run.tally, found.candidates, run.samples, classes)
    finally:
        run.close()
    if report is not None:
        found.hashes |= run.hashes()
        write_report(found, report)
    return found


@dataclass
class _Validation:
    """The state of one comparison."""

    original: Original
    candidate: Original
    preprocess: Preprocess | None
    notes: list[str] = field(default_factory=list)
    scoring: Scoring | None = None
    metric: str | Function | None = None
    assumed: str = ""
    whole: tuple[Preprocess | None, Postprocess | None] = (None, None)

    def open(self, *, here: bool) -> None:
        self.reference, notes = open_reference(self.original)
        self.notes += notes
        try:
            self.other: Engine = (
                open_candidate(self.candidate)
                if here
                else Described.of(read_passport(self.candidate.path))
            )
            self.in_it = InIt()
            if passport_path(self.candidate.path).is_file():
                left = recipe_of(self.candidate.path, self.candidate.trust, after=False)
                self.in_it = find_in_it(self.reference, self.other, left, *self.whole)
        except BaseException:
            self.reference.close()
            raise
        self.base, self.reference = self.reference, self.in_it.asked(self.reference)
        self.other = self.in_it.held(self.other)
        sides = ([spec.name for spec in side.outputs] for side in (self.reference, self.other))
        self.notes += [
            f"the candidate's output {theirs} was matched with {mine}"
            for mine, theirs in partners(*sides).items()
            if mine != theirs
        ]

    def close(self) -> None:
        self.reference.close()
        self.other.close()

    def read(
        self,
        data: Data,
        images: int | None,
        labels: Place | None,
        names: Sequence[str],
    ) -> None:
        if not is_data(data) and is_recording(data):
            self.samples = _polygraphy_samples(os.fspath(data), self.reference, images)
        else:
            if not is_given(self.preprocess) and of_images(data):
                metadata = self._metadata()
                self.preprocess, self.assumed = assumed(None, data, metadata, self.reference.inputs)
            self.samples = as_samples(
                data, self.reference.inputs, self.preprocess, images=images, names=names
            )
        self.pictures = self.in_it.fed(data, self.samples, self.other.inputs)
        self.labels = Labels() if labels is None else read_labels(labels, names)
        self.notes += self.labels.notes
        if labels is not None:
            check_labels(self.samples, self.labels, labels)
        if isinstance(self.other, Recorded) and len(self.other) != len(self.samples):
            raise InputError(
                f"{self.candidate.path}: holds outputs for {several(len(self.other), 'sample')}, "
                f"the data are {len(self.samples)}"
            )

    def _metadata(self) -> dict[str, str]:
        """Return what the original's graph carries; an engine has none."""
        return {} if is_engine(Path(self.original.path)) else self.original.lower()[0].metadata

    def fit(self, metric: Given, classes: str | None, output: str | None, how: Postprocess) -> None:
        """Try the metric on the first sample, so that what does not fit is told before the work."""
        first = next(iter(self.samples.head(1)))
        self.scoring = fit_metric(
            metric, self.samples, first, answers(self.reference, first.feeds), classes=classes,
            output=output, how=how, labels=self.labels,
        )  # fmt: skip
        self.notes += self.scoring.notes

    def check_outputs(self, graph: Place | None) -> None:
        """Refuse outputs that do not correspond, naming the layer where their shapes differ."""
        if isinstance(self.other, Recorded):
            return
        feeds = next(iter(self.samples.head(1))).feeds
        expected = answers(self.reference, feeds)
        actual = answers(self.other, feeds, expected)
        try:
            for name, value in expected.items():
                if name not in actual or not other_boxes(value, actual[name]):
                    check_pair(name, value, actual)
        except InputError as error:
            model = self._graph_of_candidate(graph)
            found = None if model is None else bisect(self._inner_original(), model, feeds)
            if found is None or not found.divergences:
                raise
            raise InputError(f"{error}; first {found.divergences[0]}") from error

    def set_tolerance(
        self, tolerance: float | None, drop: float | None, graph: Place | None
    ) -> None:
        precision = _precision(Path(self.candidate.path))
        if precision == "fp32" and (of_original := _precision(Path(self.original.path))) in _HALVES:
            precision = of_original  # whose rounding the candidate does not do
        found: Tolerance | None = None
        if tolerance is not None:
            found = users_tolerance(tolerance)
        elif precision not in (*FORMATS, *WEIGHT_TYPES):
            with status("measuring float noise"):
                samples = self.samples.head(_NOISE_SAMPLES)
                with self._otherwise() as other:
                    found = self.in_it.floors(measured_tolerance(
                        self.base, samples, precision or "fp32", other, self.in_it.level
                    ))  # fmt: skip
        if not precision:
            self.notes.append(
                f"{self.candidate.path} has no passport that states its precision; its "
                "tolerance is that of float32 unless --tolerance sets another"
            )
        limits, deep = self._graphs_say(graph)
        self.held = Candidate(
            self.other,
            None if found is None else found.value,
            drop,
            {} if found is None else found.floors,
            deep,
            limits,
        )
        if found is not None:
            self.notes.append(found.reason)

    def _otherwise(self) -> AbstractContextManager[Engine | None]:
        """Return the original as its runtime optimizes it otherwise, where it can be asked to."""
        path = Path(self.original.path)
        if path.suffix != ".onnx" or is_engine(path):
            return nullcontext()
        return self.original.run(optimize=False)

    def _graphs_say(self, graph: Place | None) -> tuple[dict[str, Ends], dict[str, int] | None]:
        """Return the outputs' ends, and how many roundings to 8 bits are on the way to each."""
        path = Path(self.candidate.path)
        model = None
        if graph is not None or path.suffix == ".onnx":
            model = Model.load(path if graph is None else graph)
        elif passport_path(path).is_file():
            model = graph_beside(path)
        deep = None if model is None else depths(model)
        if deep is None and passport_path(path).is_file():
            deep = engine.read_passport(path).depths or None
        limits = {} if model is None else ends(model)
        wanted = [spec.name for spec in self.reference.outputs]
        names = partners(wanted, [spec.name for spec in self.other.outputs])
        return (
            {mine: limits[theirs] for mine, theirs in names.items() if theirs in limits},
            None
            if deep is None
            else {mine: deep[theirs] for mine, theirs in names.items() if theirs in deep},
        )

    def _selector(self, spread: bool = False) -> Callable[[], Selecting] | None:
        """Return what opens the original's graph, to look at what its indices select."""
        if isinstance(self.reference, Answering):
            asked = self.reference
            return partial(_answering, self.original, self.in_it) if spread else lambda: asked
        if is_engine(Path(self.original.path)):
            return None
        return partial(open_selector, self.original)

    def compare(self, output: str | None, workers: int, ray: str | None) -> Report:
        if isinstance(self.other, Recorded) and (workers != 1 or ray is not None):
            raise InputError(
                f"{self.candidate.path}: is a recording, which can only be read in order; "
                f"leave out {'--workers' if ray is None else '--ray'}"
            )
        spread = workers != 1 or ray is not None
        if self.in_it.boxes and spread:
            raise InputError(
                f"{self.candidate.path}: suppresses boxes itself, which one process holds against "
                "its rows; leave out --workers and --ray"
            )
        openers = (
            partial(_reference, self.original, self.in_it),
            partial(_candidate, self.candidate, self.in_it),
        )
        make = None
        if self.scoring is not None:
            make, output = self.scoring.make, self.scoring.output
        self.tally: Tally = measure(
            self.reference, [self.other], self.samples, make, output,
            labels=self.labels, workers=workers, ray=ray, openers=openers,
            selector=self._selector(spread), pictures=self.pictures,
        )  # fmt: skip
        wrong = self.other.wrong if isinstance(self.other, Rows) else 0
        return self._reported([self.held], [], [self.in_it.told(self.other.name, wrong)])

    def compare_on(self, hosts: Sequence[Host], python: str, output: str | None) -> Report:
        """As `compare`, with the candidate on each of the hosts that answers."""
        make = None
        if self.scoring is not None:
            make, output = self.scoring.make, self.scoring.output
        there, self.tally, wrong = answered_on(
            hosts, python, self.candidate.path, self.other.name, self.base, self.samples,
            make, output, self.labels, self._selector(), self.in_it, self.pictures,
        )  # fmt: skip
        held = [
            replace(self.held, engine=Described(name, self.other.inputs, self.other.outputs))
            for host in there
            if host.answered
            for name in host.results
        ]
        return self._reported(held, there, wrong)

    def record_on(self) -> None:
        """Write what was measured on hosts into the passport, by their processors."""
        measured = {row.name: row for row in self.report.candidates[1:]}
        for host in self.report.hosts:
            for name in host.results if host.answered else ():
                self._record(measured[name], host.processor)

    def _reported(
        self, held: Sequence[Candidate], hosts: list[HostRow], wrong: Sequence[str]
    ) -> Report:
        self.notes += [*self.samples.notes, *self.tally.notes()]
        self.report = Report(
            title=self.candidate.title,
            source=self.original.path,
            samples=len(self.samples),
            candidates=rows(self.reference, held, self.tally),
            hosts=hosts,
            missed=list(filter(None, wrong)),
            notes=self.notes,
            assumed=self.assumed,
        )
        if passport_path(self.candidate.path).is_file():
            passport = read_passport(self.candidate.path)
            self.report.engines.append(
                engine_row(self.other.name, passport, Path(self.candidate.path))
            )
        return self.report

    def hashes(self) -> dict[str, str]:
        """Return the hashes of both models and of the data."""
        found = file_hashes({side.path: side.path for side in (self.original, self.candidate)})
        with contextlib.suppress(InputError):  # the data may be gone
            found["validation data"] = self._judged_on
        return found

    @cached_property
    def _judged_on(self) -> str:
        return hash_of_data(self.samples)

    def record(self) -> None:
        """Write what was measured into the passport of a candidate that has one."""
        if passport_path(self.candidate.path).is_file():
            self._record(self.report.candidates[-1])

    def _record(self, row: CandidateRow, cpu: str | None = None) -> None:
        try:
            record_accuracy(
                self.candidate.path, row, len(self.samples), self._judged_on, self.metric, cpu
            )
        except InputError as error:
            self.notes.append(f"the accuracy could not be written into the passport: {error}")
            return
        if engine.read_passport(self.candidate.path).hashes.get("data") == self._judged_on:
            row.warnings.append(
                f"it was calibrated on samples of {self.samples.source}, which says little about "
                "others: validate on other data"
            )

    def look_inside(self, graph: Place | None) -> None:
        """Bisect on the sample that is furthest off; notes say what was found."""
        sample = self._worst_sample()
        feeds = sample.feeds
        model = self._graph_of_candidate(graph)
        found: Bisection | None = None
        if model is not None:
            with status("comparing every layer"):
                found = bisect(self._inner_original(), model, feeds)
        matched = False
        if found is not None and model is not None and not found.layers:
            found, model = self._by_value(model, feeds)
            matched = found is not None
        mistake = self._mistake(feeds, found)
        if mistake is not None:
            first = found.divergences[0].origin if found is not None and found.divergences else None
            unless = f", unless {first}, which reads it, was changed in this way" if first else ""
            self.notes.append(f"{mistake}{unless}")
        if found is not None and model is not None:
            if mistake is not None:
                found.divergences.clear()
            self.report.layers = layer_rows(self.other.name, found)
            if is_engine(Path(self.candidate.path)):
                expected = answers(self.reference, feeds)
                self.report.layers, told, apart = layers_of_engine(
                    self.report.layers, model, self.other, feeds, expected
                )
                self.report.layers_from[self.other.name] = told
                self.notes += apart
            self.notes.append(
                f"compared {several(len(found.layers), 'tensor')} that both have, in "
                f"{several(found.runs, 'run')} of {sample.name}"
            )
            for divergence in found.divergences[:1]:
                if not matched or divergence.quantizer:
                    whose = blame(self.original, self.reference, divergence, feeds)
                elif self._is_converted(self.candidate.path):
                    whose = "both conversions are correct: the models themselves differ"
                else:
                    whose = "it is not known what the candidate was made from"
                self.notes.append(f"first {divergence}; {whose}")
            self.notes += [f"further on: {divergence}" for divergence in found.divergences[1:4]]
            if found.nonfinite is not None:
                self.notes.append(
                    "tensors of the original hold NaN or infinite values; the first of them "
                    f"is {found.nonfinite}"
                )
            if not found.divergences and mistake is None:
                self.notes.append(
                    "every layer computes what the original's does"
                    if self.report.candidates[-1].passed
                    else "of the layers that could be compared, each computes what the original's "
                    "does"
                )
                self._engine_against_graph(model, feeds)

    def _mistake(self, feeds: Feeds, found: Bisection | None) -> str | None:
        """Return what was prepared or named otherwise, if that is why the candidate fails."""
        beyond = found is not None and found.divergences and not found.divergences[0].first
        if self.report.candidates[-1].passed or beyond:
            return None
        recipe = self.samples.preprocess
        with status("trying layouts and preprocessing"):
            return find_mistake(
                self.reference, self.other, feeds, self.held.tolerance, recipe.mean, recipe.factors
            )

    def _by_value(self, model: Model, feeds: Feeds) -> tuple[Bisection | None, Model]:
        """Look into two that share no names, as exports of two frameworks; notes say if not."""
        original = self._inner_original()
        if not isinstance(original, Model):
            original = self.original.lower()[0]
        sides = [
            (self.original.path, self.reference, original),
            (self.candidate.path, self.other, model),
        ]
        graphs = []
        for path, running, graph in sides:
            # Made alike by the same clean-up; what was built or quantized stays as it is.
            if self._is_converted(path):
                graph = surgery.run(graph)[0]
                if differs(running, graph, feeds):
                    self.notes.append(
                        "layers not compared: the two have no names in common, and the conversion "
                        f"of {path} gives other answers than the model itself"
                    )
                    return None, model
            graphs.append(graph)
        with status("matching the tensors of both"):
            inside = MatchedGraph(graphs[0], graphs[1], feeds)
        if not inside.pairs:
            self.notes.append(
                "layers not compared: the two have no names in common, and no tensor of one holds "
                "the values of one of the other"
            )
            return None, model
        self.notes.append(
            "the two have no names in common: "
            f"{several(len(inside.pairs), 'tensor was', 'tensors were')} paired by values and by "
            "what they are computed from"
        )
        return bisect(inside, graphs[1], feeds), graphs[1]

    def _is_converted(self, path: str) -> bool:
        """Tell whether the graph of a side is the conversion of a framework's model."""
        return Path(path).suffix not in (".onnx", ".json") and not is_engine(Path(path))

    def _worst_sample(self) -> Sample:
        """Return a sample with NaN or infinity, else what is furthest off, else the first.

        Where the candidate passes, what answers otherwise is more than what is furthest off.
        """
        tally, passed = self.tally, self.report.candidates[-1].passed
        positions = [position for position, _, _ in sorted(tally.broken[0].values())]
        shown = [answer.position for answer in tally.gallery[0]]
        off = [
            (largest / tally.differences[0][name].scale, position)
            for name, (largest, position) in tally.worst[0].items()
        ]
        furthest = [-max(off)[1]] if off else []
        positions += [*shown, *furthest] if passed else [*furthest, *shown]
        first = positions[0] if positions else 0
        one = replace(self.samples, indices=self.samples.indices[first : first + 1])
        return next(iter(one))

    def _inner_original(self) -> Engine | Model:
        """Return what can be asked for the tensors inside the original."""
        if Path(self.original.path).suffix == ".onnx":
            return Model.load(self.original.path)
        if passport_path(self.original.path).is_file():
            return graph_beside(Path(self.original.path)) or self.reference
        if isinstance(self.reference, OnnxRuntime):  # it stands in for the original
            return self.original.lower()[0]
        return self.reference

    def _graph_of_candidate(self, graph: Place | None) -> Model | None:
        path = Path(self.candidate.path)
        if graph is not None:
            return Model.load(graph)
        if passport_path(path).is_file():
            model = graph_beside(path)
            if model is None:
                self.notes.append(
                    f"layers not compared: the graph that {path.name} was built from is not beside "
                    "it; name it with --graph"
                )
            return model
        if path.suffix == ".onnx":
            return Model.load(path)
        if path.suffix == ".json":
            self.notes.append("layers not compared: the candidate is a recording; use --graph")
            return None
        return self.candidate.lower()[0]

    def _engine_against_graph(self, model: Model, feeds: Feeds) -> None:
        """Note how far an engine is from the graph it was built from."""
        if not passport_path(self.candidate.path).is_file():
            return
        with OnnxRuntime(model.to_onnx(), optimize=False) as session:
            expected = answers(session, feeds)
        actual = answers(self.other, feeds, expected)
        from onnxgraft.run.difference import sqnr

        for name, value in expected.items():
            if value.dtype.kind == "f" and name in actual:
                self.notes.append(
                    f"engine output {name}: SQNR {sqnr(value, actual[name]):.1f} dB against its "
                    "graph in onnxruntime"
                )

    def save(
        self,
        inputs: Place | None,
        outputs: Place | None,
    ) -> None:
        """Write inputs and outputs for Polygraphy, under the candidate's names and layouts."""
        fed: list[Feeds] = [adapted(sample.feeds, self.other) for sample in self.samples]
        if inputs is not None:
            save_inputs(inputs, fed)
        if outputs is not None:
            runs: dict[str, list[Outputs]] = {self.reference.name: [], self.other.name: []}
            for sample, feeds in zip(self.samples, fed, strict=True):
                theirs = self.other.infer(feeds)
                mine = answers(self.reference, sample.feeds, theirs)
                runs[self.reference.name].append(mine)
                runs[self.other.name].append(theirs)
            save_outputs(outputs, runs)


def layer_rows(candidate: str, found: Bisection) -> list[LayerRow]:
    """Return the rows of a report for what a bisection saw."""
    guilty = {p.tensor: p.reason for p in found.divergences}
    return [
        replace(layer, candidate=candidate, guilty=guilty.get(layer.tensor, ""))
        for layer in found.layers
    ]


def _polygraphy_samples(path: str, reference: Engine, images: int | None) -> Samples:
    """Return the inputs of a Polygraphy JSON, each entry as a sample."""
    feeds = [adapted(entry, reference) for entry in read_inputs(path)][:images]
    names = [spec.name for spec in reference.inputs]
    for entry in feeds:
        if set(entry) != set(names):
            raise InputError(
                f"{path}: has inputs {', '.join(entry)}, the original's are {', '.join(names)}"
            )
        for name in names:
            shapes = feeds[0][name].shape, entry[name].shape
            if shapes[0] != shapes[1]:
                raise InputError(
                    f"{path}: feeds {name} arrays of {shapes[0]} and of {shapes[1]}; all are to be "
                    "of one shape"
                )
    arrays = {name: np.stack([entry[name] for entry in feeds]) for name in names}
    indices = tuple(range(len(feeds)))
    return Samples(path, reference.inputs, Preprocess(), indices, (), arrays, None)


def write_report(
    report: Report,
    folder: Place,
    final: Place | None = None,
    graphs: Drawn | None = None,
) -> None:
    """Write ``report`` into ``folder`` as ``report.html``, ``report.json`` and ``junit.xml``.

    Args:
        report: Notes where it was written.
        folder: Is made if it is not there.
        final: Where the caller will move the files to; None puts them into place, all or none.
        graphs: To walk through, on the page alone.
    """
    if final is None:
        with atomic_folder(folder) as work:
            write_report(report, work, folder, graphs)
        return
    place = Path(folder)
    names = {"report": "report.html", "report data": "report.json", "JUnit": "junit.xml"}
    home = Path(final)
    report.command = command()
    report.artifacts |= {role: os.fspath(home / name) for role, name in names.items()}
    write_junit(report, place / names["JUnit"])
    report.save(place / names["report data"])
    write_html(report, place / names["report"], graphs)


def _precision(path: Path) -> str:
    """Return the precision of a candidate, or what it stores weights as.

    INT8 is one that has operators of integers without quantizers, too, as other tools write them.
    Empty for an engine that has no passport.
    """
    if passport_path(path).is_file():
        passport = engine.read_passport(path)
        return passport.weights or passport.precision
    if path.suffix == ".onnx":
        model = Model.load(path)
        stands = stored_weights(model) or engine.graph_precision(model)
        return "int8" if stands == "fp32" and any(depths(model).values()) else stands
    return "" if is_engine(path) else "fp32"
