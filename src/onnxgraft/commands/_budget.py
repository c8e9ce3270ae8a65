"""Quantization within a budget: the cheapest mix of INT8 and float that keeps it.

`quantize` ranks the layers and searches; what a mix loses is measured here, by the real metric on
the user's data. The search asks the exact reference of each mix. The engine of the mix that it
chooses is asked too, where it can run here: if that loses more, the search goes on with a budget
that is smaller by the difference. Every verdict is kept in a file beside the result, so that a
search that was cut short goes on, and one with another budget begins with what is known.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxgraft.commands._mix_engines import MixEngines
from onnxgraft.commands._reads import (
    file_reads,
    function_reads,
    sample_reads,
    surroundings,
)
from onnxgraft.data.functions import Function, is_function_path
from onnxgraft.data.labels import labelled
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.samples import Sample, Samples
from onnxgraft.errors import InputError, NotSupportedError, OnnxgraftError, nearest
from onnxgraft.files import existing_file, read_json, write_json
from onnxgraft.files.limits import DOCUMENT_BYTES
from onnxgraft.files.typed import misread
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.progress import logger, track
from onnxgraft.run.difference import Difference
from onnxgraft.run.engine import Engine
from onnxgraft.run.exact import exact
from onnxgraft.stages.engine import BuildOptions
from onnxgraft.stages.quantize import Placement, Prepared, fingerprint, quantize
from onnxgraft.stages.quantize.budget.search import (
    Trial,
    mixed,
    noise,
    order,
    search,
    sensitivities,
)
from onnxgraft.stages.quantize.improve.whole import spread
from onnxgraft.stages.quantize.place.costs import Estimate, int8_share
from onnxgraft.stages.quantize.place.placement import placement_text
from onnxgraft.stages.validate import (
    METRICS,
    Answered,
    Labels,
    declared,
    find_metric,
    fit_metric,
    labelled_rows,
)
from onnxgraft.targets import FORMATS, Floats, find_target
from onnxgraft.targets.cpu import Cpu
from onnxgraft.words import several

__all__ = [
    "Budget", "BudgetReport", "MixRow", "check_budget", "read_budget", "within_budget",
]  # fmt: skip

# Samples on which each layer's sensitivity is measured.
SENSITIVITY_SAMPLES = 4
# So often the engine may lose more than the budget, and a smaller budget is searched.
_ROUNDS = 4
_OUTPUT_METRICS = ("cosine", "sqnr")
_FORMAT = "onnxgraft.search/2"


@dataclass(frozen=True)
class Budget:
    """What may be lost.

    Attributes:
        metric: ``miou``, ``top1``, ``cosine``, ``sqnr``, or a function of an output and its label,
            the mean of which counts; it declares its ``direction``.
        drop: In the metric's unit: points of ``miou`` and ``top1``, what cosine may be less than
            1; for ``sqnr`` the dB that there have to be at least.
    """

    metric: str | Function
    drop: float

    def __post_init__(self) -> None:
        """Take a callable as a function with a name and a hash."""
        if not isinstance(self.metric, str):
            object.__setattr__(self, "metric", find_metric(self.metric))

    def loaded(self) -> Budget:
        """Return the same with its function, where it names one; the file is run."""
        return replace(self, metric=find_metric(self.metric)) if self.own else self

    @property
    def own(self) -> bool:
        """Whether the metric is a function of the user's own."""
        return isinstance(self.metric, Function) or is_function_path(self.metric)

    @property
    def needs_labels(self) -> bool:
        """Whether it is a task metric of ours."""
        return self.metric in METRICS


@dataclass(frozen=True)
class MixRow:
    """A row of the table: one mix.

    Attributes:
        name: Such as ``all INT8``.
        layers: How many layers with weights run in each precision.
        macs_int8: The part of the multiplications that INT8 layers do.
        metric: Its value by the exact reference; None where it was not measured.
        loss: Against float, in the unit of the budget.
        latency: Relative to FP32.
        engine: The metric's value on the target's engine; None where it was not measured.
        engine_loss: Of the engine against the float graph; None likewise.
    """

    name: str
    layers: dict[str, int]
    macs_int8: float
    metric: float | None
    loss: float | None
    latency: float
    engine: float | None = None
    engine_loss: float | None = None


