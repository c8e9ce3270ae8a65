"""What a person reads of each command's result; `--json` prints ``to_json`` instead.

What comes from files and models is printed by `say`: without markup or control codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from onnxgraft.files import json_text
from onnxgraft.terminal import say
from onnxgraft.words import several

if TYPE_CHECKING:
    from onnxgraft.commands import (
        Begun,
        Benched,
        BuiltEngine,
        Calibrated,
        Converted,
        Differences,
        Exported,
        Inferred,
        Inspected,
        Operated,
        Quantized,
        RecipeSchema,
        Served,
        Viewed,
    )
    from onnxgraft.commands._bench_load import Searched
    from onnxgraft.commands._budget import BudgetReport
    from onnxgraft.commands._int8 import Int8Graph
    from onnxgraft.run.verdicts import Verdict
    from onnxgraft.stages.convert import Inspection
    from onnxgraft.stages.engine import Bundle
    from onnxgraft.stages.engine.passport import Flags
    from onnxgraft.stages.validate.report import LayersTimedRow, LayerTimeRow, Report

__all__ = [
    "begun", "benched", "built", "bundled", "calibrated", "compared", "converted", "deployed",
    "exported", "inferred", "inspection", "operated", "quantized", "report", "schema", "served",
    "viewed",
]  # fmt: skip

# Columns for names in a table.
_NAME = 20
# Layers that are printed, and columns for the longest bar.
_LAYERS, _BAR = 30, 36
# Changes of a part that are printed.
_CHANGES = 12


def inspection(found: Inspection | Inspected, console: Console) -> None:
    """Print what a file holds."""
    from onnxgraft.commands import Inspected

    if isinstance(found, Inspected):
        say(console, f"{found.path}: {found.summary}")
        _sections(console, found.sections)
        return
    say(console, f"{found.path}: {found.framework}, {found.parameters:,} parameters")
    _sections(
        console,
        {
            "inputs": found.inputs,
            "outputs": found.outputs,
            "variables that are not frozen": found.variables,
            "training leftovers": found.training,
            "dynamic shapes": found.dynamic,
            "layout": found.layout,
            "unsupported operators": found.unsupported,
            "layers": found.layers,
            "notes": found.notes,
        },
    )
    operators = ", ".join(f"{count} {op}" for op, count in found.operators.items())
    console.print(f"[bold]{sum(found.operators.values())} nodes[/]")
    say(console, f"  {operators}")


def _sections(console: Console, sections: Mapping[str, Iterable[str]]) -> None:
    """Print titles, and below each its lines; none where there are no lines."""
    for title, lines in sections.items():
        if lines:
            console.print(f"[bold]{title}[/]")
            for line in lines:
                say(console, f"  {line}")


def converted(done: Converted, console: Console) -> None:
    """Print what conversion made, and how it compares with the original."""
    for note in done.notes:
        say(console, f"{'warning' if note in done.warnings else 'note'}: {note}")
    before = "" if done.surgery is None else f", {sum(done.surgery.before.values())} before"
    after = sum(done.model.operators().values())
    say(console, f"{done.out}: {several(after, 'node')}{before}")
    for kind, specs in (("input", done.model.inputs), ("output", done.model.outputs)):
        for spec in specs:
            say(console, f"  {kind} {spec}")
    _verdicts(console, done.verdicts)
    if done.divergence is not None:
        say(console, f"first {done.divergence}")


def viewed(done: Viewed, console: Console) -> None:
    """Print where the page is and which graphs are in it."""
    for note in done.notes:
        say(console, f"note: {note}")
    stages = ", ".join(f"{title} {several(count, 'node')}" for title, count in done.stages.items())
    say(console, f"{done.out}: {stages}")


def operated(done: Operated, console: Console) -> None:
    """Print what surgery did, or the list of passes."""
    for line in done.passes:
        condition = f" ({line.condition})" if line.condition else ""
        say(console, f"{line.name}: {line.summary}{condition}")
    if done.report is None:
        return
    before, after = sum(done.report.before.values()), sum(done.report.after.values())
    say(console, f"{done.out or done.source}: {several(before, 'node')} became {after}")
    for item in done.report.passes:
        if item.done or item.rolled_back or (done.explain and item.refused):
            say(
                console,
                f"{item.name}: {several(len(item.done), 'rewrite')}, {-item.removed:+d} nodes",
            )
        for mark, findings in (("done", item.done), ("refused", item.refused)):
            for finding in findings if done.explain else []:
                say(console, f"  {mark}: {finding.node}: {finding.sentence}")
    _notes(console, done.report.notes, "")
    _verdicts(console, done.report.verdicts)


def calibrated(done: Calibrated, console: Console) -> None:
    """Print what was measured, and how settled it is."""
    chosen = done.ranges
    if done.assumed:
        say(console, done.assumed)
    say(
        console,
        f"{done.out}: {chosen.method} ranges of {several(len(chosen.tensors), 'tensor')}, "
        f"{several(chosen.images, 'sample')}",
    )
    moved = sorted(chosen.moved.items(), key=lambda item: -item[1])
    if moved:
        say(
            console,
            f"  a quarter of the data, kept apart, moved the ranges by "
            f"{100 * moved[len(moved) // 2][1]:.1f} % (median), that of {moved[0][0]!r} most, "
            f"by {100 * moved[0][1]:.1f} %",
        )
    _notes(console, done.notes)
    if done.cache:
        say(console, f"{done.cache}: a cache for TensorRT {done.trt_version}")


def quantized(done: Quantized, console: Console) -> None:
    """Print what was quantized and what was not, or a target's table."""
    if done.done is None:
        for line in done.placement.splitlines():
            say(console, line)
        return
    if done.assumed:
        say(console, done.assumed)
    for line in _int8_lines(done.done, done.out):
        say(console, line)
    if done.cache_out:
        say(console, f"{done.cache_out}: TensorRT's calibration cache, for the float graph")
    _notes(console, done.notes)
    for tensor, reason in done.unknown.items():
        say(console, f"  not in the model: {tensor} ({reason})")


