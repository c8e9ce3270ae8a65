"""The tables of the docs that follow from the code: written between their markers.

python -m docs.tables           writes them
python -m docs.tables --check   fails where one is not as the code says
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

DOCS = Path(__file__).parent
Rows = Iterator[Sequence[str]]


def targets() -> Rows:
    """Yield a row for each target."""
    from onnxgraft.targets import TARGETS

    yield "target", "runs on", "package", "float layers in", "deployed by default"
    for target in TARGETS:
        floats = ", ".join(f"`{kind}`" for kind in ("fp32", *target.floats))
        default = "yes" if target.default else "no"
        yield (
            f"`{target.name}`: {target.title}",
            target.needs,
            f"`{target.package}`",
            floats,
            default,
        )


def providers() -> Rows:
    """Yield a row for each execution provider of onnxruntime."""
    from onnxgraft.targets.devices import PROVIDERS

    yield "`--provider`", "is onnxruntime's", "package", "runs on"
    for provider in PROVIDERS:
        packages = " or ".join(f"`{name}`" for name in (provider.package, provider.whole) if name)
        yield provider.examples, f"`{provider.title}`", packages, provider.needs


def passes() -> Rows:
    """Yield a row for each pass."""
    from onnxgraft.stages.surgery import PASSES

    yield "pass", "does", "runs"
    for item in PASSES:
        runs = "always"
        if item.targets:
            runs = f"`--for {' or '.join(item.targets)}`"
        elif item.optional:
            runs = f"`--extra {item.name}`"
        yield f"`{item.name}`", item.summary.removeprefix("For TensorRT: ").rstrip("."), runs


def metrics() -> Rows:
    """Yield a row for each metric."""
    from onnxgraft.stages.validate import METRICS

    yield "metric", "measures, in percent", "labels of a sample"
    for kind in METRICS.values():
        yield f"`{kind.name}`", kind.summary, kind.labels


def operators() -> Rows:
    """Yield a row for each of TensorFlow's operators that is written here."""
    from onnxgraft.stages.convert.tensorflow.lower.operators import OPERATORS

    yield "operator", "is written as"
    for name, operator in OPERATORS.items():
        yield f"`{name}`", operator.written


def presets() -> Rows:
    """Yield a row for each preset of preprocessing."""
    from onnxgraft.data.presets import PRESETS

    yield "preset", "is what this computes", "keys"
    for preset in PRESETS.values():
        keys = ", ".join(f"`{key} = {_toml(value)}`" for key, value in preset.keys.items())
        yield f"`{preset.name}`", preset.source, keys


def promises() -> Rows:
    """Yield a row for each promise of the threat model."""
    from tests.promises import PROMISES

    yield "against", "is promised", "test"
    for promise in PROMISES:
        file, _, name = promise.test.partition("::")
        yield promise.against, promise.words, f"`{file}`: `{name.partition('[')[0]}`"


def _toml(value: object) -> str:
    from onnxgraft.files.toml import toml_text

    if isinstance(value, tuple):
        value = [float(f"{each:.6g}") if isinstance(each, float) else each for each in value]
    return toml_text(value)


def keys(table: str) -> Rows:
    """Yield a row for each key of a table of a recipe; that without a name is the top."""
    from onnxgraft.commands._recipe_keys import tables
    from onnxgraft.files.toml import toml_text

    yield "key", "wants", "default", "meaning"
    for found in tables():
        for key in found.keys.values() if found.title == table else ():
            default = "" if key.default is None else f"`{toml_text(key.default)}`"
            usual = "**required**" if key.required else default
            if not key.keys:
                yield f"`{key.name}`", key.wants, usual, key.description
            elif key.required:
                yield f"`[{key.name}]`", "a table", usual, key.description


def fields_of(
    place: str, leave_out: Sequence[str] = (), more: Sequence[Sequence[str]] = ()
) -> Rows:
    """Yield a row for each attribute that a class's docstring tells, and for ``more``."""
    module, _, name = place.rpartition(".")
    told = inspect.getdoc(getattr(importlib.import_module(module), name)) or ""
    text = told.partition("Attributes:\n")[2].partition("\n\n")[0]
    yield "key", "is"
    yield from more
    for entry in re.split(r"\n(?=    \w)", text):
        key, _, meaning = " ".join(entry.split()).partition(": ")
        if key not in leave_out:
            yield f"`{key}`", meaning.replace("``", "`").rstrip(".")


# The tables of a recipe, as its page has them.
_RECIPE = (
    "recipe", "preprocess", "postprocess", "calibrate", "quantize", "build", "build.tensorrt",
    "build.openvino", "build.onnxruntime", "validate", "bench",
)  # fmt: skip

_ENGINE, _REPORT = "onnxgraft.stages.engine", "onnxgraft.stages.validate.report"
_FORMAT = (("`format`", "The version of the format"),)
_VERDICT = (("`passed`", "Whether everything is within its tolerance"),)

TABLES: dict[str, tuple[str, Callable[[], Rows]]] = {
    "targets": ("engine.md", targets),
    "providers": ("engine.md", providers),
    "passes": ("surgery.md", passes),
    "metrics": ("validate.md", metrics),
    "operators": ("convert.md", operators),
    "presets": ("data.md", presets),
    "promises": ("threat-model.md", promises),
    **{f"keys of {name}": ("recipe.md", partial(keys, name)) for name in _RECIPE},
    "fields of a passport": (
        "file-formats.md",
        partial(fields_of, f"{_ENGINE}.passport.Passport", (), _FORMAT),
    ),
    "fields of ranges": (
        "file-formats.md",
        partial(
            fields_of,
            "onnxgraft.data.ranges.Ranges",
            ("histograms", "early", "channel_histograms", "file"),
            (
                *_FORMAT,
                ("`data_sha256`", "Over the hashes of the samples"),
                ("`histograms_sha256`", "Of the file beside it; null where there is none"),
            ),
        ),
    ),
    "fields of a report": (
        "file-formats.md",
        partial(fields_of, f"{_REPORT}.Report", (), _VERDICT),
    ),
}


def table(name: str) -> str:
    """Return a table as Markdown."""
    head, *rows = TABLES[name][1]()
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def text_of(name: str) -> tuple[str, str]:
    """Return the page of a table as it is, and as it should be."""
    page = (DOCS / TABLES[name][0]).read_text(encoding="utf-8")
    begin, end = f"<!-- table: {name} -->\n", f"<!-- end: {name} -->\n"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"docs/{TABLES[name][0]}: has no markers for the table {name}")
    return page, before + begin + "\n" + table(name) + "\n" + end + after


def main(arguments: Sequence[str]) -> int:
    """Write or check all tables; return the exit status."""
    stale = []
    for name, (page, _) in TABLES.items():
        there, wanted = text_of(name)
        if there != wanted:
            stale.append(name)
            if "--check" not in arguments:
                (DOCS / page).write_text(wanted, encoding="utf-8")
    if stale and "--check" in arguments:
        print(f"not as the code says: {', '.join(stale)}; run make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
