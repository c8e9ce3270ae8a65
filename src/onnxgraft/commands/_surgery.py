"""`surgery`: the clean-up of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from onnxgraft.commands._arguments import Names, names
from onnxgraft.commands._opening import ModelGiven, Place, as_model
from onnxgraft.commands._outputs import ONNX, check_output
from onnxgraft.errors import InputError
from onnxgraft.files import write_json
from onnxgraft.graph.cut import extract
from onnxgraft.graph.foreign import JSON
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensor_option import parse_tensors
from onnxgraft.stages.surgery import PASSES, Pass, Plugin, SurgeryReport, run
from onnxgraft.targets import find_target

__all__ = ["Operated", "PassLine", "surgery"]


@dataclass(frozen=True)
class PassLine:
    """A line of the list of passes.

    Attributes:
        name: As ``only`` and ``skip`` take it.
        summary: What it does.
        condition: When it runs, if it does not always.
    """

    name: str
    summary: str
    condition: str


@dataclass
class Operated:
    """A cleaned graph, and what was done to it; or the list of passes.

    Attributes:
        model: The cleaned graph; None where passes were listed.
        report: What each pass did and refused; None likewise.
        out: Where the graph was written; empty if nowhere.
        source: What the graph was called.
        explain: Whether what was done and refused shall be printed node by node.
        passes: The list, if that was asked for.
    """

    model: Model | None = None
    report: SurgeryReport | None = None
    out: str = ""
    source: str = ""
    explain: bool = False
    passes: tuple[PassLine, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every comparison that was made is within its tolerance."""
        return self.report is None or self.report.passed

    def to_json(self) -> dict[str, Any]:
        """Return everything but the model as plain values."""
        if self.report is None:
            return {"passes": {line.name: line.summary for line in self.passes}}
        return {"out": self.out or None, **asdict(self.report)}


def surgery(
    model: ModelGiven = None,
    out: Place | None = None,
    *,
    list_passes: bool = False,
    only: Names = None,
    skip: Names = None,
    extra: Names = None,
    inputs: str | None = None,
    outputs: str | None = None,
    target: str | None = None,
    plugin: Sequence[str] | Mapping[str, Plugin] = (),
    verify: bool | None = None,
    explain: bool = False,
    report: Place | None = None,
    force: bool = False,
) -> Operated:
    """Clean an ONNX graph; what the passes made is compared with what they were given.

    Args:
        model: An ONNX file, or a model.
        out: Where to write the cleaned graph; None writes none.
        list_passes: Return the list of passes, and do nothing.
        only: The passes to run; all that are not optional if None.
        skip: Passes to leave out.
        extra: Optional passes to run too.
        inputs: Where to cut the graph's beginning, such as ``a:0,b:0[1,224,224,3]``.
        outputs: Where to cut its end.
        target: Write what this target lacks in other operators.
        plugin: Plugins of TensorRT for custom operators: ``OP=NAME``, ``OP=NAME:VERSION`` or
            ``OP=NAME:VERSION:NAMESPACE``.
        verify: Whether to run what the passes made beside what they got; None does so for up to
            1 GB of weights and 60 s.
        explain: Print what each pass did and refused, node by node.
        report: Where to write what was done, as JSON.
        force: Replace an existing file of another kind, too.

    Raises:
        InputError: A pass is unknown, or nothing was asked for.
        ModelError: The file can't be read, or its graph is not legal.
    """
    if list_passes:
        return Operated(passes=tuple(PassLine(p.name, p.summary, _condition(p)) for p in PASSES))
    if model is None or (out is None and not explain and not isinstance(model, Model)):
        raise InputError("name an ONNX file, and what to write with -o; or use --list or --explain")
    plugins = dict(plugin) if isinstance(plugin, Mapping) else dict(map(_plugin, plugin))
    if plugins and (target is None or "name_plugins" not in find_target(target).lowering):
        raise InputError("--plugin names plugins of TensorRT; say --for tensorrt too")
    check_output(out, ONNX, force=force)
    check_output(report, JSON, force=force)
    loaded = as_model(model)
    if inputs or outputs:
        loaded = extract(loaded, parse_tensors(inputs), parse_tensors(outputs))
    cleaned, done = run(
        loaded, only=names(only), skip=names(skip), extra=names(extra), target=target,
        plugins=plugins, verify=verify,
    )  # fmt: skip
    if out is not None:
        cleaned.save(out)
    if report is not None:
        write_json(report, asdict(done))
    return Operated(cleaned, done, "" if out is None else str(out), loaded.file, explain)


def _condition(item: Pass) -> str:
    if item.targets:
        return f"--for {' or '.join(item.targets)}"
    return f"--extra {item.name}" if item.optional else ""


def _plugin(item: str) -> tuple[str, Plugin]:
    op, sign, text = item.partition("=")
    parts = text.split(":")
    if not (op and sign and parts[0]) or len(parts) > 3:
        raise InputError(f"--plugin {item}: write OP=NAME, OP=NAME:VERSION or OP=NAME:VERSION:NS")
    return op, Plugin(*parts)