def _int8_lines(done: Int8Graph, out: str) -> list[str]:
    report = done.report
    total = len(report.layers) + len(report.float_layers)
    what = (
        f"with {report.weights.upper()} weights"
        if report.weights
        else f"in {report.format.upper()}"
    )
    lines = [f"{out}: {len(report.layers)} of {several(total, 'layer')} {what}"]
    if done.search is not None:
        lines += _mixes(done.search)
    lines += [f"  in float: {layer.name} ({layer})" for layer in report.float_layers]
    if done.half is not None:
        lines += [f"  {several(len(done.half.layers), 'node')} in FP16"]
        lines += [f"  in FP32: {name} ({why})" for name, why in done.half.single.items()]
        lines += [
            f"  FP16: {found.tensor!r} {found.what}, headroom {found.headroom:.3g}: {found.done}"
            for found in done.half.findings
        ]
        if done.half.unchecked:
            lines.append(f"  FP16: {_unchecked(len(done.half.unchecked))}")
    for remark in done.remarks:
        some = ", ".join(remark.nodes[:3]) + (", ..." if len(remark.nodes) > 3 else "")
        lines.append(f"  {remark.kind} ({len(remark.nodes)}): {remark.sentence}: {some}")
    return lines


def _unchecked(count: int) -> str:
    tensors = several(count, "tensor has", "tensors have")
    return f"{tensors} no range, so that overflow could not be checked there"


