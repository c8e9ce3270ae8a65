"""The page that draws graphs: one file that loads nothing, and the same as a part of a report."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from onnxgraft.files import write_bytes
from onnxgraft.stages.validate.views.graph.data import Walk
from onnxgraft.stages.validate.views.templates import template

__all__ = ["graph_part", "write_walk"]

_FOLDER = Path(__file__).parent


def graph_part(walk: Walk) -> dict[str, Any]:
    """Return what a template includes with ``graph/part.html.j2`` needs to draw a walk."""
    return {"data": walk.text(), "notes": walk.notes, **_texts()}


def write_walk(walk: Walk, path: str | os.PathLike[str]) -> None:
    """Write a page that draws a walk; what comes from the model in it is text."""
    page = template("graph/page.html.j2").render(title=walk.title, graph=graph_part(walk))
    write_bytes(path, page.encode(errors="backslashreplace"))


@functools.cache
def _texts() -> dict[str, str]:
    """Return what a page is made of: its style, its script, the library that lays out graphs."""
    names = {
        "style": "graph.css", "script": "graph.js", "layout": "dagre/dagre.min.js",
        "license": "dagre/LICENSE",
    }  # fmt: skip
    texts = {key: (_FOLDER / name).read_text() for key, name in names.items()}
    texts["layout"] = texts["layout"].rpartition("//# sourceMappingURL")[0] or texts["layout"]
    return texts
