"""The report for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onnxgraft.errors import printable
from onnxgraft.stages.validate.report import EngineRow, HostRow, Report
from onnxgraft.stages.validate.views.numbers import metric_value
from onnxgraft.terminal import say
from onnxgraft.words import several

__all__ = ["hosts_told", "render"]

# More tasks a core than this are told: other work may have slowed what was timed.
BUSY = 1.5


def render(report: Report, console: Console) -> None:
    """Print the tables of ``report``."""
    if report.assumed:
        _say(console, report.assumed, "bold")
    if report.data:
        _say(console, report.data, "bold")
    if report.stages:
        console.print(_stages(report))
    if report.candidates:
        console.print(_candidates(report))
        _print_outputs(report, console)
        # More would not fit; the report has them all.
        if report.candidates[0].per_class and len(report.candidates) <= 2:
            console.print(_classes(report))
    if report.latency:
        console.print(_latency(report))
    if report.candidates or report.engines:
        console.print()
    for engine in report.engines:
        _say(console, _proven(engine), "red" if engine.proven is False else None)
    for row in report.candidates[1:]:
        _say(console, f"{row.name}: {row.verdict}", None if row.passed else "red")
    hosts_told(report.hosts, console)
    for sentence in report.missed:
        _say(console, sentence, "red")
    for target, layer, reason in report.float_layers:
        _say(console, f"in float for {target}: {layer} ({reason})")
    if report.times:
        parts = ", ".join(f"{row.stage} {row.seconds:.1f}" for row in report.times)
        _say(console, f"took {report.seconds:.1f} s: {parts}")
    for note in report.notes:
        _say(console, f"note: {note}")
    # At the end, where it can't be missed.
    for warning in report.warnings:
        _say(console, f"WARNING: {warning}", "bold yellow")


def hosts_told(hosts: Sequence[HostRow], console: Console) -> None:
    """Print what is known of each host, and why it did not answer."""
    for host in hosts:
        if not host.answered:
            _say(console, f"{host.name}: NO ANSWER: {host.error}", "red")
            continue
        with_ = ", ".join(f"{name} {version}" for name, version in host.versions.items())
        busy = f", busy: {host.busy:.1f} tasks a core" if host.busy > BUSY else ""
        _say(console, f"{host.name}: {host.processor}, {host.cores} cores{busy}; {with_}")
        for note in host.notes:
            _say(console, f"note: {host.name}: {note}")


def _proven(engine: EngineRow) -> str:
    """Return the sentence on whether an engine computes what its graph says."""
    on = f"{engine.cpu}: {engine.arithmetic}" if engine.arithmetic else engine.gpu or engine.cpu
    if engine.proven is None:
        return f"{engine.name}: not run when it was built" + (f"; it is for {on}" if on else "")
    verdict = "proven" if engine.proven else "NOT PROVEN"
    forms = f"; {len(engine.forms)} changes of form, see the report" if engine.forms else ""
    return f"{engine.name}: {verdict}{f' on {on}' if on else ''}{forms}"


def _say(console: Console, text: str, style: str | None = None) -> None:
    """Print a sentence beside the tables, and as wide as they are."""
    say(console, text, style, always=True)


def _cell(text: str) -> str:
    """Return a stranger's name for a table."""
    return escape(printable(text))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def _mark(passed: bool) -> str:
    return "[green]pass[/]" if passed else "[red]FAIL[/]"


def _stages(report: Report) -> Table:
    table = _table(
        f"\n[bold]Stages[/] of {_cell(report.title)}: the largest difference from the original",
        "stage", "nodes", "max diff", "of range", "", "s",
    )  # fmt: skip
    for row in report.stages:
        table.add_row(
            _cell(row.stage),
            "" if row.after is None else f"{row.before} -> {row.after}",
            f"{row.max_abs:.1e}",
            f"{row.relative:.1e}",
            _mark(row.passed) if row.tolerance is not None else "see below",
            f"{row.seconds:.1f}",
        )
    return table


def _candidates(report: Report) -> Table:
    names = list(report.candidates[0].metrics)
    table = _table(
        f"\n[bold]Validation[/] on {several(report.samples, 'sample')}",
        "engine", *names, "agreement", "",
    )  # fmt: skip
    for number, row in enumerate(report.candidates):
        mark = "[bold yellow]pass, WARNING[/]" if row.passed and row.warnings else _mark(row.passed)
        table.add_row(
            _cell(row.name),
            *(metric_value(row.metrics[name]) for name in names),
            row.agrees,
            mark if number else "",
        )
    return table


def _print_outputs(report: Report, console: Console) -> None:
    console.print("\n[bold]Outputs[/] against the original's")
    for row in report.candidates:
        for output in row.outputs:
            _say(console, f"{row.name}, {output.output}")
            agreement = (
                "" if output.agreement is None else f", same argmax {100 * output.agreement:.2f} %"
            )
            console.print(
                f"  max {output.max_abs:.1e} ({output.relative:.1e} of the range), "
                f"mean {output.mean_abs:.1e}\n"
                f"  relative to each value: max {output.max_rel:.1e}, mean {output.mean_rel:.1e}\n"
                f"  cosine {output.cosine:.6f}, SQNR {output.sqnr:.1f} dB"
                f"{'' if output.least_sqnr is None else f' ({output.least_sqnr:.1f} wanted)'}\n"
                f"  PSNR {output.psnr:.1f} dB{agreement}",
                highlight=False,
                markup=False,
            )
            if output.nonfinite:
                _say(console, f"  {output.nonfinite} values are NaN or infinite, and left out here")


def _classes(report: Report) -> Table:
    table = _table("\n[bold]Classes[/]", "class", *(_cell(row.name) for row in report.candidates))
    for name in report.candidates[0].per_class:
        values = (row.per_class.get(name) for row in report.candidates)
        table.add_row(_cell(name), *("" if v is None else f"{v:.2f}" for v in values))
    return table


def _latency(report: Report) -> Table:
    table = _table(
        "\n[bold]Latency[/], each engine in its own process, in turn",
        "engine", "batch", "median ms", "p90", "p99", "images/s", "speed-up",
    )  # fmt: skip
    reference = {row.batch: row.median_ms for row in reversed(report.latency)}
    for row in report.latency:
        table.add_row(
            _cell(row.name),
            str(row.batch),
            f"{row.median_ms:.2f}",
            f"{row.p90_ms:.2f}",
            f"{row.p99_ms:.2f}",
            f"{row.images_per_second:.1f}",
            f"{reference[row.batch] / row.median_ms:.2f}x",
        )
    return table