def _mixes(search: BudgetReport) -> list[str]:
    """Return the table of mixes, and how the search went."""
    floats = list(dict.fromkeys(kind for row in search.rows for kind in row.layers))
    metric, inside = str(search.budget.metric), search.kind
    rows = [["", *floats, f"MACs in {inside}", metric, "loss", "engine", "latency"]]
    for row in search.rows:
        rows.append([
            row.name,
            *(str(row.layers.get(kind, 0)) for kind in floats),
            f"{100 * row.macs_int8:.1f} %",
            _number(row.metric),
            _number(row.loss),
            _number(row.engine),
            f"{row.latency:.2f}",
        ])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    verdict = "met" if search.passed else "NOT met; this is the best mix that was found"
    lines.append(
        f"  the budget {search.budget.metric}={search.budget.drop:g} is {verdict}: "
        f"{search.measured}; {several(search.trials, 'mix', 'mixes')} tried in "
        f"{search.seconds:.0f} s"
    )
    lines.append(f"  latency: {search.latency}")
    if search.all_int8 > 0 and search.predicted > 0:
        lines.append(
            f"  sensitivity: the layers' noise adds up to {10 * math.log10(search.predicted):.1f} "
            f"dB of the signal, all {inside} measures {10 * math.log10(search.all_int8):.1f} dB"
        )
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def built(done: BuiltEngine, console: Console) -> None:
    """Print what was built, and what FP16 does not hold of it."""
    passport = done.passport
    with_ = ", ".join(f"{name} {version}" for name, version in passport.versions.items())
    say(console, f"{done.out}: {passport.label} engine for {with_}, {done.size / 1e6:.1f} MB")
    for note in filter(None, (done.chosen, *done.notes)):
        say(console, f"  {note}")
    _float32(console, passport.flags)
    _notes(console, passport.notes, "")
    if passport.flags.chosen:
        say(console, f"{passport.flags.chosen} is {passport.flags.device or 'CPU'} here")
    for share in passport.divided:
        say(console, f"  {share}")
    for output in passport.proof:
        seen = "proven" if output.passed else "NOT PROVEN"
        say(console, f"{seen} on {passport.runs_on}: {output}")
    if not passport.proof:
        known = f"; it is for {passport.runs_on}" if passport.runs_on else ""
        say(console, f"not run here{known}")
    if done.layers:
        say(console, f"{done.layers_out}: {several(len(done.layers), 'layer')}")


def bundled(done: Bundle, console: Console) -> None:
    """Print what was packed, and how it is used."""
    out = Path(done.path)
    say(console, f"{out}: {done.size / 1e6:.1f} MB")
    _float32(console, done.flags)
    if done.dla is not None:
        say(console, f"for core {done.dla} of the DLA, with TensorRT 10")
        for node in done.on_gpu:
            say(console, f"  on the GPU, by NVIDIA's documentation: {node}")
    say(console, f"on the target: python3 {out.name} -o {out.stem}.engine")
    say(console, f"or, after python3 {out.name} --extract .:")
    for major, line in done.trtexec.items():
        say(console, f"  TensorRT {major}: {line}")
    _notes(console, list(done.notes))


def benched(done: Benched, console: Console) -> None:
    """Print the table of latencies, or those of loads and settings."""
    from onnxgraft.stages.validate.views.text import hosts_told

    if not done.rows and not done.hosts:
        _loads(done, console)
        for found in done.searches:
            _settings(found, console)
        _notes(console, done.notes, "")
        return
    say(console, "Milliseconds per batch; speed-up over the original and over FP32")
    rows = [["engine", "batch", "ms", "p90", "p99", "images/s", "original", "fp32"]]
    for row, ratio in zip(done.rows, done.ratios, strict=True):
        rows.append([
            row.name,
            str(row.batch),
            f"{row.median_ms:.2f}",
            f"{row.p90_ms:.2f}",
            f"{row.p99_ms:.2f}",
            f"{row.images_per_second:.1f}",
            *("" if times is None else f"{times:.2f}x" for times in (ratio.original, ratio.fp32)),
        ])
    for line in _aligned(rows) if done.rows else ():
        say(console, line)
    hosts_told(done.hosts, console)
    if done.layers_timed:
        say(console, "")
    layer_times(done.layers, done.layers_timed, console)
    _notes(console, done.notes, "")


