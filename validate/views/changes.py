"""Two runs side by side as one HTML file that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from onnxgraft.files import write_bytes
from onnxgraft.stages.validate.views.templates import template

__all__ = ["write_changes"]

# More rows of a part are behind a click.
_OPEN = 20

Row = tuple[str, str, str, str]


def write_changes(
    path: str | os.PathLike[str],
    runs: tuple[str, str],
    worse: Sequence[str],
    missing: Sequence[str],
    changes: Mapping[str, Sequence[Row]],
    same: Mapping[str, int],
) -> None:
    """Write what changed; everything that comes from the runs is escaped.

    Args:
        path: Of the page.
        runs: What the two are called.
        worse: A sentence for each thing that is worse than it may be.
        missing: A sentence for each part of which one run alone says something.
        changes: By part: a name, both values, and how many times the first the second one is.
        same: How many things of a part did not change.
    """
    page = template("changes.html.j2").render(
        runs=runs, worse=worse, missing=missing, changes=changes, same=same, most=_OPEN
    )
    write_bytes(path, page.encode(errors="backslashreplace"))
