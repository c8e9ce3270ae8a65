"""The page that draws graphs: one file that loads nothing, and the same as a part of a report."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from onnxgraft.files import write_bytes
from onnxgraft.stages.validate.views.graph.data import Drawn
from onnxgraft.stages.validate.views.templates import template

__all__ = ["graph_part", "write_walk"]

_FOLDER = Path(__file__).parent
# The parts of the script, in order.
_SCRIPT = ("elements", "stages", "layout", "pane", "moving", "linked", "details", "begin")


def graph_part(drawn: Drawn) -> dict[str, Any]:
    """Return what a template that includes ``graph/part.html.j2`` needs."""
    return {"data": drawn.data, "notes": drawn.notes, **_texts()}


def write_walk(drawn: Drawn, path: str | os.PathLike[str]) -> None:
    """Write a page to walk through graphs; what comes from the model in it is text."""
    page = template("graph/page.html.j2").render(title=drawn.title, graph=graph_part(drawn))
    write_bytes(path, page.encode(errors="backslashreplace"))


@functools.cache
def _texts() -> dict[str, str]:
    """Return what a page is made of: its style, its script, the library that lays out graphs."""
    names = {"style": "graph.css", "layout": "dagre/dagre.min.js", "license": "dagre/LICENSE"}
    texts = {key: (_FOLDER / name).read_text() for key, name in names.items()}
    parts = "".join((_FOLDER / "script" / f"{name}.js").read_text() for name in _SCRIPT)
    texts["script"] = f'(() => {{\n"use strict";\n{parts}}})();'
    texts["layout"] = texts["layout"].rpartition("//# sourceMappingURL")[0] or texts["layout"]
    return texts