@dataclass
class BudgetReport:
    """What a search did.

    Attributes:
        budget: That was to be kept.
        passed: Whether it is.
        rows: FP32, all INT8, and the mix.
        reasons: Of the layers in float, by name.
        sensitivity: Noise over signal that each layer alone in INT8 adds to the outputs.
        predicted: The sum of the sensitivities of all INT8 layers; measured is ``all_int8``.
        all_int8: Noise over signal with all layers in INT8, on the same samples.
        trials: How many mixes were tried.
        seconds: That the search took, in this run.
        latency: How the rows' latencies were found.
        measured: On what it was decided that the budget is kept: the engine, or why not on it.
        notes: Sentences that the user should read.
    """

    budget: Budget
    passed: bool
    rows: list[MixRow]
    reasons: dict[str, str]
    sensitivity: dict[str, float]
    predicted: float
    all_int8: float
    trials: int
    seconds: float
    latency: str
    measured: str
    notes: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """What layers are in that are not in float: ``INT8`` or ``FP8``."""
        return next((kind for kind in FORMATS if kind in self.rows[-1].layers), "int8").upper()

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values; a function by its name."""
        plain = Budget(str(self.budget.metric), self.budget.drop)
        return asdict(replace(self, budget=plain))

    def __str__(self) -> str:
        """Return the outcome as a sentence."""
        best, verdict = self.rows[-1], "is met" if self.passed else "is NOT met; the best mix is"
        inside = sum(best.layers.get(kind, 0) for kind in FORMATS)
        value = best.metric if best.engine is None else best.engine
        return (
            f"the budget {self.budget.metric}={self.budget.drop:g} {verdict} with {inside} of "
            f"{several(sum(best.layers.values()), 'layer')} ({100 * best.macs_int8:.1f} % of the "
            f"MACs) in {self.kind}: {self.budget.metric} {value:.4g} against "
            f"{self.rows[0].metric:.4g}, {self.measured}; {several(self.trials, 'mix', 'mixes')} "
            f"tried in {self.seconds:.0f} s"
        )


def read_budget(text: str) -> Budget:
    """Read ``METRIC=DROP``.

    Raises:
        InputError: It is not written so, or there is no such metric.
    """
    metric, sign, number = text.rpartition("=")
    try:
        drop = float(number)
    except ValueError:
        drop = math.nan
    if not sign or not metric or not math.isfinite(drop):
        raise InputError(f"--budget {text}: write METRIC=DROP, such as miou=0.3")
    known = (*METRICS, *_OUTPUT_METRICS)
    if not is_function_path(metric) and metric not in known:
        raise InputError(
            f"--budget {text}: no metric is called {metric!r}; {nearest(metric, known)}, or name "
            "a function of your own as FILE.py:FUNCTION"
        )
    return Budget(metric, drop)


def within_budget(
    prepared: Prepared,
    table: Placement,
    budget: Budget,
    samples: Samples,
    *,
    classes: str | None = None,
    output: str | None = None,
    how: Postprocess | None = None,
    labels: Labels | None = None,
    floats: Floats = "fp32",
    cpu: Cpu | None = None,
    place: BuildOptions | None = None,
    keep_float: tuple[str, ...] = (),
    calibration: Samples | None = None,
    state: str | os.PathLike[str] | None = None,
    resume: bool = False,
    fresh: bool = False,
    most: int = 24,
) -> tuple[dict[str, str], BudgetReport]:
    """Return the layers to keep in float, with a reason each, and what the search did.

    Args:
        prepared: The model, its ranges and what `improve` found.
        table: Of the target.
        budget: What may be lost.
        samples: On which the metric is computed.
        classes: Of ``miou`` and ``map``.
        output: The output that the metric looks at; None takes the first.
        how: How boxes stand in it.
        labels: By the images' file names, where they do not come with ``samples``.
        floats: What layers that are not INT8 run in.
        cpu: That the engine is for; None is this machine's.
        place: The device or provider that it is for; None is the CPU.
        keep_float: Layers that stay in float whatever happens.
        calibration: On which sensitivities are measured; None takes the first of ``samples``.
        state: Where verdicts are kept, and taken from where they are of the same search; None
            keeps none.
        resume: Whether what is there has to be of the same search.
        fresh: Whether to begin anew, whatever is there.
        most: How many mixes are tried at most.

    Raises:
        InputError: The metric can't be computed, or is NaN for the float graph.
    """
    start = time.perf_counter()
    budget = budget.loaded()
    metric = _MixMetric(prepared, table, budget, samples, most)
    metric.begin(classes, output, how, labels)
    memory = _Memory(
        state,
        _identity(
            prepared, table, budget, samples, keep_float, output, file_reads(classes),
            how and [how.model_dump(mode="json"), function_reads(how.function)],
            labels and labels.fingerprint, surroundings(),
        ),
        resume, fresh,
    )  # fmt: skip
    if memory.found:
        logger.info("%s: taken over: %s", state, memory.found)
    layers = quantize(prepared.model, prepared.ranges, table, improved=prepared.improved)[1].layers
    fixed = frozenset(name for name in keep_float if name in layers)
    free = [name for name in layers if name not in fixed]
    few = spread(calibration or samples, SENSITIVITY_SAMPLES)
    found = sensitivities(prepared, table, free, few, memory.sensitivity)
    memory.keep(sensitivity=found)

    estimate = Estimate(prepared.model, table, floats)
    everything = set(layers)

    def seconds(in_float: Any) -> float:
        return estimate(everything - set(in_float))

    fastest = seconds(fixed)
    slower = {name: seconds(fixed | {name}) - fastest for name in free}
    ranked = order(found, estimate.costs, slower)

    def loss(in_float: frozenset[str]) -> float:
        key = sorted(in_float)
        known = memory.verdict(key)
        if known is None:
            known = metric.loss(in_float)
            memory.keep(verdict=(key, known))
        return known

    trials: list[Trial] = []
    few_feeds = [sample.feeds for sample in few]
    place = place or BuildOptions()
    where = place.device or place.provider or cpu
    with MixEngines(table.target, floats, cpu, few_feeds, place) as engines:
        shipped = _Shipped(engines, prepared, table, metric, memory, f"{floats} on {where}")
        limit = metric.limit
        for _ in range(_ROUNDS):
            mix = search(
                ranked, loss, seconds, limit, always=fixed, most=most, tell=trials.append
            )  # fmt: skip
            lost = shipped.loss(mix.best.float_layers)
            if lost is None or lost <= metric.limit or not mix.found:
                break
            limit -= lost - mix.best.loss
        chosen = mix.best.float_layers
        if lost is not None and lost > metric.limit:
            chosen, lost = shipped.best()
        passed = mix.found if lost is None else lost <= metric.limit
        reasons = {
            name: _reason(name, found, slower, ranked) if name not in fixed else "requested"
            for name in layers
            if name in chosen
        }
        whole = Estimate(prepared.model, table, "fp32")([])

        def row(name: str, in_float: frozenset[str], lost: float | None) -> MixRow:
            inside = everything - in_float
            counted: dict[str, int] = {floats: len(in_float), table.format: len(inside)}
            value = None if lost is None else metric.value(lost)
            share = int8_share(estimate.costs, inside)
            latency = (estimate(inside) if inside else whole) / whole if whole else math.nan
            by_engine = shipped.known.get(in_float)
            return MixRow(
                name, counted, share, value, lost, latency,
                None if by_engine is None else metric.value(by_engine), by_engine,
            )  # fmt: skip

        rows = [row("FP32", frozenset(everything), metric.nothing_lost)]
        rows[0] = replace(rows[0], layers={"fp32": len(layers), table.format: 0}, latency=1.0)
        whole_mix = f"all {table.format.upper()}"
        rows += [row(whole_mix, fixed, trials[0].loss)]
        models = {"FP32": prepared.model, whole_mix: mixed(prepared, table, fixed)}
        if chosen != fixed:
            rows += [row("mix", chosen, loss(chosen))]
            models["mix"] = mixed(prepared, table, chosen)
        with exact(models[whole_mix], name=whole_mix) as int8:
            measured = _noise(prepared, int8, few)
        elapsed = time.perf_counter() - start
        try:
            if engines.absent:
                raise NotSupportedError(engines.absent)
            found_ms = engines.milliseconds(models)
        except OnnxgraftError as error:
            latency = f"estimated from MACs and bytes for {estimate.machine.name}: {error}"
        else:
            latency = f"measured here on {table.target}: FP32 takes {found_ms['FP32']:.2f} ms"
            rows = [replace(r, latency=found_ms[r.name] / found_ms["FP32"]) for r in rows]
    report = BudgetReport(
        budget, passed, rows, reasons, found, sum(found[name] for name in free), measured,
        len({trial.float_layers for trial in trials}), elapsed, latency, shipped.told,
        [*metric.notes, *shipped.notes],
    )  # fmt: skip
    return reasons, report


def check_budget(
    model: Model,
    budget: Budget,
    samples: Samples,
    *,
    classes: str | None = None,
    output: str | None = None,
    how: Postprocess | None = None,
    labels: Labels | None = None,
) -> None:
    """Try the metric of a budget on one sample, before anything is done; see `within_budget`.

    Raises:
        InputError: It does not fit the output or the labels.
    """
    if not budget.needs_labels:
        return
    first = next(iter(samples.head(1)))
    with exact(model, name="FP32") as session:
        outputs = session.infer(first.feeds)
    fit_metric(
        budget.metric, samples, first, outputs, classes=classes, output=output, how=how,
        labels=labels,
    )  # fmt: skip


class _Shipped:
    """What mixes lose as engines, which is what ships.

    Attributes:
        known: The loss by the layers in float.
        told: On what the loss is measured, in words.
        notes: Sentences that the user should read.
    """

    def __init__(
        self,
        engines: MixEngines,
        prepared: Prepared,
        table: Placement,
        metric: _MixMetric,
        memory: _Memory,
        form: str,
    ) -> None:
        self._engines, self._prepared, self._table = engines, prepared, table
        self._metric, self._memory, self._form = metric, memory, form
        self.known: dict[frozenset[str], float] = {}
        self.told = "measured on the graph's exact reference"
        if engines.absent:
            self.told += f": {engines.absent}"
        self.notes: list[str] = []

    def loss(self, float_layers: frozenset[str]) -> float | None:
        """Return what the engine of a mix loses; None where it can't run here."""
        if self._engines.absent:
            return None
        if float_layers not in self.known:
            title = find_target(self._table.target).title
            key = [self._form, *sorted(float_layers)]
            found = self._memory.shipped(key)
            if found is None:
                model = mixed(self._prepared, self._table, float_layers)
                try:
                    engine, passport = self._engines.proven(model)
                except OnnxgraftError as error:
                    self.told += f": the engine can't be built: {error}"
                    return None
                with engine:
                    lost = self._metric.lost_by(engine, f"the {title} engine of the mix")
                found = lost, passport.proven is not False, passport.runs_on
                self._memory.keep(shipped=(key, found))
            self.known[float_layers], right, processor = found
            self.told = f"measured on the {title} engine on {processor}"
            if not right:
                self.notes.append(
                    f"the {title} engine with {len(float_layers)} layers in float does not compute "
                    "what its graph says; see onnxgraft build"
                )
        return self.known[float_layers]

    def best(self) -> tuple[frozenset[str], float]:
        """Return the mix whose engine loses least."""
        layers = min(self.known, key=lambda layers: (self.known[layers], len(layers)))
        return layers, self.known[layers]


