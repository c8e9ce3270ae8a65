"""From a float graph and its ranges to the graph that is deployed: improve, search, place, FP16."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from onnxgraft.commands._budget import Budget, BudgetReport, within_budget
from onnxgraft.data.labels import Labels
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.ranges import Ranges
from onnxgraft.data.samples import Samples
from onnxgraft.errors import InputError, NotSupportedError, nearest
from onnxgraft.graph import float8
from onnxgraft.graph.lift import lift, lifting
from onnxgraft.graph.model import Model
from onnxgraft.run.raising import raised
from onnxgraft.stages.engine import BuildOptions
from onnxgraft.stages.quantize import (
    OLDEST_OPSET,
    FloatLayer,
    HalfReport,
    Improved,
    Placement,
    Prepared,
    QuantizeReport,
    Remark,
    Retargeted,
    explain,
    fingerprint,
    improve,
    quantize,
    store_weights,
    to_half,
    weights_opset,
    whole_ranges,
)
from onnxgraft.stages.quantize.place.costs import shares
from onnxgraft.stages.quantize.place.half import OnOverflow
from onnxgraft.targets import FLOATS, TARGETS, WEIGHT_TYPES, Floats, WeightType, find_target
from onnxgraft.targets.cpu import Cpu

__all__ = ["PRECISION_KEY", "Int8Graph", "QuantizeOptions", "check_weights", "int8_graph"]

# Where the graph says what it was made for: the float precision is the engine's to choose.
PRECISION_KEY = "onnxgraft.precision"


@dataclass(frozen=True)
class QuantizeOptions:
    """How a graph is quantized.

    Attributes:
        table: The target's placement.
        int8: Whether there is INT8 at all.
        weights: What weights alone are stored as, where activations stay float.
        block: How many of them share a scale; None is the target's.
        floats: ``fp32``, ``fp16`` (written into the graph) or ``bf16`` (noted for OpenVINO, which
            computes in it by itself).
        cpu: The processor that the engine is for; None is this machine's.
        place: The device or provider that it is for.
        keep_float: Layers that stay in float.
        given: What a graph brought that was quantized already.
        improvements: Methods of `onnxgraft.stages.quantize.improve`.
        calibration: What they look at.
        budget: What may be lost; None keeps everything in INT8.
        validation: On which that is measured.
        classes: Of the metrics ``miou`` and ``map``.
        metric_output: The output that the metric looks at.
        postprocess: How boxes stand in it.
        labels: By the images' file names, where they do not come with ``validation``.
        trials: How many mixes are tried at most.
        state: The file in which a search remembers.
        resume: Whether what it remembers has to be of the same search.
        fresh: Whether it begins anew, whatever it remembers.
        on_overflow: What becomes of tensors that FP16 does not hold.
        explain: Whether to tell why INT8 may not be faster.
        seed: Chooses positions in samples.
    """

    table: Placement
    int8: bool = True
    weights: WeightType | None = None
    block: int | None = None
    floats: Floats = "fp32"
    cpu: Cpu | None = None
    place: BuildOptions = field(default_factory=BuildOptions)
    keep_float: tuple[str, ...] = ()
    given: Retargeted | None = None
    improvements: tuple[str, ...] = ()
    calibration: Samples | None = None
    budget: Budget | None = None
    validation: Samples | None = None
    classes: str | None = None
    metric_output: str | None = None
    postprocess: Postprocess | None = None
    labels: Labels | None = None
    trials: int = 24
    state: str | os.PathLike[str] | None = None
    resume: bool = False
    fresh: bool = False
    on_overflow: OnOverflow = "keep"
    explain: bool = False
    seed: int = 0


@dataclass
class Int8Graph:
    """What was made, and everything that was decided.

    Attributes:
        model: To be saved.
        report: Of the placement.
        search: Of the budget, if there was one.
        half: Of the FP16 part, if there is one.
        remarks: Why INT8 may not be faster, if that was asked.
        notes: Sentences that the user should read.
        ranges: That the INT8 layers were made with.
        improved: The methods that made it lose less.
    """

    model: Model
    report: QuantizeReport
    search: BudgetReport | None = None
    half: HalfReport | None = None
    remarks: list[Remark] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ranges: Ranges | None = None
    improved: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the budget is kept, if there is one."""
        return self.search is None or self.search.passed


