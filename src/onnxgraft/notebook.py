"""Objects and progress in a notebook: small HTML that fetches nothing, with every text escaped."""

from __future__ import annotations

import html
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from onnxgraft.errors import printable

if TYPE_CHECKING:
    from rich.progress import TaskID

__all__ = ["Bars", "in_notebook", "section"]

# More rows would bury the cell.
_ROWS = 30
# Bars are drawn so often, in seconds.
_REDRAW = 0.2


def section(
    title: str,
    header: Sequence[str] = (),
    rows: Iterable[Sequence[object]] = (),
    lines: Iterable[object] = (),
) -> str:
    """Return a title, a table of at most 30 rows, and lines of text, as HTML.

    >>> section("<b>", lines=["a & b"])
    '<div><b>&lt;b&gt;</b><br>a &amp; b</div>'
    """
    some = [*rows]
    parts = [f"<b>{_text(title)}</b>", *(f"<br>{_text(line)}" for line in lines)]
    if some:
        head = "".join(f"<th>{_text(cell)}</th>" for cell in header)
        body = "".join(
            f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in some[:_ROWS]
        )
        parts.append(f"<table><tr>{head}</tr>{body}</table>")
    if len(some) > _ROWS:
        parts.append(f"and {len(some) - _ROWS} more")
    return f"<div>{''.join(parts)}</div>"


def _text(value: object) -> str:
    return html.escape(printable(str(value)))


def in_notebook() -> bool:
    """Tell whether this is the kernel of a notebook: it shows what is displayed."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell" or "colab" in type(shell).__module__


class Bars:
    """Progress bars in the output of a cell, which disappear at the end; no widgets are needed."""

    def __init__(self) -> None:
        self._tasks: list[dict[str, Any]] = []
        self._shown: Any = None
        self._drawn = 0.0
        self._lock = threading.Lock()

    def __enter__(self) -> Bars:
        """Begin; nothing is shown before there is something to show."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bars away."""
        with self._lock:
            self._tasks.clear()
            if self._shown is not None:
                self._draw()

    def add_task(self, description: str, total: float | None = None) -> TaskID:
        """Add a bar, and return its number; without a total it only says that work goes on."""
        with self._lock:
            self._tasks.append({"text": description, "done": 0, "total": total, "visible": True})
            self._draw()
            return cast("TaskID", len(self._tasks) - 1)

    def advance(self, task: TaskID, advance: float = 1) -> None:
        """Move a bar on."""
        with self._lock:
            self._tasks[task]["done"] += advance
            self._draw_at_times()

    def update(
        self, task: TaskID, *, completed: float, total: float | None, visible: bool = True
    ) -> None:
        """Move a bar to a place, or hide it."""
        with self._lock:
            self._tasks[task] |= {"done": completed, "total": total, "visible": visible}
            self._draw_at_times()

    def _draw_at_times(self) -> None:
        if time.monotonic() - self._drawn > _REDRAW:
            self._draw()

    def _draw(self) -> None:
        from IPython.display import HTML, display

        self._drawn = time.monotonic()
        page = HTML("".join(_bar(task) for task in self._tasks if task["visible"]))
        if self._shown is None:
            self._shown = display(page, display_id=True)
        else:
            self._shown.update(page)


def _bar(task: dict[str, Any]) -> str:
    text, done, total = _text(task["text"].strip()), task["done"], task["total"]
    if total is None:
        return f"<div>{text}</div>"
    return (
        f'<div>{text} <progress value="{done:g}" max="{total:g}"></progress> '
        f"{done:g}/{total:g}</div>"
    )