def _loads(done: Benched, console: Console) -> None:
    """Print what many requests at once gave; ? marks what is not to be relied on."""
    if not done.loads:
        return
    say(console, "Milliseconds from when a request was due; requests a second, and their spread")
    rows = [["engine", "load", "p50", "p90", "p99", "p99.9", "a second", "spread", "ratio"]]
    for row in done.loads:
        told = row.told
        clients = f"{row.clients} client{'s' * (row.clients != 1)}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x{'?' * row.chance}"
        shares = [f"{value:.2f}" for value in told.percentiles]
        shares[2] += "?" * told.few
        spread = (told.fastest - told.slowest) / 2 / told.per_second if told.per_second else 0.0
        rows.append([
            row.name, clients if row.rate is None else f"{row.rate:g}/s", *shares,
            f"{told.per_second:.1f}", f"{100 * spread:.0f} %", ratio,
        ])  # fmt: skip
    for line in _aligned(rows):
        say(console, line)
    for setting in dict.fromkeys(row.setting for row in done.loads):
        say(console, f"run {setting}")


def _settings(found: Searched, console: Console) -> None:
    """Print the settings that were tried, the best first."""
    say(console, f"{found.name}: requests a second of which 99 % take {found.limit:g} ms at most")
    rows = [["settings", "rate", "p99", "at most"]]
    for trial in found.trials:
        p99 = "" if trial.at is None else f"{trial.at.p99:.2f}{'?' * trial.at.few}"
        rate = f"{trial.rate:.1f}" if trial.rate else "not tried" if trial.skipped else "none"
        rows.append([str(trial.setting), rate, p99, f"{trial.capacity:.1f}"])
    for line in _aligned(rows):
        say(console, f"  {line}")
    if found.stored:
        say(console, f"the best stands in the passport of {found.name}")


def layer_times(
    rows: Sequence[LayerTimeRow], wholes: Sequence[LayersTimedRow], console: Console
) -> None:
    """Print a bar for each layer and engine, what they take together, and what costs."""
    engines = [whole.engine for whole in wholes]
    for number, whole in enumerate(wholes):
        lost = 100 * whole.lost / whole.layers if whole.layers else 0.0
        say(
            console,
            f"{number + 1}: {whole.engine}, batch {whole.batch}, {whole.total:.2f} ms; its layers, "
            f"counted, {whole.layers:.2f} ms, of which {lost:.1f} % found none of the network's",
        )
    by_layer: dict[str, dict[str, LayerTimeRow]] = {}
    for row in rows:
        by_layer.setdefault(row.layer, {})[row.engine] = row
    longest = max((row.milliseconds for row in rows), default=0.0) or 1.0
    costs = {name: max(r.milliseconds for r in mine.values()) for name, mine in by_layer.items()}
    costly = set(sorted(costs, key=lambda name: -costs[name])[:_LAYERS])
    for name, mine in by_layer.items():
        if name not in costly:
            continue
        say(console, f"{name} ({next(iter(mine.values())).operator})")
        for number, engine in enumerate(engines):
            if engine in mine:
                row = mine[engine]
                bar = "█" * round(_BAR * row.milliseconds / longest)
                say(console, f"  {number + 1} {row.milliseconds:9.3f} ms  {_kinds(row):17} {bar}")
    if len(by_layer) > len(costly):
        rest = [
            sum(row.milliseconds for row in rows if row.engine == one and row.layer not in costly)
            for one in engines
        ]
        told = ", ".join(f"{number + 1}: {ms:.2f} ms" for number, ms in enumerate(rest))
        say(console, f"and {len(by_layer) - len(costly)} more layers ({told})")
    for whole in wholes:
        for sentence in whole.slow:
            say(console, f"{whole.engine}: {sentence}")