def int8_graph(model: Model, ranges: Ranges | None, options: QuantizeOptions) -> Int8Graph:
    """Return the graph to deploy: in INT8, or in FP8 where the table says so.

    Args:
        model: A float graph.
        ranges: Of it; may be None where there is no INT8, FP16 is then not checked for overflow.
        options: How.

    Raises:
        InputError: The options contradict each other, or see `improve`, `quantize`, `to_half`.
    """
    notes = [note] if (note := lifting(model)) else []
    model = lift(model)
    table = options.table
    how = find_target(table.target).floats
    if options.floats not in FLOATS:
        raise InputError(f"--float {options.floats}: {nearest(options.floats, FLOATS)}")
    if options.floats != "fp32" and options.floats not in how:
        able = [target.name for target in TARGETS if options.floats in target.floats]
        raise NotSupportedError(
            f"--float {options.floats}: {table.target} does not compute in it here; "
            f"{' and '.join(able)} can"
        )
    if options.int8 and ranges is None and options.weights is None:
        raise InputError("an INT8 graph needs ranges")
    if not options.int8 and (options.budget or options.improvements):
        raise InputError("--no-int8 leaves nothing to improve or to search")
    if options.int8:
        opset = OLDEST_OPSET if table.format == "int8" else float8.OPSET
        if options.weights is not None:
            opset = weights_opset(model, table, options.weights, options.block)
        before = fingerprint(model) if table.format == "fp8" else ""
        model, more = raised(model, opset)
        notes += more
        if ranges is not None and more and ranges.model == before:
            # The same graph, whose tensors keep their names.
            ranges = replace(ranges, model=fingerprint(model))
    if options.weights is not None:
        done = _stored(model, options.weights, options)
    elif options.int8 and ranges is not None:
        done = _int8(model, ranges, options)
    else:
        done = Int8Graph(model.copy(), QuantizeReport(table.target))
    done.notes[:0] = notes
    if options.explain and options.int8:
        done.remarks = explain(done.model.graph, table)
    if how.get(options.floats) == "graph":
        keep = () if options.int8 else options.keep_float
        done.model, done.half = to_half(
            done.model, ranges, on_overflow=options.on_overflow, keep=keep
        )
    done.model.metadata[PRECISION_KEY] = json.dumps({
        "target": table.target,
        options.weights or table.format: len(done.report.layers),
        "float": options.floats,
        "improved": list(done.improved),
    })
    return done


def check_weights(
    weights: WeightType | None, block: int | None, others: Mapping[str, bool]
) -> None:
    """Refuse what has no meaning where weights alone are stored as integers.

    Args:
        weights: What they are stored as; None stores none so.
        block: How many share a scale; None is the target's.
        others: By the name of an option, whether it is given.

    Raises:
        InputError: A value is unknown, or something else is given that needs ranges.
    """
    if weights is None:
        if block is not None:
            raise InputError("--block is of --weights int8 or int4; name one")
        return
    if weights not in WEIGHT_TYPES:
        raise InputError(f"--weights {weights}: {nearest(weights, WEIGHT_TYPES)}")
    for flag, given in others.items():
        if given:
            raise InputError(
                f"--weights {weights} with {flag}: activations stay float, so that there is "
                "nothing for it to do; leave one of them out"
            )


def _stored(model: Model, kind: WeightType, options: QuantizeOptions) -> Int8Graph:
    """Return the graph with stored weights."""
    graph, report = store_weights(
        model, options.table, kind, block=options.block, keep_float=options.keep_float,
        samples=options.calibration, seed=options.seed,
    )  # fmt: skip
    report.float_layers = _with_shares(model, report.float_layers)
    return Int8Graph(graph, report, notes=list(report.notes))


def _with_shares(model: Model, layers: list[FloatLayer]) -> list[FloatLayer]:
    share = shares(model) if layers else {}
    return [replace(layer, share=share.get(layer.name)) for layer in layers]


def _int8(model: Model, ranges: Ranges, options: QuantizeOptions) -> Int8Graph:
    given = options.given
    notes: list[str] = []
    if options.table.format == "fp8" and not options.improvements:
        ranges, note = whole_ranges(ranges)
        notes += [note] if note else []
    prepared = Prepared(model, ranges, Improved() if given is None else given.improved)
    if options.improvements:
        if options.calibration is None:
            raise InputError("the methods that improve accuracy need the calibration data")
        prepared = improve(
            model, ranges, options.table, options.calibration, options.improvements,
            seed=options.seed,
        )  # fmt: skip
        notes += prepared.notes
    reasons = {} if given is None else dict(given.float_layers)
    reasons |= dict.fromkeys(options.keep_float, "requested")
    search = None
    if options.budget is not None and options.validation is not None:
        quantize(prepared.model, prepared.ranges, options.table, keep_float=reasons)
        found, search = within_budget(
            prepared, options.table, options.budget, options.validation,
            classes=options.classes, output=options.metric_output, how=options.postprocess,
            labels=options.labels, floats=options.floats, cpu=options.cpu, place=options.place,
            keep_float=tuple(reasons),
            calibration=options.calibration, state=options.state,
            resume=options.resume, fresh=options.fresh, most=options.trials,
        )  # fmt: skip
        reasons |= found
        notes += search.notes
    graph, report = quantize(
        prepared.model, prepared.ranges, options.table,
        keep_float=reasons, improved=prepared.improved,
    )  # fmt: skip
    report.float_layers = _with_shares(prepared.model, report.float_layers)
    notes += report.notes
    return Int8Graph(
        graph, report, search, notes=notes, ranges=prepared.ranges, improved=prepared.methods
    )