def _reason(
    name: str, sensitivity: dict[str, float], slower: dict[str, float], ranked: list[str]
) -> str:
    lost = max(slower[name], 0.0)
    total = sum(sensitivity.values()) or 1.0
    return (
        f"the budget: its noise is {100 * sensitivity[name] / total:.1f} % of all layers', in "
        f"float it costs an estimated {1e6 * lost:.1f} us; number {ranked.index(name) + 1} of "
        f"{len(ranked)} by noise saved per second"
    )


def _noise(prepared: Prepared, candidate: Engine, samples: Samples) -> float:
    """Return the mean noise over signal of a candidate's outputs."""
    with exact(prepared.model, name="float") as session:
        ratios = [
            noise(session.infer(sample.feeds), candidate.infer(sample.feeds)) for sample in samples
        ]
    return sum(ratios) / len(ratios)


class _MixMetric:
    """Computes what mixes lose, by the metric of the budget, on all samples."""

    def __init__(
        self,
        prepared: Prepared,
        table: Placement,
        budget: Budget,
        samples: Samples,
        most: int,
    ) -> None:
        self.prepared, self.table, self.budget, self.samples = prepared, table, budget, samples
        self.most = most
        self.tried = 0
        self.notes: list[str] = []
        self.score = budget.metric if isinstance(budget.metric, Function) else None
        # A loss is less of the metric, or more of it.
        self.sign = 1.0 if self.score is None else _sign(self.score)
        self.expected: list[Array] = []
        self.nothing_lost = 0.0

    def begin(
        self,
        classes: str | None,
        output: str | None,
        how: Postprocess | None,
        labels: Labels | None,
    ) -> None:
        """Measure the float graph."""
        names = [spec.name for spec in self.prepared.model.outputs]
        self.labels = labels or Labels()
        self.how = how or Postprocess()
        self.output = output or (None if how is None else how.output) or names[0]
        if self.output not in names:
            raise InputError(f"no output is called {self.output!r}; {nearest(self.output, names)}")
        with exact(self.prepared.model, name="FP32") as session:
            self.scoring = None
            if self.budget.needs_labels:
                first = next(iter(self.samples.head(1)))
                self.scoring = fit_metric(
                    self.budget.metric, self.samples, first, session.infer(first.feeds),
                    classes=classes, output=output, how=how, labels=self.labels,
                )  # fmt: skip
                self.output = self.scoring.output
            self.before = self._measure(session, "the float graph")
        if math.isnan(self.before):
            metric, source = self.budget.metric, self.samples.source
            raise InputError(f"{metric} of the float graph on {source} is NaN")

    @property
    def limit(self) -> float:
        """What a loss may be at most; of SQNR, which falls, losses are its negative."""
        return -self.budget.drop if self.budget.metric == "sqnr" else self.budget.drop

    def loss(self, float_layers: frozenset[str]) -> float:
        """Return what the mix loses; infinite where its metric is NaN, with a note."""
        model = mixed(self.prepared, self.table, float_layers)
        self.tried += 1
        with exact(model, name="mix") as session:
            lost = self.lost_by(session, f"mix {self.tried} of at most {self.most}")
        if lost == math.inf:
            self.notes.append(
                f"{self.budget.metric} is NaN with {len(float_layers)} layers in float; that mix "
                "counts as over the budget"
            )
        return lost

    def lost_by(self, engine: Engine, what: str) -> float:
        """Return what an engine loses against the float graph; infinite where that is NaN."""
        after = self._measure(engine, what)
        if math.isnan(after):
            return math.inf
        if self.budget.metric == "sqnr":
            return -after
        return self.sign * (self.before - after)

    def value(self, loss: float) -> float:
        """Return the metric that a loss stands for."""
        if self.budget.metric == "sqnr":
            return math.inf if loss == self.nothing_lost else -loss
        return self.before - self.sign * loss

    def _measure(self, engine: Engine, what: str) -> float:
        """Return the metric over all samples; NaN where an output or a score is not finite."""
        add, result = self._meter()
        for index, sample in enumerate(track(self.samples, what, len(self.samples))):
            outputs = engine.infer(sample.feeds)
            value = outputs[self.output]
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                return math.nan
            if self.labels:
                sample = labelled(sample, self.labels, self.samples.preprocess)
            add(index, Answered(value, outputs, sample.picture), sample)
        return result()

    def _processed(self, answered: Answered, number: int, output: Array) -> Array:
        """Return what the user's postprocessing makes of a row of the outputs."""
        if self.how.function is None:
            return output
        outputs = answered.outputs
        if output is not answered.output:
            outputs = {name: value[number : number + 1] for name, value in outputs.items()}
        made = self.how.applied(outputs)
        return made[self.output] if self.output in made else next(iter(made.values()))

    def _meter(self) -> tuple[Callable[[int, Answered, Sample], None], Callable[[], float]]:
        """Return a function that takes in a sample, and one that returns the metric."""
        budget = self.budget
        if self.score is not None:
            scores: list[float] = []
            score = self.score

            def add_score(index: int, answered: Answered, sample: Sample) -> None:
                value = answered.output
                try:
                    scores.extend(
                        float(score(self._processed(answered, number, output), label))
                        for number, (output, label) in enumerate(sample.rows(value))
                    )
                except OnnxgraftError:
                    raise
                except Exception as error:  # it is the user's own
                    raise InputError(
                        f"--budget {budget.metric}: the function failed on an output of "
                        f"{value.shape}: {type(error).__name__}: {error}"
                    ) from error

            return add_score, lambda: float(np.mean(scores))
        if self.scoring is not None:
            metric = self.scoring.make()

            def add_label(index: int, answered: Answered, sample: Sample) -> None:
                for row, label in labelled_rows(sample, answered):
                    metric.add(row, label)

            return add_label, lambda: next(iter(metric.values().values()))
        if len(self.expected) < len(self.samples):  # the float graph itself

            def remember(index: int, answered: Answered, sample: Sample) -> None:
                self.expected.append(answered.output)

            return remember, lambda: 1.0 if budget.metric == "cosine" else math.inf
        difference = Difference()

        def compare(index: int, answered: Answered, sample: Sample) -> None:
            difference.add(self.expected[index], answered.output)

        return compare, lambda: getattr(difference, str(budget.metric))