def _kinds(row: LayerTimeRow) -> str:
    """Return what a layer runs in, and what the graph has it in where that is another."""
    told = row.precision or "?"
    return told if row.graph in ("", row.precision) else f"{told} (graph {row.graph})"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as lines; a name that is too long for it has a line of its own."""
    names, cells = [row[0] for row in rows], [row[1:] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    left = min(_NAME, max(map(len, names)))
    lines = []
    for name, row in zip(names, cells, strict=True):
        if len(name) > left:
            lines.append(name)
        first = name if len(name) <= left else ""
        numbers = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append(f"{first:{left}}  {'  '.join(numbers)}".rstrip())
    return lines


def inferred(done: Inferred, console: Console) -> None:
    """Print what an engine says of each image."""
    if done.assumed:
        say(console, done.assumed)
    for answer in done.answers:
        say(console, answer.image)
        for line in answer.lines():
            say(console, f"  {line}")
    if done.out.endswith(".npz"):
        say(console, f"{done.out}: the outputs, images along axis 0")
    _notes(console, done.notes)


def exported(done: Exported, console: Console) -> None:
    """Print what was written, and what whoever runs the server should know."""
    version = f", version {done.version}" * bool(done.version)
    say(console, f"{done.out}: {done.name}{version}: {', '.join(done.files)}")
    _notes(console, done.notes)


def served(done: Served, console: Console) -> None:
    """Print what a server did."""
    say(console, f"{done.url}: {several(done.requests, 'request')} in {done.seconds:.0f} s")


def report(done: Report, console: Console) -> None:
    """Print a report."""
    from onnxgraft.stages.validate import render

    render(done, console)


def begun(done: Begun, console: Console) -> None:
    """Print where a recipe was written, what was found out, and what is to be done next."""
    _notes(console, done.notes, indent="")
    say(console, f"{done.out}: written{f', with {done.schema} for editors' * bool(done.schema)}")
    if done.unfilled:
        say(console, f"fill in {' and '.join(done.unfilled)}, and check the rest")
    say(console, f"then: onnxgraft deploy {done.out}")


def schema(done: RecipeSchema, console: Console) -> None:
    """Print the schema, or where it was written."""
    if done.out:
        say(console, f"{done.out}: written")
    else:
        print(json_text(done.to_json()))


def compared(done: Differences, console: Console) -> None:
    """Print what changed from one run to another, by part, the largest changes first."""
    from onnxgraft.commands._diff import shown, times

    for part, changes in done.parts().items():
        same = done.same.get(part, 0)
        say(console, f"{part}: {len(changes)} changed, {same} the same", "bold")
        for change in changes[:_CHANGES]:
            ratio = f" ({times(change)})" if times(change) else ""
            told = f"{shown(change.before)} -> {shown(change.after)}{ratio}"
            say(console, f"  {change.name}: {told}")
        if len(changes) > _CHANGES:
            say(console, f"  and {len(changes) - _CHANGES} more")
    if not done.changes:
        say(console, "both say the same")
    _notes(console, done.missing, "")
    for sentence in done.worse:
        say(console, f"WORSE: {sentence}", "red")
    if done.out:
        say(console, f"{done.out}: written")


def deployed(done: Report, console: Console) -> None:
    """Print a report, and where it was written."""
    report(done, console)
    console.print()
    say(console, f"report: {done.artifacts['report']}")


def _notes(console: Console, notes: Iterable[str], indent: str = "  ") -> None:
    for note in notes:
        say(console, f"{indent}note: {note}")


def _verdicts(console: Console, verdicts: Iterable[Verdict]) -> None:
    """Print the worst comparison of each output."""
    worst: dict[str, Verdict] = {}
    for verdict in sorted(verdicts, key=lambda v: v.max_abs / v.tolerance):
        worst[verdict.output] = verdict
    for verdict in worst.values():
        console.print("[green]pass[/]" if verdict.passed else "[red]FAIL[/]", end=" ")
        say(
            console,
            f"{verdict.output}: differs by at most {verdict.max_abs:.1e}, "
            f"{verdict.tolerance:.1e} allowed",
        )


def _float32(console: Console, flags: Flags) -> None:
    """Print what FP16 does not hold."""
    for name, reason in flags.float32.items():
        say(console, f"  in FP32: {name} ({reason})")
    if flags.unchecked:
        told = _unchecked(flags.unchecked)
        say(console, f"  FP16: {told}; --ranges names those of what layers read (calibrate)")
