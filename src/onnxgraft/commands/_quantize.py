"""One call from a float graph and its ranges to what is deployed: improve, search, place, FP16."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onnxgraft.commands._budget import Budget, BudgetReport, within_budget
from onnxgraft.data.ranges import Ranges
from onnxgraft.data.samples import Samples
from onnxgraft.errors import InputError, NotSupportedError
from onnxgraft.graph.model import Model
from onnxgraft.stages.quantize import (
    HalfReport,
    Placement,
    Prepared,
    QuantizeReport,
    Remark,
    explain,
    improve,
    quantize,
    to_half,
)
from onnxgraft.stages.quantize.place.half import OnOverflow
from onnxgraft.targets import TARGETS, Floats, find_target

__all__ = ["PRECISION_KEY", "QuantizeOptions", "Quantized", "quantize_model"]

# Where the graph says what it was made for: the float precision is the engine's to choose.
PRECISION_KEY = "onnxgraft.precision"


@dataclass(frozen=True)
class QuantizeOptions:
    """How a graph is quantized.

    Attributes:
        table: The target's placement.
        int8: Whether there is INT8 at all.
        floats: ``fp32``, ``fp16`` (written into the graph) or ``bf16`` (noted for OpenVINO, which
            computes in it by itself).
        keep_float: Layers that stay in float.
        improvements: Methods of `onnxgraft.stages.quantize.improve`.
        calibration: What they look at.
        budget: What may be lost; None keeps everything in INT8.
        validation: On which that is measured.
        classes: Of the metric ``miou``.
        metric_output: The output that the metric looks at.
        trials: How many mixes are judged at most.
        state: The file in which a search remembers.
        resume: Whether to go on with one that was cut short.
        on_overflow: What becomes of tensors that FP16 does not hold.
        explain: Whether to tell why INT8 may not be faster.
        seed: Chooses positions in samples.
    """

    table: Placement
    int8: bool = True
    floats: Floats = "fp32"
    keep_float: tuple[str, ...] = ()
    improvements: tuple[str, ...] = ()
    calibration: Samples | None = None
    budget: Budget | None = None
    validation: Samples | None = None
    classes: str = "camvid"
    metric_output: str | None = None
    trials: int = 24
    state: str | os.PathLike[str] | None = None
    resume: bool = False
    on_overflow: OnOverflow = "keep"
    explain: bool = False
    seed: int = 0


@dataclass
class Quantized:
    """What was made, and everything that was decided.

    Attributes:
        model: To be saved.
        report: Of the placement.
        search: Of the budget, if there was one.
        half: Of the FP16 part, if there is one.
        remarks: Why INT8 may not be faster, if that was asked.
        notes: Sentences that the user should read.
        state: The search's file, to be removed when the model is saved.
        ranges: That the INT8 layers were made with.
    """

    model: Model
    report: QuantizeReport
    search: BudgetReport | None = None
    half: HalfReport | None = None
    remarks: list[Remark] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    state: Path | None = None
    ranges: Ranges | None = None

    @property
    def passed(self) -> bool:
        """Whether the budget is kept, if there is one."""
        return self.search is None or self.search.passed

    def forget(self) -> None:
        """Remove the search's file."""
        if self.state is not None:
            self.state.unlink(missing_ok=True)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the model as plain values."""
        return {
            "passed": self.passed,
            **asdict(self.report),
            "search": None if self.search is None else asdict(self.search),
            "fp16": None if self.half is None else asdict(self.half),
            "explain": [asdict(remark) for remark in self.remarks],
        }

    def lines(self, out: str) -> list[str]:
        """Return what a person reads."""
        report = self.report
        total = len(report.layers) + len(report.float_layers)
        lines = [f"{out}: {len(report.layers)} of {total} layers in INT8"]
        if self.search is not None:
            lines += _table(self.search)
        lines += [f"  in float: {layer.name} ({layer.reason})" for layer in report.float_layers]
        if self.half is not None:
            lines += [f"  {len(self.half.layers)} nodes in FP16"]
            lines += [f"  in FP32: {name} ({why})" for name, why in self.half.single.items()]
            lines += [
                f"  FP16: {found.tensor!r} {found.what}, headroom {found.headroom:.3g}: "
                f"{found.done}"
                for found in self.half.findings
            ]
            if self.half.unchecked:
                lines.append(
                    f"  FP16: {len(self.half.unchecked)} tensors have no range, so their overflow "
                    "could not be checked"
                )
        for remark in self.remarks:
            some = ", ".join(remark.nodes[:3]) + (", ..." if len(remark.nodes) > 3 else "")
            lines.append(f"  {remark.kind} ({len(remark.nodes)}): {remark.sentence}: {some}")
        return lines


def quantize_model(model: Model, ranges: Ranges | None, options: QuantizeOptions) -> Quantized:
    """Return the graph to deploy.

    Args:
        model: A float graph.
        ranges: Of it; may be None where there is no INT8, FP16 is then not checked for overflow.
        options: How.

    Raises:
        InputError: The options contradict each other, or see `improve`, `quantize`, `to_half`.
    """
    table = options.table
    how = find_target(table.target).floats
    if options.floats != "fp32" and options.floats not in how:
        able = [target.name for target in TARGETS if options.floats in target.floats]
        raise NotSupportedError(
            f"--float {options.floats}: {table.target} does not compute in it here; "
            f"{' and '.join(able)} can"
        )
    if options.int8 and ranges is None:
        raise InputError("an INT8 graph needs ranges")
    if not options.int8 and (options.budget or options.improvements):
        raise InputError("--no-int8 leaves nothing to improve or to search")
    done = _int8(model, ranges, options) if options.int8 and ranges is not None else Quantized(
        model.copy(), QuantizeReport(table.target)
    )  # fmt: skip
    if options.explain and options.int8:
        done.remarks = explain(done.model.graph, table)
    if how.get(options.floats) == "graph":
        keep = () if options.int8 else options.keep_float
        done.model, done.half = to_half(
            done.model, ranges, on_overflow=options.on_overflow, keep=keep
        )
    done.model.metadata[PRECISION_KEY] = json.dumps({
        "target": table.target,
        "int8": len(done.report.layers),
        "float": options.floats,
        "improved": list(options.improvements),
    })
    return done


def _int8(model: Model, ranges: Ranges, options: QuantizeOptions) -> Quantized:
    prepared = Prepared(model, ranges)
    notes: list[str] = []
    if options.improvements:
        if options.calibration is None:
            raise InputError("the methods that improve accuracy need the calibration data")
        prepared = improve(
            model, ranges, options.table, options.calibration, options.improvements,
            seed=options.seed,
        )  # fmt: skip
        notes += prepared.notes
    reasons = dict.fromkeys(options.keep_float, "asked for")
    search = None
    if options.budget is not None and options.validation is not None:
        quantize(prepared.model, prepared.ranges, options.table, keep_float=reasons)
        found, search = within_budget(
            prepared, options.table, options.budget, options.validation,
            classes=options.classes, output=options.metric_output, floats=options.floats,
            keep_float=options.keep_float, calibration=options.calibration, state=options.state,
            resume=options.resume, most=options.trials,
        )  # fmt: skip
        reasons |= found
        notes += search.notes
    graph, report = quantize(
        prepared.model, prepared.ranges, options.table,
        keep_float=reasons, improved=prepared.improved,
    )  # fmt: skip
    state = None if options.state is None or search is None else Path(options.state)
    return Quantized(graph, report, search, notes=notes, state=state, ranges=prepared.ranges)


def _table(search: BudgetReport) -> list[str]:
    """Return the table of mixes, and how the search went."""
    floats = list(dict.fromkeys(kind for row in search.rows for kind in row.layers))
    head = ["", *floats, "MACs in INT8", search.budget.metric, "loss", "latency"]
    rows = [head]
    for row in search.rows:
        rows.append([
            row.name,
            *(str(row.layers.get(kind, 0)) for kind in floats),
            f"{100 * row.macs_int8:.1f} %",
            _number(row.metric),
            _number(row.loss),
            f"{row.latency:.2f}",
        ])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    verdict = "kept" if search.passed else "NOT kept; this is the best that was found"
    lines.append(
        f"  the budget {search.budget.metric}={search.budget.drop:g} is {verdict}: "
        f"{search.trials} mixes judged in {search.seconds:.0f} s"
    )
    lines.append(f"  latency: {search.latency}")
    if search.all_int8 > 0 and search.predicted > 0:
        lines.append(
            f"  sensitivity: the layers' noise adds up to {10 * math.log10(search.predicted):.1f} "
            f"dB of the signal, all INT8 makes {10 * math.log10(search.all_int8):.1f} dB"
        )
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