def _sign(function: Function) -> float:
    """Return 1 where more of a user's own metric is better, and -1 where less of it is."""
    key = function.title
    direction = declared(function)[1]
    if direction is None:
        raise InputError(
            f"--budget {function}: the function does not declare whether more or less is better; "
            f'write {key}.direction = "up" or "down" behind it'
        )
    return 1.0 if direction == "up" else -1.0


# What an engine loses, whether it computes what its graph says, and on which processor.
_OfEngine = tuple[float, bool, str]


class _Memory:
    """What searches found out so far, in a file.

    Args:
        path: Of the file; None keeps nothing.
        identity: Of the search: what is of another one is not taken over.
        resume: Whether that is an error.
        fresh: Whether nothing is taken over.

    Attributes:
        found: What was taken over, in words; empty if nothing.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, identity: str, resume: bool, fresh: bool = False
    ) -> None:
        self.path = None if path is None else Path(path)
        self.identity = identity
        self.sensitivity: dict[str, float] = {}
        self._verdicts: dict[str, float] = {}
        self._shipped: dict[str, _OfEngine] = {}
        self.found = ""
        if fresh or self.path is None or not self.path.is_file():
            return
        try:
            self._read(self.path)
        except InputError:
            if resume:
                raise

    def _read(self, path: Path) -> None:
        try:
            stored = read_json(existing_file(path, "the search", DOCUMENT_BYTES))
            if stored["format"] != _FORMAT:
                raise ValueError("an unknown format")
            if stored["identity"] != self.identity:
                raise InputError(
                    f"{path}: belongs to another search; give the same model, ranges, data and "
                    "options, or leave --resume out"
                )
            sensitivity = {name: float(value) for name, value in stored["sensitivity"].items()}
            verdicts = {key: _loss(value) for key, value in stored["verdicts"].items()}
            shipped = {
                key: (_loss(lost), bool(right), str(processor))
                for key, (lost, right, processor) in stored["shipped"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: not the state of a search ({misread(error)}); delete it"
            ) from error
        self.sensitivity, self._verdicts, self._shipped = sensitivity, verdicts, shipped
        self.found = (
            f"the sensitivity of {several(len(sensitivity), 'layer')}, "
            f"{several(len(verdicts), 'mix', 'mixes')} and {several(len(shipped), 'engine')}"
        )

    def verdict(self, layers: list[str]) -> float | None:
        """Return what is known of a mix."""
        return self._verdicts.get(json.dumps(layers))

    def shipped(self, key: list[str]) -> _OfEngine | None:
        """Return what is known of the engine of a mix."""
        return self._shipped.get(json.dumps(key))

    def keep(
        self,
        sensitivity: dict[str, float] | None = None,
        verdict: tuple[list[str], float] | None = None,
        shipped: tuple[list[str], _OfEngine] | None = None,
    ) -> None:
        """Write down what was found."""
        self.sensitivity = sensitivity or self.sensitivity
        if verdict is not None:
            self._verdicts[json.dumps(verdict[0])] = verdict[1]
        if shipped is not None:
            self._shipped[json.dumps(shipped[0])] = shipped[1]
        if self.path is not None:
            write_json(
                self.path,
                {
                    "format": _FORMAT, "identity": self.identity, "sensitivity": self.sensitivity,
                    "verdicts": self._verdicts, "shipped": self._shipped,
                },
            )  # fmt: skip


def _loss(stored: float | None) -> float:
    """Return a loss; JSON has no infinity, and null stands for one."""
    return math.inf if stored is None else float(stored)


def _identity(
    prepared: Prepared, table: Placement, budget: Budget, samples: Samples, *more: object
) -> str:
    """Return the SHA-256 of everything that a verdict depends on, but for the budget's size."""
    digest = hashlib.sha256()
    integers = [
        hashlib.sha256(stored.numbers.tobytes() + stored.scale.tobytes()).hexdigest()
        for stored in prepared.improved.weights.values()
    ]
    bias = [
        hashlib.sha256(value.tobytes()).hexdigest() for value in prepared.improved.bias.values()
    ]
    ranges = {name: asdict(value) for name, value in prepared.ranges.tensors.items()}
    for part in (
        fingerprint(prepared.model), ranges, integers, bias, placement_text(table),
        function_reads(budget.metric), sample_reads(samples, labelled=True), more,
    ):  # fmt: skip
        digest.update(repr(part).encode())
    return digest.hexdigest()
